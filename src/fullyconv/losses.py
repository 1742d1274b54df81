"""Per-pixel losses (paper, section 3; Caffe's SoftmaxWithLoss)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fullyconv.types import VOID

Normalization = Literal["valid", "batch", "full", "none"]

LEAST_PROBABILITY = torch.finfo(torch.float32).tiny  # Caffe's floor: no pixel costs more than 87.34
STRIP = 8192  # pixels handled at once on CPU, so that their scores stay in the cache


def pixel_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    normalization: Normalization = "valid",
    ignore_index: int = VOID,
) -> Tensor:
    """Softmax cross-entropy of N x C x H x W scores against N x H x W labels, a scalar.

    Pixels labelled ``ignore_index`` have no loss and no gradient. The sum over the others, each
    times its class's weight, is divided by: ``valid`` the total weight of those pixels, ``batch`` the
    number of images (Caffe's ``normalize: false``), ``full`` all N*H*W pixels, ``none`` 1. A batch
    with nothing to learn from gives 0, not NaN. Raises ``ValueError`` for another normalization or
    when scores and labels differ in size.
    """
    if scores.shape[:1] + scores.shape[2:] != labels.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)} differ in size")
    labels = labels.long()
    labelled = labels != ignore_index
    pixel_weights = labelled.to(scores.dtype)
    if weights is not None:
        pixel_weights = pixel_weights * weights.to(scores.dtype)[labels.where(labelled, 0)]
    if scores.device.type == "cpu":
        total: Tensor = _SummedLoss.apply(  # type: ignore[no-untyped-call]
            scores, labels.where(labelled, 0), pixel_weights
        )
    else:
        costs = functional.cross_entropy(scores, labels.where(labelled, 0), reduction="none")
        total = (costs * pixel_weights).sum()
    if normalization == "valid":
        weight = pixel_weights.sum()
        return total / torch.where(weight > 0, weight, 1.0)
    if normalization not in ("batch", "full", "none"):
        raise ValueError(f"normalization is 'valid', 'batch', 'full' or 'none', not {normalization!r}")
    return total / {"batch": labels.shape[0], "full": labels.numel(), "none": 1}[normalization]


def sample_terms(
    labels: Tensor, *, probability: float | Tensor, generator: torch.Generator, ignore_index: int = VOID
) -> Tensor:
    """Keep each spatial loss term with ``probability``: patchwise training as loss sampling (paper, section 3.4).

    One probability for all pixels, or one per class (C), which balances classes by sampling as
    ``class_weights`` does by weighting: in expectation a class kept with p weighs p.

    Gives N x H x W labels whose dropped pixels are ``ignore_index``; ``generator`` lives on the labels'
    device. A summed loss of what is kept, divided by p, has the expected gradient of the whole image's, so
    an update of 1/p times as many images sees as many terms. The probability of all pixels lies above 0
    and at most 1, which keeps everything, that of a class may be 0; raises ``ValueError`` for others.
    """
    if isinstance(probability, Tensor):
        if not bool(((probability >= 0) & (probability <= 1)).all()):
            raise ValueError(f"a class is kept with a probability from 0 to 1, not {probability.tolist()}")
        probability = probability.to(labels.device)[labels.where(labels != ignore_index, 0).long()]
    elif not 0 < probability <= 1:
        raise ValueError(f"a loss term is kept with a probability above 0 and at most 1, not {probability}")
    elif probability == 1:
        return labels
    kept = torch.rand(labels.shape, generator=generator, device=labels.device) < probability
    return labels.where(kept, ignore_index)


class _SummedLoss(torch.autograd.Function):
    """The weighted sum of -log softmax, its gradient made on the way, strip by strip.

    Four times faster on CPU than cross_entropy and its backward pass, which walk full-size maps a
    dozen times.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, labels: Tensor, pixel_weights: Tensor) -> Tensor:
        flat = scores.flatten(2)  # N x C x P
        gradient = torch.empty_like(flat)
        total = torch.zeros((), dtype=torch.float64)
        for image, truth, weight, slope in zip(
            flat, labels.flatten(1), pixel_weights.flatten(1), gradient, strict=True
        ):
            for start in range(0, image.shape[1], STRIP):
                strip = slice(start, start + STRIP)
                chances = torch.softmax(image[:, strip], 0)  # C x p
                chosen = truth[None, strip]
                costs = chances.gather(0, chosen).clamp_(min=LEAST_PROBABILITY).log_()
                total -= costs[0].dot(weight[strip]).double()
                chances.scatter_add_(0, chosen, torch.full_like(costs, -1.0))
                torch.mul(chances, weight[strip], out=slope[:, strip])
        ctx.save_for_backward(gradient.view_as(scores))
        return total.to(scores.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * output_gradient, None, None


def class_weights(shares: Tensor, *, power: float) -> Tensor:
    """Weigh classes by ``share ** -power``, scaled so that an average pixel weighs 1.

    ``power`` 0 leaves all classes alike, 1 gives every class the same total weight (inverse
    frequency), 0.5 lies between. Classes that never occur weigh 0.

    >>> class_weights(torch.tensor([0.8, 0.2, 0.0]), power=1.0).tolist()
    [0.625, 2.5, 0.0]
    """
    if not 0 <= power <= 1:
        raise ValueError(f"the balancing power lies between 0 and 1, not {power}")
    shares = shares.double()
    raw = torch.where(shares > 0, shares.clamp(min=torch.finfo(torch.float64).tiny) ** -power, 0.0)
    return (raw / (raw * shares).sum().clamp(min=torch.finfo(torch.float64).tiny)).float()
