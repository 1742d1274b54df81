"""Caffe's layers as modules, with Caffe's arithmetic where it is not PyTorch's.

Each takes the layer's bottoms, N x C x H x W unless said otherwise, and gives its top (a tuple where
there may be several). What does not fit raises ``ValueError``; the net adds which layer it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

LOWEST = torch.finfo(torch.float32).min  # where Caffe's maxima start: -FLT_MAX


def pooled_size(units: int, kernel: int, stride: int, pad: int, *, ceil_mode: bool, clip: bool) -> int:
    """Count the windows over an axis by Caffe's rule.

    ``clip`` (Caffe: either pad is not 0) drops a last window that would start beyond the input and
    its leading pad; without it such a window stays, and is empty.

    >>> pooled_size(8, 2, 4, 0, ceil_mode=True, clip=False)
    3
    """
    room = units + 2 * pad - kernel
    outputs = (-(-room // stride) if ceil_mode else room // stride) + 1
    return outputs - (clip and (outputs - 1) * stride >= units + pad)


class Pooling(nn.Module):
    """Max or average over windows; the windows reach over the edges as Caffe lets them.

    An average divides by the window clipped to the padded input: padding counts, what hangs over it
    does not (Caffe's ``pooling_layer.cpp``).
    """

    def __init__(
        self,
        kind: Literal["MAX", "AVE"],
        *,
        kernel: tuple[int, int] | None,
        stride: tuple[int, int] = (1, 1),
        pad: tuple[int, int] = (0, 0),
        ceil_mode: bool = True,
    ) -> None:
        super().__init__()
        self.kind, self.kernel, self.stride, self.pad, self.ceil_mode = kind, kernel, stride, pad, ceil_mode

    def extra_repr(self) -> str:
        """Describe the layer in ``print(net)``."""
        return f"{self.kind}, kernel={self.kernel or 'global'}, stride={self.stride}, pad={self.pad}"

    def forward(self, bottom: Tensor) -> Tensor:
        """Pool N x C x H x W."""
        if bottom.ndim != 4:
            raise ValueError(f"pools N x C x H x W, not {tuple(bottom.shape)}")
        height, width = bottom.shape[2:]
        kernel = self.kernel or (height, width)
        axes = list(zip((height, width), kernel, self.stride, self.pad, strict=True))
        sizes = [pooled_size(*axis, ceil_mode=self.ceil_mode, clip=any(self.pad)) for axis in axes]
        if min(sizes) < 1:
            raise ValueError(f"an input of {height} x {width} is smaller than the window {kernel[0]} x {kernel[1]}")
        # How far the last window reaches beyond the input; negative where it ends before.
        over = [(n - 1) * s + k - p - units for n, (units, k, s, p) in zip(sizes, axes, strict=True)]
        border = (self.pad[1], over[1], self.pad[0], over[0])
        if self.kind == "MAX":
            padded = functional.pad(bottom, border, value=LOWEST) if any(border) else bottom
            return functional.max_pool2d(padded, kernel, self.stride)
        padded = functional.pad(bottom, border) if any(border) else bottom
        total = functional.avg_pool2d(padded, kernel, self.stride, divisor_override=1)
        rows, columns = (_counts(n, axis, bottom) for n, axis in zip(sizes, axes, strict=True))
        return total / (rows[:, None] * columns)


def _counts(outputs: int, axis: tuple[int, int, int, int], like: Tensor) -> Tensor:
    """Return the length of each window along an axis, clipped to the padded input."""
    units, kernel, stride, pad = axis
    start = torch.arange(outputs, device=like.device) * stride - pad
    return ((start + kernel).clamp(max=units + pad) - start).to(like.dtype)


class WithinChannelNorm(nn.Module):
    """Local response normalisation over a square of each channel: x / (1 + alpha * mean of squares) ** beta."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        self.mean = Pooling("AVE", kernel=(size, size), pad=(size // 2, size // 2))

    def forward(self, bottom: Tensor) -> Tensor:
        """Normalise N x C x H x W."""
        return bottom * (1 + self.alpha * cast("Tensor", self.mean(bottom**2))) ** -self.beta


class InnerProduct(nn.Module):
    """A matrix over everything from ``axis`` on; ``weight`` is outputs x inputs (or the reverse, ``transpose``)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, axis: int, transpose: bool) -> None:
        super().__init__()
        self.axis, self.transpose = axis, transpose
        self.weight = nn.Parameter(torch.empty((inputs, outputs) if transpose else (outputs, inputs)))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, bottom: Tensor) -> Tensor:
        """Multiply N x … by the matrix."""
        flat = bottom.flatten(self.axis)
        weight = self.weight.T if self.transpose else self.weight
        if flat.shape[-1] != weight.shape[1]:
            raise ValueError(
                f"an input of {tuple(bottom.shape)} has {flat.shape[-1]} values where the matrix takes "
                f"{weight.shape[1]}: feed the size that the net was made for"
            )
        return functional.linear(flat, weight, self.bias)


class Crop(nn.Module):
    """The part of the first bottom, from ``offsets`` on, that is as large as the second, from ``axis`` on."""

    def __init__(self, axis: int, offsets: Sequence[int]) -> None:
        super().__init__()
        self.axis, self.offsets = axis, tuple(offsets)

    def extra_repr(self) -> str:
        """Describe the layer in ``print(net)``."""
        return f"axis={self.axis}, offsets={self.offsets}"

    def forward(self, bottom: Tensor, reference: Tensor) -> Tensor:
        """Crop; raises ``ValueError`` where the part would leave the bottom."""
        if bottom.ndim != reference.ndim:
            raise ValueError(f"crops {tuple(bottom.shape)} to {tuple(reference.shape)}: the axes differ in number")
        axes = range(self.axis % bottom.ndim, bottom.ndim)
        if len(self.offsets) not in (0, 1, len(axes)):
            raise ValueError(f"{len(self.offsets)} offsets for {len(axes)} axes: give one, or one for each")
        offsets = self.offsets or (0,)
        for index, axis in enumerate(axes):
            offset, size = offsets[index if len(offsets) > 1 else 0], reference.shape[axis]
            if offset + size > bottom.shape[axis]:
                raise ValueError(f"{offset} + {size} units of axis {axis}, which has {bottom.shape[axis]}")
            bottom = bottom.narrow(axis, offset, size)
        return bottom


class Eltwise(nn.Module):
    """Sum (with coefficients), product or maximum of bottoms of one shape."""

    def __init__(self, operation: Literal["PROD", "SUM", "MAX"], coefficients: Sequence[float]) -> None:
        super().__init__()
        self.operation, self.coefficients = operation, tuple(coefficients)

    def extra_repr(self) -> str:
        """Describe the layer in ``print(net)``."""
        return f"{self.operation}, coefficients={self.coefficients or 1}"

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Combine; raises ``ValueError`` for bottoms of different shapes."""
        if any(other.shape != first.shape for other in others):
            raise ValueError(f"bottoms of different shapes: {[tuple(bottom.shape) for bottom in (first, *others)]}")
        if self.operation == "MAX":
            return torch.stack((first, *others)).amax(0)
        result = first * self.coefficients[0] if self.coefficients else first
        for index, other in enumerate(others, start=1):
            if self.operation == "PROD":
                result = result * other
            else:
                result = result + (other * self.coefficients[index] if self.coefficients else other)
        return result


class Concat(nn.Module):
    """The bottoms one after the other along ``axis``."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Join the bottoms."""
        return torch.cat(bottoms, self.axis)


class Slice(nn.Module):
    """One bottom cut along ``axis`` at ``points``, or into ``parts`` of one size."""

    def __init__(self, axis: int, points: Sequence[int], parts: int) -> None:
        super().__init__()
        self.axis, self.points, self.parts = axis, tuple(points), parts

    def forward(self, bottom: Tensor) -> tuple[Tensor, ...]:
        """Cut; raises ``ValueError`` where the parts would be empty or unequal."""
        length = bottom.shape[self.axis]
        if self.points:
            cuts = (0, *self.points, length)
            sizes = [after - before for before, after in pairwise(cuts)]
        else:
            sizes = [length // self.parts] * self.parts
        if min(sizes) < 1 or sum(sizes) != length:
            raise ValueError(f"{length} units along axis {self.axis} do not cut into {self.parts} at {self.points}")
        return torch.split(bottom, sizes, self.axis)


class Split(nn.Module):
    """One bottom under several names."""

    def __init__(self, tops: int) -> None:
        super().__init__()
        self.tops = tops

    def forward(self, bottom: Tensor) -> tuple[Tensor, ...]:
        """Repeat the bottom."""
        return (bottom,) * self.tops


def _spread(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """Shape values so that they lie along ``like``'s axes from ``axis`` on."""
    after = like.ndim - axis % like.ndim - values.ndim
    if after < 0 or values.shape != like.shape[axis % like.ndim : like.ndim - after]:
        raise ValueError(f"a factor of shape {tuple(values.shape)} on axis {axis} of {tuple(like.shape)}")
    return values.reshape(values.shape + (1,) * after)


class Scale(nn.Module):
    """A factor (and a bias) per channel, learned, or the factor given as the second bottom."""

    def __init__(self, shape: Sequence[int] | None, *, bias: Sequence[int] | None, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.weight = nn.Parameter(torch.empty(tuple(shape))) if shape is not None else None
        self.bias = nn.Parameter(torch.empty(tuple(bias))) if bias is not None else None

    def forward(self, bottom: Tensor, factor: Tensor | None = None) -> Tensor:
        """Scale N x C x …."""
        factor = self.weight if self.weight is not None else cast("Tensor", factor)
        scaled = bottom * _spread(factor, bottom, self.axis)
        return scaled if self.bias is None else scaled + _spread(self.bias, bottom, self.axis)


class Power(nn.Module):
    """(shift + scale * x) ** power."""

    def __init__(self, power: float, scale: float, shift: float) -> None:
        super().__init__()
        self.power, self.scale, self.shift = power, scale, shift

    def forward(self, bottom: Tensor) -> Tensor:
        """Apply it to every value."""
        line: Tensor = self.shift + self.scale * bottom
        return line if self.power == 1 else line**self.power


class BatchNorm(nn.Module):
    """Normalise each channel by stored statistics, kept as Caffe keeps them: sums and their weight.

    ``use_global_stats``: ``None`` normalises by the batch while training, and updates the sums.
    """

    def __init__(self, channels: int, *, use_global_stats: bool | None, fraction: float, eps: float) -> None:
        super().__init__()
        self.use_global_stats, self.fraction, self.eps = use_global_stats, fraction, eps
        self.register_buffer("mean", torch.empty(channels))
        self.register_buffer("variance", torch.empty(channels))
        self.register_buffer("factor", torch.empty(1))
        self.mean: Tensor
        self.variance: Tensor
        self.factor: Tensor

    def forward(self, bottom: Tensor) -> Tensor:
        """Normalise N x C x …."""
        stored = not self.training if self.use_global_stats is None else self.use_global_stats
        if stored:
            weight = torch.where(self.factor == 0, 0, 1 / self.factor)
            return functional.batch_norm(bottom, self.mean * weight, self.variance * weight, eps=self.eps)
        with torch.no_grad():
            axes = [0, *range(2, bottom.ndim)]
            variance = bottom.var(axes, unbiased=bottom.numel() > bottom.shape[1])
            self.mean.mul_(self.fraction).add_(bottom.mean(axes))
            self.variance.mul_(self.fraction).add_(variance)
            self.factor.mul_(self.fraction).add_(1)
        return functional.batch_norm(bottom, None, None, training=True, eps=self.eps)


class Silence(nn.Module):
    """Takes bottoms so that they are no outputs of the net."""

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return nothing."""
        return ()
