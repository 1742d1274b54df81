"""Masks that are no pictures, and pictures of rarer formats: their numbers are those that were written."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from fullyconv.data.check import check_folder
from fullyconv.data.folder import open_folder
from fullyconv.data.images import read_image, read_raster
from fullyconv.data.masks import read_raw_mask
from fullyconv.files import BadFile

LABELS = np.arange(6 * 8).reshape(6, 8) % 5


@pytest.mark.parametrize("kind", ["u1", "i8", ">u2", "f4", "?"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_arrays_of_any_type_are_masks(tmp_path: Path, kind: str, suffix: str) -> None:
    path, labels = tmp_path / f"a{suffix}", LABELS.astype(kind)
    if suffix == ".npy":
        np.save(path, np.asfortranarray(labels))
    elif suffix == ".npz":
        np.savez_compressed(path, mask=labels[..., None], other=np.arange(3), image=np.zeros((6, 8, 3)))
    else:
        scipy = pytest.importorskip("scipy.io")
        scipy.savemat(path, {"GT": labels.astype(labels.dtype.newbyteorder("=")), "note": "x", "n": np.zeros((1, 4))})
    assert np.array_equal(read_raw_mask(path).values, labels)


def wrong_files(folder: Path) -> list[tuple[Path, str]]:
    saved: dict[str, Any] = {
        "objects.npy": np.array([{}], object),
        "classes.npy": np.zeros((6, 8, 4)),
        "part.npy": np.zeros((2, 4)) + 0.5,
        "line.npy": np.zeros(4),
        "text.npy": np.array([["a"]]),
    }
    for name, array in saved.items():
        np.save(folder / name, array, allow_pickle=True)
    np.savez(folder / "two.npz", a=LABELS, b=LABELS)
    whole = (folder / "classes.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-9])
    (folder / "large.npy").write_bytes(whole.replace(b"(6, 8, 4)", b"(1000000, 1000000)").replace(b"  ", b"", 1))
    with zipfile.ZipFile(folder / "none.npz", "w") as archive:
        archive.writestr("a.npy", b"nothing")
    (folder / "none.mat").write_bytes(b"MATLAB 5.0")
    said = [
        "type",
        "argmax",
        "not whole",
        "an array of 4",
        "type",
        "a (6 x 8), b (6 x 8)",
        "truncated",
        "",
        "unreadable",
    ]
    names = [*saved, "two.npz", "cut.npy", "large.npy", "none.npz"]
    return [*((folder / name, words) for name, words in zip(names, said, strict=True)), (folder / "none.mat", "usable")]


def test_arrays_that_are_no_masks_are_refused_by_name(tmp_path: Path) -> None:
    for path, words in wrong_files(tmp_path):
        with pytest.raises(BadFile) as caught:
            read_raw_mask(path)
        assert words in str(caught.value), caught.value
        assert path.name in str(caught.value)


def test_a_folder_of_arrays_is_a_data_set(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
        np.save(tmp_path / "masks" / f"{name}.npy", LABELS)
    report = check_folder(open_folder(tmp_path))
    assert len(report.classes) == 5
    assert report.splits["all"].pixels.sum() == 2 * 48


def test_numbers_of_gif_masks_do_not_depend_on_the_colours_that_others_have(tmp_path: Path) -> None:
    for values in ((0, 3, 9), (0, 9, 255)):  # Pillow leaves out colours that a picture lacks: 9 is the second, or third
        mask = np.array([values, values[::-1]], np.uint8)
        Image.fromarray(mask).save(tmp_path / "a.gif")
        assert np.array_equal(read_raw_mask(tmp_path / "a.gif").values, mask)
    colours = np.array([[(255, 0, 0), (0, 0, 255)]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "b.gif")
    assert np.array_equal(read_raw_mask(tmp_path / "b.gif").values, colours)


@pytest.mark.parametrize("values", [np.uint8(200), np.uint16(3000)])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_2000_keeps_its_numbers(tmp_path: Path, values: np.integer[Any], channels: int) -> None:
    import imagecodecs

    rng = np.random.default_rng(0)
    shape = (9, 12) if channels == 1 else (9, 12, 3)
    numbers = rng.integers(0, int(values), shape).astype(values.dtype)
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(numbers, level=0, reversible=True))
    assert np.array_equal(read_raster(tmp_path / "a.jp2").values, numbers.reshape(9, 12, channels))
    with pytest.raises(BadFile, match="saved as JPEG 2000"):
        read_raw_mask(tmp_path / "a.jp2")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_a_picture_and_no_mask(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 24, 3), 77, np.uint8)).save(tmp_path / "a.avif")
    assert abs(read_image(tmp_path / "a.avif").astype(int) - 77).max() < 6
    with pytest.raises(BadFile, match="saved as AVIF"):
        read_raw_mask(tmp_path / "a.avif")
