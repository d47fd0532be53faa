"""The opening table of docs/results.md: every method and recipe on one data set, a few seeds each, one command.

    python benchmarks/results.py DATA --out RUNS --classes cat,cow,dog --train-split train_small
    make results DATA=... RESULTS="--classes cat,cow,dog --train-split train_small"

Every row is trained with each seed by `tag2mask train`, in RUNS/ROW/seed-K. What is done is used: interrupted, the same
command goes on. What was measured is kept beside the page, in docs/results/ROW/seed-K.json, with the passport of its
run: so rows and seeds can be measured one by one, on other days and machines, and the table shows all that there are. A
file that is deleted is measured again.
Predictions of the validation photos are made at one scale, at the recipe's scales and mirrored, and refined too. With
the first seed of the row `cam` a segmenter is trained on true masks, too: the ceiling, whose share the other rows reach
is given. Rows that learned from different things (their passports say) stand in different tables. A row that fails is
named, the others go on, and the exit code is 1.

Arguments after `--` go to every training.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask import passport
from tag2mask.backbones import BackboneSettings
from tag2mask.files import atomic, read_json, read_object, write_json
from tag2mask.methods import METHODS
from tag2mask.recipes import RECIPES, recipe, settings_from
from tag2mask.stages import names

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- make results: from here -->", "<!-- make results: to here -->"
# The row with the oracle, of which one seed is enough: it takes as long as a run. Its segmenter is that of the others.
CEILING = "cam"
VIEWS = {  # how validation photos are predicted; the last is the recipe's own, so the run ends as it is by default
    "one scale": ["--inference.scales", "1", "--inference.no-flip", "--inference.refine", "none"],
    "scales": ["--inference.refine", "none"],
    "refined": [],
}
COLUMNS = ("maps", "masks", "relabelled", *VIEWS, "of the ceiling")


@dataclass(frozen=True)
class Row:
    """A line of the table: its name and the flags that make it."""

    name: str
    flags: tuple[str, ...]


def known_rows(saliency: str) -> dict[str, Row]:
    """Every method at the defaults, and every recipe whose backbone is the embedded one (the others want a GPU)."""
    rows = {}
    for name, entry in METHODS.items():
        needs = entry.settings().traits.saliency
        rows[name] = Row(name, ("--method", name, *(("--saliency", saliency) if needs else ())))
    for name in RECIPES:
        settings = recipe(name)
        if settings.backbone.name == BackboneSettings().name and name not in ("default", "demo"):
            assert name not in rows, f"the recipe {name} would take the row of the method"
            needs = settings.traits.saliency
            rows[name] = Row(name, ("--recipe", name, *(("--saliency", saliency) if needs else ())))
    return rows


@dataclass(frozen=True)
class Measurements:
    """Figures in a folder, a file a row and seed, of one data set and one way to train.

    Attributes:
        arguments: of every training, with the data set's name first; figures of others are not of this table.
    """

    folder: Path
    arguments: tuple[str, ...]

    def read(self, row: Row, seed: int) -> dict[str, Any] | None:
        """What was measured; None: nothing yet, or not of this row, data set and way to train."""
        kept = read_object(self._file(row, seed))
        return kept if kept is not None and kept.get("arguments") == self._all_arguments(row) else None

    def write(self, row: Row, seed: int, figures: Mapping[str, Any]) -> None:
        file = self._file(row, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"arguments": self._all_arguments(row), "seed": seed, **figures})

    def of(self, row: Row) -> list[dict[str, Any]]:
        """All that there is of a row, in the order of its seeds."""
        seeds = sorted(int(file.stem.partition("-")[2]) for file in (self.folder / row.name).glob("seed-*.json"))
        return [figures for seed in seeds if (figures := self.read(row, seed)) is not None]

    def _file(self, row: Row, seed: int) -> Path:
        return self.folder / row.name / f"seed-{seed}.json"

    def _all_arguments(self, row: Row) -> list[str]:
        return [*self.arguments, *row.flags]


def ceilings_of(measurements: Measurements, row: Row) -> list[float]:
    """What its segmenter reaches on true masks, of the seeds for which that was measured."""
    return [figures["ceiling"] for figures in measurements.of(row) if figures["ceiling"] is not None]


def measure(row: Row, data: Path, run: Path, seed: int, flags: Sequence[str]) -> dict[str, Any]:
    """Train a row with a seed in a run folder, and give what was measured.

    Raises:
        subprocess.CalledProcessError: the training failed.
    """
    command = [str(data), "--out", str(run), "--seed", str(seed), *row.flags, *flags]
    val: dict[str, float] = {}
    scores: dict[str, Any] = {}
    for view, more in VIEWS.items():
        subprocess.run([sys.executable, "-m", "tag2mask", "train", *command, *more], check=True)
        scores = read_json(run / "scores" / "scores.json")
        if "predictions" in scores:
            val[view] = scores["predictions"]["mean_iou"]
    return {**_of_run(run, scores), **val}


def _of_run(run: Path, scores: Mapping[str, Any]) -> dict[str, Any]:
    settings = settings_from(read_json(run / "run.json")["settings"])
    last = names.last_masks(settings, scores)
    block = passport.of_run(run)
    stages = {
        path.parent.parent.name: read_json(path)["seconds"] for path in sorted(run.glob("*/.stage/manifest.json"))
    }
    return {
        "maps": _mean(scores, names.final_maps(settings)),
        "masks": _mean(scores, "masks"),
        "relabelled": _mean(scores, last) if last != "masks" else None,
        "ceiling": _mean(scores, "predictions-oracle"),
        "minutes": sum(s for name, s in stages.items() if "oracle" not in name) / 60,
        "passport": block,
        "commit": _commits(block),
    }


def _commits(block: Mapping[str, Any]) -> str:
    """What the stages of a run were made by."""
    return ", ".join(row["commit"] or "not known" for row in block["software"])


def _mean(scores: Mapping[str, Any], name: str) -> float | None:
    """None: it was not measured, for lack of true masks."""
    return scores[name]["mean_iou"] if name in scores else None


def table(rows: Mapping[str, Sequence[Mapping[str, Any]]], ceiling: float | None, notes: Sequence[str]) -> str:
    """Markdown: a table for each kind of supervision, means and standard deviations over seeds."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, figures in rows.items():
        signals = tuple(figures[0]["passport"]["signals"])
        groups.setdefault(signals, []).append(_line(name, figures, ceiling))
    parts = list(notes)
    for signals, lines in groups.items():
        head = ("row", "seeds", *COLUMNS, "minutes", "passport")
        parts.append(f"Learned from {', '.join(signals)}:")
        parts.append("\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines]))
    return "\n\n".join(parts)


def _line(name: str, figures: Sequence[Mapping[str, Any]], ceiling: float | None) -> str:
    of_ceiling = [
        {"value": 100 * figure["refined"] / ceiling}
        for figure in figures
        if ceiling and figure.get("refined") is not None
    ]
    cells = [_spread(figures, column) for column in COLUMNS[:-1]] + [_spread(of_ceiling, "value")]
    block = figures[0]["passport"]
    weights = ", ".join(sorted({f"{row['backbone']} {(row['digest'] or '')[:8]}".strip() for row in block["weights"]}))
    chosen = len(block["chosen_on_truth"])
    commits = ", ".join(dict.fromkeys(one for figure in figures for one in figure["commit"].split(", ")))
    knew = f"{weights}; {chosen} choices made on truth; commit {commits}"
    seeds = ", ".join(str(figure["seed"]) for figure in figures)
    return f"| {name} | {seeds} | {' | '.join(cells)} | {_spread(figures, 'minutes')} | {knew} |"


def _spread(figures: Sequence[Mapping[str, Any]], name: str) -> str:
    """Mean, with the standard deviation where there are several; - where it was not measured."""
    values = [float(figure[name]) for figure in figures if figure.get(name) is not None]
    if not values:
        return "-"
    more = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{more}"


def write(page: Path, text: str) -> None:
    """Put the text between the markers of a page.

    Raises:
        SystemExit: they are not there.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no lines '{BEGIN}' and '{END}': nothing was written; the table is above")
    with atomic(page) as file:
        file.write(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("DATA", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--classes", default="")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--saliency", default="auto", help="for the rows that need saliency maps: a folder, or auto")
    parser.add_argument("--rows", default="", help="a,b: only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    args = parser.parse_args(given[:cut])
    rows = known_rows(args.saliency)
    chosen = [name.strip() for name in args.rows.split(",") if name.strip()] or list(rows)
    for name in chosen:
        if name not in rows:
            parser.error(f"there is no row '{name}': {', '.join(rows)}")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    flags = ["--train-split", args.train_split, *(["--classes", args.classes] if args.classes else [])]
    flags += given[cut + 1 :]
    table_of = Measurements(args.page.with_suffix(""), (args.DATA.name, *flags))
    failed = []
    for seed in args.seeds:  # a whole table of one seed first
        for name in chosen:
            if table_of.read(rows[name], seed) is not None:
                continue
            oracle = ["--oracle-masks"] if name == CEILING and not ceilings_of(table_of, rows[name]) else []
            try:
                figures = measure(rows[name], args.DATA, args.out / name / f"seed-{seed}", seed, [*flags, *oracle])
            except subprocess.CalledProcessError as error:
                failed.append(f"{name}, seed {seed} (exit code {error.returncode})")
            else:
                table_of.write(rows[name], seed, figures)
    done = {name: figures for name, row in rows.items() if (figures := table_of.of(row))}
    ceilings = ceilings_of(table_of, rows[CEILING])
    text = table(done, statistics.mean(ceilings) if ceilings else None, _notes(args, ceilings, failed))
    print(text)
    if done:
        write(args.page, text)
    sys.exit(1 if failed else 0)


def _notes(args: argparse.Namespace, ceilings: Sequence[float], failed: Sequence[str]) -> list[str]:
    command = f"make results DATA={args.DATA.name}: split {args.train_split}"
    command += f", classes {args.classes}" if args.classes else ""
    lines = [f"`{command}`; percent mean IoU, mean ± standard deviation over seeds; val: `{'`, `'.join(VIEWS)}`."]
    if ceilings:
        lines.append(f"The same segmenter on true masks, `{CEILING}`: {statistics.mean(ceilings):.1f} (*oracle*).")
    return [*lines, *([f"Failed: {'; '.join(failed)}."] if failed else [])]


if __name__ == "__main__":
    main()
