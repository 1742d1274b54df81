"""Pictures from files: any common format and layout in, upright RGB out."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from fullyconv.data.dicom import is_dicom, read_dicom
from fullyconv.data.png import holds_all_rows
from fullyconv.data.raster import (
    BAND_PX,
    UPRIGHT,
    Kind,
    Raster,
    Refused,
    check_level,
    checked_palette,
    colours,
    levels_of,
)
from fullyconv.data.stores import read_store
from fullyconv.data.tiff import MAGIC, is_tiff, read_tiff
from fullyconv.data.unread import HEAD, tell_kind
from fullyconv.files import BadFile, FileWarning, calls_itself_store, is_store
from fullyconv.limits import LIMITS, Limits
from fullyconv.types import Levels

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2", ".avif", ".dcm")
READERS: tuple[tuple[bytes, Callable[..., Image.Image]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", JpegImagePlugin.jpeg_factory),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"GIF8", GifImagePlugin.GifImageFile),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Jpeg2KImagePlugin.Jpeg2KImageFile),
    (b"\xff\x4f\xff\x51", Jpeg2KImagePlugin.Jpeg2KImageFile),
    *((bytes((0, 0, 0, size)) + b"ftypavif", AvifImagePlugin.AvifImageFile) for size in range(0x14, 0x40, 4)),
)
"""What Pillow may open, by how a file begins. ``Image.open`` would try dozens of formats, and run Ghostscript for
one; called directly, the readers also leave Pillow's limit of pixels, which belongs to the whole process, alone."""

KINDS_OF_FILES = (".png", ".jpg", ".bmp", ".webp", ".gif", ".jp2", ".jp2", *(".avif" for _ in READERS[7:]))
ORIENTATION = 0x0112  # the EXIF tag
PNG_MAGIC = READERS[0][0]
DEEP = 16  # bits of a PNG sample
KINDS: dict[str, tuple[Kind, int]] = {  # of Pillow's modes: what the channels are, and the bits of a sample
    "1": ("grey", 1), "L": ("grey", 8), "LA": ("grey", 8), "P": ("palette", 8), "RGB": ("rgb", 8),
    "RGBA": ("rgb", 8), "CMYK": ("cmyk", 8), "I;16": ("grey", 16), "I;16B": ("grey", 16), "I": ("grey", 32),
    "F": ("grey", 32),
}  # fmt: skip
CHANNELS = {"grey": 1, "rgb": 3, "palette": 1, "cmyk": 4}


def read_raster(
    path: Path, pages: int | Literal["channels"] | None = None, limits: Limits = LIMITS, *, level: int = 0
) -> Raster:
    """Read the stored numbers of a picture, upright.

    What a file is, is told by its content. TIFF files are read by tifffile, PNG files of several 16-bit channels
    by libpng (Pillow keeps their upper 8 bits), JPEG 2000 by OpenJPEG, DICOM by pydicom, folders that are Zarr stores
    by zarr, all else by Pillow.

    Args:
        path: The file.
        pages: Of TIFF files with several pages (of DICOM: frames), the one to read, from 0, or ``channels``: all, one
            after the other.
        limits: What the file may ask for.
        level: Of a picture in several sizes (TIFF, Zarr), which one: 0 is the full one.

    Raises:
        BadFile: For a file that is missing, broken, of another kind, beyond the limits, or of several pictures.
    """
    try:
        if is_store(path):
            return read_store(path, limits, level)
        if calls_itself_store(path):
            what = "no Zarr store: neither zarr.json nor .zarray or .zgroup is in it"
            raise BadFile(path, what, "copy it again, or leave it out")
        if not S_ISREG(path.stat().st_mode):
            raise BadFile(path, "is no regular file", "leave it out")  # a pipe would be waited for
        raster = _read(path, pages, limits, level)
        return raster if raster.turn == 1 else raster.upright()
    except BadFile:
        raise
    except FileNotFoundError:
        raise BadFile(path, "no such file", "check the path") from None
    except MemoryError:
        raise BadFile(path, "more pixels than this machine has memory for", "split it") from None
    except Exception as error:  # decoders raise many kinds for broken files
        raise unreadable(path, error) from None


