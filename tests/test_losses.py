from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from fullyconv.losses import Normalization, class_weights, pixel, pixel_loss, sample_terms
from fullyconv.types import VOID


@pytest.fixture(scope="module", autouse=True, params=["as on a CPU", "as on a GPU"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to compute the loss, here where there may be no GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "as on a GPU":
            patch.setattr(pixel, "_lose_in_strips", pixel._lose_at_once)
        yield


def problem(classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    scores = torch.randn(2, classes, 97, 101, dtype=torch.float64, requires_grad=True)
    return scores, torch.randint(VOID, classes, (2, 97, 101))


def slowly(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, divisor: float) -> tuple[float, np.ndarray]:
    """Loss and gradient pixel by pixel in float64, from the definition: -log max(p, FLT_MIN), and p - 1."""
    total, gradient = 0.0, np.zeros(scores.shape)
    for n, y, x in np.ndindex(*labels.shape):
        label = labels[n, y, x]
        if label != VOID:
            column = scores[n, :, y, x].astype(np.float64)
            chances = np.exp(column - column.max())
            chances /= chances.sum()
            total += weights[label] * -math.log(max(chances[label], 2.0**-126))
            gradient[n, :, y, x] = weights[label] * (chances - np.eye(len(chances))[label])
    return total / divisor, gradient / divisor


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 5)),
    st.sampled_from([0.1, 3.0, 300.0]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from(["valid", "batch", "full", "none"]),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_loss_and_gradient_are_those_of_the_definition(
    shape: tuple[int, int, int, int],
    spread: float,
    dtype: torch.dtype,
    normalization: Normalization,
    weighted: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch, classes, height, width = shape
    scores = (torch.randn(shape, generator=generator, dtype=torch.float64) * spread).to(dtype).requires_grad_()
    labels = torch.randint(VOID, classes, (batch, height, width), generator=generator)
    weights = torch.rand(classes, generator=generator, dtype=torch.float64) if weighted else None
    each = np.ones(classes) if weights is None else weights.numpy()
    counted = sum(each[label] for label in labels.flatten().tolist() if label != VOID) or 1.0
    divisor = {"valid": counted, "batch": batch, "full": labels.numel(), "none": 1}[normalization]
    expected, slope = slowly(scores.detach().double().numpy(), labels.numpy(), each, divisor)
    loss = pixel_loss(scores, labels, weights=weights, normalization=normalization)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert scores.grad is not None
    assert scores.grad.dtype == dtype
    exact = dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-9 if exact else 2e-5, abs=1e-12 if exact else 1e-6)
    # p - 1 is as exact as p is: the tolerance is that of a pixel's whole weight.
    coarse = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 0.01)
    np.testing.assert_allclose(scores.grad.double().numpy(), slope, rtol=coarse, atol=coarse * each.max() / divisor)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_loss_and_gradient_equal_cross_entropy(weighted: bool, layout: torch.memory_format) -> None:
    scores, labels = problem()  # more pixels than are handled at once
    scores = scores.detach().to(memory_format=layout).requires_grad_()
    weights = torch.rand(5, dtype=torch.float64) if weighted else None
    ours = pixel_loss(scores, labels, weights=weights)
    (gradient,) = torch.autograd.grad(ours, scores)
    theirs = functional.cross_entropy(scores, labels, weight=weights, ignore_index=VOID)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, scores)[0], rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("normalization", ["valid", "batch", "full", "none"])
def test_gradient_equals_finite_differences(normalization: Normalization) -> None:
    scores = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(VOID, 3, (2, 4, 5))
    weights = torch.tensor([0.5, 0.0, 2.0])

    def loss(scores: torch.Tensor) -> torch.Tensor:
        return pixel_loss(scores, labels, weights=weights, normalization=normalization)

    assert torch.autograd.gradcheck(loss, (scores,))


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("weighs_nothing", ["void", "class"])
def test_pixels_that_weigh_nothing_have_no_loss_and_no_gradient_whatever_their_scores(
    junk: float, weighs_nothing: str
) -> None:
    scores, labels = problem()
    weights = torch.tensor([0.0, 1, 2, 3, 4], dtype=torch.float64)
    left_out = labels == (VOID if weighs_nothing == "void" else 0)
    clean = pixel_loss(scores, labels, weights=weights)
    (slope,) = torch.autograd.grad(clean, scores)
    spoilt = scores.detach().clone()
    spoilt.movedim(1, -1)[left_out] = junk
    spoilt.requires_grad_()
    loss = pixel_loss(spoilt, labels, weights=weights)
    (gradient,) = torch.autograd.grad(loss, spoilt)
    assert loss.item() == clean.item()
    assert torch.equal(gradient, slope)
    assert not gradient.movedim(1, -1)[left_out].any()


