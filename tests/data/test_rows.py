"""Pictures that are read by rows are those that are read whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fullyconv.data.images import read_image
from fullyconv.data.rows import Sight, open_rows
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

RNG = np.random.default_rng(0)
SIZE = 150, 83
COLOURS = np.linspace(0, 255, SIZE[0] * SIZE[1] * 3).reshape(*SIZE, 3).astype(np.uint8) ^ RNG.integers(
    0, 8, (*SIZE, 3), np.uint8
)


def same_by_rows(path: Path, heights: tuple[int, ...] = (40, 70, 1, 39)) -> None:
    whole, rows = read_image(path), open_rows(path, 1)
    assert rows is not None
    assert rows.shape == whole.shape
    first = 0
    for height in heights:
        np.testing.assert_array_equal(rows[first : first + height, 0 : SIZE[1]], whole[first : first + height])
        np.testing.assert_array_equal(rows[first : first + height, 5:20], whole[first : first + height, 5:20])
        first += height
    np.testing.assert_array_equal(rows[100:150, 0:9], whole[100:150, :9])
    np.testing.assert_array_equal(rows[7:9, 0:9], whole[7:9, :9])  # back


@pytest.mark.parametrize(
    "options",
    [
        {"rowsperstrip": 16},
        {"rowsperstrip": 7, "compression": "zlib", "predictor": True},
        {"tile": (32, 48), "compression": "lzw"},
        {"tile": (64, 64), "bigtiff": True, "compression": "zstd", "byteorder": ">"},
        {"tile": (32, 32), "planarconfig": "separate"},
        {"rowsperstrip": 9, "planarconfig": "separate"},
        {"tile": (64, 64), "compression": "jpeg"},
        {"tile": (32, 32), "extrasamples": ["unassalpha"]},
    ],
    ids=str,
)
def test_tiffs(tmp_path: Path, options: dict[str, Any]) -> None:
    values = COLOURS if "extrasamples" not in options else np.dstack([COLOURS, np.full(SIZE, 255, np.uint8)])
    if options.get("planarconfig") == "separate":
        values = np.moveaxis(values, 2, 0)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", **options)
    same_by_rows(tmp_path / "x.tif")


def test_grey_inverted_and_palette_tiffs(tmp_path: Path) -> None:
    grey = COLOURS[..., 0]
    table = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    for name, options in {
        "grey": {"photometric": "minisblack"},
        "inverted": {"photometric": "miniswhite"},
        "palette": {"photometric": "palette", "colormap": table},
    }.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", grey, tile=(32, 32), **options)
        same_by_rows(tmp_path / f"{name}.tif")


@pytest.mark.parametrize("kind", ["below", "beside", "ome", "aperio", "jpeg"])
def test_levels_are_those_of_tifffile(tmp_path: Path, kind: str) -> None:
    """Overviews below the page (SubIFDs) and beside it (GDAL's), OME's, a slide scanner's; tiles packed as JPEG."""
    path, sizes = tmp_path / ("x.ome.tif" if kind == "ome" else "x.tif"), [COLOURS]
    while len(sizes) < 3:
        sizes.append(np.ascontiguousarray(sizes[-1][: len(sizes[-1]) // 2 * 2 : 2, ::2]))
    options: dict[str, Any] = {"tile": (32, 32), "photometric": "rgb"}
    options |= {"compression": "jpeg"} if kind in ("jpeg", "aperio") else {}
    options |= {"metadata": None} if kind != "ome" else {}
    below = kind in ("below", "ome", "jpeg")
    with tifffile.TiffWriter(path, ome=kind == "ome") as file:
        if kind == "aperio":
            file.write(sizes[0], description="Aperio Image Library", **options)
            file.write(COLOURS[::3, ::3], photometric="rgb", metadata=None)  # of the same shape, but a thumbnail
        else:
            file.write(sizes[0], subifds=2 if below else 0, **options)
        for values in sizes[1:]:
            file.write(values, subfiletype=1 if kind != "aperio" else 0, **options)
        if kind == "aperio":
            file.write(COLOURS[:40, :80], photometric="rgb", subfiletype=1, metadata=None)  # its label
    same_by_rows(path)
    for level, values in enumerate(sizes):
        expected = tifffile.imread(path, level=level)
        assert expected.shape == values.shape
        np.testing.assert_array_equal(read_image(path, level=level), expected)
        rows = open_rows(path, 1, Sight(level=level))
        assert rows is not None
        np.testing.assert_array_equal(rows[0 : rows.shape[0], 0 : rows.shape[1]], expected)
    with pytest.raises(BadFile, match=r"no level 3 in it: choose 0 \(83 x 150\), 1 \(42 x 75\) or 2 \(21 x 37\)"):
        read_image(path, level=3)


def test_levels_of_what_has_none(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "x.tif", COLOURS, photometric="rgb")
    with pytest.raises(BadFile, match=r"x.png: no level 1 in it: leave it out, for 0 \(83 x 150\) is the only"):
        read_image(tmp_path / "x.png", level=1)
    with pytest.raises(BadFile, match=r"x.tif: no level 1 in it: leave it out, for 0 \(83 x 150\) is the only"):
        read_image(tmp_path / "x.tif", level=1)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "RGBA"])
@pytest.mark.filterwarnings("ignore:.*transparent")
def test_pngs(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.ascontiguousarray(COLOURS)).convert(mode)
    picture.save(tmp_path / "x.png", compress_level=6)
    same_by_rows(tmp_path / "x.png")


def test_all_filters_of_png(tmp_path: Path) -> None:
    """Another encoder than Pillow's, which chooses among all filters."""
    import imagecodecs

    for level in (1, 9):
        (tmp_path / "x.png").write_bytes(
            imagecodecs.png_encode(COLOURS, level=level, filter=imagecodecs.PNG.FILTER.ALL)
        )
        same_by_rows(tmp_path / "x.png")


def test_what_is_not_read_by_rows_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(COLOURS)
    picture.save(tmp_path / "x.jpg")
    Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 100).save(tmp_path / "deep.png")
    tifffile.imwrite(tmp_path / "turned.tif", COLOURS, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    text = PngInfo()
    picture.save(tmp_path / "turned.png", exif=Image.Exif(), pnginfo=text)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    for name in ("x.jpg", "deep.png", "turned.tif", "turned.png"):
        with pytest.raises(BadFile, match=f"{name}: .* pixels, read as a whole, take .*: save it as TIFF in tiles"):
            open_rows(tmp_path / name, 1)
        assert open_rows(tmp_path / name, 1 << 30) is None
    (tmp_path / "none.png").write_text("no picture")
    assert open_rows(tmp_path / "none.png", 1) is None
    picture.save(tmp_path / "y.png")
    monkeypatch.setattr(LIMITS, "streamed_pixels", 100)
    with pytest.raises(BadFile, match="raise FULLYCONV_MAX_STREAMED_PIXELS"):
        open_rows(tmp_path / "y.png", 1)


def test_broken_files_are_bad_files(tmp_path: Path) -> None:
    picture = Image.fromarray(COLOURS)
    picture.save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    for name, spoiled in {"cut": content[:9000], "bits": content[:200] + bytes(500) + content[700:]}.items():
        (tmp_path / f"{name}.png").write_bytes(spoiled)
        rows = open_rows(tmp_path / f"{name}.png", 1)
        assert rows is not None
        with pytest.raises(BadFile, match=name):
            rows[0:150, 0:83]


def test_pixels_that_hold_nothing(tmp_path: Path) -> None:
    values = COLOURS | 1
    values[20:60, 10:30] = 0
    tag = [(42113, 2, 1, "0", True)]
    tifffile.imwrite(tmp_path / "x.tif", values, tile=(32, 32), photometric="rgb", extratags=tag)
    rows = open_rows(tmp_path / "x.tif", 1)
    assert rows is not None
    rows[10:150, 0:83]
    np.testing.assert_array_equal(rows.empty(10, 150), (values == 0).all(2)[10:])


@pytest.mark.parametrize("behind", [False, True])
def test_where_a_png_says_that_it_lies_on_its_side_is_found_without_decoding_it(tmp_path: Path, behind: bool) -> None:
    path, exif = tmp_path / "a.png", Image.Exif()
    exif[274] = 6
    Image.fromarray(COLOURS).save(path, exif=exif)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    length = 12 + int.from_bytes(content[start : start + 4], "big")
    chunk, rest = content[start : start + length], content[:start] + content[start + length :]
    end = rest.index(b"IEND") - 4
    path.write_bytes(rest[:end] + chunk + rest[end:] if behind else content)
    assert open_rows(path, 1 << 40) is None
    with pytest.raises(BadFile, match="read as a whole"):
        open_rows(path, 1)
    assert read_image(path).shape == (SIZE[1], SIZE[0], 3)
