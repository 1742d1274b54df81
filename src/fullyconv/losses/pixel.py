"""Per-pixel losses (paper, section 3; Caffe's SoftmaxWithLoss)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fullyconv.types import VOID

Normalization = Literal["valid", "batch", "full", "none"]

LEAST_PROBABILITY = torch.finfo(torch.float32).tiny  # Caffe's FLT_MIN: no pixel costs more than 87.34
STRIP = 8192  # pixels handled at once on CPU, so that their scores stay in the cache


def pixel_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    normalization: Normalization = "valid",
    ignore_index: int = VOID,
) -> Tensor:
    """Average the softmax cross-entropy of the labelled pixels; ``softmax_loss`` says what one of them costs.

    Args:
        scores: N x C x H x W of any floating type, on any device.
        labels: N x H x W, classes 0..C-1; pixels labelled ``ignore_index`` have no loss and no gradient,
            whatever their scores, NaN among them.
        weights: C, what a pixel of each class weighs; all alike by default.
        normalization: What the weighted sum is divided by: ``valid`` the total weight of the labelled pixels,
            ``batch`` the number of images (Caffe's ``normalize: false``), ``full`` all N*H*W pixels, ``none`` 1.
        ignore_index: The label of pixels that are left out.

    Returns:
        A scalar, in float32 or, of float64 scores, in float64; 0, not NaN, where there is nothing to learn from.

    Raises:
        ValueError: For another normalization, sizes that do not go together, or a label that is no class.

    >>> scores = torch.tensor([[[[2.0, 0.0, 9.0]], [[0.0, 0.0, -9.0]]]])  # two classes, three pixels
    >>> round(pixel_loss(scores, torch.tensor([[[0, 1, VOID]]])).item(), 4)  # log(1 + e^-2), log 2, nothing
    0.41

    """
    check_normalization(normalization)
    if scores.shape[:1] + scores.shape[2:] != labels.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)} differ in size")
    targets, pixel_weights = weigh(scores, labels, weights, ignore_index)
    return normalized(softmax_loss(scores, targets, pixel_weights), pixel_weights.sum(), labels, normalization)


def check_normalization(normalization: str) -> None:
    """Refuse what is no normalization."""
    if normalization not in get_args(Normalization):
        raise ValueError(f"normalization is 'valid', 'batch', 'full' or 'none', not {normalization!r}")


def weigh(scores: Tensor, labels: Tensor, weights: Tensor | None, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Look up what pixels weigh: classes, 0 where they are ignored, and weights, both N x H x W.

    Raises ``ValueError`` for a label that is no class; on a GPU, which nobody waits for, a later call fails.
    """
    classes = scores.shape[1]
    labelled = labels != ignore_index
    targets = labels.where(labelled, 0).long()
    if targets.numel() and not targets.is_meta:
        low, high = targets.aminmax()
        if targets.device.type == "cuda":
            torch._assert_async((low >= 0) & (high < classes))
        elif low < 0 or high >= classes:
            raise no_class(low, high, classes, ignore_index)
    # Counted in float32 at least: sums of ones end at 256 in bfloat16, at 65504 in float16.
    pixel_weights = labelled.to(torch.promote_types(scores.dtype, torch.float32))
    if weights is not None:
        check_weights(weights, classes)
        pixel_weights *= weights.to(pixel_weights)[targets]
    return targets, pixel_weights


def no_class(low: float | Tensor, high: float | Tensor, classes: int, ignore_index: int) -> ValueError:
    """Say which labels are none of the classes."""
    return ValueError(f"labels are classes 0..{classes - 1} or {ignore_index}, not {int(low)}..{int(high)}")


def check_weights(weights: Tensor, classes: int) -> None:
    """Refuse another number of weights than there are classes."""
    if weights.shape != (classes,):
        raise ValueError(f"{classes} classes need as many weights, not {tuple(weights.shape)}")


def normalized(total: Tensor, weight: Tensor, labels: Tensor, normalization: Normalization) -> Tensor:
    """Divide a summed loss as ``pixel_loss`` says; ``weight`` is that of all labelled pixels."""
    if normalization == "valid":
        return total / torch.where(weight > 0, weight, 1.0)
    return total / {"batch": labels.shape[0], "full": labels.numel(), "none": 1}[normalization]


def softmax_loss(scores: Tensor, labels: Tensor, pixel_weights: Tensor) -> Tensor:
    """Sum ``-log softmax`` of each pixel's label, times the pixel's weight, as Caffe's SoftmaxWithLoss does.

    A pixel costs 87.34 at most (its probability counts as FLT_MIN at least), but its gradient is that of the
    true loss, ``softmax - 1`` at the label: however wrong a pixel is, it goes on learning. A pixel that weighs
    nothing has no loss and no gradient, even where its scores are NaN. Every loss of the package comes through here.

    Args:
        scores: N x C x ..., on any device.
        labels: N x ... int64, 0..C-1 also where a pixel weighs nothing.
        pixel_weights: N x ..., float32 or wider, the type in which all is computed.

    Returns:
        A scalar of the weights' type, once differentiable with respect to ``scores``.

    >>> scores = torch.tensor([[[1000.0], [0.0]]], requires_grad=True)  # one pixel, two classes
    >>> loss = softmax_loss(scores, torch.tensor([[1]]), torch.ones(1, 1))
    >>> loss.backward()
    >>> round(loss.item(), 4), scores.grad.flatten().tolist()
    (87.3365, [1.0, -1.0])

    """
    total: Tensor = _SoftmaxLoss.apply(scores, labels, pixel_weights)  # type: ignore[no-untyped-call]
    return total


class _SoftmaxLoss(torch.autograd.Function):
    """The weighted sum of -log softmax, its gradient made on the way.

    On a CPU strip by strip: four times faster than cross_entropy and its backward pass, which walk full-size maps a
    dozen times. Elsewhere all at once: there it is the number of operations that costs.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, labels: Tensor, pixel_weights: Tensor) -> Tensor:
        flat = scores.flatten(2), labels.flatten(1), pixel_weights.flatten(1)  # N x C x P, N x P, N x P
        lose = _lose_in_strips if scores.device.type == "cpu" else _lose_at_once
        total, gradient = lose(*flat, wanted=bool(ctx.needs_input_grad[0]))
        ctx.save_for_backward(None if gradient is None else gradient.view_as(scores))
        return -total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * output_gradient.to(gradient.dtype), None, None


def _lose_in_strips(
    scores: Tensor, labels: Tensor, pixel_weights: Tensor, *, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum the weighted log softmax; give the gradient of its negative, too, if it is wanted."""
    gradient = torch.empty_like(scores) if wanted else None
    strips = [slice(start, start + STRIP) for start in range(0, scores.shape[2], STRIP)]
    sums = pixel_weights.new_zeros(len(scores), len(strips))
    for index, (image, truth, weights) in enumerate(zip(scores, labels, pixel_weights, strict=True)):
        for column, strip in enumerate(strips):
            weight, chosen = weights[strip], truth[None, strip]
            chances = torch.softmax(image[:, strip], 0, dtype=weight.dtype)  # C x p
            costs = chances.gather(0, chosen)[0].clamp_(min=LEAST_PROBABILITY).log_()
            sums[index, column] = cost = costs.dot(weight)
            slope = None
            if gradient is not None:
                slope = gradient[index, :, strip]
                chances.scatter_add_(0, chosen, weight.new_full(chosen.shape, -1.0))
                torch.mul(chances, weight, out=slope)
            if cost.isnan():
                without = weight == 0  # 0 times NaN is NaN
                sums[index, column] = costs.masked_fill_(without, 0).dot(weight)
                if slope is not None:
                    slope.masked_fill_(without, 0)
    return sums.sum(), gradient


def _lose_at_once(
    scores: Tensor, labels: Tensor, pixel_weights: Tensor, *, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Do what ``_lose_in_strips`` does, without asking for a value, which would wait for the device."""
    weights, chosen, without = pixel_weights[:, None], labels[:, None], pixel_weights[:, None] == 0
    chances = torch.softmax(scores, 1, dtype=weights.dtype)
    costs = chances.gather(1, chosen).clamp_(min=LEAST_PROBABILITY).log_().mul_(weights).masked_fill_(without, 0)
    if not wanted:
        return costs.sum(), None
    chances.scatter_add_(1, chosen, torch.full_like(weights, -1.0))
    return costs.sum(), chances.mul_(weights).masked_fill_(without, 0).to(scores.dtype)


def sample_terms(
    labels: Tensor, *, probability: float | Tensor, generator: torch.Generator, ignore_index: int = VOID
) -> Tensor:
    """Keep each spatial loss term with ``probability``: patchwise training as loss sampling (paper, section 3.4).

    A summed loss of what is kept, divided by p, has the expected gradient of the whole image's, so
    an update of 1/p times as many images sees as many terms.

    Args:
        labels: N x H x W.
        probability: One for all pixels, above 0 and at most 1, which keeps everything; or one per class (C), from 0
            to 1, which balances classes by sampling as ``class_weights`` does by weighting: in expectation a class
            kept with p weighs p.
        generator: Lives on the labels' device.
        ignore_index: The label of pixels without a loss.

    Returns:
        N x H x W labels whose dropped pixels are ``ignore_index``.

    Raises:
        ValueError: For a probability outside its range.

    >>> labels, chances = torch.tensor([[[0, 1, 1]]]), torch.tensor([0.0, 1.0])
    >>> sample_terms(labels, probability=chances, generator=torch.Generator()).tolist()
    [[[-1, 1, 1]]]
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


@torch.no_grad()
def hardest_terms(scores: Tensor, labels: Tensor, *, share: float, ignore_index: int = VOID) -> Tensor:
    """Keep the pixels whose loss is highest: bootstrapped cross-entropy (Wu, Shen and van den Hengel 2016).

    Args:
        scores: N x C x H x W.
        labels: N x H x W.
        share: Of the labelled pixels of the batch, how many are kept, 0..1; at least one.
        ignore_index: The label of pixels that are left out.

    Returns:
        N x H x W labels whose other pixels are ``ignore_index``; pixels as hard as the last one are kept, too.

    >>> scores = torch.tensor([[[[5.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]]])
    >>> hardest_terms(scores, torch.tensor([[[0, 0, 0]]]), share=0.34).tolist()
    [[[-1, 0, -1]]]
    """
    known = labels != ignore_index
    costs = functional.cross_entropy(scores.float(), labels.where(known, 0).long(), reduction="none")
    flat = costs[known]
    if flat.numel() == 0:
        return labels
    least = flat.topk(max(1, round(share * flat.numel()))).values[-1]
    return labels.where(costs >= least, ignore_index)


def class_weights(shares: Tensor, *, power: float) -> Tensor:
    """Weigh classes by ``share ** -power``, scaled so that an average pixel weighs 1.

    Args:
        shares: C, the share of each class in the labelled pixels.
        power: From 0, which leaves all classes alike, to 1, which gives every class the same total weight (inverse
            frequency).

    Returns:
        C float32; classes that never occur weigh 0.

    Raises:
        ValueError: For another power.

    >>> class_weights(torch.tensor([0.8, 0.2, 0.0]), power=1.0).tolist()
    [0.625, 2.5, 0.0]
    """
    if not 0 <= power <= 1:
        raise ValueError(f"the balancing power lies between 0 and 1, not {power}")
    shares = shares.double()
    raw = torch.where(shares > 0, shares.clamp(min=torch.finfo(torch.float64).tiny) ** -power, 0.0)
    return (raw / (raw * shares).sum().clamp(min=torch.finfo(torch.float64).tiny)).float()
