from __future__ import annotations

import io
import itertools
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from fullyconv.data import images, raster
from fullyconv.data.images import read_image
from fullyconv.data.masks import decode_mask, read_raw_mask
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS
from fullyconv.memory import PeakMemory
from fullyconv.types import VOID, ClassSet

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (11, 17, 3)).astype(np.uint8)
CLASSES = ClassSet(("a", "b", "c"))


def smooth() -> np.ndarray:
    y, x = np.mgrid[:32, :48]
    return np.stack([x * 4, y * 6, (x + y) * 2], axis=2).astype(np.uint8)


@pytest.mark.parametrize(("suffix", "tolerance"), [("png", 0), ("tiff", 0), ("bmp", 0), ("webp", 12), ("jpg", 12)])
def test_formats_give_the_same_pixels(tmp_path: Path, suffix: str, tolerance: int) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(smooth()).save(path, quality=98)
    assert np.abs(read_image(path).astype(int) - smooth()).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    grey = smooth()[..., 0]
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "1":
        picture = Image.fromarray(grey > 90)
    elif mode == "P":
        picture = Image.fromarray(grey).convert("P")
    else:
        picture = Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).convert(mode)
    path = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    picture.save(path)
    expected = np.where(grey > 90, 255, 0) if mode == "1" else grey
    got = read_image(path)
    assert got.shape == (32, 48, 3)
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - expected[..., None]).max() <= (3 if mode == "CMYK" else 0)


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[images.ORIENTATION] = turn
        path = tmp_path / f"{turn}.png"
        Image.fromarray(RGB).save(path, exif=exif)
        expected = {1: RGB, 3: RGB[::-1, ::-1], 6: np.rot90(RGB, -1), 8: np.rot90(RGB)}
        if turn in expected:
            np.testing.assert_array_equal(read_image(path), expected[turn])
        else:
            assert read_image(path).shape[:2] == (RGB.shape[:2] if turn < 5 else RGB.shape[1::-1])


def test_float_pictures_outside_the_grey_range_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tiff"
    Image.fromarray(np.full((3, 3), -5, np.float32)).save(path)
    with pytest.raises(BadFile, match="no grey levels"):
        read_image(path)


def test_broken_files_are_named_with_a_fix(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(RGB).save(good)
    short = tmp_path / "short.png"
    short.write_bytes(good.read_bytes()[:200])
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    for path, what in ((short, "truncated"), (text, "unreadable"), (tmp_path / "none.png", "no such file")):
        with pytest.raises(BadFile, match=what) as caught:
            read_image(path)
        assert str(path) in str(caught.value)
        assert caught.value.fix


def test_implausible_sizes_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big.png"
    Image.fromarray(RGB).save(path)
    monkeypatch.setattr(LIMITS, "pixels", 100)
    with pytest.raises(BadFile, match="17 x 11 pixels"):
        read_image(path)


def decode(picture: Image.Image, classes: ClassSet, tmp_path: Path) -> np.ndarray:
    path = tmp_path / "mask.png"
    picture.save(path)
    return decode_mask(read_raw_mask(path), classes, path)


def test_index_masks_of_8_and_16_bit(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 255]], np.uint8)
    assert decode(Image.fromarray(values), CLASSES, tmp_path).tolist() == [[0, 1, 2, VOID]]
    deep = ClassSet(("a", "b"), values=(7, 1000), ignore_index=65535)
    values16 = np.array([[7, 1000, 65535]], np.uint16)
    assert decode(Image.fromarray(values16), deep, tmp_path).tolist() == [[0, 1, VOID]]


def test_palette_masks_are_read_as_indices(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8))
    picture.putpalette([9] * 768)  # every colour the same: only indices can tell
    assert decode(picture, CLASSES, tmp_path).tolist() == [[0, 1, 2, VOID]]


def test_colour_masks_go_through_the_table(tmp_path: Path) -> None:
    classes = ClassSet(("a", "b"), colours=((255, 0, 0), (0, 0, 255)), colour_masks=True, ignore_colours=((0, 0, 0),))
    pixels = np.array([[[255, 0, 0], [0, 0, 255], [0, 0, 0]]], np.uint8)
    assert decode(Image.fromarray(pixels), classes, tmp_path).tolist() == [[0, 1, VOID]]
    pixels[0, 0] = 7, 7, 7
    with pytest.raises(BadFile, match=r"colour outside the classes: \(7, 7, 7\)"):
        decode(Image.fromarray(pixels), classes, tmp_path)


