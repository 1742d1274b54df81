from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import miniatures
from fullyconv.data.context import open_context, task_labels
from fullyconv.data.dataset import read_sample
from fullyconv.data.folder import open_folder
from fullyconv.facts import CONTEXT
from fullyconv.files import BadFile


def test_classes_are_found_by_name_and_the_rest_is_class_0(tmp_path: Path) -> None:
    root = miniatures.context(tmp_path)
    table, by_number = task_labels(root / "labels.txt"), miniatures.context_names()
    spelt = {"table": "diningtable", "bedclothes": "bedcloth", "cloth": "clothes"}
    assert len(table) == miniatures.CONTEXT_LABELS + 1
    assert table[0] == 0
    for number, name in by_number.items():
        expected = 0 if name.startswith("other") else CONTEXT.classes.names.index(spelt.get(name, name))
        assert table[number] == expected
    assert sorted(set(table)) == list(range(60))


def test_the_order_is_the_papers() -> None:
    places = {0: "background", 20: "tvmonitor", 21: "bag", 30: "cup", 40: "mountain", 50: "sky", 59: "wood"}
    assert {index: CONTEXT.classes.names[index] for index in places} == places


def test_label_255_is_an_ordinary_label(tmp_path: Path) -> None:
    folder = open_folder(miniatures.context(tmp_path))
    pair = folder.splits["val"][0]
    assert (read_sample(pair, CONTEXT.classes).labels >= 0).all()
    assert (miniatures.labels(460, seed=1) == 255).any()


def test_a_list_without_a_class_is_refused(tmp_path: Path) -> None:
    root = miniatures.context(tmp_path)
    file = root / "labels.txt"
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.endswith(": bedclothes")))
    with pytest.raises(BadFile, match="lacks bedclothes"):
        open_folder(root)
    file.write_text("one: thing\n")
    with pytest.raises(BadFile, match="not a list of labels"):
        open_folder(root)
    file.write_text("99999999: thing\n")
    with pytest.raises(BadFile, match="outside 1"):
        open_folder(root)


def test_spaces_in_names_do_not_count(tmp_path: Path) -> None:
    root = miniatures.context(tmp_path)
    file = root / "labels.txt"
    expected = task_labels(file)
    file.write_text(file.read_text().replace(": diningtable", ": dining table").replace("tvmonitor", "tv monitor"))
    assert task_labels(file) == expected


def test_labels_that_the_list_does_not_have_are_refused(tmp_path: Path) -> None:
    root = miniatures.context(tmp_path)
    miniatures.write_mat(root / "trainval" / "2008_000002.mat", {"LabelMap": np.full(miniatures.SIZE, 460)})
    with pytest.raises(BadFile, match="the data set has 0 to 459"):
        read_sample(open_folder(root).splits["train"][0], CONTEXT.classes)


def test_pictures_are_looked_for_and_may_be_named(tmp_path: Path) -> None:
    root = miniatures.context(tmp_path)
    elsewhere = tmp_path / "far" / "pictures"
    shutil.move(tmp_path / "VOCdevkit" / "VOC2010", elsewhere)
    with pytest.raises(BadFile, match="without its pictures: unpack VOC2010"):
        open_folder(root)
    assert len(open_context(root, elsewhere).splits["train"]) == 1
