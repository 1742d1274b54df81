"""What is refused of a TIFF file from its header: what would not fit, be read wrongly, or is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from fullyconv.data.encoded import HEAD, JPEGS, LERC, PICTURES, claimed_size
from fullyconv.data.raster import Kind, Refused
from fullyconv.limits import LIMITS, Limits

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

COMPRESSIONS = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34926, 50000, 50013, *PICTURES}
"""The codecs that a file may ask for, by their tag: none, CCITT, LZW, deflate, PackBits, LZMA, Zstandard, PixTIFF's
deflate, and pictures of other formats. Of these only such as say how large they are where that can be read before they
are decoded: not JPEG XR and JPEG XL. What the others unpack to is bounded by tifffile."""

KINDS: dict[int, Kind] = {
    0: "grey", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk", 6: "rgb", 34892: "rgb", 51177: "grey",
}  # fmt: skip
"""By the photometric tag: min-is-white, min-is-black, RGB, palette, separated, YCbCr (decoded to RGB with JPEG), raw
colours of a camera, depth."""

JPEG_BLOCK_PX = 16  # to a multiple of which a JPEG picture may be larger than the strip that it fills
LERC_PARAMETERS = 50674  # its version, and what compresses its blobs once more
DEFLATE = "save it with LZW or deflate (gdal_translate -co COMPRESS=DEFLATE a.tif b.tif, or tiffcp -c zip a.tif b.tif)"
MOST_BYTES = 4  # a pixel that the limit of pixels stands for: RGBA, or one number of 32 bits


def check_page(page: TiffPage, file: TiffFile, limits: Limits = LIMITS, *, pixels: int | None = None) -> None:
    """Refuse from the header what would not fit, be read wrongly, or is not there.

    Args:
        page: The picture.
        file: Its file.
        limits: What it may ask for.
        pixels: The most that it may have; default: the limit of what is read whole.

    Raises:
        Refused: With what to do about it.
        ValueError: For files that end too early.
    """
    pixels = limits.pixels if pixels is None else pixels
    height, width = page.imagelength, page.imagewidth
    if height < 1 or width < 1:
        raise Refused("no pixels in it", "save it anew")
    segment = page.tilewidth * page.tilelength if page.is_tiled else page.rowsperstrip * width
    if height * width > pixels or (page.is_tiled and segment > limits.pixels):
        raise Refused(f"{width} x {height} pixels", limits.remedy("pixels"))
    if page.photometric not in KINDS:
        raise Refused(f"colours of kind {_named('PHOTOMETRIC', page.photometric)}", "save it as grey or RGB")
    if page.photometric == 6 and page.compression not in JPEGS:
        raise Refused("YCbCr without JPEG", "save it as RGB")
    check_coding(page, file, pixels, limits)


def check_coding(page: TiffPage, file: TiffFile, pixels: int, limits: Limits) -> None:
    """Refuse compressions and numbers that are not read, and files that end too early."""
    if page.compression not in COMPRESSIONS:
        raise Refused(f"compression {_named('COMPRESSION', page.compression)}", DEFLATE)
    if page.compression == LERC and any(page.tags.valueof(LERC_PARAMETERS, (0, 0))[1:]):
        raise Refused("compression LERC and another over it", DEFLATE)
    _check_samples(page, file, pixels, limits)
    _check_segments(page, file)


def _named(kind: Literal["COMPRESSION", "PHOTOMETRIC"], number: int) -> str:
    """Return the name that tifffile has for a number in a tag, and the number."""
    import tifffile

    try:
        return f"{getattr(tifffile, kind)(number).name} ({number})"
    except ValueError:
        return str(number)


def _check_samples(page: TiffPage, file: TiffFile, pixels: int, limits: Limits) -> None:
    """Refuse kinds of numbers that no picture has, that are read wrongly, or that would not fit."""
    if page.dtype is None or page.dtype.kind not in "buif" or not isinstance(page.bitspersample, int):
        raise Refused(f"samples of {page.bitspersample} bits", "save it as whole numbers or floating point")
    if page.bitspersample == 24 and page.dtype.kind in "iu" and file.byteorder == ">":
        raise Refused("big-endian numbers of 24 bits, which tifffile reads wrongly", "save it with 16 or 32 bits")
    if page.size * page.dtype.itemsize > MOST_BYTES * pixels:
        raise Refused(f"{page.size * page.dtype.itemsize} bytes of numbers", limits.remedy("pixels"))


def _check_segments(page: TiffPage, file: TiffFile) -> None:
    """Refuse files that end before their last strip or tile; tifffile leaves what is missing 0."""
    expected = int(np.prod(page.chunked))
    if min(len(page.dataoffsets), len(page.databytecounts)) < expected:
        raise ValueError(f"truncated: {len(page.dataoffsets)} of {expected} strips or tiles")
    if not any(page.databytecounts):
        raise Refused("no pixels in it", "save it anew")  # single strips that GDAL leaves out are 0
    if page.compression in PICTURES:
        _check_encoded(page, file)
    ends = (start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False) if start)
    if max(ends, default=0) > file.filehandle.size:
        raise ValueError("truncated: its last strips or tiles are missing")


def _check_encoded(page: TiffPage, file: TiffFile) -> None:
    """Refuse strips and tiles that claim more numbers than their place has: decoders believe them."""
    more = JPEG_BLOCK_PX if page.compression in JPEGS else 1
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if not count:
            continue
        file.filehandle.seek(start)
        rows, columns, samples = claimed_size(page.compression, file.filehandle.read(min(count, HEAD)), count)
        if not (
            0 < rows < height + more and 0 < columns < width + more and 0 < samples <= max(4, page.samplesperpixel)
        ):
            what = (
                f"a strip or tile of {columns} x {rows} pixels, compressed as {_named('COMPRESSION', page.compression)}"
            )
            raise Refused(what, "save it anew")
