"""The command line. Heavy modules are imported by the command that needs them, so `--help` answers at once.

Exit codes: 0 done; 2 something the user can mend, said in one line; anything else is a bug of ours.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HELP = """\
tag2mask: image tags in, pixel masks out.

  tag2mask demo                                      embedded data and weights, no network: trains, labels,
                                                     measures, writes a report
  tag2mask doctor DATA                               what is wrong with a data set, before hours are spent on it
  tag2mask train  DATA --method cam --out RUN        tags -> maps -> masks -> trained segmenter -> scores -> report
  tag2mask label  DATA --method cam --out RUN        tags -> masks for those photos; stops before the segmenter
  tag2mask predict RUN IMAGES --out DIR              masks for new, untagged photos with the run's segmenter
  tag2mask evaluate PREDICTED TRUTH --classes FILE|a,b,c [--json]
                                                     any folder of index masks against any other
  tag2mask report RUN                                write RUN/report.html again
  tag2mask list methods|recipes|datasets|backbones|refiners|segmenters
  tag2mask download voc2012|pets|coco2014 --to DIR   public data sets, checked

`tag2mask COMMAND --help` shows every setting. DATA is a folder with images/ and tags.csv (image,tags), one folder per
class, VOC's layout, or COCO's.
"""

REFINER_LINES = {
    "crf": "dense CRF with the parameters for class activation maps (those of crf/irn)",
    "crf/labels": "dense CRF on the best label of every pixel, believed at 0.7 (SMAF; crf/irn's parameters)",
    "par": "pixel-adaptive refinement at half resolution (AFA, ToCo)",
    "par/full": "pixel-adaptive refinement at full resolution",
    "irn": "random walk along a learnt class-boundary map (IRN)",
    "psa": "random walk along learnt affinities (AffinityNet)",
    "walk/colour": "random walk along the photo's colours, no training",
    "walk/features": "random walk along colours and the backbone's features, no training",
}

# short flag -> the setting it stands for
SHORT = {
    "--classes": "--data.classes",
    "--layout": "--data.layout",
    "--tags": "--data.tags",
    "--truth": "--data.truth",
    "--truth-values": "--data.truth-values",
    "--saliency": "--data.saliency",
    "--negatives": "--data.negatives",
    "--class-names": "--data.class-names",
    "--train-split": "--data.train-split",
    "--val-split": "--data.val-split",
    "--backbone": "--backbone.name",
    "--weights": "--backbone.weights",
    "--freeze": "--backbone.freeze",
    "--freeze-until": "--backbone.freeze-until",
    "--epochs": "--train.epochs",
    "--scales": "--localize.scales",
    "--background": "--pseudo.background",
    "--self-train": "--self-train.name",
    "--threshold": "--pseudo.threshold",
    "--segmenter": "--segmenter.name",
}
# accept a,b,c too
LISTS = {
    "--data.classes", "--data.class-names", "--data.truth-values", "--localize.scales", "--inference.scales", "--self-train.denoise",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs a command, prints what the user can mend as one line, exits."""
    from tag2mask.errors import InputError

    try:
        code = dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except InputError as error:
        code = fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        code = fail("interrupted: run the same command again to go on; finished work is kept")
    except OSError as error:
        import errno

        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EACCES, errno.EROFS):
            raise
        code = fail(
            f"cannot write {error.filename or 'a file'}: {error.strerror}; free some space or choose another --out"
        )
    sys.exit(code)


def fail(message: str) -> int:
    print(f"tag2mask: {message}", file=sys.stderr)
    return 2


