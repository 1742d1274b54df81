"""Pictures in Zarr stores are those of the same numbers in a TIFF file; what is no picture is refused in a sentence."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from fullyconv.data.images import read_image, read_raster
from fullyconv.data.rows import Sight, open_rows
from fullyconv.data.storing import write_store
from fullyconv.files import BadFile, is_store
from fullyconv.limits import LIMITS
from fullyconv.memory import PeakMemory
from fullyconv.types import ClassSet, Levels

zarr = pytest.importorskip("zarr")
google_crc32c, numcodecs = pytest.importorskip("google_crc32c"), pytest.importorskip("numcodecs")

RNG = np.random.default_rng(0)
SIZE = 70, 53
KINDS = {"u1": 256, "u2": 3000, "i2": 900, "f4": 1}


def numbers(kind: str, channels: int) -> np.ndarray:
    values = RNG.random((*SIZE, channels)) * KINDS[kind]
    return values.astype(kind)


def write(path: Path, values: np.ndarray, **options: Any) -> Any:
    array = zarr.create_array(store=path, shape=values.shape, dtype=values.dtype, **options)
    array[:] = values
    return array


LAYOUTS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, list[str] | None]]] = {
    "yxc": lambda values: (values, None),
    "cyx": lambda values: (np.moveaxis(values, 2, 0), None),
    "named": lambda values: (np.moveaxis(values, 2, 1), ["y", "c", "x"]),
    "xarray": lambda values: (np.moveaxis(values, 2, 0), ["band", "lat", "lon"]),
    "tczyx": lambda values: (np.moveaxis(values, 2, 0)[None, :, None], list("tczyx")),
}


@pytest.mark.parametrize(
    ("layout", "kind", "version"),
    [("yxc", "u1", 2), ("cyx", "u2", 3), ("named", "u1", 3), ("xarray", "f4", 2), ("tczyx", "i2", 3), ("cyx", "u1", 2)],
)
@pytest.mark.filterwarnings("ignore:.*transparent")
def test_as_the_same_numbers_in_a_tiff(tmp_path: Path, layout: str, kind: str, version: int) -> None:
    for channels in (1, 3, 4):
        values = numbers(kind, channels)
        stored, names = LAYOUTS[layout](values)
        place = tmp_path / f"{channels}.zarr"
        options: dict[str, Any] = {"zarr_format": version, "chunks": tuple(min(20, size) for size in stored.shape)}
        if names and version == 3:
            options["dimension_names"] = names
        elif names:
            options["attributes"] = {"_ARRAY_DIMENSIONS": names}
        write(place, stored, **options)
        file = tmp_path / f"{channels}.tif"
        extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        photometric = "rgb" if channels > 1 else "minisblack"
        tifffile.imwrite(file, values.squeeze(), photometric=photometric, rowsperstrip=9, **extra)
        found, expected = read_raster(place), read_raster(file)
        np.testing.assert_array_equal(found.bands(), expected.bands())
        assert (found.kind, found.bits, found.values.dtype) == (expected.kind, expected.bits, expected.values.dtype)
        whole = read_image(file)
        np.testing.assert_array_equal(read_image(place), whole)
        for path in (place, file):
            rows = open_rows(path, 1)
            assert rows is not None
            read = [rows[first : first + 25, 0 : SIZE[1]] for first in range(0, SIZE[0], 25)]
            np.testing.assert_array_equal(np.concatenate(read), whole)


def test_bands_and_ranges_of_a_model(tmp_path: Path) -> None:
    values = numbers("f4", 5) - 0.5
    write(tmp_path / "x.zarr", values, chunks=(20, 20, 5), dimension_names=["y", "x", "c"])
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", planarconfig="contig", tile=(32, 32))
    levels = Levels(tuple((-0.4, 0.1 * band) for band in range(5)))
    expected = levels(values)
    for name in ("x.zarr", "x.tif"):
        rows = open_rows(tmp_path / name, 1, Sight(levels, channels=5))
        assert rows is not None
        assert rows.shape == (*SIZE, 5)
        np.testing.assert_array_equal(rows[0 : SIZE[0], 0 : SIZE[1]], expected)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("packed", ["blosc", "zlib", "shards", "none"])
def test_packed(tmp_path: Path, version: int, packed: str) -> None:
    from numcodecs import Blosc, Delta, Zlib
    from zarr.codecs import BloscCodec, GzipCodec

    options: dict[str, dict[str, Any]] = {
        "blosc": {"compressors": Blosc(shuffle=2) if version == 2 else BloscCodec(shuffle="bitshuffle")},
        "zlib": {"compressors": Zlib(), "filters": [Delta("u2")]} if version == 2 else {"compressors": GzipCodec()},
        "shards": {"shards": (40, 40, 3)},
        "none": {"compressors": None},
    }
    if (packed, version) == ("shards", 2):
        packed = "none"  # format 2 has no shards
    values = numbers("u2", 3)
    write(tmp_path / "x", values, chunks=(20, 20, 3), zarr_format=version, **options[packed])
    np.testing.assert_array_equal(read_raster(tmp_path / "x").values, values)


def pyramid(place: Path, sizes: list[np.ndarray], version: int, extra: dict[str, Any] | None = None) -> None:
    group = zarr.open_group(place, mode="w", zarr_format=version)
    for number, values in enumerate(sizes):
        group.create_array(f"s{number}", shape=values.shape, dtype=values.dtype, chunks=(1, 16, 16))[:] = values
    axes = [{"name": name, "type": "space" if name != "c" else "channel"} for name in "cyx"]
    multiscales = [{"axes": axes, "datasets": [{"path": f"s{number}"} for number in range(len(sizes))]}]
    entry = {"multiscales": multiscales} | (extra or {})
    group.attrs.update({"ome": entry | {"version": "0.5"}} if version == 3 else entry)


@pytest.mark.parametrize("version", [2, 3])
def test_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    whole = np.moveaxis(numbers("u1", 3), 2, 0)
    sizes = [whole, whole[:, ::2, ::2], whole[:, ::4, ::4]]
    pyramid(tmp_path / "x.zarr", sizes, version)
    for level, values in enumerate(sizes):
        np.testing.assert_array_equal(read_image(tmp_path / "x.zarr", level=level), np.moveaxis(values, 0, 2))
        rows = open_rows(tmp_path / "x.zarr", 1, Sight(level=level))
        assert rows is not None
        np.testing.assert_array_equal(rows[0 : rows.shape[0], 0 : rows.shape[1]], np.moveaxis(values, 0, 2))
    with pytest.raises(BadFile, match=r"no level 3 in it: choose 0 \(53 x 70\), 1 \(27 x 35\) or 2 \(14 x 18\)"):
        read_image(tmp_path / "x.zarr", level=3)
    np.testing.assert_array_equal(read_image(tmp_path / "x.zarr/s1"), np.moveaxis(sizes[1], 0, 2))
    monkeypatch.setattr(LIMITS, "pixels", 300)  # of which the full size has more
    assert read_image(tmp_path / "x.zarr", level=2).shape == (18, 14, 3)
    assert read_raster(tmp_path / "x.zarr", level=2).missing is None


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 1, 3), (1, 1, 3)), ((1, 9, 4), (1, 9, 3)), ((3, 9, 2), (9, 2, 3)), ((2, 5, 3), (2, 5, 3))]
)
@pytest.mark.filterwarnings("ignore:.*transparent")
def test_colours_tell_which_end_of_a_low_or_narrow_picture_is_channels(
    tmp_path: Path, shape: tuple[int, ...], size: tuple[int, ...]
) -> None:
    write(tmp_path / "x", np.zeros(shape, "u1"), chunks=shape)
    assert read_image(tmp_path / "x").shape == size


def test_a_group_with_one_picture_and_with_several(tmp_path: Path) -> None:
    whole = np.moveaxis(numbers("u1", 3), 2, 0)
    zarr.open_group(tmp_path / "x", mode="w", zarr_format=2)
    pyramid(tmp_path / "x/0", [whole], 2)
    np.testing.assert_array_equal(read_image(tmp_path / "x"), np.moveaxis(whole, 0, 2))
    pyramid(tmp_path / "x/1", [whole], 2)
    with pytest.raises(BadFile, match="2 pictures in it: name one: x/0, …/1"):
        read_image(tmp_path / "x")


@pytest.mark.parametrize("version", [2, 3])
def test_labels_are_written_in_the_format_of_the_picture(tmp_path: Path, version: int) -> None:
    write(tmp_path / "x", numbers("u1", 1)[..., 0], chunks=(20, 20), zarr_format=version)
    classes = ClassSet(("a", "b"), values=(7, 300))
    labels = RNG.integers(0, 2, (1100, 30))
    for _ in range(2):  # the second in the place of the first
        bands = [labels[:512], labels[512:1024], labels[1024:]]
        write_store(tmp_path / "y", bands, (1100, 30), classes, like=tmp_path / "x")
    found = zarr.open(tmp_path / "y", mode="r")
    np.testing.assert_array_equal(found[:], np.array([7, 300])[labels])
    assert (found.metadata.zarr_format, found.dtype, found.chunks) == (version, np.uint16, (512, 30))
    assert found.attrs["values"] == [7, 300]
    assert read_raster(tmp_path / "y").values.shape == (1100, 30, 1)


class Told:
    """Would tell, if it were unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, (os.environ["TOLD"],)


