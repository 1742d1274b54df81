"""Operations that move axes about: transposing, indexing, splitting, reshaping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any, cast

from torch import fx

from fullyconv.geometry import Layer, Spread, Window
from fullyconv.trace.nodes import SHAPE, VALUE
from fullyconv.trace.positions import COLUMNS, POOLED, ROWS, Call, Positions


def permute(call: Call) -> Positions:
    """Follow ``permute``."""
    given: Any = call.node.args[1:] or (call.argument(1, "dims"),)
    order = given[0] if isinstance(given[0], tuple | list) else given
    dims = len(order)
    places = {call.from_end(axis, dims): index - dims for index, axis in enumerate(order)}
    return call.source.moved(places.__getitem__)


def transpose(call: Call) -> Positions:
    """Follow ``transpose``."""
    first, second = call.from_end(call.argument(1, "dim0")), call.from_end(call.argument(2, "dim1"))
    return call.source.moved(lambda axis: {first: second, second: first}.get(axis, axis))


def movedim(call: Call) -> Positions:
    """Follow ``movedim`` of one axis."""
    source, target = call.from_end(call.argument(1, "source")), call.from_end(call.argument(2, "destination"))
    order = [axis for axis in range(-len(call.before), 0) if axis != source]
    order.insert(target + len(call.before), source)
    return call.source.moved({axis: place - len(order) for place, axis in enumerate(order)}.__getitem__)


def unsqueeze(call: Call) -> Positions:
    """Follow ``unsqueeze``."""
    new = call.from_end(call.argument(1, "dim"), len(call.shape))
    return call.source.moved(lambda axis: axis if axis > new else axis - 1)


def squeeze(call: Call) -> Positions:
    """Follow ``squeeze``."""
    gone = [axis for axis in range(-len(call.before), 0) if call.before[axis] == 1]
    given = call.argument(1, "dim")
    if given is not None:
        asked = {call.from_end(axis) for axis in (given if isinstance(given, tuple | list) else (given,))}
        gone = [axis for axis in gone if axis in asked]
    if set(gone) & set(call.source.axes):
        raise call.refuse("drops rows and columns that have one unit at this size alone")
    return call.source.moved(lambda axis: axis + sum(other > axis for other in gone))


def split(call: Call) -> Positions:
    """Follow a split along channels; the positions are those of each piece."""
    _keep_positions(call, call.from_end(call.argument(2, "dim", 0)), "splits")
    return call.source


def unbind(call: Call) -> Positions:
    """Follow taking an axis apart, or (``select``) one place of it."""
    axis = call.from_end(call.argument(1, "dim", 0))
    _keep_positions(call, axis, "takes apart")
    return call.source.moved(lambda each: each + (axis > each))


def transpose_last(call: Call) -> Positions:
    """Follow the transposing of the last two axes."""
    return call.source.moved(lambda axis: {-1: -2, -2: -1}.get(axis, axis))


def reverse(call: Call) -> Positions:
    """Follow the reversal of all axes (``x.T``)."""
    return call.source.moved(lambda axis: -1 - len(call.before) - axis)


def narrow(call: Call) -> Positions:
    """Follow a piece of one axis: of channels, or a crop of rows or columns."""
    axis = call.from_end(call.argument(1, "dim"))
    if axis not in call.source.axes:
        return call.source
    return _cropped(call, {axis: narrowed(call, axis)})


def narrowed(call: Call, axis: int) -> Window:
    """Return what ``narrow`` takes of an axis of positions."""
    start, length = call.argument(2, "start"), call.argument(3, "length")
    stop = _value(start) + _value(length)
    if not isinstance(length, fx.Node) and stop != call.before[axis]:
        raise call.refuse(f"fixes rows and columns by taking {length} of them: it would be wrong at any other size")
    return crop_of(call, slice(_value(start), stop), call.before[axis])


def along(index: int, default: int | None = None, name: str = "dim") -> Callable[[Call], Positions]:
    """Make the rule of operations along one axis or several, each position by itself unless that is one of theirs."""

    def follow(call: Call) -> Positions:
        given = call.argument(index, name, default)
        for axis in given if isinstance(given, tuple | list) else (given,):
            _keep_positions(call, call.from_end(axis), "runs along")
        return call.source

    return follow


def flip(call: Call) -> Positions:
    """Follow the reversal of the order along some axes."""
    given = call.node.args[1:] or (call.argument(1, "dims"),)
    for axis in given[0] if isinstance(given[0], tuple | list) else given:
        _keep_positions(call, call.from_end(cast("int", axis)), "turns round")
    return call.source


def repeat(call: Call) -> Positions:
    """Follow the repetition of channels."""
    given: Any = call.node.args[1:] or (call.argument(1, "repeats", call.argument(1, "dims")),)
    repeats = given[0] if isinstance(given[0], tuple | list) else given
    for axis in call.source.axes:
        if -axis <= len(repeats) and repeats[axis] != 1:
            raise call.refuse("repeats rows or columns")
    return call.source


def expand(call: Call) -> Positions:
    """Follow the repetition of axes of length 1."""
    return call.walk.positions.get(call.node.all_input_nodes[0], POOLED)


def _keep_positions(call: Call, axis: int, verb: str) -> None:
    if axis in call.source.axes:
        raise call.refuse(f"{verb} rows or columns")


def item(call: Call) -> Positions:
    """Follow indexing: pieces of a split, slices of channels, crops and strides of positions."""
    source = call.source
    if isinstance(call.sources[0].meta.get(SHAPE), list):
        return source
    entries = entries_of(call)
    made = [entry for entry in entries if entry is None or not _is_number(entry)]
    taken = [entry for entry in entries if entry is not None]
    places, layers = {}, {}
    for old, entry in enumerate(taken, start=-len(taken)):
        if not _is_number(entry):
            places[old] = next(place for place, each in enumerate(made, start=-len(made)) if each is entry)
            if old in source.axes and entry != slice(None):
                layers[old] = crop_of(call, entry, call.before[old])
        elif old in source.axes:
            raise call.refuse("takes single positions out of a map")
    moved = source.moved(places.__getitem__)
    return replace(moved, trails=_cropped(call, layers).trails)


def _cropped(call: Call, crops: dict[int, Window]) -> Positions:
    """Crop rows and columns, which are axes of ``crops``."""
    source = call.source
    if not crops:
        return source
    if source.rows is None or source.columns is None:
        raise call.refuse("takes some of the positions that were flattened into one axis")
    return source.then(crops.get(source.rows, Window(1)), crops.get(source.columns, Window(1)))


def entries_of(call: Call) -> list[Any]:
    """Return what indexing says of each axis, and ``None`` for each new one."""
    return _spelled_out(call.node.args[1], len(call.before))


def _is_number(entry: Any) -> bool:
    return isinstance(entry, int) or (isinstance(entry, fx.Node) and VALUE in entry.meta)


def _spelled_out(index: Any, dims: int) -> list[Any]:
    """Return one entry for each axis, and ``None`` for each new one."""
    entries = list(index) if isinstance(index, tuple) else [index]
    missing = [slice(None) for _ in range(dims - sum(entry not in (None, Ellipsis) for entry in entries))]
    place = entries.index(Ellipsis) if Ellipsis in entries else len(entries)
    return [*entries[:place], *missing, *entries[place + 1 :]]


def _value(bound: Any) -> Any:
    return bound.meta[VALUE] if isinstance(bound, fx.Node) else bound


def crop_of(call: Call, piece: Any, length: int) -> Window:
    """Return what a slice takes of an axis of so many positions."""
    if not isinstance(piece, slice):
        raise call.refuse("takes positions by a list or tensor of indices")
    start, stop, step = slice(*(_value(bound) for bound in (piece.start, piece.stop, piece.step))).indices(length)
    if isinstance(piece.stop, int) and 0 <= piece.stop < length:
        raise call.refuse(f"fixes rows and columns by stopping at {stop}: it would be wrong at any other size")
    if step < 1 or stop <= start:
        raise call.refuse(f"takes positions {start}..{stop}")
    return Window(1, step, pad=-start, pad_end=stop - length)


def reshape(call: Call) -> Positions:
    """Follow a change of shape: groups of axes with equal products correspond."""
    source = call.source
    if not source.axes:
        return source
    before, after = call.before, call.shape
    result, start_in, start_out = source.moved(lambda axis: None), 0, 0
    for end_in, end_out in _groups(before, after):
        old = [axis - len(before) for axis in range(start_in, end_in)]
        new = [axis - len(after) for axis in range(start_out, end_out)]
        result = _regroup(call, result, old, new)
        start_in, start_out = end_in, end_out
    return result


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
    """Cut two shapes where the products of what came before agree, as often as possible; gives the ends."""
    ends: list[tuple[int, int]] = []
    taken = made = 0
    while taken < len(before) or made < len(after):
        left = right = 1
        start = taken, made
        while left != right or (taken, made) == start:
            if (left <= right and taken < len(before)) or made == len(after):
                left *= before[taken]
                taken += 1
            else:
                right *= after[made]
                made += 1
        if ends and (taken == start[0] or made == start[1]):  # axes of length 1 belong to what comes before
            ends.pop()
        ends.append((taken, made))
    return ends


def _regroup(call: Call, result: Positions, old: list[int], new: list[int]) -> Positions:
    """Place the positions of one group of axes."""
    held = [axis for axis in old if axis in call.source.axes]
    if not held:
        return result
    if -len(call.before) in old:
        raise call.refuse(
            f"reshapes {call.before} to {call.shape}: it moves positions into the batch, as attention over windows does"
        )
    wide_in = [axis for axis in old if call.before[axis] > 1 or axis in held]
    wide_out = [axis for axis in new if call.shape[axis] > 1] or new[:1]
    if len(held) == 2:
        return _flatten(call, result, wide_in, wide_out)
    if held[0] == call.source.flat:
        return _from_flat(call, result, wide_in, wide_out)
    axis = ROWS if held[0] == call.source.rows else COLUMNS
    trails = list(result.trails)
    if wide_in == held and len(wide_out) > 1:  # (H) -> (H/b, b)
        block = prod(call.shape[each] for each in wide_out[1:])
        call.require(axis, call.source.stride[axis] * block)
        trails[axis] = trails[axis].then(Window(block, block))
    elif wide_in[0] == held[0] and len(wide_out) == 1:  # (H, r) -> (H * r)
        factor = prod(call.before[each] for each in wide_in[1:])
        layer: Layer = Spread(factor, factor)
        trails[axis] = trails[axis].then(layer) if factor > 1 else trails[axis]
    else:
        raise _mixes(call)
    placed = replace(result, trails=(trails[0], trails[1]))
    return replace(placed, rows=wide_out[0]) if axis == ROWS else replace(placed, columns=wide_out[0])


def _mixes(call: Call) -> ValueError:
    return call.refuse(f"reshapes {call.before} to {call.shape}, which mixes channels and positions")


def _flatten(call: Call, result: Positions, old: list[int], new: list[int]) -> Positions:
    """Put rows and columns into one axis, alone or with the channels."""
    source = call.source
    if old == [source.rows, source.columns] and len(new) == 1:
        return replace(result, flat=new[0])
    names = {source.rows: "H", source.columns: "W"}
    order = tuple((names.get(axis, "C"), call.before[axis]) for axis in old)
    if len(new) != 1 or new[0] != -1 or len(order) != 3:
        raise _mixes(call)
    return replace(result, flattened=order)


def _from_flat(call: Call, result: Positions, old: list[int], new: list[int]) -> Positions:
    """Keep rows and columns in one axis, or take them out of it again."""
    if len(old) != 1 or len(new) > 2:
        raise _mixes(call)
    return replace(result, flat=new[0]) if len(new) == 1 else replace(result, rows=new[0], columns=new[1])


def view(call: Call) -> Positions:
    """Follow a change of shape to given lengths; those written down as numbers would be wrong at any other size."""
    result = reshape(call)
    given: Any = call.node.args[1:] or (call.argument(1, "shape", call.argument(1, "size")),)
    shape = given[0] if isinstance(given[0], tuple | list) else given
    for axis in result.axes:
        if isinstance(shape[axis], int) and shape[axis] != -1:
            raise call.refuse(f"fixes rows and columns by reshaping to {call.shape}: it would fail at any other size")
    return result
