"""Whatever stands for a picture, as the numbers that a network sees."""

from __future__ import annotations

import re
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal
from urllib.error import URLError

import numpy as np
from PIL import Image
from torch import Tensor

from fullyconv.data.channels import read_channels
from fullyconv.data.images import VOIDED, from_pillow, orientation, picture_levels, rgb, warn_of
from fullyconv.data.raster import COLOURS, Raster, levels_of
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS, Limits
from fullyconv.types import Levels, Preprocess


@dataclass(frozen=True)
class Pixels:
    """A picture as a network sees it: H x W x K numbers, and which pixels hold nothing, H x W bool, if any does."""

    values: np.ndarray
    missing: np.ndarray | None = None


Picture = Path | str | Image.Image | np.ndarray | Tensor | bytes | IO[bytes] | Pixels
"""What stands for an image: a path or an address, a PIL image, an array or a tensor, a file's bytes, an open file."""

Order = Literal["rgb", "bgr"]
Span = tuple[float, float] | None

ADDRESS = re.compile(r"(?!file:)[a-zA-Z][a-zA-Z0-9+.-]+://")
CHUNK = 1 << 20  # bytes read from an address at once
SAVE = "give the path of a picture, or download it first"
WHAT = "a path, an address, a PIL image, an array, a tensor, the bytes of a file or an open file"


@dataclass(frozen=True)
class Given:
    """What a caller says of the pictures that he gives as numbers.

    ``order`` is that of their colours, ``span`` the numbers that are black and white; without it uint8 is 0 to 255,
    and deeper whole numbers are read as those of files are. ``limits`` are what files may ask for, ``level`` is which
    of several sizes in a file is read, 0 the full one.
    """

    order: Order = "rgb"
    span: Span = None
    limits: Limits = field(default_factory=lambda: LIMITS)
    level: int = 0

    def __post_init__(self) -> None:
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"order is rgb or bgr, not {self.order!r}")
        if self.span is not None:
            Levels((self.span,))


def split_batch(images: object) -> Iterator[Picture] | None:
    """Return the pictures of a batch (4 axes), a list or an iterator, one by one; ``None`` for a single picture.

    >>> [image.shape for image in split_batch(np.zeros((2, 4, 5, 3)))], split_batch("a.png")
    ([(4, 5, 3), (4, 5, 3)], None)
    """
    if isinstance(images, np.ndarray | Tensor):
        return iter(images) if images.ndim == 4 else None
    if isinstance(images, str | bytes | bytearray | memoryview | Path | Image.Image | Pixels) or hasattr(
        images, "read"
    ):
        return None
    return iter(images) if isinstance(images, Iterable) else None


def pixels_of(image: Picture, preprocess: Preprocess, channels: int, given: Given = Given()) -> Pixels:
    """Bring any accepted form of an image to what a network sees, upright.

    Args:
        image: See ``Picture``.
        preprocess: The network's: its range of numbers is that of deep pictures.
        channels: Of the network.
        given: The order and the range of numbers that are given as such.

    Returns:
        H x W x ``channels`` uint8, of networks that see more than pictures the numbers themselves; and which pixels
        hold nothing: what a file says ("no data", NaN), and what a masked array masks in all channels.

    Raises:
        BadFile: For a file that cannot be used.
        ValueError: For what is no image.
    """
    if isinstance(image, Pixels):
        return image
    if isinstance(image, Tensor):
        image = _rows_first(image, channels)
    if isinstance(image, np.ma.MaskedArray):
        return _from_masked(image, preprocess, channels, given)
    if isinstance(image, np.ndarray):
        return Pixels(_from_array(image, preprocess, channels, given))
    if isinstance(image, Image.Image):
        raster = from_pillow(image, turn=orientation(image))
        return Pixels(levels_of(raster.upright() if raster.turn != 1 else raster, preprocess.levels, channels))
    if isinstance(image, Path | str) and not (isinstance(image, str) and ADDRESS.match(image)):
        return _from_file(_local(image), preprocess, channels, given)
    data, name = _bytes(image)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            return _from_file(Path(file.name), preprocess, channels, given, name)
        except BadFile as bad:
            raise BadFile(name, bad.what, bad.fix) from None


def _local(image: Path | str) -> Path:
    """Return the path, also of a ``file://`` address."""
    if isinstance(image, str) and image.startswith("file://"):
        return Path(urllib.request.url2pathname(image.removeprefix("file://")))
    return Path(image)


def _from_file(path: Path, preprocess: Preprocess, channels: int, given: Given, name: str = "") -> Pixels:
    levels = preprocess.levels
    if levels is None and channels != COLOURS:
        raise ValueError(f"this network takes an H x W x {channels} array (RGB, then its other channels), not a file")
    raster = read_channels(path, levels, given.limits, level=given.level)
    warn_of(raster, name or path, VOIDED)
    values = rgb(raster, path) if levels is None else picture_levels(raster, path, levels, channels)
    return Pixels(values, raster.missing)


def _bytes(image: Any) -> tuple[bytes, str]:
    """Return the content of a file that is given as such, open or by an address, and its name for messages."""
    if isinstance(image, str):
        return fetch(image), image
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image), f"<{len(image)} bytes>"
    if not hasattr(image, "read"):
        raise ValueError(f"this model labels pictures ({WHAT}), not a {type(image).__name__}")
    data = image.read(LIMITS.array_bytes + 1)
    name = str(getattr(image, "name", f"<{type(image).__name__}>"))
    if not isinstance(data, bytes):
        raise ValueError(f"{name} is open as text: open it with mode 'rb'")
    return _bounded(data, name), name


