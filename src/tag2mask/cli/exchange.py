"""`export`: what leaves a run."""

import dataclasses
from pathlib import Path

from tag2mask.cli.flags import show_progress


def export(arguments: list[str]) -> int:
    """Masks of a run in the format of another program."""
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Export:
        """A run's masks in the format of another program, the photos in order of how sure the model is of them."""

        RUN: tyro.conf.Positional[Path]
        to: str
        """Format (`tag2mask list formats`)."""
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

    p = tyro.cli(Export, args=arguments, prog="tag2mask export")
    show_progress()
    from tag2mask.export import export as write

    print("\n".join(write(p.RUN, p.to, p.out, p.what, p.first, p.limit, p.image_root)))
    return 0
