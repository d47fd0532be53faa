"""What the attention of a vision transformer's blocks computes on its way: timm gives its result alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tag2mask.backbones.chain import Backbone
from tag2mask.backbones.tokens import TokenBlock
from tag2mask.errors import InputError


@dataclass(frozen=True)
class Heads:
    """Of a block: ``[batch heads tokens channels]`` each, prefix tokens first."""

    queries: Tensor
    keys: Tensor
    values: Tensor

    @property
    def weights(self) -> Tensor:
        """How much each token attends to each, adding up to 1: ``[batch heads tokens tokens]``."""
        return (self.queries @ self.keys.transpose(2, 3) * self.queries.shape[3] ** -0.5).softmax(3)


def attending(backbone: Backbone) -> list[str]:
    """Names of the blocks whose attention can be read, low to high.

    Raises:
        InputError: there is none.
    """
    names = [name for name, block in backbone.blocks.items() if isinstance(block, TokenBlock) and _readable(block)]
    if not names:
        raise InputError(
            f"--backbone {backbone.name} has no attention to read: give a plain vision transformer, such as "
            "vit_small_patch14_dinov2.lvd142m"
        )
    return names


def _readable(block: TokenBlock) -> bool:
    attention: Any = getattr(block.block, "attn", None)
    names = ("qkv", "q_norm", "k_norm", "num_heads")
    return attention is not None and all(getattr(attention, name, None) is not None for name in names)


def step(block: TokenBlock, x: Tensor) -> tuple[Tensor, Heads]:
    """The block's output, and what its attention computed.

    Args:
        x: packed ``[batch channels above+rows columns]``, as the block takes it.
    """
    attention: Any = block.block.attn
    seen: list[tuple[Tensor, Tensor | None]] = []
    handle = attention.register_forward_pre_hook(
        lambda _, inputs, named: seen.append((inputs[0], named.get("rope"))), with_kwargs=True
    )
    try:
        out = block(x)
    finally:
        handle.remove()
    return out, _heads(attention, *seen[0])


def _heads(attention: Any, tokens: Tensor, rope: Tensor | None) -> Heads:
    """As timm's ``Attention.forward`` and ``EvaAttention.forward`` compute them of ``[batch tokens channels]``."""
    projected = attention.qkv(tokens)
    if getattr(attention, "q_bias", None) is not None:
        projected = projected + torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    queries, keys, values = projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    if rope is not None:
        queries, keys = (_turned(attention, part, rope).type_as(values) for part in (queries, keys))
    return Heads(queries, keys, values)


def _turned(attention: Any, part: Tensor, rope: Tensor) -> Tensor:
    """Queries or keys ``[batch heads tokens channels]`` with rotary positions; prefix tokens have none."""
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat

    prefix = attention.num_prefix_tokens
    cells = apply_rot_embed_cat(part[:, :, prefix:], rope, half=attention.rotate_half)
    return torch.cat([part[:, :, :prefix], cells], 2)


def last_heads(backbone: Backbone, images: Tensor) -> Heads:
    """Of the last block that attends, of normalised images ``[batch 3 height width]``."""
    name = attending(backbone)[-1]
    x = backbone.until(images, backbone.names[backbone.position(name) - 1])
    block = backbone.blocks[name]
    assert isinstance(block, TokenBlock)
    return step(block, x)[1]
