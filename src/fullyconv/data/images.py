"""Pictures and masks from files: any common mode in, one form out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fullyconv.files import BadFile
from fullyconv.limits import LIMITS
from fullyconv.types import VOID, ClassSet

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
ORIENTATION = 0x0112  # the EXIF tag
Image.MAX_IMAGE_PIXELS = LIMITS.pixels // 2  # Pillow raises at twice its limit


def open_picture(path: Path) -> Image.Image:
    """Open and decode a picture of any mode; raises ``BadFile``."""
    try:
        picture = Image.open(path)
        if picture.width * picture.height > LIMITS.pixels:
            raise BadFile(path, f"{picture.width} x {picture.height} pixels", f"split it below {LIMITS.pixels} pixels")
        picture.load()
    except BadFile:
        raise
    except FileNotFoundError:
        raise BadFile(path, "no such file", "check the path") from None
    except Image.DecompressionBombError:
        raise BadFile(path, "more pixels than are plausible", f"split it below {LIMITS.pixels} pixels") from None
    except Exception as error:  # Pillow's decoders raise many kinds
        what = "truncated" if "truncated" in str(error).lower() else "unreadable"
        raise BadFile(path, f"{what} ({error})", "restore the file from its source, or remove the pair") from None
    return picture


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 if there is none."""
    return int(picture.getexif().get(ORIENTATION, 1))


def to_rgb(picture: Image.Image) -> np.ndarray:
    """Bring a picture of any mode to H x W x 3 uint8 RGB; 16-bit values are divided by 257."""
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, np.float64)
        if picture.mode == "F" and values.size and values.max() <= 1 and values.min() >= 0:
            values = values * 65_535
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65_535:
            raise ValueError(f"values {values.min():g}..{values.max():g} are no grey levels (0..65535)")
        return np.repeat((values / 257).round().astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))


def read_image(path: Path) -> np.ndarray:
    """Read a picture upright, H x W x 3 uint8 RGB; raises ``BadFile``."""
    picture = ImageOps.exif_transpose(open_picture(path))
    try:
        return to_rgb(picture)
    except ValueError as error:
        raise BadFile(path, str(error), "rescale it to 8 or 16 bit") from None


@dataclass(frozen=True)
class RawMask:
    """A mask as stored: ``values`` H x W (indices) or H x W x 3 (colours), and the palette if it has one."""

    values: np.ndarray
    palette: np.ndarray | None = None  # K x 3 uint8


def read_raw_mask(path: Path) -> RawMask:
    """Read a mask's stored numbers: palette pictures give indices, RGB(A) pictures colours; raises ``BadFile``."""
    picture = ImageOps.exif_transpose(open_picture(path))
    if picture.mode == "P":
        return RawMask(np.asarray(picture), np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3))
    if picture.mode in ("RGB", "RGBA"):
        return RawMask(np.asarray(picture.convert("RGB")))
    if picture.mode in ("1", "L", "I", "LA") or picture.mode.startswith("I;16"):
        single = picture.getchannel(0) if picture.mode == "LA" else picture
        return RawMask(np.asarray(single).astype(np.int32))
    raise BadFile(path, f"a mask of mode {picture.mode}", "save masks as 8 or 16 bit index PNG, or as RGB colours")


def decode_mask(raw: RawMask, classes: ClassSet, path: Path) -> np.ndarray:
    """Turn stored numbers into labels, H x W int16 (``VOID`` where not scored).

    Raises ``BadFile`` naming the numbers or colours that are no class.
    """
    if raw.values.ndim == 3 or classes.colour_masks:
        return _decode_colours(raw, classes, path)
    largest = int(raw.values.max(initial=0))
    table = np.full(max(largest, *classes.values, classes.ignore_index) + 1, VOID - 1, np.int16)
    table[classes.ignore_index] = VOID
    table[list(classes.values)] = np.arange(len(classes))
    labels: np.ndarray = table[raw.values]
    unknown = np.unique(raw.values[labels < VOID])
    if unknown.size:
        known = ", ".join(map(str, classes.values[:12])) + (", …" if len(classes) > 12 else "")
        what = f"label outside the classes: {_first(unknown.tolist())}"
        if set(unknown.tolist()) == {255} and set(np.unique(raw.values).tolist()) <= {0, 255}:
            what = "a 0/255 mask read as indices"
        raise BadFile(
            path,
            what,
            f"known values are {known} and {classes.ignore_index} (ignore): correct the mask, or classes.yaml",
        )
    return labels


def _decode_colours(raw: RawMask, classes: ClassSet, path: Path) -> np.ndarray:
    if not classes.colour_masks:
        raise BadFile(
            path,
            "a colour mask read as indices",
            "say 'masks: colour' in classes.yaml and give each class its colour, or save the mask as index PNG",
        )
    pixels = raw.values
    if pixels.ndim == 2 and raw.palette is not None:
        pixels = raw.palette[pixels]
    elif pixels.ndim == 2:
        raise BadFile(path, "an index mask among colour masks", "say 'masks: index' in classes.yaml, or recolour it")
    codes = pixels.astype(np.int32) @ np.array([65_536, 256, 1], np.int32)
    table = {_code(colour): index for index, colour in enumerate(classes.colours)}
    table |= {_code(colour): VOID for colour in classes.ignore_colours}
    found, where = np.unique(codes, return_inverse=True)
    unknown = [(code >> 16, code >> 8 & 255, code & 255) for code in found.tolist() if code not in table]
    if unknown:
        raise BadFile(
            path, f"colour outside the classes: {_first(unknown)}", "add it to classes.yaml (a class or ignore_colours)"
        )
    return np.array([table[code] for code in found.tolist()], np.int16)[where].reshape(codes.shape)


def _code(colour: tuple[int, int, int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _first(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
