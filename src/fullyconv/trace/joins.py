"""Operations that act on each unit by itself, or join maps unit by unit."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, lcm, prod

from torch import fx

from fullyconv.geometry import Path, Window, axis_map, size
from fullyconv.trace.positions import COLUMNS, POOLED, ROWS, Call, Positions, Trail, shape_of


def unitwise(call: Call) -> Positions:
    """Follow what acts on each unit by itself, with the units of other maps that lie on it."""
    result = joined(call)
    for node in call.node.all_input_nodes:
        shape = shape_of(node) if node.op == "get_attr" else ()
        if any(-axis <= len(shape) and shape[axis] != 1 for axis in result.axes):
            raise call.refuse(f"has numbers for each position of a map of {shape}: it would be wrong at any other size")
    return result


def joined(call: Call) -> Positions:
    """Join all maps, which must lie on one grid; the one that sees most stands for all."""
    found = [call.walk.positions[node] for node in call.sources]
    placed = [each for each in found if each.axes]
    if not placed:
        return _joined_flattened([each for each in found if each.flattened], call)
    if len(placed) < len(found):
        call.remark("global", "sees the whole picture at every position")
    first = placed[0]
    if any((each.rows, each.columns, each.flat) != (first.rows, first.columns, first.flat) for each in placed):
        raise call.refuse("joins maps whose rows and columns are different axes")
    rows, columns = (_join([each.trails[axis] for each in placed], call, axis) for axis in (ROWS, COLUMNS))
    return replace(first, trails=(rows, columns))


def _joined_flattened(found: list[Positions], call: Call) -> Positions:
    if len({each.flattened for each in found}) > 1:
        raise call.refuse("joins maps that were flattened in different orders")
    return found[0] if found else POOLED


def _join(trails: list[Trail], call: Call, axis: int) -> Trail:
    if len({trail.line.scale for trail in trails}) > 1:
        strides = ", ".join(str(trail.line.scale) for trail in trails)
        raise call.refuse(f"joins maps that are not aligned: their strides are {strides} px")
    widest = max(trails, key=lambda trail: trail.line.field)
    if any(_rounds_apart(trail.path, widest.path) for trail in trails):
        # Branches that went to coarser maps and came back meet where no map on the way was rounded.
        call.require(axis, max(_coarsest(trail.path) for trail in trails))
    line = widest.line
    apart = max(abs(trail.line.shift - line.shift) for trail in trails)
    if apart:
        call.remark("misaligned", f"joins maps {float(apart):g} px apart; alignment takes the middle of all")
    # Which branch answers more is up to the weights; from the middle of all none is farther than half their distance.
    centre = sum((trail.line.shift + trail.drift for trail in trails), Fraction(0)) / len(trails)
    widest = replace(widest, drift=centre - line.shift)
    # What the others see beyond it, on either side.
    extra = max(abs(trail.line.shift - line.shift) + trail.line.reach - line.reach for trail in trails)
    margin = ceil(extra / line.scale)
    return widest.then(Window(2 * margin + 1, pad=margin)) if margin else widest


def _coarsest(path: Path) -> Fraction:
    """Return the largest stride on the way."""
    return max(axis_map(path[:layers]).scale for layers in range(len(path) + 1))


def _rounds_apart(first: Path, second: Path) -> bool:
    """Return whether two branches come to different numbers of units for some size."""
    shared = next((index for index, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
    if shared is None:
        shared = min(len(first), len(second))
    ends = first[shared:], second[shared:]
    # So many units further every window of a branch, and every one behind it, has moved by whole steps.
    period = lcm(*(prod(layer.stride for layer in end if isinstance(layer, Window)) for end in ends))
    longest = ceil(sum(layer.axis_map().field for end in ends for layer in end))  # none is too short for a window
    return any(size(ends[0], units) != size(ends[1], units) for units in range(longest, longest + period))


def stack(call: Call) -> Positions:
    """Follow maps joined along a new axis."""
    joined, new = unitwise(call), call.from_end(call.argument(1, "dim", 0), len(call.shape))
    return joined.moved(lambda axis: axis if axis > new else axis - 1)


def cat(call: Call) -> Positions:
    """Follow maps joined along channels."""
    joined, new = unitwise(call), call.from_end(call.argument(1, "dim", 0), len(call.shape))
    if new in joined.axes:
        what = "adds tokens to the positions" if new == joined.flat else "puts maps one after the other"
        raise call.refuse(f"{what}, which then no longer are a map")
    return joined


def cast(call: Call) -> Positions | None:
    """Follow what gives a tensor the type of another: only the first is the result."""
    return call.walk.positions.get(call.argument(0, "input"))


def channelwise(call: Call) -> Positions:
    """Follow what treats each channel, the second axis, in its own way."""
    if 1 - len(call.before) in call.source.axes:
        raise call.refuse("takes rows or columns for channels: it acts on the second axis")
    return joined(call)


def prelu(call: Call) -> Positions:
    """Follow ``prelu``, with one slope or one for each channel."""
    slopes = call.argument(1, "weight")
    count = prod(shape_of(slopes)) if isinstance(slopes, fx.Node) else slopes.numel()
    return unitwise(call) if count == 1 else channelwise(call)
