"""`export`, `import` and `evaluate --check`: masks leave a run, come back corrected, and measure it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tag2mask.cli.flags import show_progress
from tag2mask.cli.parsing import parse
from tag2mask.errors import some

if TYPE_CHECKING:
    from tag2mask.corrections import Check


def export(arguments: list[str]) -> int:
    """Masks of a run in the format of another program."""
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Export:
        """A run's masks in the format of another program, the photos first that need a person most."""

        RUN: tyro.conf.Positional[Path]
        to: str
        """Format (`tag2mask list formats`); or onnx, bundle: the segmenter itself."""
        out: Path
        """New or empty folder."""
        what: str = "masks"
        """masks: of the tagged photos. predictions: of the validation photos."""
        first: str = "worst"
        """Which photos come first: worst, best, both (in turn), or random (to measure on: only then do figures on
        corrected masks hold for all photos)."""
        limit: int | None = None
        """Only so many photos."""
        image_root: str | None = None
        """Label Studio: what stands before a photo's name in its address. Default: its local files."""

    p = parse(Export, arguments, "export")
    show_progress()
    if p.to == "bundle":
        from tag2mask.deploy import write_bundle

        print(f"bundle in {write_bundle(p.RUN, p.out)}: tag2mask.load opens it, README.md is its model card")
        return 0
    if p.to == "onnx":
        from tag2mask.deploy.onnx import write_onnx

        difference = write_onnx(p.RUN, p.out)
        print(f"model.onnx and predict.py in {p.out}; its logits differ from torch's by {difference:.1g} at most")
        return 0
    from tag2mask.export import export as write

    print("\n".join(write(p.RUN, p.to, p.out, p.what, p.first, p.limit, p.image_root)))
    return 0


def take_back(arguments: list[str]) -> int:
    """Corrected masks become truth of a run, for measuring."""
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Import:
        """Take masks that people corrected or accepted into a run, to measure on them.

        `tag2mask evaluate RUN --check` measures. They teach nothing unless `train --with-masks` asks for it."""

        RUN: tyro.conf.Positional[Path]
        form: Annotated[str, tyro.conf.arg(name="from")]
        """Format (`tag2mask list formats`); or review: what was accepted and painted in `tag2mask serve RUN`."""
        CORRECTED: tyro.conf.Positional[Path | None] = None
        """File or folder; none for review."""
        what: str | None = None
        """Of which masks they are corrections: masks (the default) or predictions; of review, by default, both."""
        accepted: bool = False
        """A person saw every photo in it: those that are unchanged are right. Label Studio says so itself."""

    p = parse(Import, arguments, "import")
    show_progress()
    from tag2mask.corrections import import_corrections, import_review
    from tag2mask.errors import InputError

    if (p.CORRECTED is None) != (p.form == "review"):
        raise InputError(
            "`tag2mask import RUN --from review` takes what was decided in RUN itself, and no other place"
            if p.form == "review"
            else f"give the file or folder of the corrections: tag2mask import RUN CORRECTED --from {p.form}"
        )
    if p.CORRECTED is None:
        imports = import_review(p.RUN, p.what)
    else:
        imports = [import_corrections(p.RUN, p.CORRECTED, p.form, p.what or "masks", p.accepted)]
    for taken in imports:
        print(f"{some(taken.photos, 'corrected mask')} in {taken.folder} ({taken.of}), {taken.changed} of them changed")
        if taken.unchanged:
            print(f"left out, since unchanged: {taken.unchanged}; --accepted if a person saw and accepted them")
    return 0


def check(arguments: list[str]) -> int:
    """A run measured on corrected masks."""
    import json

    import tyro

    @dataclasses.dataclass(frozen=True)
    class Check:
        """A run's masks and predictions measured on the corrected masks that were imported: PASCAL mIoU with the 95 %
        interval of a bootstrap over photos."""

        RUN: tyro.conf.Positional[Path]
        json: bool = False
        """Print JSON."""

    p = parse(Check, arguments, "evaluate --check")
    from tag2mask.corrections import check as measure

    checks = measure(p.RUN)
    if p.json:
        print(json.dumps([one.to_json() for one in checks], indent=1))
    else:
        print("\n\n".join(map(_said, checks)))
    return 0


def _said(check: "Check") -> str:
    found = check.mean_iou
    between = "no interval from one photo" if found is None else f"95 % between {found.low:.1f} and {found.high:.1f}"
    iou = ", ".join(f"{n} {v:.1f}" for n, v in zip(check.scores.class_names, check.scores.iou.tolist(), strict=True))
    lines = [check.title, f"mean IoU {check.scores.mean_iou:.1f}, {between} ({iou})", *check.remarks]
    return "\n".join(lines)
