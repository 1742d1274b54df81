"""TIFF files: every common layout, by tifffile (Pillow and libtiff's RGBA door leave many out or change numbers)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from fullyconv.data.encoded import HEAD, JPEGS, LERC, PICTURES, claimed_size, lossy
from fullyconv.data.nothing import NO_DATA, all_missing, hollow, no_data
from fullyconv.data.raster import CHOOSE_PAGES, UPRIGHT, Kind, Raster, Refused, check_level
from fullyconv.limits import LIMITS, Limits

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

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
CHANNELS = {"grey": 1, "rgb": 3, "palette": 1, "cmyk": 4}
ALPHA = (1, 2)  # of the tag for extra samples: associated and not
ORIENTATION = 274
LERC_PARAMETERS = 50674  # its version, and what compresses its blobs once more
DEFLATE = "save it with LZW or deflate (gdal_translate -co COMPRESS=DEFLATE a.tif b.tif, or tiffcp -c zip a.tif b.tif)"
MOST_BYTES = 4  # a pixel that the limit of pixels stands for: RGBA, or one number of 32 bits
MOST_PAGES = 1000  # that are looked at, should all but the last be overviews

# tifffile reports oddities to its logger; without a handler Python would print them between our lines.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_tiff(path: Path) -> bool:
    """Return whether a file begins as TIFF or BigTIFF files do."""
    with path.open("rb") as file:
        return file.read(4) in MAGIC


def may_be_hollow(path: Path) -> bool:
    """Return whether a TIFF file may have pixels that hold nothing, as far as its header says."""
    from tifffile import TiffFile

    with TiffFile(path, _multifile=False) as file:
        return any(
            page.is_mask or NO_DATA in page.tags or (page.dtype is not None and page.dtype.kind == "f")
            for page in _listed(file)
        )


def read_tiff(
    path: Path, pages: int | Literal["channels"] | None = None, limits: Limits = LIMITS, *, level: int = 0
) -> Raster:
    """Read the one picture of a TIFF file; GDAL's masks beside it are passed over.

    Args:
        path: The file.
        pages: Of several pages, the one to read, from 0, or ``channels``: all, one after the other.
        limits: What the file may ask for.
        level: Which of its sizes: 0 is the full one, its overviews follow (``levels``).

    Raises:
        Refused: For files with several pages where none is chosen, of other colours or compressions, and beyond the
            limits.
        Exception: Of any kind that tifffile and its codecs raise for broken files.
    """
    from tifffile import TiffFile

    with TiffFile(path, _multifile=False) as file:
        full, planes = _planes(file, pages)
        if isinstance(pages, int) and pages >= planes:
            raise Refused(f"no page {pages} in it: {planes}, counted from 0", "choose another")
        if planes > 1 and (pages == "channels" or _imagej_planes(file)):
            if level:
                raise Refused(f"level {level} of {planes} pages together", "choose one of the pages, or leave it out")
            return _stacked(file, full, pages, limits)
        return _read_page(_at_level(file, full[pages if isinstance(pages, int) else 0], level), file, limits)


def page_at(file: TiffFile, level: int = 0, pages: int | None = None) -> TiffPage:
    """Return the page of a size, 0 the full one.

    Raises ``Refused`` if there are several pages of full size and none is chosen, and for a level that is not there.
    """
    full, _ = _planes(file, pages)
    return _at_level(file, full[pages or 0], level)


def _at_level(file: TiffFile, full: TiffPage, level: int) -> TiffPage:
    if not level:
        return full
    found = levels(file, full)
    check_level(level, [(page.imagelength, page.imagewidth) for page in found])
    return found[level]


def levels(file: TiffFile, full: TiffPage) -> list[TiffPage]:
    """Find the sizes of a picture, the full one first.

    They are the pages below it (SubIFDs, as in OME-TIFF), those beside it that call themselves reduced (GDAL's
    overviews), and the tiled ones of slide scanners' SVS; of its shape and numbers. Thumbnails and labels, whose shape
    is another, are none.

    Args:
        file: The file.
        full: Its page of full size.
    """
    below = _apart(cast("Iterator[TiffPage]", iter(full.pages or ())))
    beside = (page for page in _listed(file) if (page.is_tiled if file.is_svs else page.is_reduced))
    found = {(full.imagelength, full.imagewidth): full}
    for page in chain(below, beside):
        if _is_smaller(page, full):
            found.setdefault((page.imagelength, page.imagewidth), page)
    return [found[size] for size in sorted(found, reverse=True)]


def _is_smaller(page: TiffPage, full: TiffPage) -> bool:
    """Return whether a page shows the same in fewer pixels: its sides have one ratio, but for a pixel, to the full."""
    height, width, high, wide = full.imagelength, full.imagewidth, page.imagelength, page.imagewidth
    kinds = {
        (each.dtype, each.samplesperpixel, KINDS.get(each.photometric), each.bitspersample) for each in (page, full)
    }
    same = len(kinds) == 1 and not page.is_mask
    return same and 0 < high < height and 0 < wide < width and abs(high * width - wide * height) <= max(height, width)


def _planes(file: TiffFile, pages: int | Literal["channels"] | None) -> tuple[list[TiffPage], int]:
    """Return the pages of full size, and how many planes they hold; raises ``Refused`` where none of several is chosen.

    Pages are looked at one by one: tifffile's ``series`` would follow OME-XML into other files.
    """
    full = [page for page in _listed(file) if not (page.is_reduced or page.is_mask)]
    if not full:
        raise Refused("no picture of full size in it", "save it as PNG")
    if file.is_svs:
        full = full[:1]  # a slide scanner's: the slide, then its label and thumbnails
    planes = _imagej_planes(file) or len(full)
    if file.is_stk or full[0].is_volumetric or (planes > 1 and pages is None):
        raise Refused(f"{planes} pages in one file", CHOOSE_PAGES)
    return full, planes


def _listed(file: TiffFile) -> Iterator[TiffPage]:
    """Return the pages in their order; raises ``ValueError`` for those that go in a circle: tifffile would go on."""
    return _apart(cast("Iterator[TiffPage]", iter(file.pages)))


def _apart(pages: Iterator[TiffPage]) -> Iterator[TiffPage]:
    seen = set()
    for page in islice(pages, MOST_PAGES):
        if page.offset in seen:
            raise ValueError("its pages follow each other in a circle")
        seen.add(page.offset)
        yield page


def _imagej_planes(file: TiffFile) -> int:
    """Return how many planes stand behind one page, as ImageJ writes large stacks; 0 if they do not."""
    planes = int((file.imagej_metadata or {}).get("images", 1)) if file.is_imagej else 1
    return planes if planes > 1 and planes > sum(1 for _ in _listed(file)) else 0


def _stacked(file: TiffFile, full: list[TiffPage], pages: int | Literal["channels"] | None, limits: Limits) -> Raster:
    """Take planes of one size as channels, or one of the planes behind an ImageJ page."""
    rasters = []
    if _imagej_planes(file):
        first, series = _read_page(full[0], file, limits), file.series[0]
        if not series.axes.endswith("YX") or series.nbytes > MOST_BYTES * limits.pixels:
            raise Refused(f"a stack along {series.axes}", "save it as pages of one channel")
        planes = series.asarray(maxworkers=1).reshape(-1, *series.shape[-2:])
        chosen = planes[pages : pages + 1] if isinstance(pages, int) else planes
        found = [hollow(plane[..., None], None) for plane in chosen]
        rasters = [replace(first, values=values, missing=missing) for values, missing in found]
    else:
        total = sum(page.size * (1 if page.dtype is None else page.dtype.itemsize) for page in full)
        if total > MOST_BYTES * limits.pixels:
            raise Refused(f"{total} bytes of numbers", limits.remedy("pixels"))
        rasters = [_read_page(page, file, limits) for page in full]
    first = rasters[0]
    if pages != "channels":
        return first
    if len({(each.values.shape, each.values.dtype, each.inverted) for each in rasters}) > 1:
        raise Refused("pages of several sizes or types", "choose one page, or save them alike")
    stacked = np.concatenate([each.bands() for each in rasters], axis=2)
    missing = all_missing([each.missing for each in rasters])
    return Raster(
        stacked, "bands", first.bits, inverted=first.inverted, lossy=first.lossy, turn=first.turn, missing=missing
    )


def _read_page(page: TiffPage, file: TiffFile, limits: Limits) -> Raster:
    check_page(page, file, limits)
    raster = raster_of(page, _in_order(page.asarray(maxworkers=1), page.axes), nothing_of(file, page))
    mask = mask_page(page, file, limits)
    return raster if mask is None else outside(raster, mask.asarray(maxworkers=1))


def outside(raster: Raster, mask: np.ndarray) -> Raster:
    """Let pixels hold nothing where a mask, H x W, is 0."""
    missing = mask == 0 if raster.missing is None else (mask == 0) | raster.missing
    return replace(raster, missing=missing)


def mask_page(page: TiffPage, file: TiffFile, limits: Limits = LIMITS, *, pixels: int | None = None) -> TiffPage | None:
    """Return the page behind a picture that says which of its pixels hold something, as GDAL writes them.

    Raises:
        Refused: As ``check_page`` does.
    """
    behind = (each for each in _listed(file) if each.offset != page.offset)
    for each in behind:
        same = (each.imagelength, each.imagewidth) == (page.imagelength, page.imagewidth)
        if each.is_mask and each.is_reduced == page.is_reduced and same and each.samplesperpixel == 1:
            _check_coding(each, file, limits.pixels if pixels is None else pixels, limits)
            return each
    return None


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
    _check_coding(page, file, pixels, limits)


def _check_coding(page: TiffPage, file: TiffFile, pixels: int, limits: Limits) -> None:
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


def _in_order(values: np.ndarray, axes: str) -> np.ndarray:
    """Bring planar and contiguous pixels to H x W x C."""
    if axes not in ("YX", "YXS", "SYX"):
        raise Refused(f"pixels along {axes}", "save it as one picture")
    if axes == "YX":
        return values[..., None]
    return np.moveaxis(values, 0, 2) if axes == "SYX" else values


def nothing_of(file: TiffFile, page: TiffPage) -> float | None:
    """Return the number of pixels that hold nothing; of an overview that is silent it is that of the file's picture."""
    own = no_data(page.tags.valueof(NO_DATA))
    return no_data(file.pages.first.tags.valueof(NO_DATA)) if own is None else own


