"""Layers to write: as prototxt text, and their blobs for a caffemodel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

Value = int | float | bool | str | Mapping[str, "Value"] | Sequence["Value"]

WORDS = frozenset({"pool", "operation", "round_mode"})  # fields whose values are names, not strings


@dataclass(frozen=True)
class Blob:
    """Weights of a layer to write; ``key`` is their place in the network, if they have one.

    ``rate`` and ``decay`` are the factors on learning rate and weight decay. ``fixed`` values belong to the
    description: a file that has others describes another network.
    """

    values: Tensor = field(repr=False)
    key: str | None = None
    rate: float | None = None
    decay: float | None = None
    fixed: bool = False


@dataclass(frozen=True)
class Written:
    """A layer to write."""

    name: str
    kind: str
    bottoms: tuple[str, ...]
    top: str
    fields: Mapping[str, Value] = field(default_factory=dict)
    blobs: tuple[Blob, ...] = ()
    second: str = ""  # a second top: the places of a pool's maxima


# The block that a layer's fields stand in.
BLOCKS = {
    "Input": "input_param", "Convolution": "convolution_param", "Deconvolution": "convolution_param",
    "Pooling": "pooling_param", "LRN": "lrn_param", "Dropout": "dropout_param", "Crop": "crop_param",
    "Eltwise": "eltwise_param", "Scale": "scale_param", "Concat": "concat_param",
    "InnerProduct": "inner_product_param", "BatchNorm": "batch_norm_param", "Upsample": "upsample_param",
    "Power": "power_param", "Clip": "clip_param",
}  # fmt: skip


def sides(name: str, values: int | Sequence[int], default: int | None = None) -> dict[str, Value]:
    """Write a number per axis: once if rows and columns agree; not at all where it is Caffe's default."""
    pair = (values, values) if isinstance(values, int) else tuple(values)
    if pair == (default, default):
        return {}
    if pair[0] == pair[1]:
        return {name: pair[0]}
    short = name.removesuffix("_size")
    return {f"{short}_h": pair[0], f"{short}_w": pair[1]}


def to_text(name: str, layers: Sequence[Written]) -> str:
    """Write a net in protobuf's text form, one ``layer { … }`` each."""
    lines = list(_lines({"name": name}, ""))
    for layer in layers:
        head: dict[str, Value] = {"name": layer.name, "type": layer.kind}
        tops = (layer.top, layer.second) if layer.second else layer.top
        head |= {"bottom": layer.bottoms, "top": tops} if layer.bottoms else {"top": tops}
        rates: list[Value] = [
            {"lr_mult": blob.rate} | ({"decay_mult": blob.decay} if blob.decay is not None else {})
            for blob in layer.blobs
            if blob.rate is not None
        ]
        block: dict[str, Value] = {BLOCKS[layer.kind]: layer.fields} if layer.fields else {}
        lines += _lines({"layer": {**head, "param": rates, **block}}, "")
    return "\n".join(lines) + "\n"


def _lines(fields: Mapping[str, Value], indent: str) -> Iterator[str]:
    for name, value in fields.items():
        entries = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for entry in entries:
            if isinstance(entry, Mapping):
                yield f"{indent}{name} {{"
                yield from _lines(entry, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{name}: {_word(name, entry)}"


def _word(name: str, value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and name not in WORDS:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)
