"""The stride-free network, written over the graph of the strided one."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fullyconv.networks.rarefied import Applied, Average, Border, EachPhase, Laid, Pair, Windows, sides_of, times
from fullyconv.networks.strided import Kind, Step, Strided, axes_of
from fullyconv.trace.axes import entries_of
from fullyconv.trace.nodes import PATH, SHAPE, VALUE
from fullyconv.trace.operations import Operation
from fullyconv.trace.positions import Call, Given
from fullyconv.trace.windows import padding

FILLERS = {"zeros": 0.0, "least": -torch.inf}


def border_of(row: Operation, given: Given, windows: Windows, lattice: Pair) -> Border:
    """Make the border that a convolution or pool puts around a map."""
    frame = row.frame(given) if row.frame is not None else None
    mode = frame.mode if frame is not None else "zeros"
    if mode in FILLERS:
        return Border(sides_of(windows, lattice), lattice=lattice, value=FILLERS[mode])
    return Border(sides_of(windows, lattice), lattice=lattice, mode=mode)


def uncropped(call: Call) -> tuple[Any, ...]:
    """Return what an indexing or ``narrow`` does beside cropping rows and columns."""
    if len(call.node.args) != 2:  # narrow
        return (Ellipsis,)
    entries, place = entries_of(call), -len(call.before)
    rest = []
    for entry in entries:
        cropped = entry is not None and place in call.source.axes
        rest.append(slice(None) if cropped else entry)
        place += entry is not None
    return tuple(rest)


class Rewriter:
    """Writes the stride-free form of every step into the graph of the recorded network."""

    def __init__(self, plan: Strided) -> None:
        self.plan, self.graph, self.root = plan, plan.recorded.graph, nn.Module()
        self.phases: dict[fx.Node, Pair] = {}  # of vectors: how many there are of each picture, in the batch

    def run(self) -> fx.GraphModule:
        """Write all steps and return the network."""
        forms: dict[Kind, Callable[[fx.Node, Step], None]] = {
            "join": self._join,
            "window": self._window,
            "border": self._border,
            "crop": self._crop,
            "phases": self._each_phase,
            "expand": self._expand,
            "vector": self._vector,
        }
        for node in self.graph.nodes:
            self._own(node)
        for node, step in self.plan.steps.items():
            kind = self.plan.kinds[node]
            if kind in forms:
                with self.graph.inserting_before(node):
                    forms[kind](node, step)
        made = fx.GraphModule(self.root, self.graph)
        made.graph.eliminate_dead_code()
        made.delete_all_unused_submodules()
        made.recompile()
        return made

    def _own(self, node: fx.Node) -> None:
        """Give a node a layer of its own, with the same parameters: one used twice may need two dilations.

        The first keeps its name, by which weights are found.
        """
        if node.op == "call_module":
            layer = self.plan.steps[node].call.layer if node in self.plan.steps else None
            found = layer or self.plan.recorded.get_submodule(str(node.target))
            node.target = node.name if _has(self.root, str(node.target)) else node.target
            self._put(str(node.target), copy.copy(found))
        elif node.op == "get_attr" and not _has(self.root, str(node.target)):
            home, _, leaf = str(node.target).rpartition(".")
            self._put(str(node.target), getattr(self.plan.recorded.get_submodule(home), leaf))

    def _put(self, name: str, value: nn.Module | Tensor) -> None:
        """Put a layer, a parameter or a buffer under a dotted name."""
        home, (*path, leaf) = self.root, name.split(".")
        for part in path:
            if not hasattr(home, part):
                home.add_module(part, nn.Module())
            home = cast("nn.Module", getattr(home, part))
        if isinstance(value, nn.Module | nn.Parameter):
            setattr(home, leaf, value)
        else:
            home.register_buffer(leaf, value)

    def _add(self, node: fx.Node, name: str, module: nn.Module, *inputs: fx.Node) -> fx.Node:
        """Put a module before a node."""
        made = self.graph.create_node("call_module", f"{node.name}_{name}", inputs)
        self._register(str(made.target), module, node)
        made.meta[PATH] = node.meta.get(PATH, "")
        return made

    def _become(self, node: fx.Node, module: nn.Module, *inputs: fx.Node) -> None:
        """Make a node call a module."""
        name = str(node.target) if node.op == "call_module" else node.name
        self._register(name, module, node)
        node.op, node.target, node.args, node.kwargs = "call_module", name, inputs, {}

    def _register(self, name: str, module: nn.Module, node: fx.Node) -> None:
        layer = self.plan.steps[node].call.layer
        self._put(name, module.train(self.plan.recorded.training if layer is None else layer.training))

    def _join(self, node: fx.Node, step: Step) -> None:
        """Cut maps to the shortest, and lay vectors on them."""
        extents, positions, target = self.plan.extents, self.plan.found.positions, self.plan.extents[node]
        maps = []
        for source in step.placed:
            ends = tuple(least - own for own, least in zip(extents[source], target, strict=True))
            border = Border(((0, ends[0]), (0, ends[1])), axes=axes_of(positions[source])) if any(ends) else None
            maps.append(source if border is None else self._add(node, f"cut_{source.name}", border, source))
            node.replace_input_with(source, maps[-1])
        for source in step.sources:
            if source not in step.placed:
                lattice = self.phases[source]
                if any(wide % each for wide, each in zip(step.lattice, lattice, strict=True)):
                    raise step.refuse("joins a map with what was found of a coarser one")
                laid = Laid(axes=axes_of(positions[step.placed[0]]), lattice=lattice)
                node.replace_input_with(source, self._add(node, f"lay_{source.name}", laid, source, maps[0]))

    def _window(self, node: fx.Node, step: Step) -> None:
        """Move a window by one unit, its taps spread out."""
        row, source, windows = cast("Operation", step.row), step.placed[0], cast("Windows", step.windows)
        if row.head == "convolution":
            self._convolution(node, step)
        elif row.pools == "mean":
            pads_count = bool(step.call.argument(5, "count_include_pad", True))
            divisor = step.call.argument(6, "divisor_override")
            self._become(node, Average(windows, step.lattice, pads_count=pads_count, divisor=divisor), source)
        else:
            # A pool of PyTorch's own pads by at most half its kernel.
            border = border_of(row, step.call, windows, step.lattice)
            pool = nn.MaxPool2d(_pair(windows, "kernel"), 1, dilation=times(_pair(windows, "dilation"), step.lattice))
            padded = any(map(any, border.sides))
            self._become(node, nn.Sequential(border, pool) if padded else pool, source)

    def _convolution(self, node: fx.Node, step: Step) -> None:
        windows, layer, source = cast("Windows", step.windows), step.call.layer, step.placed[0]
        border = border_of(cast("Operation", step.row), step.call, windows, step.lattice)
        dilation = times(_pair(windows, "dilation"), step.lattice)
        (top, bottom), (left, right) = border.sides
        plain = border.mode == "constant" and (top, left) == (bottom, right)
        padding = (top, left) if plain else (0, 0)
        if isinstance(layer, nn.Conv2d):
            conv = copy.copy(layer)  # the same parameters
            conv.stride, conv.padding, conv.dilation = (1, 1), padding, dilation
            conv.padding_mode = "zeros"
            self._become(node, conv, source if plain else self._add(node, "border", border, source))
            return
        weight, bias, groups = (step.call.argument(*each) for each in ((1, "weight"), (2, "bias"), (6, "groups", 1)))
        padded = source if plain else self._add(node, "border", border, source)
        node.args, node.kwargs = (padded, weight, bias, 1, padding, dilation, groups), {}

    def _border(self, node: fx.Node, step: Step) -> None:
        """Put a border on every phase."""
        source, axes, (ends, mode) = step.placed[0], axes_of(step.positions), padding(step.call)
        value = step.call.argument(3, "value") or 0.0
        sides = sides_of(cast("Windows", step.windows), step.lattice)
        border = Border(sides, axes=axes, lattice=step.lattice, mode=mode, value=value)
        others = {axis: pads for axis, pads in ends.items() if axis not in axes and any(pads)}
        if others:  # channels
            source = self._add(node, "border", border, source)
            amounts = [each for axis in range(-1, min(others) - 1, -1) for each in others.get(axis, (0, 0))]
            node.op, node.target, node.args, node.kwargs = "call_function", functional.pad, (source, amounts), {}
        else:
            self._become(node, border, source)

    def _crop(self, node: fx.Node, step: Step) -> None:
        """Cut a border off every phase; units that were left out stay."""
        source, windows = step.placed[0], cast("Windows", step.windows)
        border = Border(sides_of(windows, step.lattice), axes=axes_of(self.plan.found.positions[source]))
        rest = uncropped(step.call)
        cropped = self._add(node, "border", border, source)
        node.op, node.target, node.args, node.kwargs = "call_function", operator.getitem, (cropped, rest), {}

    def _each_phase(self, node: fx.Node, step: Step) -> None:
        """Apply what sees a whole map to the units of each phase by themselves."""
        source, positions = step.placed[0], self.plan.found.positions
        others = [each for each in node.all_input_nodes if each is not source]
        if any(VALUE in each.meta for each in others) or isinstance(node.meta[SHAPE], list):
            raise step.refuse("sees a whole map in a way that depends on its size, or with several results")
        inputs = [source, *others]
        target = self.root.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        operation = Applied(target, node.args, node.kwargs, inputs)
        axes, gives_map = axes_of(positions[source]), bool(step.positions.axes)
        self._become(node, EachPhase(operation, axes=axes, lattice=step.lattice, gives_map=gives_map), *inputs)
        if not gives_map:
            self.phases[node] = step.lattice

    def _vector(self, node: fx.Node, step: Step) -> None:
        """Apply what has nothing to do with maps to the vectors of all phases, which lie in the batch."""
        self.phases[node] = self.phases[step.sources[0]]
        if any(self.phases[source] != self.phases[node] for source in step.sources):
            raise step.refuse("joins what was found of maps of different strides")
        for each in node.all_input_nodes:
            if VALUE in each.meta and each.target == "size" and each.args[1:] == (0,):
                node.replace_input_with(each, self.graph.call_method("size", (step.sources[0], 0)))

    def _expand(self, node: fx.Node, step: Step) -> None:
        """Leave the vectors as they are: they are laid on a map where they meet one."""
        vector = node.all_input_nodes[0]
        self.phases[node] = self.phases[vector]
        node.op, node.target, node.args, node.kwargs = "call_method", "contiguous", (vector,), {}


def _has(module: nn.Module, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def _pair(windows: Windows, name: str) -> Pair:
    return getattr(windows[0], name), getattr(windows[1], name)
