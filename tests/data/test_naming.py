from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv.data.folder import open_folder
from fullyconv.data.naming import misnamed_pairs
from fullyconv.files import BadFile


def files(folder: str, *names: str) -> dict[str, Path]:
    return {Path(name).stem: Path(folder) / name for name in names}


@pytest.mark.parametrize(
    ("images", "masks", "what", "fix"),
    [
        (
            ["p0.jpg", "p1.jpg"],
            ["p0_mask.png", "p1_mask.png"],
            "2 of 2 .* by '_mask': p0.jpg and p0_mask.png",
            "without '_mask'",
        ),
        (["img_0.jpg", "img_1.jpg"], ["0.png", "1.png"], "2 of 2 .* by 'img_'", "rename the images without 'img_'"),
        (["img_0.jpg", "img_1.jpg"], ["mask_0.png", "mask_1.png"], "begin with 'img' and 'mask'", "with 'img' too"),
        (
            ["a_0_leftImg8bit.png", "a_1_leftImg8bit.png"],
            ["a_0_gtFine_labelIds.png", "a_1_gtFine_labelIds.png"],
            "2 of 2 .* end with 'leftImg8bit' and 'gtFine_labelIds'",
            "end with 'leftImg8bit' too",
        ),
        (["IMG0.JPG", "IMG1.JPG"], ["img0.png", "img1.png"], "differ in upper and lower case", "letter by letter"),
        (
            [unicodedata.normalize("NFD", "café.jpg")],
            [unicodedata.normalize("NFC", "café.png")],
            "look the same, but write accents in two ways",
            "nfc",
        ),
        (["dog.jpg"], ["scan77.png"], "the nearest are dog.jpg and scan77.png", "here dog.png"),
        (["p0.jpg", "p1.jpg", "p2.jpg"], ["p0.png", "p1_m.png", "p2_m.png"], "2 of 3 .* by '_m': p1.jpg and", "'_m'"),
    ],
)  # fmt: skip
def test_what_would_pair_them(images: list[str], masks: list[str], what: str, fix: str) -> None:
    problem = misnamed_pairs(files("images", *images), files("masks", *masks))
    assert problem is not None
    with pytest.raises(BadFile, match=what):
        raise problem
    assert fix in problem.fix


@pytest.mark.parametrize(
    ("images", "masks"), [(["a.jpg"], ["a.png"]), (["a.jpg", "b.jpg"], ["a.png"]), ([], ["a.png"])]
)
def test_nothing_is_misnamed(images: list[str], masks: list[str]) -> None:
    assert misnamed_pairs(files("images", *images), files("masks", *masks)) is None


def write(root: Path, images: list[str], masks: list[str]) -> Path:
    for kind, names, shape in (("images", images, (4, 5, 3)), ("masks", masks, (4, 5))):
        (root / kind).mkdir(parents=True)
        for name in names:
            Image.fromarray(np.zeros(shape, np.uint8)).save(root / kind / name)
    return root


def test_a_suffix_that_pairs_is_taken_and_said(tmp_path: Path) -> None:
    root = write(tmp_path, [f"p{n}.jpg" for n in range(30)], [f"p{n}_mask.png" for n in range(30)])
    folder = open_folder(root)
    assert [(pair.image.stem, pair.mask.stem) for pair in folder.splits["all"]] == [
        (f"p{n}", f"p{n}_mask") for n in sorted(range(30), key=str)
    ]
    assert folder.note == "30 images and their masks differ by '_mask': p0.jpg and p0_mask.png"
    assert not folder.problems


def test_a_folder_in_which_nothing_pairs_names_the_nearest(tmp_path: Path) -> None:
    root = write(tmp_path, ["p1.jpg", "p2.jpg", "p3.jpg"], ["p1_x.png", "q.png", "r.png"])
    with pytest.raises(BadFile) as caught:
        open_folder(root)
    said = str(caught.value)
    assert "no image with a mask: no mask has the stem of an image: the nearest are p1.jpg and p1_x.png" in said
    assert "or choose mask_suffix=_x" in said
    assert len(said.splitlines()) == 1


