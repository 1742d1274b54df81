"""Losses of overlap: what a class's region and its prediction share, whatever its size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fullyconv.types import VOID


def dice_loss(scores: Tensor, labels: Tensor, *, ignore_index: int = VOID) -> Tensor:
    """Return one minus the mean soft Dice coefficient of the classes that the labels hold.

    Of class c it is 2 sum(p t) / (sum(p) + sum(t)), over the labelled pixels of the whole batch, with probabilities p
    and truth t of 0 or 1 (Milletari et al. 2016 have squares in the denominator; nnU-Net and most since do not).

    Args:
        scores: N x C x H x W, before the softmax.
        labels: N x H x W.
        ignore_index: The label of pixels that do not count.

    Returns:
        A scalar, 0..1; 0 where no pixel is labelled.

    >>> labels = torch.tensor([[[0, 1]]])
    >>> round(float(dice_loss(torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]]), labels)), 4)
    0.0
    """
    chances, truth = _labelled(scores, labels, ignore_index)
    shared = (chances * truth).sum(0)
    sizes = truth.sum(0)
    present = sizes > 0
    if not present.any():
        return scores.sum() * 0
    dice = 2 * shared[present] / (chances.sum(0) + sizes)[present]
    return 1 - dice.mean()


def lovasz_loss(scores: Tensor, labels: Tensor, *, ignore_index: int = VOID) -> Tensor:
    """Return the Lovász-softmax loss: the convex extension of one minus the IU, averaged over the classes present.

    Where probabilities are 0 or 1 it is one minus the IU itself (Berman, Triki and Blaschko 2018, section 3; classes of
    the labels, whole batch).

    Args:
        scores: N x C x H x W, before the softmax.
        labels: N x H x W.
        ignore_index: The label of pixels that do not count.

    Returns:
        A scalar, 0..1; 0 where no pixel is labelled.

    >>> labels = torch.tensor([[[0, 0, 1]]])
    >>> hard = 99 * torch.tensor([[[[1.0, -1, -1]], [[-1.0, 1, 1]]]])
    >>> float(lovasz_loss(hard, labels))  # IU 1/2 and 1/2
    0.5
    """
    chances, truth = _labelled(scores, labels, ignore_index)
    present = truth.sum(0) > 0
    if not present.any():
        return scores.sum() * 0
    errors = (truth[:, present] - chances[:, present]).abs()
    errors, order = errors.sort(0, descending=True)
    inside = truth[:, present].gather(0, order)
    # The IU lost when the pixels up to the k-th in order of their errors are wrong; its increments weigh the errors.
    sizes = inside.sum(0)
    left = sizes - inside.cumsum(0)
    either = sizes + (1 - inside).cumsum(0)
    lost = 1 - left / either
    lost = torch.cat([lost[:1], lost[1:] - lost[:-1]])
    return (errors * lost).sum(0).mean()


def _labelled(scores: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return probabilities and truth of the labelled pixels, P x C float32 each."""
    chances = scores.float().softmax(1).movedim(1, -1).flatten(0, -2)
    flat = labels.flatten()
    kept = flat != ignore_index
    return chances[kept], functional.one_hot(flat[kept].long(), scores.shape[1]).to(chances.dtype)
