"""Does the pipeline keep the device busy? Images/s of training, localizing, relabelling and predicting, as a whole and
by their sides, in one run.

    python benchmarks/throughput.py                             # drawn photos, a tiny network in the place of a GPU
    python benchmarks/throughput.py --backbone tf_efficientnet_lite0 --weights auto --photos 512     # on a GPU
    python benchmarks/throughput.py --data FOLDER ...           # photos of one's own

For each of the four: the *input* side alone (decode, resize, augment, collate), the *model* alone on tensors in memory,
the *output* side alone (refine, write) where there is one, and the *pipeline*, in which they overlap. What counts are
the ratios: pipeline to the slowest of its sides; input side a core to a bare loop that decodes and resizes, its limit.
Without a GPU half of the cores stand for it, and the others read and write.
Everything is measured in turn, several times, and medians are compared, since machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tag2mask import backbones, compute, concurrency, data, methods, pseudo, segment
from tag2mask.backbones import BackboneSettings
from tag2mask.data.augment import AugmentSettings, fit_size
from tag2mask.data.batches import Source, TaggedImages
from tag2mask.data.images import image_size, read_image, write_index_mask
from tag2mask.localize import Localizer, batches_by
from tag2mask.recipes import recipe
from tag2mask.references import draw_references, show_references
from tag2mask.refine import refiner
from tag2mask.segment import InferenceSettings, PhotoSegmenter, SegmenterSettings
from tag2mask.stages.artefacts import write_maps
from tag2mask.stages.networks import MapNetwork
from tag2mask.training import TrainSettings, fit
from tag2mask.training.batches import Steps, batches
from tag2mask.types import Dataset, Sample


@dataclass
class Setup:
    """What is measured, and on what."""

    dataset: Dataset
    backbone: BackboneSettings
    folder: Path
    workers: int  # processes or threads that read, and as many threads that write
    refine: str
    batch_size: int

    def network(self) -> tuple[torch.nn.Module, backbones.Backbone]:
        backbone = backbones.build(self.backbone).to(compute.device())
        return methods.build("cam", backbone, len(self.dataset.classes)).to(compute.device()), backbone

    def size(self, sample: Sample) -> tuple[int, int]:
        return image_size(sample.image_path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data set; its training photos are used")
    parser.add_argument("--photos", type=int, default=96, help="so many of them, or drawn (96)")
    parser.add_argument("--backbone", default="test_resnet", help="by default timm's smallest, in the place of a GPU")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--output-stride", type=int, default=16)
    parser.add_argument("--refine", default="crf")
    parser.add_argument("--batch-size", type=int, default=16, help="of training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=tuple(MEASURED), default=tuple(MEASURED))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = drawn(folder / "data", parsed.photos) if parsed.data is None else data.load(parsed.data)
        dataset = dataset.with_samples(dataset.samples[: parsed.photos])
        backbone = BackboneSettings(parsed.backbone, parsed.weights, parsed.output_stride)
        workers = cores = compute.cores()
        if compute.device().type == "cpu":
            torch.set_num_threads(max(1, cores // 2))
            workers = max(1, cores - cores // 2)
        setup = Setup(dataset, backbone, folder, workers, parsed.refine, parsed.batch_size)
        print(
            f"device {compute.device()}, {workers} of {cores} cores read and write, torch {torch.__version__}, "
            f"{len(dataset)} photos",
            flush=True,
        )
        found = {}
        for name in parsed.only:
            found[name] = measure(MEASURED[name](setup), parsed.rounds)
            report(name, found[name], workers)
            if parsed.json:  # each part as it is done: a limit of time may end the next
                parsed.json.write_text(json.dumps(found, indent=1))


def drawn(folder: Path, count: int) -> Dataset:
    """JPEG photos of 500x375 pixels, with the detail of photographs, tagged at random."""
    (folder / "images").mkdir(parents=True)
    lines = ["image,tags"]
    for index in range(count):
        random = np.random.default_rng(index)
        coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3)).astype(np.uint8)).resize((500, 375))
        fine = Image.fromarray(random.integers(0, 255, (190, 250, 3)).astype(np.uint8)).resize((500, 375))
        Image.blend(coarse, fine, 0.25).save(folder / "images" / f"{index:05d}.jpg", quality=90)
        lines.append(f"{index:05d}.jpg,{'disc' if index % 2 else 'bar'}")
    (folder / "tags.csv").write_text("\n".join(lines) + "\n")
    return data.load(folder)


Side = Callable[[], int]  # does its work once, gives the number of photos


def measure(sides: dict[str, Side], rounds: int) -> dict[str, float]:
    """Median images/s of each side, the sides in turn, after one round to warm up."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            synchronise()
            began = time.perf_counter()
            photos = side()
            synchronise()
            if turn:
                speeds[name].append(photos / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in speeds.items()}


