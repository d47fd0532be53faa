"""The training loop: schedule, resume to the bit, several losses in turn, what it says when things go wrong."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tag2mask import compute
from tag2mask.backbones import Backbone
from tag2mask.data.batches import epoch_batches
from tag2mask.errors import DamagedArtefact, InputError, UnreadableImage
from tag2mask.files import read_jsonl
from tag2mask.training import TrainSettings, fit, load_model, parameter_groups, save_model, schedule
from tag2mask.training.batches import TRIED, _prefetched_if_slow
from tag2mask.training.checkpoint import channels_last, restore_checkpoint, save_checkpoint
from tag2mask.types import Batch, Losses

FAST = TrainSettings(epochs=3, batch_size=4, precision="float32", learning_rate=1e-2, checkpoint_minutes=0.0)


class Points:
    """A source of 2-D points with a tag by side; items depend on (epoch, index) as photos' views do."""

    def __init__(self, count: int = 18, stop_at: int | None = None) -> None:
        self.count, self.stop_at, self.seen = count, stop_at, 0

    def __len__(self) -> int:
        return self.count

    def groups(self) -> None:
        return None

    def item(self, epoch: int, index: int) -> tuple[int, torch.Tensor]:
        self.seen += 1
        if self.stop_at is not None and self.seen > self.stop_at:
            raise KeyboardInterrupt
        random = np.random.default_rng([epoch, index])
        return index, torch.tensor(random.normal(size=(3, 4, 6)), dtype=torch.float32)

    def collate(self, items: list[tuple[int, torch.Tensor]]) -> Batch:
        images = torch.stack([image for _, image in items])
        labels = (images.mean((2, 3))[:, :2] > 0).float()
        ids = tuple(str(i) for i, _ in items)
        return Batch(ids, images, labels, torch.ones(len(ids), 4, 6, dtype=torch.bool))


class Task(nn.Module):
    def __init__(self, in_turn: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Conv2d(3, 8, 3, padding=1)
        self.dropout = nn.Dropout(0.5)  # random numbers must be the same after a resume
        self.head = nn.Conv2d(8, 2, 1)
        self.in_turn, self.calls = in_turn, 0

    def pretrained_parameters(self):
        return self.backbone.parameters()

    def losses(self, batch: Batch, progress: float):
        def one() -> Losses:
            self.calls += 1
            scores = self.head(self.dropout(self.backbone(batch.images).relu())).mean((2, 3))
            return Losses({"a": nn.functional.multilabel_soft_margin_loss(scores, batch.labels)})

        return (one() for _ in range(2)) if self.in_turn else one()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_moments_lie_in_memory_as_their_weights_do(tmp_path: Path) -> None:
    """Channels last, before and after a resume: fused optimisers insist on it."""
    task = channels_last(Task())
    optimizer = torch.optim.AdamW(task.parameters())
    task.losses(Points().collate([Points().item(0, 0)]), 0.0).total().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "c", "key", 1, task, optimizer)
    again = channels_last(Task())
    restored = torch.optim.AdamW(again.parameters())
    assert restore_checkpoint(tmp_path / "c", "key", again, restored) == 1
    for before, after in zip(task.parameters(), again.parameters(), strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            moment = restored.state[after][name]
            assert torch.equal(moment, optimizer.state[before][name]) and moment.stride() == after.stride()
    assert again.backbone.weight.stride() != torch.empty(8, 3, 3, 3).stride(), "the weights are not channels last"


class Killed(Points):
    """A process that reads is killed, as by the kernel for want of memory."""

    def item(self, epoch: int, index: int) -> tuple[int, torch.Tensor]:
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().item(epoch, index)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked on Linux alone")
def test_a_process_that_reads_and_dies_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = compute.cores() + 1
    with caplog.at_level("INFO", "tag2mask"), pytest.raises(InputError) as raised:
        fit(Task(), Killed(), replace(FAST, workers=more), tmp_path, seed=0, title="t")
    said = str(raised.value)
    assert "processes that read photos died" in said and "--train.workers" in said and "\n" not in said
    assert f"--train.workers {more}: more than the cores of this machine do not help, so {more - 1}" in caplog.text


@pytest.mark.parametrize("settings", [FAST, replace(FAST, optimizer="sgd"), replace(FAST, accumulate=2)])
def test_an_interrupted_training_continues_to_the_bit(tmp_path: Path, settings: TrainSettings) -> None:
    fit(Task(), Points(), settings, tmp_path / "whole", seed=3, title="t")
    with pytest.raises(KeyboardInterrupt):
        fit(Task(), Points(stop_at=30), settings, tmp_path / "cut", seed=3, title="t")
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    resumed = Points()
    fit(Task(), resumed, settings, tmp_path / "cut", seed=3, title="t")
    assert resumed.seen < 3 * 18 - 18  # it did not start over
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "cut")[name]), name
    assert not (tmp_path / "cut" / "checkpoint.safetensors").exists()
    steps = [line["step"] for line in read_jsonl(tmp_path / "cut" / "log.jsonl")]
    assert steps == sorted(set(steps)) and steps[-1] == 3 * len(epoch_batches(Points(), 4, 3, 0)) - 1


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(Task(), Points(stop_at=30), FAST, tmp_path, seed=3, title="t")
    source = Points()
    fit(Task(), source, replace(FAST, learning_rate=5e-3), tmp_path, seed=3, title="t")
    assert source.seen >= 3 * 16  # from the start


