from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import miniatures
from fullyconv.data.check import check_folder
from fullyconv.data.classes import write_classes
from fullyconv.data.folder import evaluation_split, open_folder
from fullyconv.data.pascal import count_note, open_pascal, seg11valid, write_seg11valid
from fullyconv.files import BadFile
from fullyconv.types import ClassSet


def test_seg11valid_is_vocs_val_without_sbdds_train(tmp_path: Path) -> None:
    voc, sbdd = miniatures.voc(tmp_path, val=4), miniatures.sbdd(tmp_path)
    assert seg11valid(voc, sbdd) == ("2008_000000", "2008_000002", "2008_000003")
    folder = open_pascal(voc, sbdd)
    assert not folder.problems
    assert [pair.name for pair in folder.splits["train"]] == ["2007_000000", "2008_000001"]
    assert [pair.name for pair in folder.splits["val"]] == ["2008_000000", "2008_000002", "2008_000003"]
    assert not {pair.name for pair in folder.splits["train"]} & {pair.name for pair in folder.splits["val"]}


def test_both_unpacked_into_one_folder_are_the_papers_set(tmp_path: Path) -> None:
    miniatures.voc(tmp_path), miniatures.sbdd(tmp_path)
    folder = open_folder(tmp_path)
    assert [pair.name for pair in folder.splits["val"]] == ["2008_000000", "2008_000002"]
    assert folder.splits["train"][0].mask.suffix == ".mat"
    assert check_folder(folder).problems == []


def test_another_count_than_the_papers_is_said(tmp_path: Path) -> None:
    folder = open_pascal(miniatures.voc(tmp_path), miniatures.sbdd(tmp_path))
    assert count_note(2) in folder.note
    assert "train 2 (published: 8498)" in folder.note
    assert "has 2 pictures here, the papers' has 736" in folder.note
    assert count_note(736) == ""


def test_the_written_list_is_a_split(tmp_path: Path) -> None:
    voc, sbdd = miniatures.voc(tmp_path), miniatures.sbdd(tmp_path)
    assert write_seg11valid(voc, sbdd).read_text() == "2008_000000\n2008_000002\n"
    assert [pair.name for pair in evaluation_split(open_folder(voc), "seg11valid")] == ["2008_000000", "2008_000002"]


def test_missing_lists_are_named(tmp_path: Path) -> None:
    voc, sbdd = miniatures.voc(tmp_path), miniatures.sbdd(tmp_path)
    (sbdd / "train.txt").unlink()
    with pytest.raises(BadFile, match=r"dataset/train\.txt: no such list"):
        seg11valid(voc, sbdd)


def test_a_test_list_without_masks_is_left_out_and_said(tmp_path: Path) -> None:
    folder = open_folder(miniatures.voc(tmp_path))
    assert "test" not in folder.splits
    assert "test (2 pictures)" in folder.note


@pytest.mark.parametrize("year", range(2007, 2013))
def test_every_year_opens_from_where_its_archive_puts_it(tmp_path: Path, year: int) -> None:
    miniatures.voc(tmp_path / "TrainVal" if year == 2011 else tmp_path, year=year)
    assert len(open_folder(tmp_path).splits["trainval"]) == 5


def test_several_years_in_one_folder_need_a_choice(tmp_path: Path) -> None:
    miniatures.voc(tmp_path, year=2007)
    miniatures.voc(tmp_path, year=2012)
    with pytest.raises(BadFile, match=r"several data sets: VOCdevkit/VOC2007, VOCdevkit/VOC2012: name the folder"):
        open_folder(tmp_path)


def test_vocs_layout_with_other_classes_keeps_them(tmp_path: Path) -> None:
    root = miniatures.voc(tmp_path).rename(tmp_path / "mine")
    assert open_folder(root).classes is None
    root = root.rename(tmp_path / "VOC2007")  # many tools name their output so
    assert open_folder(root).classes is not None
    miniatures.write_list(root / "ImageSets" / "Segmentation" / "train.txt", "holiday_17")
    assert open_folder(root).classes is None


def test_pictures_named_otherwise_in_a_devkit_are_vocs_with_a_note(tmp_path: Path) -> None:
    root = miniatures.voc(tmp_path)
    miniatures.write_list(root / "ImageSets" / "Segmentation" / "extra.txt", "holiday_17")
    folder = open_folder(root)
    assert folder.classes is not None
    assert "write a classes.yaml if" in folder.note


def test_sbdd_masks_are_vocs_classes(tmp_path: Path) -> None:
    from fullyconv.data.dataset import read_sample

    folder = open_folder(miniatures.sbdd(tmp_path).parent)
    assert folder.classes is not None
    labels = read_sample(folder.splits["train"][0], folder.classes).labels
    np.testing.assert_array_equal(labels, miniatures.labels(21, seed=50))


def test_a_few_pictures_of_a_published_set_need_not_show_every_class(tmp_path: Path) -> None:
    root = miniatures.voc(tmp_path)
    for path in (root / "SegmentationClass").iterdir():
        Image.fromarray(np.zeros(miniatures.SIZE, np.uint8)).save(path)
    report = check_folder(open_folder(root))
    assert report.problems == []
    assert "never in train: aeroplane" in report.folder.note


def test_classes_of_ones_own_come_first(tmp_path: Path) -> None:
    root = miniatures.voc(tmp_path)
    write_classes(ClassSet(tuple(f"c{index}" for index in range(21))), root / "classes.yaml")
    assert check_folder(open_folder(root)).classes.names[20] == "c20"