def _read(path: Path, pages: int | Literal["channels"] | None, limits: Limits, level: int) -> Raster:
    tiff = is_tiff(path)
    if level and not tiff:
        check_level(level, [_read(path, pages, limits, 0).values.shape[:2]])
    if is_dicom(path) and (not tiff or path.suffix.lower() == ".dcm"):  # a file may be both
        return read_dicom(path, pages, limits)
    return read_tiff(path, pages, limits, level=level) if tiff else _read_common(path, limits)


def suffix_of(content: bytes) -> str:
    """Return the suffix of what a picture's file holds, empty for what is none that is read.

    >>> suffix_of(b"BM..."), suffix_of(b"text")
    ('.bmp', '')
    """
    if content[:4] in MAGIC:
        return ".tif"
    return next(
        (suffix for (magic, _), suffix in zip(READERS, KINDS_OF_FILES, strict=True) if content.startswith(magic)), ""
    )


def unreadable(path: Path, error: Exception) -> BadFile:
    """Say what is wrong with a file and what to do: whole files of a kind that is not read are not broken ones."""
    if isinstance(error, Refused):
        return BadFile(path, error.what, error.fix)
    said = " ".join(str(error).split())[:300]
    if any(word in said.lower() for word in ("truncated", "end of file", "eof", "failed to read", "too small")):
        return BadFile(path, f"truncated ({said})", "copy or download it again, or leave it out")
    return BadFile(path, f"unreadable ({said or type(error).__name__})", "save it anew as PNG, or leave it out")


