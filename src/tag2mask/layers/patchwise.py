"""Blocks of a backbone on patches of a feature map that cannot see each other, and the merge of their results.

Progressive patch learning (Li et al., TMM 2022) runs on it; so does any other method that cuts a feature map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tag2mask.backbones import Backbone
from tag2mask.errors import InputError
from tag2mask.types import Views


@dataclass(frozen=True)
class Cut:
    """After which block, and into how many patches along each side."""

    block: str
    grid: int


Key = tuple[int, int, int]  # number of the cut; row and column of the patch in its grid
UNCUT: Key = (-1, 0, 0)


def patchwise(
    backbone: Backbone,
    views: Views,
    cuts: Sequence[Cut],
    *,
    detach: bool = False,
    whole: bool = False,
    together: bool | None = None,
) -> tuple[list[Tensor], Tensor]:
    r"""The merged maps :math:`\hat F_i` of some cuts, and the uncut map :math:`F_N`, in one pass up the blocks.

    Blocks below a cut run once. Patches of one size go through a block in one call, on the batch axis; patches differ
    in size only where the grid does not divide the map. What is pointwise at the end of the chain (EfficientNet's 1x1
    head) does not notice the cut, so the merge comes before it.

    Args:
        views: photos, or the output of the block up to which the backbone is frozen.
        detach: patches do not pass gradients on to the blocks below their cut.
        whole: cut a map with fewer cells than the grid into as many parts as it has cells.
        together: what has the same size also shares a call across cuts, and with the uncut map. None: on accelerators;
            on a CPU the larger batch only leaves its cache (an explicit step took 8 % longer).

    Returns:
        For each cut ``[batch channels rows columns]``, and the uncut map, of the same size.

    Raises:
        InputError: a grid finer than the map; a cut below the stored block; a patch too narrow for a ViT's prefix.
    """
    names = backbone.names
    if views.stored:
        assert backbone.frozen_until is not None, "stored features without a frozen trunk"
        below, x = backbone.frozen_until, views.images
        for cut in cuts:
            check_above(cut.block, backbone)
    else:
        below, x = names[0], backbone.until(views.images, names[0])
    mixing = [i for i, name in enumerate(names) if not backbone.pointwise(name)]
    last = names[max([*mixing, *(backbone.position(cut.block) for cut in cuts)])]
    if backbone.prefix(last) is not None:
        last = names[-1]  # tokens are merged when the prefix is gone
    together = x.device.type != "cpu" if together is None else together
    groups: list[tuple[list[Key], Tensor]] = [([UNCUT], x)]
    for name in names[backbone.position(below) :]:
        if name != below:
            groups = [(keys, backbone.blocks[name](maps)) for keys, maps in groups]
        here = [number for number, cut in enumerate(cuts) if cut.block == name]
        if here:
            pieces = _pieces(groups)
            source = pieces[UNCUT].detach() if detach else pieces[UNCUT]
            for number in here:
                patches = split(source, backbone, cuts[number], whole=whole)
                pieces |= {(number, i, j): patch for i, row in enumerate(patches) for j, patch in enumerate(row)}
            groups = _by_size(pieces, together)
        if name == last:
            groups = _by_size(_merged(_pieces(groups)), together)
    pieces = _pieces(groups)
    return [pieces[number, 0, 0] for number in range(len(cuts))], pieces[UNCUT]


def edges(length: int, parts: int, step: int = 1) -> tuple[int, ...]:
    r"""Where to cut ``length`` cells: :math:`y_j = \lfloor jL / k \rfloor`, counted in units of ``step`` cells.

    With the stride that the blocks above still have as ``step``, every patch but the last holds whole cells of the
    final map. What is left of ``length`` beyond a multiple of ``step`` belongs to the last patch, as it belongs to the
    last cell of the uncut map; so the merged map has the uncut one's size, and nothing is padded or cropped. (Networks
    that pad by size, as TensorFlow's do, see an odd map half a cell beside an even one: where the size is odd, merged
    and uncut maps are that far apart.)

    Returns:
        ``parts + 1`` growing positions, from 0 to ``length``.

    Raises:
        InputError: more parts than cells.
    """
    cells = max(length // step, 1)
    if parts > cells:
        raise InputError(
            f"a grid of {parts} patches a side is finer than the map, which has {cells} cells along a side: "
            "use a coarser grid (--ppl.grids) or larger views"
        )
    return (*(j * cells // parts * step for j in range(parts)), length)


def split(x: Tensor, backbone: Backbone, cut: Cut, *, whole: bool = False) -> list[list[Tensor]]:
    """:math:`P_k`: the output of ``cut.block`` in patches, row by row. For ``whole`` see :func:`patchwise`."""
    assert backbone.strides, "a chain without strides cannot be cut"
    step = max(1, backbone.stride // backbone.strides[cut.block])
    rows, columns = backbone.grid(x, cut.block)
    down = across = cut.grid
    if whole:
        narrowest = max(1, backbone.prefix(cut.block) or 1)  # a row of prefix tokens must fit in
        down = max(1, min(down, rows // step))
        across = max(1, min(across, columns // max(step, narrowest)))
    y, x_ = edges(rows, down, step), edges(columns, across, step)
    return [
        [backbone.crop(x, cut.block, slice(y[i], y[i + 1]), slice(x_[j], x_[j + 1])) for j in range(across)]
        for i in range(down)
    ]


def merge(patches: Sequence[Sequence[Tensor]]) -> Tensor:
    """:math:`M`: patches ``[batch channels rows columns]``, row by row, back to one map."""
    rows = [row[0] if len(row) == 1 else torch.cat(list(row), 3) for row in patches]
    return rows[0] if len(rows) == 1 else torch.cat(rows, 2)


def _by_size(pieces: Mapping[Key, Tensor], together: bool) -> list[tuple[list[Key], Tensor]]:
    """Pieces of equal size, of one cut or ``together`` of all, on one batch axis."""
    groups: dict[object, list[Key]] = {}
    for key, piece in pieces.items():
        groups.setdefault((piece.shape[2:], 0 if together else key[0]), []).append(key)
    return [
        (keys, pieces[keys[0]] if len(keys) == 1 else torch.cat([pieces[key] for key in keys]))
        for keys in groups.values()
    ]


def _pieces(groups: Sequence[tuple[list[Key], Tensor]]) -> dict[Key, Tensor]:
    """The inverse of :func:`_by_size`."""
    return {key: piece for keys, maps in groups for key, piece in zip(keys, maps.chunk(len(keys)), strict=True)}


def _merged(pieces: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """The patches of each cut in one map, under the key of its first patch."""
    grids: dict[int, list[list[Tensor]]] = {}
    for number, i, j in sorted(pieces):
        if j == 0:
            grids.setdefault(number, []).append([])
        grids[number][i].append(pieces[number, i, j])
    return {(number, 0, 0): merge(rows) for number, rows in grids.items()}


def check_above(block: str, backbone: Backbone) -> None:
    frozen = backbone.frozen_until
    assert frozen is not None
    if backbone.position(block) < backbone.position(frozen):
        raise InputError(
            f"a cut after '{block}' lies below '{frozen}', whose output is stored: cut after {frozen} or higher, or "
            f"freeze less (--freeze-until {block})"
        )
