"""Where a trained segmenter lies: in a run, or in a bundle of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tag2mask.data import DataSettings
from tag2mask.errors import InputError
from tag2mask.files import read_object
from tag2mask.passport import of_run
from tag2mask.plan.execute import is_whole
from tag2mask.plan.folder import Run, StageFolder
from tag2mask.prediction import Prediction
from tag2mask.recipes import RunSettings, settings_from

FILE = "tag2mask.json"
VERSION = 1  # of a bundle; another one is refused, never guessed at


@dataclass(frozen=True)
class Stored:
    """A trained segmenter on disk.

    Attributes:
        weights: the folder of ``model.safetensors``.
        version: which model this is, in words.
        passport: what it learned from (:mod:`tag2mask.passport`); empty where the run or bundle does not say.
    """

    settings: RunSettings
    classes: tuple[str, ...]
    weights: StageFolder
    version: str
    passport: Mapping[str, Any] = field(default_factory=dict)


def open_stored(path: Path | str) -> Stored:
    """The segmenter of a finished run, or of a bundle.

    Raises:
        InputError: it is neither, the run is not finished, or the bundle is damaged or of another version.
    """
    path = Path(path)
    if (path / FILE).exists():
        return _of_bundle(path)
    if not (path / "run.json").exists():
        raise InputError(
            f"{path} is neither a run nor a bundle ({FILE} and model.safetensors): give the --out folder of a training "
            "run, or of `tag2mask export RUN --to bundle`"
        )
    made = Prediction.of(path, path)
    by = Run(path, existing=True).description()["tag2mask"]
    version = f"tag2mask {by} {made.stage.folder.name} {made.stage.key[:8]}"
    return Stored(made.settings, made.classes, made.stage, version, of_run(path))


def _of_bundle(path: Path) -> Stored:
    content = read_object(path / FILE)
    if content is None:
        raise InputError(f"{path / FILE} is damaged: export the bundle again")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path} is a bundle of version {content.get('version')}, and this tag2mask reads {VERSION}: use the "
            f"tag2mask that wrote it ({content.get('tag2mask', 'unknown')}), or export it again"
        )
    try:
        classes, settings = tuple(map(str, content["classes"])), settings_from(content["settings"])
        version = str(content["model"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path / FILE} is damaged ({error!r}): export the bundle again") from error
    weights = StageFolder(path, "")
    if not is_whole(weights.model):
        raise InputError(f"{path} has no {weights.model.name}, or not all of it: copy the bundle again")
    block = content.get("passport")
    return Stored(settings, classes, weights, version, block if isinstance(block, dict) else {})


def described(stored: Stored) -> dict[str, Any]:
    """What a bundle's JSON holds. Nothing of the machine that trained it: no path of data, weights or saliency."""
    from tag2mask import __version__
    from tag2mask.settings import plain

    s = stored.settings
    clean = replace(s, data=DataSettings(), backbone=replace(s.backbone, weights="none"))
    return {
        "version": VERSION,
        "tag2mask": __version__,
        "model": stored.version,
        "classes": list(stored.classes),
        "settings": plain(clean),
        "passport": stored.passport,
    }
