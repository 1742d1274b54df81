from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import miniatures
from fullyconv.data.check import check_folder
from fullyconv.data.dataset import read_sample
from fullyconv.data.folder import open_folder
from fullyconv.data.siftflow import UNANNOTATED, open_siftflow
from fullyconv.facts import SIFTFLOW_GEOMETRIC, SIFTFLOW_SEMANTIC
from fullyconv.files import BadFile
from fullyconv.scores.metrics import confusion, score
from fullyconv.types import VOID


def stems(folder: object) -> dict[str, list[str]]:
    return {split: [pair.name for pair in pairs] for split, pairs in folder.splits.items()}


def test_both_targets_have_the_same_pictures_in_the_same_order(tmp_path: Path) -> None:
    root = miniatures.siftflow(tmp_path)
    semantic, geometric = open_siftflow(root, "semantic"), open_siftflow(root, "geometric")
    assert stems(semantic) == stems(geometric) == {"train": ["coast_a", "forest_b"], "test": ["street_c"]}


def test_the_folder_of_labels_names_the_target(tmp_path: Path) -> None:
    root = miniatures.siftflow(tmp_path)
    assert open_folder(root / "GeoLabels").classes == SIFTFLOW_GEOMETRIC.classes
    assert open_folder(root / "SemanticLabels").classes == open_folder(root).classes == SIFTFLOW_SEMANTIC.classes
    assert open_folder(tmp_path).classes == SIFTFLOW_SEMANTIC.classes  # where the archive was unpacked
    with pytest.raises(ValueError, match="choose one of semantic, geometric"):
        open_siftflow(root, "depth")


def test_raw_labels_shift_down_and_void_is_void(tmp_path: Path) -> None:
    root = miniatures.siftflow(tmp_path)
    raw = miniatures.labels(34, seed=0)
    labels = read_sample(open_siftflow(root, "semantic").splits["train"][0], SIFTFLOW_SEMANTIC.classes).labels
    np.testing.assert_array_equal(labels, np.where(raw == 0, VOID, raw - 1))
    raw = miniatures.labels(5, first=-1, seed=0)
    labels = read_sample(open_siftflow(root, "geometric").splits["train"][0], SIFTFLOW_GEOMETRIC.classes).labels
    np.testing.assert_array_equal(labels, np.where(raw < 1, VOID, raw - 1))


def test_the_papers_lists_are_taken_where_they_are(tmp_path: Path) -> None:
    root = miniatures.siftflow(tmp_path)
    miniatures.write_list(root / "trainval.txt", "street_c", "coast_a")
    miniatures.write_list(root / "test.txt", "forest_b")
    assert stems(open_folder(root)) == {"train": ["street_c", "coast_a"], "test": ["forest_b"]}


def test_a_test_list_alone_leaves_the_rest_to_training(tmp_path: Path) -> None:
    root = miniatures.siftflow(tmp_path)
    miniatures.write_list(root / "test.txt", "forest_b")
    folder = open_folder(root)
    assert stems(folder) == {"train": ["coast_a", "street_c"], "test": ["forest_b"]}
    assert "train 2 (published: 2486), test 1 (published: 200)" in folder.note


def test_pictures_that_nobody_labelled_are_left_out(tmp_path: Path) -> None:
    folder = open_folder(miniatures.siftflow(tmp_path))
    assert not {*UNANNOTATED} & {pair.name for pairs in folder.splits.values() for pair in pairs}


def test_without_any_list_it_says_which(tmp_path: Path) -> None:
    root = miniatures.siftflow(tmp_path)
    (root / "TestSet1.txt").unlink()
    with pytest.raises(BadFile, match=r"add TestSet1\.txt"):
        open_folder(root)


def test_untested_classes_are_said_and_not_averaged_over(tmp_path: Path) -> None:
    folder = open_folder(miniatures.siftflow(tmp_path))
    report = check_folder(folder)
    assert report.problems == []
    assert "never in test: cow, desert, moon" in folder.note
    truth = read_sample(folder.splits["test"][0], SIFTFLOW_SEMANTIC.classes).labels
    guess = np.where(truth == VOID, 0, truth)
    guess[0, 0] = SIFTFLOW_SEMANTIC.classes.names.index("cow")
    scores = score(confusion(truth, guess, classes=33))
    present = [iu for name, iu in zip(SIFTFLOW_SEMANTIC.classes.names, scores.per_class_iu, strict=True)
               if name not in ("cow", "desert", "moon")]  # fmt: skip
    assert len(present) == 30
    assert scores.mean_iu_present == np.mean(present)
    assert scores.mean_iu == np.sum(present) / 31  # the reference's own figure counts cow as 0
