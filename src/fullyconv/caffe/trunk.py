"""A trunk's graph as Caffe layers."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from typing import cast

import torch
from torch import fx, nn

from fullyconv.caffe.margins import crop_fields, fixed, moved
from fullyconv.caffe.text import Blob, Value, Written, sides
from fullyconv.trace import frames, joins, record, walk
from fullyconv.trace.frames import Frame
from fullyconv.trace.nodes import FROZEN
from fullyconv.trace.operations import operation, row_of
from fullyconv.trace.positions import Call, shape_of
from fullyconv.trace.walking import call_of
from fullyconv.trace.windows import padding
from fullyconv.upsample import bilinear_taps

USUAL_EPS = 1e-5
CONTAINERS = re.compile(r"block\d+|layers")  # parts of a module's path that Caffe's names lack
PREFIXES = {"ReLU": "relu", "Clip": "relu6", "Dropout": "drop"}  # of the names of layers that work in place
RECTIFIERS: Mapping[str, Mapping[str, Value]] = {"ReLU": {}, "Clip": {"min": 0, "max": 6}}


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


def _pool(frame: Frame, kind: str, where: str) -> dict[str, Value]:
    if frame.dilation != (1, 1):
        raise ValueError(f"{where} is a dilated pool, which Caffe does not have")
    fields: dict[str, Value] = {"pool": kind}
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
        self._idle: dict[fx.Node, fx.Node] = {}  # what an operation that does nothing hands on
        self._places: dict[fx.Node, str] = {}  # of pools that give the places of their maxima, the blob of these
        self._state = trunk.state_dict(keep_vars=True)
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
        forms: dict[str, Callable[[Call, str], Written]] = {
            "Convolution": self._convolution,
            "ReLU": lambda call, blob: self._in_place(call, "ReLU", blob, RECTIFIERS["ReLU"]),
            "Clip": lambda call, blob: self._in_place(call, "Clip", blob, RECTIFIERS["Clip"]),
            "Dropout": lambda call, blob: self._in_place(
                call, "Dropout", blob, {"dropout_ratio": call.argument(1, "p", 0.5)}
            ),
            "Pooling": self._pooling,
            "LRN": lambda call, blob: self._named(call, "LRN", blob, _norm(call)),
            "Deconvolution": self._deconvolution,
            "BatchNorm": self._batch_norm,
            "Upsample": self._upsample,
            "Concat": self._concatenation,
            "Eltwise": self._sum,
            "Crop": self._moved,
        }
        source = call.sources[0]
        if row is not None and (row.role == "idle" or row.positions is joins.cast):
            self._idle[call.node] = source
            return self._blobs[source]
        if row is None or row.caffe not in forms:
            raise call.refuse("has no layer in Caffe that this writer knows")
        self.layers.append(forms[row.caffe](call, self._blobs[source]))
        return self.layers[-1].top

    def _name(self, call: Call) -> str:
        """Name a layer as Caffe does."""
        return self._short(str(call.node.target) if call.layer is not None else call.node.name)

    def _short(self, path: str) -> str:
        """Name a layer by its module's path without containers."""
        short = "/".join(part for part in path.split(".") if not CONTAINERS.fullmatch(part))
        return self._free(self.renamed.get(short, short))

    def _free(self, name: str) -> str:
        """Number a name that another layer has: of a module that is called several times."""
        taken = {layer.name for layer in self.layers}
        others = (f"{name}_{number}" for number in count(1))
        return next(each for each in chain((name,), others) if each + self.suffix not in taken)

    def _named(self, call: Call, kind: str, blob: str, fields: dict[str, Value]) -> Written:
        name = self._name(call) + self.suffix
        return Written(name, kind, (blob,), name, fields)

    def _in_place(self, call: Call, kind: str, blob: str, fields: Mapping[str, Value]) -> Written:
        """Write what changes each number of a blob: in its place, unless something else reads what was there."""
        source, alone = call.sources[0], True
        while alone and source in self._idle:
            alone, source = len(source.users) == 1, self._idle[source]
        layer = self._changed(kind, blob, fields)
        if alone and len(source.users) == 1 and source.op != "placeholder":
            return layer
        return replace(layer, top=layer.name)

    def _changed(self, kind: str, blob: str, fields: Mapping[str, Value]) -> Written:
        name = self._free(_after(PREFIXES[kind], blob, self.suffix).removesuffix(self.suffix)) + self.suffix
        return Written(name, kind, (blob,), blob, fields)

    def _concatenation(self, call: Call, blob: str) -> Written:
        if call.argument(1, "dim", 0) not in (1, -3):
            raise call.refuse("joins maps along another axis than that of channels")
        name = self._free(f"{blob.rpartition('/')[0] or call.node.name}/output") + self.suffix
        return Written(name, "Concat", self._bottoms(call, call.argument(0, "tensors")), name)

    def _bottoms(self, call: Call, given: object) -> tuple[str, ...]:
        """Return the blobs of several arguments, each as often as it is given."""
        nodes = cast("Sequence[fx.Node]", given)
        if any(not isinstance(node, fx.Node) or node not in self._blobs for node in nodes):
            raise call.refuse("joins maps with what does not depend on the picture")
        if len({shape_of(node)[2:] for node in nodes}) > 1:
            raise call.refuse("joins maps of several sizes, which no layer of Caffe's does")
        return tuple(self._blobs[node] for node in nodes)

    def _sum(self, call: Call, blob: str) -> Written:
        if len(call.node.args) != 2 or call.node.kwargs:
            raise call.refuse("is more than the sum of two maps")
        bottoms = self._bottoms(call, call.node.args)
        if len({shape_of(node) for node in call.sources}) > 1:
            raise call.refuse("adds maps of several sizes, which no layer of Caffe's does")
        name = self._name(call) + self.suffix
        return Written(name, "Eltwise", bottoms, name, {"operation": "SUM"})

    def _moved(self, call: Call, blob: str) -> Written:
        """Write zeros around a map as a convolution, a cut to a map that lies beside it as a crop."""
        ends, mode = padding(call)
        rows, columns = (ends.pop(axis, (0, 0)) for axis in (-2, -1))
        numbers = all(isinstance(end, int) for end in (*rows, *columns)) and not call.node.meta.get(FROZEN)
        if mode != "constant" or call.argument(3, "value") not in (None, 0) or any(map(any, ends.values())):
            raise call.refuse("pads by something else than zeros around rows and columns, which no Caffe layer does")
        if not numbers:
            raise call.refuse("pads by numbers that depend on the picture's size, as no Caffe layer does")
        name = self._name(call) + self.suffix
        beside = [
            other
            for user in call.node.users
            for other in user.all_input_nodes
            if other is not call.node and other in self._blobs and shape_of(other)[2:] == call.shape[2:]
        ]
        if max(*rows, *columns) > 0 or len(call.node.users) != 1 or not beside:
            return moved(name, blob, call.before[1], rows, columns)
        return Written(name, "Crop", (blob, self._blobs[beside[0]]), name, crop_fields((-rows[0], -columns[0])))

    def _convolution(self, call: Call, blob: str) -> Written:
        layer, path = self._layer(call, nn.Conv2d)
        if f"{path}.weight" not in self._state:
            raise call.refuse("has a weight that is computed: give the network with the weights it has in the end")
        name, where = self._short(path), f"{self.prefix}.{path}"
        return convolution(cast("nn.Conv2d", layer), name, blob, path=where, suffix=self.suffix, rated=self.rated)

    def _layer(self, call: Call, kind: type[nn.Conv2d | nn.ConvTranspose2d]) -> tuple[nn.Module, str]:
        """Return a convolution and its path: the layer itself, or one made of what a function is given."""
        if isinstance(call.layer, kind):
            return call.layer, str(call.node.target)
        frame = frames.convolution(call) if kind is nn.Conv2d else frames.transposed(call)
        given = {name: call.argument(place, name) for place, name in ((1, "weight"), (2, "bias"))}
        paths = {name: str(node.target) for name, node in given.items() if isinstance(node, fx.Node)}
        path = paths.get("weight", "").removesuffix(".weight")
        if frame is None or frame.before != frame.after or any(f"{path}.{name}" != paths[name] for name in paths):
            raise call.refuse("is no convolution whose weights lie in a layer, where Caffe keeps them")
        shape, groups = shape_of(given["weight"]), call.argument(6, "groups", 1)
        inputs, outputs = (shape[1] * groups, shape[0]) if kind is nn.Conv2d else (shape[0], shape[1] * groups)
        layer = kind(
            inputs, outputs, frame.kernel, frame.stride, frame.before, groups=groups, dilation=frame.dilation,
            bias="bias" in paths, device="meta",
        )  # fmt: skip
        for name in paths:  # a weight that is in no state is one that the description says
            setattr(layer, name, self._state.get(paths[name], getattr(layer, name)))
        return layer, path

    def _pooling(self, call: Call, blob: str) -> Written:
        if getattr(operation(call.node, call.layer), "pools", "") == "mean":
            if not call.argument(5, "count_include_pad", True) or call.argument(6, "divisor_override"):
                raise call.refuse("divides by another number than Caffe, whose averages count their padding")
            return self._named(call, "Pooling", blob, _pool(frames.average_pool(call), "AVE", str(call.node.target)))
        layer = self._named(call, "Pooling", blob, _pool(frames.max_pool(call), "MAX", str(call.node.target)))
        if not getattr(call.layer, "return_indices", False):
            return layer
        self._places[call.node] = f"{layer.name}_mask"
        return replace(layer, second=self._places[call.node])

    def _deconvolution(self, call: Call, blob: str) -> Written:
        found, path = self._layer(call, nn.ConvTranspose2d)
        layer, name = cast("nn.ConvTranspose2d", found), self._short(path) + self.suffix
        if f"{path}.weight" in self._state:
            return _deconvolution(layer, name, blob, path=f"{self.prefix}.{path}", rated=self.rated)
        with torch.device("cpu"):  # also where networks are built without values
            bank = torch.outer(*map(bilinear_taps, layer.kernel_size)).float().repeat(layer.in_channels, 1, 1, 1)
        weight = dict(self.trunk.named_buffers()).get(f"{path}.weight")
        if weight is None or weight.shape[1] != 1 or not (weight.is_meta or torch.equal(weight.cpu(), bank)):
            raise call.refuse("has weights that are neither kept nor bilinear")
        return Written(
            name, "Deconvolution", (blob,), name, _fields(layer), fixed(bank, f"{self.prefix}.{path}.weight")
        )

    def _batch_norm(self, call: Call, blob: str) -> Written:
        if not isinstance(call.layer, nn.BatchNorm2d):
            raise call.refuse("has its weights outside of a layer, where Caffe keeps them")
        where = f"{self.prefix}.{call.node.target}"
        *before, last = _batch_norm(call.layer, self._name(call) + self.suffix, blob, path=where)
        self.layers += before
        if type(call.layer).forward is nn.BatchNorm2d.forward:
            return last
        # timm's, which holds the activation behind it, too.
        drop, rectifier = (row_of(getattr(call.layer, name, call.layer)) for name in ("drop", "act"))
        if drop is None or rectifier is None or drop.role != "idle":
            raise call.refuse("normalises in a way of its own, as no layer of Caffe's does")
        if rectifier.role == "idle":
            return last
        if rectifier.caffe not in RECTIFIERS:
            raise call.refuse("holds an activation that has no layer in Caffe that this writer knows")
        self.layers.append(last)
        return self._changed(rectifier.caffe, last.top, RECTIFIERS[rectifier.caffe])

    def _upsample(self, call: Call, blob: str) -> Written:
        values, places = call.node.all_input_nodes[:2]
        name, layer = self._name(call) + self.suffix, cast("nn.MaxUnpool2d", call.layer)
        if not isinstance(layer, nn.MaxUnpool2d) or layer.kernel_size != layer.stride or places not in self._blobs:
            raise call.refuse("is no unpooling by the places of a pool whose windows meet")
        rows, columns = cast("tuple[int, int]", layer.stride)
        scale: dict[str, Value] = {"scale": rows} if rows == columns else {"scale_h": rows, "scale_w": columns}
        return Written(name, "Upsample", (self._blobs[values], self._blobs[places]), name, scale)
