"""Layers that score: their fields, their modules, and how these are made."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fullyconv.caffe.description import Layer
from fullyconv.caffe.kind import Kind, Shapes, axis_of, count
from fullyconv.caffe.losses import check_classes, labels_like


@dataclass(frozen=True)
class _Accuracy:
    """``accuracy_param``."""

    top_k: int = 1
    axis: int = 1
    ignore_label: int | None = None


@dataclass(frozen=True)
class _SegAccuracy:
    """``seg_accuracy_param``, DeepLab's."""

    ignore_label: tuple[int, ...] = ()
    reset: bool = True


class Accuracy(nn.Module):
    """The share of labels among the ``top_k`` best scores, where a tie counts as better; a NaN makes a label wrong.

    ``per_class``: the share of each class is returned, too, 0 for one without labels.
    """

    def __init__(self, top_k: int, axis: int, ignore: int | None, *, per_class: bool = False) -> None:
        super().__init__()
        self.top_k, self.axis, self.ignore, self.per_class = top_k, axis, ignore, per_class

    def forward(self, scores: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the share, a scalar; 0 where all is ignored."""
        axis = self.axis % scores.ndim
        target = labels_like(label, scores, axis)
        counted = torch.ones_like(target, dtype=torch.bool) if self.ignore is None else target != self.ignore
        check_classes(target, counted, scores.shape[axis], self.ignore)
        own = scores.gather(axis, target.where(counted, 0).unsqueeze(axis))
        better = (scores >= own).sum(axis) - 1  # its own does not count
        right = (better < self.top_k) & counted & ~scores.isnan().any(axis)
        share = right.sum() / counted.sum().clamp(min=1).to(scores.dtype)
        if not self.per_class:
            return share
        classes = scores.shape[axis]
        hits, all_ = (torch.bincount(target[which], minlength=classes) for which in (right, counted))
        return share, hits / all_.clamp(min=1).to(scores.dtype)


class SegAccuracy(nn.Module):
    """DeepLab's scores of the best class of each pixel: pixel accuracy, mean accuracy, mean IU (1 x 1 x 1 x 3).

    The means are over the classes that occur. Labels that are ``ignored`` or no class do not count.
    """

    def __init__(self, ignored: tuple[int, ...]) -> None:
        super().__init__()
        self.ignored = ignored

    def forward(self, scores: Tensor, label: Tensor) -> Tensor:
        """Return the three scores."""
        classes = scores.shape[1]
        target = labels_like(label, scores, 1)
        counted = (target >= 0) & (target < classes)
        for label_ in self.ignored:
            counted &= target != label_
        pairs = (target * classes + scores.argmax(1))[counted]
        table = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).to(scores.dtype)
        hits, truth, union = table.diagonal(), table.sum(1), table.sum(0) + table.sum(1) - table.diagonal()
        shares = [hits.sum() / truth.sum().clamp(min=1)]
        for whole, there in ((truth, truth > 0), (union, union > 0)):
            shares.append((hits / whole.clamp(min=1)).sum() / there.sum().clamp(min=1))
        return torch.stack(shares).reshape(1, 1, 1, 3)


def _accuracy(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("accuracy_param", _Accuracy)
    axis = axis_of(layer, given.axis, shapes[0])
    top_k = count(layer, "top_k", given.top_k)
    if top_k > shapes[0][axis]:
        raise layer.fail(f"top_k is {top_k} of {shapes[0][axis]} classes", "it is at most the number of classes")
    return Accuracy(top_k, axis, given.ignore_label, per_class=len(layer.tops) > 1)


def _seg_accuracy(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("seg_accuracy_param", _SegAccuracy)
    if not given.reset:
        raise layer.fail("reset is false", "scores are of one batch here: remove it, or score with fullyconv evaluate")
    return SegAccuracy(given.ignore_label)


KINDS: dict[str, Kind] = {
    "Accuracy": Kind(_accuracy, ("accuracy_param",), least=2, most=2, most_tops=2, observes=True),
    "SegAccuracy": Kind(_seg_accuracy, ("seg_accuracy_param",), least=2, most=2, observes=True),
}
