"""`train`, `label`, `demo` and `plan`: commands that have a run's settings."""

from __future__ import annotations

import dataclasses
import sys
import typing
from pathlib import Path
from typing import Any

from tag2mask.cli.flags import SHORT, show_progress, spell_out, take


def parse_run(arguments: list[str], command: str, recipe_name: str = "default") -> tuple[Path, Path, Any]:
    """Data set, run folder and settings: those of a recipe, changed by flags."""
    import tyro

    from tag2mask import methods, recipes

    arguments = spell_out(arguments)
    settings = recipes.recipe(take(arguments, "--recipe", recipe_name))
    settings = recipes.with_method(settings, take(arguments, "--method", settings.method))
    own = methods.flag(settings.method)  # the method's own settings get flags of the method's name: --cam.dropout
    types = typing.get_type_hints(recipes.RunSettings, include_extras=True)
    kept = [f for f in dataclasses.fields(settings) if f.name not in ("method", "options")]
    fields: list[Any] = [
        ("DATA", tyro.conf.Positional[Path]),
        ("out", Path),
        (own, type(settings.options), dataclasses.field(default=settings.options)),
        *[(f.name, types[f.name], dataclasses.field(default=getattr(settings, f.name))) for f in kept],
    ]
    flags = dataclasses.make_dataclass("Settings", fields, frozen=True)
    flags.__doc__ = (
        "DATA: the data set. --out: the run folder. Also --method NAME and --recipe NAME (`tag2mask list`), and short "
        "flags: " + ", ".join(SHORT) + "."
    )
    parsed: Any = tyro.cli(flags, args=arguments, prog=f"tag2mask {command}")
    values = {f.name: getattr(parsed, f.name) for f in kept}
    return parsed.DATA, parsed.out, dataclasses.replace(settings, options=getattr(parsed, own), **values)


def train(arguments: list[str], recipe_name: str = "default") -> int:
    """Tags to a trained segmenter, scores and a report."""
    path, out, settings = parse_run(arguments, "train", recipe_name)
    show_progress()
    from tag2mask import pipeline

    pipeline.train(path, out, settings)
    return 0


def label(arguments: list[str]) -> int:
    """Tags to masks for those photos."""
    arguments = list(arguments)
    shard, until = take(arguments, "--shard", ""), take(arguments, "--until", "scores")
    path, out, settings = parse_run(arguments, "label")
    show_progress()
    from tag2mask import pipeline
    from tag2mask.shards import Shard

    if not shard:
        pipeline.label(path, out, settings, until=until)
        return 0
    waiting = pipeline.label_shard(path, out, settings, Shard.of(shard))
    print(waiting or f"all masks are in {out / 'masks'}")
    return 0


def demo(arguments: list[str]) -> int:
    """The embedded demo data through the whole pipeline."""
    if {"-h", "--help"} & set(arguments):
        print("usage: tag2mask demo [--out RUN] [--no-open] [any flag of `tag2mask train`]\n\n" + (demo.__doc__ or ""))
        return 0
    from tag2mask.demo import demo_root

    shown = "--no-open" not in arguments
    arguments = [a for a in arguments if a != "--no-open"]
    out = Path(take(arguments, "--out", "demo"))
    code = train([str(demo_root()), "--out", str(out), *arguments], recipe_name="demo")
    if shown and sys.stdout.isatty():
        import webbrowser

        webbrowser.open((out / "report.html").resolve().as_uri())
    return code


def plan(arguments: list[str]) -> int:
    """What `train` would do with these settings: what is done, what is made anew and because of which setting."""
    path, out, settings = parse_run(arguments, "plan")
    from tag2mask import pipeline

    rows = pipeline.outlook(path, out, settings)
    width = max(len(row.name) for row in rows)
    for row in rows:
        minutes = "" if row.minutes is None else f"  ({row.minutes:.1f} min last time)"
        because = "" if not row.because else "  because " + "; ".join(row.because)
        print(f"{row.name:<{width}}  {row.state:<5}  {row.title}{because}{minutes}")
    return 0
