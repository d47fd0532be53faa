"""`train`, `label`, `demo` and `plan`: commands that have a run's settings."""

from __future__ import annotations

import dataclasses
import sys
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from tag2mask.cli.flags import SHORT, say, show_progress, spell_out, take
from tag2mask.cli.help import first_screen
from tag2mask.cli.parsing import field_texts, parse
from tag2mask.errors import InputError, unknown
from tag2mask.files import read_object
from tag2mask.progress import tell

ENGINES = ("local", "ray")


def parse_run(arguments: list[str], command: str, recipe_name: str = "default") -> tuple[Path, Path, Any]:
    """Data set, run folder and settings: those of a recipe, changed by flags."""
    import tyro

    from tag2mask import methods, recipes

    arguments = spell_out(["--help" if argument == "--help-all" else argument for argument in arguments])
    settings = recipes.recipe(take(arguments, "--recipe", recipe_name))
    settings = recipes.with_method(settings, take(arguments, "--method", settings.method))
    own = methods.flag(settings.method)  # the method's own settings get flags of the method's name: --cam.dropout
    types = typing.get_type_hints(recipes.RunSettings, include_extras=True)
    kept = [f for f in dataclasses.fields(settings) if f.name not in ("method", "options")]
    asks = "--help" in arguments  # reading the sources for the help of 200 flags takes most of the time
    if asks:  # a class that is made here has no source
        for name, text in field_texts(recipes.RunSettings).items():
            types[name] = Annotated[types[name], tyro.conf.arg(help=text)]
    fields: list[Any] = [
        ("DATA", tyro.conf.Positional[Path]),
        ("out", Path),
        (own, type(settings.options), dataclasses.field(default=settings.options)),
        *[(f.name, types[f.name], dataclasses.field(default=getattr(settings, f.name))) for f in kept],
    ]
    flags = dataclasses.make_dataclass("Settings", fields, frozen=True)
    flags.__doc__ = (
        "DATA: the data set. --out: the run folder. Also --method NAME, --recipe NAME (`tag2mask list`), --seeds 0 1 2 "
        "(a run of each, compared), and short flags: " + ", ".join(SHORT) + "."
    )
    config = () if asks else (tyro.conf.HelptextFromCommentsOff,)
    parsed: Any = parse(flags, arguments, command, config=config)
    values = {f.name: getattr(parsed, f.name) for f in kept}
    return parsed.DATA, parsed.out, dataclasses.replace(settings, options=getattr(parsed, own), **values)


def train(arguments: list[str], recipe_name: str = "default") -> int:
    """Tags to a trained segmenter, scores and a report."""
    return _of_each_seed("train", arguments, recipe_name)


def _of_each_seed(command: Literal["train", "label"], arguments: list[str], recipe_name: str = "default") -> int:
    """One run, or with `--seeds 0,1,2` one of each in RUN/seed-K, compared at the end where there is truth."""
    if {"-h", "--help"} & set(arguments):
        print(first_screen(command), end="")
        return 0
    seeds = _seeds(arguments)
    path, out, settings = parse_run(arguments, command, recipe_name)
    show_progress()
    from tag2mask import pipeline, processes

    work = pipeline.train if command == "train" else pipeline.label
    if not seeds:
        work(path, out, settings)
        tell("result", **_result(out))
        return 0
    from tag2mask.compare import compare
    from tag2mask.compare.page import check_page, render

    folders = [out / f"seed-{seed}" for seed in seeds]
    every = [dataclasses.replace(settings, seed=seed) for seed in seeds]  # all can be, before the first is trained
    check_page(out / "compare.html")
    for folder, of_seed in zip(folders, every, strict=True):
        work(path, folder, of_seed)
    if not processes.is_main():
        return 0
    try:
        comparison = compare(folders)
    except InputError as error:
        say(f"{len(folders)} runs in {out}, not compared: {error}")
        tell("result", runs=[str(folder) for folder in folders])
        return 0
    render(comparison, out / "compare.html")
    tell("result", runs=[str(folder) for folder in folders], comparison=str(out / "compare.html"))
    say(f"{comparison.to_text()}\ncomparison: {out / 'compare.html'}")
    return 0


def _result(out: Path) -> dict[str, Any]:
    """Where a run's results lie, and its mean IoU by stage where there was truth."""
    scores = read_object(out / "scores" / "scores.json") or {}
    found = {name: of.get("mean_iou") for name, of in scores.items() if isinstance(of, dict)}
    measured = {name: value for name, value in found.items() if isinstance(value, (int, float))}  # a sweep has a list
    return {"run": str(out), "report": str(out / "report.html"), "mean_iou": measured}


def _seeds(arguments: list[str]) -> list[int]:
    """Of `--seeds 0 1 2` or `--seeds 0,1,2`, which are taken out of the arguments; none without."""
    given = take(arguments, "--seeds", "", several=True)
    seeds = given.replace(",", " ").split()
    numbers = [int(part) for part in seeds if part.isdecimal()]
    if len({*numbers}) < len(seeds) or (given and len(seeds) < 2):
        raise InputError(f"--seeds {given}: give two or more different whole numbers, as in --seeds 0 1 2")
    return numbers


def label(arguments: list[str]) -> int:
    """Tags to masks for those photos."""
    shard, until = take(arguments, "--shard", ""), take(arguments, "--until", "")
    engine = take(arguments, "--engine", "local")
    if not shard and not until and engine == "local":
        return _of_each_seed("label", arguments)
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if shard and engine != "local":
        raise InputError(f"--shard {shard} and --engine {engine} both share out the photos: leave one of them out")
    if any(argument.partition("=")[0] == "--seeds" for argument in arguments):
        flag = "--shard" if shard else "--until" if until else "--engine"
        raise InputError(f"--seeds trains several runs, and {flag} is of one: give --seed, and call it for each")
    path, out, settings = parse_run(arguments, "label")
    show_progress()
    from tag2mask import pipeline
    from tag2mask.shards import Shard

    if not shard:
        pipeline.label(path, out, settings, until=until or "scores", engine=_engine(engine))
        tell("result", **_result(out))
        return 0
    waiting = pipeline.label_shard(path, out, settings, Shard.of(shard))
    tell("result", run=str(out), waiting=waiting)
    say(waiting or f"all masks are in {out / 'masks'}")
    return 0


def _engine(name: str) -> Any:
    if name == "local":
        return None
    from tag2mask.ray_labelling import carried_out_on_ray

    return carried_out_on_ray


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
    if {"-h", "--help"} & set(arguments):
        print(first_screen("plan"), end="")
        return 0
    path, out, settings = parse_run(arguments, "plan")
    from tag2mask import pipeline

    rows = pipeline.outlook(path, out, settings)
    width = max(len(row.name) for row in rows)
    for row in rows:
        minutes = "" if row.minutes is None else f"  ({row.minutes:.1f} min last time)"
        because = "" if not row.because else "  because " + "; ".join(row.because)
        print(f"{row.name:<{width}}  {row.state:<5}  {row.title}{because}{minutes}")
    return 0
