from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from fullyconv.data.check import check_folder
from fullyconv.data.dataset import read_sample
from fullyconv.data.folder import open_folder
from fullyconv.data.synthetic import CLASSES, make_sample
from fullyconv.types import VOID


def test_pictures_follow_from_their_number() -> None:
    first, again, other = (make_sample(seed=1, index=index) for index in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


def test_every_class_occurs_and_objects_are_bordered_by_void() -> None:
    labels = [make_sample(seed=0, index=index).labels for index in range(30)]
    assert {int(value) for each in labels for value in np.unique(each)} == {VOID, *range(len(CLASSES))}
    for each in labels:
        beside = each[:, 1:] != each[:, :-1]
        touching = (each[:, 1:] != VOID) & (each[:, :-1] != VOID)
        assert not (beside & touching).any()


def test_the_written_set_is_sound_and_reads_back(shapes: Path) -> None:
    folder = open_folder(shapes)
    assert {split: len(pairs) for split, pairs in folder.splits.items()} == {"train": 6, "val": 3}
    said = {problem.what for problem in check_folder(folder).problems}
    assert all("never occurs" in what for what in said)  # nine pictures do not hold every class
    sample, made = read_sample(folder.splits["val"][0], CLASSES), make_sample(seed=0, index=6)
    np.testing.assert_array_equal(sample.labels, made.labels)
    assert hashlib.sha256(sample.image).digest() == hashlib.sha256(made.image).digest()
