"""What a network is made of, layer by layer, and where each layer looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any, cast

from torch import fx, nn

from fullyconv.geometry import AxisMap
from fullyconv.networks.alignment import AxisPlan, UpsamplingStage
from fullyconv.networks.fcn import FCN, score_window
from fullyconv.surgery.convolutionize import FullyConvolutional
from fullyconv.surgery.trunk import ClassifierTrunk
from fullyconv.trace import Positions, Remark, Walk, input_channels, record, walk
from fullyconv.trace.nodes import PATH, spelling
from fullyconv.trace.operations import operation
from fullyconv.trace.positions import shape_of
from fullyconv.trace.recording import USUAL_SIDE
from fullyconv.trace.walking import call_of, layer_of
from fullyconv.upsample import Upsample

Lines = tuple[AxisMap, AxisMap]
"""Where the units of a map look, along rows and columns."""


@dataclass(frozen=True)
class LayerFacts:
    """One operation of a network at one size of the picture.

    ``size`` is the height and width of the map it gives, ``lines`` say where its units look; both are
    ``None`` where it gives a vector. ``parameters`` that several layers share count at the first of them.
    ``multiply_adds`` are those of convolutions and matrix products. ``pointwise`` layers neither move a
    window nor multiply matrices: activations, normalisation, sums.
    """

    path: str
    kind: str
    channels: int
    size: tuple[int, int] | None
    lines: Lines | None
    parameters: int
    multiply_adds: int
    pointwise: bool = False


@dataclass(frozen=True)
class Tap:
    """A map that an FCN scores: the module that makes it, and where its units look."""

    path: str
    channels: int
    lines: Lines


@dataclass(frozen=True)
class Alignment:
    """How the maps of an FCN are laid on each other and on the image: its taps coarse to fine, then one plan per axis.

    Stage ``i`` of a plan upsamples what tap ``i`` and everything coarser say to the grid of the next finer tap,
    the last to the image.
    """

    taps: tuple[Tap, ...]
    plans: tuple[AxisPlan, AxisPlan]
    smallest_input: tuple[int, int]


@dataclass(frozen=True)
class Inspection:
    """A network at one size of the picture: ``picture`` is (channels, height, width)."""

    picture: tuple[int, int, int]
    layers: tuple[LayerFacts, ...]
    parameters: int
    remarks: tuple[Remark, ...] = ()
    alignment: Alignment | None = None

    @property
    def multiply_adds(self) -> int:
        """Those of one picture."""
        return sum(layer.multiply_adds for layer in self.layers)

    def document(self) -> dict[str, Any]:
        """Return all of it as what JSON knows."""
        return {
            "picture": list(self.picture),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "remarks": [{"kind": each.kind, "module": each.path, "text": each.text} for each in self.remarks],
            "layers": [_layer_document(layer) for layer in self.layers],
            "alignment": None if self.alignment is None else alignment_document(self.alignment),
        }


def inspect(network: nn.Module, *, size: tuple[int, int] | None = None, channels: int | None = None) -> Inspection:
    """List the layers of ``network`` for a picture of ``size`` = (height, width); 224 x 224 unless it is given.

    ``channels`` are those of the picture, where the network's first convolution does not tell. Takes an FCN, a
    fully convolutional classifier or any network of N x C x H x W pictures. Nothing is computed but shapes.
    Raises ``ValueError`` naming the operation that cannot be followed, and for sizes the network does not take.
    """
    size = size or (USUAL_SIDE, USUAL_SIDE)
    if isinstance(network, FCN):
        return _inspect_fcn(network, size)
    channels, before, padded = channels or input_channels(network), (0, 0), size
    if isinstance(network, FullyConvolutional):
        sides = network.padding(size)
        before = sides[0][0], sides[1][0]
        padded = size[0] + sum(sides[0]), size[1] + sum(sides[1])
        network = network.network
    graph = _Graph.of(network, (channels, *padded))
    under: Lines = AxisMap(shift=Fraction(-before[0])), AxisMap(shift=Fraction(-before[1]))
    return Inspection((channels, *size), tuple(graph.layers(under)), _count(network), tuple(graph.walk.remarks))


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@dataclass
class _Graph:
    """A recorded network with the positions of its maps."""

    recorded: fx.GraphModule
    walk: Walk

    @classmethod
    def of(cls, network: nn.Module, picture: tuple[int, int, int]) -> _Graph:
        recorded = record(network, picture)
        return cls(recorded, walk(recorded))

    def layers(self, under: Lines, *, prefix: str = "") -> Iterator[LayerFacts]:
        """Return every operation that depends on the picture; ``under`` says where the input's units look."""
        named, counted = dict(self.recorded.named_parameters(remove_duplicate=False)), set[int]()
        for node, positions in self.walk.positions.items():
            if node.op == "placeholder":
                continue
            weights = self._weights(node, named)
            fresh = {id(weight): weight for weight in weights.values() if id(weight) not in counted}
            counted |= fresh.keys()
            shape, axes = shape_of(node), positions.axes
            layer = layer_of(self.recorded, node)
            row = operation(node, layer)
            multiply_adds = 0 if row is None else row.multiply_adds(call_of(self.recorded, node, self.walk))
            moves = not (row is not None and (row.joins or row.unitwise)) and self._moves(node, positions)
            yield LayerFacts(
                path=prefix + self._path(node, weights),
                kind=type(layer).__name__ if layer is not None else spelling(node),
                channels=prod(length for axis, length in enumerate(shape) if axis and axis - len(shape) not in axes),
                size=_map_size(positions, shape),
                lines=_under(under, positions) if axes else None,
                parameters=sum(weight.numel() for weight in fresh.values()),
                multiply_adds=multiply_adds,
                pointwise=not (moves or multiply_adds),
            )

    def _moves(self, node: fx.Node, positions: Positions) -> bool:
        """Return whether an operation moves a window over a map or makes a vector of it."""
        sources = [self.walk.positions[each] for each in node.all_input_nodes if each in self.walk.positions]
        pools = not positions.axes and not positions.flattened and any(source.axes for source in sources)
        return pools or (bool(positions.axes) and all(source.trails != positions.trails for source in sources))

    def _weights(self, node: fx.Node, named: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Find the parameters that an operation uses, also those it computes its weights from."""
        found: dict[str, nn.Parameter] = {}
        layer = layer_of(self.recorded, node)
        if layer is not None:
            found.update((f"{node.target}.{name}", weight) for name, weight in layer.named_parameters())
        waiting = [node]
        while waiting:
            sources = [source for source in waiting.pop().all_input_nodes if source not in self.walk.positions]
            found.update((str(each.target), named[str(each.target)]) for each in sources if str(each.target) in named)
            waiting.extend(sources)
        return found

    def _path(self, node: fx.Node, weights: Mapping[str, nn.Parameter]) -> str:
        """Name the module of an operation; a graph recorded once more knows functions only by their weights."""
        path = str(node.meta.get(PATH, ""))
        if node.op != "call_module" and weights:
            path = max(path, next(iter(weights)).rpartition(".")[0], key=len)
        elif not path or (node.op != "call_module" and isinstance(self._module(path), fx.GraphModule)):
            path = node.name
        return path

    def _module(self, path: str) -> nn.Module | None:
        try:
            return self.recorded.get_submodule(path)
        except AttributeError:  # modules that hold no layers are not part of the graph
            return None

    def outputs(self) -> Sequence[fx.Node]:
        """Return the maps that a trunk gives, fine to coarse."""
        given = next(node for node in self.recorded.graph.nodes if node.op == "output").args[0]
        return cast("Sequence[fx.Node]", given if isinstance(given, tuple | list) else (given,))


def _map_size(positions: Positions, shape: tuple[int, ...]) -> tuple[int, int] | None:
    if positions.rows is None or positions.columns is None:
        return None
    return shape[positions.rows], shape[positions.columns]


def _under(under: Lines, positions: Positions) -> Lines:
    rows, columns = (first.then(trail.centred) for first, trail in zip(under, positions.trails, strict=True))
    return rows, columns


def _inspect_fcn(network: FCN, size: tuple[int, int]) -> Inspection:
    if size[0] < network.smallest_input[0] or size[1] < network.smallest_input[1]:
        least = " x ".join(map(str, network.smallest_input))
        raise ValueError(f"a picture of {size[0]} x {size[1]} is too small for this network, which needs {least}")
    plans = network.plans
    height, width = (length + sum(plan.padding(length)) for plan, length in zip(plans, size, strict=True))
    under: Lines = AxisMap(shift=Fraction(-plans[0].margin)), AxisMap(shift=Fraction(-plans[1].margin))
    layers: list[LayerFacts] = []
    taps: tuple[Tap, ...] = ()
    maps: list[tuple[int, ...]] = []
    for name, trunk in network.streams.items():
        graph = _Graph.of(trunk, (input_channels(trunk), height, width))
        layers += graph.layers(under, prefix=f"{name}.")
        maps = [shape_of(node)[1:] for node in graph.outputs()[::-1]][: len(plans[0].taps)]
        taps = taps or _taps(network, graph)
    for name, heads in network.score_layers.items():
        layers += _heads(name, heads, taps, maps)
    for name, ladder in network.ladders.items():
        layers += _upsampling(name, ladder, plans, maps, size)
    return Inspection(
        (network.in_channels, *size),
        tuple(layers),
        _count(network),
        tuple(network.remarks),
        Alignment(taps, plans, network.smallest_input),
    )


def _taps(network: FCN, graph: _Graph) -> tuple[Tap, ...]:
    """Name the scored maps of a trunk, coarse to fine."""
    trunk = network.trunk
    names = [graph._path(node, {}) for node in graph.outputs()]
    names = list(trunk.tapped) if isinstance(trunk, ClassifierTrunk) else names
    rows, columns = (
        [line.before(window.axis_map()) for line in plan.lines]
        for plan, window in zip(network.plans, score_window(trunk), strict=True)
    )
    return tuple(
        Tap(name, wide, (down, across))
        for name, wide, down, across in zip(names[::-1], trunk.channels[::-1], rows, columns, strict=False)
    )


def _heads(
    name: str, heads: nn.ModuleList, taps: Sequence[Tap], maps: Sequence[tuple[int, ...]]
) -> Iterator[LayerFacts]:
    for index, (head, tap, (channels, height, width)) in enumerate(zip(heads, taps, maps, strict=True)):
        for layer in _Graph.of(nn.Sequential(head), (channels, height, width)).layers(tap.lines):
            yield replace(layer, path=f"{name}.{index}{layer.path.removeprefix('0')}")


@dataclass(frozen=True)
class _Climb:
    """One stage along one axis: the units it reads and gives, and where those look."""

    given: int
    made: int
    line: AxisMap


def _climb(plan: AxisPlan, units: Sequence[int], length: int) -> Iterator[_Climb]:
    current, *finer_maps = plan.lines
    given, *finer_sizes = units
    stages = zip(plan.stages, [*finer_maps, AxisMap()], [*finer_sizes, length], strict=True)
    for stage, finer, finer_size in stages:
        made = stage.size(given, finer_size)
        line = current.then(stage.spread.axis_map())
        line = replace(line, shift=line.shift + line.scale * stage.kept)
        yield _Climb(given, made, line)
        current, given = replace(line, field=max(line.field, finer.field)), made


def _upsampling(
    name: str,
    ladder: nn.ModuleList,
    plans: tuple[AxisPlan, AxisPlan],
    maps: Sequence[tuple[int, ...]],
    size: tuple[int, int],
) -> Iterator[LayerFacts]:
    axes = (_climb(plan, [shape[1 + axis] for shape in maps], size[axis]) for axis, plan in enumerate(plans))
    for index, (module, rows, columns) in enumerate(zip(ladder, *axes, strict=True)):
        upsampler = cast("Upsample", module)
        yield LayerFacts(
            path=f"{name}.{index}",
            kind="Upsample",
            channels=upsampler.channels,
            size=(rows.made, columns.made),
            lines=(rows.line, columns.line),
            parameters=_count(upsampler),
            multiply_adds=upsampler.multiply_adds((rows.given, columns.given), (rows.made, columns.made)),
        )


def _layer_document(layer: LayerFacts) -> dict[str, Any]:
    return {
        "path": layer.path,
        "kind": layer.kind,
        "channels": layer.channels,
        "size": None if layer.size is None else list(layer.size),
        "looks": None if layer.lines is None else lines_document(layer.lines),
        "parameters": layer.parameters,
        "multiply_adds": layer.multiply_adds,
        "pointwise": layer.pointwise,
    }


def lines_document(lines: Lines) -> dict[str, Any]:
    """Return where the units of a map look as what JSON knows."""
    return {
        name: {"stride": _number(line.scale), "first_centre": _number(line.shift), "field": _number(line.field)}
        for name, line in zip(("rows", "columns"), lines, strict=True)
    }


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def alignment_document(found: Alignment) -> dict[str, Any]:
    """Return an alignment as what JSON knows."""
    return {
        "smallest_input": list(found.smallest_input),
        "taps": [
            {"path": tap.path, "channels": tap.channels, "looks": lines_document(tap.lines)} for tap in found.taps
        ],
        **{
            name: {
                "margin": plan.margin,
                "multiple": plan.multiple,
                "reach": plan.reach,
                "stages": [_stage_document(stage) for stage in plan.stages],
            }
            for name, plan in zip(("rows", "columns"), found.plans, strict=True)
        },
    }


def _stage_document(stage: UpsamplingStage) -> dict[str, int]:
    return {"factor": stage.factor, "kernel": stage.kernel, "offset": stage.offset}
