from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from fullyconv.losses import class_weights, pixel_loss, sample_terms
from fullyconv.types import VOID


def problem(classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    scores = torch.randn(2, classes, 97, 101, dtype=torch.float64, requires_grad=True)
    return scores, torch.randint(VOID, classes, (2, 97, 101))


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradient_equal_cross_entropy(weighted: bool) -> None:
    scores, labels = problem()
    weights = torch.rand(5, dtype=torch.float64) if weighted else None
    ours = pixel_loss(scores, labels, weights=weights)
    (gradient,) = torch.autograd.grad(ours, scores)
    theirs = functional.cross_entropy(scores, labels, weight=weights, ignore_index=VOID)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, scores)[0], rtol=1e-12, atol=1e-18)


def test_gradient_equals_finite_differences() -> None:
    scores = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(VOID, 3, (1, 4, 5))
    assert torch.autograd.gradcheck(lambda s: pixel_loss(s, labels, normalization="none"), (scores,))


def test_normalizations_are_caffes() -> None:
    scores, labels = problem()
    total = pixel_loss(scores, labels, normalization="none")
    valid = int((labels != VOID).sum())
    for name, divisor in (("valid", valid), ("batch", 2), ("full", labels.numel())):
        torch.testing.assert_close(pixel_loss(scores, labels, normalization=name), total / divisor)


def test_nothing_to_learn_from_costs_nothing() -> None:
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = pixel_loss(scores, torch.full((1, 4, 4), VOID))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_zero_scores_cost_log_c() -> None:
    loss = pixel_loss(torch.zeros(1, 21, 3, 3), torch.zeros(1, 3, 3))
    assert loss.item() == pytest.approx(math.log(21))


def test_a_hopeless_pixel_costs_caffes_maximum() -> None:
    scores = torch.tensor([1000.0, 0.0]).view(1, 2, 1, 1)
    assert pixel_loss(scores, torch.ones(1, 1, 1)).item() == pytest.approx(87.3365, abs=1e-3)


def test_class_weights_balance() -> None:
    shares = torch.tensor([0.7, 0.25, 0.05, 0.0])
    for power in (0.0, 0.5, 1.0):
        weights = class_weights(shares, power=power)
        assert (weights * shares).sum().item() == pytest.approx(1)
        assert weights[3] == (1 if power == 0 else 0) or power == 0
    torch.testing.assert_close(class_weights(shares, power=1.0)[:3] * shares[:3], torch.full((3,), 1 / 3))


def test_bad_arguments_are_named() -> None:
    scores, labels = problem()
    with pytest.raises(ValueError, match="differ in size"):
        pixel_loss(scores, labels[:1])
    with pytest.raises(ValueError, match="'mean'"):
        pixel_loss(scores, labels, normalization="mean")
    with pytest.raises(ValueError, match="between 0 and 1"):
        class_weights(torch.ones(2), power=2)


def test_sampled_terms_are_kept_with_their_probability_and_void_stays_void() -> None:
    labels = torch.randint(VOID, 3, (4, 100, 100))
    generator = torch.Generator().manual_seed(0)
    kept = sample_terms(labels, probability=0.3, generator=generator)
    assert ((kept == labels) | (kept == VOID)).all()
    share = float((kept != VOID).sum() / (labels != VOID).sum())
    assert share == pytest.approx(0.3, abs=0.01)
    assert torch.equal(sample_terms(labels, probability=1.0, generator=generator), labels)
    again = sample_terms(labels, probability=0.3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kept, again)
    for probability in (0.0, 1.5):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            sample_terms(labels, probability=probability, generator=generator)


def test_classes_sampled_by_their_weight_have_the_weighted_loss_in_expectation() -> None:
    # Fact sheet, statement 6: balancing by weighting or by sampling the loss.
    torch.manual_seed(0)
    scores = torch.randn(1, 3, 8, 9, dtype=torch.float64)
    labels = torch.randint(VOID, 3, (1, 8, 9))
    keep, draws = torch.tensor([0.1, 0.5, 1.0]), 3000
    generator = torch.Generator().manual_seed(1)
    kept = sample_terms(labels.expand(draws, -1, -1), probability=keep, generator=generator)
    assert ((kept == labels) | (kept == VOID)).all()
    sampled = pixel_loss(scores.expand(draws, -1, -1, -1), kept, normalization="batch")
    weighted = pixel_loss(scores, labels, weights=keep, normalization="none")
    assert float(sampled) == pytest.approx(float(weighted), rel=0.01)
    with pytest.raises(ValueError, match="from 0 to 1"):
        sample_terms(labels, probability=torch.tensor([0.5, 2.0, 0.1]), generator=generator)
