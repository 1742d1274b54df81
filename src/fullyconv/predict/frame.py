"""The border of padded zeros, computed once: what a network with a wide pad finds where it sees no pixel.

The reference's nets pad an image by 100 pixels. A unit of a shallow map that sees none of the image answers to nothing
but how far it is from the outermost border (where the convolutions' own padding begins to be seen): in a map of
another image of that size, or of a larger one, the same numbers stand there. So the shallow layers compute the image
with a narrow pad, and the frame around it is pasted from the map of a blank image. What the narrow pad makes wrong lies
under the frame: all values are those of the wide pad. Nothing of this knows the network; it follows from the
windows that its trunk moves over the image (``fullyconv.trace``).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fullyconv.geometry import Window, size
from fullyconv.networks.alignment import AxisPlan
from fullyconv.trace import NotFollowed, Walk, walk
from fullyconv.trace.operations import operation
from fullyconv.trace.positions import shape_of
from fullyconv.trace.walking import layer_of

Pair = tuple[int, int]
USUAL = 500  # pixels of a side for which the cut between shallow and deep is chosen
LEAST_GAIN = 0.05  # of the shallow layers' arithmetic, or it is not worth the pasting
PASTING = 1000  # multiply-adds that take as long as writing one number of the pasted map
BLANKS = 16  # maps that are kept


@dataclass(frozen=True)
class AxisFrame:
    """How much of a map along one axis is frame.

    Attributes:
        path: The windows from the image to the map; the first one pads.
    """

    path: tuple[Window, ...]

    @property
    def stride(self) -> int:
        """Pixels between units."""
        stride = 1
        for window in self.path:
            stride *= window.stride
        return stride

    @lru_cache(maxsize=512)  # noqa: B019 (a small value, not a network)
    def layout(self, length: int) -> Layout:
        """Find out what the units see of an axis of ``length`` pixels."""
        sizes = [length]
        for window in self.path:
            sizes.append(window.size(sizes[-1]))
        units = sizes[-1]
        views = [self._view(unit, sizes) for unit in range(units)]
        untouched = [unit for unit, (_, _, touches) in enumerate(views) if not touches]
        if not untouched:
            return Layout.whole(units)
        first, last = untouched[0], untouched[-1] + 1
        before = sum(end < 0 for _, end, _ in views)
        after = sum(start >= length for start, _, _ in views)
        # A frame must hide the units next to the border, which see the inner padding of the narrow network.
        step = self.stride
        room = self.path[0].pad // step, self.path[0].after // step
        cut = min(max(before - first, 0), room[0]), min(max(after - (units - last), 0), room[1])
        found = Layout(units, first, last, *cut)
        # Of a picture of a pixel or two, an inner map may be nothing with the narrow pad.
        return found if size(self.narrowed(found), length) == units - sum(cut) else Layout.whole(units)

    def _view(self, unit: int, sizes: Sequence[int]) -> tuple[int, int, bool]:
        """Return the pixels that a unit sees, and whether it sees the end of any map but the image."""
        first = last = unit
        touches = False
        for window, units in zip(self.path[:0:-1], sizes[-2:0:-1], strict=True):
            first, last = window.seen(first, last)
            touches = touches or first < 0 or last >= units
        return (*self.path[0].seen(first, last), touches)

    def narrowed(self, layout: Layout) -> tuple[Window, ...]:
        """Return the path with the pad that the frame leaves."""
        first, *rest = self.path
        before, after = layout.pads(self)
        return (replace(first, pad=before, pad_end=after), *rest)


@dataclass(frozen=True)
class Layout:
    """The units of a map along one axis of an image.

    Attributes:
        units: How many there are with the wide pad.
        first: How many see the beginning of an inner map.
        last: The unit from which on they see the end of one.
        before: How many the narrow pad leaves out at the beginning.
        after: The same at the end.
    """

    units: int
    first: int
    last: int
    before: int
    after: int

    @classmethod
    def whole(cls, units: int) -> Layout:
        """Return that of an axis without a frame: no unit shows what its neighbour shows, and none is left out."""
        return cls(units, units, units, 0, 0)

    @property
    def shown(self) -> Pair:
        """The units that are computed for each image, from the first of them to the one after."""
        start = self.first + self.before if self.before else 0
        return start, self.last - self.after if self.after else self.units

    def pads(self, frame: AxisFrame) -> Pair:
        """Return the narrow pad, before and after."""
        window = frame.path[0]
        return window.pad - self.before * frame.stride, window.after - self.after * frame.stride

    def places(self, blank: Layout) -> Tensor:
        """Return the unit of a shorter blank map that shows what each unit of this one shows."""
        unit = torch.arange(self.units)
        shown = torch.where(unit < self.first, unit, torch.full_like(unit, self.first))
        return torch.where(unit < self.last, shown, unit - (self.units - blank.units))


class Framed(nn.Module):
    """A network in two parts with a frame between them.

    Args:
        shallow: The padded image to a map, without padding of its own at the first convolution.
        deep: The map to the results.
        frames: Of the map, along rows and columns.
        margins: Zeros that are around the image already when it comes.

    """

    def __init__(
        self, shallow: fx.GraphModule, deep: fx.GraphModule, frames: tuple[AxisFrame, AxisFrame], margins: Pair
    ) -> None:
        super().__init__()
        self.shallow, self.deep, self.frames, self.margins = shallow, deep, frames, margins
        self._blanks: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()
        self._lock = Lock()

    def with_parts(self, shallow: fx.GraphModule, deep: fx.GraphModule) -> Framed:
        """Return the same network with its parts in another form."""
        return Framed(shallow, deep, self.frames, self.margins)

    def forward(self, image: Tensor) -> Any:
        """Compute what the network computes of N x K x H x W with its margins."""
        return self.deep(self.framed(image, self.shallow))

    def framed(self, image: Tensor, shallow: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute the map between the parts.

        Args:
            image: N x K x H x W with its margins.
            shallow: A form of the shallow part.

        Returns:
            N x C x h x w, as with the wide pad.
        """
        high, wide = (length - 2 * margin for length, margin in zip(image.shape[2:], self.margins, strict=True))
        image = image[:, :, self.margins[0] : self.margins[0] + high, self.margins[1] : self.margins[1] + wide]
        rows, columns = (frame.layout(length) for frame, length in zip(self.frames, (high, wide), strict=True))
        pads = (*columns.pads(self.frames[1]), *rows.pads(self.frames[0]))
        found = shallow(_laid(functional.pad(image, pads), image))
        (top, bottom), (left, right) = rows.shown, columns.shown
        if (bottom - top, right - left) == (rows.units, columns.units):
            return found
        blank = self._blank(image, (high, wide), shallow)
        lengths = [_blank_length(frame, length) for frame, length in zip(self.frames, (high, wide), strict=True)]
        places = [
            each.places(frame.layout(length))
            for each, frame, length in zip((rows, columns), self.frames, lengths, strict=True)
        ]
        size = len(image), found.shape[1], rows.units, columns.units
        whole = _laid(found.new_empty(size), found)
        sides = (slice(0, top), slice(None)), (slice(bottom, None), slice(None))
        ends = (slice(top, bottom), slice(0, left)), (slice(top, bottom), slice(right, None))
        for down, across in (*sides, *ends):
            whole[:, :, down, across] = blank[:, :, places[0][down]][:, :, :, places[1][across]]
        whole[:, :, top:bottom, left:right] = found[
            :, :, top - rows.before : bottom - rows.before, left - columns.before : right - columns.before
        ]
        return whole

    def _blank(self, image: Tensor, lengths: Pair, shallow: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the map of a blank image, 1 x C x h x w, of the shortest one that ends like this one."""
        high, wide = (_blank_length(frame, length) for frame, length in zip(self.frames, lengths, strict=True))
        key = high, wide, image.dtype, image.device
        with self._lock:
            if key in self._blanks:
                self._blanks.move_to_end(key)
                return self._blanks[key]
        first = [frame.path[0] for frame in self.frames]
        blank = image.new_zeros(
            1, image.shape[1], first[0].pad + high + first[0].after, first[1].pad + wide + first[1].after
        )
        found = shallow(_laid(blank, image))
        with self._lock:
            self._blanks[key] = found
            if len(self._blanks) > BLANKS:
                self._blanks.popitem(last=False)
        return found


def _laid(given: Tensor, like: Tensor) -> Tensor:
    """Lay a map in memory as another one is."""
    last = like.is_contiguous(memory_format=torch.channels_last) and like.shape[1] > 1
    return given.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _blank_length(frame: AxisFrame, length: int) -> int:
    """Find the shortest axis whose map begins, stays the same and ends like that of ``length`` pixels."""
    wanted = frame.layout(length)
    for shorter in range((length - 1) % frame.stride + 1, length, frame.stride):
        found = frame.layout(shorter)
        if found.first == wanted.first < found.last and found.units - found.last == wanted.units - wanted.last:
            return shorter
    return length


def frame(recorded: fx.GraphModule, plans: Sequence[AxisPlan] = ()) -> Framed | None:
    """Cut a network where the frame around the image saves most.

    Args:
        recorded: What ``fullyconv.trace.record`` made of it.
        plans: Those of an FCN whose margins are around the image already (``FCN.padded``), for rows and columns.

    Returns:
        The network in two parts, which share its layers, or ``None`` where there is nothing to save: it pads no
        more than it needs, or does not begin with a chain of convolutions, pools and what acts on each unit.
    """
    if any(plan.multiple > 1 for plan in plans):  # what follows the image then changes with its size
        return None
    margins = (plans[0].margin, plans[1].margin) if plans else (0, 0)
    try:
        found = walk(recorded)
    except NotFollowed:
        return None
    chain = _chain(recorded, found)
    best, most = None, LEAST_GAIN
    for number in range(1, len(chain)):
        frames = _frames(found, chain[number], margins)
        if frames is not None and (gain := _gain(recorded, found, chain[: number + 1], frames, margins)) > most:
            best, most = (chain[: number + 1], frames), gain
    return None if best is None else _cut(recorded, *best, margins)


def _chain(recorded: fx.GraphModule, found: Walk) -> list[fx.Node]:
    """Return the operations that follow each other from the image on, the first a convolution that pads by zeros."""
    node = next(node for node in recorded.graph.nodes if node.op == "placeholder")
    chain: list[fx.Node] = []
    while len(node.users) == 1:
        previous, node = node, next(iter(node.users))
        row = operation(node, layer_of(recorded, node))
        local = row is not None and (row.unitwise or row.frame is not None)
        if not local or node.all_input_nodes != [previous] or node not in found.positions:
            break
        chain.append(node)
    first = layer_of(recorded, chain[0]) if chain else None
    pads = isinstance(first, nn.Conv2d) and first.padding_mode == "zeros" and not isinstance(first.padding, str)
    return chain if pads else []


def _frames(found: Walk, node: fx.Node, margins: Pair) -> tuple[AxisFrame, AxisFrame] | None:
    """Return how a map is framed, if only windows are moved before it."""
    paths = [trail.path for trail in found.positions[node].trails]
    if not all(path and all(isinstance(layer, Window) for layer in path) for path in paths):
        return None
    rows, columns = (
        AxisFrame((replace(path[0], pad=path[0].pad + margin, pad_end=path[0].after + margin), *path[1:]))
        for path, margin in zip(cast("list[tuple[Window, ...]]", paths), margins, strict=True)
    )
    return rows, columns


def _gain(
    recorded: fx.GraphModule, found: Walk, chain: Sequence[fx.Node], frames: tuple[AxisFrame, AxisFrame], margins: Pair
) -> float:
    """Return the share of multiply-adds of all the chain's convolutions that a frame after the last of them saves.

    Counted in units of the image's pixels, so that cuts can be compared.
    """
    saved = 0.0
    narrow = [each.narrowed(each.layout(USUAL))[0] for each in frames]
    for node in chain:
        layer, own = layer_of(recorded, node), _frames(found, node, margins)
        if isinstance(layer, nn.Conv2d) and own is not None:
            rows, columns = own
            wide = size(rows.path, USUAL) * size(columns.path, USUAL)
            left = size((narrow[0], *rows.path[1:]), USUAL) * size((narrow[1], *columns.path[1:]), USUAL)
            saved += layer.weight.numel() * (wide - left)
    total = sum(
        layer.weight.numel() * size(own[0].path, USUAL) * size(own[1].path, USUAL)
        for node in chain
        if isinstance(layer := layer_of(recorded, node), nn.Conv2d) and (own := _frames(found, node, margins))
    )
    pasted = PASTING * shape_of(chain[-1])[1] * size(frames[0].path, USUAL) * size(frames[1].path, USUAL)
    return saved - pasted if total and saved - pasted > LEAST_GAIN * total else 0.0


def _cut(
    recorded: fx.GraphModule, chain: Sequence[fx.Node], frames: tuple[AxisFrame, AxisFrame], margins: Pair
) -> Framed:
    """Write a network as two, up to the last operation of a chain and from there on."""
    shallow, deep = fx.Graph(), fx.Graph()
    image = next(node for node in recorded.graph.nodes if node.op == "placeholder")
    upper = {image: shallow.node_copy(image)}
    for node in chain:
        upper[node] = shallow.node_copy(node, lambda each: upper[each])
    shallow.output(upper[chain[-1]])
    lower = {chain[-1]: deep.placeholder("units")}
    lower[chain[-1]].meta = dict(chain[-1].meta)
    for node in recorded.graph.nodes:
        if node is not image and node not in upper:
            lower[node] = deep.node_copy(node, lambda each: lower[each])
    parts = fx.GraphModule(recorded, shallow), fx.GraphModule(recorded, deep)
    bare = copy.copy(cast("nn.Conv2d", layer_of(recorded, chain[0])))
    bare._modules, bare._parameters = dict(bare._modules), dict(bare._parameters)
    bare.padding = (0, 0)
    bare._reversed_padding_repeated_twice = [0, 0, 0, 0]
    name = f"bare_{chain[0].name}"
    parts[0].add_submodule(name, bare)
    next(node for node in shallow.nodes if node.op == "call_module").target = name
    for part in parts:
        part.delete_all_unused_submodules()
        part.recompile()
    return Framed(*parts, frames, margins)
