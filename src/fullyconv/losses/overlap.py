"""Losses of overlap: what a class's region and its prediction share, whatever its size."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

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
    chances, truth, kept = _labelled(scores, labels, ignore_index)
    shared = (chances * truth).sum((0, 2, 3))
    sizes = truth.sum((0, 2, 3))
    present = sizes > 0
    if not present.any():
        return scores.sum() * 0
    dice = 2 * shared[present] / ((chances * kept).sum((0, 2, 3)) + sizes)[present]
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
    chances, truth, kept = _labelled(scores, labels, ignore_index)
    present = truth.sum((0, 2, 3)) > 0
    if not present.any():
        return scores.sum() * 0
    # The loss is linear in the probabilities once their order is known, so all that backward needs are these slopes.
    slopes, wrong = torch.zeros_like(chances), chances.new_zeros(())
    for number in present.nonzero().flatten().tolist():
        inside = truth[:, number]
        errors = torch.where(inside, 1 - chances[:, number].detach(), chances[:, number].detach())
        errors.masked_fill_(~kept[:, 0], 0)  # void comes last, and lasts are of no weight
        increments = _increments(errors.flatten(), inside.flatten()).view_as(inside)
        slopes[:, number] = torch.where(inside, -increments, increments).masked_fill_(~kept[:, 0], 0)
        wrong += (increments * inside).sum()
    return ((chances * slopes).sum() + wrong) / present.sum()


def _increments(errors: Tensor, truth: Tensor) -> Tensor:
    """Return for each pixel of a class how much IU is lost when it, after all of larger error, is wrong too.

    With I pixels in the intersection and U in the union until then, a missed pixel turns I / U into (I - 1) / U, a
    wrong one into I / (U + 1): the differences in closed form, for subtracting the quotients leaves few digits of them.
    """
    order = _ascending(errors).flip(0)
    inside = truth[order]
    missed, wrong = inside.cumsum(0), (~inside).cumsum(0)
    total = missed[-1]
    # What was missed or wrong before this pixel: the sums include it.
    intersection = (total - missed + inside.long()).to(errors.dtype)
    union = (total + wrong - (~inside).long()).to(errors.dtype)
    increments = torch.where(inside, 1, intersection / (union + 1)) / union
    return torch.empty_like(errors).index_copy_(0, order, increments)


def _ascending(numbers: Tensor) -> Tensor:
    """Return the order of the numbers: by NumPy on a CPU, whose vector instructions take a quarter of the time."""
    if numbers.device.type != "cpu":
        return numbers.argsort()
    return torch.from_numpy(np.argsort(numbers.numpy()))


def _labelled(scores: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return probabilities (N x C x H x W), truth (likewise, none where void) and what is labelled (N x 1 x H x W)."""
    kept = (labels != ignore_index)[:, None]
    classes = torch.arange(scores.shape[1], device=labels.device)[:, None, None]
    return scores.float().softmax(1), (labels[:, None] == classes) & kept, kept
