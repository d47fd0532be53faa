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
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from tag2mask.errors import InputError, unknown
from tag2mask.refine import permutohedral
from tag2mask.refine.arrays import Array, as_given, dtype_of, highest_scores, shape_of, tensor_of


@dataclass(frozen=True)
class CrfSettings:
    """What a dense CRF does. The defaults are AffinityNet's (PSA), meant for class activation maps."""

    iterations: int = 10  # mean field has settled by then; every code of the lineage uses 10
    gaussian_sxy: float = 3.0  # pixels; width of the smoothness kernel, which removes specks
    gaussian_compat: float = 3.0  # its strength; 0 leaves the kernel out
    bilateral_sxy: float = 80.0  # pixels; how far pixels of one colour see each other: about an object's size
    bilateral_srgb: float = 13.0  # grey levels; colours closer than this count as one. Small: clings to each edge
    bilateral_compat: float = 10.0  # its strength; 0 leaves the kernel out
    floor: float = 1e-5  # least probability of a label in the unary: a zero must stay possible (pydensecrf's clip)

    def __post_init__(self) -> None:
        if not (isinstance(self.iterations, int) and self.iterations >= 0):
            raise InputError(f"dense CRF: iterations is {self.iterations}; give a whole number of at least 0")
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"dense CRF: {name} is {getattr(self, name)}; give a width above 0")
        for name in ("gaussian_compat", "bilateral_compat"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"dense CRF: {name} is {getattr(self, name)}; give a strength of at least 0")
        if not 0 < self.floor < 1:
            raise InputError(f"dense CRF: floor is {self.floor}; give a probability between 0 and 1")


# The parameter sets of the published codes, all with 10 iterations.
PRESETS: dict[str, CrfSettings] = {
    # AffinityNet (PSA), SEAM, EPS on class activation maps, with a background score (1 - max)^alpha
    "psa": CrfSettings(),
    # IRN, SMAF: made for hard labels with gt_prob 0.7
    "irn": CrfSettings(bilateral_sxy=50.0, bilateral_srgb=5.0),
    # DeepLab-v2's PyTorch codes, ViT-PCM, EPS: on a segmenter's softmax
    "deeplab": CrfSettings(gaussian_sxy=1.0, bilateral_sxy=67.0, bilateral_srgb=3.0, bilateral_compat=4.0),
    # ToCo: on its segmenter's softmax, and on its maps
    "toco-seg": CrfSettings(
        gaussian_sxy=1.0, gaussian_compat=1.0, bilateral_sxy=121.0, bilateral_srgb=5.0, bilateral_compat=4.0
    ),
    "toco-cam": CrfSettings(bilateral_sxy=36.0, bilateral_srgb=3.0, bilateral_compat=4.0),
    # AFA: on its segmenter's softmax
    "afa": CrfSettings(bilateral_sxy=64.0, bilateral_srgb=5.0, bilateral_compat=4.0),
}


def preset_settings(name: str) -> CrfSettings:
    """The settings a name of :data:`PRESETS` stands for; :class:`InputError` on any other name."""
    if name not in PRESETS:
        raise unknown("CRF preset", name, PRESETS)
    return PRESETS[name]


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
    images, values, highest = _pixels_and_scores(image, scores)
    out = torch.zeros(values.shape, device=values.device)

    def solve(b: int, solver: Solver) -> None:
        carried, alike = _carried(highest[b].float(), settings.floor)
        chosen = values[b] if len(carried) == len(values[b]) else values[b, carried]
        q = solver(images[b], chosen.float(), settings, settings.floor, len(alike))
        out[b, carried] = q
        out[b, alike] = q[-1]

    _each(len(values), solve, values.device)
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
    images, values = _pixels_and_labels(image, labels, n_labels)
    sure = values != 255
    hit, miss = gt_prob, (1 - gt_prob) / max(n_labels - 1, 1)
    out = torch.empty(len(values), n_labels, *values.shape[1:], device=values.device)

    def solve(b: int, solver: Solver) -> None:
        found = values[b][sure[b]].unique()
        absent = n_labels - len(found)
        scores = torch.where(values[b] == found[:, None, None], hit, miss).float()
        if absent:  # one label stands for all those without a pixel: their energies are equal everywhere
            scores = torch.cat([scores, scores.new_full((1, *values.shape[1:]), miss)])
        scores = torch.where(sure[b], scores, 1 / n_labels)
        q = solver(images[b], scores, settings, 0.0, max(absent, 1))
        out[b] = q[-1]
        out[b, found] = q[: len(found)]

    _each(len(values), solve, values.device)
    return as_given(labels, out if labels.ndim == 3 else out[0])


