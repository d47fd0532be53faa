"""The first screen of `tag2mask train --help`: the settings that people change, by what they want. All are in
`--help-all`."""

from __future__ import annotations

TRAIN = """\
usage: tag2mask {command} DATA --out RUN [settings]

DATA is a folder with images/ and tags.csv (image,tags), one folder per class, or in VOC's, COCO's or YOLO's
layout.
The same command goes on where it was interrupted; a changed setting makes anew only what depends on it.

"""

# what people want -> flag and one line each; every flag is one of --help-all, of SHORT, or of `train` itself (tested)
GROUPS: dict[str, dict[str, str]] = {
    "what is learnt": {
        "--classes a,b,c": "only these classes, or a file of names",
        "--tags FILE": "where the tags are, if not where the layout has them",
        "--negatives drop": "leave out photos that show none of the classes; they teach background otherwise",
        "--truth DIR": "true masks, only to measure",
        "--saliency DIR": "saliency maps, for methods that learn from them; auto, self-supervised: made here",
    },
    "how objects are found": {
        "--recipe NAME": "a named set of settings (tag2mask list recipes); quick trains shorter, at one scale",
        "--method NAME": "cam, ppl, apc, mcis, eps, text (tag2mask list methods), or package.module:Class",
        "--backbone NAME": "any timm model; the default's weights are embedded",
        "--weights FILE": "weights of the backbone, or none",
        "--epochs N": "passes over the photos; more for few photos",
        "--self-train smaf": "a student learns from the method's own maps",
    },
    "how masks are cut": {
        "--threshold T": "background threshold in [0, 1]; found on the maps, without truth, if not given",
        "--propagate irn": "spread the maps along learnt boundaries first (tag2mask list propagations)",
        "--refine NAMES": "crf, par, none, or several in turn (tag2mask list refiners)",
    },
    "the segmenter": {
        "--segmenter NAME": "decoder, deeplab-v2, smp:unet, ... (tag2mask list segmenters)",
        "--with-masks": "also learn from masks that people corrected (tag2mask import)",
        "--relabel.rounds N": "how often it relabels its training photos and goes on",
        "--inference.long-side N": "pixels of a new photo's longer side; larger finds smaller objects",
    },
    "time and memory": {
        "--freeze": "compute the backbone's features once, train heads in minutes",
        "--train.batch-size N": "photos in a step; fewer for less memory",
        "--workers N": "threads that decode photos; 0: one a core",
    },
    "how sure the figures are": {
        "--seed N": "of all random numbers",
        "--seeds 0,1,2": "a run of each, compared",
        "--oracle-masks": "also train on true masks, to measure what tags cost",
    },
    "what is shown": {
        "--quiet": "errors alone",
        "--json": "one JSON object a line on standard output: stages, progress, log, result",
        "--help-all": "every setting",
    },
}


def first_screen(command: str) -> str:
    """The help of a command that has a run's settings."""
    width = max(len(flag) for flags in GROUPS.values() for flag in flags)
    parts = [TRAIN.format(command=command)]
    for title, flags in GROUPS.items():
        parts.append(f"{title}\n" + "".join(f"  {flag:<{width}}  {line}\n" for flag, line in flags.items()))
    return "\n".join([parts[0] + parts[1], *parts[2:]])
