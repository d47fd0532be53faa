"""What the demo data's ``LICENSES.txt`` says: where every photograph is from, and what train and val share."""

from __future__ import annotations

NOTICE = """\
tag2mask demo data
==================
Composed on this computer by tag2mask from photographs that the packages scikit-image and Matplotlib carry; nothing was
downloaded. Masks are exact: they are the alpha masks with which the objects were pasted. 0 is background, c + 1 is the
c-th line of classes.txt. sources.json names, for every image, the objects and backgrounds in it.

It is a demonstration, not a benchmark. There are few source photographs, and scores on it say little about your photos.
What train and val share, and what they do not:
- coin: 18 coins in train, 6 others in val.
- person: Eileen Collins and a photographer in train, Grace Hopper in val.
- motorcycle: the left view of a stereo pair in train, the right view in val (the same motorcycle).
- cat, cup, shuttle: one photograph each, in both; only size, place, light, colour and company differ.
- backgrounds and things that are no class: different photographs, or parts of them that do not overlap.

Sources and licences
--------------------
astronaut.png          Eileen Collins, NASA. Public domain.                          person, shuttle, helmet, backdrop
brick.png              CC0Textures "Bricks25". CC0 1.0.                              background
camera.png             Lav Varshney. CC0 1.0.                                        person
chelsea.png            Stefan van der Walt. CC0 1.0.                                 cat
coffee.png             Rachel Michetti, courtesy of Pikolo Espresso Bar. CC0 1.0.    cup, wooden table
coins.png              Brooklyn Museum, Greek coins from Pompeii. No known copyright restrictions.   coin
grass.png              linolafett, "Grass 01". CC0 1.0.                              background
gravel.png             CC0Textures "Gravel04". CC0 1.0.                              background
hubble_deep_field.jpg  NASA, ESA, Hubble. Public domain.                             background
motorcycle_left.png,   Middlebury 2014 stereo benchmark, N. Nesic, P. Westling, X. Wang, Y. Kitajima, G. Krathwohl,
motorcycle_right.png   D. Scharstein; the authors permit use and publication and ask to be cited (Scharstein et al.,
                       GCPR 2014).                                                   motorcycle, boxes, garage
rocket.jpg             SpaceX. Public domain (CC0 1.0).                              evening sky
text.png               Wikipedia "Corner.png". Public domain.                        sheet of paper
grace_hopper.jpg       Grace Hopper, James S. Davis, United States Navy. Public domain. Carried by Matplotlib.   person
The others are carried by scikit-image (BSD-3-Clause), whose documentation states the licences above.
The outlines in tag2mask (demo/assets/) are part of tag2mask, Apache-2.0.
"""
