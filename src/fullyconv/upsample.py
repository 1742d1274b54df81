"""Upsampling by bilinear-initialised transposed convolution, one kernel per class (paper, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.geometry import AxisMap

Border = Literal["zero", "replicate"]


def bilinear_taps(kernel: int) -> Tensor:
    """Make the 1-D triangle whose outer product is the bilinear kernel of Caffe's filler.

    Args:
        kernel: Taps, at least 1: 2 f or 2 f - 1 for upsampling by f.

    Returns:
        ``kernel`` weights, float64.

    >>> bilinear_taps(4).tolist()
    [0.25, 0.75, 0.75, 0.25]
    """
    if kernel < 1:
        raise ValueError(f"a bilinear kernel has at least one tap, not {kernel}")
    factor = (kernel + 1) // 2
    centre = factor - 1 if kernel % 2 else factor - 0.5
    return 1 - (torch.arange(kernel, dtype=torch.float64) - centre).abs() / factor


def lay_over(values: Tensor, rows: AxisMap, columns: AxisMap, size: tuple[int, int]) -> Tensor:
    """Interpolate maps to the size of a picture, linearly between units that lie where the lines say.

    Beyond the outermost units their value is repeated. Unlike resizing, this puts a value where the network looked.

    Args:
        values: ... x h x w.
        rows: Where the units of the vertical axis look.
        columns: The same of the horizontal axis.
        size: Height and width of the picture.

    Returns:
        ... x H x W.

    >>> from fractions import Fraction
    >>> line = AxisMap(scale=Fraction(2), shift=Fraction(1))
    >>> lay_over(torch.tensor([[0.0, 4.0]]), AxisMap(), line, (1, 5)).tolist()
    [[0.0, 0.0, 2.0, 4.0, 4.0]]
    """
    down, across = (
        _placing(values.shape[axis - 2], line, size[axis]).to(values) for axis, line in enumerate((rows, columns))
    )
    return down @ values @ across.T


def _placing(units: int, line: AxisMap, size: int) -> Tensor:
    """Write the interpolation as a matrix, size x units, float64: a hat function around each unit's place."""
    place = (torch.arange(size, dtype=torch.float64) - float(line.shift)) / float(line.scale)
    return (1 - (place.clamp(0, units - 1)[:, None] - torch.arange(units)).abs()).clamp(min=0)


class AxisUpsampling(NamedTuple):
    """Upsampling along one axis by a fixed kernel: what ``Upsample`` says of it."""

    kernel: int
    stride: int
    border: Border

    def matrix(self, units: int, offset: int, size: int) -> Tensor:
        """Write the cropped 1-D transposed convolution as a matrix, size x units, float64; shared, not to be changed.

        >>> AxisUpsampling(3, 2, "zero").matrix(units=2, offset=1, size=3).tolist()
        [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
        """
        # While a network is recorded for export sizes are no numbers yet, and nothing may be kept for them.
        written = _interpolation_matrix if isinstance(size, int) and isinstance(units, int) else _written_out
        return written(self, units, offset, size)


@lru_cache(maxsize=64)
def _interpolation_matrix(axis: AxisUpsampling, units: int, offset: int, size: int) -> Tensor:
    # Kept from one call to the next, also from a prediction to a training, where no inference tensor may be.
    with torch.inference_mode(False):
        return _written_out(axis, units, offset, size)


def _written_out(axis: AxisUpsampling, units: int, offset: int, size: int) -> Tensor:
    """Write the hat of each unit as a column: what ``bilinear_taps`` holds, and 0 beyond its ends."""
    reach = (axis.kernel + 1) // 2
    centre = reach - 1 if axis.kernel % 2 else reach - 0.5
    # Shifted before it becomes a column: the other way round OpenVINO 2026.4 rewrites the exported graph for ever.
    place = (torch.arange(size, dtype=torch.float64) + (offset - centre))[:, None]
    column = torch.arange(units, dtype=torch.float64)

    def hat(unit: Tensor | int) -> Tensor:
        return (1 - (place - axis.stride * unit).abs() / reach).clamp(min=0)

    weights = hat(column)
    if axis.border == "replicate":  # the ghost unit beyond each edge repeats the edge unit
        weights = weights + hat(-1) * (column == 0) + hat(units) * (column == units - 1)
    return weights


