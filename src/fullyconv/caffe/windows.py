"""Layers that look through windows, beside Convolution: pooling of every kind, and what is built on it."""

from __future__ import annotations

import warnings
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.caffe import fields
from fullyconv.caffe.description import Layer
from fullyconv.caffe.kind import Kind, Shapes, count, once, pair
from fullyconv.caffe.modules import Pooling, WithinChannelNorm, pooled_size

MOST_NEIGHBOURS = 4095  # channels that a unit is normalised by
MOST_LEVELS = 12  # of a pyramid: 4^11 bins
LEAST = torch.finfo(torch.float32).tiny  # where Caffe's sums start: FLT_MIN


class StochasticPooling(nn.Module):
    """Take a value of each window by chance, in proportion to the values; in TEST their mean by these chances."""

    def __init__(self, kernel: tuple[int, int] | None, stride: tuple[int, int], *, ceil_mode: bool) -> None:
        super().__init__()
        self.kernel, self.stride, self.ceil_mode = kernel, stride, ceil_mode

    def forward(self, bottom: Tensor) -> Tensor:
        """Pool N x C x H x W of values of at least 0."""
        if bottom.ndim != 4:
            raise ValueError(f"pools N x C x H x W, not {tuple(bottom.shape)}")
        kernel = self.kernel or tuple(bottom.shape[2:])
        sizes = [
            pooled_size(units, k, s, 0, ceil_mode=self.ceil_mode, clip=False)
            for units, k, s in zip(bottom.shape[2:], kernel, self.stride, strict=True)
        ]
        if min(sizes) < 1:
            raise ValueError(f"an input of {tuple(bottom.shape[2:])} is smaller than the window {kernel}")
        over = [
            (n - 1) * s + k - units for n, s, k, units in zip(sizes, self.stride, kernel, bottom.shape[2:], strict=True)
        ]
        padded = functional.pad(bottom, (0, over[1], 0, over[0]))
        columns = functional.unfold(padded, cast("tuple[int, int]", kernel), stride=self.stride)
        windows = columns.reshape(*bottom.shape[:2], -1, *sizes)
        if not self.training or bottom.is_meta:
            return (windows**2).sum(2) / (windows.sum(2) + LEAST)
        # The first value at which the running sum reaches a random share of the whole.
        sums = windows.cumsum(2)
        share = torch.rand_like(sums[:, :, :1]) * sums[:, :, -1:]
        chosen = (sums < share).sum(2, keepdim=True).clamp(max=windows.shape[2] - 1)
        return windows.gather(2, chosen).squeeze(2)


