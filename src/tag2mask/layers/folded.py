"""Batch norms folded into the convolutions before them, and activations computed by these, for inference.

In eval mode a norm multiplies each channel by a constant and adds one, which the convolution's own weights can do
(Jacob et al., CVPR 2018, Sec. 3.2). Maps need gradients through these layers (:mod:`tag2mask.layers.fine_maps`), and
there norms are a fifth of the work on a CPU (benchmarks/maps.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tag2mask.backbones import Backbone
from tag2mask.backbones.activations import Activation
from tag2mask.backbones.depthwise import DepthwiseConv2d
from tag2mask.layers.batch_norm import WholeBatchNorm

TOLERANCE = 0.02
"""Of the largest output, well above rounding on any device; where folding changes more, something was not what it
seemed, and nothing is folded."""


def fold(network: nn.Module, run: Callable[[], Tensor]) -> None:
    """All of this module, in place: :func:`fold_norms`, then :func:`join_activations`."""
    fold_norms(network, run)
    join_activations(network, run)


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
    followed, before = _followed(network, run, _folds)
    pairs = [(conv, cast(nn.BatchNorm2d, norm)) for conv, norm in followed]
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
    if _changed(run, before):
        for conv, weight, bias, (parent, name), norm in kept:
            conv.weight, conv.bias = weight, bias
            setattr(parent, name, norm)
        return 0
    return len(pairs)


def join_activations(network: nn.Module, run: Callable[[], Tensor]) -> int:
    """Let convolutions compute the ReLU or ReLU6 that is given their output, in place: for networks that are not saved.

    An activation of its own is two passes over memory more, four times what the convolution itself takes on large maps.
    oneDNN applies it to what it has in hand. On other devices, and where something learns, nothing changes.

    Args:
        network: in eval mode.
        run: as of :func:`fold_norms`.

    Returns:
        How many were joined.
    """
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise") or not torch.backends.mkldnn.is_available():
        return 0
    pairs, before = _followed(network, run, _joins)
    places = {child: (parent, name) for parent in network.modules() for name, child in parent.named_children()}
    pairs = [(conv, activation) for conv, activation in pairs if _plain(conv)]
    for conv, activation in pairs:
        for module, new in ((conv, ActivatedConv2d(conv, activation)), (activation, nn.Identity())):
            parent, name = places[module]
            setattr(parent, name, new)
    if _changed(run, before):
        for module in (module for pair in pairs for module in pair):
            parent, name = places[module]
            setattr(parent, name, module)
        return 0
    return len(pairs)


class ActivatedConv2d(nn.Module):
    """A convolution and the activation after it, computed together on a CPU where nothing learns."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.activation = conv, activation
        self.how = cast("tuple[str, list[float]]", _in_onednn(activation))

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        learns = torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
        if learns or not x.is_cpu or dtype not in _dtypes():
            return self.activation(conv(x))
        depthwise = isinstance(conv, DepthwiseConv2d)
        x, weight, padding = conv.at_once(x) if depthwise else (x, conv.weight, conv.padding)
        bias = None if conv.bias is None else conv.bias.to(dtype)
        return torch.ops.mkldnn._convolution_pointwise(
            x.to(dtype), weight.to(dtype), bias, padding, conv.stride, conv.dilation, conv.groups, *self.how, None
        )


@functools.cache
def _dtypes() -> tuple[torch.dtype, ...]:
    """What oneDNN computes in on this processor; where it has no bfloat16, torch's own convolution still has."""
    return (torch.float32, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)


def _in_onednn(activation: nn.Module) -> tuple[str, list[float]] | None:
    """Name and limits by which oneDNN knows an activation; None: it is not one that convolutions compute here."""
    own = activation.function if isinstance(activation, Activation) else None
    if own is F.relu6 or type(activation) is nn.ReLU6:
        return "hardtanh", [0.0, 6.0]
    return ("relu", []) if type(activation) is nn.ReLU else None


def _plain(conv: nn.Conv2d) -> bool:
    """Its padding is zeros, so many of them."""
    known = type(conv) in (nn.Conv2d, DepthwiseConv2d)
    return known and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _joins(module: nn.Module) -> bool:
    return _in_onednn(module) is not None


def _changed(run: Callable[[], Tensor], before: Tensor) -> bool:
    """Whether a network gives something else than it did, beyond rounding."""
    with torch.inference_mode():
        after = run()
    return not bool((after - before).abs().amax() <= TOLERANCE * before.abs().amax())


def _followed(
    network: nn.Module, run: Callable[[], Tensor], second: Callable[[nn.Module], bool]
) -> tuple[list[tuple[nn.Conv2d, nn.Module]], Tensor]:
    """Convolutions with the module, of those that are ``second``, that is given all that they put out and nothing else;
    and what ``run`` gave."""
    # by identity of the output, which is kept, or another tensor would take its place; its version, as it was then
    made: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}
    given: dict[nn.Module, set[nn.Conv2d | None]] = {}
    times: dict[nn.Module, int] = {}

    def convolved(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = module, output, output._version
        times[module] = times.get(module, 0) + 1

    def passed_on(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        conv, _, version = made.get(id(inputs[0]), (None, None, 0))
        conv = conv if inputs[0]._version == version else None  # a shortcut was added to it meanwhile, in place
        given.setdefault(module, set()).add(conv)
        times[module] = times.get(module, 0) + 1

    hooks = [module.register_forward_hook(convolved) for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks += [module.register_forward_pre_hook(passed_on) for module in network.modules() if second(module)]
    try:
        with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode have no version
            output = run()
    finally:
        for hook in hooks:
            hook.remove()
    pairs = []
    for module, convs in given.items():
        (conv,) = convs if len(convs) == 1 else (None,)
        if conv is not None and times[conv] == times[module]:
            pairs.append((conv, module))
    once = {conv for conv, _ in pairs}
    return (pairs if len(once) == len(pairs) else []), output


def _folds(module: nn.Module) -> bool:
    """A norm whose eval mode is known to be a product and a sum: torch's, ours, or timm's with an activation."""
    known = type(module) in (nn.BatchNorm2d, WholeBatchNorm) or (
        # by name: importing timm takes seconds
        type(module).__name__ == "BatchNormAct2d" and type(module).__module__.startswith("timm.")
    )
    if not known:
        return False
    assert isinstance(module, nn.BatchNorm2d)
    return not module.training and module.running_mean is not None and module.weight is not None
