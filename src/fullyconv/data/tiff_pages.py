"""Which pages of a TIFF file are the picture, its smaller sizes, or something else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal, cast

from fullyconv.data.raster import CHOOSE_PAGES, Refused, check_level
from fullyconv.data.tiff_header import KINDS

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

MOST_PAGES = 1000  # that are looked at, should all but the last be overviews


def page_at(file: TiffFile, level: int = 0, pages: int | None = None) -> TiffPage:
    """Return the page of a size, 0 the full one.

    Raises ``Refused`` if there are several pages of full size and none is chosen, and for a level that is not there.
    """
    full, _ = full_pages(file, pages)
    return at_level(file, full[pages or 0], level)


def at_level(file: TiffFile, full: TiffPage, level: int) -> TiffPage:
    """Return the page of a size of a picture, whose page of full size is given; raises ``Refused`` if there is none."""
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
    beside = (page for page in listed(file) if (page.is_tiled if file.is_svs else page.is_reduced))
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


def full_pages(file: TiffFile, pages: int | Literal["channels"] | None) -> tuple[list[TiffPage], int]:
    """Return the pages of full size, and how many planes they hold; raises ``Refused`` where none of several is chosen.

    Pages are looked at one by one: tifffile's ``series`` would follow OME-XML into other files.
    """
    full = [page for page in listed(file) if not (page.is_reduced or page.is_mask)]
    if not full:
        raise Refused("no picture of full size in it", "save it as PNG")
    if file.is_svs:
        full = full[:1]  # a slide scanner's: the slide, then its label and thumbnails
    planes = imagej_planes(file) or len(full)
    if file.is_stk or full[0].is_volumetric or (planes > 1 and pages is None):
        raise Refused(f"{planes} pages in one file", CHOOSE_PAGES)
    return full, planes


def listed(file: TiffFile) -> Iterator[TiffPage]:
    """Return the pages in their order; raises ``ValueError`` for those that go in a circle: tifffile would go on."""
    return _apart(cast("Iterator[TiffPage]", iter(file.pages)))


def _apart(pages: Iterator[TiffPage]) -> Iterator[TiffPage]:
    seen = set()
    for page in islice(pages, MOST_PAGES):
        if page.offset in seen:
            raise ValueError("its pages follow each other in a circle")
        seen.add(page.offset)
        yield page


def imagej_planes(file: TiffFile) -> int:
    """Return how many planes stand behind one page, as ImageJ writes large stacks; 0 if they do not."""
    planes = int((file.imagej_metadata or {}).get("images", 1)) if file.is_imagej else 1
    return planes if planes > 1 and planes > sum(1 for _ in listed(file)) else 0
