"""A network's description: the layers of a prototxt, old form or new, that are there in a phase."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from fullyconv.caffe.fields import Input, ParamSpec, Shape, State, StateRule
from fullyconv.caffe.prototxt import Message, Token, parse, parse_text
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

T = TypeVar("T")
Phase = Literal["TRAIN", "TEST"]

# The words that old ``layers { type: … }`` use, and the types of today.
OLD_TYPES = {
    "ACCURACY": "Accuracy", "CONCAT": "Concat", "CONVOLUTION": "Convolution", "DATA": "Data",
    "DECONVOLUTION": "Deconvolution", "DROPOUT": "Dropout", "DUMMY_DATA": "DummyData", "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss", "FLATTEN": "Flatten", "HDF5_DATA": "HDF5Data", "IMAGE_DATA": "ImageData",
    "INNER_PRODUCT": "InnerProduct", "LRN": "LRN", "MEMORY_DATA": "MemoryData", "POOLING": "Pooling",
    "POWER": "Power", "RELU": "ReLU", "SIGMOID": "Sigmoid", "SILENCE": "Silence", "SLICE": "Slice",
    "SOFTMAX": "Softmax", "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split", "TANH": "TanH",
    "WINDOW_DATA": "WindowData",
}  # fmt: skip


@dataclass(frozen=True)
class _Header:
    """The fields that every layer may have."""

    type: str
    name: str = ""
    bottom: tuple[str, ...] = ()
    top: tuple[str, ...] = ()
    phase: Phase | None = None  # no effect: solvers write it
    loss_weight: tuple[float, ...] = ()
    param: tuple[ParamSpec, ...] = ()
    include: tuple[StateRule, ...] = ()
    exclude: tuple[StateRule, ...] = ()
    propagate_down: tuple[bool, ...] = ()  # no effect on scores: gradients follow the graph


@dataclass(frozen=True)
class _OldHeader:
    """The fields that every layer of the old form may have."""

    type: Literal[tuple(OLD_TYPES)]  # type: ignore[valid-type]
    name: str = ""
    bottom: tuple[str, ...] = ()
    top: tuple[str, ...] = ()
    include: tuple[StateRule, ...] = ()
    exclude: tuple[StateRule, ...] = ()
    blobs_lr: tuple[float, ...] = ()
    weight_decay: tuple[float, ...] = ()
    loss_weight: tuple[float, ...] = ()
    param: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Top:
    """The fields of the whole net beside its layers."""

    name: str = ""
    input: tuple[str, ...] = ()
    input_dim: tuple[int, ...] = ()
    input_shape: tuple[Shape, ...] = ()
    state: State = field(default_factory=State)
    force_backward: bool = False  # no effect on scores
    debug_info: bool = False


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer as described; ``rates`` are the learning-rate factors of its blobs."""

    name: str
    kind: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    rates: tuple[float, ...]
    loss_weights: tuple[float, ...]
    message: Message = field(repr=False)

    @property
    def label(self) -> str:
        """What errors call the layer."""
        return f"layer {self.name!r} ({self.kind})"

    def fail(self, what: str, fix: str) -> BadFile:
        """Make the error for this layer: file, line, name, type."""
        return self.message.fail(f"{self.label}: {what}", fix)

    def block(self, name: str, schema: type[T]) -> T:
        """Read one of the layer's parameter blocks; an absent one has Caffe's defaults."""
        found = self.message.messages(name)
        if len(found) > 1:
            raise self.fail(f"{name} is given {len(found)} times", "give it once")
        return (found[0] if found else Message(self.message.path, self.message.line)).read(
            schema, f"{self.label} {name}"
        )

    @property
    def blocks(self) -> list[str]:
        """The parameter blocks that the layer gives."""
        return [name for name in self.message.fields if _is_block(name)]


@dataclass(frozen=True)
class Description:
    """A net: its data blobs by name with the sizes written for them, if any, and its layers in order."""

    path: str
    name: str
    inputs: dict[str, tuple[int, ...]]
    layers: list[Layer]


def describe(path: Path | str, phase: Phase | None = None) -> Description:
    """Read a prototxt and keep the layers of a phase (``None``: the one the file states, else TEST).

    Raises ``BadFile`` naming the line of what is not understood.
    """
    return _describe(parse(path), phase)


def describe_text(text: str, path: str) -> Description:
    """Read a prototxt's text; ``path`` is what errors call it."""
    return _describe(parse_text(text, path), None)


def _describe(root: Message, phase: Phase | None) -> Description:
    entries = {name: root.messages(name) for name in ("layer", "layers")}
    rest = Message(root.path, 1, {name: found for name, found in root.fields.items() if name not in entries})
    top = rest.read(_Top, "the net")
    state = State(phase or top.state.phase or "TEST", top.state.level, top.state.stage)
    layers = [_layer(message) for message in entries["layer"]] + [_old_layer(message) for message in entries["layers"]]
    if not 1 <= len(layers) <= LIMITS.layers:
        raise BadFile(
            root.path,
            f"describes {len(layers)} layers",
            f"give a prototxt with 1 to {LIMITS.layers} layer {{ … }} entries",
        )
    kept = [layer for layer, rules in layers if _included(layer, rules, state)]
    _check_sharing(layer.message for layer in kept)
    return Description(root.path, top.name, _inputs(top, root), kept)


