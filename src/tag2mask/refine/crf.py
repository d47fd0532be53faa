"""Dense CRF: sharpens class probabilities along the edges of a photo (Kraehenbuehl and Koltun, NIPS 2011).

Every pair of pixels i, j is joined by a Potts term of strength

    k_ij = w1 exp(-|p_i - p_j|^2 / 2 s1^2) + w2 exp(-|p_i - p_j|^2 / 2 s2^2 - |I_i - I_j|^2 / 2 s3^2)

with positions p and colours I; both kernels are normalised symmetrically, ``D^-1/2 K D^-1/2`` with ``D = diag(K 1)``.
Mean field starts from ``Q = softmax(-u)`` and repeats ``Q_l <- softmax_l(-u_l + sum_j k_ij Q_l(j))``, u being the unary
energies. The sums over all pixels run on the permutohedral lattice. This is the arithmetic of Kraehenbuehl's C++ code,
which the field uses through pydensecrf, with two exact savings: what is filtered adds up to one over the labels, so
the last label follows from the others; and labels with equal energies everywhere are carried once. With numba
(``pip install tag2mask[fast]``) images on the CPU take the compiled path of ``crf_numba``, one thread an image, as many
side by side as ``torch.get_num_threads()``; results agree to float32 rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from tag2mask.errors import InputError
from tag2mask.refine.arrays import Array, as_given, shape_of
from tag2mask.refine.crf_input import pixels_and_labels, pixels_and_scores
from tag2mask.refine.crf_portable import mean_field
from tag2mask.refine.crf_settings import PRESETS, CrfSettings, preset_settings


def dense_crf(image: Array, scores: Array, preset: str = "psa", settings: CrfSettings | None = None) -> Array:
    """Sharpen label probabilities along the edges of an image.

    Only labels that are present take part: one whose channel is zero everywhere is left out and comes back zero. The
    unary energy of the others is ``-log(max(p, settings.floor))``, so scores need not add up to one in each pixel. A
    single present label comes back as ones. Labels that stay below the floor everywhere (a softmax never gives zero)
    share one computation, so their number costs nothing.

    Args:
        image: ``[height width 3]`` uint8 RGB, or ``[batch height width 3]``; numpy or torch.
        scores: ``[labels height width]`` probabilities in [0, 1] of any float type, or ``[batch labels height width]``.
        preset: a name of :data:`PRESETS`.
        settings: used instead of the preset when given.

    Returns:
        ``[labels height width]`` float32 probabilities which add up to one in each pixel (or ``[batch ...]``), numpy or
        torch as ``scores`` came, on its device.

    Raises:
        InputError: sizes that disagree, an image that is not uint8, scores that are not finite, negative, above one or
            zero for all labels, an unknown preset.
    """
    settings = preset_settings(preset) if settings is None else settings
    images, values, highest = pixels_and_scores(image, scores)
    out = torch.zeros(values.shape, device=values.device)

    def solve(b: int, solver: Solver) -> None:
        carried, alike = _carried(highest[b].float(), settings.floor)
        chosen = values[b] if len(carried) == len(values[b]) else values[b, carried]
        q = solver(images[b], chosen.float(), settings, settings.floor, len(alike))
        out[b, carried] = q
        out[b, alike] = q[-1]

    _solve_all(len(values), solve, values.device)
    return as_given(scores, out.reshape(scores.shape))


def _carried(highest: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """The labels to compute, and those that the last of them stands for, itself one of them.

    No score of these exceeds the floor, so their energies are equal everywhere.

    Args:
        highest: ``[labels]`` float32, the highest score of each label.
    """
    present = highest > 0
    low = present & (highest <= floor)
    if int(low.sum()) < 2:
        carried = present.nonzero()[:, 0]
        return carried, carried[-1:]
    alike = low.nonzero()[:, 0]
    return torch.cat([(present & ~low).nonzero()[:, 0], alike[-1:]]), alike


def dense_crf_from_labels(
    image: Array,
    labels: Array,
    n_labels: int,
    gt_prob: float = 0.7,
    preset: str = "irn",
    settings: CrfSettings | None = None,
) -> Array:
    """Sharpen a hard label map along the edges of an image, as IRN does with its confident regions.

    The labelled class has energy ``-log(gt_prob)``, each other one ``-log((1 - gt_prob) / (n_labels - 1))``. A pixel of
    value 255 says nothing: all labels are equally likely there. All ``n_labels`` take part, but those without a pixel
    share one computation, so their number costs nothing.

    Args:
        image: ``[height width 3]`` uint8 RGB, or ``[batch height width 3]``; numpy or torch.
        labels: ``[height width]`` uint8 (or another integer type), or ``[batch height width]``.
        n_labels: number of labels; the map holds 0 ... n_labels - 1 and 255.
        gt_prob: how far the map is believed, in (0, 1).
        preset: a name of :data:`PRESETS`.
        settings: used instead of the preset when given.

    Returns:
        ``[n_labels height width]`` float32 probabilities which add up to one in each pixel (or ``[batch ...]``), numpy
        or torch as ``labels`` came, on its device.

    Raises:
        InputError: sizes that disagree, labels out of range, ``gt_prob`` or ``n_labels`` out of range, unknown preset.
    """
    settings = preset_settings(preset) if settings is None else settings
    if not 1 <= n_labels <= 255:
        raise InputError(f"dense CRF: n_labels is {n_labels}; give a number from 1 to 255")
    if not 0 < gt_prob < 1:
        raise InputError(f"dense CRF: gt_prob is {gt_prob}; give a probability between 0 and 1")
    images, values = pixels_and_labels(image, labels, n_labels)
    sure = values != 255
    hit, miss = gt_prob, (1 - gt_prob) / max(n_labels - 1, 1)
    out = torch.empty(len(values), n_labels, *values.shape[1:], device=values.device)

    def solve(b: int, solver: Solver) -> None:
        shown = values[b][sure[b]].unique()
        absent = n_labels - len(shown)
        scores = torch.where(values[b] == shown[:, None, None], hit, miss).float()
        if absent:  # one label stands for all those without a pixel: their energies are equal everywhere
            scores = torch.cat([scores, scores.new_full((1, *values.shape[1:]), miss)])
        scores = torch.where(sure[b], scores, 1 / n_labels)
        q = solver(images[b], scores, settings, 0.0, max(absent, 1))
        out[b] = q[-1]
        out[b, shown] = q[: len(shown)]

    _solve_all(len(values), solve, values.device)
    return as_given(labels, out if labels.ndim == 3 else out[0])


@dataclass(frozen=True)
class DenseCrf:
    """:func:`dense_crf` as a :class:`tag2mask.protocols.Refiner`: it only remembers the settings."""

    settings: CrfSettings = PRESETS["psa"]

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """``[batch 3 height width]`` uint8 RGB, ``[batch labels height width]`` probabilities to probabilities."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"dense CRF: images have shape {shape_of(images)}; give [batch 3 height width]")
        return dense_crf(images.permute(0, 2, 3, 1), scores, settings=self.settings)