def fetch(address: str) -> bytes:
    """Fetch a file by http or https, or by any other scheme that fsspec knows; raises ``BadFile``."""
    try:
        if address.split("://", 1)[0].lower() in ("http", "https"):
            with urllib.request.urlopen(address, timeout=LIMITS.download_seconds) as reply:
                return _bounded(reply.read(LIMITS.array_bytes + 1), address)
        import fsspec

        with fsspec.open(address, "rb") as file:
            return _bounded(file.read(LIMITS.array_bytes + 1), address)
    except BadFile:
        raise
    except ModuleNotFoundError as error:
        raise BadFile(address, f"needs a package that is not installed ({error.name})", SAVE) from None
    except (URLError, OSError, ValueError, ImportError) as error:
        raise BadFile(address, f"cannot be fetched ({getattr(error, 'reason', None) or error})", SAVE) from None


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > LIMITS.array_bytes:
        raise BadFile(name, f"more than {LIMITS.array_bytes} bytes", LIMITS.remedy("array_bytes"))
    return data


def _rows_first(image: Tensor, channels: int) -> np.ndarray:
    """Bring a C x H x W tensor to H x W x C; H x W, and H x W x C where C alone can be last, stay as they are."""
    image = image.detach().cpu()
    known = {1, channels} | ({COLOURS + 1} if channels == COLOURS else set())
    if image.ndim == 3 and image.shape[0] in known:
        image = image.permute(1, 2, 0)
    if image.dtype.itemsize == 2 and image.is_floating_point():
        image = image.float()  # NumPy has no bfloat16
    return image.numpy()


def _from_masked(image: np.ma.MaskedArray[Any, Any], preprocess: Preprocess, channels: int, given: Given) -> Pixels:
    """Take an array some of whose numbers are none, as rasterio reads files: what is masked is black."""
    masked = np.asarray(np.ma.getmaskarray(image))
    black = 0 if given.span is None else given.span[0]
    values = _from_array(np.where(masked, image.dtype.type(black), image.data), preprocess, channels, given)
    missing = masked if masked.ndim == 2 else np.logical_and.reduce(masked, axis=2)
    return Pixels(np.where(missing[..., None], values.dtype.type(0), values), missing)


def _from_array(image: np.ndarray, preprocess: Preprocess, channels: int, given: Given) -> np.ndarray:
    _check_array(image, preprocess, channels, given)
    pixels = image if image.ndim == 3 else image[..., None]
    if pixels.shape[2] in (COLOURS, COLOURS + 1) and channels == COLOURS:
        pixels = pixels[..., 2::-1] if given.order == "bgr" else pixels[..., :COLOURS]
    elif given.order == "bgr" and pixels.shape[2] > COLOURS:
        pixels = pixels[..., [2, 1, 0, *range(COLOURS, pixels.shape[2])]]
    if channels > COLOURS and preprocess.levels is None and given.span is None:
        return pixels
    if given.span is not None:
        pixels = Levels((given.span,))(pixels)
    elif pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype != np.uint8:
        kind: Literal["grey", "rgb", "bands"] = "rgb" if pixels.shape[2] == COLOURS else "grey"
        raster = Raster(pixels, kind if channels == COLOURS else "bands", 8 * pixels.dtype.itemsize)
        pixels = levels_of(raster, preprocess.levels, channels)
    if pixels.shape[2] == 1:
        return np.repeat(pixels, channels, axis=2)
    return np.ascontiguousarray(pixels)


def _check_array(image: np.ndarray, preprocess: Preprocess, channels: int, given: Given) -> None:
    """Refuse arrays that are no image, or whose numbers nobody says how to read."""
    if channels > COLOURS:
        if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
            what = f"{image.shape}{_hint(image, (channels,))}"
            raise ValueError(
                f"this network takes an H x W x {channels} array (RGB, then its other channels), not {what}"
            )
        if image.dtype.kind not in "uif" or not np.isfinite(image).all():
            raise ValueError(f"an image array holds finite numbers, not {image.dtype} with NaN or infinity")
        return
    if image.ndim not in (2, 3) or 0 in image.shape or image.dtype.kind not in "buif":
        hint = _hint(image, (1, 3, 4))
        raise ValueError(f"an image array is H x W or H x W x C numbers, not {image.shape} {image.dtype}{hint}")
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4):
        hint = _hint(image, (1, 3, 4))
        raise ValueError(f"an image array has 1, 3 or 4 channels (grey, RGB, RGBA), not {image.shape[2]}{hint}")
    unsaid = given.span is None and preprocess.levels is None
    if unsaid and image.dtype.kind in "if":
        hint = "span=(0, 1), or span=(0, 255)" if image.dtype.kind == "f" else "span=(0, 255)"
        raise ValueError(f"{image.dtype} numbers can be of any range: say which are black and white, {hint}")


def _hint(image: np.ndarray, channels: tuple[int, ...]) -> str:
    """Say how an array that is refused becomes an image, where its shape tells.

    >>> _hint(np.zeros((3, 20, 30), np.uint8), (1, 3, 4))
    ': give image.transpose(1, 2, 0), for its channels come first'
    """
    if image.ndim == 3 and image.shape[0] in channels and image.shape[2] not in channels:
        return ": give image.transpose(1, 2, 0), for its channels come first"
    if image.ndim == 4:
        return ": give the images of the batch one by one, or the batch itself"
    return ""
