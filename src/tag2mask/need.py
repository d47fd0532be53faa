r"""Which photos need a person first: signs, without truth, that a mask is wrong.

* *Disagreement*: :math:`1 - \mathrm{Dice}` of two masks that the run made of one photo in different ways, from its maps
  and by its segmenter, or before and after refinement. The pairwise agreement of independent answers is the sign of
  quality that the field trusts most without truth.
* *Uncertainty*: one less the mean of the best label's probability over the photo.
* *Missing*: a class that the photo is tagged with and its mask does not show.
* *Classes*: how many the photo is tagged with; borders between objects are what tags say least about.
* *Tags*: how much the photo's tags are doubted, where `tag2mask tags RUN` has judged them.

Each is turned into ranks among the photos of its split, and a photo's need is the mean of its ranks: the signs have
different units, and only the order is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from tag2mask import run_tags, tag_errors
from tag2mask.errors import InputError
from tag2mask.files import bytes_digest, digest, read_object, write_json
from tag2mask.plan.execute import Execution
from tag2mask.plan.folder import StageFolder
from tag2mask.plan.records import read_records
from tag2mask.pseudo import Threshold
from tag2mask.stages import names
from tag2mask.stages.artefacts import MapReader, MaskReader
from tag2mask.stages.masks import unrefined
from tag2mask.types import BACKGROUND, IGNORE, Sample, SampleKey

log = logging.getLogger("tag2mask")

FILE = ".need.json"  # in the run folder

Signs = Mapping[str, np.ndarray]
"""Name to ``[photos]`` float, larger where a person is needed more."""


def scores(execution: Execution) -> dict[SampleKey, float]:
    """The need of every photo that has a mask, in [0, 1] by rank within its split: 1 is the first to be seen.

    Args:
        execution: a finished run; of its training photos the last masks are judged, of val the predictions.
    """
    needs: dict[SampleKey, float] = {}
    for samples, of_split in signs(execution):
        if samples:
            nothing = [np.zeros(len(samples))]  # where no sign tells the photos apart
            mean = np.mean([ranks(values) for values in of_split.values()] or nothing, 0)
            needs |= {sample.key: float(need) for sample, need in zip(samples, ranks(mean), strict=True)}
    return needs


def judged(execution: Execution) -> list[StageFolder]:
    """The stages whose masks are judged: the last masks of the training photos, the predictions of val."""
    last = [name for name in names.masks(execution.settings) if name in execution.folders][-1:]
    return [execution.folders[name] for name in (*last, "predictions") if name in execution.folders]


def kept(execution: Execution) -> dict[SampleKey, float] | None:
    """The scores that :func:`keep` left in the run, if they are of its masks."""
    content = read_object(execution.run.folder / FILE) or {}
    if content.get("made of") != _made_of(execution):
        return None
    return {(split, id_): score for split, id_, score in content["needs"]}


def keep(execution: Execution) -> dict[SampleKey, float]:
    """:func:`scores`, kept in the run, since they are read off every mask."""
    needs = scores(execution)
    rounded = [[*key, round(score, 4)] for key, score in needs.items()]
    try:
        write_json(execution.run.folder / FILE, {"made of": _made_of(execution), "needs": rounded})
    except (InputError, OSError) as error:  # a run may be looked at where nothing can be written
        log.info("the order of photos is not kept: %s", error)
    return needs


def _made_of(execution: Execution) -> str:
    tags = execution.run.folder / tag_errors.FILE
    return digest([[stage.key for stage in judged(execution)], bytes_digest(tags) if tags.exists() else ""])


def signs(execution: Execution) -> list[tuple[list[Sample], Signs]]:
    """The photos of each split that have a mask, and their signs."""
    last = names.last_masks(execution.settings, execution.folders)
    of_tags = run_tags.judged(execution)
    doubted = {} if of_tags is None else {photo.key: photo.doubt for photo in of_tags.photos}
    found = [_of_stage(execution, last, execution.data.train.samples, _other_answer(execution, last), doubted)]
    if execution.data.val is not None and "predictions" in execution.folders:
        found.append(_of_stage(execution, "predictions", execution.data.val.samples, None))
    return found


def _other_answer(execution: Execution, last: str) -> Callable[[Sample], np.ndarray | None]:
    """Another mask of the same photo: from the maps, refined, where the last is the segmenter's; else not refined."""
    if last != "masks":
        return MaskReader(execution.folders["masks"], execution.data.train.classes).if_any
    maps = [name for name in names.maps(execution.settings) if name in execution.folders]
    if not maps:  # deleted since: nothing reads them any more
        return lambda _: None
    threshold = Threshold.from_json(execution.folders["masks"].manifest(), execution.data.train.classes)
    return unrefined(MapReader(execution.folders[maps[-1]]), threshold, execution.settings.pseudo)


def _of_stage(
    execution: Execution,
    stage: str,
    samples: Sequence[Sample],
    other: Callable[[Sample], np.ndarray | None] | None,
    doubted: Mapping[SampleKey, float] = MappingProxyType({}),
) -> tuple[list[Sample], Signs]:
    folder = execution.folders[stage]
    masks = MaskReader(folder, execution.data.train.classes)
    records = {(str(r["split"]), str(r["id"])): r for r in read_records(folder.records)}
    having = [sample for sample in samples if sample.key in records and folder.path(sample.id, ".png").exists()]
    of_photos = [records[sample.key] for sample in having]
    found = {"uncertainty": np.array([float(r.get("uncertainty", 0)) for r in of_photos])}
    if of_photos and "missing_classes" in of_photos[0]:
        found["missing"] = np.array([float(len(r["missing_classes"])) for r in of_photos])
    if other is not None:  # tags are known
        found["classes"] = np.array([float(len(sample.labels or ())) for sample in having])
        found["tags"] = np.array([doubted.get(s.key, 0.0) for s in having])
        found["disagreement"] = np.array([1 - dice(masks.if_any(s), other(s)) for s in having])
    return having, {name: values for name, values in found.items() if np.ptp(values) > 0} if having else {}


def dice(one: np.ndarray | None, other: np.ndarray | None) -> float:
    """Mean over the classes that either of two ``[height width]`` index masks shows; 1 where neither shows any.

    Pixels that one of them leaves undecided do not count.
    """
    if one is None or other is None:
        return 0.0
    decided = (one != IGNORE) & (other != IGNORE)
    values = [v for v in np.union1d(one[decided], other[decided]).tolist() if v != BACKGROUND]
    shares = []
    for value in values:
        a, b = one[decided] == value, other[decided] == value
        shares.append(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
    return float(np.mean(shares)) if shares else 1.0


def ranks(values: np.ndarray) -> np.ndarray:
    """Mean rank of every value in [0, 1]; equal values have equal ranks."""
    ordered = np.sort(values)
    middle = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1) / 2
    return middle / max(1, len(values) - 1)


def auroc(need: np.ndarray, worst: np.ndarray) -> float:
    """Chance that a photo that is among the worst (bool) has more need than one that is not; 0.5 is no better than
    drawing lots."""
    bad, good = int(worst.sum()), int((~worst).sum())
    if not bad or not good:
        return float("nan")
    rank = ranks(need) * (len(need) - 1) + 1
    return (float(rank[worst].sum()) - bad * (bad + 1) / 2) / (bad * good)
