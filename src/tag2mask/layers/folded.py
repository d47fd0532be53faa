"""Batch norms folded into the convolutions before them, for inference.

In eval mode a norm multiplies each channel by a constant and adds one, which the convolution's own weights can do
(Jacob et al., CVPR 2018, Sec. 3.2). Maps need gradients through these layers (:mod:`tag2mask.layers.fine_maps`), and
there norms are a fifth of the work on a CPU (benchmarks/maps.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tag2mask.backbones import Backbone
from tag2mask.layers.batch_norm import WholeBatchNorm

TOLERANCE = 0.02
"""Of the largest output, well above rounding on any device; where folding changes more, something was not what it
seemed, and nothing is folded."""


def probe(backbone: Backbone) -> Tensor:
    """A small normalised image ``[1 3 height width]`` of noise on the backbone's device, always the same."""
    side = 64 if backbone.size_divisor == 1 else 4 * backbone.size_divisor
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return noise.to(next(backbone.parameters()).device)


def fold_norms(network: nn.Module, run: Callable[[], Tensor]) -> int:
    """Fold every batch norm that is given a convolution's output, in place: for networks that learn no more and are not
    saved.

    Args:
        network: in eval mode.
        run: a forward pass through it on some small input, always the same; shows which layer follows which.

    Returns:
        How many were folded.
    """
    with torch.inference_mode():
        pairs, before = _followed(network, run)
        places = {child: (parent, name) for parent in network.modules() for name, child in parent.named_children()}
        kept = [(conv, conv.weight, conv.bias, places[norm], norm) for conv, norm in pairs]
    for conv, norm in pairs:
        assert norm.running_mean is not None and norm.running_var is not None
        learns = conv.weight.requires_grad
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = (nn.Parameter(x.detach(), requires_grad=learns) for x in (weight, bias))
        parent, name = places[norm]
        setattr(parent, name, getattr(norm, "act", None) or nn.Identity())
    with torch.inference_mode():
        after = run()
    if len(pairs) and not bool((after - before).abs().amax() <= TOLERANCE * before.abs().amax()):
        for conv, weight, bias, (parent, name), norm in kept:
            conv.weight, conv.bias = weight, bias
            setattr(parent, name, norm)
        return 0
    return len(pairs)


def _followed(network: nn.Module, run: Callable[[], Tensor]) -> tuple[list[tuple[nn.Conv2d, nn.BatchNorm2d]], Tensor]:
    """Convolutions with the norm that is given all that they put out and nothing else; and what ``run`` gave."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by identity; tensors are kept, so that none takes another's place
    given: dict[nn.BatchNorm2d, set[nn.Conv2d | None]] = {}
    times: dict[nn.Module, int] = {}

    def convolved(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = module, output
        times[module] = times.get(module, 0) + 1

    def normed(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        conv, _ = made.get(id(inputs[0]), (None, None))
        given.setdefault(module, set()).add(conv)
        times[module] = times.get(module, 0) + 1

    hooks = [module.register_forward_hook(convolved) for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks += [module.register_forward_pre_hook(normed) for module in network.modules() if _folds(module)]
    try:
        output = run()
    finally:
        for hook in hooks:
            hook.remove()
    pairs = []
    for norm, convs in given.items():
        (conv,) = convs if len(convs) == 1 else (None,)
        if conv is not None and times[conv] == times[norm]:
            pairs.append((conv, norm))
    once = {conv for conv, _ in pairs}
    return (pairs if len(once) == len(pairs) else []), output


def _folds(module: nn.Module) -> bool:
    """A norm whose eval mode is known to be a product and a sum: torch's, ours, or timm's with an activation."""
    known = type(module) in (nn.BatchNorm2d, WholeBatchNorm) or (
        # by name: importing timm takes seconds
        type(module).__name__ == "BatchNormAct2d" and type(module).__module__.startswith("timm.")
    )
    return known and not module.training and module.running_mean is not None and module.weight is not None