class Pyramid(nn.Module):
    """Pool a map to 1 x 1, 2 x 2, 4 x 4, … bins and write them one after the other, N x (C * bins)."""

    def __init__(self, kind: str, levels: int) -> None:
        super().__init__()
        self.kind, self.levels = kind, levels

    def forward(self, bottom: Tensor) -> Tensor:
        """Pool N x C x H x W; a pyramid of one level stays N x C x 1 x 1, as in Caffe."""
        pooled = [self._level(bottom, 2**level) for level in range(self.levels)]
        return pooled[0] if self.levels == 1 else torch.cat([level.flatten(1) for level in pooled], 1)

    def _level(self, bottom: Tensor, bins: int) -> Tensor:
        sides = [(-(-units // bins), units) for units in bottom.shape[2:]]
        kernel = (sides[0][0], sides[1][0])
        pad = cast("tuple[int, int]", tuple((side * bins - units + 1) // 2 for side, units in sides))
        if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
            raise ValueError(f"{tuple(bottom.shape[2:])} is too small for {bins} x {bins} bins")
        pooling = Pooling("MAX" if self.kind == "MAX" else "AVE", kernel=kernel, stride=kernel, pad=pad)
        return cast("Tensor", pooling(bottom))


class Columns(nn.Module):
    """The window of every output position as channels: N x (C * kernel) x H' x W'."""

    def __init__(
        self, kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int], dilation: tuple[int, int]
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.pad, self.dilation = kernel, stride, pad, dilation

    def forward(self, bottom: Tensor) -> Tensor:
        """Unfold N x C x H x W."""
        sizes = [
            (units + 2 * p - d * (k - 1) - 1) // s + 1
            for units, k, s, p, d in zip(
                bottom.shape[2:], self.kernel, self.stride, self.pad, self.dilation, strict=True
            )
        ]
        columns = functional.unfold(bottom, self.kernel, self.dilation, self.pad, self.stride)
        return columns.reshape(len(bottom), -1, *sizes)


def _pooling(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("pooling_param", fields.Pooling)
    stride = pair(layer, "stride", once(given.stride), (given.stride_h, given.stride_w), 1)
    pad = pair(layer, "pad", once(given.pad), (given.pad_h, given.pad_w), 0)
    kernel = None
    sides = given.kernel_h, given.kernel_w
    if not given.global_pooling:
        kernel = pair(
            layer, "kernel_size" if given.kernel_h is None else "kernel", once(given.kernel_size), sides, None
        )
        if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
            raise layer.fail(f"pad {pad} with a kernel of {kernel}", "the pad is smaller than the kernel")
    elif given.kernel_size is not None or any(sides) or any(pad) or stride != (1, 1):
        raise layer.fail("global_pooling with a kernel, pad or stride", "global pooling has none")
    ceil_mode, places = _ceil_mode(layer, given), len(layer.tops) == 2
    if places and given.pool != "MAX":
        raise layer.fail(f"two tops of {given.pool} pooling", "places of values are those of MAX")
    if given.pool == "STOCHASTIC":
        if any(pad):
            raise layer.fail("STOCHASTIC pooling with a pad", "only MAX and AVE have one")
        return StochasticPooling(kernel, stride, ceil_mode=ceil_mode)
    return Pooling(given.pool, kernel=kernel, stride=stride, pad=pad, ceil_mode=ceil_mode, places=places)


def _ceil_mode(layer: Layer, given: fields.Pooling) -> bool:
    """Read how windows are counted: Caffe's ``round_mode``, or the ``ceil_mode`` of forks; up unless said otherwise."""
    if given.ceil_mode is not None and given.round_mode not in (None, "CEIL" if given.ceil_mode else "FLOOR"):
        raise layer.fail(f"ceil_mode {given.ceil_mode} and round_mode {given.round_mode}", "give one of them")
    return given.round_mode != "FLOOR" if given.ceil_mode is None else given.ceil_mode


def _lrn(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("lrn_param", fields.Lrn)
    if not 1 <= given.local_size <= MOST_NEIGHBOURS or given.local_size % 2 == 0:
        raise layer.fail(f"local_size is {given.local_size}", f"it is odd and at most {MOST_NEIGHBOURS}")
    if given.norm_region == "ACROSS_CHANNELS":
        return nn.LocalResponseNorm(given.local_size, given.alpha, given.beta, given.k)
    if given.k != 1:
        warnings.warn(
            f"{layer.fail(f'k is {given.k} within channels, where it has no effect', 'remove it')}", stacklevel=2
        )
    return WithinChannelNorm(given.local_size, given.alpha, given.beta)


def _im2col(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("convolution_param", fields.Convolution)
    if len(shapes[0]) != 4 or given.axis not in (1, -3):
        raise layer.fail(f"axis {given.axis} of a blob of {len(shapes[0])} axes", "only N x C x H x W is supported")
    return Columns(*window_of(layer, given))


def window_of(
    layer: Layer, given: fields.Convolution
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Read a window: kernel, stride, pad and dilation of rows and columns."""
    kernel = pair(
        layer,
        "kernel_size" if given.kernel_h is None else "kernel",
        given.kernel_size,
        (given.kernel_h, given.kernel_w),
        None,
    )
    stride = pair(layer, "stride", given.stride, (given.stride_h, given.stride_w), 1)
    pad = pair(layer, "pad", given.pad, (given.pad_h, given.pad_w), 0)
    if given.dilation and (given.hole or given.hole_h or given.hole_w):
        raise layer.fail("gives both dilation and hole", "give one form")
    dilation = pair(layer, "dilation", given.dilation or given.hole, (given.hole_h, given.hole_w), 1)
    return kernel, stride, pad, dilation


def _pyramid(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("spp_param", fields.Spp)
    if given.pool == "STOCHASTIC":
        raise layer.fail("pool is STOCHASTIC", "MAX and AVE are supported in a pyramid")
    if not 1 <= count(layer, "pyramid_height", given.pyramid_height) <= MOST_LEVELS or len(shapes[0]) != 4:
        raise layer.fail(
            f"{given.pyramid_height} levels over {tuple(shapes[0])}", f"1 to {MOST_LEVELS} over N x C x H x W"
        )
    return Pyramid(given.pool, given.pyramid_height)


KINDS: dict[str, Kind] = {
    "Pooling": Kind(_pooling, ("pooling_param",), most_tops=2),
    "LRN": Kind(_lrn, ("lrn_param",)),
    "Im2col": Kind(_im2col, ("convolution_param",)),
    "SPP": Kind(_pyramid, ("spp_param",)),
}
