from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv.data.check import check_folder
from fullyconv.data.folder import open_folder
from fullyconv.data.images import ORIENTATION
from fullyconv.files import BadFile
from fullyconv.recipes import RECIPES
from fullyconv.train.assemble import BadData, prepare

CLASSES = "classes: [ground, tree]\n"


def picture(path: Path, *, seed: int, turn: int = 1, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


def mask(path: Path, values: np.ndarray | None = None, *, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        values = np.zeros(size, np.uint8)
        values[: size[0] // 2] = 1
    Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound data set: two training pairs, one validation pair."""
    for index, (split, name) in enumerate([("train", "a"), ("train", "b"), ("val", "c")]):
        picture(tmp_path / split / "images" / f"{name}.png", seed=index)
        mask(tmp_path / split / "masks" / f"{name}.png")
    (tmp_path / "classes.yaml").write_text(CLASSES)
    return tmp_path


def problems(root: Path) -> list[str]:
    return [str(problem) for problem in check_folder(open_folder(root)).problems]


def test_a_sound_set_has_no_problem_and_true_figures(root: Path) -> None:
    report = check_folder(open_folder(root))
    assert report.problems == []
    figures = report.splits["train"]
    assert (figures.pairs, figures.smallest, figures.largest, figures.void) == (2, (20, 30), (20, 30), 0)
    assert figures.shares.tolist() == [0.5, 0.5]
    pixels = np.concatenate(
        [np.asarray(Image.open(path)).reshape(-1, 3) for path in (root / "train" / "images").iterdir()]
    )
    assert report.mean == pytest.approx(pixels.mean(0), abs=1e-3)
    assert report.std == pytest.approx(pixels.std(0), abs=1e-2)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-600])


def turned(root: Path, *, turn: int, size: tuple[int, int]) -> None:
    picture(root / "train/images/a.png", seed=9, turn=turn, size=size)
    mask(root / "train/masks/a.png", size=size)


BREAKAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing mask": (lambda r: (r / "train/masks/a.png").unlink(), "a.png", "has no mask"),
    "missing image": (lambda r: (r / "val/images/c.png").unlink(), "c.png", "has no image"),
    "truncated image": (lambda r: truncate(r / "train/images/a.png"), "images/a.png", "truncated"),
    "unreadable mask": (lambda r: (r / "train/masks/a.png").write_text("no"), "masks/a.png", "unreadable"),
    "size mismatch": (lambda r: mask(r / "train/masks/a.png", size=(20, 31)), "masks/a.png", "31 x 20"),
    "stray label": (lambda r: mask(r / "train/masks/a.png", np.full((20, 30), 7)), "masks/a.png", "classes: 7"),
    "colour mask": (lambda r: picture(r / "train/masks/a.png", seed=0), "masks/a.png", "colour mask read as indices"),
    "all void": (lambda r: mask(r / "train/masks/a.png", np.full((20, 30), 255)), "masks/a.png", "all pixels are void"),
    "same picture twice": (
        lambda r: shutil.copy(r / "train/images/a.png", r / "val/images/c.png"), "c.png", "the same picture as",
    ),
    "rotated by EXIF": (lambda r: turned(r, turn=6, size=(20, 30)), "images/a.png", "EXIF orientation (6)"),
    "mirrored by EXIF": (lambda r: turned(r, turn=2, size=(20, 30)), "images/a.png", "EXIF orientation (2)"),
    "square and rotated": (lambda r: turned(r, turn=8, size=(20, 20)), "images/a.png", "EXIF orientation (8)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKAGES)
def test_each_breakage_is_found_with_its_file_and_training_refuses_it_in_the_same_words(root: Path, name: str) -> None:
    breakage, file, words = BREAKAGES[name]
    breakage(root)
    said = problems(root)
    (line,) = [line for line in said if words in line]
    assert file in line
    with pytest.raises(BadData) as refusal:
        prepare(RECIPES["default"], root)
    assert line in str(refusal.value)


def test_a_class_that_a_split_lacks_is_a_warning_and_training_goes_on(root: Path) -> None:
    mask(root / "val/masks/c.png", np.zeros((20, 30)))
    report = check_folder(open_folder(root))
    assert report.problems == []
    (warning,) = report.warnings
    assert "1 classes never occur in split 'val': tree" in str(warning)
    assert len(prepare(RECIPES["default"], root).train) == 2


def test_0_255_masks_are_recognised(root: Path) -> None:
    for path in root.glob("*/masks/*.png"):
        mask(path, np.repeat([[0, 255]], 20, axis=0).repeat(15, axis=1))
    assert any("0/255 masks read as indices" in line for line in problems(root))


def test_a_mask_upright_like_the_rotated_image_is_fine(root: Path) -> None:
    picture(root / "train/images/a.png", seed=9, turn=6, size=(20, 30))
    mask(root / "train/masks/a.png", size=(30, 20))
    assert problems(root) == []


def test_classes_are_inferred_when_there_is_no_file(root: Path) -> None:
    (root / "classes.yaml").unlink()
    report = check_folder(open_folder(root))
    assert report.inferred
    assert report.classes.names == ("class_0", "class_1")


def test_bad_pairs_can_be_left_out(root: Path) -> None:
    truncate(root / "train/images/a.png")
    prepared = prepare(RECIPES["default"], root, skip_problems=True)
    assert [pair.name for pair in prepared.train] == ["b"]


def test_progress_counts_every_pair(root: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    check_folder(open_folder(root), progress=lambda *call: calls.append(call))
    assert ("reading train", 2, 2) in calls
    assert ("reading val", 1, 1) in calls


def test_nothing_to_infer_from_is_an_error(root: Path) -> None:
    (root / "classes.yaml").unlink()
    for path in root.glob("*/masks/*.png"):
        mask(path, np.full((20, 30), 255))
    with pytest.raises(BadFile, match="cannot be inferred"):
        check_folder(open_folder(root))


def test_camvid_is_sound(camvid: Path) -> None:
    report = check_folder(open_folder(camvid), RECIPES["camvid"].classes)
    assert report.problems == []
    assert {name: figures.pairs for name, figures in report.splits.items()} == {"train": 367, "val": 101}
