"""Caffe's losses and the accuracy layer, as values (fact sheet, section 3.1)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Normalization = Literal["FULL", "VALID", "BATCH_SIZE", "NONE"]
LARGEST = -torch.log(torch.tensor(torch.finfo(torch.float32).tiny)).item()  # probabilities count as FLT_MIN at least


def _labels(label: Tensor, like: Tensor, axis: int) -> Tensor:
    """Bring a label blob (N x 1 x H x W or N x H x W, any number type) to the scores' shape without ``axis``."""
    wanted = [size for index, size in enumerate(like.shape) if index != axis]
    count = torch.Size(wanted).numel()
    if label.numel() != count:
        raise ValueError(f"{label.numel()} labels for {count} positions")
    return label.reshape(wanted).long()


class SoftmaxWithLoss(nn.Module):
    """Cross-entropy over ``axis``, summed and divided as ``normalization`` says; 0 where all is ignored."""

    def __init__(self, axis: int, ignore: int | None, normalization: Normalization) -> None:
        super().__init__()
        self.axis, self.ignore, self.normalization = axis, ignore, normalization

    def forward(self, scores: Tensor, label: Tensor) -> Tensor:
        """Return the loss, a scalar; raises ``ValueError`` for labels outside the classes."""
        axis = self.axis % scores.ndim
        target = _labels(label, scores, axis)
        counted = torch.ones_like(target, dtype=torch.bool) if self.ignore is None else target != self.ignore
        classes = scores.shape[axis]
        if not scores.is_meta and bool((counted & ((target < 0) | (target >= classes))).any()):
            raise ValueError(f"labels outside 0..{classes - 1}" + (f" and {self.ignore}" if self.ignore else ""))
        chosen = scores.log_softmax(axis).gather(axis, target.clamp(0, classes - 1).unsqueeze(axis)).squeeze(axis)
        losses = (-chosen).clamp(max=LARGEST) * counted
        divisors = {
            "FULL": target.numel(),
            "VALID": counted.sum(),
            "BATCH_SIZE": scores.shape[:axis].numel(),
            "NONE": 1,
        }
        return losses.sum() / torch.as_tensor(divisors[self.normalization]).to(losses).clamp(min=1)


class EuclideanLoss(nn.Module):
    """Half the mean over the batch of the squared distance."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        if first.numel() != second.numel():
            raise ValueError(f"{tuple(first.shape)} against {tuple(second.shape)}")
        return functional.mse_loss(first, second.reshape(first.shape), reduction="sum") / (2 * first.shape[0])


class Accuracy(nn.Module):
    """The share of labels among the ``top_k`` best scores."""

    def __init__(self, top_k: int, axis: int, ignore: int | None) -> None:
        super().__init__()
        self.top_k, self.axis, self.ignore = top_k, axis, ignore

    def forward(self, scores: Tensor, label: Tensor) -> Tensor:
        """Return the share, a scalar; 0 where all is ignored."""
        axis = self.axis % scores.ndim
        target = _labels(label, scores, axis)
        counted = torch.ones_like(target, dtype=torch.bool) if self.ignore is None else target != self.ignore
        best = scores.topk(self.top_k, axis).indices
        right = (best == target.unsqueeze(axis)).any(axis) & counted
        return right.sum() / counted.sum().clamp(min=1).to(scores.dtype)
