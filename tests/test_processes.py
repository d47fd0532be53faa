"""As a user starts it: real processes that are asked to end, and a method that lives outside of the package."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tag2mask import interrupt, methods
from tag2mask.backbones import Backbone, BackboneSettings, build
from tag2mask.errors import InputError
from tag2mask.files import read_jsonl
from tag2mask.methods.check import check_method
from world import SMALL, fails, keys, made_of, run, stamps

COMMAND = [sys.executable, "-m", "tag2mask"]


# --- asked to end ---------------------------------------------------------------------------------------------------


def training(data: Path, out: Path, epochs: int) -> subprocess.Popen[str]:
    flags = [*SMALL, "--epochs", str(epochs), "--refine", "none", "--train.checkpoint-minutes", "60"]
    command = [*COMMAND, "label", str(data), "--out", str(out), *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def until_it_trains(process: subprocess.Popen[str], out: Path) -> None:
    """Until some steps are done; fails where the process ends before."""
    deadline = time.monotonic() + 120
    while not read_jsonl(out / "method" / "log.jsonl"):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


ENDLESS = 10_000  # epochs


@pytest.mark.slow
def test_sigterm_ends_a_training_with_a_checkpoint_and_one_line(world: Path, tmp_path: Path) -> None:
    """Within 10 seconds, after which schedulers kill, of a machine that has nothing else to do; though a checkpoint was
    not due for an hour."""
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    with training(world, tmp_path / "run", ENDLESS) as process:
        until_it_trains(process, tmp_path / "run")
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # some ask twice
        said = process.communicate(timeout=120)[1]
    assert time.monotonic() - asked < 10 * busy
    assert process.returncode == 143
    assert said.splitlines()[-1] == "tag2mask: asked to end: run the same command again to go on; finished work is kept"
    assert "Traceback" not in said and said.count("tag2mask: ") == 1
    assert (tmp_path / "run" / "method" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "run" / "method" / "model.safetensors").exists()
    assert not list((tmp_path / "run").rglob("*.tmp"))


needs_hangups = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")


@needs_hangups
@pytest.mark.slow
def test_a_terminal_that_goes_ends_a_training_with_a_checkpoint(world: Path, tmp_path: Path) -> None:
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        pytest.skip("these tests run under nohup, whose children go on when the terminal is gone")
    with training(world, tmp_path / "run", ENDLESS) as process:
        until_it_trains(process, tmp_path / "run")
        process.send_signal(signal.SIGHUP)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 129 and "Traceback" not in said and "asked to end" in said.splitlines()[-1]
    assert (tmp_path / "run" / "method" / "checkpoint.safetensors").exists()


@needs_hangups
def test_handlers_leave_what_nohup_ignores() -> None:
    """A child of nohup goes on when the terminal is gone."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupt.handle_signals()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        interrupt.handle_signals()
        assert callable(signal.getsignal(signal.SIGHUP))
    finally:
        for number, handler in {**before, signal.SIGHUP: hangup}.items():
            signal.signal(number, handler)


@pytest.mark.slow
def test_a_second_and_a_third_ctrl_c_make_no_traceback(world: Path, tmp_path: Path) -> None:
    with training(world, tmp_path / "run", ENDLESS) as process:
        until_it_trains(process, tmp_path / "run")
        for _ in range(5):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert said.splitlines()[-1] == (
        "tag2mask: interrupted: run the same command again to go on; finished work is kept"
    )
    assert "Traceback" not in said and "Exception ignored" not in said, said
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.slow
def test_a_training_that_was_asked_to_end_goes_on_to_the_same_bytes(world: Path, tmp_path: Path) -> None:
    epochs = 60
    with training(world, tmp_path / "whole", epochs) as process:
        assert process.communicate(timeout=300) and process.returncode == 0
    ended = 0
    for _ in range(4):  # again and again
        with training(world, tmp_path / "cut", epochs) as process:
            done = len(read_jsonl(tmp_path / "cut" / "method" / "log.jsonl"))
            while process.poll() is None and len(read_jsonl(tmp_path / "cut" / "method" / "log.jsonl")) < done + 3:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=60)[1]
        assert process.returncode in (0, 143) and "Traceback" not in said, said
        ended += process.returncode == 143
    assert ended >= 2
    with training(world, tmp_path / "cut", epochs) as process:
        assert process.communicate(timeout=300) and process.returncode == 0
    for name in ("method/model.safetensors", *(f"masks/photo{i:02d}.png" for i in range(9))):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    steps = [line["step"] for line in read_jsonl(tmp_path / "cut" / "method" / "log.jsonl")]
    assert steps == sorted(set(steps))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with pipefail")
def test_the_first_line_of_the_doctor(world: Path) -> None:
    """`tag2mask doctor DATA | head -1`, as one types it."""
    line = f"set -o pipefail; '{sys.executable}' -m tag2mask doctor '{world}' | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


# --- a method outside of the package ----------------------------------------------------------------------------------

