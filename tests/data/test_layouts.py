"""The forms in which people keep images and masks: each pairs rightly, or is refused in one sentence."""

from __future__ import annotations

import json
import os
import runpy
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from fullyconv.annotations.convert import convert
from fullyconv.cli import app
from fullyconv.data.check import check_folder
from fullyconv.data.classes import read_classes
from fullyconv.data.folder import open_folder, training_splits
from fullyconv.data.layout import folder_meaning
from fullyconv.files import BadFile
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import Recipe
from runs import train

FOUR = ("a1", "b2", "c3", "d4")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def paired(root: Path, mask_suffix: str | None = None) -> dict[str, list[tuple[str, str]]]:
    """Return image and mask of each pair, relative to the folder, by split; nothing may be wrong."""
    folder = open_folder(root, mask_suffix)
    assert not folder.problems, [str(problem) for problem in folder.problems]
    return {
        split: [(pair.image.relative_to(root).as_posix(), pair.mask.relative_to(root).as_posix()) for pair in pairs]
        for split, pairs in folder.splits.items()
    }


def build(root: Path, forms: dict[str, tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Write four pairs of names for each split, by the forms of image and mask; return what is to be found."""
    expected = {
        split: [(image.format(f"{split}{n}"), mask.format(f"{split}{n}")) for n in FOUR]
        for split, (image, mask) in forms.items()
    }
    touch(root, *(name for pairs in expected.values() for pair in pairs for name in pair))
    return expected


@pytest.mark.parametrize("suffix", ["", "_mask", "_gt", "_L", "_labelIds", "_gtFine_labelIds", "_1stHO", "-seg", " GT"])
@pytest.mark.parametrize(
    "kinds",
    ["images masks", "imgs labels", "Images GT", "img annotations", "image seg", "JPEGImages SegmentationClass"],
)
def test_names_of_folders_and_suffixes(tmp_path: Path, suffix: str, kinds: str) -> None:
    images, masks = kinds.split()
    forms = {"all": (f"{images}/{{}}.jpg", f"{masks}/{{}}{suffix}.png")}
    expected = build(tmp_path, forms)
    assert paired(tmp_path) == expected
    note = open_folder(tmp_path).note
    assert (repr(suffix) in note) == bool(suffix)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (("train/images/{}.jpg", "train/labels/{}.png"), ("valid/images/{}.jpg", "valid/labels/{}.png")),
        (("images/training/{}.jpg", "annotations/training/{}.png"),
         ("images/validation/{}.jpg", "annotations/validation/{}.png")),
        (("train/{}.jpg", "train_labels/{}.png"), ("val/{}.jpg", "val_labels/{}.png")),
        (("train/{}.png", "trainannot/{}.png"), ("val/{}.png", "valannot/{}.png")),
        (("Train/Images/{}.JPG", "Train/Masks/{}.PNG"), ("Validation/Images/{}.JPG", "Validation/Masks/{}.PNG")),
        (("leftImg8bit/train/ulm/{}_leftImg8bit.png", "gtFine/train/ulm/{}_gtFine_labelIds.png"),
         ("leftImg8bit/val/bonn/{}_leftImg8bit.png", "gtFine/val/bonn/{}_gtFine_labelIds.png")),
        (("set/imagesTr/{}_0000.png", "set/labelsTr/{}.png"), ("set/imagesVal/{}_0000.png", "set/labelsVal/{}.png")),
        (("Train/Urban/images_png/{}.png", "Train/Urban/masks_png/{}.png"),
         ("Val/Rural/images_png/{}.png", "Val/Rural/masks_png/{}.png")),
        (("img_dir/train/{}.jpg", "ann_dir/train/{}.png"), ("img_dir/val/{}.jpg", "ann_dir/val/{}.png")),
        (("train/{}.jpg", "train/{}_mask.png"), ("val/{}.jpg", "val/{}_mask.png")),
        (("images/train/{}.jpg", "masks/{}.png"), ("images/val/{}.jpg", "masks/{}.png")),
        (("train/images/{}.jpg", "train/images/masks/{}.png"), ("val/images/{}.jpg", "val/images/masks/{}.png")),
    ],
)  # fmt: skip
def test_splits(tmp_path: Path, train: tuple[str, str], val: tuple[str, str]) -> None:
    expected = build(tmp_path, {"train": train, "val": val})
    assert paired(tmp_path) == expected


def test_sites_that_number_their_pictures_alike(tmp_path: Path) -> None:
    for site in ("north", "south"):
        touch(tmp_path, *(f"{kind}/{site}/{n}.png" for kind in ("images", "masks") for n in range(3)))
    folder = open_folder(tmp_path)
    assert [pair.name for pair in folder.splits["all"]] == [
        f"{site}/{n}" for site in ("north", "south") for n in range(3)
    ]
    assert all(pair.image.parent.name == pair.mask.parent.name for pair in folder.splits["all"])
    (tmp_path / "train.txt").write_text("images/north/0.png\nsouth/2\n")
    (tmp_path / "val.txt").write_text("north/1.png\n")
    listed = open_folder(tmp_path)
    assert not listed.problems
    assert {split: [pair.name for pair in pairs] for split, pairs in listed.splits.items()} == {
        "train": ["north/0", "south/2"], "val": ["north/1"]}  # fmt: skip


def test_renderings_beside_masks_are_left_out_and_named(tmp_path: Path) -> None:
    expected = build(tmp_path, {"all": ("images/{}.png", "masks/{}_labelIds.png")})
    touch(tmp_path, *(f"masks/all{n}_color.png" for n in FOUR), *(f"masks/all{n}_instanceIds.png" for n in FOUR))
    assert paired(tmp_path) == expected
    assert "4 that end with '_color' and 4 that end with '_instanceIds'" in open_folder(tmp_path).note
    chosen = paired(tmp_path, "_color")["all"]
    assert [mask for _, mask in chosen] == [f"masks/all{n}_color.png" for n in FOUR]


def test_a_suffix_that_no_mask_has_is_refused(tmp_path: Path) -> None:
    build(tmp_path, {"all": ("images/{}.png", "masks/{}_L.png")})
    with pytest.raises(BadFile, match="no mask ends with mask_suffix='_gt': correct it"):
        open_folder(tmp_path, "_gt")


def test_spellings(tmp_path: Path) -> None:
    names = ["Café 1", "IMG_2", "straße"]
    touch(tmp_path, *(f"images/{unicodedata.normalize('NFD', name)}.JPG" for name in names))
    touch(tmp_path, *(f"masks/{unicodedata.normalize('NFC', name).lower()}.png" for name in names))
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf" + "CAFÉ 1\r\nimages/img_2.jpg\r\n".encode())
    folder = open_folder(tmp_path)
    assert not folder.problems
    assert len(folder.splits["train"]) == 2


def test_names_that_only_case_tells_apart_stay_apart(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}/{stem}.png" for kind in ("images", "masks") for stem in ("a", "A")))
    if len(os.listdir(tmp_path / "images")) < 2:
        pytest.skip("this file system does not tell upper from lower case")
    assert paired(tmp_path) == {"all": [(f"images/{stem}.png", f"masks/{stem}.png") for stem in "Aa"]}


def test_masks_of_trainaug_are_those_of_their_own_folder(tmp_path: Path) -> None:
    touch(tmp_path, *(f"JPEGImages/{n}.jpg" for n in "abcde"), *(f"SegmentationClass/{n}.png" for n in "abc"))
    touch(tmp_path, *(f"SegmentationClassAug/{n}.png" for n in "abcde"), "ImageSets/Segmentation/train.txt")
    for split, stems in (("train", "ab"), ("val", "c"), ("trainaug", "abde")):
        (tmp_path / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(stems))
    found = paired(tmp_path)
    assert found["train"] == [(f"JPEGImages/{n}.jpg", f"SegmentationClassAug/{n}.png") for n in "abde"]
    assert found["val"] == [("JPEGImages/c.jpg", "SegmentationClass/c.png")]
    assert "train is trainaug: 4 pairs" in open_folder(tmp_path).note


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"images/a.jpg": "", "masks/a.exr": ""}, "masks/a.exr: no image with a mask, but 1 .exr files, which are not"),
        ({"a.jpg": "", "a.json": json.dumps({"shapes": []})}, "a.json: no image with a mask, but outlines of LabelMe"),
        ({"t/a.jpg": "", "t/c.json": json.dumps({"images": [], "annotations": []})}, "c.json: .*outlines of COCO"),
        ({"images/a.jpg": "", "labels/a.txt": "0 0.1 0.2 0.3 0.4 0.5 0.6\n"}, "labels/a.txt: .*outlines of YOLO"),
        ({"images/a.jpg": "", "a.xml": "<annotations/>"}, "a.xml: .*outlines of CVAT"),
        ({"images/a.jpg": "", "a.geojson": "{}"}, "a.geojson: .*outlines of GeoJSON"),
        ({"masks/a.png": ""}, "masks: 1 mask and no image: put the images into images/"),
    ],
)  # fmt: skip
def test_what_is_no_mask_is_named(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        touch(tmp_path, name)
        (tmp_path / name).write_text(text)
    with pytest.raises(BadFile, match=said) as caught:
        open_folder(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_pictures_numbered_otherwise_are_not_paired_by_a_digit(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{n}.png" for n in range(1, 9)), *(f"masks/1{n}.png" for n in range(1, 9)))
    with pytest.raises(BadFile, match="no image with a mask: no mask has the stem of an image"):
        open_folder(tmp_path)


@given(st.text())
def test_every_name_of_a_folder_is_read(name: str) -> None:
    meaning = folder_meaning(name)
    assert meaning is None or (meaning[0] in ("", "image", "mask") and meaning[1] in ("", "train", "val", "test"))


SENTENCES = {  # of the sets that are not trained on as they are
    "c_binary_jpg": "a mask saved as JPEG", "d_rgb_jpg": "a mask saved as JPEG", "f_coco": "outlines of COCO",
    "f_labelme": "outlines of LabelMe", "f_roboflow": "outlines of COCO", "f_yolo": "outlines of YOLO",
    "g_instances16": "the masks number things", "g_multipage": "4 pages", "j_twostems": "has the stem of",
}  # fmt: skip
MAKER = Path(__file__).parents[3] / "shared" / "cases" / "layouts" / "make.py"


@pytest.mark.slow
def test_sets_as_users_hold_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not MAKER.is_file():
        pytest.skip("the 52 sets are made by a script that is not part of the package")
    for library in ("scipy", "rasterio"):
        pytest.importorskip(library)
    monkeypatch.setattr(sys, "argv", ["make.py", str(tmp_path)])
    runpy.run_path(str(MAKER))
    small, said = Recipe(network="fcn1s-spectral2", epochs=1, crop=(16, 16), batch=8, device="cpu"), {}
    for place in sorted(tmp_path.iterdir()):
        try:
            folder = open_folder(place)
            report = check_folder(folder)
            said[place.name] = str(report.problems[0]) if report.problems else ""
            assert all(training_splits(folder))
            if not report.problems:
                train(small, place, tmp_path / "runs" / place.name)
        except BadFile as bad:
            said[place.name] = str(bad)
    assert len(said) == 52
    refused = {name: sentence for name, sentence in said.items() if sentence}
    assert refused.keys() == SENTENCES.keys(), refused
    assert all(SENTENCES[name] in sentence and "\n" not in sentence for name, sentence in refused.items())
    for name in ("f_coco", "f_labelme", "f_roboflow", "f_yolo"):  # what the sentence says is what to do
        convert(tmp_path / name, tmp_path / f"{name}-plain")
        assert check_folder(open_folder(tmp_path / f"{name}-plain")).problems == []
    assert check_folder(open_folder(tmp_path / "g_multipage"), pages="channels").problems == []
    assert check_folder(open_folder(tmp_path / "g_instances16"), instances=True).problems == []


def test_the_suffix_is_chosen_from_the_shell_and_in_a_recipe(tmp_path: Path) -> None:
    for n in range(4):
        for name, shade in ((f"images/p{n}.png", 10 * n), (f"masks/p{n}_a.png", 0), (f"masks/p{n}_b.png", n % 2)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.new("L", (8, 8), shade).save(tmp_path / name)
    shown = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--mask-suffix", "_b", "--write-classes"])
    assert shown.exit_code == 0, shown.output
    assert len(read_classes(tmp_path / "classes.yaml")) == 2
    chosen = prepare(Recipe(mask_suffix="_b"), tmp_path)
    assert {pair.mask.stem[-2:] for pair in (*chosen.train, *chosen.val)} == {"_b"}
    wrong = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--mask-suffix", "_c"])
    assert wrong.exit_code != 0
