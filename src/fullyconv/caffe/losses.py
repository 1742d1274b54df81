"""Caffe's losses and the accuracy layer, as values (fact sheet, section 3.1)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.losses import softmax_loss

Normalization = Literal["FULL", "VALID", "BATCH_SIZE", "NONE"]


def _labels(label: Tensor, like: Tensor, axis: int) -> Tensor:
    """Bring a label blob (N x 1 x H x W or N x H x W, any number type) to the scores' shape without ``axis``."""
    wanted = [size for index, size in enumerate(like.shape) if index != axis]
    count = torch.Size(wanted).numel()
    if label.numel() != count:
        raise ValueError(f"{label.numel()} labels for {count} positions")
    return label.reshape(wanted).long()


class SoftmaxWithLoss(nn.Module):
    """Cross-entropy over ``axis`` (``losses.softmax_loss``), divided as ``normalization`` says; 0 where all is ignored.

    >>> loss = SoftmaxWithLoss(axis=1, ignore=255, normalization="VALID")
    >>> round(loss(torch.zeros(1, 21, 2, 2), torch.tensor([[[3.0, 255.0], [0.0, 20.0]]])).item(), 4)  # log 21
    3.0445
    """

    def __init__(self, axis: int, ignore: int | None, normalization: Normalization) -> None:
        super().__init__()
        self.axis, self.ignore, self.normalization = axis, ignore, normalization

    def forward(self, scores: Tensor, label: Tensor) -> Tensor:
        """Return the loss, a scalar; raises ``ValueError`` for labels outside the classes."""
        axis = self.axis % scores.ndim
        target = _labels(label, scores, axis)
        counted = torch.ones_like(target, dtype=torch.bool) if self.ignore is None else target != self.ignore
        classes, outer, inner = scores.shape[axis], scores.shape[:axis].numel(), scores.shape[axis + 1 :].numel()
        if not scores.is_meta and bool((counted & ((target < 0) | (target >= classes))).any()):
            also = "" if self.ignore is None else f" and {self.ignore}"
            raise ValueError(f"labels outside 0..{classes - 1}{also}")
        total = softmax_loss(
            scores.reshape(outer, classes, inner),
            target.where(counted, 0).reshape(outer, inner),
            counted.to(torch.promote_types(scores.dtype, torch.float32)).reshape(outer, inner),
        )
        divisors = {"FULL": target.numel(), "VALID": counted.sum(), "BATCH_SIZE": outer, "NONE": 1}
        return total / torch.as_tensor(divisors[self.normalization]).to(total).clamp(min=1)


class EuclideanLoss(nn.Module):
    """Half the mean over the batch of the squared distance."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        if first.numel() != second.numel():
            raise ValueError(f"{tuple(first.shape)} against {tuple(second.shape)}")
        return functional.mse_loss(first, second.reshape(first.shape), reduction="sum") / (2 * first.shape[0])


class Accuracy(nn.Module):
    """The share of labels among the ``top_k`` best scores; where a score is NaN no label is."""

    def __init__(self, top_k: int, axis: int, ignore: int | None) -> None:
        super().__init__()
        self.top_k, self.axis, self.ignore = top_k, axis, ignore

    def forward(self, scores: Tensor, label: Tensor) -> Tensor:
        """Return the share, a scalar; 0 where all is ignored."""
        axis = self.axis % scores.ndim
        target = _labels(label, scores, axis)
        counted = torch.ones_like(target, dtype=torch.bool) if self.ignore is None else target != self.ignore
        best = scores.topk(self.top_k, axis).indices
        right = (best == target.unsqueeze(axis)).any(axis) & counted & ~scores.isnan().any(axis)
        return right.sum() / counted.sum().clamp(min=1).to(scores.dtype)
