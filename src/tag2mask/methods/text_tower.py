"""A text tower: texts to points of the space that its image tower shares. open_clip's (extra ``text``)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.errors import InputError, listed, unknown
from tag2mask.files import bytes_digest
from tag2mask.hub import OPEN_CLIP, cached_digest
from tag2mask.methods.text_settings import LOCAL
from tag2mask.types import CARD, Pretrained

INSTALL = "pip install 'tag2mask[text]'"
FILES = "open_clip_config.json, open_clip_model.safetensors and the tokenizer's files"
BATCH = 256  # texts in a forward pass


class TextEmbedder:
    """A text tower and its tokenizer.

    Args:
        tower: open_clip's ``model/weights``, or ``local-dir:FOLDER``.

    Raises:
        InputError: the extra is not installed, there is no such tower, or its files cannot be had.
    """

    def __init__(self, tower: str) -> None:
        check_tower(tower)
        import open_clip

        name, weights = (tower, None) if tower.startswith(LOCAL) else tower.split("/", 1)
        self.tower = tower
        try:
            self._model: Any = open_clip.create_model(name, pretrained=weights, require_pretrained=True).eval()
            self._tokenizer: Any = open_clip.get_tokenizer(name)
        except Exception as error:  # of the hub, of files, of transformers: many types
            raise InputError(
                f"the text tower {tower} cannot be had ({type(error).__name__}: {' '.join(str(error).split())[:120]}): "
                f"{_what_to_fetch(name, weights)}"
            ) from error

    @property
    def pretrained(self) -> Pretrained:
        """Which network it is. It learned from texts of photos."""
        import open_clip

        if self.tower.startswith(LOCAL):
            folder = Path(self.tower.removeprefix(LOCAL))
            weights = next((folder / name for name in OPEN_CLIP if (folder / name).is_file()), None)
            digest = None if weights is None else bytes_digest(weights)
            return Pretrained("text tower", folder.name, f"file {folder}", digest, None, None)
        name, weights = self.tower.split("/", 1)
        hub = open_clip.get_pretrained_cfg(name, weights).get("hf_hub", "").rstrip("/")
        digest = cached_digest(hub, OPEN_CLIP) if hub else None
        source = f"hub, {hub}" if hub else f"open_clip, {self.tower}"
        return Pretrained("text tower", self.tower, source, digest, CARD, False)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """``[texts channels]`` float32 of length 1."""
        parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        with torch.inference_mode():
            encoded = [self._model.encode_text(self._tokenizer(list(part))).float() for part in parts]
        return F.normalize(torch.cat(encoded), dim=1).clone()


def check_tower(tower: str) -> None:
    """The extra is installed and there is such a tower; loads nothing.

    Raises:
        InputError: otherwise.
    """
    if importlib.util.find_spec("open_clip") is None:
        raise InputError(f"--method text needs the package open_clip, which is not installed: {INSTALL}")
    if tower.startswith(LOCAL):
        folder = Path(tower.removeprefix(LOCAL))
        if not (folder / "open_clip_config.json").is_file():
            raise InputError(f"no text tower in {folder}: the folder must hold {FILES}, whole")
        return
    import open_clip

    name, _, weights = tower.partition("/")
    if name not in open_clip.list_models():
        raise unknown("text tower", tower, ["/".join(pair) for pair in open_clip.list_pretrained()])
    known = open_clip.list_pretrained_tags_by_model(name)
    if weights not in known:
        raise InputError(f"--text.tower {tower}: open_clip has {name} with {listed(known, 8)}: give {name}/{known[0]}")


def _what_to_fetch(name: str, weights: str | None) -> str:
    """What to do where a tower's files are not there."""
    if weights is None:
        return f"the folder must hold {FILES}, whole"
    import open_clip

    hub = (open_clip.get_pretrained_cfg(name, weights) or {}).get("hf_hub", "").rstrip("/")
    fetched = f"fetch {hub} from huggingface.co ({FILES}) where there is a network" if hub else "fetch its files"
    return f"check the network or HF_HUB_OFFLINE; or {fetched}, and give --text.tower {LOCAL}FOLDER"