def synchronise() -> None:
    if compute.device().type == "cuda":
        torch.cuda.synchronize()


def report(name: str, speeds: dict[str, float], workers: int) -> None:
    sides = {side: speed for side, speed in speeds.items() if side not in ("pipeline", "bare loop")}
    slowest = min(sides, key=lambda side: sides[side])
    figures = "  ".join(f"{side} {speed:.1f}" for side, speed in speeds.items())
    of_limit = speeds["input"] / workers / speeds["bare loop"]
    print(f"{name}: {figures} images/s")
    print(
        f"  pipeline / slowest side ({slowest}) {speeds['pipeline'] / sides[slowest]:.2f}   "
        f"pipeline / model {speeds['pipeline'] / speeds['model']:.2f}   input per core / bare loop {of_limit:.2f}",
        flush=True,
    )


def bare_loop(setup: Setup, sizes: Callable[[int, int], Iterable[tuple[int, int]]]) -> Side:
    """One thread that decodes every photo with Pillow and resizes it."""

    def run() -> int:
        samples = setup.dataset.samples[:64]
        for sample in samples:
            with Image.open(sample.image_path) as image:
                pixels = image.convert("RGB")
            for height, width in sizes(pixels.height, pixels.width):
                np.asarray(pixels.resize((width, height), Image.Resampling.BICUBIC))
        return len(samples)

    return run


VIEWS = 640  # of a training: enough that starting the processes that read does not count
VIEWS_ON_DEVICE = 4 * VIEWS  # a GPU sees 640 in a second, in which the processes that read only start


def training(setup: Setup) -> dict[str, Side]:
    """As many epochs as :data:`VIEWS` need."""
    wanted = VIEWS if compute.device().type == "cpu" else VIEWS_ON_DEVICE
    epochs = math.ceil(wanted / len(setup.dataset))
    settings = TrainSettings(epochs=float(epochs), batch_size=setup.batch_size, workers=setup.workers)
    augment = AugmentSettings()
    device = compute.device()

    def source(network_backbone: backbones.Backbone) -> Source:
        return TaggedImages(setup.dataset, augment, (network_backbone.mean, network_backbone.std), 0)

    _, backbone = setup.network()
    steps = Steps(source(backbone), settings.batch_size, 0)
    per_epoch = len(steps.batches_of(0))
    count = epochs * per_epoch
    one = steps[0]

    class Repeated:
        """One batch in memory, again and again."""

        def __len__(self) -> int:
            return per_epoch * settings.batch_size

        def groups(self) -> None:
            return None

        def item(self, epoch: int, index: int) -> int:
            return index

        def collate(self, items: Sequence[int]) -> Any:
            return one

    def trained(of: Source) -> int:
        network, _ = setup.network()
        fit(network, of, settings, setup.folder / "train", seed=0, title="train")
        return count * settings.batch_size

    def read() -> int:
        for batch in batches(steps, settings, 0, count, device):
            if device.type != "cpu":
                batch.to(device)  # on a CPU nothing is copied, and normalising is the device's work
        return count * settings.batch_size

    (setup.folder / "train").mkdir(exist_ok=True)
    low, high = augment.scale  # of a scale that is uniform in its logarithm, the mean of the squares
    area = (high**2 - low**2) / (2 * math.log(high / low))
    middle = [fit_size(375, 500, round(augment.size * math.sqrt(area)))]  # as many pixels as the views' photos have
    return {
        "bare loop": bare_loop(setup, lambda height, width: middle),
        "input": read,
        "model": lambda: trained(Repeated()),
        "pipeline": lambda: trained(source(backbone)),
    }


