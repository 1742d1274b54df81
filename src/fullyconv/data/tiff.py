"""TIFF files: every common layout, by tifffile (Pillow and libtiff's RGBA door leave many out or change numbers)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fullyconv.data.encoded import HEAD, PICTURES, lossy
from fullyconv.data.nothing import NO_DATA, all_missing, hollow, no_data
from fullyconv.data.raster import UPRIGHT, Raster, Refused
from fullyconv.data.tiff_header import KINDS, MOST_BYTES, check_coding, check_page
from fullyconv.data.tiff_pages import at_level, full_pages, imagej_planes, listed
from fullyconv.limits import LIMITS, Limits

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CHANNELS = {"grey": 1, "rgb": 3, "palette": 1, "cmyk": 4}
ALPHA = (1, 2)  # of the tag for extra samples: associated and not
ORIENTATION = 274

# tifffile reports oddities to its logger; without a handler Python would print them between our lines.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_tiff(path: Path) -> bool:
    """Return whether a file begins as TIFF or BigTIFF files do."""
    with path.open("rb") as file:
        return file.read(4) in MAGIC


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
        full, planes = full_pages(file, pages)
        if isinstance(pages, int) and pages >= planes:
            raise Refused(f"no page {pages} in it: {planes}, counted from 0", "choose another")
        if planes > 1 and (pages == "channels" or imagej_planes(file)):
            if level:
                raise Refused(f"level {level} of {planes} pages together", "choose one of the pages, or leave it out")
            return _stacked(file, full, pages, limits)
        return _read_page(at_level(file, full[pages if isinstance(pages, int) else 0], level), file, limits)


def _stacked(file: TiffFile, full: list[TiffPage], pages: int | Literal["channels"] | None, limits: Limits) -> Raster:
    """Take planes of one size as channels, or one of the planes behind an ImageJ page."""
    rasters = []
    if imagej_planes(file):
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
    behind = (each for each in listed(file) if each.offset != page.offset)
    for each in behind:
        same = (each.imagelength, each.imagewidth) == (page.imagelength, page.imagewidth)
        if each.is_mask and each.is_reduced == page.is_reduced and same and each.samplesperpixel == 1:
            check_coding(each, file, limits.pixels if pixels is None else pixels, limits)
            return each
    return None


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
