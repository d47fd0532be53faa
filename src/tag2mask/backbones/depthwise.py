"""Depthwise convolutions whose gradients are fast on a CPU.

torch leaves them to oneDNN, which goes through slow reference code for the kernels of mobile networks: on 1152 channels
of 16x16 cells with 5x5 taps, dilation 2, in bfloat16, forward takes 3 ms and backward 160 ms. The same gradients come
from operations that are fast there: that of the input is a convolution of the output's gradient with the mirrored
kernel, and that of the weights is computed in 3x3 parts, of a dilated kernel on the phases of the map, on which it is
a plain one, and of stride 2 likewise; any other stride is taken as outputs left out. A CAM step on EfficientNet-Lite0
takes 0.5 of the time in bfloat16, 0.9 in float32. Outputs are torch's own, to the bit.
"""

from __future__ import annotations

from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Borders = tuple[int, int, int, int]
"""Cells of padding left, right, above and below, as of ``F.pad``."""


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution; other devices than CPUs see torch's own.

    ``same``: the input is padded by its size first, as TensorFlow does (timm's ``Conv2dSame``).
    """

    same = False

    @staticmethod
    def serves(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Whether ``conv`` is of the kind this class computes, and of no subclass we do not know."""
        if not (isinstance(conv, nn.Conv2d) and (type(conv) is nn.Conv2d or _pads_itself(conv))):
            return False
        if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            return False
        depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
        square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.dilation, conv.padding))
        reach = conv.dilation[0] * (conv.kernel_size[0] - 1)
        return depthwise and square and conv.kernel_size[0] % 2 == 1 and conv.padding[0] <= reach

    @staticmethod
    def of(conv: nn.Conv2d) -> DepthwiseConv2d:
        """The same convolution with the same tensors."""
        channels, size = conv.in_channels, conv.kernel_size[0]
        stride, padding, dilation = conv.stride[0], int(conv.padding[0]), conv.dilation[0]
        with torch.device("meta"):
            new = DepthwiseConv2d(channels, channels, size, stride, padding, dilation, channels)
        new.weight, new.bias, new.same = conv.weight, conv.bias, _pads_itself(conv)
        return new.train(conv.training)

    def forward(self, input: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        if input.device.type != "cpu" or torch.compiler.is_exporting():  # an exporter knows timm's padding
            return super().forward(self._as_timm_pads(input))
        if not learns:
            input, weight, padding = self.at_once(input)
            return F.conv2d(input, weight, self.bias, self.stride, padding, self.dilation, self.groups)
        if torch.is_autocast_enabled("cpu"):
            input = input.to(torch.get_autocast_dtype("cpu"))
        stride, padding, dilation = self.stride[0], int(self.padding[0]), self.dilation[0]
        return cast(
            Tensor, _Depthwise.apply(input, self.weight, self.bias, stride, padding, dilation, self._borders(input))
        )

    def at_once(self, input: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Input, weights and padding of a plain convolution that gives the same. One cell more of padding below than
        above is a row of zeros on top of the kernel, and the input need not be copied."""
        if not self.same:
            return input, self.weight, cast("tuple[int, int]", self.padding)
        left, right, top, bottom = borders = self._borders(input)
        if borders == (right, right, bottom, bottom):
            return input, self.weight, (bottom, right)
        if self.dilation[0] > 1:
            return _padded(input, borders), self.weight, (0, 0)
        return input, F.pad(self.weight, (right - left, 0, bottom - top, 0)), (bottom, right)

    def _as_timm_pads(self, input: Tensor) -> Tensor:
        if not self.same:
            return input
        from timm.layers.padding import pad_same

        return pad_same(input, list(self.kernel_size), list(self.stride), list(self.dilation))

    def _borders(self, input: Tensor) -> Borders:
        """Padding by which a stride of s leaves one cell in s, rounded up; an odd cell of it is below or right."""
        if not self.same:
            return 0, 0, 0, 0
        from timm.layers.padding import get_same_padding

        kernel, stride, dilation = self.kernel_size[0], self.stride[0], self.dilation[0]
        rows, columns = (int(get_same_padding(cells, kernel, stride, dilation)) for cells in input.shape[2:])
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2


def _pads_itself(conv: nn.Module) -> bool:
    """Whether it is timm's ``Conv2dSame``, told by name: importing timm takes seconds that `--help` must not."""
    return type(conv).__name__ == "Conv2dSame" and type(conv).__module__.startswith("timm.")


def use(module: nn.Module) -> None:
    """Put :class:`DepthwiseConv2d` in the place of every convolution within ``module`` that it serves."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if DepthwiseConv2d.serves(child):
                setattr(parent, name, DepthwiseConv2d.of(child))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: int,
        padding: int,
        dilation: int,
        borders: Borders,
    ) -> Tensor:
        x = _padded(x, borders)
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        ctx.borders = borders
        kernel, added = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        return F.conv2d(x, kernel, added, stride, padding, dilation, len(kernel))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # type: ignore[override]  # of the decorator
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        reach = dilation * (weight.shape[2] - 1)
        size = (x.shape[2] + 2 * padding - reach, x.shape[3] + 2 * padding - reach)
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        dense = _spread(gradient, stride, size)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            mirrored = weight.to(x.dtype).flip(2, 3)
            of_x = F.conv2d(dense, mirrored, None, 1, reach - padding, dilation, len(weight))
            left, right, top, bottom = ctx.borders
            of_x = of_x[:, :, top : of_x.shape[2] - bottom, left : of_x.shape[3] - right]
        if ctx.needs_input_grad[1]:
            if stride == 2 and dilation == 1 and weight.shape[2] <= 5:
                of_weight = _halved_weight_gradient(x, gradient, weight, padding)
            else:
                of_weight = _weight_gradient(x, dense, weight, padding, dilation)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3), dtype=weight.dtype)
        return of_x, of_weight, of_bias, None, None, None, None


def _spread(gradient: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """The gradient of the same convolution at stride 1: zero at the outputs that the stride leaves out."""
    if stride == 1:
        return gradient
    out = _zeros((*gradient.shape[:2], *size), gradient)
    out[:, :, ::stride, ::stride] = gradient
    return out


def _padded(x: Tensor, borders: Borders) -> Tensor:
    """As ``F.pad``, which fills all that it makes before it copies into it: twice the time."""
    left, right, top, bottom = borders
    if not any(borders):
        return x
    rows, columns = top + x.shape[2] + bottom, left + x.shape[3] + right
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    out = torch.empty((*x.shape[:2], rows, columns), dtype=x.dtype, device=x.device, memory_format=layout)
    out[:, :, top : rows - bottom, left : columns - right] = x
    for border in (out[:, :, :top], out[:, :, rows - bottom :], out[..., :left], out[..., columns - right :]):
        border.zero_()
    return out


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Channels last from the beginning: made so afterwards, they are copied."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last).zero_()


def _halved_weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, padding: int) -> Tensor:
    """As :func:`_weight_gradient`, of a convolution of stride 2 with at most 5x5 taps: on every second row and column
    of the input it is a plain one of at most 3x3."""
    x = F.pad(x, (padding,) * 4) if padding else x
    if x.dtype == torch.float16:
        x, gradient = x.float(), gradient.float()
    rows, columns, size = gradient.shape[2] + 2, gradient.shape[3] + 2, weight.shape[2]
    out = torch.empty_like(weight)
    for i in range(min(2, size)):
        for j in range(min(2, size)):
            half = x[:, :, i::2, j::2][:, :, :rows, :columns]
            part = _zeros((*x.shape[:2], rows, columns), x)
            part[:, :, : half.shape[2], : half.shape[3]] = half
            taps = _plain_gradient(part, gradient, 3, 0)
            out[:, :, i::2, j::2] = taps[:, :, : len(range(i, size, 2)), : len(range(j, size, 2))]
    return out


def _weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
    """``[channels 1 size size]``, in the weight's precision."""
    size = weight.shape[2]
    same = padding == dilation * (size // 2)
    if same and dilation > 1 and x.shape[2] % dilation == 0 and x.shape[3] % dilation == 0:
        x, gradient, dilation, padding = _phases(x, dilation), _phases(gradient, dilation), 1, size // 2
    if x.dtype == torch.float16 or (x.dtype == torch.bfloat16 and dilation > 1):  # slow; in float32 less so
        x, gradient = x.float(), gradient.float()
    if x.dtype != torch.bfloat16 or size <= 3:
        return _plain_gradient(x, gradient, size, padding, dilation).to(weight.dtype)
    # only 3x3 in bfloat16 has a fast path; a larger kernel is covered by 3x3 ones, whose common taps come out the same
    x = F.pad(x, (padding,) * 4)
    rows, columns = gradient.shape[2] + 2, gradient.shape[3] + 2
    out = torch.empty_like(weight)
    for i in range(0, size - 1, 2):
        for j in range(0, size - 1, 2):
            part = x[:, :, i : i + rows, j : j + columns].contiguous(memory_format=torch.channels_last)
            out[:, :, i : i + 3, j : j + 3] = _plain_gradient(part, gradient, 3, 0)
    return out


def _plain_gradient(x: Tensor, gradient: Tensor, size: int, padding: int, dilation: int = 1) -> Tensor:
    """torch's own, of stride 1."""
    channels = x.shape[1]
    weight = x.new_empty(channels, 1, size, size)
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [padding, padding], [dilation, dilation], False, [0, 0], channels,
        [False, True, False],
    )[1]  # fmt: skip


def _phases(x: Tensor, step: int) -> Tensor:
    """Every ``step``-th row and column, the ``step * step`` ways to begin one after another on the batch axis."""
    parts = [x[:, :, i::step, j::step] for i in range(step) for j in range(step)]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)
