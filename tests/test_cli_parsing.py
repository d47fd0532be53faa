"""Flags that are wrong: one clear line and exit code 2, whatever the parser of flags says about them."""

import pytest

from tag2mask.cli import main


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            "train x --out y --trian.epochs 3",
            "unknown flag or argument --trian.epochs, 3: did you mean --train.epochs?",
        ),
        ("train x --out y --epochs abc", "--epochs is 'abc': give a number or auto"),
        ("train x --out y --frobnicate", "unknown flag or argument --frobnicate"),
        ("train x --out y z", "unknown flag or argument z"),
        ("train x --epochs", "--epochs is given without a value"),
        ("train x", "missing: --out PATH"),
        ("train x --out y --seed 1.5", "--seed is '1.5': give a whole number"),
        ("train x --out y --localize.scales 1 a", "--localize.scales is"),
        ("doctor", "missing: PATH DATA"),
        ("predict x y --out z --foo", "unknown flag or argument --foo"),
        ("export r --to coco", "missing: --out PATH"),
        ("serve r --port x", "--port is 'x': give a whole number"),
        ("tags x --nothing", "unknown flag or argument --nothing"),
        ("predict x y --out z --engine mars", "--engine is 'mars': give local or ray"),
    ],
)
def test_a_wrong_flag_is_one_line(arguments: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert says in said
    assert f"`tag2mask {arguments.split()[0]} --help` shows the settings" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--train.weight-decay -1", "--train.weight-decay is -1: "),
        ("--segmenter-train.weight-decay -1", "--segmenter-train.weight-decay is -1: "),
        ("--relabel-train.power=-2", "--relabel-train.power is -2: "),
        ("--train.power 1 --student-train.power -2", "--student-train.power is -2: "),
        ("--train.power 1 --student-train.power=-2 --relabel-train.power 3", "--student-train.power is -2: "),
        ("--segmenter-augment.scale 2 1", "--segmenter-augment.scale 2 1 must be two growing numbers"),
        ("--segmenter-augment.size 3", "--segmenter-augment.size is 3: "),
        (
            "--segmenter-train.start-decay 10 --segmenter-train.learning-rate 0.2",
            "--segmenter-train.start-decay 10 draws weights beyond",
        ),
        ("--relabel-train.learning-rate 0.2 --relabel-train.start-decay=10", "--relabel-train.start-decay 10 draws"),
        ("--relabel-train.learning-rate 0.2", "--relabel-train.start-decay 40 draws"),  # a default's
        ("--relabel.rounds -1", "--relabel.rounds is -1: "),
        ("--epochs -1 --segmenter-train.decay-biases", "--epochs is -1: "),
        ("--epochs -1 --segmenter-train.power 0", "--epochs is -1: it must be at least 0"),
        ("--train.power 0 --student-train.power -2.0", "--student-train.power is -2: it must be at least 0"),
    ],
)
def test_a_value_that_cannot_be_is_told_by_the_flag_that_was_given(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five trainings have the same settings."""
    with pytest.raises(SystemExit) as ended:
        main(["train", "x", "--out", "y", *arguments.split()])
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(f"tag2mask: {says}")


def test_the_box_in_ascii_and_in_colours_is_the_same_line() -> None:
    from tag2mask.cli.parsing import in_one_line

    ascii_box = " Unrecognized options   \n ---------- \n  Unrecognized options: --trian, 3  \n  --------\n"
    ascii_box += "  Perhaps you meant: \n      --train.epochs FLOAT \n  ---------\n  For full helptext, run x \n     \n"
    drawn = "\x1b[31m╭─ Unrecognized options ──╮\x1b[0m\n│ Unrecognized options: --trian, 3 │\n│ ─────────── │\n"
    drawn += "│ Perhaps you meant:      │\n│     \x1b[1m--train.epochs\x1b[0m FLOAT │\n╰──────────╯\n"
    expected = "unknown flag or argument --trian, 3: did you mean --train.epochs?"
    assert in_one_line(ascii_box) == in_one_line(drawn) == expected


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("train", "", "--out", "y"), "DATA"),
        (("predict", "x", "", "--out", "y"), "IMAGES"),
        (("predict", "x", "y", "z", "--out", ""), "--out"),
        (("predict", "x", "y", "--out", "z", "--tags", ""), "--tags"),
        (("doctor", "x", "--truth", ""), "--truth"),
        (("label", "x", "--out", "y", "--shard", ""), "--shard"),
        (("label", "x", "--out", "y", "--seeds="), "--seeds"),
    ],
)
def test_a_variable_of_the_shell_that_is_not_set(
    arguments: tuple[str, ...], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty path would be the folder at hand, an empty share the whole."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2 and f"tag2mask: {what} is empty: give a " in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--until", "--shard"])
def test_several_seeds_and_a_part_of_a_run(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["label", "x", "--out", "y", "--seeds", "0", "1", flag, "maps" if flag == "--until" else "1/2"])
    assert ended.value.code == 2 and f"--seeds trains several runs, and {flag} is of one" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--limit", "--seed"])
def test_numbers_of_tags(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tags", "x", flag, "-1"])
    assert f"{flag} is -1: it must be at least 0" in capsys.readouterr().err