def dispatch(arguments: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "demo": demo,
        "doctor": doctor,
        "train": lambda rest: run(rest, "train"),
        "label": lambda rest: run(rest, "label"),
        "predict": predict,
        "evaluate": evaluate,
        "report": report,
        "list": list_names,
        "download": download,
    }
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        from tag2mask import __version__

        print(__version__)
        return 0
    if arguments[0] not in commands:
        from tag2mask.errors import unknown

        raise unknown("command", arguments[0], commands)
    return commands[arguments[0]](arguments[1:])


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Short flags to the settings they stand for; ``a,b,c`` and files of names to lists."""
    spelled: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if not flag.startswith("--"):
            spelled.append(argument)
            continue
        spelled.append(SHORT.get(flag, flag))
        if equals:
            spelled.append(value)
    out: list[str] = []
    for index, argument in enumerate(spelled):
        if index and spelled[index - 1] in LISTS and not argument.startswith("--"):
            path = Path(argument)
            if spelled[index - 1] == "--data.classes" and "," not in argument and path.is_file():
                out += [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
                out = [name for name in out if name]
            else:
                out += [part.strip() for part in argument.split(",") if part.strip()]
        else:
            out.append(argument)
    return out


def take(arguments: list[str], flag: str, default: str) -> str:
    """Take ``flag VALUE`` or ``flag=VALUE`` out of the arguments."""
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            value = arguments[index + 1]
            del arguments[index : index + 2]
            return value
        if argument.startswith(flag + "="):
            del arguments[index]
            return argument.partition("=")[2]
    return default


def parse_run(arguments: list[str], command: str, recipe_name: str = "default") -> tuple[Path, Path, Any]:
    """Data set, run folder and settings: those of a recipe, changed by flags."""
    import dataclasses

    import tyro

    from tag2mask import recipes

    arguments = spell_out(arguments)
    settings = recipes.recipe(take(arguments, "--recipe", recipe_name))
    settings = recipes.with_method(settings, take(arguments, "--method", settings.method))
    # the method's own settings get flags of the method's name: --cam.dropout
    kept = [f for f in dataclasses.fields(settings) if f.name not in ("method", "options")]
    own = dataclasses.make_dataclass(
        "Settings",
        [
            ("DATA", tyro.conf.Positional[Path]),
            ("out", Path),
            (settings.method, type(settings.options), dataclasses.field(default=settings.options)),
            *[(f.name, _types()[f.name], dataclasses.field(default=getattr(settings, f.name))) for f in kept],
        ],
        frozen=True,
    )
    own.__doc__ = (
        "DATA: the data set. --out: the run folder. Also --method NAME and --recipe NAME (`tag2mask list`), and short "
        "flags: " + ", ".join(SHORT) + "."
    )
    parsed: Any = tyro.cli(own, args=arguments, prog=f"tag2mask {command}")
    settings = dataclasses.replace(
        settings, options=getattr(parsed, settings.method), **{f.name: getattr(parsed, f.name) for f in kept}
    )
    return parsed.DATA, parsed.out, settings


def run(arguments: list[str], command: str, recipe_name: str = "default") -> int:
    """`train` and `label`."""
    path, out, settings = parse_run(arguments, command, recipe_name)
    quiet()
    from tag2mask import pipeline

    getattr(pipeline, command)(path, out, settings)
    return 0


def _types() -> dict[str, Any]:
    import typing

    from tag2mask.recipes import RunSettings

    return typing.get_type_hints(RunSettings)


def quiet() -> None:
    """Library notes go to the log, not between the progress bars."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", message="Image size")  # Pillow's; ours says the same, with what to do

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("accelerate", "timm", "PIL", "filelock", "matplotlib", "fsspec", "urllib3", "numba"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def demo(arguments: list[str]) -> int:
    """The embedded demo data through the whole road."""
    if {"-h", "--help"} & set(arguments):
        print("usage: tag2mask demo [--out RUN] [--no-open] [any flag of `tag2mask train`]\n\n" + (demo.__doc__ or ""))
        return 0
    from tag2mask.data.demo import demo_root

    shown = "--no-open" not in arguments
    arguments = [a for a in arguments if a != "--no-open"]
    out = Path(take(arguments, "--out", "demo"))
    code = run([str(demo_root()), "--out", str(out), *arguments], "train", recipe_name="demo")
    if shown and sys.stdout.isatty():
        import webbrowser

        webbrowser.open((out / "report.html").resolve().as_uri())
    return code


def doctor(arguments: list[str]) -> int:
    import dataclasses

    import tyro

    from tag2mask.data import DataSettings

    @dataclasses.dataclass(frozen=True)
    class Doctor:
        """What is wrong with a data set, before hours are spent on it."""

        DATA: tyro.conf.Positional[Path]
        data: DataSettings = DataSettings()

    parsed = tyro.cli(Doctor, args=spell_out(arguments), prog="tag2mask doctor")
    quiet()
    from tag2mask.doctor import diagnose, render

    findings = diagnose(parsed.DATA, parsed.data)
    print(render(findings))
    return 2 if any(f.level == "error" for f in findings) else 0


def predict(arguments: list[str]) -> int:
    import dataclasses

    import tyro

    @dataclasses.dataclass(frozen=True)
    class Predict:
        """Masks for new, untagged photos with a run's segmenter."""

        RUN: tyro.conf.Positional[Path]
        IMAGES: tyro.conf.Positional[Path]
        out: Path
        """Folder for the masks: index PNG, 0 background, c + 1 class c, in the palette of VOC."""
        refine: str | None = None
        """Another refiner than the run's (`tag2mask list refiners`), or none."""

    parsed = tyro.cli(Predict, args=arguments, prog="tag2mask predict")
    quiet()
    from tag2mask import pipeline

    written = pipeline.predict(parsed.RUN, parsed.IMAGES, parsed.out, refine=parsed.refine)
    print(f"{len(written)} masks in {parsed.out}")
    return 0


def evaluate(arguments: list[str]) -> int:
    import dataclasses
    import json

    import tyro

    @dataclasses.dataclass(frozen=True)
    class Evaluate:
        """A folder of index masks against another: PASCAL mIoU from one confusion matrix."""

        PREDICTED: tyro.conf.Positional[Path]
        TRUTH: tyro.conf.Positional[Path]
        classes: str
        """Foreground classes in the order of their values 1, 2, ...: a file of names, or a,b,c."""
        json: bool = False
        """Print JSON."""
        allow_missing: bool = False
        """Pass over truth masks without a prediction, rather than stop."""

    parsed = tyro.cli(Evaluate, args=arguments, prog="tag2mask evaluate")
    from tag2mask.evaluate import evaluate_folders, read_classes

    scores = evaluate_folders(
        parsed.PREDICTED, parsed.TRUTH, read_classes(parsed.classes), allow_missing=parsed.allow_missing
    )
    content = scores.to_json()
    if parsed.json:
        print(json.dumps(content, indent=1))
        return 0
    print(
        f"mean IoU {scores.mean_iou:.2f}   pixel accuracy {scores.pixel_accuracy:.2f}   coverage {scores.coverage:.2f}"
    )
    width = max(map(len, scores.class_names))
    print(f"{'class':<{width}}    IoU  precision  recall")
    for row in zip(scores.class_names, scores.iou, scores.precision, scores.recall, strict=True):
        print(f"{row[0]:<{width}} {row[1]:6.2f}     {row[2]:6.2f}  {row[3]:6.2f}")
    return 0


def report(arguments: list[str]) -> int:
    import dataclasses

    import tyro

    @dataclasses.dataclass(frozen=True)
    class Report:
        """Write a run's report again."""

        RUN: tyro.conf.Positional[Path]

    parsed = tyro.cli(Report, args=arguments, prog="tag2mask report")
    from tag2mask import pipeline
    from tag2mask.run import Run

    with Run(parsed.RUN, resume=True) as opened:
        print(pipeline.write_report(pipeline.reopen(opened)))
    return 0


def list_names(arguments: list[str]) -> int:
    from tag2mask.errors import InputError, unknown

    tables: dict[str, Callable[[], dict[str, str]]] = {
        "methods": _methods,
        "recipes": _recipes,
        "datasets": _datasets,
        "backbones": _backbones,
        "refiners": _refiners,
        "segmenters": _segmenters,
    }
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        if arguments and arguments[0] in ("-h", "--help"):
            print("usage: tag2mask list " + "|".join(tables))
            return 0
        raise InputError("say what to list: tag2mask list " + "|".join(tables))
    if arguments[0] not in tables:
        raise unknown("list", arguments[0], tables)
    rows = tables[arguments[0]]()
    width = max(map(len, rows))
    for name, line in rows.items():
        print(f"{name:<{width}}  {line}".rstrip())
    return 0


def _methods() -> dict[str, str]:
    from tag2mask.methods import METHODS

    return {
        **{name: entry.line for name, entry in METHODS.items()},
        "...": "any of them with --self-train smaf: students learn from its maps (Yang et al., ICME 2023)",
    }


def _recipes() -> dict[str, str]:
    from tag2mask.recipes import RECIPES

    return {name: (function.__doc__ or "").split("\n")[0] for name, function in RECIPES.items()}


def _datasets() -> dict[str, str]:
    return {
        "demo": "composed from photographs that scikit-image and Matplotlib ship; embedded (tag2mask demo)",
        "folder": "layout: images/ and tags.csv with image,tags (optional split, domain), masks/, saliency/",
        "class-folders": "layout: one folder of photos per class",
        "voc": "layout: PASCAL VOC (tags from XML, text lists, or cls_labels.npy)",
        "coco": "layout: COCO instances JSON",
        "voc2012": "tag2mask download voc2012 --to DIR",
        "pets": "tag2mask download pets --to DIR",
        "coco2014": "tag2mask download coco2014 --to DIR says what to fetch, and checks it",
    }


def _backbones() -> dict[str, str]:
    from tag2mask.backbones import known
    from tag2mask.backbones.backbone import RESNET38
    from tag2mask.backbones.weights import EMBEDDED

    lines = {name: "embedded weights, no hub needed" if name in EMBEDDED else "" for name in known()}
    lines |= {RESNET38: "of PSA, SEAM, EPS, SMAF; needs --weights FILE (.params or .pth), --backbone.output-stride 8"}
    return {**lines, "...": "any timm model that gives a feature map, by its timm name"}


def _refiners() -> dict[str, str]:
    from tag2mask.affinity import WALKS
    from tag2mask.refine import REFINERS

    return {
        **{name: REFINER_LINES.get(name, "") for name in (*REFINERS, *WALKS)},
        "none": "the maps as they are",
        "...": "several in order, joined by commas: irn,crf (a walk comes first)",
    }


def _segmenters() -> dict[str, str]:
    from tag2mask.segment import known

    return {name: "" for name in known()}


def download(arguments: list[str]) -> int:
    import dataclasses

    import tyro

    @dataclasses.dataclass(frozen=True)
    class Download:
        """Fetch a public data set with checksums."""

        NAME: tyro.conf.Positional[str]
        to: Path

    parsed = tyro.cli(Download, args=arguments, prog="tag2mask download")
    quiet()
    from tag2mask.data.download import download as fetch

    print(fetch(parsed.NAME, parsed.to))
    return 0


if __name__ == "__main__":
    main()
