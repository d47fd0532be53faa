"""ONNX: the segmenter alone, photos of any size and number in, logits at stride out; resizing stays outside.

The model's metadata hold what else a program needs: classes, normalisation, sizes.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tag2mask.backbones import Backbone
from tag2mask.deploy.pooling import exportable_pooling
from tag2mask.deploy.stored import Stored, open_stored
from tag2mask.errors import InputError
from tag2mask.evaluate import with_background
from tag2mask.files import check_outside_runs, whole_folder
from tag2mask.segment import InferenceSettings, decided_logits, saw_empty
from tag2mask.stages.segmenter import load_segmenter
from tag2mask.types import Photos

FILE, SCRIPT = "model.onnx", "predict.py"
EMPTY_MARGIN = 100.0  # added to the background's logit, so that its probability is 1
TOLERANCE = 1e-4  # of logits, against torch
INPUT, OUTPUT = "images", "logits"


class _Logits(nn.Module):
    """A segmenter as a function of tensors.

    Args:
        inference: of the run; of a photo in which no class is likely (``empty_below``) the background wins all.
    """

    def __init__(self, segmenter: nn.Module, inference: InferenceSettings) -> None:
        super().__init__()
        self.segmenter, self.prior_correction = segmenter, inference.prior_correction
        saw = saw_empty(segmenter)
        self.empty_below = inference.empty_below if saw is not None and bool(saw) else 0.0

    def forward(self, images: Tensor) -> Tensor:
        logits, shown = decided_logits(self.segmenter, Photos(images), None, self.prior_correction)
        if shown is None or not self.empty_below:
            return logits
        empty = shown.sigmoid().amax(1) < self.empty_below
        return torch.cat([logits[:, :1] + EMPTY_MARGIN * empty[:, None, None, None], logits[:, 1:]], 1)


def write_onnx(path: Path | str, out: Path | str) -> float:
    """``model.onnx`` of a run's or a bundle's segmenter, and ``predict.py`` that needs ONNX Runtime, NumPy and Pillow.
    Gives the largest difference of a logit from torch's, which was checked on three sizes.

    Raises:
        InputError: no such segmenter, ONNX is not installed, the model cannot be written as ONNX or gives other logits,
            or ``out`` is not empty.
    """
    check_outside_runs(Path(out))
    onnx, runtime = _needed("onnx"), _needed("onnxruntime")
    _needed("onnxscript")
    stored = open_stored(path)
    segmenter, backbone = load_segmenter(
        stored.settings, len(stored.classes), stored.weights, single_stage=stored.settings.single_stage
    )
    network = _Logits(segmenter, stored.settings.inference).cpu().eval().float()
    with whole_folder(Path(out)) as folder:
        _write(network, backbone.size_divisor, folder / FILE)
        model = onnx.load(folder / FILE)
        for key, value in _metadata(stored, backbone).items():
            model.metadata_props.add(key=key, value=value)
        onnx.save(model, folder / FILE)
        difference = _largest_difference(network, folder / FILE, backbone.size_divisor, runtime)
        shutil.copyfile(Path(__file__).with_name("onnx_predict.py"), folder / SCRIPT)
    return difference


def _write(network: nn.Module, multiple: int, file: Path) -> None:
    """Written by tracing; nothing is fetched.

    Raises:
        InputError: an operation has no form in ONNX, or fixes the size.
    """
    example = torch.zeros(2, 3, *_sizes(multiple)[0])
    batch, cells = torch.export.Dim("batch", min=1), ("rows", "columns")
    sides = [multiple * torch.export.Dim(name, min=2, max=8192) if multiple > 1 else torch.export.Dim(name, min=32)
             for name in cells]  # fmt: skip
    try:
        with _quiet(), exportable_pooling(), torch.no_grad():
            torch.onnx.export(
                network, (example,), str(file), input_names=[INPUT], output_names=[OUTPUT], external_data=False,
                dynamic_shapes={INPUT: {0: batch, 2: sides[0], 3: sides[1]}}, dynamo=True, verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter raises types of its own, and of whatever it calls
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"this segmenter cannot be written as ONNX ({reason[:200]}): export it as a bundle, or train another "
            "--segmenter or --backbone"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own notes on its progress."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _metadata(stored: Stored, backbone: Backbone) -> dict[str, str]:
    content: dict[str, Any] = {
        "classes": list(with_background(stored.classes)),
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "long_side": stored.settings.inference.long_side,
        "multiple": backbone.size_divisor,
        "model": stored.version,
        "passport": dict(stored.passport),
    }
    return {key: json.dumps(value) for key, value in content.items()}


def _sizes(multiple: int) -> list[tuple[int, int]]:
    """(height, width) of what is compared, none square; a multiple of what the network asks for."""
    return [(-(-h // multiple) * multiple, -(-w // multiple) * multiple) for h, w in ((96, 128), (157, 101), (64, 320))]


def _largest_difference(network: nn.Module, file: Path, multiple: int, runtime: ModuleType) -> float:
    """Of the logits that ONNX Runtime and torch give.

    Raises:
        InputError: it is more than :data:`TOLERANCE`, relative to logits above 1.
    """
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    random, worst = np.random.default_rng(0), 0.0
    for number, size in enumerate(_sizes(multiple), 1):
        images = random.standard_normal((number, 3, *size)).astype(np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        try:
            (given,) = session.run([OUTPUT], {INPUT: images})
        except Exception as error:  # types of its own, one a kind of failure
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"ONNX Runtime cannot run this segmenter ({reason}): export it as a bundle") from error
        if given.shape != expected.shape:
            raise InputError(f"ONNX gives logits of shape {given.shape} and torch {expected.shape}: export a bundle")
        scale = max(1.0, float(np.abs(expected[:, 1:]).max()))
        worst = max(worst, float(np.abs(given - expected).max()) / scale)
    if not worst <= TOLERANCE:
        raise InputError(
            f"the logits of ONNX differ from torch's by {worst:.2g}, more than {TOLERANCE:g}: nothing was written; "
            "export a bundle"
        )
    return worst


def _needed(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"ONNX needs {name}, which is not installed: pip install 'tag2mask[onnx]'") from error
