"""A trunk's graph as Caffe layers."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import fx, nn

from fullyconv.caffe.text import Blob, Value, Written
from fullyconv.trace import record, walk
from fullyconv.trace.frames import Frame, max_pool
from fullyconv.trace.operations import operation
from fullyconv.trace.positions import Call
from fullyconv.trace.walking import call_of

USUAL_EPS = 1e-5
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
    fields = _fields(module)
    return Written(name + suffix, "Convolution", (bottom,), name + suffix, fields, _blobs(module, path, rated=rated))


def _fields(module: nn.Conv2d | nn.ConvTranspose2d) -> dict[str, Value]:
    """Return what ``convolution_param`` says of a layer."""
    fields: dict[str, Value] = {"num_output": module.out_channels}
    fields |= {} if module.bias is not None else {"bias_term": False}
    fields |= sides("pad", cast("tuple[int, int]", module.padding), 0)
    fields |= sides("kernel_size", module.kernel_size) | sides("stride", module.stride, 1)
    fields |= {"dilation": list(module.dilation)} if max(module.dilation) > 1 else {}
    fields |= {"group": module.groups} if module.groups > 1 else {}
    return fields


def _blobs(module: nn.Conv2d | nn.ConvTranspose2d, path: str, *, rated: bool) -> tuple[Blob, ...]:
    """Return weight and bias, with the reference's factors."""
    factors = ((1.0, 1.0), (2.0, 0.0)) if module.weight.requires_grad else ((0.0, 0.0), (0.0, 0.0))
    tensors = [("weight", module.weight)] + ([("bias", module.bias)] if module.bias is not None else [])
    return tuple(
        Blob(tensor.detach(), f"{path}.{key}", *(factor if rated else (None, None)))
        for (key, tensor), factor in zip(tensors, factors, strict=False)
    )


def _deconvolution(module: nn.ConvTranspose2d, name: str, bottom: str, *, path: str, rated: bool) -> Written:
    """Write a transposed convolution that learns."""
    if any(cast("tuple[int, int]", module.output_padding)):
        raise ValueError(f"{path} has an output padding, which Caffe's Deconvolution has not")
    fields = _fields(module)
    return Written(name, "Deconvolution", (bottom,), name, fields, _blobs(module, path, rated=rated))


def _batch_norm(module: nn.BatchNorm2d, name: str, bottom: str, *, path: str) -> list[Written]:
    """Write a normalisation as Caffe's two layers: by stored statistics, and a factor and a bias."""
    if module.running_mean is None or module.running_var is None:
        raise ValueError(f"{path} keeps no statistics, by which Caffe normalises")
    stored = (("running_mean", module.running_mean), ("running_var", module.running_var))
    blobs = [Blob(tensor.detach(), f"{path}.{key}", 0.0) for key, tensor in stored]
    once = Blob(torch.ones_like(module.running_mean[:1]), None, 0.0)  # what Caffe divides the stored sums by
    eps: dict[str, Value] = {"eps": module.eps} if module.eps != USUAL_EPS else {}
    layers = [Written(name, "BatchNorm", (bottom,), name, eps, (*blobs, once))]
    if module.affine:
        learned = tuple(
            Blob(tensor.detach(), f"{path}.{key}") for key, tensor in (("weight", module.weight), ("bias", module.bias))
        )
        layers.append(Written(f"{name}/scale", "Scale", (name,), name, {"bias_term": True}, learned))
    return layers


def _pool(frame: Frame, where: str) -> dict[str, Value]:
    if frame.dilation != (1, 1):
        raise ValueError(f"{where} is a dilated pool, which Caffe does not have")
    fields: dict[str, Value] = {"pool": "MAX"}
    fields |= sides("pad", frame.before, 0) | sides("kernel_size", frame.kernel) | sides("stride", frame.stride, 1)
    # Over every position ceil and floor agree.
    return fields if frame.ceil_mode or frame.stride == (1, 1) else fields | {"round_mode": "FLOOR"}


def _norm(call: Call) -> dict[str, Value]:
    names = (("local_size", "size", None), ("alpha", "alpha", 1e-4), ("beta", "beta", 0.75), ("k", "k", 1.0))
    fields: dict[str, Value] = {
        field: call.argument(place, name, default) for place, (field, name, default) in enumerate(names, start=1)
    }
    if fields["k"] == 1:
        del fields["k"]
    return fields


def _after(prefix: str, blob: str, suffix: str) -> str:
    """Name a layer that works in place after its blob's: conv1_1 -> relu1_1, fc6 -> drop6, a/3x3 -> a/relu_3x3."""
    folder, slash, last = blob.removesuffix(suffix).rpartition("/")
    numbered = re.fullmatch(r"(?:conv|fc|ip)(\d.*)", last)
    return f"{folder}{slash}{prefix}{numbered[1] if numbered else '_' + last}{suffix}"


