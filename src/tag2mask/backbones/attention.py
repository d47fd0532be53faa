"""What the attention of a vision transformer's blocks computes on its way: timm gives its result alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    return attention is not None and all(hasattr(attention, name) for name in ("qkv", "q_norm", "k_norm", "num_heads"))


def step(block: TokenBlock, x: Tensor) -> tuple[Tensor, Heads]:
    """The block's output, and what its attention computed.

    Args:
        x: packed ``[batch channels 1+rows columns]``, as the block takes it.
    """
    attention: Any = block.block.attn
    seen: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        out = block(x)
    finally:
        handle.remove()
    return out, _heads(attention, seen[0])


def _heads(attention: Any, tokens: Tensor) -> Heads:
    """As timm's ``Attention.forward`` computes them of ``[batch tokens channels]``."""
    projected = attention.qkv(tokens).unflatten(2, (3, attention.num_heads, -1))
    queries, keys, values = projected.permute(2, 0, 3, 1, 4).unbind(0)
    return Heads(attention.q_norm(queries), attention.k_norm(keys), values)


def last_heads(backbone: Backbone, images: Tensor) -> Heads:
    """Of the last block that attends, of normalised images ``[batch 3 height width]``."""
    name = attending(backbone)[-1]
    x = backbone.until(images, backbone.names[backbone.position(name) - 1])
    block = backbone.blocks[name]
    assert isinstance(block, TokenBlock)
    return step(block, x)[1]
