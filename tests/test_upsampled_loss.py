from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullyconv.losses import Normalization, pixel_loss, upsampled_loss
from fullyconv.types import VOID
from fullyconv.upsample import Border, LastStep, Upsample


def step_of(
    classes: int, factors: tuple[int, int], odd: bool = False, border: Border = "zero", learned: bool = False
) -> LastStep:
    kernel = (2 * factors[0] - odd, 2 * factors[1] - odd)
    layer = Upsample(classes, kernel=kernel, stride=factors, border=border, learned=learned)
    return LastStep(layer, (0, 0))


def expected(
    scores: torch.Tensor, labels: torch.Tensor, step: LastStep, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    exact = scores.detach().double().requires_grad_()
    size = labels.shape[1], labels.shape[2]
    loss = pixel_loss(step(exact, size), labels, **options)  # type: ignore[arg-type]
    return loss.detach(), torch.autograd.grad(loss, exact)[0]


def found(
    scores: torch.Tensor, labels: torch.Tensor, step: LastStep, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    own = scores.detach().clone().requires_grad_()
    loss = upsampled_loss(own, labels, step, **options)  # type: ignore[arg-type]
    loss.backward()
    assert own.grad is not None
    assert own.grad.dtype == scores.dtype
    return loss.detach(), own.grad


@settings(max_examples=50)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 11), st.integers(1, 13)),
    factors=st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 3, 8, 32])),
    odd=st.booleans(),
    border=st.sampled_from(["zero", "replicate"]),
    places=st.tuples(*[st.floats(0, 1)] * 4),
    spread=st.sampled_from([0.1, 3.0, 100.0]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float64]),
    normalization=st.sampled_from(["valid", "batch", "full", "none"]),
    weighted=st.booleans(),
    ignore=st.sampled_from([VOID, 0, 255]),
    channels_last=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_loss_and_gradient_are_those_of_upsampled_scores_in_float64(
    shape: tuple[int, int, int, int],
    factors: tuple[int, int],
    odd: bool,
    border: Border,
    places: tuple[float, float, float, float],
    spread: float,
    dtype: torch.dtype,
    normalization: Normalization,
    weighted: bool,
    ignore: int,
    channels_last: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    batch, classes, height, width = shape
    layer = step_of(classes, factors, odd, border).layer
    offset, size = [], []
    for axis, units in enumerate((height, width)):
        margin = factors[axis] if border == "replicate" else 0
        covered = layer.full_size(units, axis) + 2 * margin
        first = int(places[axis] * (covered - 1))
        offset.append(first - margin)
        size.append(1 + int(places[2 + axis] * (covered - first - 1)))
    step = LastStep(layer, (offset[0], offset[1]))
    scores = (torch.randn(shape, generator=generator) * spread).to(dtype)
    if channels_last:
        scores = scores.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(-1, classes, (batch, size[0], size[1]), generator=generator)
    labels = labels.where(labels >= 0, ignore)
    weights = torch.rand(classes, generator=generator) * (torch.rand(classes, generator=generator) > 0.3)
    options = {
        "normalization": normalization, "ignore_index": ignore, "weights": weights if weighted else None,
    }  # fmt: skip
    loss, gradient = found(scores, labels, step, **options)
    right, slope = expected(scores, labels, step, **options)
    exact = dtype == torch.float64
    assert loss.dtype == (torch.float64 if exact else torch.float32)
    # A score of 100 is known to 8e-6: so much may a pixel's loss be off, and its slope.
    slack = 1e-12 if exact else 3e-7 * max(1.0, spread)
    torch.testing.assert_close(loss.double(), right, rtol=1e-9 if exact else 2e-6, atol=slack * float(right + 1))
    coarse = 0.01 if dtype == torch.bfloat16 else 10 * slack
    largest = float(slope.abs().max()) or 1.0
    torch.testing.assert_close(gradient.double(), slope, rtol=coarse, atol=coarse * largest)


def problem(classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, LastStep]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, classes, 12, 20, generator=generator) * 3
    labels = torch.randint(VOID, classes, (2, 90, 150), generator=generator)
    return scores, labels, LastStep(step_of(classes, (8, 8)).layer, (4, 5))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_threads(threads: int) -> None:
    scores, labels, step = problem()
    loss, gradient = found(scores, labels, step)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again, slope = found(scores, labels, step)
    finally:
        torch.set_num_threads(before)
    assert again == loss
    assert torch.equal(gradient, slope)