def _read_common(path: Path, limits: Limits) -> Raster:
    """Read a file of one of the formats that ``READERS`` know."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    reader = next((reader for magic, reader in READERS if head.startswith(magic)), None)
    if reader is None:
        if (told := tell_kind(path, head)) is not None:
            raise Refused(*told)
        raise ValueError("not PNG, JPEG, TIFF, WebP, BMP, GIF, JPEG 2000, AVIF or DICOM")
    with reader(str(path)) as picture:
        if picture.width * picture.height > limits.pixels:
            raise Refused(f"{picture.width} x {picture.height} pixels", limits.remedy("pixels"))
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and picture.format != "MPO":  # MPO: a photo and its previews
            raise Refused(f"{frames} frames in one file", "save each as a picture of its own")
        turn = orientation(picture)
        depth, channels = struct.unpack("BB", head[24:26]) if head.startswith(PNG_MAGIC) else (0, 0)
        if depth == DEEP and channels:
            return _deep_png(path, turn)
        if picture.format == "JPEG2000":
            return _jpeg2000(path)
        raster = from_pillow(picture, turn=turn, lossy=_lossy(picture, head))
    return _gif(raster) if picture.format == "GIF" else _checked_png(path, raster, depth) if depth else raster


def _checked_png(path: Path, raster: Raster, depth: int) -> Raster:
    """Refuse a PNG with fewer rows than it claims, of which Pillow leaves the rest 0; undo what it does to few bits.

    Only one that ends in such rows (interlaced ones lack every second) is unpacked again to find out.
    """
    if not raster.values[-2:].any(axis=(1, 2)).all() and not holds_all_rows(path):
        raise ValueError("truncated: fewer rows than its header says")
    return _small_greys(raster, depth) if depth in (2, 4) and raster.kind == "grey" else raster


def _small_greys(raster: Raster, depth: int) -> Raster:
    """Undo that Pillow spreads grey PNGs of 2 and 4 bits over 0..255."""
    largest = 2**depth - 1
    return Raster(raster.values // (255 // largest), "grey", depth, turn=raster.turn)


def _deep_png(path: Path, turn: int) -> Raster:
    import imagecodecs

    values = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    kind: Kind = "rgb" if values.shape[2] >= 3 else "grey"
    usual = CHANNELS[kind]
    transparent = bool((values[..., usual:] != 2**DEEP - 1).any())
    return Raster(np.ascontiguousarray(values[..., :usual]), kind, DEEP, transparent=transparent, turn=turn)


def _jpeg2000(path: Path) -> Raster:
    """Read JPEG 2000 with its own numbers; Pillow spreads those of 9 to 15 bits over 16 and keeps 8 of colours."""
    import imagecodecs

    values = _channels(np.asarray(imagecodecs.jpeg2k_decode(path.read_bytes())))
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2 or values.shape[2] not in (1, 2, 3, 4):
        raise Refused(f"{values.shape[2]} bands of {values.dtype}", "save it as TIFF")
    kind: Kind = "rgb" if values.shape[2] >= 3 else "grey"
    usual, bits = CHANNELS[kind], 8 * values.dtype.itemsize
    transparent = bool((values[..., usual:] != np.iinfo(values.dtype).max).any())
    return Raster(np.ascontiguousarray(values[..., :usual]), kind, bits, transparent=transparent, lossy="JPEG 2000")


def _gif(raster: Raster) -> Raster:
    """Take the colours of a GIF for its numbers, grey levels where all are grey.

    Programs drop the colours that a picture does not use, so indices mean another colour in each file.
    """
    if raster.kind != "palette":
        return raster
    palette, used = checked_palette(raster), np.unique(raster.values)
    shown = palette[used]
    if len(np.unique(shown, axis=0)) < len(used):  # two indices of one colour are not told apart by it
        return raster
    if (shown == shown[:, :1]).all():
        return replace(raster, values=palette[:, :1][raster.values[..., 0]], kind="grey", palette=None)
    return replace(raster, values=palette[raster.values[..., 0]], kind="rgb", palette=None)


def _lossy(picture: Image.Image, head: bytes) -> str:
    """Name the compression of a picture if it changes numbers."""
    if picture.format in ("JPEG", "MPO"):
        return "JPEG"
    if picture.format in ("JPEG2000", "AVIF"):  # both may keep numbers, but do so by request alone
        return "JPEG 2000" if picture.format == "JPEG2000" else "AVIF"
    return "WebP" if picture.format == "WEBP" and b"VP8 " in head else ""


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 if there is none or if it is none of these.

    The tag may be of any type, and broken; like Pillow's own ``exif_transpose``, we pass over what is no number.

    Raises:
        OSError: For a PNG whose pixels are broken: EXIF data may stand behind them, so Pillow decodes them first.
    """
    if picture.format == "PNG" and "exif" not in picture.info:
        picture.load()  # here, since a second attempt after one that failed ends without an error
    try:
        found = picture.getexif().get(ORIENTATION, 1)
        return next((turn for turn in UPRIGHT if found == turn), 1)
    except Exception:  # a block of EXIF data may be broken in any way, and the picture whole
        return 1


def from_pillow(picture: Image.Image, *, turn: int = 1, lossy: str = "") -> Raster:
    """Take the numbers of a Pillow image, as they are stored; still to be turned by ``turn``."""
    if picture.mode not in KINDS:  # premultiplied alpha, YCbCr, HSV, …: only from callers, never from files
        picture = picture.convert("RGBA" if "a" in picture.mode or picture.mode == "PA" else "RGB")
    kind, bits = KINDS[picture.mode]
    values = _pixels(picture)
    usual = CHANNELS[kind]
    transparent = "transparency" in picture.info or bool((values[..., usual:] != 255).any())
    palette = None
    if kind == "palette":
        palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if values.shape[2] > usual:
        values = np.ascontiguousarray(values[..., :usual])
    return Raster(values, kind, bits, palette=palette, transparent=transparent, lossy=lossy, turn=turn)


