"""A vision transformer's tokens as a chain of blocks hands them on: ``[batch channels above+rows columns]``, prefix
tokens (class, registers) in the first row, or in as many as a narrow grid needs, so that a half-way state can be stored
and taken up again like any other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tag2mask.errors import InputError


class Tokens(nn.Module):
    """Images to position-embedded tokens, packed (the module docstring says how)."""

    needs = (
        "norm_pre", "pos_drop", "cls_token", "reg_token", "pos_embed", "no_embed_class", "dynamic_img_size",
    )  # fmt: skip  # what timm's plain ViTs and those of rotary positions (DINOv3) have, which it resizes

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.patch_embed, self.norm_pre, self.pos_drop = vit.patch_embed, vit.norm_pre, vit.pos_drop
        self.cls_token, self.reg_token, self.pos_embed = vit.cls_token, vit.reg_token, vit.pos_embed
        self.num_prefix_tokens, self.no_embed_class = vit.num_prefix_tokens, vit.no_embed_class
        self.dynamic_img_size, self.num_reg_tokens = vit.dynamic_img_size, getattr(vit, "num_reg_tokens", 0)
        self.rope = rope_of(vit)
        if hasattr(vit, "dist_token"):  # DeiT's second prefix token
            self.dist_token = vit.dist_token
        self.patch = tuple(vit.patch_embed.patch_size)
        self._embed = type(vit)._pos_embed
        self.patch_drop = nn.Identity() if self.rope is None else None

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if height < self.patch[0] or width < self.patch[1]:
            raise InputError(
                f"a photo of {height}x{width} pixels is smaller than a patch of {self.patch[0]}x{self.patch[1]}: "
                "enlarge it, or use a backbone with smaller patches"
            )
        if height % self.patch[0] or width % self.patch[1]:
            raise InputError(
                f"a photo of {height}x{width} pixels is no whole number of patches of {self.patch[0]}x{self.patch[1]}: "
                "resize or pad it"
            )
        grid = self.patch_embed(images)  # [batch rows columns channels], dynamic size
        rows, columns = grid.shape[1:3]
        tokens = self._embed(self, grid)
        tokens = self.norm_pre(tokens if self.rope is None else tokens[0])
        return _pack(tokens, self.num_prefix_tokens, rows, columns)


def rope_of(vit: Any) -> nn.Module | None:
    """What gives the rotary positions of a grid; None for a transformer whose positions are added to the tokens."""
    return getattr(vit, "rope", None)


class TokenBlock(nn.Module):
    """A block, of packed tokens.

    Args:
        rope: of :func:`rope_of`; registered by :class:`Tokens`.
    """

    def __init__(self, block: nn.Module, prefix: int, rope: nn.Module | None = None) -> None:
        super().__init__()
        self.block, self.prefix = block, prefix
        self._rope = (rope,)  # a tuple, so that it is not registered again

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = cells_of(x, self.prefix).shape[2:]
        return _pack(self.of_tokens(unpack(x, self.prefix), (rows, columns)), self.prefix, rows, columns)

    def of_tokens(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """``[batch prefix+cells channels]``, cells of this (rows, columns), to the same."""
        (rope,) = self._rope
        if rope is None:
            return self.block(tokens)
        return self.block(tokens, rope=rope.get_embed(shape=grid))  # pyright: ignore[reportCallIssue]


class TokenGrid(nn.Module):
    """The final norm, prefix tokens dropped, tokens back in their grid."""

    def __init__(self, norm: nn.Module, prefix: int) -> None:
        super().__init__()
        self.norm, self.prefix = norm, prefix

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = cells_of(x, self.prefix).shape[2:]
        tokens = self.norm(unpack(x, self.prefix))[:, self.prefix :]
        return tokens.transpose(1, 2).unflatten(2, (rows, columns))


def prefix_rows(prefix: int, columns: int) -> int:
    """Rows that prefix tokens take above a grid so wide: one, or more above a grid that is narrower than they are."""
    return 1 if prefix <= columns else -(-prefix // columns)


def _pack(tokens: Tensor, prefix: int, rows: int, columns: int) -> Tensor:
    above = prefix_rows(prefix, columns)
    # not len(): it is a plain number, at which an export would fix the batch
    first = tokens.new_zeros(tokens.shape[0], above * columns, tokens.shape[2])
    first[:, :prefix] = tokens[:, :prefix]
    return torch.cat([first, tokens[:, prefix:]], 1).transpose(1, 2).unflatten(2, (above + rows, columns))


def unpack(x: Tensor, prefix: int) -> Tensor:
    """Packed ``[batch channels above+rows columns]`` to tokens ``[batch prefix+cells channels]``."""
    tokens = x.flatten(2).transpose(1, 2)
    above = prefix_rows(prefix, x.shape[3]) * x.shape[3]
    return torch.cat([tokens[:, :prefix], tokens[:, above:]], 1)


def cells_of(x: Tensor, prefix: int) -> Tensor:
    """The grid ``[batch channels rows columns]`` of packed tokens."""
    return x[:, :, prefix_rows(prefix, x.shape[3]) :]


def part_of(x: Tensor, prefix: int, rows: slice, columns: slice) -> Tensor:
    """A part of the grid of packed tokens, packed with its own copy of the prefix tokens."""
    part = cells_of(x, prefix)[:, :, rows, columns]
    tokens = torch.cat([unpack(x, prefix)[:, :prefix], part.flatten(2).transpose(1, 2)], 1)
    return _pack(tokens, prefix, part.shape[2], part.shape[3])
