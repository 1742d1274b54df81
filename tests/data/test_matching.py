"""A model is scored on masks read by the data set's own classes, matched by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fullyconv.data.classes import write_classes
from fullyconv.data.dataset import read_sample
from fullyconv.data.folder import open_folder
from fullyconv.data.matching import match_classes
from fullyconv.data.pairs import Storage
from fullyconv.files import BadFile
from fullyconv.types import VOID, ClassSet

MODEL = ClassSet(("road", "sky", "car"))


def folder(root: Path, values: np.ndarray, classes: ClassSet | None) -> Path:
    """Write one pair."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((*values.shape[:2], 3), np.uint8)).save(root / "images/a.png")
    Image.fromarray(values.astype(np.uint8)).save(root / "masks/a.png")
    (root / "classes.yaml").unlink(missing_ok=True)
    if classes is not None:
        write_classes(classes, root / "classes.yaml")
    return root


def labels(root: Path, model: ClassSet = MODEL) -> tuple[np.ndarray, str]:
    found = open_folder(root)
    note = match_classes(found, model)
    return read_sample(found.splits["all"][0], model).labels, note


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(MODEL.names),
    values=st.lists(st.integers(0, 255), min_size=4, max_size=4, unique=True),
    colour=st.booleans(),
    seed=st.integers(0, 99),
)
def test_labels_are_the_models_whatever_stands_for_them(
    tmp_path: Path, order: list[str], values: list[int], colour: bool, seed: int
) -> None:
    truth = np.random.default_rng(seed).integers(VOID, 3, (6, 7))
    colours = tuple((value, 1, 2) for value in values)
    own = ClassSet(
        tuple(order), colours[:3], values[3], tuple(values[:3]), colour_masks=colour, ignore_colours=colours[3:]
    )
    stored = {MODEL.names.index(name): value for name, value in zip(order, values, strict=False)} | {VOID: values[3]}
    numbers = np.vectorize(stored.get)(truth)
    root = folder(tmp_path, np.stack([numbers, numbers * 0 + 1, numbers * 0 + 2], -1) if colour else numbers, own)
    found, note = labels(root)
    np.testing.assert_array_equal(found, truth)
    assert ("another order" in note) == (tuple(order) != MODEL.names)


def test_official_labels_are_matched_too(tmp_path: Path) -> None:
    found = open_folder(folder(tmp_path, np.array([[1, 2, 3, 4]]), None))
    found.classes = ClassSet(("sky", "car", "road"))
    stored = Storage(labels=(0, 1, 2, VOID), first=1)
    found.splits["all"] = [replace(pair, storage=stored) for pair in found.splits["all"]]
    match_classes(found, MODEL)
    assert read_sample(found.splits["all"][0], MODEL).labels.tolist() == [[1, 2, 0, VOID]]


def test_without_names_of_its_own_the_models_values_hold(tmp_path: Path) -> None:
    model = ClassSet(("road", "sky"), values=(0, 9))
    for own in (None, ClassSet(("class_0", "class_1"))):
        assert labels(folder(tmp_path, np.array([[0, 9]]), own), model)[0].tolist() == [[0, 1]]


def test_a_model_whose_classes_nobody_named_takes_the_order(tmp_path: Path) -> None:
    root = folder(tmp_path, np.array([[0, 255]]), ClassSet(("ground", "tree"), values=(255, 0), ignore_index=1))
    found, note = labels(root, ClassSet(("class_0", "class_1")))
    assert found.tolist() == [[1, 0]]
    assert "their order decides" in note


@pytest.mark.parametrize(
    "names", [("road", "sky", "bus"), ("road", "sky"), ("a", "b", "c"), ("road", "sky", "car", "x")]
)
def test_other_names_are_refused_with_both_lists(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = folder(tmp_path, np.zeros((2, 2)), ClassSet(names))
    with pytest.raises(BadFile, match="are not the model's") as refusal:
        labels(root)
    assert all(name in refusal.value.what for name in (*names, *MODEL.names))


def test_colours_without_names_are_to_be_named(tmp_path: Path) -> None:
    own = ClassSet(("colour_000000", "colour_ff0000", "colour_00ff00"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))
    root = folder(tmp_path, np.zeros((2, 2, 3)), replace(own, colour_masks=True))
    with pytest.raises(BadFile, match=r"name the same classes alike in classes\.yaml"):
        labels(root)
