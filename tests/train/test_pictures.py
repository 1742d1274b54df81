from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fullyconv import Recipe
from fullyconv.losses import Normalization
from fullyconv.train.assemble import assemble, prepare
from fullyconv.train.folder import open_run
from fullyconv.train.pictures import PixelLoss
from fullyconv.train.recipe import change
from fullyconv.types import VOID

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