@dataclass(frozen=True)
class LabelCrf:
    """:func:`dense_crf_from_labels` as a :class:`tag2mask.protocols.Refiner`: the best label of every pixel, believed
    with ``gt_prob``, is all it takes from the scores (IRN's confident regions, SMAF's pseudo masks)."""

    settings: CrfSettings = PRESETS["irn"]
    gt_prob: float = 0.7
    labels: int = 21  # VOC's, as published: a pixel's other labels share what is not believed, present or not

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """``[batch 3 height width]`` uint8 RGB, ``[batch labels height width]`` probabilities to probabilities."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"dense CRF: images have shape {shape_of(images)}; give [batch 3 height width]")
        present = scores.shape[1]
        labels = min(max(self.labels, present), 255)
        pixels, best = images.permute(0, 2, 3, 1), scores.argmax(1)
        q = dense_crf_from_labels(pixels, best, labels, self.gt_prob, settings=self.settings)[:, :present]
        return q / q.sum(1, keepdim=True)


# (image, scores, settings, floor, copies) -> result, as :func:`tag2mask.refine.crf_portable.mean_field`
Solver = Callable[[Tensor, Tensor, CrfSettings, float, int], Tensor]


def _solve_all(count: int, solve: Callable[[int, Solver], None], device: torch.device) -> None:
    """Call ``solve(i, solver)`` for each image, with the quickest solver for the device."""
    fast = _fast() if device.type == "cpu" else None
    if fast is None:
        for i in range(count):
            solve(i, mean_field)
        return

    def compiled(image: Tensor, scores: Tensor, settings: CrfSettings, floor: float, copies: int) -> Tensor:
        image = image.to(scores.device)
        return torch.from_numpy(fast.mean_field(image.numpy(), scores.numpy(), settings, floor, copies))

    threads = min(count, torch.get_num_threads())
    if threads == 1:
        for i in range(count):
            solve(i, compiled)
        return
    with ThreadPoolExecutor(threads) as pool:  # the compiled functions release the GIL
        list(pool.map(lambda i: solve(i, compiled), range(count)))


@functools.lru_cache(maxsize=1)
def _fast() -> ModuleType | None:
    """The compiled mean field, where numba is installed."""
    try:
        from tag2mask.refine import crf_numba
    except ImportError:
        return None
    return crf_numba
