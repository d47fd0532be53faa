"""Every number of every setting: what cannot be is refused in one line that names the flag, before anything is read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tag2mask import checks
from tag2mask.errors import InputError
from tag2mask.methods import METHODS
from tag2mask.recipes import RunSettings
from tag2mask.settings import Range, number
from tag2mask.training import TrainSettings
from world import SMALL, run

HUGE = 10**9


def settings_of_every_method() -> dict[str, RunSettings]:
    """With numbers of epochs that are numbers."""
    run = RunSettings()
    trainings = {f.name: value for f in fields(run) if isinstance(value := getattr(run, f.name), TrainSettings)}
    run = replace(run, **{name: replace(training, epochs=3.0) for name, training in trainings.items()})
    return {name: replace(run, method=name, options=METHODS[name].settings()) for name in METHODS}


def numbers(settings: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Path of every setting that is a number or some numbers, or may be, and whether they are whole."""
    for f in fields(settings):
        value, hint = getattr(settings, f.name), str(f.type)
        if is_dataclass(value):
            yield from numbers(value, (*above, f.name))
        elif re.search(r"\b(int|float)\b", hint):
            yield (*above, f.name), "float" not in hint


def every_number() -> dict[str, tuple[str, tuple[str, ...], bool]]:
    """Its name on the command line to the method, the path and whether it is whole."""
    found = {}
    for method, settings in settings_of_every_method().items():
        for path, whole in numbers(settings):
            own = method if path[0] == "options" else path[0]
            found[".".join((own, *path[1:]))] = (method, path, whole)
    return found


EVERY = every_number()


def with_value(name: str, value: float) -> RunSettings:
    method, path, _ = EVERY[name]
    return _changed(settings_of_every_method()[method], path, value)


def _changed(settings: Any, path: tuple[str, ...], value: float | str) -> Any:
    now = getattr(settings, path[0])
    if len(path) > 1:
        return replace(settings, **{path[0]: _changed(now, path[1:], value)})
    return replace(settings, **{path[0]: (value,) * max(1, len(now)) if isinstance(now, tuple) else value})


# What may be a thousand million and more: budgets, weights of losses (one that overflows stops with advice), numbers
# of things of which there are never so many, and sizes up to which photos stay as they are
UNBOUNDED = {
    *(f"{training}.{name}" for name in (
        "accumulate", "power", "milestones",
        "max_grad_norm", "checkpoint_minutes",
    ) for training in ("train", "student_train", "propagation_train", "segmenter_train", "relabel_train")),
    "localize.references", "pseudo.max_growth",
    "localize.batch_size", "inference.batch_size", "inference.window", "refine_long_side", "aside_gb",
    "features.limit_gb", "seed", "self_train.weight", "self_train.sharpness", "self_train.classification",
    "propagation.pairs", "propagation.beta", "propagation.sigma", "propagation.cosine",
    "mcis.references", "mcis.temperature", "eps.saliency", "ppl.reconstruction", "apc.top", "apc.min_patches",
    "apc.max_patches", "apc.contrast", "apc.low_cap", "apc.weight_penalty", "apc.equivariance", "apc.segmentation",
}  # fmt: skip


def test_every_number_is_found() -> None:
    assert {"seed", "train.epochs", "localize.scales", "cam.dropout", "segmenter.pyramid", "inference.window"} <= set(
        EVERY
    )
    assert len(EVERY) > 110


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, -HUGE])
def test_no_setting_takes_what_is_no_number_or_negative(value: float) -> None:
    for name in EVERY:
        with pytest.raises(InputError, match=r"^--\S+ .*must be ") as refused:
            with_value(name, value)
        flag = name.replace("_", "-").rpartition(".")[2]
        assert flag in str(refused.value) and str(refused.value).isprintable(), (name, str(refused.value))


def test_huge_numbers_are_refused_but_where_they_do_no_harm() -> None:
    taken = set()
    for name in EVERY:
        try:
            with_value(name, HUGE)
            taken.add(name)
        except InputError as error:
            assert "1000000000" in str(error) or "pixels" in str(error), str(error)
    assert taken == UNBOUNDED


def texts(settings: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Path of every setting that is a word or words; not those of the data set, since only reading it tells."""
    for f in fields(settings):
        value, hint = getattr(settings, f.name), str(f.type)
        if is_dataclass(value):
            yield from texts(value, (*above, f.name)) if f.name != "data" else ()
        elif re.search(r"\b(str|Literal)\b", hint):
            yield (*above, f.name)


CHECKED_LATER = {  # with the networks, before the first photo is read
    "segmenter.weights", "propagation.weights", "backbone.freeze_until", "options.fixed_until", "options.cuts",
}  # fmt: skip


def test_words_that_are_none_are_refused() -> None:
    """By the settings, or by what looks at their names before anything is read."""
    taken = set()
    for method, settings in settings_of_every_method().items():
        for path in texts(settings):
            for word in ("[]", "nan", ""):
                try:
                    changed = _changed(settings, path, word)
                    checks.check_names(changed)
                    taken.add(".".join(path))
                except InputError as error:
                    assert str(error).isprintable() and len(str(error)) < 900, (method, path)
    assert taken == CHECKED_LATER


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted(UNBOUNDED))
def test_a_run_with_a_huge_number_ends_well(
    name: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method, path, _ = EVERY[name]
    flag = "--" + ".".join([method if path[0] == "options" else path[0], *path[1:]]).replace("_", "-")
    flags = [*SMALL, "--method", method, "--propagate", "irn", "--self-train", "smaf", flag, str(HUGE)]
    if method == "eps":
        pytest.skip("needs saliency maps; its weight is a factor of a loss like the others")
    code = run("train", world, "--out", tmp_path / "run", *flags)
    said = capsys.readouterr().err
    assert code in (0, 2) and "Traceback" not in said, said


def test_numbers_are_written_as_people_write_them() -> None:
    assert [number(v) for v in (2**32 - 1, 0.5, 1e-9, math.nan, math.inf, -3.0, 65_535)] == [
        "4294967295", "0.5", "1e-09", "nan", "inf", "-3", "65535",
    ]  # fmt: skip
    assert str(Range(at_least=0, at_most=2**32 - 1)) == "at least 0 and at most 4294967295"
