from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import pytest

from fullyconv.crf.grid import grid_energy, grid_links, icm


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize("pictured", [True, False])
def test_no_single_change_lowers_the_energy(neighbours: Literal[4, 8], pictured: bool) -> None:
    rng = np.random.default_rng(0)
    unary = rng.random((3, 6, 7), np.float32)
    image = rng.integers(0, 60, (6, 7, 3), np.uint8) if pictured else None
    links = grid_links((6, 7), weight=0.3, neighbours=neighbours, image=image)
    labels = icm(unary, weight=0.3, neighbours=neighbours, image=image)
    energy = grid_energy(labels, unary, links)
    assert energy < grid_energy(unary.argmin(0), unary, links)
    for row, column, label in itertools.product(range(6), range(7), range(3)):
        changed = labels.copy()
        changed[row, column] = label
        assert grid_energy(changed, unary, links) >= energy - 1e-5


def test_the_energy_counts_each_pair_once() -> None:
    links = grid_links((2, 2), weight=1.0, neighbours=8)
    labels = np.array([[0, 1], [1, 0]])
    assert grid_energy(labels, np.zeros((2, 2, 2)), links) == pytest.approx(4)  # the diagonals agree
    labels = np.array([[0, 0], [1, 1]])
    assert grid_energy(labels, np.zeros((2, 2, 2)), links) == pytest.approx(2 + 2 / np.sqrt(2))


def test_noise_goes_and_edges_stay() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((30, 40), np.int64)
    truth[:, 18:] = 1
    noisy = np.where(rng.random(truth.shape) < 0.1, 1 - truth, truth)
    unary = np.stack([noisy == 1, noisy == 0]).astype(np.float32)
    assert (icm(unary, weight=0.4) == truth).mean() > 0.98


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="4 or 8 neighbours, not 6"):
        icm(np.zeros((2, 3, 3)), weight=1.0, neighbours=6)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="need an image of that size"):
        icm(np.zeros((2, 3, 3)), weight=1.0, image=np.zeros((4, 3, 3)))
