from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv.data import images
from fullyconv.data.images import decode_mask, read_image, read_raw_mask
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS
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
