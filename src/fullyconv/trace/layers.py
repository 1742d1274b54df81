"""What PyTorch's common layers do to a map, from their settings alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fullyconv.geometry import Layer, Spread, Window

WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)

POINTWISE = (
    nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.Identity, nn.LocalResponseNorm, nn.ReLU,
    nn.ReLU6, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Tanh, nn.Mish, nn.ELU,
    nn.LeakyReLU, nn.PReLU, nn.Softplus, nn.SELU, nn.CELU, nn.LogSigmoid, nn.Threshold,
)  # fmt: skip


def along(value: int | Sequence[int], axis: int) -> int:
    """Return a setting along an axis (0 rows, 1 columns)."""
    if isinstance(value, int):
        return value
    return value[axis] if len(value) > 1 else value[0]


def window(axis: int, *, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Window:
    """Make the window of a convolution or pooling layer along an axis; ``padding`` may be "same" or "valid"."""
    taps, spread = along(kernel, axis), along(dilation, axis)
    room = spread * (taps - 1)
    pads = {"same": (room // 2, room - room // 2), "valid": (0, 0)}.get(str(padding))
    before, after = pads or (along(padding, axis), along(padding, axis))
    return Window(taps, along(stride, axis), before, spread, ceil_mode=ceil_mode, pad_end=after)


def layer_window(layer: nn.Module, axis: int) -> Layer | None:
    """Return what a layer moves over its map along an axis; ``None`` for other layers."""
    made: Any = layer
    if type(layer) is nn.ConvTranspose2d and not any(made.output_padding) and set(made.dilation) == {1}:
        return Spread(along(made.kernel_size, axis), along(made.stride, axis), along(made.padding, axis))
    if type(layer) not in WINDOWED:
        return None
    return window(
        axis,
        kernel=made.kernel_size,
        stride=made.kernel_size if made.stride is None else made.stride,
        padding=made.padding,
        dilation=getattr(made, "dilation", 1),
        ceil_mode=bool(getattr(made, "ceil_mode", False)),
    )


def result_shape(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape of a layer's result over N x C x H x W without running it; ``None`` where that is not known."""
    if isinstance(layer, POINTWISE):
        return shape
    moved = [layer_window(layer, axis) for axis in (0, 1)]
    if len(shape) != 4 or None in moved:
        return None
    channels = getattr(layer, "in_channels", shape[1])
    sizes = tuple(step.size(length) for step, length in zip(moved, shape[2:], strict=True) if step is not None)
    if channels != shape[1] or min(sizes) < 1:
        return None  # running the layer gives the error in PyTorch's words
    return shape[0], int(getattr(layer, "out_channels", shape[1])), *sizes