@pytest.mark.parametrize(
    ("values", "classes", "what"),
    [
        ([[0, 3, 9]], CLASSES, "label outside the classes: 3, 9"),
        ([[0, 255]], ClassSet(("a", "b"), ignore_index=254), "a 0/255 mask read as indices"),
        ([[[1, 2, 3]]], CLASSES, "a colour mask read as indices"),
        ([[0, 1]], ClassSet(("a", "b"), colour_masks=True), "an index mask among colour masks"),
    ],
)
def test_wrong_masks_say_what_is_wrong(tmp_path: Path, values: list, classes: ClassSet, what: str) -> None:
    with pytest.raises(BadFile, match=what):
        decode(Image.fromarray(np.array(values, np.uint8)), classes, tmp_path)


def test_masks_of_other_modes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.tiff"
    Image.fromarray(RGB).convert("CMYK").save(path)
    with pytest.raises(BadFile, match="mode CMYK"):
        read_raw_mask(path)


def with_orientation(kind: int, count: int, value: bytes, more: bytes = b"") -> bytes:
    """Make a JPEG whose EXIF orientation is of any TIFF type."""
    stream = io.BytesIO()
    Image.fromarray(smooth()).save(stream, "JPEG")
    raw = stream.getvalue()
    tags = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x112, kind, count) + value + b"\0\0\0\0" + more
    return raw[:2] + b"\xff\xe1" + struct.pack(">H", len(tags) + 2) + tags + raw[2:]


ORIENTATIONS = {
    "short 1": (3, 1, struct.pack("<HH", 1, 0)),
    "short 6": (3, 1, struct.pack("<HH", 6, 0)),
    "short 0": (3, 1, struct.pack("<HH", 0, 0)),
    "short 9": (3, 1, struct.pack("<HH", 9, 0)),
    "two shorts": (3, 2, struct.pack("<HH", 6, 3)),
    "long 8": (4, 1, struct.pack("<I", 8)),
    "byte 6": (1, 1, b"\6\0\0\0"),
    "signed byte": (6, 1, b"\6\0\0\0"),
    "undefined 6": (7, 1, b"\6\0\0\0"),
    "text x": (2, 2, b"x\0\0\0"),
    "text 6": (2, 2, b"6\0\0\0"),
    "rational 1/0": (5, 1, struct.pack("<I", 26), struct.pack("<II", 1, 0)),
    "rational 6/1": (5, 1, struct.pack("<I", 26), struct.pack("<II", 6, 1)),
    "float": (11, 1, struct.pack("<f", 6)),
    "double": (12, 1, struct.pack("<I", 26), struct.pack("<d", 6)),
    "beyond the end": (5, 1, struct.pack("<I", 60_000)),
    "no such type": (99, 1, b"\6\0\0\0"),
    "nothing": (3, 0, b"\0\0\0\0"),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_an_orientation_of_any_type_is_what_pillow_makes_of_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(with_orientation(*ORIENTATIONS[name]))
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_only_named_formats_are_opened_whatever_the_file_is_called(tmp_path: Path, suffix: str) -> None:
    """Pillow's reader of EPS starts Ghostscript."""
    path = tmp_path / f"photo{suffix}"
    for content, words in (
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "a PostScript drawing"),
        (b"8BPS" + bytes(50), "a Photoshop document"),
        (b"", "an empty file"),
        (b"P6 1 1 255 abc", "a Netpbm picture"),
        (b"what is this", "not PNG, JPEG, TIFF, WebP, BMP, GIF, JPEG 2000, AVIF or DICOM"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadFile, match=words):
            read_image(path)
    Image.fromarray(RGB).save(path, "PNG")  # by its content
    np.testing.assert_array_equal(read_image(path), RGB)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_pictures_in_bands_are_the_whole(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    grey = smooth()[..., 0]
    picture = (
        Image.fromarray(grey.astype(np.uint16) * 500) if mode == "I;16" else Image.fromarray(smooth()).convert(mode)
    )
    picture.save(path)
    whole = read_image(path)
    for module in (images, raster):
        monkeypatch.setattr(module, "BAND_PX", 100)
    np.testing.assert_array_equal(read_image(path), whole)


def test_several_frames_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((5, 6, 3), level, np.uint8)) for level in (0, 100, 200)]
    for path in (tmp_path / "x.webp", tmp_path / "x.png"):
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with pytest.raises(BadFile, match="3 frames in one file"):
            read_image(path)


def test_transparent_pixels_are_said_once(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.full((5, 6, 4), 100, np.uint8)).save(path)
    with pytest.warns(UserWarning, match="transparent pixels are taken in their stored colours"):
        assert (read_image(path) == 100).all()


