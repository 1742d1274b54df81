"""Operations that move a window over a map: convolution, pooling, padding, resampling."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from torch import fx, nn

from fullyconv.geometry import Layer, Spread, Window, size
from fullyconv.trace import joins
from fullyconv.trace.frames import Frame, pair
from fullyconv.trace.nodes import FROZEN, SHAPE
from fullyconv.trace.positions import COLUMNS, POOLED, ROWS, Call, Given, Positions

CIRCULAR = "pads with the opposite border, which is no window of a larger picture"


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


def frame(call: Call, read: Callable[[Given], Frame | None]) -> Positions:
    """Follow a convolution, transposed convolution or pool, whose window ``read`` reads."""
    if len(call.sources) > 1:
        raise call.refuse("has weights that depend on the picture")
    if not call.source.axes:
        return call.source
    found = read(call)
    if found is None:
        raise call.refuse("a transposed convolution with output padding or dilation is not followed")
    if found.mode == "circular":
        raise call.refuse(CIRCULAR)
    return _slide(call, found.along)


def unpool(call: Call) -> Positions:
    """Follow max-unpooling: each unit goes to the place of its window where the pool had found the largest.

    What stands at a place depends on the unit that goes there, and on all of the window in which the pool looked.
    Places are numbers of the map that was pooled, so that has to be as large as the one that is made: whole windows.
    """
    source, kernel, stride, padding = (
        call.argument(1, "indices"), *(call.argument(index, name) for index, name in enumerate(UNPOOLS, 2))
    )  # fmt: skip
    if not (isinstance(source, fx.Node) and is_places(source, call)):
        raise call.refuse("puts units at places that are not those of a max pool's maxima")
    pooled = call.walk.positions[source]
    windows = tuple(trail.path[-1] for trail in pooled.trails)
    sides = pair(kernel), pair(kernel if stride is None else stride), pair(padding or 0)
    wanted = tuple(zip(*sides, strict=True))
    if any(not isinstance(each, Window) for each in windows) or wanted != tuple(map(_separate, windows)):
        raise call.refuse("undoes a pool of other windows, of windows that overlap or of padded ones")
    joined = joins.joined(call)
    for axis, trail in enumerate(pooled.trails):
        call.require(axis, trail.line.scale)
        before, step = trail.path[:-1], call.walk.multiples[axis]
        if any(size(before, step * units) % wanted[axis][1] for units in range(LONG, LONG + wanted[axis][1])):
            raise call.refuse("undoes a pool whose windows do not fill the map it looked at")
    return joined.then(*(Spread(each[0], each[1]) for each in wanted))


UNPOOLS = ("kernel_size", "stride", "padding")
LONG = 64  # windows on a map that is long enough for every layer before


def _separate(window: Layer) -> tuple[int, int, int] | None:
    """Return kernel, stride and padding of a pool whose windows meet without overlap; else ``None``."""
    if not isinstance(window, Window) or window.pad or window.after or window.dilation > 1:
        return None
    return (window.kernel, window.stride, 0) if window.kernel == window.stride else None


def is_places(node: fx.Node, call: Call) -> bool:
    """Return whether a tensor holds the places of the maxima that a pool found: numbers of a map of one size."""
    pool = node.args[0] if node.target is operator.getitem and node.args[1:] == (1,) else None
    if not isinstance(pool, fx.Node) or not isinstance(pool.meta.get(SHAPE), list):
        return False
    found = call.walk.positions
    return pool in found and found[pool].trails != found[pool.all_input_nodes[0]].trails


class SlidingWindow(nn.Module):
    """What answers for every window of a map as one step: N x C x H x W in, N x K x (H - h + 1) x (W - w + 1) out."""

    window: tuple[int, int]
    pad: tuple[int, int] = (0, 0)  # of zeros, on each side

    def multiply_adds(self, channels: int) -> int:
        """Return the multiply-adds of one window of so many channels."""
        raise NotImplementedError


def sliding(call: Call) -> Positions:
    """Follow the windows that replace global pooling (``fullyconv.surgery.sliding``)."""
    kernel = call.argument(1, "window")
    pad = getattr(call.layer, "pad", (0, 0))
    return _slide(call, lambda axis: Window(kernel[axis], pad=pad[axis]))


def adaptive(call: Call) -> Positions:
    """Follow adaptive pooling to one value; what pools to several has no fixed window."""
    if not call.source.axes:
        return call.source
    sizes = [(call.before[axis], call.shape[axis]) for axis in (-2, -1)]
    if all(after == 1 for _, after in sizes):
        return POOLED
    # By a whole factor, it has become a window when it was recorded (``fullyconv.trace.settle``).
    whole = all(before % after == 0 for before, after in sizes)
    (high, down), (wide, across) = sizes
    why = " with their indices: at any other size that is another window" if whole else ", which no fixed window does"
    raise call.refuse(f"pools {high} x {wide} units to {down} x {across}{why}")


PADDING: dict[type[nn.Module], str] = {
    nn.ZeroPad2d: "constant",
    nn.ConstantPad2d: "constant",
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad2d: "replicate",
    nn.CircularPad2d: "circular",
}
"""Of what each layer's padding consists, in the words of ``functional.pad``."""


