from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from fullyconv.scores.boundary import boundaries, count_boundaries, squared_distance
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
    """At most w px from a pixel of another class, w included, fractions too, by all pairs; wide void bounds nothing."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.repeat(rng.integers(0, 4, (4, 5)), 12, 0), 12, 1)
    truth[:8, 20:30] = 255
    guess = rng.integers(0, 4, truth.shape)
    widths = (1, 1.5, 2**0.5 * 2, 4.5, 20**0.5, 20)
    counts = count_boundaries(truth, guess, classes=4, widths=widths)
    places, labels = np.argwhere(truth < 255), truth[truth < 255]
    apart = ((places[:, None] - places[None]) ** 2).sum(2)
    nearest = np.where(labels[:, None] != labels[None], apart, 10**6).min(1)
    for width, found in zip(widths, counts.trimap, strict=True):
        band = np.zeros(truth.shape, bool)
        band[tuple(places[nearest <= width**2 + 1e-9].T)] = True
        np.testing.assert_array_equal(found, confusion(np.where(band, truth, -1), guess, classes=4))
    with pytest.raises(ValueError, match="widths above 0"):
        count_boundaries(truth, guess, classes=4, widths=(0,))


@pytest.mark.parametrize("void", [-1, 255])
def test_a_ring_of_void_is_where_boundaries_are(void: int) -> None:
    """VOC's masks have no two classes side by side: five void pixels lie between them."""
    truth = np.zeros((120, 160), np.int16)
    truth[30:90, 40:120] = void
    truth[33:87, 43:117] = 5
    perfect = np.zeros_like(truth)
    perfect[31:89, 41:119] = 5
    counts = count_boundaries(truth, perfect, classes=6)
    assert counts.f_score == 1.0
    assert counts.trimap_iu[1] == 1.0
    inside, around = 2 * (54 + 74) - 4, 2 * (60 + 80)  # 4-neighbours of the ring, on either side
    assert counts.trimap[0].sum() == inside + around
    shifted = count_boundaries(truth, np.roll(perfect, 20, 1), classes=6)
    assert shifted.f_score < 0.8
    assert shifted.trimap_iu[20] < shifted.trimap_iu[1] + 1
    nothing = count_boundaries(truth, np.zeros_like(truth), classes=6)
    assert nothing.f_scores[5] == 0
    blob = np.zeros((120, 160), np.int16)
    blob[30:90, 40:120] = void  # an area that nobody labelled has no boundary
    assert np.isnan(count_boundaries(blob, np.zeros_like(blob), classes=6).f_score)
    assert count_boundaries(blob, np.zeros_like(blob), classes=6).trimap.sum() == 0


