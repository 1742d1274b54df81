from __future__ import annotations

import numpy as np
import pytest

from fullyconv.scores.boundary import WIDTHS, boundaries, count_boundaries, squared_distance
from fullyconv.scores.metrics import confusion


@pytest.mark.parametrize("reach", [1, 3, 20])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3])
def test_distances_are_those_of_all_pairs(reach: int, share: float) -> None:
    marked = np.random.default_rng(0).random((17, 23)) < share
    points = np.argwhere(marked)
    expected = np.full(marked.shape, (reach + 1) ** 2)
    for place in np.ndindex(marked.shape):
        if len(points):
            expected[place] = min(expected[place], ((points - place) ** 2).sum(1).min())
    np.testing.assert_array_equal(squared_distance(marked, reach=reach), expected)


def test_trimaps_are_bands_around_the_true_boundaries() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.repeat(rng.integers(0, 4, (4, 5)), 12, 0), 12, 1)
    truth[:8, 20:30] = -1
    guess = rng.integers(0, 4, truth.shape)
    counts = count_boundaries(truth, guess, classes=4)
    for width, found in zip(WIDTHS, counts.trimap, strict=True):
        band = np.zeros(truth.shape, bool)
        for row, column in np.argwhere(boundaries(truth)):
            rows, columns = np.ogrid[: truth.shape[0], : truth.shape[1]]
            band |= (rows - row) ** 2 + (columns - column) ** 2 <= (width - 1) ** 2
        np.testing.assert_array_equal(found, confusion(np.where(band, truth, -1), guess, classes=4))


def test_a_perfect_prediction_scores_one_and_void_is_no_boundary() -> None:
    truth = np.zeros((40, 50), np.int16)
    truth[10:30, 10:30] = 1
    truth[:, 40:] = -1
    counts = count_boundaries(truth, np.maximum(truth, 0), classes=3)
    assert set(counts.trimap_iu.values()) == {1.0}
    assert counts.f_scores[:2] == (1.0, 1.0)
    assert np.isnan(counts.f_scores[2])
    assert counts.f_score == 1.0


def test_f_scores_forgive_a_pixel_but_not_ten() -> None:
    truth = np.zeros((60, 60), np.int16)
    truth[20:40, 20:40] = 1
    near, away = np.roll(truth, 1, 0), np.roll(truth, 10, (0, 1))
    assert count_boundaries(truth, near, classes=2).f_score == 1
    assert count_boundaries(truth, away, classes=2).f_score < 0.5
    nothing = count_boundaries(truth, np.zeros_like(truth), classes=2)
    assert nothing.f_score == 0


def test_counts_of_images_add_up() -> None:
    rng = np.random.default_rng(0)
    one, other = (count_boundaries(*rng.integers(0, 3, (2, 15, 20)), classes=3) for _ in range(2))
    both = one + other
    np.testing.assert_array_equal(both.trimap, one.trimap + other.trimap)
    assert both.true.sum() == one.true.sum() + other.true.sum()
