"""Losses of overlap against their definitions, set by set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fullyconv.losses import dice_loss, lovasz_loss
from fullyconv.types import VOID


def drawn(seed: int, classes: int, pixels: int, void: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (1, 1, pixels))
    labels[rng.random(labels.shape) < void] = VOID
    scores = torch.tensor(rng.normal(size=(1, classes, 1, pixels)) * 2, dtype=torch.float32)
    return scores, torch.from_numpy(labels)


def lost(wrong: set[int], region: set[int]) -> float:
    """One minus the IU of a class whose region is known, where these pixels are wrong (the set function)."""
    return len(wrong) / len(region | wrong)


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 9))
def test_lovasz_is_the_extension_of_the_lost_iu(seed: int, classes: int, pixels: int) -> None:
    """The extension integrates the set function over the thresholds of the errors (the Choquet integral)."""
    scores, labels = drawn(seed, classes, pixels)
    chances, truth = scores[0, :, 0].softmax(0).double().numpy(), labels[0, 0].numpy()
    found = []
    for index in range(classes):
        region = {pixel for pixel in range(pixels) if truth[pixel] == index}
        if not region:
            continue
        errors = {p: abs((p in region) - chances[index, p]) for p in range(pixels) if truth[p] != VOID}
        steps = sorted({0.0, *errors.values()})
        area = sum(
            (high - low) * lost({p for p, error in errors.items() if error > (low + high) / 2}, region)
            for low, high in itertools.pairwise(steps)
        )
        found.append(area)
    expected = np.mean(found) if found else 0.0
    assert float(lovasz_loss(scores, labels)) == pytest.approx(expected, abs=1e-5)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 40))
def test_dice_is_twice_the_shared_over_the_sum(seed: int, classes: int, pixels: int) -> None:
    scores, labels = drawn(seed, classes, pixels)
    chances, truth = scores[0, :, 0].softmax(0).double().numpy(), labels[0, 0].numpy()
    known = truth != VOID
    found = []
    for index in range(classes):
        region = (truth == index)[known]
        if region.any():
            chance = chances[index, known]
            found.append(2 * chance[region].sum() / (chance.sum() + region.sum()))
    expected = 1 - np.mean(found) if found else 0.0
    assert float(dice_loss(scores, labels)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", [dice_loss, lovasz_loss])
def test_gradients_are_finite_differences_and_void_has_none(loss) -> None:  # noqa: ANN001
    scores, labels = drawn(3, 3, 12, void=0.3)
    scores.requires_grad_()
    loss(scores, labels).backward()
    assert scores.grad is not None
    assert (scores.grad[..., 0, :][:, :, labels[0, 0] == VOID] == 0).all()
    slope = torch.zeros_like(scores)
    with torch.no_grad():
        for place in np.ndindex(*scores.shape):
            step = torch.zeros_like(scores)
            step[place] = 1e-2
            slope[place] = (loss(scores + step, labels) - loss(scores - step, labels)) / 2e-2
    torch.testing.assert_close(scores.grad, slope, atol=2e-4, rtol=2e-2)


@pytest.mark.parametrize("loss", [dice_loss, lovasz_loss])
def test_nothing_labelled_costs_nothing(loss) -> None:  # noqa: ANN001
    scores = torch.randn(2, 3, 4, 5, requires_grad=True)
    value = loss(scores, torch.full((2, 4, 5), VOID))
    value.backward()
    assert value.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


@pytest.mark.parametrize("loss", [dice_loss, lovasz_loss])
@pytest.mark.parametrize("ignored", [2, 255])
def test_the_pixels_that_do_not_count_may_have_any_label(loss, ignored: int) -> None:  # noqa: ANN001
    torch.manual_seed(0)
    scores, labels = torch.randn(2, 4, 3, 5), torch.randint(0, 4, (2, 3, 5))
    labels[labels == 2] = VOID
    other = labels.where(labels != VOID, ignored)
    torch.testing.assert_close(loss(scores, other, ignore_index=ignored), loss(scores, labels))
