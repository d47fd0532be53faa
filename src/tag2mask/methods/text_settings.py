"""Settings of text maps: which text tower, what each class is called, which words are background."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tag2mask.errors import InputError, unknown
from tag2mask.protocols import Traits
from tag2mask.settings import Range, check_values

LOCAL = "local-dir:"  # before the folder of a text tower

TOWERS: dict[str, str] = {
    "vit_base_patch16_clip_quickgelu_224.openai": "ViT-B-16-quickgelu/openai",
    "vit_large_patch14_clip_quickgelu_224.openai": "ViT-L-14-quickgelu/openai",
    "vit_base_patch16_clip_224.laion2b": "ViT-B-16/laion2b_s34b_b88k",
    "vit_base_patch16_siglip_224.v2_webli": "ViT-B-16-SigLIP2/webli",
    "vit_base_patch16_siglip_256.v2_webli": "ViT-B-16-SigLIP2-256/webli",
    "vit_base_patch16_siglip_384.v2_webli": "ViT-B-16-SigLIP2-384/webli",
}
"""Image tower (a timm model) to the text tower that it was trained with (open_clip's model/weights)."""

BACKGROUND = (
    "ground", "land", "grass", "tree", "building", "wall", "floor", "ceiling", "sky", "cloud", "water", "river", "sea",
    "lake", "mountain", "rock", "road", "street", "bridge", "house",
)  # fmt: skip  # CLIP-ES's words for scenery, without those it has for what accompanies VOC's classes; two are ours


@dataclass(frozen=True)
class TextSettings:
    """How words become maps."""

    prompts: tuple[str, ...] = ()
    """What a class is called, as "dog=a photo of a dog,puppy": texts as they are, of which the mean counts. Classes
    without such a line are called by their names."""
    template: str = "a clean origami {}."
    """The text of a name or background word, which stands for {} (CLIP-ES's, chosen by how sharp scores are)."""
    background: tuple[str, ...] = BACKGROUND
    """Words of which each competes with the tags in every cell; those that are classes are left out."""
    form: Literal["dense", "gradient"] = "dense"
    """dense: cosines of each cell with the texts, softmax over them. gradient: how the photo's softmax changes with
    each cell (CLIP-ES)."""
    scale: Annotated[float, Range(above=0, at_most=10_000)] = 100.0
    """What cosines are multiplied by before the softmax (what CLIP's training ends at)."""
    tower: str = "auto"
    """The text tower: auto, the one that the backbone was trained with; open_clip's model/weights; or local-dir:FOLDER
    with open_clip_config.json, weights and tokenizer."""

    def __post_init__(self) -> None:
        check_values(self, "text")
        if not self.background or not all(word.strip() for word in self.background):
            raise InputError("--text.background has no words: name some of what is around the objects, as in grass,sky")
        if "{}" not in self.template:
            raise InputError(f"--text.template '{self.template}' has no place for the name: write {{}} where it stands")

    @property
    def traits(self) -> Traits:
        local = self.tower.startswith(LOCAL)
        return Traits(
            trains=False,
            class_names=True,
            maps="probabilities" if self.form == "dense" else "evidence",
            files=(Path(self.tower.removeprefix(LOCAL)),) if local else (),
            inference_settings=("form", "scale"),
            signals=("texts of photos, by the pretraining of its towers",),
        )


def tower_of(settings: TextSettings, backbone: str) -> str:
    """The text tower for an image tower.

    Args:
        backbone: the name that it was built by.

    Raises:
        InputError: none is known, or the image tower computes another activation than its weights were trained with.
    """
    if backbone.endswith(".openai") and "quickgelu" not in backbone:
        raise InputError(
            f"--backbone {backbone} computes GELU, and OpenAI's weights were trained with QuickGELU: give "
            f"--backbone {backbone.replace('_clip_', '_clip_quickgelu_', 1)}"
        )
    if settings.tower != "auto":
        return settings.tower
    if backbone not in TOWERS:
        raise InputError(
            f"--method text knows no text tower that --backbone {backbone or 'of this network'} was trained with: give "
            f"one of {', '.join(TOWERS)}, or the tower (--text.tower)"
        )
    return TOWERS[backbone]


def texts_of(names: Sequence[str], settings: TextSettings) -> list[list[str]]:
    """The texts of each class, in the order of the classes.

    Raises:
        InputError: texts of a class that is not there, of one twice, or none after the equals sign.
    """
    given: dict[str, list[str]] = {}
    for line in settings.prompts:
        name, texts = _split(line, names)
        if name in given:
            raise InputError(f"--text names the class {name} twice: give its texts in one, separated by commas")
        given[name] = texts
    return [given.get(name) or [settings.template.replace("{}", name)] for name in names]


def _split(line: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """A line of ``prompts``: the class and its texts. A name may hold an equals sign itself."""
    if "=" not in line:
        raise InputError(f"--text '{line}': write CLASS=TEXT,TEXT, as in \"dog=a photo of a dog,puppy\"")
    known = [name for name in names if line.startswith(f"{name}=")]
    if not known:
        raise unknown("class of --text", line.partition("=")[0], names)
    name = max(known, key=len)
    texts = [text.strip() for text in line[len(name) + 1 :].split(",") if text.strip()]
    if not texts:
        raise InputError(f"--text '{line}' has no text for {name}: write one after the equals sign")
    return name, texts


def competing(names: Sequence[str], texts: Sequence[Sequence[str]], settings: TextSettings) -> list[bool]:
    """Of each background word, whether it is no class and no text of one.

    Raises:
        InputError: all of them are.
    """
    taken = {_folded(word) for word in (*names, *(text for of in texts for text in of))}
    compete = [_folded(word) not in taken for word in settings.background]
    if not any(compete):
        raise InputError("every word of --text.background is a class: name some of what is around the objects")
    return compete


def _folded(word: str) -> str:
    return unicodedata.normalize("NFKC", word).strip().casefold()
