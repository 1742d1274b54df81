"""One walk over a network's graph that gives every output its geometry."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import fx, nn

from fullyconv.geometry import Path, Spread, Window, axis_map

# Layers and functions that answer each unit from that unit alone.
POINTWISE_MODULES = (
    nn.ReLU, nn.Dropout, nn.BatchNorm2d, nn.Identity, nn.LocalResponseNorm, nn.Sigmoid, nn.ReLU6, nn.SiLU, nn.GELU,
)  # fmt: skip
POINTWISE_FUNCTIONS = (operator.add, operator.iadd, operator.mul, torch.add, torch.mul, torch.relu, torch.cat)


def _along(value: int | Sequence[int], axis: int) -> int:
    return value if isinstance(value, int) else value[axis]


def _window(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, axis: int) -> Window:
    if isinstance(module.padding, str):
        raise ValueError(f"padding={module.padding!r} is not followed: give the number of pixels")
    return Window(
        _along(cast("int", module.kernel_size), axis),
        _along(cast("int", module.stride), axis),
        _along(module.padding, axis),
        _along(cast("int", getattr(module, "dilation", 1)), axis),
        ceil_mode=bool(getattr(module, "ceil_mode", False)),
    )


def _layer(module: nn.Module, axis: int) -> Path | None:
    """Describe a module along an axis: its layers, none for a pointwise one, ``None`` if it is not followed."""
    if isinstance(module, POINTWISE_MODULES):
        return ()
    if isinstance(module, nn.ConvTranspose2d):
        kernel, stride = _along(module.kernel_size, axis), _along(module.stride, axis)
        return (Spread(kernel, stride, _along(cast("int", module.padding), axis)),)
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return (_window(module, axis),)
    return None


def _join(paths: Sequence[Path], where: str) -> Path:
    """Merge branches that must lie on one grid; the branch that sees most stands for all."""
    lines = [axis_map(path) for path in paths]
    if len({(line.scale, line.shift) for line in lines}) > 1:
        raise ValueError(f"{where} joins maps that are not aligned: {lines}")
    return max(paths, key=lambda path: axis_map(path).field)


def output_paths(network: nn.Module, axis: int) -> list[Path]:
    """Follow the image through ``network`` along an axis (0 rows, 1 columns), one path per output.

    Raises ``ValueError`` naming the operation that the walk cannot follow.
    """
    graph = fx.symbolic_trace(network).graph
    paths: dict[fx.Node, Path] = {}
    for node in graph.nodes:
        before = [paths[source] for source in node.all_input_nodes if source in paths]
        if node.op == "placeholder":
            paths[node] = ()
        elif node.op == "output":
            outputs = node.args[0] if isinstance(node.args[0], tuple | list) else (node.args[0],)
            return [paths[cast("fx.Node", output)] for output in outputs]
        elif node.op == "call_module":
            layers = _layer(network.get_submodule(str(node.target)), axis)
            if layers is None:
                kind = type(network.get_submodule(str(node.target))).__name__
                raise ValueError(f"{node.target} ({kind}): the geometry of this layer is not known")
            paths[node] = before[0] + layers
        elif node.op == "call_function" and cast("Callable[..., object]", node.target) in POINTWISE_FUNCTIONS:
            paths[node] = _join(before, node.name)
        else:
            raise ValueError(f"{node.name} ({node.op} {node.target}): the geometry of this operation is not known")
    raise ValueError("the network has no output")
