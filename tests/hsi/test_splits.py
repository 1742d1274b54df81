from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullyconv.hsi.splits import (
    PixelSplit,
    block_split,
    distance,
    farthest,
    leakage,
    mask_split,
    random_split,
    turned,
    within,
)
from fullyconv.networks import build

SEEDS = st.integers(0, 2**32 - 1)


def fields(seed: int, shape: tuple[int, int] = (40, 52), classes: int = 4) -> np.ndarray:
    """Rectangles of classes with unlabelled ground between them, as label maps of fields are."""
    rng = np.random.default_rng(seed)
    labels = np.full(shape, -1, np.int16)
    for index in range(3 * classes):
        top, left = (int(rng.integers(length - 8)) for length in shape)
        high, wide = rng.integers(4, 20, 2)
        labels[top : top + high, left : left + wide] = index % classes
    return labels


def leaks_by_looking(train: np.ndarray, test: np.ndarray, reach: int) -> float:
    near = 0
    for row, column in np.argwhere(test):
        window = train[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        near += bool(window.any())
    return near / test.sum()


@given(SEEDS, st.integers(0, 9))
def test_leakage_equals_looking_around_every_test_pixel(seed: int, reach: int) -> None:
    rng = np.random.default_rng(seed)
    train = rng.random((11, 17)) < 0.05
    test = ~train & (rng.random((11, 17)) < 0.5)
    assert leakage(train, test, within((11, 17), reach)) == leaks_by_looking(train, test, reach)


@pytest.mark.parametrize("name", ["fcn1s-spectral2", "fcn4s-spectral4", "fcn2s-spectral4", "fcn1s-spectral8"])
def test_leakage_is_that_of_the_gradients_of_the_network(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, 2, channels=3)
    for parameter in network.parameters():  # so that no two paths cancel and no unit rests
        parameter.data.abs_().clamp_(min=0.01)
    shape = (37, 30)
    scene = torch.rand(1, 3, *shape, requires_grad=True)
    scores = network(scene)[0, 0]
    rng = np.random.default_rng(0)
    train = np.zeros(shape, bool)
    train.flat[rng.choice(train.size, 5, replace=False)] = True
    test = ~train & (rng.random(shape) < 0.7)
    (gradient,) = torch.autograd.grad(scores[torch.from_numpy(train)].sum(), scene)
    seen = (gradient[0].abs().sum(0) > 0).numpy()
    rows, columns = network.plans
    windows = np.array(rows.windows(shape[0])), np.array(columns.windows(shape[1]))
    assert leakage(train, test, windows) == (seen & test).sum() / test.sum()
    assert farthest(windows) <= rows.reach


def test_turned_windows_hold_those_of_every_flip_and_quarter_turn() -> None:
    network = build("fcn1s-spectral4", 2, channels=1)
    for parameter in network.parameters():
        parameter.data.abs_().clamp_(min=0.01)
    shape, pixel = (21, 26), (9, 14)
    rows, columns = ([np.array(plan.windows(length)) for plan in network.plans] for length in shape)
    windows = turned((rows[0], rows[1]), (columns[0], columns[1]))
    seen = np.zeros(shape, bool)
    for turns in range(4):
        for flip in (False, True):
            scene = torch.rand(1, 1, *shape, requires_grad=True)
            view = torch.rot90(scene.flip(2) if flip else scene, turns, (2, 3))
            scores = torch.rot90(network(view), -turns, (2, 3))
            scores = scores.flip(2) if flip else scores
            (gradient,) = torch.autograd.grad(scores[0, 0, pixel[0], pixel[1]], scene)
            seen |= (gradient[0, 0] != 0).numpy()
    places = np.argwhere(seen)
    expected = windows[0][pixel[0]].tolist(), windows[1][pixel[1]].tolist()
    assert (expected[0][0], expected[1][0]) == tuple(places.min(0))
    assert (expected[0][1], expected[1][1]) == tuple(places.max(0))


@given(SEEDS, st.integers(0, 6))
def test_distance_equals_the_nearest_of_all(seed: int, most: int) -> None:
    mask = np.random.default_rng(seed).random((7, 9)) < 0.1
    grid = np.stack(np.mgrid[:7, :9], -1)
    apart = [np.abs(grid - place).max(-1) for place in np.argwhere(mask)]
    expected = np.min([np.full(mask.shape, most + 1), *apart], axis=0)
    np.testing.assert_array_equal(distance(mask, most), expected)


@given(SEEDS, st.floats(0.05, 0.9))
def test_a_random_split_takes_its_share_of_every_class(seed: int, fraction: float) -> None:
    labels = fields(seed)
    split = random_split(labels, fraction=fraction, seed=seed)
    split.check(labels)
    assert not split.discarded.any()
    for trained, tested, _ in split.counts(labels, 4):
        total = trained + tested
        assert total == 0 or trained == min(max(1, round(fraction * total)), total - 1)


def test_a_random_split_by_number_leaves_a_pixel_for_the_test() -> None:
    labels = np.array([[0, 0, 0, 1, 1, 2, -1]], np.int16)
    split = random_split(labels, per_class=2)
    assert split.counts(labels, 3)[:, :2].tolist() == [[2, 1], [1, 1], [0, 1]]
    assert split.one_sided(labels) == [2]


@settings(max_examples=30)
@given(SEEDS, st.integers(0, 12), st.sampled_from([None, 7, 10]), st.sampled_from([None, 5]))
def test_blocks_keep_their_guard_and_leak_nothing_within_it(
    seed: int, guard: int, block: int | None, per_class: int | None
) -> None:
    labels = fields(seed)
    split = block_split(labels, guard=guard, block=block, per_class=per_class, seed=seed)
    split.check(labels)
    assert split.guard <= guard
    assert leakage(split.train, split.test, within(labels.shape, split.guard)) == 0
    if per_class is not None:
        assert split.counts(labels, 4)[:, 0].max() <= per_class


def test_blocks_have_every_class_on_both_sides_behind_the_widest_guard_there_is() -> None:
    labels = np.full((64, 96), -1, np.int16)
    labels[8:56, 4:92], labels[30:34, 40:50] = 0, 1  # a large field, and in it one of 4 x 10 pixels
    split = block_split(labels, guard=20, seed=3)
    assert split.one_sided(labels) == []
    assert 4 <= split.guard <= 8
    labels[30:34, 40:50] = 0
    assert block_split(labels, guard=20, seed=3).guard == 20


def test_the_same_seed_gives_the_same_blocks_and_another_seed_others() -> None:
    labels = fields(1)
    one, same, other = (block_split(labels, guard=2, seed=seed).train for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


def test_given_masks_are_taken_as_they_are() -> None:
    labels = np.array([[0, 1, 1, 0, -1]], np.int16)
    split = mask_split(labels, np.array([[1, 1, 0, 0, 1]]), np.array([[0, 0, 255, 0, 1]]))
    assert split.counts(labels, 2).tolist() == [[1, 0, 1], [1, 1, 0]]
    with pytest.raises(ValueError, match="2 pixels are in two parts"):
        mask_split(labels, np.array([[1, 1, 0, 0, 0]]), np.array([[1, 1, 1, 0, 0]]))
    with pytest.raises(ValueError, match="no training pixel"):
        mask_split(labels, np.zeros((1, 5)), np.ones((1, 5)))


def test_a_split_that_breaks_its_word_is_refused() -> None:
    labels = np.array([[0, 0, 0, -1]], np.int16)
    first, second, third = (np.arange(4)[None] == place for place in range(3))
    PixelSplit(first, third, second, "masks", guard=1).check(labels)
    with pytest.raises(ValueError, match="1 test pixels lie within the guard of 2 px"):
        PixelSplit(first, third, second, "masks", guard=2).check(labels)
    with pytest.raises(ValueError, match="not the labelled pixels"):
        PixelSplit(first, third, third & False, "masks").check(labels)
    with pytest.raises(ValueError, match=r"of a scene of \(1, 4\)"):
        PixelSplit(first, third, second, "masks").check(labels[:, :3])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"fraction": 1.0}, "fraction lies"), ({"guard": -1}, "guard is 0"), ({"per_class": 0}, "per_class is 1")],
)
def test_requests_that_make_no_sense_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block_split(fields(0), **({"guard": 1} | change))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no pixel of the scene is labelled"):
        random_split(np.full((3, 3), -1))
