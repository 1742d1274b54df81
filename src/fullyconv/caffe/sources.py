"""Data layers: what they say about the sizes of the blobs that they bring. The blobs themselves are fed to the net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fullyconv.caffe.description import Layer
from fullyconv.caffe.fields import Filler, Input, Shape
from fullyconv.caffe.prototxt import Message, Token

WRITTEN = ("Input", "DummyData", "MemoryData")  # those that say all about their blobs

USUAL_CHANNELS = 3


@dataclass(frozen=True)
class DummyData:
    """``dummy_data_param``."""

    data_filler: tuple[Filler, ...] = ()
    shape: tuple[Shape, ...] = ()
    num: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    height: tuple[int, ...] = ()
    width: tuple[int, ...] = ()


@dataclass(frozen=True)
class MemoryData:
    """``memory_data_param``."""

    batch_size: int
    channels: int
    height: int
    width: int


def source_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Return the sizes that a data layer writes for the blobs it brings; () where it does not say."""
    if layer.kind in ("Input", "DummyData"):
        shapes = _input(layer) if layer.kind == "Input" else _dummy(layer)
        if shapes and len(shapes) not in (1, len(layer.tops)):
            raise layer.fail(f"{len(layer.tops)} tops but {len(shapes)} shapes", "give one shape for each top")
        return dict(zip(layer.tops, shapes * len(layer.tops) or [()] * len(layer.tops), strict=False))
    if layer.kind == "MemoryData":
        memory = layer.block("memory_data_param", MemoryData)
        sizes = (memory.batch_size, memory.channels, memory.height, memory.width)
        return dict(zip(layer.tops, [sizes, (memory.batch_size,)], strict=False))
    return _pictures(layer)


def _input(layer: Layer) -> list[tuple[int, ...]]:
    return [shape.dim for shape in layer.block("input_param", Input).shape]


def _dummy(layer: Layer) -> list[tuple[int, ...]]:
    given = layer.block("dummy_data_param", DummyData)
    if given.shape:
        return [shape.dim for shape in given.shape]
    columns = (given.num, given.channels, given.height, given.width)
    longest = max(map(len, columns))
    if any(len(column) not in (1, longest) for column in columns) or longest == 0:
        raise layer.fail("sizes of different numbers of blobs", "give one shape { dim … } for each top")
    return list(zip(*(_repeated(column, longest) for column in columns), strict=True))


def _repeated(column: tuple[int, ...], times: int) -> tuple[int, ...]:
    return column if len(column) == times else column * times


def _pictures(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Read the size of pictures: they are cropped, or brought to a size."""
    blocks = [block for name in layer.blocks if name != "include" for block in layer.message.messages(name)]
    crop, height, width = (_number(blocks, name) for name in ("crop_size", "new_height", "new_width"))
    height, width = crop or height or _number(blocks, "crop_height"), crop or width or _number(blocks, "crop_width")
    if not height or not width:
        return dict.fromkeys(layer.tops, ())
    batch = _number(blocks, "batch_size") or 1
    labels = (batch, 1, height, width) if layer.kind in ("DenseImageData", "ImageSegData") else ()
    return {top: labels if index else (batch, _channels(blocks), height, width) for index, top in enumerate(layer.tops)}


def _channels(blocks: Sequence[Message]) -> int:
    """Count the channels of pictures: one if they are read as grey, one for each of several means, else three."""
    words = {name: _words(blocks, name) for name in ("force_gray", "is_color", "mean_value", "channels")}
    if words["channels"] and words["channels"][0].isdecimal():
        return int(words["channels"][0])
    if words["force_gray"][:1] == ["true"] or words["is_color"][:1] == ["false"]:
        return 1
    return max(len(words["mean_value"]), 1) if len(words["mean_value"]) > 1 else USUAL_CHANNELS


def _words(blocks: Sequence[Message], name: str) -> list[str]:
    return [entry.text for block in blocks for entry in block.fields.get(name, []) if isinstance(entry, Token)]


def _number(blocks: Sequence[Message], name: str) -> int | None:
    found = next((word for word in _words(blocks, name) if word.isdecimal() and len(word) < 6), None)
    return None if found is None else int(found) or None
