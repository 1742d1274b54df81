from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fullyconv.data.check import check_folder
from fullyconv.data.folder import open_folder
from fullyconv.data.images import ORIENTATION
from fullyconv.data.problems import group
from fullyconv.files import BadFile
from fullyconv.recipes import RECIPES
from fullyconv.train.prepare import BadData, prepare
from fullyconv.types import Levels

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
    assert "restore" not in line


def test_a_class_that_a_split_lacks_is_a_warning_and_training_goes_on(root: Path) -> None:
    mask(root / "val/masks/c.png", np.zeros((20, 30)))
    report = check_folder(open_folder(root))
    assert report.problems == []
    (warning,) = report.warnings
    assert "1 of 2 classes never occur in split 'val': tree" in str(warning)
    assert "not scored there" in warning.fix
    assert "classes.yaml" not in warning.fix
    assert len(prepare(RECIPES["default"], root).train) == 2


def test_what_an_absent_class_means_depends_on_where_it_is(root: Path) -> None:
    for name in "ab":
        mask(root / f"train/masks/{name}.png", np.zeros((20, 30)))
    (warning,) = check_folder(open_folder(root)).warnings
    assert "split 'train'" in warning.what
    assert "not learnt, but" in warning.fix
    mask(root / "val/masks/c.png", np.zeros((20, 30)))
    warnings = check_folder(open_folder(root)).warnings
    assert "all labelled pixels are of one class (ground)" in warnings[0].what
    assert len(warnings) == 3
    assert all("neither learnt nor scored: leave them out of classes.yaml?" in each.fix for each in warnings[1:])


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
    picture(root / "val/images/d.png", seed=1)  # b again
    mask(root / "val/masks/d.png")
    prepared = prepare(RECIPES["default"], root, skip_problems=True)
    assert [pair.name for pair in prepared.train] == ["b"]
    assert [pair.name for pair in prepared.val] == ["c"]


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


def test_one_bad_mask_does_not_stop_the_check(root: Path) -> None:
    """Neither with classes from a file nor with inferred ones."""
    hostile = {
        "mask_int32_max.tif": np.array([[0, 2**31 - 1]], np.int32),
        "mask_int32_min.tif": np.array([[0, -(2**31)]], np.int32),
        "mask_minus254.tif": np.array([[0, -254]], np.int32),
        "mask_uint64.tif": np.array([[0, 2**64 - 1]], np.uint64),
    }
    for name, values in hostile.items():
        stem = name.partition(".")[0]
        picture(root / "train/images" / f"{stem}.png", seed=len(stem) + values.dtype.itemsize)
        tifffile.imwrite(root / "train/masks" / name, np.broadcast_to(values, (20, 2)).repeat(15, axis=1))
    for inferred in (False, True):
        if inferred:
            (root / "classes.yaml").unlink()
        said = problems(root)
        assert len(said) == len(hostile)
        for name, values in hostile.items():
            (line,) = [line for line in said if name in line]
            assert f"label outside the classes: {values[0, 1]}" in line


@pytest.mark.parametrize(
    "name", ["mask_int32_max.tif", "mask_int32_min.tif", "mask_minus254.tif", "palette_beyond.png"]
)
def test_hostile_masks(root: Path, name: str) -> None:
    path = Path(__file__).parents[3] / "shared" / "cases" / "hostile" / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    size = (5, 5) if name == "palette_beyond.png" else (40, 53)
    picture(root / "train/images/z.png", seed=7, size=size)
    shutil.copy(path, root / "train" / "masks" / f"z{path.suffix}")
    (line,) = problems(root)
    assert "train/masks/z" in line
    assert "label outside the classes" in line


def test_masks_as_jpeg_are_the_cause_that_is_named(root: Path) -> None:
    for path in root.glob("*/masks/*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    report = check_folder(open_folder(root))
    assert {problem.what for problem in report.problems} == {"a mask saved as JPEG, which changes its numbers"}
    assert len(group(report.problems)) == 1
    (root / "classes.yaml").unlink()
    with pytest.raises(BadFile, match=r"3 of 3 masks are of no use, such as .*: a mask saved as JPEG"):
        check_folder(open_folder(root))


def test_a_broken_orientation_is_no_problem(root: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(stream, "JPEG")
    raw = stream.getvalue()
    tag = struct.pack("<HHI", 0x112, 5, 1) + struct.pack("<I", 26) + bytes(4) + struct.pack("<II", 1, 0)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + tag
    (root / "train/images/a.png").unlink()
    content = raw[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + raw[2:]
    (root / "train/images/a.jpg").write_bytes(content)
    assert problems(root) == []


def test_pictures_of_several_depths_are_told(root: Path) -> None:
    for path, largest in (("train/images/a.png", 4000), ("train/images/b.png", 3000), ("val/images/c.png", 40_000)):
        values = np.random.default_rng(largest).integers(0, largest, (20, 30)).astype(np.uint16)
        Image.fromarray(values).save(root / path)
    report = check_folder(open_folder(root))
    assert report.problems == []
    assert report.levels == Levels(((0, 4095),))  # of the training pictures
    assert "one range for all pictures: 0 to 4095" in report.folder.note
    (warning,) = report.warnings
    assert "c.png: 91% of its numbers lie beyond the range of the training pictures" in str(warning)


def test_transparent_pictures_are_told(root: Path) -> None:
    Image.fromarray(np.full((20, 30, 4), 90, np.uint8)).save(root / "train/images/a.png")
    assert "transparent pixels are taken in their stored colours" in str(check_folder(open_folder(root)).warnings[0])


def test_camvid_is_sound(camvid: Path) -> None:
    report = check_folder(open_folder(camvid), RECIPES["camvid"].classes)
    assert report.problems == []
    assert {name: figures.pairs for name, figures in report.splits.items()} == {"train": 367, "val": 101}


def test_palettes_that_disagree_are_warned_of_where_classes_are_stated(root: Path) -> None:
    for place, palette in enumerate(([0, 0, 0, 255, 0, 0, 0, 0, 255], [0, 0, 0, 0, 0, 255, 255, 0, 0])):
        mask = Image.fromarray(np.repeat([[0, 1, 2]], 3, 0).astype(np.uint8).repeat(8, 0).repeat(8, 1), "P")
        mask.putpalette(palette)
        mask.save(root / "train" / "masks" / f"p{place}.png")
        Image.fromarray(np.full((24, 24, 3), 50 * place, np.uint8)).save(root / "train" / "images" / f"p{place}.png")
    (root / "classes.yaml").write_text("classes: [a, b, c]\n")
    report = check_folder(open_folder(root))
    (warning,) = [each for each in report.warnings if "palette" in each.what]
    assert warning.path == str(root / "train" / "masks" / "p1.png")
    assert "the colour #0000ff is 2 in p0.png and 1 in p1.png" in warning.what


def test_masks_that_hold_their_labels_in_alpha_and_circles_of_links_are_noticed(tmp_path: Path) -> None:
    labels = np.kron([[0, 1], [1, 0]], np.ones((8, 8))).astype(np.uint8)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "circle").symlink_to("..", target_is_directory=True)
    for index in range(2):
        picture = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(np.dstack([*[labels * 0] * 3, labels * 255])).save(tmp_path / "masks" / f"{index}.png")
    report = check_folder(open_folder(tmp_path))
    assert (report.problems, [len(pairs) for pairs in report.folder.splits.values()]) == ([], [2])
    said = [odd.what for odd in report.warnings]
    assert sum("its alpha is passed over" in what for what in said) == 2
    assert sum("nothing to tell apart" in what for what in said) == 1
