"""Masks that number things: noticed, refused in a sentence, read as background and object where that is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fullyconv.cli import app
from fullyconv.data.check import check_folder
from fullyconv.data.classes import ClassGuess, read_classes, write_classes
from fullyconv.data.folder import open_folder
from fullyconv.data.masks import RawMask, decode_mask
from fullyconv.data.raster import Refused
from fullyconv.data.things import THINGS, euler_numbers
from fullyconv.files import BadFile
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import Recipe
from fullyconv.types import VOID, ClassSet

rng = np.random.default_rng(0)


def cells(count: int, *, size: int = 12, start: int = 1, step: int = 1) -> np.ndarray:
    """Draw discs in a raster of places, each with a number of its own."""
    side = int(np.ceil(np.sqrt(count)))
    mask = np.zeros((side * size, side * size), np.uint16)
    y, x = np.mgrid[:size, :size] - size // 2
    for place, number in enumerate(range(start, start + count * step, step)):
        top, left = divmod(place, side)
        mask[top * size : top * size + size, left * size : left * size + size][np.hypot(x, y) < size / 3] = number
    return mask


def palette_colours() -> np.ndarray:
    return np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]])


def guess(masks: list[np.ndarray]) -> ClassSet:
    found = ClassGuess()
    for mask in masks:
        found.see(RawMask(mask))
    return found.classes()


@pytest.mark.parametrize(
    "masks",
    [
        [cells(n) for n in (5, 9, 3, 7)],  # counted anew in each
        [cells(n, start=17 * n, step=3) for n in (14, 9, 30)],  # what is left of a numbering
        [cells(n) for n in (300, 255, 40)],
        [
            np.stack([cells(n, start=5, step=n) % 251, cells(n), cells(n) * 7 % 256], 2).astype(np.uint8)
            for n in (9, 16, 25)
        ],
    ],
)
def test_masks_of_things_are_not_taken_for_classes(masks: list[np.ndarray]) -> None:
    with pytest.raises(Refused, match="the masks number things, not kinds of things") as refused:
        guess(masks)
    assert "--set instances=true" in refused.value.fix


@pytest.mark.parametrize(
    "masks",
    [
        [rng.integers(0, 40, (9, 11)).repeat(5, 0).repeat(5, 1) for _ in range(4)],  # kinds lie in several places
        [cells(n) % 4 for n in (5, 9, 30)],
        [(cells(9) > 0) * n for n in (1, 2, 3, 2, 1)],  # one kind a picture
        [cells(13) for _ in range(5)],  # organs: as many in each
        [cells(n) for n in (2, 1, 2, 3, 1)],  # an organ and what may be in it
    ],
)
def test_masks_of_kinds_stay_classes(masks: list[np.ndarray]) -> None:
    assert len(guess(masks)) == max(int(mask.max()) for mask in masks) + 1


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ([rng.integers(0, 40, (9, 11)).repeat(5, 0).repeat(5, 1) for _ in range(4)], "are several areas"),
        ([rng.integers(0, 3, (9, 11)).repeat(5, 0).repeat(5, 1)], "are several areas"),
        ([cells(n) % 4 for n in (5, 9, 30)], "are several areas"),
        ([cells(13) for _ in range(5)], "all of 5 masks hold the same 13 numbers"),
        ([palette_colours()[cells(n) % 4] for n in (5, 9, 30)], "are several areas"),
        ([(cells(n) > 0) * 255 for n in (5, 9, 30)], ""),  # nothing but background and object
        ([cells(n) for n in (5, 9, 3, 7)], ""),
        ([cells(n, start=17 * n, step=3) for n in (14, 9, 30)], ""),
        ([cells(2), cells(2)], ""),
    ],
)
def test_classes_that_are_read_as_things_are_warned_of(tmp_path: Path, masks: list[np.ndarray], said: str) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for place, mask in enumerate(masks):
        picture = mask.astype(np.uint8) if mask.ndim == 3 else mask.astype(np.uint16)
        Image.fromarray(picture).save(tmp_path / "masks" / f"{place}.png")
        Image.fromarray(rng.integers(0, 256, (*mask.shape[:2], 3), np.uint8)).save(tmp_path / "images" / f"{place}.png")
    report = check_folder(open_folder(tmp_path), instances=True)
    found = [odd.what for odd in report.warnings if "one class" in odd.what]
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_areas_are_counted_as_scipy_counts_them() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    for seed in range(5):
        mask = np.random.default_rng(seed).integers(0, 3, (12, 9))
        for number, found in euler_numbers(mask).items():
            areas = ndimage.label(mask == number)[1]
            around = np.pad(mask != number, 1, constant_values=True)
            assert found == areas - (ndimage.label(around, np.ones((3, 3)))[1] - 1)


def folder_of(root: Path, *counts: int) -> Path:
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for place, count in enumerate(counts):
        mask = cells(count)
        noise = rng.integers(0, 90, mask.shape)
        Image.fromarray((noise + 100 * (mask > 0)).astype(np.uint8)).save(root / "images" / f"{place}.png")
        Image.fromarray(mask).save(root / "masks" / f"{place}.png")
    return root


def test_what_the_sentence_says_is_what_helps(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 5, 9, 260, 7)
    with pytest.raises(
        BadFile, match=r"up to 260 in a mask: read them as background and object, '--set instances=true'"
    ):
        check_folder(open_folder(root))
    report = check_folder(open_folder(root), instances=True)
    assert report.problems == []
    assert report.splits["all"].pixels[1] == sum(int((cells(n) > 0).sum()) for n in (5, 9, 260, 7))
    assert prepare(Recipe(instances=True), root).report.classes == THINGS
    told = CliRunner().invoke(app, ["data", "check", str(root), "--instances", "--write-classes"])
    assert told.exit_code == 0, told.output
    assert read_classes(root / "classes.yaml") == THINGS
    assert check_folder(open_folder(root)).classes.names == ("background", "object")
    write_classes(ClassSet(tuple(map(str, range(200)))), root / "classes.yaml")
    with pytest.raises(BadFile, match="states its classes, which instances=true does not go with"):
        check_folder(open_folder(root), instances=True)


def test_things_are_read_whatever_their_number(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    assert decode_mask(RawMask(np.array([[0, 255, 70_000]])), THINGS, path).tolist() == [[0, 1, 1]]
    assert decode_mask(RawMask(np.array([[[0, 0, 0], [0, 9, 0]]])), THINGS, path).tolist() == [[0, 1]]
    (tmp_path / "classes.yaml").write_text("masks: instances\nclasses: [gap, grain]\nignore: 7\n")
    classes = read_classes(tmp_path / "classes.yaml")
    assert decode_mask(RawMask(np.array([[0, 7, 8]])), classes, path).tolist() == [[0, VOID, 1]]
    with pytest.raises(BadFile, match="number -3 among those of things"):
        decode_mask(RawMask(np.array([[0, -3]])), THINGS, path)
    (tmp_path / "classes.yaml").write_text("masks: instances\nclasses: [gap, grain, other]\n")
    with pytest.raises(BadFile, match="masks that number things have two classes"):
        read_classes(tmp_path / "classes.yaml")