def _is_block(name: str) -> bool:
    return name.endswith("_param")


def _head(message: Message) -> Message:
    kept = {name: found for name, found in message.fields.items() if not _is_block(name)}
    return Message(message.path, message.line, kept)


_Rules = tuple[tuple[StateRule, ...], tuple[StateRule, ...]]


def _named(message: Message) -> str:
    """Say which layer a message is, before it has been checked."""
    name, kind = (
        next((entry.text for entry in message.fields.get(key, []) if isinstance(entry, Token)), "?")
        for key in ("name", "type")
    )
    return f"layer {name!r} ({kind})"


def _own_top(name: str, kind: str) -> tuple[str, ...]:
    """Name a loss whose top is not named (Caffe allows that) after the loss."""
    return (name or kind,) if kind.endswith("Loss") else ()


def _layer(message: Message) -> tuple[Layer, _Rules]:
    head = _head(message).read(_Header, _named(message))
    rates = tuple(spec.lr_mult for spec in head.param)
    tops = head.top or _own_top(head.name, head.type)
    layer = Layer(head.name or head.type, head.type, head.bottom, tops, rates, head.loss_weight, message)
    return layer, (head.include, head.exclude)


def _old_layer(message: Message) -> tuple[Layer, _Rules]:
    if "layer" in message.fields:
        raise message.fail(
            "layers { layer { … } }, the form of Caffe before 2013", "upgrade it with upgrade_net_proto_text"
        )
    head = _head(message).read(_OldHeader, _named(message))
    kind = OLD_TYPES[head.type]
    tops = head.top or _own_top(head.name, kind)
    layer = Layer(head.name or kind, kind, head.bottom, tops, head.blobs_lr, head.loss_weight, message)
    return layer, (head.include, head.exclude)


def _included(layer: Layer, rules: _Rules, state: State) -> bool:
    include, exclude = rules
    if include and exclude:
        raise layer.fail("has both include and exclude rules", "keep one kind")
    if include:
        return any(map(state.meets, include))
    return not any(map(state.meets, exclude))


def _check_sharing(messages: Iterable[Message]) -> None:
    """Refuse weights that two layers share by name."""
    seen: dict[str, int] = {}
    for message in messages:
        for spec in message.fields.get("param", []):
            names = [spec] if isinstance(spec, Token) else spec.fields.get("name", [])
            for name in names:
                if isinstance(name, Token) and name.text and name.text in seen:
                    raise message.fail(
                        f"{_named(message)} shares the weights {name.text!r} with line {seen[name.text]}",
                        "shared weights are not supported: give each layer its own",
                        name.line,
                    )
                if isinstance(name, Token):
                    seen[name.text] = name.line


def _inputs(top: _Top, root: Message) -> dict[str, tuple[int, ...]]:
    """Read ``input:`` with ``input_shape`` or, four numbers each, ``input_dim``."""
    shapes = [shape.dim for shape in top.input_shape]
    if top.input_dim:
        if shapes or len(top.input_dim) % 4:
            raise root.fail(
                "input_dim comes in fours, and not together with input_shape", "write input_shape { dim … }"
            )
        shapes = [top.input_dim[at : at + 4] for at in range(0, len(top.input_dim), 4)]
    if shapes and len(shapes) not in (1, len(top.input)):
        raise root.fail(f"{len(top.input)} inputs but {len(shapes)} shapes", "give one shape for each input")
    if len(shapes) == 1:
        shapes *= len(top.input)
    return dict(zip(top.input, shapes or [()] * len(top.input), strict=True))


def input_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Return the sizes that a layer writes for the blobs it brings; () where it does not say.

    An Input layer writes them; a data layer that crops says the side of its pictures.
    """
    if layer.kind != "Input":
        side = next(
            (
                int(size.text)
                for name in ("transform_param", "data_param", "image_data_param")
                for block in layer.message.messages(name)
                for size in block.fields.get("crop_size", [])
                if isinstance(size, Token) and re.fullmatch("[1-9][0-9]{0,4}", size.text)
            ),
            None,
        )
        return {top: (1, 3, side, side) if side and index == 0 else () for index, top in enumerate(layer.tops)}
    shapes = [shape.dim for shape in layer.block("input_param", Input).shape]
    if shapes and len(shapes) not in (1, len(layer.tops)):
        raise layer.fail(f"{len(layer.tops)} tops but {len(shapes)} shapes", "give one shape for each top")
    if len(shapes) == 1:
        shapes *= len(layer.tops)
    return dict(zip(layer.tops, shapes or [()] * len(layer.tops), strict=True))