def test_gradient_equals_finite_differences() -> None:
    step = step_of(3, (2, 4))
    scores = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(VOID, 3, (2, 10, 16))
    assert torch.autograd.gradcheck(lambda scores: upsampled_loss(scores, labels, step), (scores,))


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("weighs_nothing", ["void", "class"])
def test_units_that_only_pixels_without_weight_see_may_hold_anything(junk: float, weighs_nothing: str) -> None:
    scores, labels, step = problem()
    weights = torch.tensor([0.0, 1, 2, 3, 4])
    labels[0, :40, :40] = VOID if weighs_nothing == "void" else 0
    clean, slope = found(scores, labels, step, weights=weights)
    scores[0, :, 1, 2] = junk
    loss, gradient = found(scores, labels, step, weights=weights)
    assert loss == clean
    assert torch.equal(gradient, slope)


def test_a_labelled_pixel_with_a_nan_score_is_a_loss_of_nan() -> None:
    scores, labels, step = problem()
    scores[1, 3, 10, 10] = float("nan")
    assert upsampled_loss(scores, labels, step).isnan()


def test_a_hopeless_pixel_costs_caffes_maximum_and_goes_on_learning() -> None:
    scores = torch.tensor([1000.0, 0.0]).view(1, 2, 1, 1)
    loss, gradient = found(scores, torch.ones(1, 1, 1, dtype=torch.long), step_of(2, (1, 1), odd=True))
    assert loss.item() == pytest.approx(87.3365, abs=1e-3)
    assert gradient.flatten().tolist() == [1, -1]


def test_nothing_to_learn_from_costs_nothing() -> None:
    scores, labels, step = problem()
    loss, gradient = found(scores, torch.full_like(labels, VOID), step)
    assert loss == 0
    assert not gradient.any()
    assert upsampled_loss(scores, labels[:, :0], step) == 0


def test_no_gradient_is_made_where_none_is_asked_for() -> None:
    scores, labels, step = problem()
    assert not upsampled_loss(scores, labels, step).requires_grad
    expected_loss = found(scores, labels, step)[0]
    with torch.no_grad():
        loss = upsampled_loss(scores.requires_grad_(), labels, step)
    assert loss == expected_loss
    assert not loss.requires_grad


def test_learned_kernels_get_their_gradient() -> None:
    scores, labels, _ = problem()
    step = LastStep(step_of(5, (8, 8), learned=True).layer, (4, 5))
    loss = upsampled_loss(scores, labels, step)
    loss.backward()
    assert step.layer.weight is not None
    assert step.layer.weight.grad is not None
    assert loss.item() == pytest.approx(found(scores, labels, problem()[2])[0].item(), rel=1e-5)


def test_kernels_wider_than_two_units_and_kernels_with_gaps_are_exact_too() -> None:
    scores, labels, _ = problem()
    for kernel, stride in ((9, 2), (1, 3), (7, 7)):
        layer = Upsample(5, kernel=(kernel, kernel), stride=(stride, stride))
        size = layer.full_size(12, 0), layer.full_size(20, 1)
        labels = torch.randint(VOID, 5, (2, *size))
        loss, gradient = found(scores, labels, LastStep(layer, (0, 0)))
        right, slope = expected(scores, labels, LastStep(layer, (0, 0)))
        torch.testing.assert_close(loss.double(), right, rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=1e-6 * float(slope.abs().max()))


def test_other_devices_and_second_gradients() -> None:
    scores, labels, step = problem()
    loss = upsampled_loss(scores.to("meta").requires_grad_(), labels.to("meta"), step)
    loss.backward()
    assert loss.shape == ()
    scores.requires_grad_()
    (gradient,) = torch.autograd.grad(upsampled_loss(scores, labels, step) ** 2, scores, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_bad_arguments_are_named() -> None:
    scores, labels, step = problem()
    with pytest.raises(ValueError, match="do not go together"):
        upsampled_loss(scores, labels[:1], step)
    with pytest.raises(ValueError, match="outside the upsampled map"):
        upsampled_loss(scores, labels.repeat(1, 2, 1), step)
    with pytest.raises(ValueError, match="'mean'"):
        upsampled_loss(scores, labels, step, normalization="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"5 classes need as many weights, not \(4,\)"):
        upsampled_loss(scores, labels, step, weights=torch.ones(4))
    labels[0, 3, 4], labels[1, 80, 149] = 7, -5
    for kind in (torch.float32, torch.float64):
        with pytest.raises(ValueError, match=r"labels are classes 0\.\.4 or -1, not -5\.\."):
            upsampled_loss(scores.to(kind), labels, step)
