"""One small interface over all backbones: a chain of named blocks from images to a feature grid.

A convolutional network hands ``[batch channels rows columns]`` from block to block; how a vision transformer's tokens
travel is in :mod:`tag2mask.backbones.tokens`. The last block gives the plain grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from tag2mask.backbones.settings import BackboneSettings
from tag2mask.backbones.tokens import TokenBlock, TokenGrid, Tokens, cells_of, part_of
from tag2mask.errors import unknown
from tag2mask.types import Views


class Backbone(nn.Module):
    """A chain of named blocks.

    Attributes:
        channels: of the last block's output.
        stride: pixels per cell of the last block's output.
        multiple: image sides must be a multiple of this (a ViT's patch; 1 for a CNN).
        mean, std: the normalisation its weights were trained with (per RGB channel, images in [0, 1]).
        blocks: the blocks in order.
        strides: pixels per cell of each block's output, by name (empty when the chain was built without them).
        built: from what :func:`tag2mask.backbones.build` built it; None: it did not.
        top: layers of the pretrained model above the last block of a vision transformer, low to high: CLIP's
            projection, SigLIP's pooling, a classifier; empty: none, or their weights were not given. They are no part
            of the backbone: a method that has a use for them takes them over.
    """

    def __init__(
        self,
        blocks: Sequence[tuple[str, nn.Module]],
        channels: int,
        stride: int,
        mean: Any,
        std: Any,
        size_divisor: int = 1,
        strides: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({name: block for name, block in blocks})
        self.channels, self.stride, self.size_divisor = channels, stride, size_divisor
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.strides: dict[str, int] = dict(zip(self.names, strides, strict=True)) if strides else {}
        self.frozen_until: str | None = None
        self.built: BackboneSettings | None = None
        self.top: tuple[nn.Module, ...] = ()  # a tuple, so that they are not registered

    @property
    def name(self) -> str:
        """That it was built by; empty: by none."""
        return "" if self.built is None else self.built.name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.blocks)

    def position(self, block: str) -> int:
        """Index of a named block; an unknown name is an error that lists them."""
        if block not in self.blocks:
            raise unknown("block of this backbone", block, self.names)
        return self.names.index(block)

    def until(self, images: Tensor, block: str) -> Tensor:
        """Normalised images ``[batch 3 height width]`` to the output of ``block``, inclusive."""
        x = images
        for name in self.names[: self.position(block) + 1]:
            x = self.blocks[name](x)
        return x

    def forward_from(self, x: Tensor, block: str) -> Tensor:
        """The output of ``block`` to features ``[batch channels rows columns]``."""
        for name in self.names[self.position(block) + 1 :]:
            x = self.blocks[name](x)
        return x

    def outputs(self, images: Tensor, blocks: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, grid ``[batch channels rows columns]``) of the named blocks on the way up; a ViT's without its
        prefix tokens."""
        last = max(self.position(block) for block in blocks)
        x = images
        for name in self.names[: last + 1]:
            x = self.blocks[name](x)
            if name in blocks:
                prefix = self.prefix(name)
                yield name, x if prefix is None else cells_of(x, prefix)

    def features(self, views: Views) -> Tensor:
        """Features ``[batch channels rows columns]`` of photos, from wherever they start."""
        return self(views.images, stored=views.stored)

    def forward(self, images: Tensor, *, stored: bool = False) -> Tensor:
        """Features ``[batch channels rows columns]`` of normalised images, or of the stored trunk's output."""
        if stored:
            assert self.frozen_until is not None, "stored features without a frozen trunk"
            return self.forward_from(images, self.frozen_until)
        return self.forward_from(self.until(images, self.names[0]), self.names[0])

    def prefix(self, block: str) -> int | None:
        """Number of prefix tokens above the grid of ``block``'s output; None where it is a plain grid."""
        module = self.blocks[block]
        if isinstance(module, Tokens):
            return module.num_prefix_tokens
        return module.prefix if isinstance(module, TokenBlock) else None

    def pointwise(self, block: str) -> bool:
        """Whether each cell of ``block``'s output depends on the same cell of its input alone, as far as we know it."""
        return is_pointwise(self.blocks[block])

    def grid(self, x: Tensor, block: str) -> tuple[int, int]:
        """Rows and columns of cells in ``x``, the output of ``block``; rows of prefix tokens are none of them."""
        prefix = self.prefix(block)
        cells = x if prefix is None else cells_of(x, prefix)
        return cells.shape[2], cells.shape[3]

    def crop(self, x: Tensor, block: str, rows: slice, columns: slice) -> Tensor:
        """A part of ``x``, the output of ``block``, that the blocks above take for the whole.

        A part of a ViT's tokens gets its own copy of the prefix tokens.
        """
        prefix = self.prefix(block)
        return x[:, :, rows, columns] if prefix is None else part_of(x, prefix, rows, columns)

    @property
    def resolutions(self) -> dict[str, int]:
        """Pixels per cell of each block's output as it was pretrained: a stride that became dilation is still one."""
        resolutions: dict[str, int] = {}
        reached = 1
        for name, block in self.blocks.items():
            dilations = (max(m.dilation) for m in block.modules() if isinstance(m, nn.Conv2d))
            reached = max(reached, self.strides[name] * max(dilations, default=1))
            resolutions[name] = reached
        return resolutions

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        """All of them (:class:`tag2mask.protocols.DeclaresPretrained`)."""
        return self.parameters()

    def freeze_until(self, block: str) -> None:
        """No gradient reaches ``block`` and those below it."""
        for name in self.names[: self.position(block) + 1]:
            self.blocks[name].requires_grad_(False)
        self.frozen_until = block

    def train(self, mode: bool = True) -> Backbone:
        """Batch statistics stay those of the pretraining: batches are small and partly padding."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def is_pointwise(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential):
        return all(map(is_pointwise, module))
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.stride == (1, 1) and module.padding in ((0, 0), 0)
    if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm, TokenGrid)):
        return True
    bare = not list(module.children()) and not list(module.parameters())  # activation, dropout, identity; not pooling
    return bare and not hasattr(module, "kernel_size") and not hasattr(module, "output_size")
