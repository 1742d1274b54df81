"""GeoTIFF files in every layout: our numbers are the stored ones, as rasterio and tifffile read them."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from fullyconv.files import BadFile
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.formats.by_suffix import save_scene
from fullyconv.hsi.scene import Scene
from fullyconv.limits import LIMITS

tifffile = pytest.importorskip("tifffile", reason="tifffile, which writes and reads the layouts, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")


def numbers(shape: tuple[int, ...], kind: str, seed: int, bits: int | None = None) -> np.ndarray:
    """Draw numbers over the whole range of a type, or of so many bits."""
    rng = np.random.default_rng(seed)
    if np.dtype(kind).kind == "f":
        return rng.normal(0, 1e3, shape).astype(kind)
    low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if bits is None else (0, 2**bits - 1)
    return rng.integers(low, high, shape, kind, endpoint=True)


def write(path: Path, cube: np.ndarray, **options: Any) -> Path:
    height, width, bands = cube.shape
    size = {"height": height, "width": width, "count": bands, "dtype": cube.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **size, **{"photometric": "minisblack"} | options) as raster:
        raster.write(cube.transpose(2, 0, 1))
    return path


@st.composite
def layouts(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    """A cube and how GDAL is to store it."""
    kind = draw(st.sampled_from(TYPES))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5)))
    options: dict[str, Any] = {
        "interleave": draw(st.sampled_from(["pixel", "band"])),
        "compress": draw(st.sampled_from(["none", "lzw", "deflate", "packbits", "zstd"])),
        "endianness": draw(st.sampled_from(["little", "big"])),
        "bigtiff": draw(st.sampled_from(["yes", "no"])),
        "photometric": draw(st.sampled_from(["minisblack", "miniswhite", "rgb"] if shape[2] > 2 else ["miniswhite"])),
    }
    if draw(st.booleans()):
        options |= {"tiled": True, "blockxsize": 16, "blockysize": 16}
    else:
        options["blockysize"] = draw(st.integers(1, shape[0]))
    floating = kind.startswith("float")
    if options["compress"] in ("lzw", "deflate", "zstd"):
        options["predictor"] = draw(st.sampled_from([1, 2, 3] if floating else [1, 2]))
    bits = None
    if kind in ("uint8", "uint16", "uint32") and options.get("predictor", 1) == 1 and draw(st.booleans()):
        most = 8 * np.dtype(kind).itemsize
        bits = options["nbits"] = draw(st.integers(most // 2 + 1 if most > 8 else 1, most - 1))
    return numbers(shape, kind, draw(st.integers(0, 99)), bits), options


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=layouts())
def test_every_layout_of_gdal_gives_the_stored_numbers(
    case: tuple[np.ndarray, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cube, options = case
    path = write(tmp_path_factory.getbasetemp() / "x.tif", cube, **options)
    found = SceneFiles(path).read().cube
    assert found.dtype.newbyteorder("=") == cube.dtype
    np.testing.assert_array_equal(found, cube)
    plain = options["compress"] == "none" and not options.get("tiled") and "nbits" not in options
    assert isinstance(found, np.memmap) == (plain and np.asarray(found).size > 0) or not plain
    if plain:
        by_tifffile = tifffile.imread(path).reshape(
            cube.shape if options["interleave"] == "pixel" else (cube.shape[2], *cube.shape[:2])
        )
        expected = by_tifffile if options["interleave"] == "pixel" else by_tifffile.transpose(1, 2, 0)
        np.testing.assert_array_equal(found, expected)


@st.composite
def tiffs(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    """A cube, and how tifffile is to store it."""
    kind = draw(st.sampled_from([*TYPES, "float16"]))
    shape = draw(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(2, 5)))
    planar = draw(st.sampled_from([None, "contig", "separate"]))  # None: a page per band
    options: dict[str, Any] = {
        "byteorder": draw(st.sampled_from("<>")),
        "bigtiff": draw(st.booleans()),
        "photometric": draw(st.sampled_from(["minisblack", "miniswhite"])),
        "planarconfig": planar,
        "metadata": None,
    }
    if draw(st.booleans()):
        options["tile"] = (16, 16)
    else:
        options["rowsperstrip"] = draw(st.integers(1, shape[0]))
    compression = draw(st.sampled_from([None, "zlib", "lzw"]))
    if compression is not None:
        pytest.importorskip("imagecodecs")
        options |= {"compression": compression}
        if np.dtype(kind).kind != "f" and np.dtype(kind).itemsize < 8:
            options["predictor"] = draw(st.booleans())
    cube = numbers(shape, kind, draw(st.integers(0, 99)))
    stored = cube if planar == "contig" else np.ascontiguousarray(cube.transpose(2, 0, 1))
    return cube, {"data": stored, **options}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=tiffs())
def test_every_layout_of_tifffile_gives_the_stored_numbers(
    case: tuple[np.ndarray, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cube, options = case
    path = tmp_path_factory.getbasetemp() / "y.tif"
    tifffile.imwrite(path, **options)
    found = SceneFiles(path).read().cube
    np.testing.assert_array_equal(found, cube)


def test_pages_of_several_sizes_are_no_scene_and_overviews_no_pages(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(np.zeros((8, 6), np.uint8), photometric="minisblack")
        file.write(np.zeros((4, 3), np.uint8), photometric="minisblack")
    with pytest.raises(BadFile, match=r"2 images .*4 x 3 x 1 uint8; 8 x 6 x 1 uint8"):
        SceneFiles(tmp_path / "x.tif").open()
    cube = numbers((64, 48, 3), "uint16", 0)
    path = write(tmp_path / "y.tif", cube)
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4])
    np.testing.assert_array_equal(SceneFiles(path).open().cube, cube)


def test_bits_of_another_order_are_not_mapped_as_they_lie(tmp_path: Path) -> None:
    pixels = numbers((6, 5), "uint8", 0)
    tags = {256: 5, 257: 6, 258: 8, 259: 1, 262: 1, 266: 2, 273: 8, 277: 1, 278: 6, 279: 30}  # 266: fill order
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path = tmp_path / "x.tif"
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 38) + pixels.tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4)
    )
    expected = np.packbits(np.unpackbits(pixels, bitorder="little"), bitorder="big").reshape(6, 5)
    assert not np.array_equal(expected, pixels)
    np.testing.assert_array_equal(SceneFiles(path).open().cube[..., 0], expected)


@pytest.mark.parametrize(("kind", "fill"), [("int16", -9999.0), ("float32", -9999.1), ("float32", float("nan"))])
def test_nodata_is_gdals(kind: str, fill: float, tmp_path: Path) -> None:
    cube = np.abs(numbers((5, 6, 3), kind, 1))
    cube[1, 2], cube[3, 3, 1] = fill, fill
    path = write(tmp_path / "x.tif", cube, nodata=fill)
    with rasterio.open(path) as raster:
        valid = raster.read_masks().all(axis=0)
    np.testing.assert_array_equal(SceneFiles(path).open().missing(), ~valid)
    assert (~valid).sum() == 2


@pytest.mark.parametrize("inside", ["YES", "NO"])
def test_masks_inside_and_beside_are_read(inside: str, tmp_path: Path) -> None:
    cube, mask = numbers((5, 6, 3), "uint16", 1), numbers((5, 6), "uint8", 2) > 99
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside):
        path = write(tmp_path / "x.tif", cube)
        with rasterio.open(path, "r+") as raster:
            raster.write_mask(mask)
    assert (tmp_path / "x.tif.msk").is_file() == (inside == "NO")
    np.testing.assert_array_equal(SceneFiles(path).open().missing(), ~mask)


def test_a_mask_beside_of_another_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", numbers((5, 6, 3), "uint16", 1))
    (tmp_path / "x.tif.msk").write_text("<VRTDataset rasterXSize='6' rasterYSize='5'></VRTDataset>")
    with pytest.raises(BadFile, match="unreadable"):
        SceneFiles(path).open()


def test_an_alpha_band_of_nothing_and_all_is_a_mask(tmp_path: Path) -> None:
    cube = numbers((5, 6, 4), "uint8", 1)
    cube[..., 3] = np.where(cube[..., 3] > 99, 255, 0)
    path = write(tmp_path / "x.tif", cube, photometric="rgb", alpha="yes")
    scene = SceneFiles(path).open()
    assert scene.bad_bands == (3,)
    np.testing.assert_array_equal(scene.missing(), cube[..., 3] == 0)
    cube[0, 0, 3] = 77  # a near-infrared band that was called alpha for being the fourth
    path = write(tmp_path / "y.tif", cube, photometric="rgb", alpha="yes")
    with rasterio.open(path) as raster:
        assert raster.colorinterp[3] == ColorInterp.alpha
    scene = SceneFiles(path).open()
    assert (scene.bad_bands, scene.missing().any()) == ((), np.False_)


def test_a_scene_comes_back_with_its_mask(tmp_path: Path) -> None:
    measured = numbers((5, 6), "uint8", 2) > 99
    given_scene = Scene(numbers((5, 6, 4), "uint8", 1), no_data=7.0, measured=measured)
    for suffix in (".tif", ".npz", ".mat"):
        save_scene(given_scene, tmp_path / f"x{suffix}")
        found = SceneFiles(tmp_path / f"x{suffix}").open()
        np.testing.assert_array_equal(found.cube, given_scene.cube)
        np.testing.assert_array_equal(found.missing(), given_scene.missing())
        assert found.bad_bands == ()
    for suffix in (".hdr", ".npy"):
        with pytest.raises(BadFile, match="cannot say which pixels have no data"):
            save_scene(given_scene, tmp_path / f"x{suffix}")


def test_what_is_no_tiff_is_not_opened_by_another_driver(tmp_path: Path) -> None:
    source = write(tmp_path / "source.tif", numbers((5, 6, 3), "uint16", 1))
    vrt = tmp_path / "x.tif"
    vrt.write_text(
        "<VRTDataset rasterXSize='6' rasterYSize='5'><VRTRasterBand dataType='UInt16' band='1'><SimpleSource>"
        f"<SourceFilename>{source}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with rasterio.open(vrt) as raster:
        assert raster.count == 1, "GDAL itself would follow it"
    with pytest.raises(BadFile, match="unreadable"):
        SceneFiles(vrt).open()
    other = tmp_path / "z.tif"
    shutil.copy(source, other)
    (tmp_path / "z.tif.aux.xml").write_text("<PAMDataset><PAMRasterBand band='1'><NoDataValue>7</NoDataValue>"
                                            "</PAMRasterBand></PAMDataset>")  # fmt: skip
    assert SceneFiles(other).open().no_data is None


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", np.ones((2, 3, 2), np.complex64))
    with pytest.raises(BadFile, match="bands of types complex64: save real numbers"):
        SceneFiles(path).open()


def test_a_small_file_of_a_huge_image_is_refused_from_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=20_000, width=20_000, count=30, dtype="uint16", compress="deflate",
        tiled=True, sparse_ok=True, bigtiff="yes",
    ):  # fmt: skip
        pass
    assert path.stat().st_size < 10 << 20
    with pytest.raises(BadFile, match=r"x takes 22888 MiB of memory.*FULLYCONV_MAX_ARRAY_BYTES"):
        SceneFiles(path).open()
    monkeypatch.setattr(LIMITS, "pixels", 10_000)
    with pytest.raises(BadFile, match="the image has 400000000 pixels: cut it, or raise FULLYCONV_MAX_PIXELS"):
        SceneFiles(path).open()
