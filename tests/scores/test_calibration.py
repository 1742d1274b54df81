from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullyconv.scores.calibration import BINS, Calibration, count_calibration, fit_temperature, temper


def draw(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = np.exp(rng.normal(0, 2, (classes, 11, 13)))
    return scores / scores.sum(0), rng.integers(-1, classes, (11, 13))


@given(seed=st.integers(0, 9999), classes=st.integers(2, 5))
def test_the_error_is_that_of_a_loop_over_pixels(seed: int, classes: int) -> None:
    pictures = [draw(seed, classes), draw(seed + 1, classes)]
    rows: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for probabilities, truth in pictures:
        for y, x in np.argwhere(truth >= 0):
            of_pixel = probabilities[:, y, x]
            rows[min(int(of_pixel.max() * BINS), BINS - 1)].append((of_pixel.max(), of_pixel.argmax() == truth[y, x]))
    total = sum(map(len, rows))
    expected = sum(abs(sum(c for c, _ in row) - sum(right for _, right in row)) for row in rows) / total
    found = sum((count_calibration(*picture) for picture in pictures), Calibration())
    assert found.error == pytest.approx(expected, abs=1e-9)
    assert [count for count, _, _ in found.bins] == list(map(len, rows))


def test_honest_probabilities_are_calibrated_and_sharper_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.5, 1, (300, 300))
    truth = (rng.uniform(size=chance.shape) > chance).astype(np.int64)
    assert count_calibration(np.stack([chance, 1 - chance]), truth).error < 0.01
    sharper = chance**3 / (chance**3 + (1 - chance) ** 3)
    assert count_calibration(np.stack([sharper, 1 - sharper]), truth).error > 0.08


def test_the_least_certain_tenth_holds_the_errors_that_are_in_it() -> None:
    confidence = np.full((10, 10), 0.95)
    confidence[0] = 0.6
    truth = np.zeros((10, 10), np.int64)
    truth[0, :6] = truth[5, :2] = 1  # six errors where the network is unsure, two where it is sure
    found = count_calibration(np.stack([confidence, 1 - confidence]), truth)
    assert found.caught == pytest.approx(6 / 8)
    assert np.isnan(Calibration().error)
    assert np.isnan(count_calibration(np.ones((1, 2, 2)), np.zeros((2, 2))).caught)


@given(seed=st.integers(0, 9999), sharpness=st.floats(0.2, 5), classes=st.integers(2, 5))
def test_the_fitted_temperature_is_the_best_of_a_grid_and_undoes_what_sharpened(
    seed: int, sharpness: float, classes: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (classes, 4000))
    chances = temper(scores, 1.0)
    truth = (rng.random(4000) > chances.cumsum(0)).sum(0).clip(max=classes - 1)
    found = fit_temperature(scores * sharpness, truth)
    assert found == pytest.approx(sharpness, rel=0.25)

    def cost(temperature: float) -> float:
        return -float(np.log(temper(scores * sharpness, temperature)[truth, np.arange(4000)]).mean())

    assert cost(found) <= min(map(cost, np.geomspace(found / 2, found * 2, 9))) + 1e-9


@given(seed=st.integers(0, 9999), temperature=st.floats(0.05, 20))
def test_a_temperature_never_changes_labels(seed: int, temperature: float) -> None:
    scores = np.random.default_rng(seed).normal(0, 3, (4, 50))
    tempered = temper(scores, temperature)
    assert np.allclose(tempered.sum(0), 1)
    assert np.array_equal(tempered[scores.argmax(0), np.arange(50)], tempered.max(0))