def padding(given: Given) -> tuple[dict[int, tuple[int, int]], str]:
    """Read what padding puts before and after each axis (counted from the end), and of what it consists."""
    sides = given.argument(1, "pad", getattr(given.layer, "padding", ()))
    sides = [sides] * 4 if isinstance(sides, int) else list(sides)
    ends = {-1 - axis: (sides[2 * axis], sides[2 * axis + 1]) for axis in range(len(sides) // 2)}
    mode = next((mode for kind, mode in PADDING.items() if isinstance(given.layer, kind)), "constant")
    return ends, str(given.argument(2, "mode", mode))


def pad(call: Call) -> Positions:
    """Follow padding and cropping."""
    if call.node.meta.get(FROZEN):
        call.remark("padding", "pads by the picture's size; the padding of the example's size is kept for all")
    ends, mode = padding(call)
    source = call.source
    if not any(any(ends.get(axis, (0, 0))) for axis in source.axes):
        return source
    if source.rows is None or source.columns is None:
        raise call.refuse("pads positions that were flattened into one axis")
    if mode == "circular":
        raise call.refuse(CIRCULAR)

    def make(axis: int) -> Window:
        before, after = ends.get(axis, (0, 0))
        return Window(1, pad=before, pad_end=after, least=1 + max(before, after) * (mode == "reflect"))

    return source.then(make(source.rows), make(source.columns))


def resize(call: Call) -> Positions:
    """Follow an interpolation by whole factors, up or down."""
    if not call.source.axes:
        return call.source
    size, mode, wide = call.argument(1, "size"), call.argument(3, "mode", "nearest"), call.argument(6, "antialias")
    if call.argument(4, "align_corners"):
        raise call.refuse("interpolates with align_corners, whose grid depends on the size")

    def make(axis: int) -> Layer:
        factor = _factor(call, size, axis)
        if factor > 1 and size is None:  # what it joins has rounded its size up or down
            call.require(axis, call.source.stride[axis])
        return _shrink(int(1 / factor), mode, bool(wide)) if factor < 1 else _enlarge(int(factor), mode)

    return _slide(call, make)


RADIUS = {"bilinear": 1, "bicubic": 2}
"""How far interpolation looks to either side, in units of the coarser grid."""


def _enlarge(factor: int, mode: str) -> Layer:
    """Return interpolation to ``factor`` times as many units: unit o lies at (o + 1/2) / factor - 1/2."""
    if factor == 1:
        return Window(1)
    if mode not in RADIUS:
        return Spread(factor, factor)
    kernel = 2 * RADIUS[mode] * factor - factor % 2
    return Spread(kernel, factor, (kernel - factor) // 2)


def _shrink(factor: int, mode: str, antialias: bool) -> Layer:
    """Return interpolation to every ``factor``-th unit: all but plain "nearest" look at the middle of the block."""
    if mode == "area":
        return Window(factor, factor)
    if mode not in RADIUS:  # one unit of each block: the first, or that in the middle
        first, kernel = (factor // 2 if mode == "nearest-exact" else 0), 1
    elif antialias:
        kernel = 2 * RADIUS[mode] * factor - factor % 2
        first = (factor - kernel) // 2
    else:  # an odd block's middle is a unit
        kernel = 1 if factor % 2 else 2 * RADIUS[mode]
        first = (factor - kernel) // 2
    return Window(kernel, factor, -first, pad_end=kernel + first - factor)  # as many as there are whole blocks


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
