"""Every layout of TIFF gives the numbers that were written, as masks, and their colours, as pictures."""

from __future__ import annotations

import io
import struct
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fullyconv.data.images import read_image, read_raster
from fullyconv.data.masks import read_raw_mask
from fullyconv.files import BadFile

INTEGERS = [f"{sign}int{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "float32", "float64"]
EXAMPLES = 60  # 400 of each took 70 s and found nothing more


@dataclass(frozen=True)
class Layout:
    """A file: its numbers, H x W or H x W x 3, and how tifffile is to write them."""

    values: np.ndarray
    options: dict
    bits: int
    overview: bool = False

    def write(self, path: Path) -> None:
        stored, options = self.values, dict(self.options)
        big, order = options.pop("bigtiff"), options.pop("byteorder")
        if options.get("planarconfig") == "separate":
            stored = np.moveaxis(stored, 2, 0)
        with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as file:
            file.write(stored, **options)
            if self.overview:
                file.write(self.values[::2, ::2], subfiletype=1, photometric=options["photometric"])


@st.composite
def layouts(draw: st.DrawFn, *, numbers: str = "any") -> Layout:
    kind = draw(st.sampled_from(["bool", "packed", *INTEGERS, *([] if numbers == "whole" else FLOATS)]))
    bits = draw(st.integers(1, 31).filter(lambda n: n not in (8, 16))) if kind == "packed" else 0
    dtype = np.dtype(kind if not bits else "uint8" if bits < 8 else "uint16" if bits < 16 else "uint32")
    colour = kind != "bool" and draw(st.booleans())
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 40)), *((3,) if colour else ()))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype.kind == "f":
        values = rng.random(shape).astype(dtype)
    elif kind == "bool":
        values = rng.random(shape) < 0.5
    else:
        low, high = (0, 2**bits) if bits else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max) + 1)
        values = rng.integers(low, high, shape, dtype=dtype, endpoint=False)
    usual = "rgb" if colour else draw(st.sampled_from(["minisblack", "miniswhite"]))
    compression = draw(st.sampled_from([None, "lzw", "zlib", "packbits", "lzma", "zstd"]))
    plain = kind not in ("bool", "packed")
    options = {
        "photometric": usual,
        "compression": compression,
        "bigtiff": draw(st.booleans()),
        "byteorder": draw(st.sampled_from("<>")),
        "metadata": None,
    }
    if colour:
        options["planarconfig"] = draw(st.sampled_from(["contig", "separate"]))
    if bits:
        # All that tifffile writes of them, and rightly (GDAL reads its big-endian ones as we do); GDAL's are below.
        options |= {"bitspersample": bits, "compression": None, "byteorder": "<"}
    if plain and compression not in (None, "packbits") and dtype.itemsize < 8:
        options["predictor"] = draw(st.booleans())
    if draw(st.booleans()):
        options["tile"] = (16, 32)
    else:
        options["rowsperstrip"] = draw(st.integers(1, 40))
    overview = plain and draw(st.booleans())
    return Layout(values, options, bits or (1 if kind == "bool" else 8 * dtype.itemsize), overview)


@pytest.fixture(scope="module")
def path() -> Path:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "x.tif"


@settings(max_examples=EXAMPLES)
@given(layout=layouts())
def test_stored_numbers_are_those_that_were_written(path: Path, layout: Layout) -> None:
    layout.write(path)
    raster = read_raster(path)
    expected = layout.values if layout.values.ndim == 3 else layout.values[..., None]
    np.testing.assert_array_equal(raster.values, expected)
    assert raster.bits == layout.bits
    assert raster.inverted == (layout.options["photometric"] == "miniswhite")


@settings(max_examples=EXAMPLES)
@given(layout=layouts(numbers="whole").filter(lambda layout: layout.values.ndim == 2))
def test_masks_are_the_numbers_that_were_written_and_that_gdal_reads(path: Path, layout: Layout) -> None:
    layout.write(path)
    mask = read_raw_mask(path)
    np.testing.assert_array_equal(mask.values, layout.values)
    if layout.bits in (1, 8, 16, 32, 64):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no georeference
            with rasterio.open(path) as other:
                np.testing.assert_array_equal(other.read(1), mask.values)


