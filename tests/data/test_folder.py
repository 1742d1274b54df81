from __future__ import annotations

from pathlib import Path

import pytest

from fullyconv.data.folder import evaluation_split, open_folder, training_splits
from fullyconv.files import BadFile


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def stems(root: Path) -> dict[str, list[str]]:
    folder = open_folder(root)
    assert not folder.problems
    return {split: [pair.name for pair in pairs] for split, pairs in folder.splits.items()}


def test_plain_folder(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.jpg", "images/a.PNG", "masks/a.png", "masks/b.png", "images/notes.txt")
    assert stems(tmp_path) == {"all": ["a", "b"]}


@pytest.mark.parametrize("form", ["{split}/{kind}/{name}", "{kind}/{split}/{name}"])
def test_split_folders(tmp_path: Path, form: str) -> None:
    for split, name in (("train", "a.png"), ("train", "b.png"), ("val", "c.png")):
        for kind in ("images", "masks"):
            touch(tmp_path, form.format(split=split, kind=kind, name=name))
    assert stems(tmp_path) == {"train": ["a", "b"], "val": ["c"]}


@pytest.mark.parametrize("place", ["", "splits/"])
def test_split_lists(tmp_path: Path, place: str) -> None:
    touch(tmp_path, *(f"{kind}/{name}.png" for kind in ("images", "masks") for name in "abc"))
    touch(tmp_path, f"{place}train.txt", f"{place}val.txt")
    (tmp_path / f"{place}train.txt").write_text("a\nimages/c.png masks/c.png\n\n")
    (tmp_path / f"{place}val.txt").write_text("b\n")
    assert stems(tmp_path) == {"train": ["a", "c"], "val": ["b"]}


def test_voc_layout(tmp_path: Path) -> None:
    touch(tmp_path, "JPEGImages/2007_1.jpg", "JPEGImages/2007_2.jpg", "SegmentationClass/2007_1.png")
    touch(tmp_path, "SegmentationClass/2007_2.png", "ImageSets/Segmentation/train.txt")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("2007_1\n")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_2\n")
    assert stems(tmp_path) == {"train": ["2007_1"], "val": ["2007_2"]}


def test_missing_partners_are_reported_each_with_its_file(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "masks/a.png", "images/lonely.png", "masks/orphan.png", "images/a.jpg")
    said = [str(problem) for problem in open_folder(tmp_path).problems]
    assert len(said) == 3
    assert any("lonely.png: has no mask" in line for line in said)
    assert any("orphan.png: has no image" in line for line in said)
    assert any("has the stem of" in line for line in said)


def test_lists_that_name_nothing_are_reported(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "masks/a.png", "images/b.png", "train.txt")
    (tmp_path / "train.txt").write_text("a\nb\nghost\n")
    said = [str(problem) for problem in open_folder(tmp_path).problems]
    assert any("lists 'ghost'" in line for line in said)
    assert any("b.png: has no mask" in line for line in said)


def test_a_folder_without_val_holds_out_the_same_pairs_every_time(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}/{index}.png" for kind in ("images", "masks") for index in range(10)))
    first, second = training_splits(open_folder(tmp_path)), training_splits(open_folder(tmp_path))
    assert first == second
    train, val = first
    assert (len(train), len(val)) == (8, 2)
    assert not {pair.name for pair in train} & {pair.name for pair in val}


def test_the_test_split_is_never_trained_or_validated_on(tmp_path: Path) -> None:
    for split, names in (("train", "abcde"), ("test", "xyz")):
        touch(tmp_path, *(f"{split}/{kind}/{name}.png" for kind in ("images", "masks") for name in names))
    train, val = training_splits(open_folder(tmp_path))
    assert {pair.name for pair in [*train, *val]} == set("abcde")


def test_which_split_is_scored(tmp_path: Path) -> None:
    for split in ("train", "val"):
        touch(tmp_path, f"{split}/images/a.png", f"{split}/masks/a.png")
    folder = open_folder(tmp_path)
    assert evaluation_split(folder, None) == folder.splits["val"]
    assert evaluation_split(folder, "train") == folder.splits["train"]
    with pytest.raises(BadFile, match="choose one of train, val"):
        evaluation_split(folder, "test")


def test_a_folder_of_no_known_layout_shows_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="JPEGImages"):
        open_folder(tmp_path)
    with pytest.raises(BadFile, match="no such folder"):
        open_folder(tmp_path / "none")