def test_the_reason_stands_before_the_files_that_are_left(tmp_path: Path) -> None:
    names = [f"p{n}.jpg" for n in range(4)]
    folder = open_folder(write(tmp_path, names, ["p0.png", *(f"p{n}_mask.png" for n in range(1, 4))]))
    assert "3 of 4 images and their masks differ by '_mask'" in str(folder.problems[0])
    assert len(folder.problems) == 7


def test_names_with_blanks_and_a_byte_order_mark_in_lists(tmp_path: Path) -> None:
    names = [f"my pic {n}" for n in range(4)]
    root = write(tmp_path, [f"{name}.jpg" for name in names], [f"{name}.png" for name in names])
    (root / "train.txt").write_bytes(b"\xef\xbb\xbfmy pic 0\r\nmy pic 1.jpg\r\n")
    (root / "val.txt").write_text("images/my pic 2.jpg masks/my pic 2.png\nimages/my pic 3.jpg\n")
    folder = open_folder(root)
    assert [pair.name for pair in folder.splits["train"]] == ["my pic 0", "my pic 1"]
    assert "my pic 3" in [pair.name for pair in folder.splits["val"]]


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, ["a.jpg"], ["a.png"])
    (root / "train.txt").write_bytes("straße".encode("latin-1"))
    with pytest.raises(BadFile, match=r"train.txt: a list that is not UTF-8 text: save it as UTF-8"):
        open_folder(root)


def test_only_lists_in_use_are_judged(tmp_path: Path) -> None:
    """A list of 10,582 pictures whose masks are in another folder is no reason not to train on the others."""
    root = tmp_path
    for kind, names in (("JPEGImages", "abcdef"), ("SegmentationClass", "abcd")):
        (root / kind).mkdir()
        for name in names:
            shape = (4, 5, 3) if kind == "JPEGImages" else (4, 5)
            suffix = ".jpg" if kind == "JPEGImages" else ".png"
            Image.fromarray(np.zeros(shape, np.uint8)).save(root / kind / f"{name}{suffix}")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, stems in (("train", "ab"), ("val", "cd"), ("trainaug", "abef"), ("test", "ef")):
        (lists / f"{split}.txt").write_text("\n".join(stems))
    folder = open_folder(root)
    assert "trainaug: 2 of 4 pictures have no pair here" in folder.note
    assert [pair.name for pair in folder.splits["trainaug"]] == ["a", "b"]
    assert {problem.path for problem in folder.problems} == {str(root / "JPEGImages" / f"{stem}.jpg") for stem in "ef"}
    folder.keep(("train", "val", "all"))
    assert folder.problems == []
    assert set(folder.splits) == {"train", "val"}


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["s0.jpg", "s0_mask.png", "s1.jpg", "s1_mask.png"], ["s0.jpg s0_mask.png", "s1.jpg s1_mask.png"]),
        (["s0.jpg", "gt_s0.png"], ["s0.jpg gt_s0.png"]),
        (["train/s0.png", "train/s0_L.png"], ["s0.png s0_L.png"]),
        (["s0.jpg", "s0.png"], ["s0.jpg s0.png"]),
    ],
)
def test_images_and_masks_in_one_folder_are_told_apart(tmp_path: Path, names: list[str], pairs: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    folder = open_folder(tmp_path)
    assert [f"{pair.image.name} {pair.mask.name}" for split in folder.splits.values() for pair in split] == pairs
    assert folder.note.startswith("images and masks lie in one folder: ")


@pytest.mark.parametrize(
    "names", [[f"{number}.jpg" for number in range(1, 30)], ["a.jpg", "a_copy.jpg"], [f"{n}.png" for n in "ab"]]
)
def test_pictures_that_differ_by_other_words_are_no_masks(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadFile, match=rf"{len(names)} images and no mask that pairs, such as {names[0]}: put masks"):
        open_folder(tmp_path)
