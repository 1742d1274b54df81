"""Operations that move a window over a map: convolution, pooling, padding, resampling."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, cast

from torch import fx, nn

from fullyconv.geometry import Layer, Spread, Window
from fullyconv.trace.layers import layer_window, window
from fullyconv.trace.nodes import FROZEN
from fullyconv.trace.positions import COLUMNS, POOLED, ROWS, Call, Positions, shape_of


def _slide(call: Call, make: Callable[[int], Layer]) -> Positions:
    """Move a window over a map; on a pooled vector nothing moves."""
    source = call.source
    if source.flat is not None:
        raise call.refuse("moves a window over positions that were flattened into one axis")
    if not source.axes:
        return source
    if (source.rows, source.columns) != (-2, -1):
        raise call.refuse("moves a window over axes that are not rows and columns")
    return source.then(make(ROWS), make(COLUMNS))


def layer(call: Call) -> Positions:
    """Follow a convolution, transposed convolution or pooling layer."""
    steps = [layer_window(cast("nn.Module", call.layer), axis) for axis in (ROWS, COLUMNS)]
    if None in steps:
        raise call.refuse("a transposed convolution with output padding or dilation is not followed")
    return _slide(call, lambda axis: cast("Layer", steps[axis]))


def conv(call: Call) -> Positions:
    """Follow ``functional.conv2d``."""
    settings = {
        "kernel": shape_of(call.argument(1, "weight"))[-2:],
        "stride": call.argument(3, "stride", 1),
        "padding": call.argument(4, "padding", 0),
        "dilation": call.argument(5, "dilation", 1),
    }
    return _slide(call, lambda axis: window(axis, **settings, ceil_mode=False))


def pool(call: Call) -> Positions:
    """Follow ``functional.max_pool2d`` and ``avg_pool2d``."""
    is_max, kernel = call.name == "max_pool2d", call.argument(1, "kernel_size")
    settings = {
        "kernel": kernel,
        "stride": call.argument(2, "stride") or kernel,
        "padding": call.argument(3, "padding", 0),
        "dilation": call.argument(4, "dilation", 1) if is_max else 1,
        "ceil_mode": bool(call.argument(5 if is_max else 4, "ceil_mode", False)),
    }
    return _slide(call, lambda axis: window(axis, **settings))


def sliding(call: Call) -> Positions:
    """Follow the windows that replace global pooling (``fullyconv.surgery.head``)."""
    kernel = call.argument(1, "window")
    return _slide(call, lambda axis: Window(kernel[axis]))


def adaptive(call: Call) -> Positions:
    """Follow adaptive pooling: to one value, to the size that is there, or by a whole factor."""
    if not call.source.axes:
        return call.source
    sizes = [(call.before[axis], call.shape[axis]) for axis in (-2, -1)]
    if all(after == 1 for _, after in sizes):
        return POOLED
    if any(before % after for before, after in sizes):
        (high, down), (wide, across) = sizes
        raise call.refuse(f"pools {high} x {wide} units to {down} x {across}, which no fixed window does")
    return _slide(call, lambda axis: Window(sizes[axis][0] // sizes[axis][1], sizes[axis][0] // sizes[axis][1]))


def pad(call: Call) -> Positions:
    """Follow padding and cropping."""
    if call.node.meta.get(FROZEN):
        call.remark("padding", "pads by the picture's size; the padding of the example's size is kept for all")
    given = call.argument(1, "pad", getattr(call.layer, "padding", ()))
    sides = [given] * 4 if isinstance(given, int) else list(given)
    ends = {-1 - axis: (sides[2 * axis], sides[2 * axis + 1]) for axis in range(len(sides) // 2)}
    source = call.source
    if not any(any(ends.get(axis, (0, 0))) for axis in source.axes):
        return source
    if source.rows is None or source.columns is None:
        raise call.refuse("pads positions that were flattened into one axis")
    reflects = call.argument(2, "mode") == "reflect" or isinstance(call.layer, nn.ReflectionPad2d)

    def make(axis: int) -> Window:
        before, after = ends.get(axis, (0, 0))
        return Window(1, pad=before, pad_end=after, least=1 + max(before, after) * reflects)

    return source.then(make(source.rows), make(source.columns))


def resize(call: Call) -> Positions:
    """Follow an interpolation by whole factors, up or down."""
    if not call.source.axes:
        return call.source
    mode, size = call.argument(3, "mode", "nearest"), call.argument(1, "size")
    if call.argument(4, "align_corners"):
        raise call.refuse("interpolates with align_corners, whose grid depends on the size")

    def make(axis: int) -> Layer:
        factor = _factor(call, size, axis)
        if factor < 1:
            return Window(1, int(1 / factor))
        if factor > 1 and size is None:  # what it joins has rounded its size up or down
            call.require(axis, call.source.stride[axis])
        up = int(factor)
        if mode.startswith("nearest") or up == 1:
            return Spread(up, up)
        return Spread(2 * up - up % 2, up, up // 2)

    return _slide(call, make)


def _factor(call: Call, size: Any, axis: int) -> Fraction:
    """Return by what factor an interpolation enlarges: from the map whose size it takes, or from the sizes."""
    before, after = call.before[axis - 2], call.shape[axis - 2]
    wanted = size[axis] if isinstance(size, tuple | list) else size
    if isinstance(wanted, int) and wanted != before:
        raise call.refuse(f"fixes rows and columns by interpolating to {size}: it would be wrong at any other size")
    like = call.walk.positions.get(wanted.all_input_nodes[0], POOLED) if isinstance(wanted, fx.Node) else POOLED
    factor = call.source.stride[axis] / like.stride[axis] if like.is_map else Fraction(after, before)
    if like.is_map and before * factor != after:
        call.remark("misaligned", "interpolates to the size of another map, which its own units do not divide")
    if 1 not in (factor.numerator, factor.denominator):
        raise call.refuse(f"interpolates {before} units to {after}, which is no whole factor")
    return factor


def shuffle(call: Call) -> Positions:
    """Follow ``pixel_shuffle`` and ``pixel_unshuffle``."""
    up = call.shape[-1] > call.before[-1]
    factor = call.argument(1, "upscale_factor" if up else "downscale_factor")
    for axis in (ROWS, COLUMNS):
        call.require(axis, call.source.stride[axis] * (1 if up else factor))
    return _slide(call, lambda _: Spread(factor, factor) if up else Window(factor, factor))
