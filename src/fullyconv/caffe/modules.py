"""Caffe's layers as modules, with Caffe's arithmetic where it is not PyTorch's.

Each takes the layer's bottoms, N x C x H x W unless said otherwise, and gives its top (a tuple where
there may be several). What does not fit raises ``ValueError``; the net adds which layer it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Size, Tensor, nn
from torch.nn import functional

from fullyconv.limits import LIMITS

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
    does not (Caffe's ``pooling_layer.cpp``). ``places``: the maxima come with where in their plane, row by row, they
    were found (the first of equals, -1 where a window is empty), as numbers of the blob's own type.
    """

    def __init__(
        self,
        kind: Literal["MAX", "AVE"],
        *,
        kernel: tuple[int, int] | None,
        stride: tuple[int, int] = (1, 1),
        pad: tuple[int, int] = (0, 0),
        ceil_mode: bool = True,
        places: bool = False,
    ) -> None:
        super().__init__()
        self.places = places
        self.plane: Size | None = None
        """The height and width that the last ``places`` are in; what goes back to them must be of this size."""
        self.kind, self.kernel, self.stride, self.pad, self.ceil_mode = kind, kernel, stride, pad, ceil_mode

    def extra_repr(self) -> str:
        """Describe the layer in ``print(net)``."""
        return f"{self.kind}, kernel={self.kernel or 'global'}, stride={self.stride}, pad={self.pad}"

    def forward(self, bottom: Tensor) -> Tensor | tuple[Tensor, Tensor]:
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
            if not self.places:
                return functional.max_pool2d(padded, kernel, self.stride)
            self.plane = bottom.shape[2:]
            top, found = functional.max_pool2d(padded, kernel, self.stride, return_indices=True)
            row, column = found // padded.shape[3] - self.pad[0], found % padded.shape[3] - self.pad[1]
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            return top, torch.where(inside, row * width + column, -1).to(bottom.dtype)
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
    """A matrix over everything from ``axis`` on; ``weight`` is outputs x inputs (or the reverse, ``transpose``).

    Where the net does not know its input's size, ``inputs`` is ``None``: the first blob decides, and ``start`` fills
    the matrix then.
    """

    def __init__(self, inputs: int | None, outputs: int, *, bias: bool, axis: int, transpose: bool) -> None:
        super().__init__()
        self.axis, self.outputs, self.transpose = axis, outputs, transpose
        self.start: Callable[[Tensor], object] | None = None
        self.trains = True  # whether the matrix will require gradients
        self.twins = [self]  # those that have one matrix, as long as its size is not known
        self.weight: nn.Parameter | None
        self.register_parameter("weight", None)
        if inputs is not None:
            self.settle(inputs)
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def settle(self, inputs: int) -> nn.Parameter:
        """Make the matrix, for so many inputs."""
        if inputs * self.outputs > LIMITS.weights:
            raise ValueError(f"a matrix of {inputs} x {self.outputs}; {LIMITS.remedy('weights')}")
        shape = (inputs, self.outputs) if self.transpose else (self.outputs, inputs)
        weight = nn.Parameter(torch.empty(shape), requires_grad=self.trains)
        for twin in self.twins:
            twin.weight = weight
        return weight

    def twin(self, other: InnerProduct) -> None:
        """Have one matrix with another layer of as many outputs, now or once its size is known."""
        self.twins += other.twins
        known = next((each.weight for each in self.twins if each.weight is not None), None)
        for each in self.twins:
            each.twins, each.weight = self.twins, known

    def forward(self, bottom: Tensor) -> Tensor:
        """Multiply N x … by the matrix."""
        flat = bottom.flatten(self.axis)
        weight = self.weight
        if weight is None:
            if bottom.is_meta:
                return flat.new_empty(*flat.shape[:-1], self.outputs)
            weight = self.settle(flat.shape[-1])
            weight.data = weight.data.to(flat)
            if self.start is not None:
                self.start(weight)
        matrix = weight.T if self.transpose else weight
        if flat.shape[-1] != matrix.shape[1]:
            raise ValueError(
                f"an input of {tuple(bottom.shape)} has {flat.shape[-1]} values where the matrix takes "
                f"{matrix.shape[1]}: feed the size that the net was made for"
            )
        return functional.linear(flat, matrix, self.bias)