def test_what_is_no_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = numbers("u1", 1)[..., 0]

    def changed(name: str, **entries: Any) -> Path:
        write(tmp_path / name, grey, chunks=(20, 20), zarr_format=2)
        file = tmp_path / name / ".zarray"
        file.write_text(json.dumps(json.loads(file.read_text()) | entries))
        return tmp_path / name

    cases: dict[Path, str] = {
        changed("pickle", filters=[{"id": "pickle", "protocol": 5}]): "Zarr|packed by pickle",
        changed("pickled", compressor={"id": "pickle", "protocol": 5}): "Zarr|packed by pickle",
        changed("json2", filters=[{"id": "json2"}]): "packed by json2|Zarr",
        changed("large", shape=[1 << 40, 1 << 40]): "raise FULLYCONV_MAX_PIXELS",
        changed("none", shape=[0, 7]): "no pixels in it",
        changed("chunks", chunks=[1 << 40, 1 << 40]): "save it in smaller chunks",
        changed("kind", dtype="<M8[ns]", fill_value=0): "numbers of type datetime64|Zarr",
        changed("complex", dtype="<c16", fill_value=[0.0, 0.0]): "numbers of type complex128",
        changed("negative", shape=[-5, 7]): "Zarr",
        changed("words", shape="many"): "Zarr",
        changed("version", zarr_format=9): "Zarr",
    }
    for name, shape in {"line": (9,), "cube": (30, 40, 50), "doubt": (3, 40, 3), "dot": (1, 40, 2)}.items():
        write(tmp_path / name, np.zeros(shape, "u1"), chunks=shape)
        cases[tmp_path / name] = "whose axes have no names: name its dimensions y, x and c"
    write(tmp_path / "stack", np.zeros((5, 40, 50), "u1"), chunks=(1, 40, 50), dimension_names=["z", "y", "x"])
    cases[tmp_path / "stack"] = "a stack of 5 along z"
    write(tmp_path / "twice", np.zeros((40, 50), "u1"), chunks=(40, 50), dimension_names=["y", "y"])
    cases[tmp_path / "twice"] = "axes y, y of an array of 40 x 50"
    for name, text in {"cut": '{"zarr_format": 2, "sha', "deep": "[" * 100_000, "empty": "", "list": "[]"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / ".zarray").write_text(text)
        cases[tmp_path / name] = "Zarr"
    zarr.open_group(tmp_path / "group", mode="w")
    cases[tmp_path / "group"] = "no picture in it"
    for name, listed in {"up": [{"path": "../twice"}], "gone": [{"path": "s9"}], "nothing": [], "odd": [7]}.items():
        group = zarr.open_group(tmp_path / name, mode="w", zarr_format=2)
        group.attrs["multiscales"] = [{"axes": ["y", "x"], "datasets": listed}]
        cases[tmp_path / name] = "Zarr|multiscales"
    assert all(map(is_store, cases))
    for path, words in cases.items():
        for read in (read_raster, lambda path: open_rows(path, 1) or read_raster(path)):
            with pytest.raises(BadFile, match=rf"{path.name}: .*({words})"):
                read(path)
    monkeypatch.setattr(LIMITS, "pixels", 100)
    write(tmp_path / "over", grey, chunks=(20, 20))
    with pytest.raises(BadFile, match="53 x 70 pixels: raise FULLYCONV_MAX_PIXELS"):
        read_raster(tmp_path / "over")


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    write(tmp_path / "x", numbers("u1", 1)[..., 0], chunks=SIZE, zarr_format=2, compressors=None)
    file = tmp_path / "x/.zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"compressor": {"id": "pickle", "protocol": 5}}))
    (tmp_path / "x/0.0").write_bytes(pickle.dumps(Told()))
    with pytest.raises(BadFile):
        read_raster(tmp_path / "x")
    assert not (tmp_path / "told").exists()
    pickle.loads((tmp_path / "x/0.0").read_bytes())
    assert (tmp_path / "told").exists()


