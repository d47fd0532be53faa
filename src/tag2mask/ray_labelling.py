"""The per-photo stages of a run on a Ray cluster, through Ray Data: actors that hold what a stage needs (its network,
thresholds) read, compute and write; this process decides what is to do, keeps the records, and concludes.

A row is a few batches, formed of all photos as everywhere, so artefacts are the same bytes. A worker that dies is
replaced by Ray and its rows made again: an artefact appears whole, and a record is kept once, here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tag2mask.data.samples import keys_of
from tag2mask.errors import DamagedArtefact, InputError
from tag2mask.plan.context import Context
from tag2mask.plan.photos import carried_out, samples_of
from tag2mask.plan.stage import PhotoStage
from tag2mask.ray_engine import MOST_BLOCKS, Row, connected
from tag2mask.types import Sample, SampleKey

PHOTOS = 32  # of a row, as far as batches allow: what is made again when a worker dies


def carried_out_on_ray(
    stage: PhotoStage, context: Context, batches: Sequence[Sequence[Sample]], workers: int
) -> Iterator[tuple[Sample, Any]]:
    """As :func:`tag2mask.plan.photos.carried_out`, on the cluster at RAY_ADDRESS, or one of this machine.

    Raises:
        InputError: Ray is not installed, no cluster answers, or what the stage itself says.
    """
    ray, samples = connected(), samples_of(stage, context)
    place_of = {key: place for place, key in enumerate(keys_of(samples))}
    rows = [{"batches": json.dumps(part)} for part in _parts(batches, place_of)]
    if not rows:
        return
    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    actors = max(1, min(gpus or cpus // 2, len(rows)))
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS))
    data = data.map(
        StageWorker,
        fn_constructor_args=(stage.name, *context.made_of(), workers),
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    for row in data.iter_rows():
        if row["error"]:
            raise _raised(row)
        for place, record in json.loads(row["records"]):
            yield samples[place], record


def _parts(batches: Sequence[Sequence[Sample]], place_of: Mapping[SampleKey, int]) -> Iterator[list[list[int]]]:
    """Neighbouring batches by the places of their photos, together about :data:`PHOTOS`."""
    part: list[list[int]] = []
    for batch in batches:
        part.append([place_of[sample.key] for sample in batch])
        if sum(map(len, part)) >= PHOTOS:
            yield part
            part = []
    if part:
        yield part


class StageWorker:
    """Does rows of a stage. What the user can mend is a row, too: an exception would be Ray's."""

    def __init__(self, name: str, settings: Any, data: Any, folder: Any, reads: Any, workers: int) -> None:
        from tag2mask import stages

        stage = next(stage for stage in stages.plan(settings) if stage.name == name)
        assert isinstance(stage, PhotoStage)
        self.context, self.workers = Context(stage, settings, data, folder, reads), workers
        self.samples, self.work = samples_of(stage, self.context), stage.start(self.context)

    def __call__(self, row: Row) -> Row:
        batches = [[self.samples[place] for place in batch] for batch in json.loads(row["batches"])]
        places = (place for batch in json.loads(row["batches"]) for place in batch)
        try:
            done = carried_out(self.work, batches, self.context, self.workers)
            records = [(place, record) for place, (_, record) in zip(places, done, strict=True)]
        except InputError as error:
            damaged = str(error.path) if isinstance(error, DamagedArtefact) else ""
            return {"records": "", "error": str(error), "damaged": damaged}
        return {"records": json.dumps(records), "error": "", "damaged": ""}


def _raised(row: Row) -> InputError:
    return DamagedArtefact.of(Path(row["damaged"]), row["error"]) if row["damaged"] else InputError(row["error"])
