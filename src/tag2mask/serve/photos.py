"""What the page asks of one photo of the run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tag2mask.data.images import read_index_mask
from tag2mask.errors import InputError
from tag2mask.plan.execute import Execution
from tag2mask.review import Decision, Review, Verdict
from tag2mask.serve import pixels
from tag2mask.serve.answers import Refused
from tag2mask.serve.queue import Queue, address
from tag2mask.serve.segmenting import Segmented, Segmenting
from tag2mask.stages import names
from tag2mask.stages.artefacts import MapReader, MaskReader


@dataclass(frozen=True)
class Photos:
    """The photos of a run, what the run made of them, and what a person decided."""

    execution: Execution
    queue: Queue
    review: Review
    segmenting: Segmenting

    @property
    def classes(self) -> tuple[str, ...]:
        return self.execution.data.train.classes

    def position(self, key: str) -> int:
        """
        Raises:
            Refused: no photo of this run.
        """
        position = self.queue.position(key)
        if position is None:
            raise Refused(404, "this photo is not among the run's: reload the page")
        return position

    def row(self, position: int) -> dict[str, Any]:
        """What the page shows of a photo in its list."""
        return self._row(position, self.review.of(self.queue.sample(position).key))

    def rows(self, positions: Iterable[int]) -> list[dict[str, Any]]:
        latest = self.review.latest()
        return [self._row(position, latest.get(self.queue.sample(position).key)) for position in positions]

    def _row(self, position: int, decision: Decision | None) -> dict[str, Any]:
        sample, place = self.queue.sample(position), self.queue.places[position]
        size = self.queue.size(position)
        counts = decision if decision is not None and decision.decision != "withdrawn" else None
        named = None if counts is None or counts.tags is None else set(counts.tags)
        labels = sample.labels if named is None else {c for c, name in enumerate(self.classes) if name in named}
        return {
            "position": position,
            "key": self.queue.key(position),
            "id": sample.id,
            "split": sample.split,
            "need": round(place.need, 4) if place.need >= 0 else None,
            "tagged": labels is not None,
            "doubted": self.queue.tags_said.get(sample.key, ""),
            "tags": sorted(labels or ()),
            "size": size,
            "work": pixels.work_size(size),
            "layer": "mask" if place.of_train else "prediction",
            "decision": None if counts is None else counts.decision,
            "who": "" if counts is None else counts.who,
            "revision": 0 if decision is None else decision.revision,
        }

    def upcoming(self, after: int, count: int, *, undecided: bool) -> list[dict[str, Any]]:
        """The next photos of the queue behind a position; with ``undecided`` only those that wait for a decision."""
        latest = self.review.latest() if undecided else {}
        positions = (
            position
            for position in range(max(after + 1, 0), len(self.queue))
            if (decision := latest.get(self.queue.sample(position).key)) is None or decision.decision == "withdrawn"
        )
        return self.rows(itertools.islice(positions, count))

    def counts(self) -> dict[str, int]:
        """How many photos of the queue were decided how."""
        counts = {"accepted": 0, "corrected": 0, "rejected": 0}
        for key, decision in self.review.latest().items():
            if decision.decision in counts and self.queue.position(address(key)) is not None:
                counts[decision.decision] += 1
        return counts

    def jpeg(self, position: int, side: int | None = None) -> bytes:
        path = self.queue.sample(position).image_path
        return pixels.jpeg(pixels.read_photo(path, side)[0])

    def mask(self, position: int) -> np.ndarray:
        """The mask as it stands ``[height width]`` uint8: a person's, else the run's."""
        sample = self.queue.sample(position)
        drawn = self.review.mask_path(sample.key)
        own = MaskReader(self.queue.stage(position), self.classes)
        mask = read_index_mask(drawn) if drawn is not None else own(sample)
        if mask.shape != self.queue.size(position):
            raise Refused(
                410, f"the mask of '{sample.id}' has another size than the photo: run the run's command again"
            )
        return mask

    def shown_mask(self, position: int) -> np.ndarray:
        """The same at the page's size."""
        return pixels.nearest(self.mask(position), pixels.work_size(self.queue.size(position)))

    def segmented(self, position: int) -> Segmented:
        path = self.queue.sample(position).image_path
        return self.segmenting.of(self.queue.key(position), lambda: pixels.read_photo(path))

    def maps(self, position: int) -> tuple[Sequence[int], np.ndarray]:
        """Classes and maps ``[present rows columns]`` in [0, 1]: the method's, else the segmenter's probabilities."""
        sample = self.queue.sample(position)
        folders = self.execution.folders
        done = [name for name in names.maps(self.execution.settings) if name in folders]
        if self.queue.places[position].of_train and done:
            maps = MapReader(folders[done[-1]])(sample)
            return maps.classes, maps.scores.astype(np.float32)
        return self.segmenting.maps(self.segmented(position))

    def decide(
        self, position: int, verdict: Verdict, work: bytes, tags: list[int] | None, who: str, revision: int
    ) -> Decision:
        """Keep a decision.

        Args:
            work: the labels on the page, at its size, row by row; empty: none.

        Raises:
            Refused: the labels are not of this photo or not of the run's classes; the run folder is gone.
            Conflict: somebody else decided meanwhile.
        """
        try:
            self.review.check_run()
        except InputError as error:
            raise Refused(503, str(error)) from error
        mask = None
        if verdict in ("accepted", "corrected"):
            before = self.mask(position)
            mask = before if verdict == "accepted" else pixels.painted(before, self.labels(position, work))
        named = None if tags is None else self._named(tags)
        sample = self.queue.sample(position)
        given = None if sample.labels is None else self._named(sample.labels)
        own = self.execution.data.own_tags.get(sample.key)  # where a person corrected them before
        given = given if own is None else tuple(name for name in own if name in self.classes)
        return self.review.decide(sample.key, verdict, mask=mask, tags=named, given=given, who=who, revision=revision)

    def _named(self, tags: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.classes[c] for c in sorted(tags))

    def labels(self, position: int, work: bytes) -> np.ndarray:
        return labels_of(work, pixels.work_size(self.queue.size(position)), len(self.classes))


def labels_of(work: bytes, size: pixels.Size, classes: int) -> np.ndarray:
    """Labels that the page sends ``[height width]`` uint8.

    Raises:
        Refused: they are not as many as the photo's pixels, or of no class.
    """
    if len(work) != size[0] * size[1]:
        raise Refused(422, f"the mask has {len(work)} pixels and the photo {size[0] * size[1]}: reload the page")
    labels = np.frombuffer(work, np.uint8).reshape(size)
    values = np.unique(labels)
    if ((values > classes) & (values != 255)).any():
        raise Refused(422, f"the mask holds values above {classes}, the number of classes: reload the page")
    return labels
