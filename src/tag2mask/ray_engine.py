"""Masks of new photos on a Ray cluster, through Ray Data: photos are decoded on CPU workers, segmented by actors that
hold the network, written by CPU workers again.

A row is a batch of photos that are segmented together, so masks are those of every other way to predict. What travels
is safetensors and JSON. A worker that dies is replaced by Ray and its batches made again: a mask is a file that appears
whole, so that nothing is lost or there twice.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tag2mask.errors import InputError, UnreadableImage
from tag2mask.prediction import Prediction
from tag2mask.segment import Segmented
from tag2mask.types import Sample

log = logging.getLogger("tag2mask")

Row = dict[str, Any]
MOST_BLOCKS = 10_000  # of rows; a block is what a worker takes at once
PATIENCE = 10.0  # seconds for an address to answer
HEALTH = 60.0  # seconds for Ray's own question whether a cluster is there: connecting would wait for minutes


def made_on_ray(prediction: Prediction, batches: Iterable[Sequence[Sample]]) -> Iterator[tuple[Sample, str | None]]:
    """As :meth:`Prediction.made`, on the cluster at RAY_ADDRESS, or one of this machine.

    Raises:
        InputError: Ray is not installed, or no cluster answers at the address.
    """
    ray, prediction = connected(), replace(prediction)  # without the network, which workers load themselves
    rows = [{"samples": _to_text(batch)} for batch in batches]
    if not rows:
        return
    gpus = float(ray.cluster_resources().get("GPU", 0))
    gpu = 1 if gpus else 0
    cpus = int(ray.cluster_resources().get("CPU", 2))
    helpers = ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(cpus // 2, len(rows))))
    networks = ray.data.ActorPoolStrategy(size=max(1, min(int(gpus) if gpus else cpus // 2, len(rows))))
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS))
    data = data.map(Reader, fn_constructor_args=(prediction,), compute=helpers, num_cpus=0.25)
    data = data.map(Segmenter, fn_constructor_args=(prediction,), compute=networks, num_cpus=0.5, num_gpus=gpu)
    data = data.map(Writer, fn_constructor_args=(prediction,), compute=helpers, num_cpus=0.25)
    for row in data.iter_rows():
        errors = json.loads(row["errors"])
        for sample in _from_text(row["samples"]):
            yield sample, errors.get(sample.id)


class Reader:
    """Decodes the photos of a batch and makes their views."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction

    def __call__(self, row: Row) -> Row:
        tensors: dict[str, Tensor] = {}
        errors: dict[str, str] = {}
        for number, sample in enumerate(_from_text(row["samples"])):
            read = self.prediction.read(sample)
            if isinstance(read, UnreadableImage):
                errors[sample.id] = str(read)
                continue
            pixels, views = read
            tensors[f"{number}.pixels"] = torch.from_numpy(np.ascontiguousarray(pixels))
            tensors |= {f"{number}.{place}": view.contiguous() for place, view in enumerate(views)}
        return {"samples": row["samples"], "errors": json.dumps(errors), "tensors": _packed(tensors)}


class Segmenter:
    """Holds the network."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        _ = prediction.predictor

    def __call__(self, row: Row) -> Row:
        tensors = _unpacked(row["tensors"])
        numbers = sorted({int(name.partition(".")[0]) for name in tensors})
        inputs = []
        for number in numbers:
            views = sum(name.startswith(f"{number}.") for name in tensors) - 1
            pixels = tensors[f"{number}.pixels"].numpy()
            inputs.append((pixels, [tensors[f"{number}.{place}"] for place in range(views)]))
        outputs = self.prediction.predictor.segmented(inputs) if inputs else []
        found: dict[str, Tensor] = {}
        for number, (pixels, (scores, presence)) in zip(numbers, outputs, strict=True):
            found |= {f"{number}.pixels": torch.from_numpy(pixels), f"{number}.scores": scores.contiguous()}
            if presence is not None:
                found[f"{number}.presence"] = presence
        return {**row, "tensors": _packed(found)}


class Writer:
    """Refines probabilities and writes masks."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction

    def __call__(self, row: Row) -> Row:
        tensors, errors = _unpacked(row["tensors"]), json.loads(row["errors"])
        for number, sample in enumerate(_from_text(row["samples"])):
            if sample.id not in errors:
                photo = Segmented(tensors[f"{number}.scores"], tensors.get(f"{number}.presence"))
                self.prediction.write(sample, (tensors[f"{number}.pixels"].numpy(), photo))
        return {"samples": row["samples"], "errors": row["errors"]}


def _to_text(samples: Sequence[Sample]) -> str:
    fields = [[s.id, str(s.image_path), None if s.labels is None else sorted(s.labels)] for s in samples]
    return json.dumps(fields)


def _from_text(text: str) -> list[Sample]:
    return [
        Sample(id_, Path(path), None if labels is None else frozenset(labels)) for id_, path, labels in json.loads(text)
    ]


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save(dict(tensors))


def _unpacked(content: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(content)


def connected() -> Any:
    """Ray, connected.

    Raises:
        InputError: it is not installed, or no cluster answers.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports] - an extra
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("--engine ray needs Ray, which is not installed: pip install 'tag2mask[ray]'") from error
    address = os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        _check_answers(address)
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            said = str(error).partition("\n")[0]
            raise InputError(
                f"Ray cannot be used at {address or 'this machine'} ({said}): see `ray status`, or unset RAY_ADDRESS "
                "to use this machine alone"
            ) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray


def _check_answers(address: str) -> None:
    """A cluster listens at the address of one.

    Raises:
        InputError: nothing does, or something else.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # "auto", "local": Ray's own words
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at RAY_ADDRESS {address} ({error}): start one (`ray start --head`), or unset it "
            "to use this machine alone"
        ) from error
    if address.startswith("ray://"):
        return  # a client waits for half a minute by itself
    asks = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        subprocess.run(asks, capture_output=True, timeout=HEALTH, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise InputError(
            f"what answers at RAY_ADDRESS {address} is no Ray cluster that this Ray can use (`ray health-check "
            f"--address {address}` says more): give another address, or unset it to use this machine alone"
        ) from error