@pytest.mark.parametrize("half", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_bands_around_rings_are_those_of_scipys_distances(half: int, seed: int) -> None:
    """Rings of 2 or 4 void pixels between all things, junctions among them: all distances from ring or other class."""
    rng = np.random.default_rng(seed)
    things = np.kron(rng.integers(0, 4, (4, 5)), np.ones((60, 64), int))
    edges = np.zeros(things.shape, bool)
    edges[1:] |= things[1:] != things[:-1]
    edges[:, 1:] |= things[:, 1:] != things[:, :-1]
    ring = ndimage.binary_dilation(edges, np.ones((2 * half, 2 * half)))
    truth, guess = np.where(ring, 255, things), rng.integers(0, 4, things.shape)
    widths = (1, 1.5, 4.5, 5**0.5, 13)
    counts = count_boundaries(truth, guess, classes=4, widths=widths)
    far = np.full(truth.shape, np.inf)
    for label in range(4):
        own = truth == label
        far[own] = ndimage.distance_transform_edt(own)[own]
    for width, found in zip(widths, counts.trimap, strict=True):
        band = far <= width + 1e-9
        np.testing.assert_array_equal(found, confusion(np.where(band, truth, -1), guess, classes=4))
    assert count_boundaries(truth, things, classes=4).f_score == 1


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


def near(marked: np.ndarray, reach: int) -> np.ndarray:
    """The pixels at most ``reach`` from a marked one, from all pairs."""
    found, grid = np.zeros(marked.shape, bool), np.indices(marked.shape)
    for row, column in np.argwhere(marked):
        found |= (grid[0] - row) ** 2 + (grid[1] - column) ** 2 <= reach**2
    return found


@pytest.mark.parametrize("shape", [(9, 12), (160, 170), (240, 330)])
def test_matches_of_boundaries_are_those_of_all_pairs(shape: tuple[int, int]) -> None:
    """Csurka et al. 2013: a boundary pixel is right if one of the other map's, of its class, is near."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(-1, 3, (3, 4))
    truth = np.kron(blocks, np.ones((shape[0] // 3, shape[1] // 4), int))
    truth = np.pad(truth, ((0, shape[0] - truth.shape[0]), (0, shape[1] - truth.shape[1])), mode="edge")
    guess = np.roll(np.where(truth < 0, 3, truth), (2, 1), (0, 1))
    reach = max(1, round(0.0075 * float(np.hypot(*shape))))
    counts = count_boundaries(truth, guess, classes=4)
    seen = np.where(truth < 0, -1, guess)
    for c in range(4):
        drawn, true = boundaries(seen) & (seen == c), boundaries(truth) & (truth == c)
        assert (counts.drawn[c], counts.true[c]) == (drawn.sum(), true.sum())
        assert counts.matched[c] == (drawn & near(true, reach)).sum()
        assert counts.met[c] == (true & near(drawn, reach)).sum()
        precision, recall = (drawn & near(true, reach)).sum() / max(1, drawn.sum()), counts.met[c] / max(1, true.sum())
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        if drawn.any() or true.any():
            assert counts.f_scores[c] == pytest.approx(expected)
        else:
            assert np.isnan(counts.f_scores[c])
    assert counts.f_score == pytest.approx(np.nanmean(counts.f_scores))


def test_boundaries_are_pixels_beside_another_class() -> None:
    labels = np.random.default_rng(0).integers(-2, 3, (8, 9))
    expected = np.zeros(labels.shape, bool)
    for row, column in np.ndindex(labels.shape):
        for other in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= other[0] < 8 and 0 <= other[1] < 9 and labels[row, column] >= 0 and labels[other] >= 0:
                expected[row, column] |= labels[row, column] != labels[other]
    np.testing.assert_array_equal(boundaries(labels), expected)


def test_truth_that_is_no_class_is_void() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(-1, 3, (20, 20)), rng.integers(0, 3, (20, 20))
    one, other = (count_boundaries(np.where(truth < 0, void, truth), guess, classes=3) for void in (-1, 3))
    for name in ("trimap", "matched", "drawn", "met", "true"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_without_any_boundary_there_is_no_score() -> None:
    nothing = count_boundaries(np.zeros((5, 6), int), np.zeros((5, 6), int), classes=2)
    assert np.isnan(nothing.f_score)
    assert all(np.isnan(value) for value in nothing.f_scores)
    assert set(nothing.trimap_iu) == set(range(1, 21))


def test_one_boundary_pixel_is_enough_for_a_score_and_classes_may_be_absent() -> None:
    truth, guess = np.zeros((6, 6), int), np.zeros((6, 6), int)
    guess[0, 0] = 2  # classes 1 and 3 are nowhere
    truth[4:] = 4
    guess[4:] = 4
    counts = count_boundaries(truth, guess, classes=5)
    assert counts.drawn.tolist() == [2 + 6, 0, 1, 0, 6]
    assert counts.f_scores[2] == 0
    assert counts.f_scores[4] == 1
    assert np.isnan([counts.f_scores[1], counts.f_scores[3]]).all()


def test_counts_of_images_add_up() -> None:
    rng = np.random.default_rng(0)
    one, other = (count_boundaries(*rng.integers(0, 3, (2, 15, 20)), classes=3) for _ in range(2))
    both = one + other
    for name in ("trimap", "matched", "drawn", "met", "true"):
        np.testing.assert_array_equal(getattr(both, name), getattr(one, name) + getattr(other, name))