def white_of(values: np.ndarray, bits: int) -> float:
    """The documented rule, from its table."""
    largest = values.max()
    if values.dtype.kind == "f":
        return 1.0 if largest <= 1 else next(2.0**n - 1 for n in range(8, 70, 2) if largest <= 2.0**n - 1)
    if bits <= 8:
        return 2.0**bits - 1
    whites = [white for white in (2**n - 1 for n in range(8, 70, 2)) if white >= int(largest)]
    return float(min(whites[0], 2**bits - 1))


@settings(max_examples=EXAMPLES)
@given(layout=layouts(), darker=st.integers(0, 12))
def test_pictures_are_scaled_by_the_written_rule(path: Path, layout: Layout, darker: int) -> None:
    values = layout.values
    if values.dtype.kind in "iu":
        values = np.abs(values // 2 ** min(darker, max(0, layout.bits - 8))) & np.iinfo(values.dtype).max
    Layout(values, layout.options, layout.bits, layout.overview).write(path)
    if layout.bits > 8 and values.dtype.kind != "f" and 0 < values.max() < 16:
        with pytest.raises(BadFile, match="it would be black"):
            read_image(path)
        return
    if values.dtype == np.int8 and 0 < values.max() < 16:
        return
    white = 255.0 if values.dtype == np.int8 else white_of(values, layout.bits)
    levels = np.minimum(values.astype(np.float64) * (255 / white), 255)
    if layout.options["photometric"] == "miniswhite":
        levels = 255 - levels
    expected = np.rint(levels).astype(np.uint8)
    expected = np.repeat(expected[..., None], 3, axis=2) if expected.ndim == 2 else expected
    np.testing.assert_array_equal(read_image(path), expected)


@given(
    bits=st.sampled_from([8, 16]),
    deep=st.booleans(),
    seed=st.integers(0, 2**32),
    compression=st.sampled_from([None, "lzw", "zlib"]),
)
def test_palettes_are_indices_as_masks_and_colours_as_pictures(
    path: Path, bits: int, deep: bool, seed: int, compression: str | None
) -> None:
    rng = np.random.default_rng(seed)
    dtype = np.uint16 if bits == 16 else np.uint8
    values = rng.integers(0, 2**bits, (9, 13)).astype(dtype)
    table = rng.integers(0, 256, (3, 2**bits)).astype(np.uint16)
    table[0, 0] = 255
    tifffile.imwrite(
        path,
        values,
        photometric="palette",
        colormap=table * 257 if deep else table,
        compression=compression,
        metadata=None,
    )
    np.testing.assert_array_equal(read_raw_mask(path).values, values)
    np.testing.assert_array_equal(read_raw_mask(path).palette, table.T)
    np.testing.assert_array_equal(read_image(path), table.T[values])


@settings(max_examples=EXAMPLES)
@given(
    data=st.data(), bits=st.integers(1, 32), compress=st.sampled_from(["NONE", "LZW", "DEFLATE", "PACKBITS", "ZSTD"])
)
def test_gdals_layouts_of_few_bits(path: Path, data: st.DataObject, bits: int, compress: str) -> None:
    dtype = np.dtype("uint8" if bits <= 8 else "uint16" if bits <= 16 else "uint32")
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    bands = data.draw(st.sampled_from([1, 1, 3]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = rng.integers(0, 2**bits, (bands, height, width)).astype(dtype)
    options = {"interleave": data.draw(st.sampled_from(["pixel", "band"])), "compress": compress, "nbits": bits}
    options["bigtiff"] = data.draw(st.sampled_from(["YES", "NO"]))
    options["endianness"] = data.draw(st.sampled_from(["LITTLE", "BIG"]))
    if data.draw(st.booleans()):
        options |= {"tiled": True, "blockxsize": 16, "blockysize": 32}
    if bands == 1 and bits <= 8 and data.draw(st.booleans()):
        options["photometric"] = "MINISWHITE"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = {"height": height, "width": width, "count": bands, "dtype": dtype.name}
        with rasterio.open(path, "w", driver="GTiff", **size, **options) as file:
            file.write(values)
            mask = data.draw(st.booleans())
            if mask:
                with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                    file.write_mask(rng.random((height, width)) < 0.5)
        if data.draw(st.booleans()):
            with rasterio.open(path, "r+") as file:
                file.build_overviews([2], rasterio.enums.Resampling.nearest)
        with rasterio.open(path) as file:
            values = file.read()  # what GDAL reads: pictures of a few 1-bit pixels it writes wrongly itself
    path.with_name(path.name + ".msk").unlink(missing_ok=True)
    path.with_name(path.name + ".ovr").unlink(missing_ok=True)
    if bits == 24 and options["endianness"] == "BIG":
        with pytest.raises(BadFile, match="big-endian numbers of 24 bits"):
            read_raster(path)
        return
    raster = read_raster(path)
    np.testing.assert_array_equal(raster.values, values.transpose(1, 2, 0))
    assert raster.bits == bits


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_few_bits(path: Path, bits: int) -> None:
    rng = np.random.default_rng(bits)
    values = rng.integers(0, 2**bits, (9, 13)).astype(np.uint8)
    table = rng.integers(0, 256, (2**bits, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = {"height": 9, "width": 13, "count": 1, "dtype": "uint8"}
        with rasterio.open(path, "w", driver="GTiff", photometric="PALETTE", nbits=bits, **size) as file:
            file.write(values, 1)
            file.write_colormap(1, {index: tuple(colour) for index, colour in enumerate(table.tolist())})
    np.testing.assert_array_equal(read_raw_mask(path).values, values)
    np.testing.assert_array_equal(read_image(path), table[values])


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientations_are_undone_as_pillow_does(path: Path, turn: int) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    tifffile.imwrite(path, values, extratags=[(274, 3, 1, turn, True)], metadata=None)
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(values).save(path.with_suffix(".png"), exif=exif)
    with Image.open(path.with_suffix(".png")) as picture:  # Pillow reads such TIFFs with rows of another length
        expected = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(read_raw_mask(path).values, expected)


@pytest.mark.parametrize("codec", ["group3", "group4", "tiff_ccitt", "packbits", "raw", "tiff_lzw"])
def test_bilevel_pictures_of_libtiff(path: Path, codec: str) -> None:
    values = np.random.default_rng(0).random((21, 37)) < 0.5
    Image.fromarray(values).save(path, compression=None if codec == "raw" else codec)
    np.testing.assert_array_equal(read_image(path)[..., 0], values * 255)
    inverted = read_raster(path).inverted
    np.testing.assert_array_equal(read_raw_mask(path).values, values ^ inverted)


def test_jpeg_and_cmyk(path: Path) -> None:
    y, x = np.mgrid[:32, :48]
    smooth = np.stack([x * 4, y * 6, (x + y) * 2], axis=2).astype(np.uint8)
    Image.fromarray(smooth).save(path, compression="jpeg", quality=98)
    assert np.abs(read_image(path).astype(int) - smooth).max() <= 12
    with pytest.raises(BadFile, match="saved as JPEG"):
        read_raw_mask(path)
    cmyk = Image.fromarray(smooth).convert("CMYK")
    cmyk.save(path)
    np.testing.assert_array_equal(read_image(path), np.asarray(cmyk.convert("RGB")))


@pytest.mark.parametrize(
    ("values", "options", "what"),
    [
        (np.zeros((5, 9, 11), np.uint8), {"photometric": "minisblack"}, "5 pages in one file"),
        (np.zeros((3, 9, 11), np.uint8), {"photometric": "minisblack"}, "3 pages in one file"),
        (np.zeros((9, 11, 4), np.uint16), {"photometric": "rgb", "extrasamples": [0]}, "4 bands of uint16"),
        (np.zeros((9, 11, 5), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "5 bands of uint8"),
        (np.zeros((9, 11, 2), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "2 bands of uint8"),
        (np.zeros((9, 11), np.complex64), {}, "samples of"),
        (
            np.zeros((2, 16, 16), np.uint8),
            {"volumetric": True, "tile": (2, 16, 16), "photometric": "minisblack"},
            "pages",
        ),
        (np.zeros((9, 11, 3), np.uint8), {"photometric": "cielab"}, "colours of kind CIELAB"),
        (np.zeros((4, 9, 11), np.uint8), {"imagej": True}, "4 pages in one file"),
    ],
)
def test_what_is_no_one_picture_is_refused_in_one_sentence(
    path: Path, values: np.ndarray, options: dict, what: str
) -> None:
    tifffile.imwrite(path, values, **options)
    for read in (read_image, read_raw_mask):
        with pytest.raises(BadFile, match=what) as caught:
            read(path)
        assert "restore" not in caught.value.fix


def test_three_untagged_bands_are_red_green_blue(path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (3, 9, 11)).astype(np.uint16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", height=9, width=11, count=3, dtype="uint16") as file:
            file.write(values)
    np.testing.assert_array_equal(read_image(path), np.rint(values.transpose(1, 2, 0) / 257).astype(np.uint8))


def test_alpha_is_told_where_it_says_something(path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (9, 11, 4)).astype(np.uint8)
    for alpha, transparent in ((255, False), (254, True)):
        values[..., 3] = alpha
        tifffile.imwrite(path, values, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
        raster = read_raster(path)
        assert raster.transparent == transparent
        np.testing.assert_array_equal(raster.values, values[..., :3])


def test_files_that_end_early_are_truncated(path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    for compression in (None, "lzw", "zlib"):
        tifffile.imwrite(path, values, compression=compression, rowsperstrip=8, metadata=None)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(BadFile, match="truncated") as caught:
            read_raster(path)
        assert "restore" not in caught.value.fix


def test_sizes_are_refused_from_the_header(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), metadata=None)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        places = [tags[number].valueoffset for number in (256, 257)]
    forged = bytearray(whole)
    for place in places:
        forged[place : place + 2] = b"\xff\xff"
    path.write_bytes(forged)
    with pytest.raises(BadFile, match="65535 x 65535 pixels: raise FULLYCONV_MAX_PIXELS"):
        read_raster(path)


def test_a_picture_of_strips_that_are_not_there_is_refused(path: Path) -> None:
    """GDAL leaves out tiles of zeros, but a file of 300 bytes that claims 119 million pixels holds none."""
    tifffile.imwrite(path, np.ones((16, 16), np.uint8), metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        for number in (273, 279):  # offsets and lengths
            file.pages[0].tags[number].overwrite(0)
    with pytest.raises(BadFile, match="no pixels in it"):
        read_raster(path)


def test_a_jpeg_strip_that_claims_more_than_its_place_is_refused_before_it_is_decoded(path: Path) -> None:
    """600 bytes that took 3.5 GB and 40 seconds."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(stream, "JPEG")
    bomb = bytearray(stream.getvalue())
    at = bomb.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), compression="jpeg", metadata=None)
    assert read_image(path).shape == (16, 16, 3)
    end = path.stat().st_size
    path.write_bytes(path.read_bytes() + bomb)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[273].overwrite(end)
        file.pages[0].tags[279].overwrite(len(bomb))
    with pytest.raises(BadFile, match="a strip or tile of 60000 x 60000 pixels, compressed as JPEG"):
        read_image(path)


def compressible() -> list[tuple[int, str]]:
    """What tifffile writes in each compression it knows: whole numbers of 8 and 16 bits, floats, colours."""
    found = []
    for compression in tifffile.COMPRESSION:
        for kind in ("uint8", "uint16", "float32", "colours"):
            try:
                tifffile.imwrite(io.BytesIO(), numbers_of(kind), photometric=photometric(kind), compression=compression)
            except Exception:  # whatever an encoder raises for numbers that it does not take
                continue
            found.append((int(compression), kind))
    return found


def numbers_of(kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    if kind == "float32":
        return rng.random((40, 50)).astype(kind)
    shape = (40, 50, 3) if kind == "colours" else (40, 50)
    return rng.integers(0, 250, shape).astype("uint8" if kind == "colours" else kind)


def photometric(kind: str) -> str:
    return "rgb" if kind == "colours" else "minisblack"


UNBOUNDED = {22610: "JPEGXR_NDPI", 34934: "JPEGXR", 50002: "JPEGXL", 52546: "JPEGXL_DNG", 33003: "APERIO_JP2000_YCBC"}


@pytest.mark.parametrize(("compression", "kind"), compressible())
@pytest.mark.parametrize("tile", [None, (16, 32)])
def test_every_compression_gives_tifffiles_numbers_or_is_named(
    path: Path, compression: int, kind: str, tile: tuple[int, int] | None
) -> None:
    options = {"photometric": photometric(kind), "compression": compression, "tile": tile, "rowsperstrip": 7}
    tifffile.imwrite(path, numbers_of(kind), **options)
    if compression in UNBOUNDED:
        with pytest.raises(BadFile, match=rf"{UNBOUNDED[compression]} \({compression}\).*save it with LZW or deflate"):
            read_raster(path)
        return
    expected = tifffile.imread(path)
    raster = read_raster(path)
    np.testing.assert_array_equal(raster.values.squeeze(), expected)
    changed = not np.array_equal(expected, numbers_of(kind))
    assert raster.lossy or not changed
    if compression not in (33004, 33005, 34712):  # JPEG 2000 may be either
        assert bool(raster.lossy) == changed


def test_pages_in_a_circle_are_refused_at_once(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((3, 8, 8), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        first, second, last = (page.offset for page in file.pages)
        count = len(file.pages[2].tags)
    for target in (first, second, last):
        content = bytearray(path.read_bytes())
        struct.pack_into("<I", content, last + 2 + 12 * count, target)
        path.write_bytes(content)
        began = time.monotonic()
        with pytest.raises(BadFile, match="in a circle"):
            read_raster(path)
        assert time.monotonic() - began < 2


def with_tag(path: Path, code: int, value: int) -> None:
    """Write another value into a tag of one number."""
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages.first.tags[code].overwrite(value)


def test_compressions_and_colours_that_nobody_reads_are_named(path: Path) -> None:
    known = {compression for compression, _ in compressible()} | {2, 3, 4, 7, 33007, 34892}
    for compression in {int(each) for each in tifffile.COMPRESSION} - known | {12345}:
        tifffile.imwrite(path, numbers_of("uint8"), compression="zlib")
        with_tag(path, 259, compression)
        name = tifffile.COMPRESSION(compression).name if compression != 12345 else "12345"
        with pytest.raises(BadFile, match=rf"compression {name}.*save it with LZW or deflate \(gdal_translate"):
            read_raster(path)
    for colours in (8, 9, 10, 32803, 32844, 32845, 52527):
        tifffile.imwrite(path, numbers_of("colours"), photometric="rgb")
        with_tag(path, 262, colours)
        with pytest.raises(BadFile, match=rf"colours of kind {tifffile.PHOTOMETRIC(colours).name} \({colours}\)"):
            read_raster(path)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "webp", "png", "lerc"])
def test_tiles_that_claim_more_than_their_place_are_refused(path: Path, compression: str) -> None:
    """The decoder would believe them: a file of some kilobytes could ask for gigabytes."""
    large, small = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(
        large, np.zeros((512, 512, 3), np.uint8), photometric="rgb", compression=compression, tile=(512, 512)
    )
    tifffile.imwrite(
        small, np.zeros((512, 512, 3), np.uint8), photometric="rgb", compression=compression, tile=(256, 256)
    )
    large.seek(0)
    with tifffile.TiffFile(large) as file:
        segment = file.pages.first
        content = large.getvalue()[segment.dataoffsets[0] :][: segment.databytecounts[0]]
    with path.open("wb") as file:
        file.write(small.getvalue() + content)
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages.first.tags
        tags[324].overwrite([len(small.getvalue()), *tags[324].value[1:]])
        tags[325].overwrite([len(content), *tags[325].value[1:]])
    with pytest.raises(BadFile, match=r"a strip or tile of 512 x 512 pixels"):
        read_raster(path)