def _pixels(picture: Image.Image) -> np.ndarray:
    """Copy a Pillow image to H x W x C, in bands where it is large: Pillow makes bytes of all of it first."""
    picture.load()
    if picture.width * picture.height <= BAND_PX:
        return _channels(np.asarray(picture))
    rows = max(1, BAND_PX // picture.width)
    bands = [(top, min(top + rows, picture.height)) for top in range(0, picture.height, rows)]
    whole: np.ndarray[Any, Any] | None = None
    for top, bottom in bands:
        band = _channels(np.asarray(picture.crop((0, top, picture.width, bottom))))
        if whole is None:
            whole = np.empty((picture.height, *band.shape[1:]), band.dtype)
        whole[top:bottom] = band
    assert whole is not None
    return whole


def _channels(values: np.ndarray) -> np.ndarray:
    shown = values[..., None] if values.ndim == 2 else values
    # Pillow's bilevel pixels are bytes of 0 and 255 that call themselves truth values.
    return np.minimum(shown.view(np.uint8), 1) if shown.dtype == np.bool_ else shown


def to_rgb(picture: Image.Image) -> np.ndarray:
    """Bring a Pillow image of any mode to upright RGB, H x W x 3 uint8.

    Numbers of more than 8 bits are scaled by the rule of ``fullyconv.data.raster.white_level``.

    Raises:
        ValueError: For numbers that are no colours (negative, NaN, …).

    >>> to_rgb(Image.fromarray(np.array([[0, 4095]], np.uint16)))[0, :, 0].tolist()
    [0, 255]
    """
    raster = from_pillow(picture, turn=orientation(picture))
    return colours(raster.upright() if raster.turn != 1 else raster)


def picture_levels(raster: Raster, path: Path, levels: Levels | None, channels: int) -> np.ndarray:
    """Compute the levels of a picture that was read (``levels_of``), H x W x ``channels`` uint8; raises ``BadFile``."""
    try:
        return levels_of(raster, levels, channels)
    except ValueError as error:
        fix = "take a model of as many bands" if levels is not None else "rescale it to 8 or 16 bit"
        raise BadFile(path, str(error), fix) from None


def rgb(raster: Raster, path: Path) -> np.ndarray:
    """Compute the colours of a picture that was read, H x W x 3 uint8; raises ``BadFile``."""
    try:
        return colours(raster)
    except ValueError as error:
        fix = "take a model that was trained on such pictures, or save three bands as RGB"
        raise BadFile(path, str(error), fix if raster.kind == "bands" else "rescale it to 8 or 16 bit") from None


def read_image(path: Path | str, limits: Limits = LIMITS, *, level: int = 0) -> np.ndarray:
    """Read a picture upright, H x W x 3 uint8 RGB.

    Grey levels and RGB of any type are scaled to 0..255 by the rule of ``fullyconv.data.raster.white_level``.
    Transparency is not applied: colours are those stored, and what holds nothing is black; a warning says so.

    Args:
        path: The file.
        limits: What it may ask for.
        level: Of a picture in several sizes, which one: 0 is the full one.

    Raises:
        BadFile: For a file that cannot be used, with what to do about it.
    """
    path = Path(path)
    raster = read_raster(path, limits=limits, level=level)
    warn_of(raster, path)
    return rgb(raster, path)


def warn_of(raster: Raster, path: Path | str, empty: str = "") -> None:
    """Warn of what a picture's pixels are taken for that are more or less than colours.

    Args:
        raster: The picture.
        path: Its name.
        empty: What becomes of pixels that hold nothing; default: their colours, for whoever reads nothing else.
    """
    empty = empty or ("are taken as black" if raster.deep else "are taken in their stored colours")
    if raster.transparent:
        warnings.warn(FileWarning(path, TRANSPARENT), stacklevel=3)
    if raster.missing is not None and raster.missing.any():
        warnings.warn(FileWarning(path, f"pixels that hold nothing ('no data', NaN) {empty}"), stacklevel=3)


TRANSPARENT = "transparent pixels are taken in their stored colours"
VOIDED = "are void: of no class"