PAGE = '''
"""Maps by the squares of class scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.backbones import Backbone
from tag2mask.protocols import Traits
from tag2mask.settings import POSITIVE, check_values
from tag2mask.types import Batch, Losses, masked_mean


@dataclass(frozen=True)
class Settings:
    exponent: Annotated[float, POSITIVE] = 2.0
    """Of the maps."""
    slope: float = 1.0
    """Of the scores."""

    def __post_init__(self) -> None:
        check_values(self, "my_method")

    @property
    def traits(self) -> Traits:
        return Traits(inference_settings=("exponent",))


class MyMethod(nn.Module):
    """squares of class scores (nobody, nowhere)"""

    Settings = Settings

    def __init__(self, backbone: Backbone, classes: int, settings: Settings = Settings()) -> None:
        super().__init__()
        self.backbone, self.settings, self.traits = backbone, settings, settings.traits
        self.head = nn.Conv2d(backbone.channels, classes, 1)

    def losses(self, batch: Batch, progress: float) -> Losses:
        scores = masked_mean(self.settings.slope * self.head(self.backbone.features(batch)), batch.valid)
        return Losses({"tags": F.multilabel_soft_margin_loss(scores, batch.labels)})

    def localize(self, batch: Batch) -> Tensor:
        return self.head(self.backbone.features(batch)).relu() ** self.settings.exponent
'''


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The file of the method, in a package that nobody installed."""
    path = tmp_path / "code" / "some_package" / "some_module.py"
    path.parent.mkdir(parents=True)
    (path.parent / "__init__.py").write_text("")
    path.write_text(PAGE)
    return path


NAME = "some_package.some_module:MyMethod"


@pytest.fixture
def imported(page: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[methods.Entry]:
    monkeypatch.syspath_prepend(page.parents[1])
    yield methods.entry(NAME)
    for name in [name for name in sys.modules if name.startswith("some_package")]:
        del sys.modules[name]


@pytest.mark.slow
def test_a_method_from_elsewhere_trains_labels_and_is_redone_when_its_code_changes(
    imported: methods.Entry, page: Path, world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["label", str(world), "--out", str(out), *SMALL, "--refine", "none", "--method", NAME]
    paths = os.pathsep.join([str(page.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([*COMMAND, *command], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0 and f"training {NAME}" in done.stderr, done.stderr
    assert len(list((out / "maps").glob("*.npz"))) == len(list((out / "masks").glob("*.png"))) == 9
    assert "tags" in read_jsonl(out / "method" / "log.jsonl")[0]
    assert "method code" in made_of(out, "method")["facts"]
    first, written = keys(out), stamps(out)

    def redone_by(*flags: str) -> set[str]:
        """In this process, which is quicker."""
        assert run(*command, *flags) == 0
        return {name for name, key in keys(out).items() if first[name] != key}

    page.write_text(PAGE.replace("(nobody, nowhere)", "(somebody)"))
    assert redone_by() == {"method", "maps", "masks", "scores"}  # what code does to weights nobody can know
    page.write_text(PAGE)
    assert redone_by("--my-method.exponent", "2") == set()  # the default, and the same bytes
    models = {name: when for name, when in written.items() if name.endswith((".safetensors", ".npz"))}
    assert models.items() <= stamps(out).items()  # kept, and taken back
    assert redone_by("--my-method.exponent", "3") == {"maps", "masks", "scores"}  # of inference alone
    assert redone_by("--my-method.slope", "2") == {"method", "maps", "masks", "scores"}


def test_a_method_from_elsewhere_keeps_the_contract(imported: methods.Entry, page: Path) -> None:
    assert imported.line == "squares of class scores (nobody, nowhere)"
    assert methods.source(NAME) == page and methods.flag(NAME) == "my_method" and methods.source("cam") is None

    def backbone() -> Backbone:
        return build(BackboneSettings("resnet10t", weights="none", output_stride=8))

    check_method(imported.build, imported.settings(), backbone)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("some_package.absent:MyMethod", "No module named 'some_package.absent'; give package.module:Class"),
        ("some_package.some_module:Nothing", "has no attribute 'Nothing'"),
        ("nobody_has.this:Method", "No module named 'nobody_has'"),
        ("some_package.some_module:F", "a class whose attribute Settings is a frozen dataclass"),
        ("some_package.some_module:Settings", "a class whose attribute Settings is a frozen dataclass"),
        (":MyMethod", "--method :MyMethod"),
    ],
)
def test_names_of_methods_that_cannot_be_had(
    name: str, says: str, imported: methods.Entry, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in fails(capsys, "label", world, "--out", tmp_path / "run", *SMALL, "--method", name)
    assert not (tmp_path / "run").exists()


def test_a_setting_of_a_method_from_elsewhere_is_checked(
    imported: methods.Entry, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--method", NAME, "--my-method.exponent", "0")
    said = fails(capsys, "label", world, "--out", tmp_path / "run", *SMALL, *flags)
    assert said == "tag2mask: --my-method.exponent is 0: it must be above 0"
    with pytest.raises(InputError, match="must be above 0"):
        importlib.import_module("some_package.some_module").Settings(exponent=-1.0)