def test_a_labelled_pixel_with_a_nan_score_is_a_loss_of_nan() -> None:
    scores, labels = problem()
    spoilt = scores.detach().clone()
    labels[1, 90, 100] = 2
    spoilt[1, 0, 90, 100] = float("nan")
    assert pixel_loss(spoilt, labels).isnan()


def test_a_loss_without_gradient_and_on_other_devices_is_the_same() -> None:
    scores, labels = problem()
    with torch.no_grad():
        assert pixel_loss(scores, labels).item() == pixel_loss(scores, labels).item()
    assert not pixel_loss(scores.detach(), labels).requires_grad
    loss = pixel_loss(scores.detach().to("meta").requires_grad_(), labels.to("meta"))
    loss.backward()
    assert loss.shape == ()


def test_the_gradient_is_not_taken_for_differentiable() -> None:
    scores, labels = problem()
    (gradient,) = torch.autograd.grad(pixel_loss(scores, labels) ** 2, scores, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_large_batches_of_half_precision_are_counted_exactly() -> None:
    scores = torch.zeros(1, 2, 300, 300, dtype=torch.float16)  # 90,000 pixels: more than float16 counts to
    for normalization in ("valid", "full"):
        loss = pixel_loss(scores, torch.zeros(1, 300, 300), normalization=normalization)
        assert loss.item() == pytest.approx(math.log(2), rel=1e-5)


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_hopeless_pixel_costs_caffes_maximum_and_goes_on_learning(dtype: torch.dtype) -> None:
    scores = torch.tensor([1000.0, 0.0], dtype=dtype).view(1, 2, 1, 1).requires_grad_()
    loss = pixel_loss(scores, torch.ones(1, 1, 1))
    loss.backward()
    assert loss.item() == pytest.approx(87.3365, abs=1e-3)
    assert scores.grad is not None
    assert scores.grad.flatten().tolist() == [1, -1]


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
    for wrong, ends in (([-1, 4], "-1..4"), ([0, 5], "0..5"), ([0, 7], "0..7"), ([-2, 6], "-2..6")):
        spoilt = torch.tensor(wrong).expand(97 * 101, 2).reshape(2, 97, 101)
        with pytest.raises(ValueError, match=rf"labels are classes 0\.\.4 or -100, not {re.escape(ends)}"):
            pixel_loss(scores, spoilt, ignore_index=-100)
    with pytest.raises(ValueError, match=r"5 classes need as many weights, not \(4,\)"):
        pixel_loss(scores, labels, weights=torch.ones(4))
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


@given(
    st.lists(st.sampled_from([0.0, 1e-6, 0.01, 0.3, 1.0]), min_size=1, max_size=5).filter(any),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_class_weights_are_powers_of_the_shares_whose_mean_pixel_weighs_one(shares: list[float], power: float) -> None:
    shares = [share / sum(shares) for share in shares]
    raw = [share**-power if share else 0.0 for share in shares]
    mean = sum(share * weight for share, weight in zip(shares, raw, strict=True))
    found = class_weights(torch.tensor(shares, dtype=torch.float64), power=power)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([weight / mean for weight in raw], rel=1e-6)


def test_ends_of_ranges_belong_to_them() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([[[0, 1, 2, VOID]]])
    kept = sample_terms(labels, probability=torch.tensor([0.0, 1.0, 0.0]), generator=generator)
    assert kept.tolist() == [[[VOID, 1, VOID, VOID]]]
    before = generator.get_state()
    assert torch.equal(sample_terms(labels, probability=1, generator=generator), labels)
    assert torch.equal(generator.get_state(), before)  # nothing is left to chance
    elsewhere = sample_terms(labels, probability=torch.zeros(3), generator=generator, ignore_index=9)
    assert (elsewhere == 9)[labels != VOID].all()
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="from 0 to 1"):
            sample_terms(labels, probability=torch.tensor([0.5, wrong, 0.5]), generator=generator)
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            sample_terms(labels, probability=wrong, generator=generator)
        with pytest.raises(ValueError, match="between 0 and 1"):
            class_weights(torch.ones(2), power=wrong)
    assert class_weights(torch.zeros(2), power=1.0).tolist() == [0, 0]
