"""Masks: stored numbers or colours in, labels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fullyconv.data.arrays import SUFFIXES as ARRAYS
from fullyconv.data.arrays import read_array
from fullyconv.data.images import read_raster
from fullyconv.data.raster import Raster
from fullyconv.files import BadFile
from fullyconv.types import MOST_VALUE, VOID, ClassSet

FEW = 5  # numbers that are no class may be meant to be ignored
SAVE_AS_INDEX = "save masks as 8 or 16 bit index PNG, or as RGB colours"


@dataclass(frozen=True)
class RawMask:
    """A mask as stored, upright.

    ``values`` are H x W (indices) or H x W x 3 (colours); ``palette`` is K x 3 uint8 if it has one; ``turned`` the
    EXIF orientation by which it was turned. ``missing``, H x W bool, are pixels that the file calls "no data" (or that
    are NaN) and whose number no class can have: they are not scored. ``transparent`` says that alpha, which is passed
    over, is not full everywhere.
    """

    values: np.ndarray
    palette: np.ndarray | None = None
    turned: int = 1
    missing: np.ndarray | None = None
    transparent: bool = False


def read_raw_mask(path: Path) -> RawMask:
    """Read a mask's stored numbers, upright: whole numbers of the file's type, indices of palettes, RGB colours.

    Nothing is scaled, inverted (min-is-white) or looked up, so that numbers are those that were written.

    Raises:
        BadFile: Also for files whose compression changes numbers (JPEG), CMYK, and numbers that are not whole.
    """
    if path.suffix.lower() in ARRAYS:
        values = read_array(path)
        return RawMask(values if values.ndim == 3 else _whole(values, path))
    raster = read_raster(path)
    if raster.lossy:
        fix = "save masks as PNG, from what they were made of: what JPEG has changed is lost"
        raise BadFile(path, f"a mask saved as {raster.lossy}, which changes its numbers", fix)
    if raster.kind in ("cmyk", "bands"):
        what = "mode CMYK" if raster.kind == "cmyk" else f"{raster.values.shape[2]} bands of {raster.values.dtype}"
        raise BadFile(path, f"a mask of {what}", SAVE_AS_INDEX)
    if raster.kind == "rgb":
        return RawMask(_eight_bits(raster, path), turned=raster.turned, transparent=raster.transparent)
    values, missing = raster.values[..., 0], raster.missing
    if missing is not None:  # NaN is not among the numbers that are compared
        missing &= ~((values >= 0) & (values <= MOST_VALUE))
        values = np.where(missing, values.dtype.type(0), values)
    clear = raster.transparent and raster.kind == "grey"  # a palette has its alpha by colours, which say all
    return RawMask(_whole(values, path), raster.palette, raster.turned, missing, clear)


def _eight_bits(raster: Raster, path: Path) -> np.ndarray:
    """Bring colours of 16 bits to 8 where that loses nothing."""
    values = raster.values
    if values.dtype == np.uint16 and not (values % 257).any():
        return (values // 257).astype(np.uint8)
    if values.dtype != np.uint8:
        raise BadFile(path, f"a colour mask of {values.dtype} samples", "save its colours with 8 bits")
    return values


def _whole(values: np.ndarray, path: Path) -> np.ndarray:
    """Bring numbers to integers; floating point must hold whole ones."""
    if values.dtype.kind != "f":
        return values
    if not np.isfinite(values).all():
        raise BadFile(path, "a mask with numbers that are infinite or not a number (NaN)", SAVE_AS_INDEX)
    if (values != np.rint(values)).any() or np.abs(values).max(initial=0) >= 2**53:
        raise BadFile(path, "a mask with numbers that are not whole", SAVE_AS_INDEX)
    return values.astype(np.int64)


def decode_mask(raw: RawMask, classes: ClassSet, path: Path) -> np.ndarray:
    """Turn stored numbers into labels.

    Args:
        raw: The mask as stored.
        classes: What its numbers or colours mean.
        path: Its file, for error messages.

    Returns:
        H x W int16, the class of each pixel, ``VOID`` where it is not scored.

    Raises:
        BadFile: Naming the numbers or colours that are no class.

    >>> raw = RawMask(np.array([[7, 0, 3]]))
    >>> decode_mask(raw, ClassSet(("road",), values=(7,), ignore_index=0, also_ignored=(3,)), Path("m.png"))
    array([[ 0, -1, -1]], dtype=int16)
    """
    if classes.instances:
        return _decode_things(raw, classes, path)
    if raw.values.ndim == 3 or classes.colour_masks:
        return _decode_colours(raw, classes, path)
    possible = (raw.values >= 0) & (raw.values <= MOST_VALUE)
    table = np.full(MOST_VALUE + 1, VOID - 1, np.int16)  # of the numbers that classes may have: its size is fixed
    table[list(classes.ignored)] = VOID
    table[list(classes.values)] = np.arange(len(classes))
    labels: np.ndarray = table[np.where(possible, raw.values, 0).astype(np.intp)]
    labels[~possible] = VOID - 1
    if raw.missing is not None:
        labels[raw.missing] = VOID
    unknown = np.unique(raw.values[labels < VOID])
    if unknown.size:
        raise _unknown(unknown.tolist(), raw, classes, path)
    return labels


def _decode_things(raw: RawMask, classes: ClassSet, path: Path) -> np.ndarray:
    """Take every number, and every colour that is not black, for a thing."""
    values = raw.values.any(2) if raw.values.ndim == 3 else raw.values
    if values.dtype.kind == "i" and (below := int(values.min(initial=0))) < 0:
        raise BadFile(path, f"number {below} among those of things", "number the background 0, things from 1")
    labels: np.ndarray = np.array([classes.values.index(0), classes.values.index(1)], np.int16)[
        (values != 0).astype(np.intp)
    ]
    labels[np.isin(values, classes.ignored) if raw.values.ndim == 2 else False] = VOID
    if raw.missing is not None:
        labels[raw.missing] = VOID
    return labels


def _unknown(numbers: list[int], raw: RawMask, classes: ClassSet, path: Path) -> BadFile:
    """Say which numbers of a mask are no class."""
    known = ", ".join(map(str, classes.values[:12])) + (", …" if len(classes) > 12 else "")
    ignored = ", ".join(map(str, classes.ignored))
    what = f"label outside the classes: {_first(numbers)}"
    if numbers == [255] and set(np.unique(raw.values).tolist()) <= {0, 255}:
        what = "a 0/255 mask read as indices"
    fix = f"known values are {known} and {ignored} (ignore): correct the mask, or classes.yaml"
    if len(numbers) <= FEW and 0 <= numbers[0] <= numbers[-1] <= MOST_VALUE:
        fix += f" (a class of this value, or 'ignore: {[*classes.ignored, *numbers]}')"
    return BadFile(path, what, fix)


def _decode_colours(raw: RawMask, classes: ClassSet, path: Path) -> np.ndarray:
    if not classes.colour_masks:
        raise BadFile(
            path,
            "a colour mask read as indices",
            "say 'masks: colour' in classes.yaml and give each class its colour, or save the mask as index PNG",
        )
    pixels = raw.values
    if pixels.ndim == 2 and raw.palette is not None:
        largest = int(pixels.max(initial=0))
        if largest >= len(raw.palette):
            what = f"a pixel has colour {largest} of a palette of {len(raw.palette)} colours"
            raise BadFile(path, what, "save it with its whole palette")
        pixels = raw.palette[pixels]
    elif pixels.ndim == 2:
        raise BadFile(path, "an index mask among colour masks", "say 'masks: index' in classes.yaml, or recolour it")
    codes = colour_codes(pixels)
    table = {_code(colour): index for index, colour in enumerate(classes.colours)}
    table |= {_code(colour): VOID for colour in classes.ignore_colours}
    found, where = np.unique(codes, return_inverse=True)
    unknown = [(code >> 16, code >> 8 & 255, code & 255) for code in found.tolist() if code not in table]
    if unknown:
        raise BadFile(
            path, f"colour outside the classes: {_first(unknown)}", "add it to classes.yaml (a class or ignore_colours)"
        )
    return np.array([table[code] for code in found.tolist()], np.int16)[where].reshape(codes.shape)


def colour_codes(pixels: np.ndarray) -> np.ndarray:
    """Return a number for each RGB colour, ... int32 of ... x 3; black is 0.

    >>> colour_codes(np.array([[1, 2, 3]])).tolist()
    [66051]
    """
    codes: np.ndarray = pixels.astype(np.int32) @ np.array([65_536, 256, 1], np.int32)
    return codes


def _code(colour: tuple[int, int, int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _first(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