class TrunkWriter:
    """Writes each operation of a recorded trunk as Caffe's layer for it; ``outputs`` are the blobs it gives.

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
        self._places: dict[fx.Node, str] = {}  # of pools that give the places of their maxima, the blob of these
        recorded = record(trunk)
        found = walk(recorded)
        for node in recorded.graph.nodes:
            if node.op == "placeholder":
                self._blobs[node] = bottom
            elif node in found.positions and node.target is operator.getitem and node.args[0] in self._places:
                pool, which = cast("tuple[fx.Node, int]", node.args)
                self._blobs[node] = self._places[pool] if which == 1 else self._blobs[pool]
            elif node in found.positions:
                self._blobs[node] = self._write(call_of(recorded, node, found))
        given = next(node for node in recorded.graph.nodes if node.op == "output").args[0]
        self.outputs = [self._blobs[tap] for tap in cast("tuple[fx.Node, ...]", given)]

    def _write(self, call: Call) -> str:
        """Write the layer of Caffe's that the operation's row names, and give its blob."""
        row = operation(call.node, call.layer)
        bottoms = tuple(self._blobs[source] for source in call.sources)
        forms: dict[str, Callable[[Call, str], Written]] = {
            "Convolution": self._convolution,
            "ReLU": lambda _, blob: Written(_after("relu", blob, self.suffix), "ReLU", (blob,), blob),
            "Dropout": self._dropout,
            "Pooling": self._pooling,
            "LRN": lambda call, blob: self._named(call, "LRN", blob, _norm(call)),
            "Deconvolution": self._deconvolution,
            "BatchNorm": self._batch_norm,
            "Upsample": self._upsample,
        }
        if row is not None and row.caffe == "Concat":
            name = f"{bottoms[0].rpartition('/')[0] or call.node.name}/output{self.suffix}"
            taken = any(layer.name == name for layer in self.layers)
            name = f"{call.node.name}{self.suffix}" if taken else name
            return self._add(Written(name, "Concat", bottoms, name))
        if row is None or row.caffe not in forms:
            raise call.refuse("has no layer in Caffe that this writer knows")
        return self._add(forms[row.caffe](call, bottoms[0]))

    def _add(self, layer: Written) -> str:
        self.layers.append(layer)
        return layer.top

    def _name(self, call: Call) -> str:
        """Name a layer as Caffe does, by its module's path without containers."""
        path = str(call.node.target) if call.layer is not None else call.node.name
        short = "/".join(part for part in path.split(".") if not CONTAINERS.fullmatch(part))
        return self.renamed.get(short, short)

    def _named(self, call: Call, kind: str, blob: str, fields: dict[str, Value]) -> Written:
        name = self._name(call) + self.suffix
        return Written(name, kind, (blob,), name, fields)

    def _convolution(self, call: Call, blob: str) -> Written:
        if not isinstance(call.layer, nn.Conv2d):
            raise call.refuse("has its weights outside of a layer, where Caffe keeps them")
        where = f"{self.prefix}.{call.node.target}"
        return convolution(call.layer, self._name(call), blob, path=where, suffix=self.suffix, rated=self.rated)

    def _dropout(self, call: Call, blob: str) -> Written:
        ratio: dict[str, Value] = {"dropout_ratio": call.argument(1, "p", 0.5)}
        return Written(_after("drop", blob, self.suffix), "Dropout", (blob,), blob, ratio)

    def _pooling(self, call: Call, blob: str) -> Written:
        layer = self._named(call, "Pooling", blob, _pool(max_pool(call), self._name(call)))
        if not getattr(call.layer, "return_indices", False):
            return layer
        self._places[call.node] = f"{layer.name}_mask"
        return replace(layer, second=self._places[call.node])

    def _deconvolution(self, call: Call, blob: str) -> Written:
        if not isinstance(call.layer, nn.ConvTranspose2d):
            raise call.refuse("has its weights outside of a layer, where Caffe keeps them")
        where = f"{self.prefix}.{call.node.target}"
        return _deconvolution(call.layer, self._name(call) + self.suffix, blob, path=where, rated=self.rated)

    def _batch_norm(self, call: Call, blob: str) -> Written:
        if not isinstance(call.layer, nn.BatchNorm2d):
            raise call.refuse("has its weights outside of a layer, where Caffe keeps them")
        where = f"{self.prefix}.{call.node.target}"
        *before, last = _batch_norm(call.layer, self._name(call) + self.suffix, blob, path=where)
        self.layers += before
        return last

    def _upsample(self, call: Call, blob: str) -> Written:
        values, places = call.node.all_input_nodes[:2]
        name, layer = self._name(call) + self.suffix, cast("nn.MaxUnpool2d", call.layer)
        if not isinstance(layer, nn.MaxUnpool2d) or layer.kernel_size != layer.stride or places not in self._blobs:
            raise call.refuse("is no unpooling by the places of a pool whose windows meet")
        rows, columns = cast("tuple[int, int]", layer.stride)
        scale: dict[str, Value] = {"scale": rows} if rows == columns else {"scale_h": rows, "scale_w": columns}
        return Written(name, "Upsample", (self._blobs[values], self._blobs[places]), name, scale)
