"""Maps from references by any method: against the formula cell by cell, and in a run."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localizing import batch
from tag2mask import checks
from tag2mask.errors import InputError
from tag2mask.layers import class_references, cross_attention
from tag2mask.layers.class_references import ComparedWithReferences, compared_traits
from tag2mask.methods import METHODS
from tag2mask.protocols import ClassMaps, Localizes, Traits, UsesReferences, Views
from tag2mask.recipes import RECIPES, RunSettings, recipe, with_method
from tag2mask.types import Reference
from world import SMALL, manifest, redone, run, stamps


class Linear(nn.Module):
    """Features are the pixels; class scores are linear in them."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def features_and_scores(self, views: Views) -> tuple[Tensor, Tensor]:
        return views.images, torch.einsum("kc,bcij->bkij", self.weight, views.images)


def compared(method: nn.Module, *references: Reference) -> ComparedWithReferences:
    found = ComparedWithReferences(method)
    found.prepare_localization(references)
    return found


def by_the_formula(features: Tensor, shown: list[tuple[Tensor, Tensor]]) -> Tensor:
    """One photo ``[channels rows columns]`` and one class, in double precision, cell by cell."""
    rows, columns = features.shape[1:]
    out = torch.zeros(rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            f = features[:, i, j].double()
            for keys, scores in shown:
                weights = []
                for q in keys.flatten(1).T.double():
                    weights.append(math.exp(float(f @ q / f.norm() / q.norm()) / class_references.TEMPERATURE))
                best = max(float(scores.max()), 1e-5)
                values = [w * max(0.0, float(z)) / best for w, z in zip(weights, scores.flatten(), strict=True)]
                out[i, j] += sum(values) / sum(weights) / len(shown)
    return out


def test_maps_are_the_formula() -> None:
    """References of different sizes, two classes, a photo with one of them."""
    generator = torch.Generator().manual_seed(0)
    method = Linear(torch.randn(2, 5, generator=generator))
    photos = torch.randn(2, 5, 3, 4, generator=generator)
    others = [torch.randn(1, 5, *size, generator=generator) for size in ((2, 3), (4, 4), (3, 2))]
    network = compared(method, Reference(others[0], (0, 1)), Reference(others[1], (0,)), Reference(others[2], (1,)))
    assert isinstance(network, Localizes) and isinstance(network, UsesReferences) and isinstance(method, ClassMaps)
    maps = network.localize(batch(photos, torch.tensor([[1.0, 1.0], [0.0, 1.0]])))
    for row, label, used in ((0, 0, (0, 1)), (0, 1, (0, 2)), (1, 1, (0, 2))):
        shown = [(others[k][0], torch.einsum("c,cij->ij", method.weight[label], others[k][0])) for k in used]
        expected = by_the_formula(photos[row], shown)
        torch.testing.assert_close(maps[row, label].double(), expected, rtol=1e-3, atol=1e-4)
    assert not maps[1, 0].any(), "a class that the photo is not tagged with"


def test_a_cell_takes_the_score_of_the_reference_cell_that_looks_like_it() -> None:
    head, body, grass = torch.eye(3)
    photo = torch.stack([head, body, grass], 1)[None, :, None]  # [1 3 1 3]
    network = compared(Linear(torch.tensor([[1.0, 0.8, -1.0]])), Reference(photo.flip(3), (0,)))
    found = network.localize(batch(photo, torch.ones(1, 1)))[0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([1.0, 0.8, 0.0]), rtol=1e-4, atol=1e-4)


def test_many_cells_in_parts_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    network = compared(
        Linear(torch.randn(1, 6, generator=generator)), Reference(torch.randn(1, 6, 3, 3, generator=generator), (0,))
    )
    photos = batch(torch.randn(2, 6, 4, 5, generator=generator), torch.ones(2, 1))
    whole = network.localize(photos)
    attend = cross_attention.attend_to_references
    monkeypatch.setattr(class_references, "attend_to_references", lambda *x: attend(*x, limit=2 * 9 * 3))
    torch.testing.assert_close(network.localize(photos), whole)


def test_products_in_bfloat16_give_the_same_maps() -> None:
    """Rectified features have much in common; it is no part of the products, or rounding would show more."""
    generator = torch.Generator().manual_seed(3)
    kinds, common = torch.rand(6, 64, generator=generator), 2 * torch.rand(64, generator=generator)
    drawn = [kinds[torch.randint(6, (1, 12, 12), generator=generator)] for _ in range(2)]
    photo, other = ((common + x + 0.3 * torch.rand(x.shape, generator=generator)).movedim(3, 1) for x in drawn)
    mean = other.mean((0, 2, 3))
    weight = torch.randn(64, generator=generator)
    weight -= (weight @ mean) / (mean @ mean) * mean  # scores of either sign
    method, reference, photos = Linear(weight[None]), Reference(other, (0,)), batch(photo, torch.ones(1, 1))
    in_float32 = compared(method, reference)
    whole = in_float32.localize(photos)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = compared(method, reference)
    assert rounded.references[0].keys[False].dtype == torch.bfloat16
    off = (rounded.localize(photos) - whole).abs()
    assert off.max() < 5e-3 < 0.1 * whole.max()
    keys = F.normalize(other, dim=1).flatten(2) / class_references.TEMPERATURE
    bare = compared(method)
    bare.references = {0: in_float32.references[0]._replace(keys={False: keys.bfloat16()})}
    assert off.mean() < 0.6 * (bare.localize(photos) - whole).abs().mean()


def test_a_reference_in_which_the_class_is_missed_pulls_nothing_below_zero() -> None:
    """Where signed scores are averaged, as MCIS does, the object vanishes."""
    photo = torch.eye(3)[None, :, None]
    method = Linear(torch.tensor([[1.0, -1.0, -1.0]]))
    seen, missed = Reference(photo, (0,)), Reference(torch.eye(3)[:, 1:2].expand(3, 4)[None, :, None], (0,))
    alone, both = (
        compared(method, *shown).localize(batch(photo, torch.ones(1, 1))) for shown in ([seen], [seen, missed])
    )
    torch.testing.assert_close(both, alone / 2)


def test_the_same_reference_many_times_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(2)
    method = Linear(torch.randn(1, 4, generator=generator))
    photo, other = torch.randn(1, 4, 3, 3, generator=generator), torch.randn(1, 4, 2, 5, generator=generator)
    once, thrice = (compared(method, *[Reference(other, (0,))] * n) for n in (1, 3))
    photos = batch(photo, torch.ones(1, 1))
    torch.testing.assert_close(once.localize(photos), thrice.localize(photos))


def test_traits_of_compared_maps() -> None:
    """No probabilities any more, so no threshold from a background that the maps no longer have."""
    own = Traits(maps="probabilities", class_maps=True)
    assert compared_traits(own, 0) is own
    found = compared_traits(own, 4)
    assert found.references == 4 and found.maps == "evidence" and found.threshold_rule == "features"


def test_references_go_with_methods_that_have_class_maps_and_none_of_their_own() -> None:
    settings = RunSettings(localize=replace(RunSettings().localize, references=3))
    checks.check_names(settings)
    mcis = replace(settings, method="mcis", options=METHODS["mcis"].settings())
    with pytest.raises(InputError, match=r"mcis compares with 3 references of its own.*--mcis\.references 0"):
        checks.check_names(mcis)
    checks.check_names(replace(mcis, options=replace(mcis.options, references=0)))
    checks.check_names(with_method(settings, "mcis"))  # which has none of the default's

    class Without:
        traits = Traits()

    with pytest.raises(InputError, match="--references needs class maps, and --method cam has none"):
        checks.check_names(replace(settings, options=Without()))


@pytest.mark.parametrize("name", [n for n in RECIPES if "/" in n or n in ("eps", "smaf")])
def test_the_papers_recipes_have_no_references_of_ours(name: str) -> None:
    assert recipe(name).localize.references == 0


@pytest.fixture(scope="module")
def labelled(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose maps are the method's own."""
    out = tmp_path_factory.mktemp("references") / "run"
    assert run("label", world, "--out", out, *SMALL, "--references", "0") == 0
    return out


def test_references_train_nothing_anew(labelled: Path, world: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "run", stamps(labelled)
    shutil.copytree(labelled, out)
    assert "'between'" in manifest(out, "masks")["threshold_from"]
    assert run("label", world, "--out", out, *SMALL, "--references", "2") == 0
    assert redone(before, stamps(out)) == {"maps", "separation", "masks", "scores"}
    assert "'features'" in manifest(out, "masks")["threshold_from"]
    assert any(p.read_bytes() != (labelled / "maps" / p.name).read_bytes() for p in (out / "maps").glob("*.npz"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [("--freeze", "--scales", "1"), ("--scales", "0.5,1"), ("--method", "apc", "--apc.no-single-stage"),
     ("--self-train", "smaf", "--student-train.epochs", "1", "--student-train.batch-size", "4")],
    ids=["frozen", "scales", "probabilities", "student"],
)  # fmt: skip
def test_references_in_a_run(flags: tuple[str, ...], world: Path, tmp_path: Path) -> None:
    """Again from nothing, they give the same maps; a student has learnt from them and has none."""
    store = ("--features.folder", tmp_path / "features")
    for name in ("one", "two"):
        assert run("label", world, "--out", tmp_path / name, *SMALL, *flags, *store, "--references", "2") == 0
    paths = sorted((tmp_path / "one" / "maps").glob("*.npz"))
    assert len(paths) == 9
    for path in paths:
        assert path.read_bytes() == (tmp_path / "two" / "maps" / path.name).read_bytes()
        with np.load(path) as file:
            assert "covered" not in file
            assert np.isfinite(file["scores"]).all() and file["scores"].max() > 0.9
    for path in (tmp_path / "one" / "self-maps-1").glob("*.npz"):
        assert "covered" in np.load(path)
