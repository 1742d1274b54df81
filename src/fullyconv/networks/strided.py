"""A recorded network as steps with the strides before them: what both forms without strides are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, fx, nn

from fullyconv.networks.rarefied import Pair, Windows, growth
from fullyconv.trace import NotFollowed, Positions, Walk, record, walk
from fullyconv.trace.nodes import SHAPE
from fullyconv.trace.operations import Operation, operation
from fullyconv.trace.positions import Call
from fullyconv.trace.walking import call_of

Kind = Literal["same", "join", "window", "border", "crop", "phases", "expand", "vector"]
"""What a step does: to each unit the same; lay maps (or vectors) on each other; move a window over a map; put a
border on it; cut one off or leave units out; see a whole map at once; repeat a vector for every unit; or nothing
with maps."""


@dataclass(frozen=True)
class Step:
    """One operation that depends on the picture; ``placed`` are those of its ``sources`` that are maps.

    ``lattice`` is the product of the strides removed before it, ``keep`` the stride up to which they stay. Its
    ``windows`` have one unit and padding, which is negative for crops, where it puts on or cuts off borders.
    """

    call: Call
    row: Operation | None
    positions: Positions
    sources: tuple[fx.Node, ...]
    placed: tuple[fx.Node, ...]
    lattice: Pair
    windows: Windows | None
    keep: int = 1

    @classmethod
    def of(cls, call: Call, keep: int = 1) -> Step:
        """Measure an operation."""
        found = call.walk.positions
        sources = tuple(call.sources)
        placed = tuple(source for source in sources if found[source].axes)
        trails = found[call.node].trails
        moves = bool(placed) and bool(found[call.node].axes) and found[placed[0]].trails != trails
        rows, columns = _stride(found[placed[0]]) if placed else (1, 1)
        return cls(
            call,
            operation(call.node, call.layer),
            found[call.node],
            sources,
            placed,
            (max(rows // keep, 1), max(columns // keep, 1)),
            cast("Windows", tuple(trail.path[-1] for trail in trails)) if moves else None,
            keep,
        )

    @property
    def stays(self) -> bool:
        """Whether the step stays as it is: a window on maps that keep their stride, or what sees a whole map.

        Where some strides are kept, what sees a whole map goes on to see all of it, not every phase by itself.
        """
        if self.keep == 1:
            return False
        if not self.placed or not self.positions.axes or self.call.node in self.call.walk.wide:
            return True
        before, after = _stride(self.call.walk.positions[self.placed[0]]), _stride(self.positions)
        if any(b < self.keep < a or a % min(a, self.keep) for b, a in zip(before, after, strict=True)):
            raise self.refuse(f"it goes from stride {before[0]} px to {after[0]}, and {self.keep} is asked for")
        return self.windows is not None and max(after) <= self.keep

    @property
    def kind(self) -> Kind:
        """What the step does; raises ``NotFollowed`` naming it where it has no form without strides."""
        row, axes = self.row, self.positions.axes
        if any(stride.denominator != 1 for stride in self.positions.stride):
            raise self.refuse("enlarges a map to less than a pixel between its units")
        if self.stays:
            return "same"
        if row is not None and row.atrous == "expand" and not axes:
            return "expand"
        if not self.placed:
            return "vector"
        if row is not None and row.joins and len(self.sources) > 1:
            return "join"
        if self.call.node in self.call.walk.wide or not axes:
            return self._phases()
        return "same" if self.windows is None else self._moved()

    def _moved(self) -> Kind:
        before = _stride(self.call.walk.positions[self.placed[0]])
        if any(new < old for new, old in zip(_stride(self.positions), before, strict=True)):
            raise self.refuse("enlarges a map")
        if isinstance(self.call.node.meta[SHAPE], list):
            raise self.refuse("gives several results")
        kind = self.row.atrous if self.row is not None else ""
        if kind in ("window", "border", "crop"):
            return cast("Kind", kind)
        raise self.refuse("no dense form of this operation is known")

    def _phases(self) -> Kind:
        source, after = self.call.walk.positions[self.placed[0]], self.positions
        per_picture = bool(after.axes) or self.call.shape[:1] == self.call.before[:1]
        if len(self.sources) > 1 or not source.is_map or after.flattened or not per_picture:
            raise self.refuse("sees a whole map that is flattened, or together with something else")
        return "phases"

    def refuse(self, reason: str) -> NotFollowed:
        """Make the error that names the step."""
        return self.call.refuse(f"has no form without strides: {reason}")


def _stride(positions: Positions) -> Pair:
    rows, columns = positions.stride
    return int(rows), int(columns)


def axes_of(positions: Positions) -> Pair:
    """Return the axes of a map's rows and columns; raises ``NotFollowed`` where they are one."""
    if positions.rows is None or positions.columns is None:
        raise NotFollowed("maps whose rows and columns are one axis are joined: that has no form without strides")
    return positions.rows, positions.columns


@dataclass(frozen=True)
class Strided:
    """A recorded network of one map, step by step; ``stride`` is its own.

    ``extents`` say how many more rows and columns than the image each map of the stride-free network has.
    """

    recorded: fx.GraphModule
    found: Walk
    steps: dict[fx.Node, Step]
    kinds: dict[fx.Node, Kind]
    extents: dict[fx.Node, Pair]
    stride: Pair
    output: fx.Node

    @classmethod
    def of(cls, model: nn.Module, keep: int = 1) -> Strided:
        """Record a network; raises ``ValueError`` naming what has no form without strides beyond ``keep``."""
        recorded = record(model)
        output = next(node for node in recorded.graph.nodes if node.op == "output").args[0]
        if not isinstance(output, fx.Node):
            raise ValueError("the network gives several maps: give a network with one, for example ScoreMap(fcn)")
        found = walk(recorded)
        if output not in found.positions or not found.positions[output].is_map:
            raise NotFollowed(f"{output}: the network's output is no map with rows and columns")
        nodes = [node for node in found.positions if node.op != "placeholder"]
        steps = {node: Step.of(call_of(recorded, node, found), keep) for node in nodes}
        kinds = {node: step.kind for node, step in steps.items()}
        stride = _stride(found.positions[output])
        return cls(recorded, found, steps, kinds, _extents(found, steps, kinds), stride, output)

    def dense_size(self, image: Tensor) -> Pair:
        """Count the rows and columns of the stride-free network's output."""
        extra = self.extents[self.output]
        height, width = (length + more for length, more in zip(image.shape[-2:], extra, strict=True))
        if min(height, width) < 1:
            raise ValueError(
                f"an image of {image.shape[-2]} x {image.shape[-1]} is too small for this network: enlarge it"
            )
        return height, width


def _extents(found: Walk, steps: dict[fx.Node, Step], kinds: dict[fx.Node, Kind]) -> dict[fx.Node, Pair]:
    extents: dict[fx.Node, Pair] = {}
    for node in found.positions:
        step = steps.get(node)
        sources = [extents[source] for source in step.placed] if step is not None else []
        rows, columns = (min((extra[axis] for extra in sources), default=0) for axis in (0, 1))
        if step is not None and step.windows is not None and kinds[node] in ("window", "border", "crop"):
            more = growth(step.windows, step.lattice)
            rows, columns = rows + more[0], columns + more[1]
        extents[node] = rows, columns
    return extents
