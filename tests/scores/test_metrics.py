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


def by_bincount(truth: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """Count as the FCN reference does (its ``fast_hist``)."""
    seen = (truth >= 0) & (truth < classes)
    pairs = classes * truth[seen].astype(np.int64) + guess[seen].astype(np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


@given(st.integers(1, 6), st.tuples(st.integers(0, 4), st.integers(0, 4)), st.integers(0, 2**32 - 1))
def test_counts_equal_brute_force(classes: int, shape: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(-3, classes + 3, shape), rng.integers(0, classes, shape)
    np.testing.assert_array_equal(confusion(truth, guess, classes=classes), brute_force(truth, guess, classes))


@given(
    st.sampled_from([1, 2, 21, 150, 300]),
    st.integers(0, 400),
    st.sampled_from(["int64", "uint8", "int8", ">i4", "bool", "float32"]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_runs_of_labels_of_any_type_equal_bincount(
    classes: int, pixels: int, kind: str, regions: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-2, classes + 2, (2, pixels))  # int8 wraps some of 150 classes around, to negative ones
    if regions:
        drawn = np.repeat(drawn, rng.integers(1, 200, pixels), axis=1)
    truth, guess = drawn[0].astype(kind), drawn[1].clip(0, classes - 1).astype("int64" if kind == "int8" else kind)
    guess = np.where(guess < classes, guess, 0)  # bool and uint8 may not hold as many
    expected = by_bincount(truth, guess, classes)
    found = confusion(truth, guess, classes=classes)
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, found.flags.c_contiguous) == (np.int64, True)


def test_labels_are_counted_where_they_lie() -> None:
    """Strided, transposed and read-only arrays, and two different types."""
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(-1, 5, (60, 70)), rng.integers(0, 5, (60, 70)).astype(np.uint8)
    guess.flags.writeable = False
    for view in (lambda each: each.T, lambda each: each[::2, ::-3], lambda each: each[:, None], lambda each: each[7]):
        expected = by_bincount(view(truth).ravel(), view(guess).ravel(), 5)
        np.testing.assert_array_equal(confusion(view(truth), view(guess), classes=5), expected)


@given(st.sampled_from(["uint8", "int8", "uint64"]), st.integers(0, 99))
def test_one_wrong_prediction_among_many_is_refused(kind: str, place: int) -> None:
    truth, guess = np.zeros(100, np.int64), np.zeros(100, kind)
    guess[place] = 127
    with pytest.raises(ValueError, match=r"classes 0\.\.20, not 0\.\.127"):
        confusion(truth, guess, classes=21)
    truth[place] = -1
    assert confusion(truth, guess, classes=21)[0, 0] == 99
    with pytest.raises(ValueError, match="65535 are the most"):
        confusion(truth, guess, classes=1 << 16)


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
    for wrong in (-1, 2, 3):
        for guess in ([0, wrong], [wrong, 1], [wrong, wrong]):
            with pytest.raises(ValueError, match=r"classes 0\.\.1"):
                confusion(np.zeros((1, 2), int), np.array([guess]), classes=2)
    # Where the truth is void, it does not matter what is predicted.
    assert confusion(np.array([[0, -1, 2]]), np.array([[1, 9, -9]]), classes=2).tolist() == [[0, 1], [0, 0]]
    with pytest.raises(ValueError, match="differ in size"):
        confusion(np.zeros((1, 2), int), np.zeros((2, 1), int), classes=2)
    with pytest.raises(ValueError, match="differ in size"):
        confusion(np.zeros((2, 1), int), np.zeros((1, 2), int), classes=2)


@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_every_score_is_that_of_its_definition(classes: int, seed: int) -> None:
    """The paper's section 5, class by class; classes may be absent from truth, prediction or both."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 30, (classes, classes)) * (rng.random((classes, 1)) < 0.7) * (rng.random(classes) < 0.7)
    scores, total = score(counts), counts.sum()
    iu, accuracy, present, weighted = [], [], [], 0.0
    for c in range(classes):
        hits, truth, guess = int(counts[c, c]), int(counts[c].sum()), int(counts[:, c].sum())
        if truth + guess:
            iu.append(hits / (truth + guess - hits))
        if truth:
            accuracy.append(hits / truth)
            present.append(hits / (truth + guess - hits))
            weighted += truth / total * present[-1]
        assert scores.per_class_iu[c] == pytest.approx(iu[-1] if truth + guess else math.nan, nan_ok=True)
        assert scores.per_class_accuracy[c] == pytest.approx(accuracy[-1] if truth else math.nan, nan_ok=True)
        f1 = 2 * hits / (truth + guess) if truth + guess else math.nan
        assert scores.per_class_f1[c] == pytest.approx(f1, nan_ok=True)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else math.nan

    assert scores.pixel_accuracy == pytest.approx(np.trace(counts) / total if total else math.nan, nan_ok=True)
    assert scores.mean_iu == pytest.approx(mean(iu), nan_ok=True)
    assert scores.mean_accuracy == pytest.approx(mean(accuracy), nan_ok=True)
    assert scores.mean_iu_present == pytest.approx(mean(present), nan_ok=True)
    assert scores.frequency_weighted_iu == pytest.approx(weighted)


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
