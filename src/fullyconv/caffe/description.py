"""A network's description: the layers of a prototxt, old form or new, that are there in a state of the net."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from fullyconv.caffe.fields import Shape
from fullyconv.caffe.prototxt import LAYERS, Message, Token, parse, parse_text, too_many_layers
from fullyconv.caffe.states import ParamSpec, Phase, State, StateRule
from fullyconv.caffe.upgrade import OLD_TYPES, OldHeader, upgrade_oldest
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

SOURCES = (  # types that bring data, where they have no bottoms
    "Input", "Data", "ImageData", "HDF5Data", "WindowData", "MemoryData", "DummyData", "Python",
    "DenseImageData", "ImageSegData", "AnnotatedData", "VideoData", "MultiImageData",
)  # fmt: skip

T = TypeVar("T")
_Type = Literal["DOUBLE", "FLOAT", "FLOAT16", "INT", "UINT", "BOOL"]  # NVCaffe: no effect, all is float32 here


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
    forward_type: _Type = "FLOAT"
    backward_type: _Type = "FLOAT"
    forward_math: _Type = "FLOAT"
    backward_math: _Type = "FLOAT"


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
    default_forward_type: _Type = "FLOAT"
    default_backward_type: _Type = "FLOAT"
    default_forward_math: _Type = "FLOAT"
    default_backward_math: _Type = "FLOAT"
    default_conv_algos_override: str = ""
    default_cudnn_math_override: int = -1
    global_grad_scale: float = 1
    global_grad_scale_adaptive: bool = False
    reduce_buckets: int = 3


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer as described; ``params`` say how its blobs train, as far as the file says it."""

    name: str
    kind: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: tuple[ParamSpec, ...]
    loss_weights: tuple[float, ...]
    message: Message = field(repr=False)

    @property
    def label(self) -> str:
        """What errors call the layer."""
        return f"layer {self.name!r} ({self.kind})"

    @property
    def is_source(self) -> bool:
        """Whether it brings data, which is fed to the net instead; those of forks end in Data, as Caffe's own do."""
        return not self.bottoms and bool(self.tops) and (self.kind in SOURCES or self.kind.endswith("Data"))

    @property
    def is_loss(self) -> bool:
        """Whether it is a loss, whose first top training minimises unless the file says otherwise."""
        return self.kind.endswith("Loss")

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


_Rules = tuple[tuple[StateRule, ...], tuple[StateRule, ...]]


@dataclass(frozen=True)
class Description:
    """A net: its data blobs by name with the sizes written for them, if any, and its layers in order.

    ``absent`` are the layers of other states, each with what is said about when it is there.
    """

    path: str
    name: str
    inputs: dict[str, tuple[int, ...]]
    layers: list[Layer]
    state: State
    absent: list[tuple[Layer, str]]

    def origin(self, blob: str) -> str:
        """Say what to do where a blob is missing."""
        for layer, when in self.absent:
            if blob in layer.tops:
                return (
                    f"{layer.label} in line {layer.message.line} gives it in {when}: load() takes phase, stage, level"
                )
        return "correct the name"


def describe(path: Path | str, state: State | None = None) -> Description:
    """Read a prototxt and keep the layers of a state; its phase of ``None`` is the one the file states, else TEST.

    A data layer of another state stands in where its blob would be missing, for blobs of data are fed to the net.
    Raises ``BadFile`` naming the line of what is not understood.
    """
    return describe_message(parse(path), state or State())


def describe_text(text: str, path: str) -> Description:
    """Read a prototxt's text; ``path`` is what errors call it."""
    return describe_message(parse_text(text, path), State())


def describe_message(root: Message, state: State) -> Description:
    """Read a net that is parsed."""
    entries = {name: root.messages(name) for name in LAYERS}
    rest = Message(root.path, 1, {name: found for name, found in root.fields.items() if name not in entries})
    top = rest.read(_Top, "the net")
    state = State(
        state.phase or top.state.phase or "TEST", state.level or top.state.level, state.stage or top.state.stage
    )
    count = sum(map(len, entries.values()))
    if not 1 <= count <= LIMITS.layers:
        raise too_many_layers(root.path, count)
    layers = [_layer(message) for message in entries["layer"]]
    layers += [_old_layer(message) for message in upgrade_oldest(entries["layers"])]
    there = [_included(layer, rules, state) for layer, rules in layers]
    kept = [layer for (layer, _), is_there in zip(layers, there, strict=True) if is_there]
    absent = [(layer, _when(rules)) for (layer, rules), is_there in zip(layers, there, strict=True) if not is_there]
    inputs = _inputs(top, root)
    kept = [*_stand_ins(kept, [layer for layer, _ in absent], inputs), *kept]
    return Description(root.path, top.name, inputs, kept, state, absent)


def _stand_ins(kept: Sequence[Layer], absent: Sequence[Layer], inputs: Iterable[str]) -> list[Layer]:
    """Return data layers of other states for the blobs that nothing of this state gives, each with these alone."""
    given = {*inputs, *(top for layer in kept for top in layer.tops if top not in layer.bottoms)}
    found = []
    for layer in absent:
        missing = [top for top in layer.tops if top not in given]
        if layer.is_source and any(top in other.bottoms for top in missing for other in kept):
            found.append(layer if missing == list(layer.tops) else replace(layer, tops=tuple(missing)))
            given.update(missing)
    return found


def _when(rules: _Rules) -> str:
    include, exclude = rules
    return " or ".join(map(str, include)) or f"any state but {' or '.join(map(str, exclude))}"


def _is_block(name: str) -> bool:
    return name.endswith("_param")


def _head(message: Message) -> Message:
    kept = {name: found for name, found in message.fields.items() if not _is_block(name)}
    return Message(message.path, message.line, kept)


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
    tops = head.top or _own_top(head.name, head.type)
    layer = Layer(head.name or head.type, head.type, head.bottom, tops, head.param, head.loss_weight, message)
    return layer, (head.include, head.exclude)


def _old_layer(message: Message) -> tuple[Layer, _Rules]:
    kinds = [entry for entry in message.fields.get("type", []) if isinstance(entry, Token)]
    own = {word: kind for kind, word in OLD_TYPES.items()}
    if kinds and kinds[0].kind == "string" and kinds[0].text in own:  # of V0, or written as today
        message.fields["type"] = [Token("word", own[kinds[0].text], kinds[0].line)]
    head = _head(message).read(OldHeader, _named(message))
    kind = OLD_TYPES[head.type]
    tops = head.top or _own_top(head.name, kind)
    params = []
    for index in range(max(map(len, (head.param, head.blobs_lr, head.weight_decay)))):
        name = head.param[index] if index < len(head.param) else ""
        rate, decay = (
            factors[index] if index < len(factors) else 1.0 for factors in (head.blobs_lr, head.weight_decay)
        )
        params.append(ParamSpec(name, "STRICT", rate, decay))
    layer = Layer(head.name or kind, kind, head.bottom, tops, tuple(params), head.loss_weight, message)
    return layer, (head.include, head.exclude)


def _included(layer: Layer, rules: _Rules, state: State) -> bool:
    include, exclude = rules
    if include and exclude:
        raise layer.fail("has both include and exclude rules", "keep one kind")
    if include:
        return any(map(state.meets, include))
    return not any(map(state.meets, exclude))


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
