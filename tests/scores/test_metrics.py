from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullyconv.scores.metrics import confusion, score


def brute_force(truth: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros((classes, classes), np.int64)
    for t, g in zip(truth.ravel(), guess.ravel(), strict=True):
        if 0 <= t < classes:
            counts[t, g] += 1
    return counts


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_counts_equal_brute_force(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(-1, classes + 1, (7, 9)), rng.integers(0, classes, (7, 9))
    np.testing.assert_array_equal(confusion(truth, guess, classes=classes), brute_force(truth, guess, classes))


def test_scores_of_a_matrix_worked_by_hand() -> None:
    scores = score(np.array([[3, 1], [2, 4]]))
    assert scores.pixel_accuracy == pytest.approx(7 / 10)
    assert scores.mean_accuracy == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert scores.per_class_iu == pytest.approx((3 / 6, 4 / 7))
    assert scores.mean_iu == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert scores.frequency_weighted_iu == pytest.approx(0.4 * 3 / 6 + 0.6 * 4 / 7)


def test_absent_and_never_predicted_is_skipped_but_absent_and_predicted_counts_zero() -> None:
    counts = np.zeros((3, 3), np.int64)
    counts[0, 0], counts[0, 1] = 8, 2  # class 1 predicted only, class 2 nowhere
    scores = score(counts)
    assert scores.mean_iu == pytest.approx((0.8 + 0) / 2)
    assert scores.mean_accuracy == pytest.approx(0.8)
    assert scores.frequency_weighted_iu == pytest.approx(0.8)
    assert math.isnan(scores.per_class_iu[2])


def test_no_labelled_pixel_at_all() -> None:
    scores = score(np.zeros((2, 2), np.int64))
    assert math.isnan(scores.pixel_accuracy)
    assert math.isnan(scores.mean_accuracy)
    assert math.isnan(scores.mean_iu)
    assert scores.frequency_weighted_iu == 0


def test_counting_is_exact_beyond_float32() -> None:
    counts = np.array([[2**24 + 1, 0], [0, 1]])
    assert counts.sum() - 1 == 2**24 + 1
    total = sum(confusion(np.zeros((1000, 1000), int), np.zeros((1000, 1000), int), classes=1) for _ in range(20))
    assert int(total[0, 0]) == 20_000_000


def test_predictions_that_are_no_class_are_refused() -> None:
    with pytest.raises(ValueError, match=r"classes 0\.\.1"):
        confusion(np.zeros((1, 2), int), np.array([[0, 2]]), classes=2)
    with pytest.raises(ValueError, match="differ in size"):
        confusion(np.zeros((1, 2), int), np.zeros((2, 1), int), classes=2)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_kappa_and_f1_equal_scikit_learns(classes: int, seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(0, classes, 50), rng.integers(0, classes, 50)
    scores, names = score(confusion(truth, guess, classes=classes)), range(classes)
    assert scores.kappa == pytest.approx(sklearn.cohen_kappa_score(truth, guess, labels=names))
    expected = sklearn.f1_score(truth, guess, labels=names, average=None, zero_division=np.nan)
    np.testing.assert_allclose(scores.per_class_f1, expected)
    assert scores.pixel_accuracy == sklearn.accuracy_score(truth, guess)