@dataclass(frozen=True)
class DenseCrf:
    """:func:`dense_crf` as a :class:`tag2mask.types.Refiner`: it only remembers the settings."""

    settings: CrfSettings = PRESETS["psa"]

    def refine(self, images: Tensor, scores: Tensor) -> Tensor:
        """``[batch 3 height width]`` uint8 RGB, ``[batch labels height width]`` probabilities to probabilities."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"dense CRF: images have shape {shape_of(images)}; give [batch 3 height width]")
        return dense_crf(images.permute(0, 2, 3, 1), scores, settings=self.settings)


@dataclass(frozen=True)
class LabelCrf:
    """:func:`dense_crf_from_labels` as a :class:`tag2mask.types.Refiner`: the best label of every pixel, believed with
    ``gt_prob``, is all it takes from the scores (IRN's confident regions, SMAF's pseudo masks)."""

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


# (image, scores, settings, floor, copies) -> result, as `mean_field` below
Solver = Callable[[Tensor, Tensor, CrfSettings, float, int], Tensor]


def _each(count: int, solve: Callable[[int, Solver], None], device: torch.device) -> None:
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


def mean_field(image: Tensor, scores: Tensor, settings: CrfSettings, floor: float, copies: int = 1) -> Tensor:
    """Mean field in plain torch, on the device of ``scores``.

    Args:
        image: ``[height width 3]`` uint8.
        scores: ``[labels height width]`` float32; the unary energies are ``-log`` of them, clipped to [floor, 1].
        settings: the kernels and the number of iterations; its own ``floor`` is not looked at.
        floor: see ``scores``.
        copies: the last label stands for this many labels with the same energies.

    Returns:
        ``[labels height width]`` float32; the last label's probability is that of each copy.
    """
    if len(scores) == 1:
        return torch.full_like(scores, 1 / copies)
    image = image.to(scores.device)
    energies = scores.clamp(floor, 1.0).log_().neg_().flatten(1)
    height, width = image.shape[:2]
    filters = []
    if settings.gaussian_compat:
        filters.append(_gaussian(height, width, settings.gaussian_sxy, settings.gaussian_compat, str(energies.device)))
    if settings.bilateral_compat:
        features = permutohedral.scaled_features(height, width, settings.bilateral_sxy, image, settings.bilateral_srgb)
        filters.append(permutohedral.normalised(permutohedral.build(features), settings.bilateral_compat))
    # All logits are relative to the last label's. Filtering is linear and Q sums to one: K Q_last = K 1 - the others.
    base = energies[-1] - energies[:-1]
    ones = energies.new_ones(energies.shape[1], 1)
    mass = sum((f(ones)[:, 0] for f in filters), energies.new_zeros(()))
    q = _softmax(base, copies)
    base = base - mass / copies
    for _ in range(settings.iterations if filters else 0):
        values = q[:-1].T.contiguous()
        message = torch.stack([f(values) for f in filters]).sum(0).T
        q = _softmax(base + message + message.sum(0) / copies, copies)
    return q.view(scores.shape)


def _softmax(relative: Tensor, copies: int) -> Tensor:
    """``[labels N]`` probabilities from logits ``[labels-1 N]`` relative to a last one that counts ``copies`` times."""
    top = relative.amax(0).clamp_(min=0)
    out = torch.cat([relative - top, -top[None]]).exp_()
    total = out[:-1].sum(0) + copies * out[-1]
    return out.div_(total)


@functools.lru_cache(maxsize=16)
def _gaussian(height: int, width: int, sxy: float, compat: float, device: str) -> permutohedral.Filter:
    # Depends on the size of the image only, and a data set has few sizes. 375 x 500 takes 16 MB.
    features = permutohedral.scaled_features(height, width, sxy).to(device)
    return permutohedral.normalised(permutohedral.build(features), compat)


def _images(image: np.ndarray | Tensor) -> Tensor:
    tensor = tensor_of(image, "dense CRF", "image")
    if tensor.dtype != torch.uint8:
        raise InputError(f"dense CRF: the image is {dtype_of(tensor)}; give uint8 RGB, 0 to 255")
    if tensor.ndim not in (3, 4) or tensor.shape[-1] != 3:
        raise InputError(f"dense CRF: the image has shape {shape_of(tensor)}; give RGB as [height width 3]")
    return tensor


def _pixels_and_scores(image: np.ndarray | Tensor, scores: np.ndarray | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images ``[batch height width 3]``, scores ``[batch labels height width]`` and the highest score of each label,
    ``[batch labels]``; :class:`InputError` where :func:`dense_crf` says."""
    images = _images(image)
    values = tensor_of(scores, "dense CRF", "scores")
    if not values.is_floating_point():
        raise InputError(f"dense CRF: scores are {dtype_of(values)}; give probabilities of a float type")
    if values.ndim not in (3, 4):
        raise InputError(f"dense CRF: scores have shape {shape_of(values)}; give [labels height width]")
    values = values if values.ndim == 4 else values[None]
    images = images if images.ndim == 4 else images[None]
    if len(images) != len(values) or images.shape[1:3] != values.shape[2:]:
        raise InputError(
            f"dense CRF: image {shape_of(_images(image))} and scores {shape_of(scores)} disagree; "
            "resize the scores to [labels height width] of the image"
        )
    if values.numel() == 0:
        raise InputError(f"dense CRF: scores have shape {shape_of(scores)}; there is nothing to refine")
    # half-precision sums may pass one a little
    return images, values, highest_scores(values, "dense CRF", "probabilities in [0, 1]", limit=1.01)


