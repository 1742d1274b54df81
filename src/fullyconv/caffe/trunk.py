"""A trunk's graph as Caffe layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import fx, nn

from fullyconv.caffe.text import Blob, Value, Written

CONTAINERS = re.compile(r"block\d+|layers")  # parts of a module's path that Caffe's names lack


def sides(name: str, values: int | Sequence[int], default: int | None = None) -> dict[str, Value]:
    """Write a number per axis: once if rows and columns agree; not at all where it is Caffe's default."""
    pair = (values, values) if isinstance(values, int) else tuple(values)
    if pair == (default, default):
        return {}
    if pair[0] == pair[1]:
        return {name: pair[0]}
    short = name.removesuffix("_size")
    return {f"{short}_h": pair[0], f"{short}_w": pair[1]}


def convolution(
    module: nn.Conv2d, name: str, bottom: str, *, path: str, suffix: str = "", rated: bool = True
) -> Written:
    """Write a convolution under ``name`` + ``suffix``; ``path`` is where it is in the network.

    ``rated`` writes the reference's factors: learning rate 1 and 2, decay 1 and 0, for weight and bias.
    """
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        raise ValueError(f"{path} pads by {module.padding_mode} {module.padding}, Caffe by a number of zeros")
    fields: dict[str, Value] = {"num_output": module.out_channels}
    fields |= {} if module.bias is not None else {"bias_term": False}
    fields |= sides("pad", cast("tuple[int, int]", module.padding), 0)
    fields |= sides("kernel_size", module.kernel_size) | sides("stride", module.stride, 1)
    fields |= {"dilation": list(module.dilation)} if max(module.dilation) > 1 else {}
    fields |= {"group": module.groups} if module.groups > 1 else {}
    factors = ((1.0, 1.0), (2.0, 0.0)) if module.weight.requires_grad else ((0.0, 0.0), (0.0, 0.0))
    tensors = [("weight", module.weight)] + ([("bias", module.bias)] if module.bias is not None else [])
    blobs = tuple(
        Blob(tensor.detach(), f"{path}.{key}", *(factor if rated else (None, None)))
        for (key, tensor), factor in zip(tensors, factors, strict=False)
    )
    return Written(name + suffix, "Convolution", (bottom,), name + suffix, fields, blobs)


def _pool(module: nn.MaxPool2d, where: str) -> dict[str, Value]:
    if module.dilation not in (1, (1, 1)):
        raise ValueError(f"{where} is a dilated pool, which Caffe does not have")
    stride = module.stride
    fields: dict[str, Value] = {"pool": "MAX"}
    fields |= sides("pad", cast("int", module.padding), 0) | sides("kernel_size", cast("int", module.kernel_size))
    fields |= sides("stride", stride, 1)
    # Over every position ceil and floor agree.
    return fields if module.ceil_mode or stride in (1, (1, 1)) else fields | {"round_mode": "FLOOR"}


def _norm(module: nn.LocalResponseNorm) -> dict[str, Value]:
    fields: dict[str, Value] = {"local_size": module.size, "alpha": module.alpha, "beta": module.beta}
    return fields if module.k == 1 else fields | {"k": module.k}


def _after(prefix: str, blob: str, suffix: str) -> str:
    """Name a layer that works in place after its blob's: conv1_1 -> relu1_1, fc6 -> drop6, a/3x3 -> a/relu_3x3."""
    folder, slash, last = blob.removesuffix(suffix).rpartition("/")
    numbered = re.fullmatch(r"(?:conv|fc|ip)(\d.*)", last)
    return f"{folder}{slash}{prefix}{numbered[1] if numbered else '_' + last}{suffix}"


class TrunkWriter:
    """Walks a trunk's graph once and collects its layers; ``outputs`` are the blobs it gives.

    ``prefix`` is the trunk's place in the network, ``suffix`` goes to the end of every name,
    ``renamed`` changes names, ``rated`` is that of ``convolution``.
    """

    def __init__(
        self, trunk: nn.Module, bottom: str, *, prefix: str, suffix: str = "", renamed: Mapping[str, str], rated: bool
    ) -> None:
        self.trunk, self.prefix, self.suffix, self.renamed, self.rated = trunk, prefix, suffix, renamed, rated
        self.layers: list[Written] = []
        self.outputs: list[str] = []
        self._blobs: dict[fx.Node, str] = {}
        for node in fx.symbolic_trace(trunk).graph.nodes:
            self._visit(node, bottom)

    def _visit(self, node: fx.Node, bottom: str) -> None:
        if node.op == "placeholder":
            self._blobs[node] = bottom
        elif node.op == "output":
            self.outputs = [self._blobs[tap] for tap in cast("tuple[fx.Node, ...]", node.args[0])]
        elif node.op == "call_module":
            self._blobs[node] = self._module(str(node.target), self._blobs[node.all_input_nodes[0]])
        elif node.target is torch.cat:
            bottoms = tuple(self._blobs[source] for source in node.all_input_nodes)
            name = f"{bottoms[0].rpartition('/')[0] or node.name}/output{self.suffix}"
            self._blobs[node] = self._add(Written(name, "Concat", bottoms, name))
        else:
            raise ValueError(f"{node.name} ({node.op} {node.target}) has no layer in Caffe that this writer knows")

    def _add(self, layer: Written) -> str:
        self.layers.append(layer)
        return layer.top

    def _module(self, path: str, blob: str) -> str:
        """Write a module's layer and give its blob."""
        module = self.trunk.get_submodule(path)
        short = "/".join(part for part in path.split(".") if not CONTAINERS.fullmatch(part))
        name = self.renamed.get(short, short)
        if isinstance(module, nn.Conv2d):
            where = f"{self.prefix}.{path}"
            return self._add(convolution(module, name, blob, path=where, suffix=self.suffix, rated=self.rated))
        if isinstance(module, nn.ReLU):
            return self._add(Written(_after("relu", blob, self.suffix), "ReLU", (blob,), blob))
        if isinstance(module, nn.Dropout):
            ratio = {"dropout_ratio": module.p}
            return self._add(Written(_after("drop", blob, self.suffix), "Dropout", (blob,), blob, ratio))
        if isinstance(module, nn.MaxPool2d):
            return self._add(Written(name + self.suffix, "Pooling", (blob,), name + self.suffix, _pool(module, path)))
        if isinstance(module, nn.LocalResponseNorm):
            return self._add(Written(name + self.suffix, "LRN", (blob,), name + self.suffix, _norm(module)))
        raise ValueError(f"{path} ({type(module).__name__}) has no layer in Caffe that this writer knows")