class Upsample(nn.Module):
    """Transposed convolution of stride ``stride`` with one ``kernel`` x ``kernel`` filter per channel.

    Fixed, it never trains and is applied as two small matrix products (the bilinear kernel is
    separable), which is the same function several times faster; learned, it starts there and its
    ``weight`` (C x 1 x k x k) trains. Arithmetic is float32 or wider even under autocast: class
    scores of nearby pixels differ by less than bfloat16 resolves.

    Args:
        channels: C, one filter each.
        kernel: Taps, vertical and horizontal; ``geometry.bilinear_kernel_size`` says how many.
        stride: Factor, vertical and horizontal.
        learned: Whether the filters train.
        border: What lies beyond the last unit: ``"zero"`` as in the reference (scores fade towards the image's
            edge), ``"replicate"`` repeats the edge unit (no fade, and outputs exist up to one stride further out).

    >>> layer = Upsample(1, kernel=(3, 3), stride=(2, 2))
    >>> layer(torch.tensor([[[[0.0, 4.0]]]]), offset=(1, 1), size=(1, 3)).flatten().tolist()
    [0.0, 2.0, 4.0]
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        learned: bool = False,
        border: Border = "zero",
    ) -> None:
        super().__init__()
        self.channels, self.kernel, self.stride, self.border = channels, kernel, stride, border
        self.weight: nn.Parameter | None = None
        if learned:
            bank = torch.outer(bilinear_taps(kernel[0]), bilinear_taps(kernel[1]))
            self.weight = nn.Parameter(bank.float().repeat(channels, 1, 1, 1))  # C x 1 x k x k

    def extra_repr(self) -> str:
        """Describe the layer in ``print(model)``."""
        state = "fixed" if self.weight is None else "learned"
        return f"{self.channels}, kernel={self.kernel}, stride={self.stride}, border={self.border}, {state}"

    def full_size(self, units: int, axis: int) -> int:
        """Count the outputs of ``units`` inputs along an axis before any crop."""
        return self.stride[axis] * (units - 1) + self.kernel[axis]

    def multiply_adds(self, units: tuple[int, int], size: tuple[int, int]) -> int:
        """Count those of upsampling ``units`` rows and columns to ``size``."""
        if self.weight is None:
            return self.channels * size[0] * (units[0] * units[1] + units[1] * size[1])
        ghosts = 2 * (self.border == "replicate")
        return int(self.weight.numel()) * (units[0] + ghosts) * (units[1] + ghosts)

    def forward(self, scores: Tensor, offset: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Upsample and crop.

        Args:
            scores: N x C x h x w.
            offset: First row and column to keep.
            size: How many rows and columns to keep, H and W.

        Returns:
            N x C x H x W, float32 or wider.

        Raises:
            ValueError: If the crop leaves what the units cover (a slice would fail silently).
        """
        self.check((scores.shape[2], scores.shape[3]), offset, size)
        with torch.autocast(scores.device.type, enabled=False):
            scores = scores if scores.dtype == torch.float64 else scores.float()
            if self.weight is None:
                return self._separable(scores, offset, size)
            return self._bank(scores, self.weight.to(scores.dtype), offset, size)

    def check(self, units: tuple[int, int], offset: tuple[int, int], size: tuple[int, int]) -> None:
        """Refuse a crop that leaves what ``units`` rows and columns cover (see ``forward``); raises ``ValueError``."""
        margin = self.stride if self.border == "replicate" else (0, 0)
        for axis, name in enumerate(("rows", "columns")):
            covered = self.full_size(units[axis], axis) + margin[axis]
            if offset[axis] < -margin[axis] or offset[axis] + size[axis] > covered:
                raise ValueError(
                    f"{name} {offset[axis]}..{offset[axis] + size[axis]} lie outside the upsampled map "
                    f"(-{margin[axis]}..{covered}): the input is smaller than this network accepts"
                )

    def axis(self, axis: int) -> AxisUpsampling:
        """Return what fixed filters do along an axis, 0 or 1."""
        return AxisUpsampling(self.kernel[axis], self.stride[axis], self.border)

    def matrices(self, units: tuple[int, int], offset: tuple[int, int], size: tuple[int, int]) -> list[Tensor]:
        """Write a fixed upsampling with its crop as two matrices, H x h and W x w float64, applied from both sides."""
        return [self.axis(axis).matrix(units[axis], offset[axis], size[axis]) for axis in (0, 1)]

    def _separable(self, scores: Tensor, offset: tuple[int, int], size: tuple[int, int]) -> Tensor:
        units = (scores.shape[2], scores.shape[3])
        down, across = (matrix.to(scores) for matrix in self.matrices(units, offset, size))
        return (down @ scores.contiguous()) @ across.T  # N x C x h x w -> N x C x H x W

    def _bank(self, scores: Tensor, weight: Tensor, offset: tuple[int, int], size: tuple[int, int]) -> Tensor:
        top, left = offset
        if self.border == "replicate":
            scores = functional.pad(scores, (1, 1, 1, 1), mode="replicate")
            top, left = top + self.stride[0], left + self.stride[1]
        full = functional.conv_transpose2d(scores, weight, stride=self.stride, groups=self.channels)
        return full[..., top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class LastStep:
    """The upsampling of fused scores to the image: ``step(scores, size)`` is N x C x H x W.

    Attributes:
        layer: What upsamples.
        offset: The first row and column that are kept.
    """

    layer: Upsample
    offset: tuple[int, int]

    def __call__(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsample N x C x h x w scores to H x W."""
        upsampled: Tensor = self.layer(scores, self.offset, size)
        return upsampled


GPU_SCORES = 1 << 26  # at once, of a GPU, which wants few large operations: 256 MiB


def gpu_rows(scores: int, least: int) -> int:
    """Return how many rows of a picture are upsampled at once on a GPU.

    Args:
        scores: Of a row, of all pictures and classes.
        least: Rows, however many scores they have.

    >>> gpu_rows(1 << 20, least=16), gpu_rows(1 << 24, least=16)
    (64, 16)
    """
    return max(least, GPU_SCORES // max(1, scores))
