from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullyconv.scores.intervals import LEVEL, SEED, bootstrap, margins
from fullyconv.scores.metrics import score

FIGURES = ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu")


def matrices(seed: int, pictures: int, classes: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 50, (pictures, classes, classes)) * rng.integers(0, 2, (pictures, classes, 1))
    return found + 30 * np.eye(classes, dtype=np.int64) * rng.integers(0, 2, (pictures, classes, 1))


@given(seed=st.integers(0, 999), pictures=st.integers(2, 6), classes=st.integers(1, 4), grouped=st.booleans())
@settings(max_examples=25, deadline=None)
def test_intervals_are_those_of_whole_matrices_drawn_one_by_one(
    seed: int, pictures: int, classes: int, grouped: bool
) -> None:
    counts = matrices(seed, pictures, classes)
    groups = [index // 2 for index in range(pictures)] if grouped else None
    found = bootstrap(np.stack(list(map(margins, counts))), groups, samples=40)
    units = counts
    if groups is not None:
        units = np.stack([counts[2 * index : 2 * index + 2].sum(0) for index in range(max(groups) + 1)])
    if len(units) < 2:
        assert found is None
        return
    assert found is not None
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=40)
    scored = [score(sum(times * matrix for times, matrix in zip(row, units, strict=True))) for row in drawn]
    for name in FIGURES:
        values = np.array([getattr(each, name) for each in scored])
        if name == "frequency_weighted_iu":
            values = np.nan_to_num(values)
        known = values[~np.isnan(values)]
        if known.size:
            expected = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            assert getattr(found, name) == pytest.approx(tuple(expected), abs=1e-12)
    for index in range(classes):
        values = np.array([each.per_class_iu[index] for each in scored])
        known = values[~np.isnan(values)]
        if known.size:
            assert found.per_class_iu[index] == pytest.approx(tuple(np.quantile(known, [0.025, 0.975])), abs=1e-12)
        else:
            assert np.isnan(found.per_class_iu[index]).all()


def test_the_same_counts_give_the_same_intervals() -> None:
    pictures = np.stack(list(map(margins, matrices(3, 8, 3))))
    assert bootstrap(pictures) == bootstrap(pictures)
    assert bootstrap(pictures, seed=1) != bootstrap(pictures)


def draw(rng: np.random.Generator, units: int) -> np.ndarray:
    """Draw pictures of 1000 pixels whose accuracy varies from picture to picture around 0.8."""
    right = rng.binomial(1000, rng.beta(8, 2, units))
    return np.stack([margins(np.array([[hits, 1000 - hits], [0, 0]])) for hits in right])


def test_intervals_hold_the_true_score_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        found = bootstrap(draw(rng, 40), samples=300)
        assert found is not None
        held += found.pixel_accuracy[0] <= 0.8 <= found.pixel_accuracy[1]
    assert 0.90 <= held / 300 <= 0.98  # of 0.95


def test_groups_of_alike_pictures_widen_the_interval_to_what_holds() -> None:
    rng = np.random.default_rng(1)
    held = {"pictures": 0, "groups": 0}
    for _ in range(200):
        pictures = draw(rng, 20).repeat(8, axis=0)  # 20 scenes of 8 pictures each, all alike
        for name, groups in (("pictures", None), ("groups", [index // 8 for index in range(160)])):
            found = bootstrap(pictures, groups, samples=200)
            assert found is not None
            assert found.units == name
            held[name] += found.pixel_accuracy[0] <= 0.8 <= found.pixel_accuracy[1]
    assert held["pictures"] < 0.65 * 200  # far too narrow
    assert held["groups"] > 0.85 * 200
