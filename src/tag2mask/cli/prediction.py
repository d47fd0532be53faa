"""The commands that make masks of new photos, and check shares of a run: `predict`, `merge`."""

import dataclasses
from pathlib import Path
from typing import Literal

from tag2mask.cli.flags import say, show_progress
from tag2mask.cli.parsing import parse
from tag2mask.errors import some


def predict(arguments: list[str]) -> int:
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Predict:
        """Masks for new photos with a run's segmenter; no tags are needed."""

        RUN: tyro.conf.Positional[Path]
        IMAGES: tyro.conf.Positional[tuple[Path, ...]]
        """A folder of photos; or several, photos themselves, and lists of them (a .txt with a photo a line, a .csv with
        a column image)."""
        out: Path
        """Folder for the masks: index PNG, 0 background, c + 1 class c, in the palette of VOC."""
        refine: str | None = None
        """Another refiner than the run's (`tag2mask list refiners`), or none."""
        tags: Path | None = None
        """Tags of some of the photos (a CSV image,tags): classes outside of a photo's tags are switched off, all of
        them where its tags are empty; a photo without a line may show any."""
        empty_below: float | None = None
        """A photo without tags in which no class is more likely than this shows none of them (where training photos
        taught what that looks like; 0.5 if the run says nothing else): more for fewer false alarms, 0: never."""
        shard: str = "1/1"
        """Only this share of the photos, 3/10: of ten tasks the third. `tag2mask merge DIR` checks that all are
        there."""
        engine: Literal["local", "ray"] = "local"
        """ray: on the Ray cluster at RAY_ADDRESS, or a local one."""

    parsed = parse(Predict, arguments, "predict")
    show_progress()
    from tag2mask import prediction, processes
    from tag2mask.errors import InputError
    from tag2mask.progress import tell
    from tag2mask.shards import Shard

    if not parsed.IMAGES:
        raise InputError("missing: IMAGES, a folder of photos, lists of them or image files")
    images = parsed.IMAGES if len(parsed.IMAGES) > 1 else parsed.IMAGES[0]
    shard = Shard.of(parsed.shard)
    engine = None
    if parsed.engine == "ray":
        from tag2mask.ray_engine import made_on_ray as engine
    written = prediction.predict(
        parsed.RUN, images, parsed.out, parsed.refine, parsed.tags, shard, engine, parsed.empty_below
    )
    if processes.is_main():
        tell("result", masks=str(parsed.out), photos=len(written))
        say(f"{some(len(written), 'mask')} in {parsed.out}")
    return 0


def merge(arguments: list[str]) -> int:
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Merge:
        """Check that every shard of `predict --shard` or `label --shard` is done and nothing is missing."""

        DIR: tyro.conf.Positional[Path]
        """The --out of the shards."""

    parsed = parse(Merge, arguments, "merge")
    if (parsed.DIR / "run.json").exists():
        from tag2mask import pipeline

        print(pipeline.merge_run(parsed.DIR))
        return 0
    from tag2mask import prediction

    masks, aside = prediction.merge_predictions(parsed.DIR)
    for error in aside.values():
        print(f"set aside: {error}")
    print(f"{some(masks, 'mask')} in {parsed.DIR}" + (f", {some(len(aside), 'photo')} set aside" if aside else ""))
    return 0