def _pixels_and_labels(image: np.ndarray | Tensor, labels: np.ndarray | Tensor, n_labels: int) -> tuple[Tensor, Tensor]:
    """Images ``[batch height width 3]`` and label maps ``[batch height width]``; :class:`InputError` where
    :func:`dense_crf_from_labels` says."""
    images = _images(image)
    values = tensor_of(labels, "dense CRF", "labels")
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"dense CRF: labels are {dtype_of(values)}; give an integer label map, for instance uint8")
    if values.ndim not in (2, 3):
        raise InputError(f"dense CRF: labels have shape {shape_of(values)}; give [height width]")
    values = (values if values.ndim == 3 else values[None]).long()
    images = images if images.ndim == 4 else images[None]
    if images.shape[:3] != values.shape:
        raise InputError(
            f"dense CRF: image {shape_of(_images(image))} and labels {shape_of(labels)} disagree; "
            "resize the labels to the image's height and width"
        )
    if values.numel() == 0:
        raise InputError(f"dense CRF: labels have shape {shape_of(labels)}; there is nothing to refine")
    wrong = values[(values != 255) & ((values < 0) | (values >= n_labels))]
    if len(wrong):
        raise InputError(
            f"dense CRF: the label map holds {int(wrong[0])}, but n_labels is {n_labels}: it may hold "
            f"0 to {n_labels - 1}, and 255 for pixels nothing is known about"
        )
    return images, values
