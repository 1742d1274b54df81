"""Operations that move a window over a map: convolution, pooling, padding, resampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from torch import fx, nn

from fullyconv.geometry import Layer, Spread, Window
from fullyconv.trace.positions import COLUMNS, POOLED, ROWS, Call, Positions, shape_of
from fullyconv.trace.record import FROZEN


def _along(value: int | Sequence[int], axis: int) -> int:
    if isinstance(value, int):
        return value
    return value[axis] if len(value) > 1 else value[0]


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


def _window(call: Call, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Positions:
    ceil_mode = bool(call.argument(5 if call.name == "max_pool2d" else 4, "ceil_mode", False))

    def make(axis: int) -> Window:
        taps, spread = _along(kernel, axis), _along(dilation, axis)
        room = spread * (taps - 1)
        pads = {"same": (room // 2, room - room // 2), "valid": (0, 0)}.get(str(padding))
        before, after = pads or (_along(padding, axis), _along(padding, axis))
        return Window(taps, _along(stride, axis), before, spread, ceil_mode=ceil_mode, pad_end=after)

    return _slide(call, make)


def layer(call: Call) -> Positions:
    """Follow a convolution or pooling layer."""
    made: Any = call.layer
    stride = made.kernel_size if made.stride is None else made.stride
    return _window(call, made.kernel_size, stride, made.padding, getattr(made, "dilation", 1))


def conv(call: Call) -> Positions:
    """Follow ``functional.conv2d``."""
    kernel = shape_of(call.argument(1, "weight"))[-2:]
    stride, padding, dilation = (
        call.argument(index, name, default)
        for index, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )

    def make(axis: int) -> Window:
        pad = _along(padding, axis)
        return Window(kernel[axis], _along(stride, axis), pad, _along(dilation, axis), pad_end=pad)

    return _slide(call, make)


def pool(call: Call) -> Positions:
    """Follow ``functional.max_pool2d`` and ``avg_pool2d``."""
    kernel = call.argument(1, "kernel_size")
    stride = call.argument(2, "stride") or kernel
    dilation = call.argument(4, "dilation", 1) if call.name == "max_pool2d" else 1
    return _window(call, kernel, stride, call.argument(3, "padding", 0), dilation)


def sliding(call: Call) -> Positions:
    """Follow the windows that replace global pooling (``fullyconv.recast``)."""
    window = call.argument(1, "window")
    return _slide(call, lambda axis: Window(window[axis]))


def transposed(call: Call) -> Positions:
    """Follow a transposed convolution."""
    made: Any = call.layer

    def make(axis: int) -> Spread:
        return Spread(_along(made.kernel_size, axis), _along(made.stride, axis), _along(made.padding, axis))

    return _slide(call, make)


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
    """Tell by what factor an interpolation enlarges: from the map whose size it takes, or from the sizes."""
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
