from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fullyconv import Recipe
from fullyconv.losses import Normalization, dice_loss, hardest_terms, lovasz_loss, pixel_loss
from fullyconv.train.assemble import assemble
from fullyconv.train.folder import open_run
from fullyconv.train.pictures import PixelLoss
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import change
from fullyconv.types import VOID
from fullyconv.upsample import LastStep, Upsample

DRAWS = 400


def mean_over_draws(loss: PixelLoss, scores: torch.Tensor, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The loss and its gradient over many draws of the terms that are kept."""
    scores = scores.clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    total = torch.stack([loss(scores, labels, generator) for _ in range(DRAWS)]).mean()
    total.backward()
    assert scores.grad is not None
    return total.item(), scores.grad


@pytest.mark.parametrize("normalization", ["valid", "batch", "full", "none"])
@pytest.mark.parametrize("sampling", [0.25, 0.5])
def test_sampling_the_terms_changes_neither_the_loss_nor_its_gradient_in_expectation(
    normalization: Normalization, sampling: float
) -> None:
    # Paper, section 3.4: patchwise training is loss sampling; 1/p makes up for the terms that are left out.
    torch.manual_seed(0)
    scores, labels = torch.randn(2, 3, 12, 13), torch.randint(VOID, 3, (2, 12, 13))
    whole, slope = mean_over_draws(PixelLoss(normalization), scores, labels)
    sampled, gradient = mean_over_draws(PixelLoss(normalization, sampling, sampling), scores, labels)
    assert sampled == pytest.approx(whole, rel=0.02)
    torch.testing.assert_close(gradient, slope, rtol=0.5, atol=0.2 * float(slope.abs().max()))
    assert float((gradient * slope).sum() / slope.pow(2).sum()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("normalization", ["valid", "batch"])
@pytest.mark.parametrize("by", ["weighting", "sampling"])
def test_a_recipes_loss_is_the_same_in_expectation_however_much_is_sampled(
    shapes: Path, tmp_path: Path, normalization: str, by: str
) -> None:
    settings: dict[str, Any] = {
        "crop": [64, 64], "device": "cpu", "precision": "fp32", "normalization": normalization, "balance": 0.5,
        "balance_by": by,
    }  # fmt: skip
    losses = {}
    for sampling in (1.0, 0.25):
        recipe = change(Recipe(), settings | {"sampling": sampling}, source="test")
        with open_run(tmp_path / str(sampling), resume=False) as folder:
            job = assemble(recipe, prepare(recipe, shapes), folder)
        torch.manual_seed(0)
        scores, labels = torch.randn(2, len(job.classes), 32, 32), torch.randint(VOID, len(job.classes), (2, 32, 32))
        losses[sampling] = mean_over_draws(job.loss, scores, labels)[0]
    assert losses[0.25] == pytest.approx(losses[1.0], rel=0.02)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_hardest_pixels_are_those_of_highest_loss(share: float) -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(2, 3, 5, 7), torch.randint(-1, 3, (2, 5, 7))
    kept = hardest_terms(scores, labels, share=share)
    costs = -scores.double().log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    known = labels != VOID
    ranked = sorted((float(cost), *place) for place, cost in zip(known.nonzero().tolist(), costs[known], strict=True))
    expected = {tuple(place) for _, *place in ranked[len(ranked) - round(share * len(ranked)) :]}
    assert {tuple(place) for place in (kept != VOID).nonzero().tolist()} == expected
    assert (kept[kept != VOID] == labels[kept != VOID]).all()
    empty = torch.full((1, 2, 2), VOID)
    assert torch.equal(hardest_terms(torch.zeros(1, 3, 2, 2), empty, share=0.5), empty)


@pytest.mark.parametrize("overlap", [None, dice_loss, lovasz_loss])
@pytest.mark.parametrize("hardest", [0.3, 1.0])
def test_the_loss_is_the_sum_of_its_parts_with_and_without_the_last_step(overlap: Any, hardest: float) -> None:
    torch.manual_seed(0)
    step = LastStep(Upsample(3, kernel=(4, 4), stride=(2, 2)), (1, 1))
    scores = torch.randn(2, 3, 4, 5, requires_grad=True)
    labels = torch.randint(-1, 3, (2, 8, 10))
    weights = torch.tensor([1.0, 2.0, 0.5])
    whole = step(scores, (8, 10))
    kept = hardest_terms(whole, labels, share=hardest)
    expected = pixel_loss(whole, kept, weights=weights) + (0 if overlap is None else overlap(whole, labels))
    (slope,) = torch.autograd.grad(expected, scores, retain_graph=True)
    fused = PixelLoss(weights=weights, step=step, hardest=hardest, overlap=overlap)
    plain = PixelLoss(weights=weights, hardest=hardest, overlap=overlap)
    for given, loss in ((scores, fused), (whole, plain)):
        found = loss(given, labels, torch.Generator())
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, scores, retain_graph=True)[0], slope, atol=1e-6, rtol=1e-4
        )


@pytest.mark.parametrize("loss", ["cross-entropy+dice", "cross-entropy+lovasz"])
def test_a_recipe_trains_with_them(shapes: Path, tmp_path: Path, loss: str) -> None:
    recipe = Recipe(crop=(32, 32), batch=2, epochs=1, precision="fp32", network="fcn32s-resnet18")
    recipe = change(recipe, {"loss": loss, "hardest": 0.5}, source="--set")
    with open_run(tmp_path / "run", resume=False) as folder:
        job = assemble(recipe, prepare(recipe, shapes), folder)
    assert isinstance(job.loss, PixelLoss)
    assert job.loss.overlap is {"dice": dice_loss, "lovasz": lovasz_loss}[loss.partition("+")[2]]
    assert job.loss.hardest == 0.5