def test_a_checkpoint_serves_settings_that_decide_nothing(tmp_path: Path) -> None:
    """Processes that read, how often a checkpoint is written: added to a half-done training they keep it."""
    fit(Task(), Points(), FAST, tmp_path / "whole", seed=3, title="t")
    with pytest.raises(KeyboardInterrupt):
        fit(Task(), Points(stop_at=30), FAST, tmp_path / "cut", seed=3, title="t")
    resumed = Task()
    fit(resumed, Points(), replace(FAST, workers=1, checkpoint_minutes=5.0), tmp_path / "cut", seed=3, title="t")
    assert resumed.calls < 3 * len(epoch_batches(Points(), 4, 3, 0)) - 4  # it did not start over
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "cut")[name]), name


def test_a_damaged_checkpoint_is_said_and_the_training_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(Task(), Points(), FAST, tmp_path / "whole", seed=3, title="t")
    with pytest.raises(KeyboardInterrupt):
        fit(Task(), Points(stop_at=30), FAST, tmp_path / "cut", seed=3, title="t")
    path = tmp_path / "cut" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level("INFO", "tag2mask"):
        fit(Task(), Points(), FAST, tmp_path / "cut", seed=3, title="t")
    assert "checkpoint.safetensors is damaged" in caplog.text and "begins anew" in caplog.text
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "cut")[name]), name


