"""`serve`: the page of a run; `review`: what was decided there."""

import dataclasses
from pathlib import Path

from tag2mask.cli.flags import show_progress
from tag2mask.cli.parsing import parse
from tag2mask.errors import some


def serve(arguments: list[str]) -> int:
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Serve:
        """A page to try photos on a run's segmenter and to review its masks. Ctrl-C ends it."""

        RUN: tyro.conf.Positional[Path]
        host: str = "127.0.0.1"
        """Address to listen on. Any other than this machine's own needs --token."""
        port: int = 8765
        """0: any that is free."""
        token: str | None = None
        """A secret of at least 16 characters that the page is opened with."""

    parsed = parse(Serve, arguments, "serve")
    show_progress()
    from tag2mask import interrupt, serve

    try:
        serve.serve(
            parsed.RUN, parsed.host, parsed.port, parsed.token, lambda address: print(f"open {address}", flush=True)
        )
    except KeyboardInterrupt:
        print("ended; decisions are kept in the run folder")
    interrupt.end_if_asked()
    return 0


def review(arguments: list[str]) -> int:
    import tyro

    @dataclasses.dataclass(frozen=True)
    class ReviewCommand:
        """What was decided on a run's photos in `tag2mask serve RUN`, counted; the corrected tags as a CSV."""

        RUN: tyro.conf.Positional[Path]
        tags: Path | None = None
        """Write all tags of the data set, as corrected, into this new CSV (image,tags,split), which `--tags` takes."""

    parsed = parse(ReviewCommand, arguments, "review")
    from tag2mask import pipeline
    from tag2mask.plan.folder import Run

    counts, written = pipeline.reviewed(Run(parsed.RUN, existing=True), parsed.tags)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    if written is not None:
        print(f"{some(written.photos, 'photo')} in {parsed.tags}, {written.changed} with corrected tags")
        if written.untagged:
            print(f"left out: {some(written.untagged, 'photo')} that nobody tagged")
    return 0
