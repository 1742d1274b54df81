"""Which axes of a tensor are rows and columns, and where their units look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil, lcm
from typing import Any, cast

from torch import fx, nn

from fullyconv.geometry import AxisMap, Layer, Path
from fullyconv.trace.nodes import PATH, SHAPE

ROWS, COLUMNS = 0, 1


class NotFollowed(ValueError):
    """An operation that has no fully convolutional form; the message names it and its module."""


@dataclass(frozen=True)
class Trail:
    """The layers behind a map along one axis, with what they compose to.

    ``drift`` is how many pixels beside the middle of its window a unit's response is centred: where branches that
    lie apart are joined, the window is that of the one that sees most, the centre that of all of them.
    """

    path: Path = ()
    line: AxisMap = field(default_factory=AxisMap)
    drift: Fraction = Fraction(0)

    def then(self, layer: Layer) -> Trail:
        """Add a layer."""
        return Trail((*self.path, layer), self.line.then(layer.axis_map()), self.drift)

    @property
    def centred(self) -> AxisMap:
        """Where the response is centred, with a window around that place that holds all that is seen."""
        return self.line.moved(self.drift)


@dataclass(frozen=True)
class Positions:
    """What the axes of a tensor mean; axes are counted from the end, -1 the last.

    A map has ``rows`` and ``columns``, or both in one ``flat`` axis. A tensor that depends on the picture without
    having positions (a pooled vector) has none of them.

    Attributes:
        rows: The axis of rows.
        columns: The axis of columns.
        flat: The axis that holds both.
        trails: The layers behind the tensor, along rows and along columns.
        flattened: Of a map whose channels and positions share one axis, as a fully connected layer reads it: its former
            axes in order, "C", "H" and "W", each with its length.

    >>> Positions(rows=-2, columns=-1).is_map, Positions(flat=-1).axes
    (True, (-1,))
    """

    rows: int | None = None
    columns: int | None = None
    flat: int | None = None
    trails: tuple[Trail, Trail] = (Trail(), Trail())
    flattened: tuple[tuple[str, int], ...] = ()

    @property
    def is_map(self) -> bool:
        """Return whether both axes are there."""
        return self.rows is not None and self.columns is not None

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that hold positions."""
        return tuple(axis for axis in (self.rows, self.columns, self.flat) if axis is not None)

    @property
    def stride(self) -> tuple[Fraction, Fraction]:
        """Pixels between neighbouring units, along rows and columns."""
        return self.trails[ROWS].line.scale, self.trails[COLUMNS].line.scale

    def then(self, rows: Layer, columns: Layer) -> Positions:
        """Move a window over the map.

        Args:
            rows: The window along rows.
            columns: The window along columns.

        Returns:
            The same axes, with longer trails.
        """
        return replace(self, trails=(self.trails[ROWS].then(rows), self.trails[COLUMNS].then(columns)))

    def moved(self, where: Callable[[int], int | None]) -> Positions:
        """Put each axis elsewhere.

        Args:
            where: Gives an axis its new place, or ``None`` where it is gone.

        Returns:
            The same trails, with other axes.
        """
        rows, columns, flat = (None if axis is None else where(axis) for axis in (self.rows, self.columns, self.flat))
        return replace(self, rows=rows, columns=columns, flat=flat)

    def channels_first(self, dims: int) -> tuple[int, int, int, int] | None:
        """Return the order of axes that makes N x C x h x w of a map.

        Args:
            dims: How many axes the tensor has.

        Returns:
            The axes of N, C, h and w, counted from 0, or ``None`` if the tensor has no such order.
        """
        if self.rows is None or self.columns is None or dims != 4:
            return None
        rows, columns = dims + self.rows, dims + self.columns
        channels = next(axis for axis in (1, 2, 3) if axis not in (rows, columns))
        return 0, channels, rows, columns


POOLED = Positions()


@dataclass(frozen=True)
class Remark:
    """What a user should know of an operation.

    Attributes:
        kind: ``global``, ``misaligned`` or ``padding``.
        text: A sentence.
        path: The module it belongs to, dotted.

    >>> str(Remark("global", "sees the whole picture", "layer1.se"))
    'layer1.se: sees the whole picture'
    """

    kind: str
    text: str
    path: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


@dataclass
class Walk:
    """The positions of every node that depends on the picture, and what is to be said of some.

    Attributes:
        positions: By node of the recorded graph.
        remarks: What is to be known of some operations.
        multiples: Numbers of which the picture's height and width must be multiples, because something splits a map
            into blocks or joins it with one that was enlarged again.
        wide: The operations that see the whole picture at every position.

    >>> Walk().multiples
    [1, 1]
    """

    positions: dict[fx.Node, Positions] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    multiples: list[int] = field(default_factory=lambda: [1, 1])
    wide: set[fx.Node] = field(default_factory=set)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's tensor, or of the first of several, at the example's size."""
    shape = node.meta.get(SHAPE, ())
    if isinstance(shape, list):
        shape = next(each for each in shape if each is not None)
    return cast("tuple[int, ...]", shape)


@dataclass(frozen=True)
class Given:
    """What an operation is given, however it is spelled: the arguments of a function, or the settings of a layer."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    layer: nn.Module | None

    @classmethod
    def of(cls, node: fx.Node, layer: nn.Module | None) -> Given:
        """Read a node of a recorded graph."""
        return cls(node.args, node.kwargs, layer)

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or name, else that of the layer, else ``default``.

        Lengths that the network computes are given as their node. ``axis`` and ``keepdims`` are NumPy's words, which
        PyTorch takes too.
        """
        if index < len(self.args):
            return self.args[index]
        for key in (name, {"dim": "axis", "keepdim": "keepdims"}.get(name, name)):
            if key in self.kwargs:
                return self.kwargs[key]
        return getattr(self.layer, name, default)


@dataclass(frozen=True)
class Call(Given):
    """One operation about to be followed."""

    node: fx.Node
    name: str
    walk: Walk

    @property
    def sources(self) -> list[fx.Node]:
        """The arguments that depend on the picture."""
        return [node for node in self.node.all_input_nodes if node in self.walk.positions]

    @property
    def source(self) -> Positions:
        """The positions of the first of them."""
        return self.walk.positions[self.sources[0]]

    @property
    def before(self) -> tuple[int, ...]:
        """The shape of the first of them."""
        return shape_of(self.sources[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result, or of the first of several."""
        return shape_of(self.node)

    def from_end(self, axis: int, dims: int | None = None) -> int:
        """Count an axis from the end."""
        return axis if axis < 0 else axis - (dims or len(self.before))

    def remark(self, kind: str, text: str) -> None:
        """Note something, once per module."""
        if kind == "global":
            self.walk.wide.add(self.node)
        found = Remark(kind, text, str(self.node.meta.get(PATH, "") or self.node.name))
        if found not in self.walk.remarks:
            self.walk.remarks.append(found)

    def require(self, axis: int, stride: Fraction) -> None:
        """Note that the units at this stride must divide the picture evenly."""
        self.walk.multiples[axis] = lcm(self.walk.multiples[axis], ceil(stride))

    def refuse(self, reason: str) -> NotFollowed:
        """Make the error that says why this cannot be followed."""
        kind = type(self.layer).__name__ if self.layer is not None else self.name
        return NotFollowed(f"{self.node.meta.get(PATH, '') or self.node.name} ({kind}): {reason}")