def test_a_broken_chunk_is_a_bad_file(tmp_path: Path) -> None:
    write(tmp_path / "x", numbers("u1", 3), chunks=(20, 20, 3), zarr_format=2)
    (tmp_path / "x/2.0.0").write_bytes(b"no chunk")
    with pytest.raises(BadFile, match="x: an unreadable Zarr store"):
        read_raster(tmp_path / "x")
    rows = open_rows(tmp_path / "x", 1)
    assert rows is not None
    assert rows[0:40, 0:53].shape == (40, 53, 3)
    with pytest.raises(BadFile, match="x: an unreadable Zarr store"):
        rows[40:60, 0:53]
    (tmp_path / "x/2.0.0").unlink()  # a chunk that is not there is the store's fill value
    assert not read_raster(tmp_path / "x").values[40:60, :20].any()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("codec", ["zstd", "blosc", "gzip", "zlib", "lz4", "bz2", "lzma"])
def test_a_chunk_unpacks_to_no_more_than_its_numbers_take(tmp_path: Path, codec: str, version: int) -> None:
    packer = numcodecs.get_codec({"id": codec})
    values = numbers("u2", 3)
    bomb = packer.encode(np.zeros(64 << 20, np.uint8))
    packing: Any = packer if version == 2 else zarr.registry.get_codec_class(f"numcodecs.{codec}")()
    for shards in (None, (32, 32, 3))[: version - 1]:
        place = tmp_path / f"{shards is None}.zarr"
        write(place, values, chunks=(16, 16, 3), shards=shards, zarr_format=version, compressors=packing)
        np.testing.assert_array_equal(read_raster(place).values, values)
        chunk = next(file for file in place.rglob("*") if file.is_file() and not file.name.startswith((".", "z")))
        chunk.write_bytes(bomb if shards is None else _shard(bomb, 4))
        refused = pytest.raises(BadFile, match=r"unpacks to more than the \d+ bytes that its numbers take|at most")
        with PeakMemory() as memory, refused:
            read_raster(place)
        assert not memory.taken > 32 << 20


def _shard(chunk: bytes, count: int) -> bytes:
    """Make a shard of one chunk, whose index says so and that the others are not there."""
    index = np.full((count, 2), 2**64 - 1, "<u8")
    index[0] = 0, len(chunk)
    return chunk + index.tobytes() + np.uint32(google_crc32c.value(index.tobytes())).astype("<u4").tobytes()


@pytest.mark.parametrize("version", [2, 3])
def test_a_chunk_with_more_than_it_stands_for_is_not_unpacked(tmp_path: Path, version: int) -> None:
    zarr.create_array(
        tmp_path / "x.zarr", data=np.zeros((64, 64, 3), np.uint8), chunks=(32, 32, 3), zarr_format=version, fill_value=1
    )
    chunk = next(file for file in (tmp_path / "x.zarr").rglob("*0*") if file.is_file() and "json" not in file.name)
    chunk.write_bytes(gzip.compress(bytes(100 << 20)))
    with pytest.raises(BadFile, match="and what it stands for at most"):
        read_raster(tmp_path / "x.zarr")