def localizing(setup: Setup) -> dict[str, Side]:
    """As by default: compared with references, borders by a finer block."""
    network, backbone = setup.network()
    settings, samples = recipe("default").localize, setup.dataset.samples
    plain = MapNetwork(network.eval(), methods.traits(methods.METHODS["cam"].settings()), backbone)
    of_maps = plain.folded().compared(settings)
    show_references(of_maps.network, backbone, draw_references(setup.dataset, settings.references, 0), settings)
    localizer = Localizer(of_maps.network, of_maps.traits, backbone, settings, len(setup.dataset.classes))
    sizes = {sample.id: setup.size(sample) for sample in samples}
    groups = batches_by(samples, lambda s: localizer.group(sizes[s.id]), None, compute.device())

    def localize(batch: Sequence[Sample], inputs: Sequence[Any]) -> Any:
        return localizer(batch, [sizes[sample.id] for sample in batch], inputs)

    def write(sample: Sample, maps: Any) -> None:
        write_maps(setup.folder / "maps" / f"{sample.id}.npz", maps)

    return of_photos(
        setup, groups, lambda s: localizer.read(s, sizes[s.id]), localize, write,
        lambda height, width: [fit_size(height, width, settings.long_side, scale) for scale in settings.scales],
    )  # fmt: skip


def relabelling(setup: Setup) -> dict[str, Side]:
    return segmenting(setup, InferenceSettings(scales=(1.0,)), gate=True)


def predicting(setup: Setup) -> dict[str, Side]:
    return segmenting(setup, InferenceSettings(), gate=False)


def segmenting(setup: Setup, settings: InferenceSettings, *, gate: bool) -> dict[str, Side]:
    """With the photos' tags known, or not."""
    backbone = backbones.build(setup.backbone).to(compute.device())
    segmenter = segment.build(SegmenterSettings(), backbone, len(setup.dataset.classes), setup.backbone)
    segmenter = segment.folded(segmenter.to(compute.device()).eval(), backbone)
    photos = PhotoSegmenter(segmenter, backbone, settings)
    sharpen = refiner(setup.refine)
    groups = batches_by(setup.dataset.samples, lambda s: photos.group(setup.size(s)), None, compute.device())

    def read(sample: Sample) -> Any:
        pixels = read_image(sample.image_path)
        return pixels, photos.read(pixels)

    def forward(batch: Sequence[Sample], inputs: Sequence[Any]) -> Any:
        segmented = photos([pixels.shape[:2] for pixels, _ in inputs], [views for _, views in inputs])
        found = [photo.probabilities for photo in segmented]
        if gate:
            found = [segment.gate_by_tags(scores, s.labels or ())[0] for s, scores in zip(batch, found, strict=True)]
        return [(pixels, scores.cpu()) for (pixels, _), scores in zip(inputs, found, strict=True)]

    def write(sample: Sample, found: Any) -> None:
        pixels, scores = found
        scores = pseudo.refine(pixels, scores, sharpen) if gate else segment.refined(pixels, scores, sharpen)
        write_index_mask(setup.folder / "masks" / f"{sample.id}.png", pseudo.index_mask(scores))

    return of_photos(
        setup, groups, read, forward, write,
        lambda height, width: [fit_size(height, width, settings.long_side, scale) for scale in settings.scales],
    )  # fmt: skip


def of_photos(
    setup: Setup,
    groups: Sequence[Sequence[Sample]],
    read: Callable[[Sample], Any],
    forward: Callable[[Sequence[Sample], Sequence[Any]], Any],
    write: Callable[[Sample, Any], None],
    sizes: Callable[[int, int], Iterable[tuple[int, int]]],
) -> dict[str, Side]:
    """The sides of a per-photo stage."""
    count = sum(map(len, groups))
    kept = groups[: max(1, 64 // len(groups[0]))]
    inputs = [[read(sample) for sample in batch] for batch in kept]
    outputs = [forward(batch, of_batch) for batch, of_batch in zip(kept, inputs, strict=True)]
    pairs = [pair for batch, of in zip(kept, outputs, strict=True) for pair in zip(batch, of, strict=True)]

    def carried_out(compute_batch: Any, write_one: Any) -> int:
        done = concurrency.pipelined(groups, read, compute_batch, write_one, cost=lambda s: 2e6, workers=setup.workers)
        return sum(1 for _ in done)

    def model() -> int:
        for batch, of_batch in zip(kept, inputs, strict=True):
            forward(batch, of_batch)
        return sum(map(len, kept))

    def output() -> int:
        return sum(1 for _ in concurrency.in_order(lambda pair: write(*pair), pairs, setup.workers))

    assert count
    return {
        "bare loop": bare_loop(setup, sizes),
        "input": lambda: carried_out(lambda batch, of_batch: of_batch, lambda sample, found: None),
        "model": model,
        "output": output,
        "pipeline": lambda: carried_out(forward, write),
    }


MEASURED: dict[str, Callable[[Setup], dict[str, Side]]] = {
    "train": training,
    "localize": localizing,
    "relabel": relabelling,
    "predict": predicting,
}

if __name__ == "__main__":
    main()