def test_lossy_masks_are_named(tmp_path: Path) -> None:
    values = np.zeros((16, 16), np.uint8)
    for name, kind in (("x.jpg", "JPEG"), ("y.webp", "WebP")):
        Image.fromarray(values).save(tmp_path / name)
        with pytest.raises(BadFile, match=f"a mask saved as {kind}, which changes its numbers: save masks as PNG"):
            read_raw_mask(tmp_path / name)
    Image.fromarray(values).convert("RGB").save(tmp_path / "z.webp", lossless=True)
    assert read_raw_mask(tmp_path / "z.webp").values.shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.array([[0, 70_000]], np.int32), "label outside the classes: 70000"),
        (np.array([[0, -5]], np.int16), "label outside the classes: -5"),
        (np.array([[0, -254]], np.int32), "label outside the classes: -254"),
        (np.array([[1, 2**31 - 1, -(2**31)]], np.int32), "label outside the classes: -2147483648, 2147483647"),
        (np.array([[1, 2**64 - 1]], np.uint64), "label outside the classes: 18446744073709551615"),
        (np.array([[1, 1.5]], np.float32), "not whole"),
        (np.array([[1, 1e30]], np.float32), "not whole"),
    ],
)
def test_numbers_of_any_size_are_refused_by_name(tmp_path: Path, values: np.ndarray, what: str) -> None:
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, values, photometric="minisblack")
    with PeakMemory() as memory, pytest.raises(BadFile, match=what):
        decode_mask(read_raw_mask(path), CLASSES, path)
    assert not memory.taken > 30e6  # NaN where it cannot be measured


def test_whole_numbers_in_floating_point_are_labels(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, np.array([[0.0, 2.0, 255.0]], np.float32), photometric="minisblack")
    assert decode_mask(read_raw_mask(path), CLASSES, path).tolist() == [[0, 2, VOID]]


def test_several_values_are_ignored(tmp_path: Path) -> None:
    classes = ClassSet(("road", "sky"), values=(7, 23), ignore_index=0, also_ignored=(3,))
    picture = Image.fromarray(np.array([[0, 3, 7, 23]], np.uint8))
    assert decode(picture, classes, tmp_path).tolist() == [[VOID, VOID, 0, 1]]


@pytest.mark.slow
def test_400_million_pixels_stay_within_2_gb() -> None:
    """48 kB of PNG: 20,000 x 20,000 pixels of one bit, 1.2 GB as RGB."""
    path = Path(__file__).parents[3] / "shared" / "cases" / "hostile" / "20000x20000_1bit.png"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    code = (
        "import resource, sys; from pathlib import Path; from fullyconv.data.images import read_image;"
        "picture = read_image(Path(sys.argv[1]));"
        "print(*picture.shape, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    height, width, channels, peak_mb = map(int, said.split())
    assert (height, width, channels) == (20_000, 20_000, 3)
    assert peak_mb < 2000


def png(rows: bytes, *, height: int = 11, interlaced: int = 0) -> bytes:
    """Write a PNG of 17 x ``height`` RGB pixels by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 17, height, 8, 2, 0, 0, interlaced)
    return b"".join((b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")))


def lines(first: int = 0) -> bytes:
    return b"".join(bytes([first]) + line.tobytes() for line in RGB)


@pytest.mark.parametrize(
    "content",
    [
        png(zlib.compress(lines())[:-40] + bytes(40)),
        png(zlib.compress(lines(first=9))),  # no filter has that number
        png(zlib.compress(lines()), height=22),
        png(zlib.compress(lines()), height=12, interlaced=1),
    ],
)
def test_pngs_with_broken_rows_are_refused_whichever_way_they_come(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"truncated|unreadable"):
        read_image(path)


def test_pngs_that_end_in_black_are_whole(tmp_path: Path) -> None:
    for mode, size in itertools.product(("1", "L", "P", "RGB"), ((1, 1), (3, 5), (9, 8))):
        Image.new(mode, size, "black").save(tmp_path / "a.png")
        assert read_image(str(tmp_path / "a.png")).shape == (*size[::-1], 3)


@pytest.mark.parametrize("back", [0, 1])
@pytest.mark.parametrize("pages", [None, 0, "channels"])
def test_tiff_pages_that_lead_back_end_in_a_sentence(tmp_path: Path, back: int, pages: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((2, 4, 4, 3), np.uint8), photometric="rgb", metadata=None)
    content, starts = bytearray(path.read_bytes()), []
    at = 4
    while start := struct.unpack_from("<I", content, at)[0]:
        starts.append(start)
        at = start + 2 + 12 * struct.unpack_from("<H", content, start)[0]
    struct.pack_into("<I", content, at, starts[back])
    path.write_bytes(content)
    with pytest.raises(BadFile, match="in a circle"):
        images.read_raster(path, pages)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes among files")
def test_pipes_among_pictures_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(BadFile, match="no regular file"):
        read_image(tmp_path / "a.png")
