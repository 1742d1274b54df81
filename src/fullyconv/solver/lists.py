"""Data layers that read a list of files: ImageData (a class each), DenseImageData and ImageSegData (a mask each).

What is random is drawn from the solver's seed and the number of the batch: the order of an epoch, crops, mirroring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from fullyconv.caffe.description import Layer
from fullyconv.caffe.wire import read_blob
from fullyconv.data.images import read_image
from fullyconv.data.masks import read_raw_mask
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS
from fullyconv.solver.settings import find

LISTS = ("ImageData", "DenseImageData", "ImageSegData")
IGNORED = 255


@dataclass(frozen=True)
class _Transform:
    """``transform_param``."""

    scale: float = 1
    mirror: bool = False
    crop_size: int = 0
    mean_file: str = ""
    mean_value: tuple[float, ...] = ()
    force_color: bool = False
    force_gray: bool = False


@dataclass(frozen=True)
class _List:
    """``image_data_param``, ``dense_image_data_param``."""

    source: str
    batch_size: int = 1
    rand_skip: int = 0
    shuffle: bool = False
    new_height: int = 0
    new_width: int = 0
    is_color: bool = True
    root_folder: str = ""
    label_type: Literal["NONE", "IMAGE", "PIXEL"] = "PIXEL"
    ignore_label: int = IGNORED
    label_divide_factor: int = 1
    # V1 has the transform's fields here.
    scale: float = 1
    mirror: bool = False
    crop_size: int = 0
    mean_file: str = ""


@dataclass(frozen=True)
class _Reader:
    """A list, and how its pictures become blobs."""

    layer: Layer
    given: _List
    transform: _Transform
    entries: Sequence[tuple[Path, str]]
    training: bool
    seed: int
    mean: np.ndarray = field(repr=False)

    @property
    def dense(self) -> bool:
        """Whether labels are masks."""
        return self.layer.kind != "ImageData"

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Read a batch; pictures of one batch must come out at one size."""
        rng = np.random.default_rng([self.seed, number])
        size = self.given.batch_size
        rows = [self._item(self._entry(number * size + index), rng) for index in range(size)]
        columns = list(zip(*rows, strict=True))[: len(self.layer.tops)]
        for column in columns:
            if len({values.shape for values in column}) > 1:
                sizes = sorted({values.shape for values in column})
                raise self.layer.fail(f"pictures of {sizes} in one batch", "set new_height, new_width or batch_size: 1")
        return {top: np.stack(column) for top, column in zip(self.layer.tops, columns, strict=True)}

    def _entry(self, index: int) -> tuple[Path, str]:
        epoch, place = divmod(index + self.given.rand_skip, len(self.entries))
        if self.given.shuffle:
            place = int(np.random.default_rng([self.seed, epoch, 1]).permutation(len(self.entries))[place])
        return self.entries[place]

    def _item(self, entry: tuple[Path, str], rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        picture = self._picture(entry[0])
        whole = picture.shape[1:]
        label = self._mask(entry, picture.shape[1:]) if self.dense else np.asarray(int(entry[1]), np.float32)
        if self.mean.shape[1:] not in ((1, 1), whole) or len(self.mean) not in (1, len(picture)):
            what = f"a mean of {self.mean.shape} for a picture of {picture.shape}"
            raise self.layer.fail(what, "set new_height and new_width to the mean's size, or write mean_value")
        picture = (picture - self.mean).astype(np.float32)
        if self.transform.crop_size:
            picture, label = self._crop(picture, label, rng)
        if self.transform.mirror and rng.integers(2):
            picture = picture[..., ::-1]
            label = label[..., ::-1] if self.dense else label
        return picture * np.float32(self.transform.scale), label, np.asarray([[[*whole]]], np.float32)

    def _picture(self, path: Path) -> np.ndarray:
        """Read C x H x W, BGR or grey, 0..255, at the size that is wanted."""
        rgb = read_image(path)
        grey = self.transform.force_gray or not (self.given.is_color or self.transform.force_color)
        planes = np.round(rgb @ np.array([0.299, 0.587, 0.114]))[None] if grey else rgb[..., ::-1].transpose(2, 0, 1)
        planes = planes.astype(np.float32)
        size = (self.given.new_height, self.given.new_width)
        if all(size) and planes.shape[1:] != size:
            resized = functional.interpolate(torch.from_numpy(planes.copy())[None], size, mode="bilinear")
            planes = resized[0].round().numpy()
        return planes

    def _mask(self, entry: tuple[Path, str], size: tuple[int, ...]) -> np.ndarray:
        path = Path(entry[1])
        mask = read_raw_mask(path).values
        if mask.ndim != 2:
            raise BadFile(path, "a mask in colours", "save it with a number for each class")
        wanted = (self.given.new_height, self.given.new_width)
        if all(wanted):
            rows, columns = (np.arange(new) * old // new for new, old in zip(wanted, mask.shape, strict=True))
            mask = mask[rows][:, columns]
        if mask.shape != size:
            raise BadFile(path, f"a mask of {mask.shape} for a picture of {size}", "save both at one size")
        return (mask // self.given.label_divide_factor)[None].astype(np.float32)

    def _crop(self, picture: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Cut a square: at random while training, else from the middle; too small a picture is filled up (DeepLab)."""
        side = self.transform.crop_size
        lacking = [max(side - units, 0) for units in picture.shape[1:]]
        if any(lacking):
            if not self.dense:
                raise self.layer.fail(
                    f"crop_size {side} of a picture of {picture.shape[1:]}", "set a smaller crop_size"
                )
            border = ((0, 0), (0, lacking[0]), (0, lacking[1]))
            picture = np.pad(picture, border)
            label = np.pad(label, border, constant_values=self.given.ignore_label)
        room = [units - side for units in picture.shape[1:]]
        top, left = (int(rng.integers(more + 1)) if self.training else more // 2 for more in room)
        inside = (..., slice(top, top + side), slice(left, left + side))
        return picture[inside], label[inside] if self.dense else label


def list_feed(layer: Layer, *, training: bool, seed: int) -> tuple[Callable[[int], dict[str, np.ndarray]], int]:
    """Return the batches of a layer that reads a list, and how many there are in a pass; raises ``BadFile``."""
    block = "dense_image_data_param" if layer.kind == "DenseImageData" else "image_data_param"
    given, transform = layer.block(block, _List), layer.block("transform_param", _Transform)
    if not transform.crop_size and not transform.mean_file:
        transform = _Transform(
            transform.scale * given.scale, transform.mirror or given.mirror, given.crop_size, given.mean_file,
            transform.mean_value, transform.force_color, transform.force_gray,
        )  # fmt: skip
    if layer.kind == "ImageSegData" and given.label_type != "PIXEL":
        raise layer.fail(f"label_type is {given.label_type}", "PIXEL is supported")
    if min(given.batch_size, given.label_divide_factor) < 1 or transform.crop_size < 0 or given.rand_skip < 0:
        raise layer.fail("a batch_size, crop_size or label_divide_factor below 1", "correct it")
    sides = ((transform.crop_size, transform.crop_size), (given.new_height, given.new_width))
    if max(height * width for height, width in sides) * given.batch_size > LIMITS.pixels or min(map(min, sides)) < 0:
        raise layer.fail("pictures of this size", f"write smaller ones, or {LIMITS.remedy('pixels')}")
    entries = _read_list(layer, given)
    mean = _mean(layer, transform, given)
    reader = _Reader(layer, given, transform, entries, training, seed, mean)
    return reader.batch, -(-len(entries) // given.batch_size)


def _mean(layer: Layer, transform: _Transform, given: _List) -> np.ndarray:
    """Return what is subtracted: a number for each channel, or a picture."""
    if transform.mean_file and transform.mean_value:
        raise layer.fail("gives both mean_file and mean_value", "give one of them")
    if transform.mean_file:
        mean = read_blob(find(transform.mean_file, Path(layer.message.path)))
        return mean.reshape(mean.shape[-3:])
    channels = 1 if transform.force_gray or not (given.is_color or transform.force_color) else 3
    if transform.mean_value and len(transform.mean_value) not in (1, channels):
        raise layer.fail(f"{len(transform.mean_value)} mean_value for {channels} channels", "give one, or one for each")
    return np.asarray(transform.mean_value or (0,), np.float32).reshape(-1, 1, 1)


def read_listing(layer: Layer, source: str, named: str) -> tuple[Path, str]:
    """Read a layer's list of files.

    Args:
        layer: Says beside which file the list lies.
        source: The list's name.
        named: What its files are, for messages.

    Returns:
        Where the list is, and its text.

    Raises:
        BadFile: If it is no text, cannot be read, or is too large.
    """
    place = find(source, Path(layer.message.path))
    try:
        if place.stat().st_size > LIMITS.text_bytes:
            raise BadFile(place, f"larger than {LIMITS.text_bytes} bytes", LIMITS.remedy("text_bytes"))
        return place, place.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(place, f"not a list of {named} ({error})", f"correct source of {layer.label}") from None


def _read_list(layer: Layer, given: _List) -> list[tuple[Path, str]]:
    """Read "PICTURE LABEL" lines: a class, or the name of a mask."""
    beside = Path(layer.message.path)
    source, text = read_listing(layer, given.source, "pictures")
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        picture, space, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        is_class = label.lstrip("-").isdecimal()
        if not space or (layer.kind == "ImageData") != is_class:
            wanted = "a class" if layer.kind == "ImageData" else "a mask"
            raise BadFile(f"{source}:{number}", f"{line[:60]!r} is no picture and {wanted}", "write 'PICTURE LABEL'")
        place = find(given.root_folder + picture, beside, moved=False)
        entries.append((place, label if is_class else str(find(given.root_folder + label, beside, moved=False))))
    if not entries:
        raise BadFile(source, "an empty list", "write 'PICTURE LABEL' lines")
    return entries