class Embed(nn.Module):
    """A row of ``weight`` for every number, ``entries`` x ``outputs``."""

    def __init__(self, entries: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(entries, outputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, bottom: Tensor) -> Tensor:
        """Look up numbers of any shape; raises ``ValueError`` for one that is no row."""
        index = bottom.long()
        if not index.is_meta and index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(self.weight):
            raise ValueError(f"numbers outside 0..{len(self.weight) - 1}")
        rows = self.weight[index]
        return rows if self.bias is None else rows + self.bias


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


class Bias(nn.Module):
    """A bias per channel (axes from ``axis`` on), learned, or given as the second bottom."""

    def __init__(self, shape: Sequence[int] | None, *, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.bias = nn.Parameter(torch.empty(tuple(shape))) if shape is not None else None

    def forward(self, bottom: Tensor, bias: Tensor | None = None) -> Tensor:
        """Add to N x C x …."""
        return bottom + _spread(self.bias if self.bias is not None else cast("Tensor", bias), bottom, self.axis)


class MeanVariance(nn.Module):
    """Subtract the mean of each channel (or of an item, ``across``), and divide by the deviation plus ``eps``."""

    def __init__(self, *, across: bool, variance: bool, eps: float) -> None:
        super().__init__()
        self.across, self.variance, self.eps = across, variance, eps

    def forward(self, bottom: Tensor) -> Tensor:
        """Normalise N x C x …."""
        flat = bottom.flatten(1 if self.across else 2)
        centred = flat - flat.mean(-1, keepdim=True)
        if self.variance:
            centred = centred / ((centred**2).mean(-1, keepdim=True).sqrt() + self.eps)
        return centred.reshape(bottom.shape)


def normalise(bottom: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Subtract a mean and divide by a deviation, each C, along axis 1 (axis 0 of a blob of one); eps may be 0."""
    shape = (-1, *[1] * max(bottom.ndim - 2, 0))
    return (bottom - mean.reshape(shape)) / (variance.reshape(shape) + eps).sqrt()


def statistics(bottom: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the (biased) variance of each channel, C and C; a blob of one axis is one channel."""
    axes = [0, *range(2, bottom.ndim)]
    variance, mean = torch.var_mean(bottom, axes, correction=0)
    return mean.reshape(-1), variance.reshape(-1)


class BatchNorm(nn.Module):
    """Normalise each channel by stored statistics, kept as Caffe keeps them: sums and their weight.

    ``use_global_stats``: ``None`` normalises by the batch while training, and updates the sums. ``affine`` is
    NVCaffe's: a factor and a bias for each channel behind the statistics.
    """

    BLOBS = ("mean", "variance", "factor", "weight", "bias")

    def __init__(
        self, channels: int, *, use_global_stats: bool | None, fraction: float, eps: float, affine: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels)) if affine else None
        self.bias = nn.Parameter(torch.empty(channels)) if affine else None
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
            mean, variance = self.mean * weight, self.variance * weight
        else:
            mean, variance = statistics(bottom)
            self._remember(mean.detach(), variance.detach(), bottom.numel() // len(mean))
        if stored and self.eps > 0 and bottom.ndim > 1:
            return functional.batch_norm(bottom, mean, variance, self.weight, self.bias, eps=self.eps)
        normal = normalise(bottom, mean, variance, self.eps)
        return normal if self.weight is None else normal * _spread(self.weight, bottom, 1) + self._own_bias(bottom)

    def _own_bias(self, bottom: Tensor) -> Tensor:
        return _spread(cast("Tensor", self.bias), bottom, 1)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Add a batch to the sums; its variance as that of a sample, where there are several values."""
        self.mean.mul_(self.fraction).add_(mean)
        self.variance.mul_(self.fraction).add_(variance * (values / max(values - 1, 1)))
        self.factor.mul_(self.fraction).add_(1)


class Parameter(nn.Module):
    """Weights that are a blob of the net."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tuple(shape)))

    def forward(self) -> Tensor:
        """Return the weights."""
        return self.weight
