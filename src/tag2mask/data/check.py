"""Every photo decoded once: its size, its digest, or why it cannot be used."""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tag2mask.data import likeness
from tag2mask.data.decode import IMAGE_BYTES, decoded, explained
from tag2mask.data.reading import open_regular
from tag2mask.errors import UnreadableImage
from tag2mask.types import Sample, SampleKey


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """One photo decoded once: either its size and digest, or why it cannot be used."""

    id: str
    height: int = 0  # pixels, upright
    width: int = 0
    digest: str = ""  # blake2b of the file's bytes, 32 hex digits: equal files, equal digests
    error: str | None = None
    split: str = ""
    note: str = ""  # what is odd about its pixels: "transparent", "12 bits"
    signs: str = ""  # alike for photos that show the same (tag2mask.data.likeness)

    @property
    def key(self) -> SampleKey:
        """The photo's identity in a run."""
        return self.split, self.id


def check_image(sample: Sample) -> CheckedImage:
    """Decode one photo; problems become the record's ``error``."""
    try:
        content = _content(sample.image_path)
        pixels, note = decoded(sample.image_path, content)
    except UnreadableImage as error:
        return CheckedImage(sample.id, error=str(error), split=sample.split)
    height, width, _ = pixels.shape
    return CheckedImage(
        sample.id, height, width, _digest(content), split=sample.split, note=note, signs=likeness.signs(pixels)
    )


def _content(path: Path) -> bytes:
    with explained(path), open_regular(path, IMAGE_BYTES) as file:
        return file.read()


def decode_image(path: Path, digest: str) -> np.ndarray:
    """``[height width 3]`` uint8 of exactly the bytes that have this digest (:attr:`CheckedImage.digest`).

    Raises:
        UnreadableImage: it cannot be decoded, or its content has changed.
    """
    content = _content(path)
    if _digest(content) != digest:
        raise UnreadableImage(f"image {path} changed while the run was working: run the same command again")
    return decoded(path, content)[0]


def file_digest(path: Path) -> str:
    """blake2b of an image file's bytes, 32 hex digits, without decoding it."""
    return _digest(_content(path))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def check_images(samples: Iterable[Sample], workers: int | None = None) -> Iterator[CheckedImage]:
    """Decode every photo once, in order. Only a few are in memory at a time, however many there are.

    Args:
        samples: any iterable; read as far as needed to keep the workers busy.
        workers: threads (decoding releases the GIL); by default as many as cores, at most 8.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="check-images")
    waiting: deque[concurrent.futures.Future[CheckedImage]] = deque()
    remaining = iter(samples)
    try:
        for sample in itertools.islice(remaining, 4 * workers):
            waiting.append(pool.submit(check_image, sample))
        while waiting:
            done = waiting.popleft().result()
            for sample in itertools.islice(remaining, 1):
                waiting.append(pool.submit(check_image, sample))
            yield done
    finally:  # also when the caller stops early or presses Ctrl-C
        pool.shutdown(wait=False, cancel_futures=True)
