"""Items of the caller's own, (image, labels) each, written as a data set's folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from fullyconv.data.classes import write_classes
from fullyconv.draw import palette_image, save_picture
from fullyconv.files import whole_folder
from fullyconv.types import VOID, ClassSet, Sample

COLOURS = 3
NAMES = (("image", "labels"), ("image", "mask"), ("images", "masks"), ("img", "mask"))
IGNORED = 255  # what labels of pixels that do not count are, beside -1


class Items(Protocol):
    """A ``torch.utils.data.Dataset``, a list, or whatever else has a length and items."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any:
        """Return image and labels: a pair, a ``Sample``, or a mapping with ``image`` and ``labels`` or ``mask``."""


def write_items(folder: Path, splits: Mapping[str, Items], classes: ClassSet | None = None) -> Path:
    """Write items as images, masks and ``classes.yaml``; the folder appears whole or not at all.

    Args:
        folder: Where; replaced if it is there.
        splits: Items by split, ``train``, ``val``, ``test``, or ``all``. Images are H x W x C uint8 (of other types as
            TIFF with their own numbers), PIL images, or tensors C x H x W; labels H x W, class numbers, -1 or 255
            where they do not count.
        classes: What the numbers mean; default: ``class_0``, ….

    Returns:
        The folder.

    Raises:
        ValueError: For an item that is no pair of an image and its labels, naming it.

    >>> import tempfile
    >>> item = np.zeros((4, 5, 3), np.uint8), np.array([[0, 1, 1, 1, 255]] * 4)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     written = write_items(Path(place, "data"), {"train": [item]})
    ...     sorted(path.name for path in written.rglob("*.*"))
    ['00000.png', '00000.png', 'classes.yaml']
    """
    highest = 0
    with whole_folder(folder) as draft:
        for split, items in splits.items():
            if split not in ("train", "val", "test", "all"):
                raise ValueError(f"a split is train, val, test or all, not {split!r}")
            root = draft if split == "all" else draft / split
            for name in ("images", "masks"):
                (root / name).mkdir(parents=True, exist_ok=True)
            for index, item in enumerate(_each(items)):
                try:
                    image, labels = _pair(item)
                    highest = max(highest, int(labels.max(initial=0)))
                    _check_classes(highest, classes)
                except ValueError as error:
                    raise ValueError(f"item {index} of {split}: {error}") from None
                _write_image(image, root / "images" / f"{index:05d}")
                save_picture(palette_image(labels, classes or _numbered(highest)), root / "masks" / f"{index:05d}.png")
        write_classes(classes or _numbered(highest), draft / "classes.yaml")
    return folder


def _numbered(highest: int) -> ClassSet:
    names = tuple(f"class_{place}" for place in range(highest + 1))
    return ClassSet(names, ignore_index=255 if highest < 255 else 65_535)


def _each(items: Items) -> Iterator[Any]:
    """Go through items by their number: a map-style data set need not end by itself."""
    if not hasattr(items, "__len__"):
        if isinstance(items, Iterable):
            yield from items
            return
        raise ValueError(f"a data set has a length and items: {type(items).__name__} has not")
    for index in range(len(items)):
        yield items[index]


def _pair(item: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(item, Sample):
        image, labels = item.image, item.labels
    elif isinstance(item, Mapping):
        keys = next((keys for keys in NAMES if item.keys() >= set(keys)), None)
        if keys is None:
            raise ValueError(f"a mapping with image and labels, not {', '.join(map(str, item))}")
        image, labels = item[keys[0]], item[keys[1]]
    elif isinstance(item, tuple | list) and len(item) >= 2:
        image, labels = item[0], item[1]
    else:
        raise ValueError(f"an image and its labels, not a {type(item).__name__}")
    return _pixels(image), _labels(labels)


def _pixels(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image):
        image = image.convert("RGB") if image.mode not in ("L", "I;16", "F", "RGB") else image
    tensor = hasattr(image, "detach")
    pixels = np.asarray(image.detach().cpu() if tensor else image)
    if tensor and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or 0 in pixels.shape or pixels.dtype.kind not in "uif":
        raise ValueError(f"an image is H x W x C numbers, not {pixels.shape} {pixels.dtype}")
    return pixels


def _labels(labels: Any) -> np.ndarray:
    found = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    found = found.squeeze() if found.ndim == 3 and 1 in found.shape else found
    if found.ndim != 2 or found.dtype.kind not in "biu":
        raise ValueError(f"labels are H x W whole numbers, not {found.shape} {found.dtype}")
    numbers = np.where(found == IGNORED, VOID, found.astype(np.int64))
    if numbers.min() < VOID or numbers.max() > np.iinfo(np.int16).max:
        raise ValueError(f"labels from {numbers.min()} to {numbers.max()}")
    return numbers.astype(np.int16)


def _check_classes(highest: int, classes: ClassSet | None) -> None:
    if classes is not None and highest >= len(classes):
        raise ValueError(f"a label of class {highest}, of {len(classes)} classes")


def _write_image(pixels: np.ndarray, stem: Path) -> None:
    """Write 8-bit grey and colours as PNG, all else as TIFF, with their own numbers."""
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, COLOURS):
        save_picture(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels), stem.with_suffix(".png"))
        return
    write_tiff(pixels, stem.with_suffix(".tif"))


def write_tiff(pixels: np.ndarray, path: Path) -> None:
    """Write H x W x C numbers of any type and any number of channels as they are."""
    import tifffile

    shown = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    kind: Any = "rgb" if pixels.shape[2] == COLOURS else "minisblack"
    order: Any = None if shown.ndim == 2 else "contig"
    tifffile.imwrite(path, shown, photometric=kind, planarconfig=order, compression="zlib")
