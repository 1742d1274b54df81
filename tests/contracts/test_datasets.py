"""What holds for every published data set, on miniatures in exactly their layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import miniatures
from fullyconv import Segmenter, build, evaluate, facts
from fullyconv.augment import Augmentation
from fullyconv.data.check import check_folder
from fullyconv.data.dataset import Views, read_sample, read_stored
from fullyconv.data.folder import evaluation_split, open_folder
from fullyconv.data.pairs import Folder
from fullyconv.draw import palette_image
from fullyconv.recipes import RECIPES
from fullyconv.train.prepare import prepare
from fullyconv.types import VOID, ClassSet, Preprocess, palette_colour


@dataclass(frozen=True)
class Case:
    make: Callable[[Path], Path]
    classes: ClassSet
    count: int
    void: bool  # whether the miniature has void pixels
    splits: tuple[str, ...]
    untested: tuple[str, ...] = ()  # classes that the split ``test`` is known not to have
    folder: str = ""  # what to open, below what ``make`` gives


CASES = {
    "voc": Case(miniatures.voc, facts.VOC.classes, 21, True, ("train", "trainval", "val")),
    "sbdd": Case(miniatures.sbdd, facts.VOC.classes, 21, False, ("train", "val")),
    "context": Case(miniatures.context, facts.CONTEXT.classes, 60, False, ("train", "val")),
    "siftflow semantic": Case(
        miniatures.siftflow,
        facts.SIFTFLOW_SEMANTIC.classes,
        33,
        True,
        ("train", "test"),
        untested=("cow", "desert", "moon"),
    ),
    "siftflow geometric": Case(
        miniatures.siftflow, facts.SIFTFLOW_GEOMETRIC.classes, 3, True, ("train", "test"), folder="GeoLabels"
    ),
    "nyud colour": Case(miniatures.nyud, facts.NYUD.classes, 40, True, ("train", "val", "test")),
    "nyud archive": Case(miniatures.nyud_archive, facts.NYUD.classes, 40, True, ("train", "val", "test")),
    "nyud hha": Case(miniatures.nyud, facts.NYUD.classes, 40, True, ("train", "val", "test"), folder="data/hha"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def folder(case: Case, tmp_path: Path) -> Folder:
    return open_folder(case.make(tmp_path) / case.folder)


def test_it_opens_with_its_splits_and_official_classes(case: Case, folder: Folder) -> None:
    assert set(folder.splits) == set(case.splits)
    assert all(folder.splits.values())
    assert folder.classes == case.classes
    assert len(case.classes) == case.count


def test_it_checks_clean(case: Case, folder: Folder) -> None:
    report = check_folder(folder)
    assert [str(problem) for problem in report.problems] == []
    assert not report.inferred
    assert report.classes == case.classes
    assert all((figures.void > 0) == case.void for figures in report.splits.values())


def test_every_class_and_void_is_read_and_nothing_else(case: Case, folder: Folder) -> None:
    for split, pairs in folder.splits.items():
        untested = {case.classes.names.index(name) for name in case.untested} if split == "test" else set()
        for pair in pairs:
            sample = read_sample(pair, case.classes)
            assert sample.labels.dtype == np.int16
            assert sample.labels.shape == miniatures.SIZE == sample.image.shape[:2]
            expected = (set(range(case.count)) - untested) | ({VOID} if case.void else set())
            assert set(np.unique(sample.labels).tolist()) == expected


def test_pixels_stay_where_they_are(case: Case, folder: Folder) -> None:
    """Labels are a function of the raw label at the same place."""
    for pairs in folder.splits.values():
        raw, labels = read_stored(pairs[0]).values, read_sample(pairs[0], case.classes).labels
        for value in np.unique(raw):
            assert len(np.unique(labels[raw == value])) == 1


def test_the_palette_is_vocs_and_predictions_come_in_it(case: Case) -> None:
    assert case.classes.colours == tuple(palette_colour(index) for index in range(case.count))
    picture = palette_image(np.arange(case.count)[None], case.classes)
    assert picture.mode == "P"
    assert picture.convert("RGB").getpixel((1, 0)) == palette_colour(1) == (128, 0, 0)
    assert np.array_equal(np.asarray(picture)[0], np.arange(case.count))


def test_it_goes_through_training_and_scoring_like_any_folder(case: Case, tmp_path: Path) -> None:
    root = case.make(tmp_path) / case.folder
    prepared = prepare(RECIPES["default"], root)
    assert prepared.report.classes == case.classes
    assert prepared.train
    assert prepared.val
    views = Views(prepared.train, case.classes, Preprocess(), Augmentation(crop=(16, 32)), seed=0)
    assert views[0][0].shape == (3, 16, 32)
    assert views[0][1].shape == (16, 32)
    segmenter = Segmenter(build("fcn32s-resnet18", case.count), classes=case.classes, preprocess=Preprocess())
    pairs = evaluation_split(open_folder(root), None)
    evaluation = evaluate(segmenter, pairs)
    assert evaluation.counts.sum() + evaluation.void_pixels == len(pairs) * miniatures.SIZE[0] * miniatures.SIZE[1]


def test_the_papers_normalisation_comes_with_it(folder: Folder) -> None:
    assert folder.preprocess is not None
    assert folder.preprocess.std == (1, 1, 1)
    grey = np.full((1, 1, 3), 100, np.uint8)
    np.testing.assert_allclose(folder.preprocess(grey)[:, 0, 0], 100 - np.array(folder.preprocess.mean), rtol=1e-5)


def test_a_missing_mask_is_named(case: Case, tmp_path: Path) -> None:
    root = case.make(tmp_path) / case.folder
    pair = open_folder(root).splits["train"][0]
    pair.mask.unlink()
    problems = [str(problem) for problem in open_folder(root).problems]
    assert problems
    assert all(f"{pair.name}" in problem and "has no mask" in problem for problem in problems)


def test_a_broken_mask_is_named_by_check(case: Case, tmp_path: Path) -> None:
    root = case.make(tmp_path) / case.folder
    pair = open_folder(root).splits["train"][0]
    pair.mask.write_bytes(pair.mask.read_bytes()[:150])
    report = check_folder(open_folder(root))
    assert any(problem.path == str(pair.mask) and problem.fix for problem in report.problems)
    assert pair.image in report.bad_pairs
