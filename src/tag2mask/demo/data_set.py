"""The demo data set on disk: complete, or not there."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from tag2mask.data.images import voc_palette
from tag2mask.demo.catalogue import ASSETS, CLASSES, SPLITS, DemoSettings, Split
from tag2mask.demo.notice import NOTICE
from tag2mask.demo.scenes import Scene, compose
from tag2mask.errors import InputError
from tag2mask.files import cache_folder


def digest(settings: DemoSettings) -> str:
    """Names a version of the demo data: other code, outlines or settings give another folder."""
    version = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for path in (*sorted(Path(__file__).parent.glob("*.py")), *sorted(ASSETS.glob("*.png"))):
        version.update(path.name.encode() + b"\0" + path.read_bytes())
    return version.hexdigest()[:12]


def demo_root(cache: Path | None = None, settings: DemoSettings | None = None) -> Path:
    """The folder of the demo data set, composed when first asked for (seconds), in the folder layout:
    ``images/*.jpg``, ``masks/*.png``, ``train.csv``, ``val.csv``, ``classes.txt``, ``LICENSES.txt``, ``sources.json``.

    Several processes may ask at once: each composes in a folder of its own, the first to finish gives its folder the
    final name, and a folder of that name is always complete.

    Args:
        cache: where to keep it; by default this user's cache folder.
        settings: how many scenes; by default those of the demo.

    Raises:
        InputError: the cache cannot be written, or an installed package lacks a photograph.
    """
    settings = settings or DemoSettings()
    cache = cache or cache_folder()
    root = cache / f"demo-{digest(settings)}"
    if root.is_dir():
        return root
    try:
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".demo-", dir=cache))
        try:
            write(building, settings)
            building.chmod(0o755)  # mkdtemp made it private
            try:
                building.rename(root)
            except OSError:
                if not root.is_dir():  # not because another process was faster
                    raise
        finally:
            shutil.rmtree(building, ignore_errors=True)  # gone already if all went well
    except OSError as error:
        raise InputError(
            f"the demo data cannot be written to {cache} ({error.strerror or error}): free some space there or name "
            "another folder in the environment variable XDG_CACHE_HOME"
        ) from error
    return root


def write(root: Path, settings: DemoSettings) -> None:
    """Composes all scenes into an empty folder."""
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
    (root / "LICENSES.txt").write_text(NOTICE, encoding="utf-8")
    sources: dict[str, tuple[str, ...]] = {}
    for split, count in zip(SPLITS, (settings.train, settings.val), strict=True):
        sources |= write_split(root, split, count, settings)
    (root / "sources.json").write_text(json.dumps(sources, indent=1), encoding="utf-8")


def write_split(root: Path, split: Split, count: int, settings: DemoSettings) -> dict[str, tuple[str, ...]]:
    """Composes the scenes of a split. Gives what each is made of, by name."""
    sources = {}
    with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("image", "tags"))
        for index in range(count):
            scene = compose(split, index, settings)
            name = f"{split}_{index:03}"
            write_scene(root, name, scene, settings.jpeg_quality)
            table.writerow((f"{name}.jpg", ";".join(scene.tags)))
            sources[name] = scene.sources
    return sources


def write_scene(root: Path, name: str, scene: Scene, quality: int) -> None:
    """The photo and the mask of a scene."""
    Image.fromarray(scene.image).save(root / "images" / f"{name}.jpg", quality=quality, subsampling=0)
    mask = Image.fromarray(scene.mask)
    mask.putpalette(voc_palette().tobytes())  # the values stay what they are; a viewer shows colours
    mask.save(root / "masks" / f"{name}.png", optimize=True)