def test_seeds_differ_and_equal_seeds_agree(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(Task(), Points(), FAST, tmp_path / name, seed=seed, title="t")
    a, b, c = (weights(tmp_path / n)["head.weight"] for n in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_losses_in_turn_get_a_step_each(tmp_path: Path) -> None:
    task = Task(in_turn=True)
    fit(task, Points(), FAST, tmp_path, seed=0, title="t")
    assert task.calls == 2 * 3 * len(epoch_batches(Points(), 4, 0, 0))


@pytest.mark.parametrize("apart", [False, True])
def test_gradients_are_clipped_by_the_norm_of_what_learns_together(apart: bool, tmp_path: Path) -> None:
    """One step of plain descent, by hand. One weight's loss is steep, the other's hardly slopes."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier, self.affinity = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

        def losses(self, batch: Batch, progress: float) -> Losses:
            return Losses({"own": (self.classifier * 0.3).sum(), "pairs": (self.affinity * 400).sum()})

    if apart:
        Two.clipped_apart = lambda self: [self.affinity]  # type: ignore[attr-defined]
    settings = replace(
        FAST, epochs=1, batch_size=8, optimizer="sgd", momentum=0.0, weight_decay=0.0, max_grad_norm=1.0, warmup=0.0,
        power=0.0, head_lr_mult=1.0, learning_rate=0.1, precision="float32",
    )  # fmt: skip
    fit(Two(), Points(8), settings, tmp_path, seed=0, title="t")
    norm = (0.3**2 + 400**2) ** 0.5
    moved = {name: -value.item() / 0.1 for name, value in weights(tmp_path).items()}
    assert moved == pytest.approx({"classifier": 0.3 if apart else 0.3 / norm, "affinity": 1 if apart else 400 / norm})


def test_accumulation_is_one_step_of_the_mean(tmp_path: Path) -> None:
    """Two batches of one accumulated step = one step on the mean of their gradients, computed by hand."""

    class Fixed(Points):
        def item(self, epoch: int, index: int) -> tuple[int, torch.Tensor]:
            return super().item(0, index)

    class Plain(Task):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Identity()  # type: ignore[assignment]

    settings = replace(
        FAST, epochs=1, optimizer="sgd", momentum=0.0, weight_decay=0.0, accumulate=2, max_grad_norm=0.0, warmup=0.0,
        power=0.0, head_lr_mult=1.0,
    )  # fmt: skip
    source = Fixed(8)
    fit(Plain(), source, settings, tmp_path, seed=0, title="t")
    by_hand = Plain()
    batches = [source.collate([source.item(0, i) for i in b]) for b in epoch_batches(source, 4, 0, 0)]
    assert len(batches) == 2
    total = sum(by_hand.losses(b, 0.0).total() for b in batches) / 2
    total.backward()
    for parameter in by_hand.parameters():
        parameter.data -= settings.learning_rate * parameter.grad
    for name, tensor in weights(tmp_path).items():
        torch.testing.assert_close(tensor, by_hand.state_dict()[name])


def test_poly_schedule_golden() -> None:
    """Values of the SMAF recipe: 0.01 (1 - t / 20000)^0.9."""
    settings = replace(FAST, warmup=0.0)
    for step, rate in ((1, 0.0099995500), (9999, 0.0053593496), (19999, 1.346087e-6)):
        assert 0.01 * schedule(step, 20000, settings) == pytest.approx(rate, rel=1e-6)


def test_warmup_grows_linearly() -> None:
    settings = replace(FAST, warmup=0.1, power=0.0)
    assert [schedule(k, 100, settings) for k in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])


def rates(network: nn.Module, settings: TrainSettings = FAST) -> dict[tuple[float, float], int]:
    """(learning rate, weight decay) to the number of weights that have them."""
    groups = parameter_groups(network, settings)
    found = {(g["lr"], g["weight_decay"]): sum(p.numel() for p in g["params"]) for g in groups}
    assert len(found) == len(groups)
    return found


def test_parameter_groups_by_what_is_pretrained_and_by_dimension() -> None:
    assert rates(Task()) == {(1e-2, 1e-2): 8 * 27, (1e-2, 0.0): 8, (1e-1, 1e-2): 16, (1e-1, 0.0): 2}


def test_what_is_pretrained_is_not_a_matter_of_spelling() -> None:
    """A backbone by any name, at any depth, learns at its rate; a new layer called backbone does not."""

    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            chain = Backbone([("stem", nn.Conv2d(3, 8, 3, padding=1))], 8, 1, (0.5,) * 3, (0.5,) * 3)
            self.part = nn.ModuleDict({"trunk": chain})
            self.backbone = nn.Conv2d(8, 2, 1)

    assert rates(Spelled()) == {(1e-2, 1e-2): 8 * 27, (1e-2, 0.0): 8, (1e-1, 1e-2): 16, (1e-1, 0.0): 2}
    biases = replace(FAST, bias_lr_mult=2.0, decay_biases=True)
    assert rates(Spelled(), biases) == {(1e-2, 1e-2): 8 * 27, (2e-2, 1e-2): 8, (1e-1, 1e-2): 16, (2e-1, 1e-2): 2}


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    class Bad(Task):
        def losses(self, batch: Batch, progress: float) -> Losses:
            return Losses({"a": super().losses(batch, progress).total() * float("inf")})

    with pytest.raises(InputError, match=r"not finite \(a inf\).*learning-rate"):
        fit(Bad(), Points(), FAST, tmp_path, seed=0, title="t")


@pytest.mark.parametrize(
    ("flags", "views"),
    [("train", "augment"), ("student-train", "augment"), ("segmenter-train", "segmenter-augment"),
     ("relabel-train", "segmenter-augment"), ("propagation-train", "propagation-augment")],
)  # fmt: skip
def test_advice_names_the_flags_of_this_training(flags: str, views: str, tmp_path: Path) -> None:
    class Bad(Task):
        def losses(self, batch: Batch, progress: float) -> Losses:
            return Losses({"a": super().losses(batch, progress).total() * float("inf")})

    class Full(Task):
        def losses(self, batch: Batch, progress: float) -> Losses:
            raise torch.OutOfMemoryError

    with pytest.raises(InputError, match=f"lower --{flags}.learning-rate or use float32$"):
        fit(Bad(), Points(), FAST, tmp_path / "bad", seed=0, title="t", flags=flags)
    advice = rf"\(--{flags}\.batch-size 2 --{flags}\.accumulate 2\), or smaller views \(--{views}\.size\)$"
    with pytest.raises(InputError, match=advice):
        fit(Full(), Points(), FAST, tmp_path / "full", seed=0, title="t", flags=flags)


def test_weights_that_are_not_finite_are_no_result(tmp_path: Path) -> None:
    """The loss of the last step is finite, what that step leaves is not: no model is written that nobody can use."""

    class Overflowing(Task):
        def losses(self, batch: Batch, progress: float) -> Losses:
            total = super().losses(batch, progress).total()
            return Losses({"a": (total - total).sqrt()})  # 0, of which the gradient is infinite

    with pytest.raises(InputError, match=r"t: the trained weights are not finite \(.*lower --train\.learning-rate"):
        fit(Overflowing(), Points(), replace(FAST, epochs=0.01), tmp_path, seed=0, title="t")
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_source_finds_wrong_is_said_as_it_is_wherever_it_is_read(workers: int, tmp_path: Path) -> None:
    """In a process of its own too: one line, and a damaged file is still known to be one, which can be made anew."""
    damaged = tmp_path / "maps.npz"
    damaged.write_bytes(b"x")

    class Unreadable(Points):
        def item(self, epoch: int, index: int) -> tuple[int, torch.Tensor]:
            if epoch:
                raise UnreadableImage("image a.png cannot be decoded: replace or remove it")
            return super().item(epoch, index)

    class Damaged(Points):
        def item(self, epoch: int, index: int) -> tuple[int, torch.Tensor]:
            if epoch and damaged.exists():
                raise DamagedArtefact(damaged, "why")
            return super().item(epoch, index)

    settings = replace(FAST, workers=workers)
    with pytest.raises(UnreadableImage, match=r"^image a\.png cannot be decoded: replace or remove it$"):
        fit(Task(), Unreadable(), settings, tmp_path / "a", seed=0, title="t")
    with pytest.raises(
        DamagedArtefact, match=r"maps\.npz is damaged \(why\) and was moved aside: [^\n]+anew$"
    ) as found:
        fit(Task(), Damaged(), settings, tmp_path / "b", seed=0, title="t")
    assert found.value.path == damaged and (tmp_path / ".maps.npz.damaged").read_bytes() == b"x"
    fit(Task(), Damaged(), settings, tmp_path / "b", seed=0, title="t")  # goes on


def test_nothing_to_train(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is left to train"):
        fit(Task().requires_grad_(False), Points(), FAST, tmp_path, seed=0, title="t")


def test_damaged_or_foreign_model_files(tmp_path: Path) -> None:
    fit(Task(), Points(), replace(FAST, epochs=1), tmp_path, seed=0, title="t")
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="does not fit this model"):
        load_model(nn.Linear(2, 2), path)
    path.write_bytes(path.read_bytes()[:40])
    whole = path.read_bytes()
    for damage in (whole[:40], whole[:-7], b""):
        path.write_bytes(damage)
        with pytest.raises(DamagedArtefact, match=r"model\.safetensors is damaged .* was moved aside") as damaged:
            load_model(Task(), path)
        assert damaged.value.path == path and not path.exists()
        assert (tmp_path / ".model.safetensors.damaged").read_bytes() == damage  # nothing is lost
    broken = Task()
    nn.init.constant_(broken.head.bias, float("nan"))
    save_model(broken, path)
    with pytest.raises(DamagedArtefact, match=r"head\.bias holds numbers that are not finite"):
        load_model(Task(), path)


def test_epoch_batches_cover_every_photo_and_keep_groups_apart() -> None:
    class Grouped(Points):
        def groups(self):
            return [(3, 4) if i % 3 else (4, 3) for i in range(self.count)]

    source = Grouped(20)
    batches = epoch_batches(source, 4, seed=0, epoch=1)
    assert all(len({source.groups()[i] for i in b}) == 1 for b in batches)
    seen = [i for b in batches for i in b]
    assert len(seen) == len(set(seen)) >= 18  # a rest of under half a batch is dropped
    assert batches == epoch_batches(source, 4, 0, 1) != epoch_batches(source, 4, 0, 2)
    assert sorted(i for b in epoch_batches(Points(3), 16, 0, 0) for i in b) == [0, 1, 2]  # never nothing


def test_two_trainings_of_one_process_may_differ_in_precision(tmp_path: Path) -> None:
    for precision in ("bfloat16", "float32"):
        fit(Task(), Points(), replace(FAST, epochs=1, precision=precision), tmp_path / precision, seed=0, title="t")
        assert (tmp_path / precision / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, []),
        ({"cpu.max": "max 100000"}, []),
        ({"cpu.max": "150000 100000"}, [2]),
        ({"cpu.max": "10000 100000"}, [1]),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, [3]),
    ],
)
def test_a_control_group_limits_the_cores(files: dict[str, str], cores: list[int], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert list(compute.quotas(tmp_path)) == cores


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU that torch can use")
def test_a_gpu_that_torch_cannot_use_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that is too old, or a torch without CUDA: NVIDIA's device is there, and torch has none."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(compute, "NVIDIA", tmp_path / "nvidiactl")
    assert compute.device.__wrapped__().type in ("cpu", "mps")
    if not torch.backends.mps.is_available():
        assert "a GPU cannot be used (" in caplog.text and "going on with the CPU" in caplog.text


@pytest.mark.parametrize(("read", "learn", "prefetched"), [(0.0, 0.02, False), (0.02, 0.0, True)])
def test_batches_are_read_between_steps_unless_that_takes_long(read: float, learn: float, prefetched: bool) -> None:
    threads = []

    def made() -> Iterator[int]:
        for number in range(12):
            time.sleep(read)
            threads.append(threading.current_thread() is threading.main_thread())
            yield number

    seen = []
    for number in _prefetched_if_slow(made()):
        seen.append(number)
        time.sleep(learn)
    assert seen == [*range(12)]
    assert all(threads[:TRIED]) and threads[TRIED:] == [not prefetched] * (12 - TRIED)
    assert [*_prefetched_if_slow(iter([1, 2]))] == [1, 2]  # fewer than it needs to see
