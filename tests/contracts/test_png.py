"""PNG files of every depth and colour type, written here byte by byte: their stored numbers are read."""

from __future__ import annotations

import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from fullyconv.data.images import read_image, read_raster
from fullyconv.data.masks import decode_mask, read_raw_mask
from fullyconv.files import BadFile
from fullyconv.types import ClassSet

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGB_ALPHA: (8, 16)}
PASSES = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
"""Adam7: first row, step of rows, first column, step of columns."""


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def scanlines(values: np.ndarray, depth: int) -> bytes:
    """Pack H x W x C numbers, each row filtered by the difference to the pixel before (type 1) or not (0) in turn."""
    height, _, channels = values.shape
    bits = (values[..., None].astype(np.int64) >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    apart = max(1, channels * depth // 8)
    packed = []
    for index, row in enumerate(rows):
        before = np.concatenate([np.zeros(apart, np.uint8), row])[: len(row)]
        packed.append(bytes([index % 2]) + (row - before if index % 2 else row).tobytes())
    return b"".join(packed)


def png(values: np.ndarray, depth: int, kind: int, *extra: bytes, interlaced: bool = False) -> bytes:
    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    parts = [values[r::rs, c::cs] for r, rs, c, cs in PASSES] if interlaced else [values]
    stream = b"".join(scanlines(part, depth) for part in parts if part.size)
    chunks = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(stream)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


CASES = [
    (kind, depth, interlaced, size)
    for kind, depths in DEPTHS.items()
    for depth, interlaced, size in itertools.product(depths, (False, True), ((1, 1), (9, 13), (33, 5)))
]


def numbers(kind: int, depth: int, size: tuple[int, int], largest: int | None = None) -> np.ndarray:
    rng = np.random.default_rng((kind, depth, *size))
    return rng.integers(0, (largest or 2**depth - 1) + 1, (*size, CHANNELS[kind])).astype(np.uint16)


@pytest.mark.filterwarnings("ignore:.*transparent pixels")
@pytest.mark.parametrize(("kind", "depth", "interlaced", "size"), CASES)
def test_stored_numbers(tmp_path: Path, kind: int, depth: int, interlaced: bool, size: tuple[int, int]) -> None:
    values = numbers(kind, depth, size)
    palette = np.random.default_rng(0).integers(0, 256, (2**depth, 3)).astype(np.uint8) if kind == PALETTE else None
    extra = () if palette is None else (chunk(b"PLTE", palette.tobytes()),)
    path = tmp_path / "x.png"
    path.write_bytes(png(values, depth, kind, *extra, interlaced=interlaced))
    usual = 3 if kind in (RGB, RGB_ALPHA) else 1
    raster = read_raster(path)
    np.testing.assert_array_equal(raster.values, values[..., :usual])
    alpha = values[..., usual:]
    assert raster.transparent == bool((alpha != 2**depth - 1).any())
    if usual == 1:  # a mask: its numbers
        mask = read_raw_mask(path)
        np.testing.assert_array_equal(mask.values, values[..., 0])
        assert (mask.palette is None) == (palette is None)
    colours = np.rint(values[..., :usual] * (255 / (2**depth - 1))) if palette is None else palette[values[..., 0]]
    largest = values[..., :usual].max()
    if depth < 16 or largest > 2**14:  # the range is filled: others are scaled by the rule, below
        np.testing.assert_array_equal(read_image(path), np.broadcast_to(colours, (*size, 3)).astype(np.uint8))


@pytest.mark.filterwarnings("ignore:.*transparent pixels")
@pytest.mark.parametrize("kind", [GREY, RGB, GREY_ALPHA, RGB_ALPHA])
@pytest.mark.parametrize(
    ("largest", "white"), [(200, 255), (1023, 1023), (4000, 4095), (10_000, 16_383), (16_384, 65_535)]
)
def test_deep_pictures_that_do_not_fill_their_type(tmp_path: Path, kind: int, largest: int, white: int) -> None:
    values = numbers(kind, 16, (20, 30), largest)
    usual = 3 if kind in (RGB, RGB_ALPHA) else 1
    values[0, 0, :usual] = largest
    path = tmp_path / "x.png"
    path.write_bytes(png(values, 16, kind))
    expected = np.rint(values[..., :usual] * (255 / white)).astype(np.uint8)
    np.testing.assert_array_equal(read_image(path), np.broadcast_to(expected, (20, 30, 3)))
    assert read_image(path).max() >= 63


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_low_bit_grey_masks_are_classes(tmp_path: Path, depth: int) -> None:
    values = numbers(GREY, depth, (9, 13))
    path = tmp_path / "x.png"
    path.write_bytes(png(values, depth, GREY))
    classes = ClassSet(tuple(map(str, range(2**depth))))
    np.testing.assert_array_equal(decode_mask(read_raw_mask(path), classes, path), values[..., 0])


def test_grey_with_a_transparent_level_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for kind, level in ((GREY, b"\0\1"), (RGB, b"\0\1\0\2\0\3")):
        path.write_bytes(png(numbers(kind, 8, (9, 13)), 8, kind, chunk(b"tRNS", level)))
        assert read_raster(path).transparent


def test_an_index_beyond_its_palette_is_a_number_but_no_colour(tmp_path: Path) -> None:
    """Pillow itself writes such masks: 21 colours, and 255 for void."""
    path = tmp_path / "x.png"
    path.write_bytes(png(np.full((2, 3, 1), 7), 8, PALETTE, chunk(b"PLTE", bytes(6))))
    assert read_raw_mask(path).values.tolist() == [[7, 7, 7], [7, 7, 7]]
    with pytest.raises(BadFile, match="colour 7 of a palette of 2 colours"):
        read_image(path)
    with pytest.raises(BadFile, match="colour 7 of a palette of 2 colours"):
        decode_mask(read_raw_mask(path), ClassSet(("a",), colour_masks=True), path)


def test_colour_masks_of_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3))
    path.write_bytes(png(colours * 257, 16, RGB))
    np.testing.assert_array_equal(read_raw_mask(path).values, colours)
    path.write_bytes(png(colours * 257 + 1, 16, RGB))
    with pytest.raises(BadFile, match="a colour mask of uint16 samples"):
        read_raw_mask(path)


@pytest.mark.parametrize("kind", [GREY, RGB])
def test_deep_pictures_that_are_black_are_refused(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(np.ones((4, 4, CHANNELS[kind]), int), 16, kind))
    with pytest.raises(BadFile, match="its largest value is 1: it would be black"):
        read_image(path)
    path.write_bytes(png(np.zeros((4, 4, CHANNELS[kind]), int), 16, kind))
    assert not read_image(path).any()


@pytest.mark.parametrize("kind", [RGB, GREY])
def test_deep_files_that_end_early_are_named(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "x.png"
    whole = png(numbers(kind, 16, (40, 40)), 16, kind)
    for length in (60, len(whole) // 2, len(whole) - 60):
        path.write_bytes(whole[:length])
        with pytest.raises(BadFile, match="truncated") as caught:
            read_image(path)
        assert "restore" not in caught.value.fix