def raster_of(page: TiffPage, values: np.ndarray, nothing: float | None) -> Raster:
    """Say what the numbers of a page, or of some rows of it, stand for.

    Args:
        page: The page.
        values: H x W x C.
        nothing: The number of pixels that hold nothing, if there is one.

    Raises:
        Refused: For bands that no picture has.
    """
    kind, found = KINDS[page.photometric], values.shape[2]
    if page.photometric == 1 and found in (3, 4):
        kind = "rgb"  # three bands that are not said to be colours: R, G, B, as every viewer takes them
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    values, missing = hollow(values, nothing)
    usual = CHANNELS[kind]
    extra = found - usual
    has_alpha = extra == 1 and page.extrasamples[-1:] in [(code,) for code in ALPHA]
    if extra and not has_alpha:
        if kind not in ("grey", "rgb"):
            raise Refused(f"{found} bands of {values.dtype}", "give grey, RGB or bands that are no colours")
        kind, usual = "bands", found
    alpha = np.ascontiguousarray(values[..., usual:]) if has_alpha else None
    transparent = alpha is not None and bool((alpha != _opaque(values.dtype, page.bitspersample)).any())
    turn = page.tags.valueof(ORIENTATION, 1)
    return Raster(
        np.ascontiguousarray(values[..., :usual]),
        kind,
        bits=int(page.bitspersample),
        inverted=page.photometric == 0,
        palette=_palette(page) if kind == "palette" else None,
        transparent=transparent,
        lossy=_lossy(page),
        turn=turn if isinstance(turn, int) and turn in UPRIGHT else 1,
        alpha=alpha,
        missing=missing,
    )


def _lossy(page: TiffPage) -> str:
    """Name the compression of a page that changes numbers, by its first strip or tile."""
    if page.compression not in PICTURES:
        return ""
    start, count = next((each for each in zip(page.dataoffsets, page.databytecounts, strict=False) if each[1]), (0, 0))
    handle = page.parent.filehandle
    handle.seek(start)
    return lossy(page.compression, handle.read(min(count, HEAD)))


def _opaque(kind: np.dtype[Any], bits: int) -> float:
    return 1.0 if kind.kind == "f" else float(2 ** (bits - (kind.kind == "i")) - 1)


def _palette(page: TiffPage) -> np.ndarray:
    """Return the colour map, K x 3 uint8. It is of 16 bits, but some writers put 8 there, as libtiff knows."""
    table = page.colormap
    if table is None or table.ndim != 2 or len(table) != 3:
        raise ValueError("a palette picture without a colour map")
    deep = int(table.max(initial=0)) > 255
    return np.ascontiguousarray((table >> 8 if deep else table).T.astype(np.uint8))
