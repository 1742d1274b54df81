"""Caffe's losses: their fields, their modules, and how these are made (fact sheet, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.caffe import fields
from fullyconv.caffe.description import Layer
from fullyconv.caffe.kind import Kind, Shapes, axis_of
from fullyconv.caffe.wire import read_blob
from fullyconv.losses import softmax_loss

Normalization = Literal["FULL", "VALID", "BATCH_SIZE", "NONE"]
LEAST_CHANCE = 1e-20  # Caffe's kLOG_THRESHOLD, of probabilities that a net computed itself


@dataclass(frozen=True)
class _Loss:
    """``loss_param``; the last two are SegNet's."""

    ignore_label: int | None = None
    normalization: Normalization | None = None
    normalize: bool | None = None
    weight_by_label_freqs: bool = False
    class_weighting: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Hinge:
    """``hinge_loss_param``."""

    norm: Annotated[Literal["L1", "L2"], 1] = "L1"


@dataclass(frozen=True)
class _Contrastive:
    """``contrastive_loss_param``."""

    margin: float = 1
    legacy_version: bool = False


@dataclass(frozen=True)
class _Infogain:
    """``infogain_loss_param``."""

    source: str = ""
    axis: int = 1


def labels_like(label: Tensor, like: Tensor, axis: int) -> Tensor:
    """Bring a label blob (N x 1 x H x W or N x H x W, any number type) to the scores' shape without ``axis``."""
    wanted = [size for index, size in enumerate(like.shape) if index != axis]
    count = torch.Size(wanted).numel()
    if label.numel() != count:
        raise ValueError(f"{label.numel()} labels for {count} positions")
    return label.reshape(wanted).long()


def check_classes(target: Tensor, counted: Tensor, classes: int, ignore: int | None) -> None:
    """Raise ``ValueError`` for a counted label outside the classes."""
    if not target.is_meta and bool((counted & ((target < 0) | (target >= classes))).any()):
        also = "" if ignore is None else f" and {ignore}"
        raise ValueError(f"labels outside 0..{classes - 1}{also}")


def _divided(total: Tensor, normalization: Normalization, *, full: int, valid: Tensor, batch: int) -> Tensor:
    """Divide a summed loss; by 1 where there is nothing to divide by."""
    divisors = {"FULL": full, "VALID": valid, "BATCH_SIZE": batch, "NONE": 1}
    return total / torch.as_tensor(divisors[normalization]).to(total).clamp(min=1)


class SoftmaxWithLoss(nn.Module):
    """Cross-entropy over ``axis`` (``losses.softmax_loss``), divided as ``normalization`` says; 0 where all is ignored.

    ``weights``: what a pixel of each class weighs (SegNet's ``class_weighting``), () for 1 over how often its class
    occurs; they do not count in the divisor. ``chances``: the probabilities are returned, too.

    >>> loss = SoftmaxWithLoss(axis=1, ignore=255, normalization="VALID")
    >>> round(loss(torch.zeros(1, 21, 2, 2), torch.tensor([[[3.0, 255.0], [0.0, 20.0]]])).item(), 4)  # log 21
    3.0445
    """

    def __init__(
        self,
        axis: int,
        ignore: int | None,
        normalization: Normalization,
        *,
        weights: tuple[float, ...] | None = None,
        chances: bool = False,
    ) -> None:
        super().__init__()
        self.axis, self.ignore, self.normalization = axis, ignore, normalization
        self.weights, self.chances = weights, chances

    def forward(self, scores: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the loss, a scalar; raises ``ValueError`` for labels outside the classes."""
        axis = self.axis % scores.ndim
        target = labels_like(label, scores, axis)
        counted = torch.ones_like(target, dtype=torch.bool) if self.ignore is None else target != self.ignore
        classes, outer, inner = scores.shape[axis], scores.shape[:axis].numel(), scores.shape[axis + 1 :].numel()
        check_classes(target, counted, classes, self.ignore)
        target = target.where(counted, 0)
        weight = counted.to(torch.promote_types(scores.dtype, torch.float32))
        if self.weights is not None:
            weight = weight * self._class_weights(target, counted, classes).to(weight)[target]
        total = softmax_loss(
            scores.reshape(outer, classes, inner), target.reshape(outer, inner), weight.reshape(outer, inner)
        )
        loss = _divided(total, self.normalization, full=target.numel(), valid=counted.sum(), batch=outer)
        return (loss, scores.softmax(axis)) if self.chances else loss

    def _class_weights(self, target: Tensor, counted: Tensor, classes: int) -> Tensor:
        if self.weights:
            return torch.tensor(self.weights, device=target.device)
        return 1 / torch.bincount(target[counted], minlength=classes).clamp(min=1)


class SigmoidCrossEntropyLoss(nn.Module):
    """The cross-entropy of every value's sigmoid with its target, 0..1, divided as ``normalization`` says."""

    def __init__(self, ignore: int | None, normalization: Normalization) -> None:
        super().__init__()
        self.ignore, self.normalization = ignore, normalization

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        if scores.numel() != target.numel():
            raise ValueError(f"{target.numel()} targets for {scores.numel()} scores")
        target = target.reshape(scores.shape).to(scores.dtype)
        counted = torch.ones_like(target, dtype=torch.bool) if self.ignore is None else target.int() != self.ignore
        terms = functional.binary_cross_entropy_with_logits(scores, target.where(counted, 0), reduction="none")
        total = terms.where(counted, 0).sum()
        return _divided(total, self.normalization, full=scores.numel(), valid=counted.sum(), batch=len(scores))


class EuclideanLoss(nn.Module):
    """Half the mean over the batch of the squared distance."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        if first.numel() != second.numel():
            raise ValueError(f"{tuple(first.shape)} against {tuple(second.shape)}")
        return functional.mse_loss(first, second.reshape(first.shape), reduction="sum") / (2 * first.shape[0])


class HingeLoss(nn.Module):
    """How far the scores of an item, one label each, are from the right side of 1: summed, or their squares summed."""

    def __init__(self, norm: Literal["L1", "L2"]) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, scores: Tensor, label: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        flat = scores.flatten(1)
        target = labels_like(label, flat, 1)
        check_classes(target, torch.ones_like(target, dtype=torch.bool), flat.shape[1], None)
        sign = torch.ones_like(flat).scatter(1, target[:, None], -1)
        margins = (1 + sign * flat).clamp(min=0)
        return (margins if self.norm == "L1" else margins**2).sum() / len(flat)


class MultinomialLogisticLoss(nn.Module):
    """Minus the logarithm of the probability of each item's label, on average."""

    def forward(self, chances: Tensor, label: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        flat = chances.flatten(1)
        target = labels_like(label, flat, 1)
        check_classes(target, torch.ones_like(target, dtype=torch.bool), flat.shape[1], None)
        return -flat.gather(1, target[:, None]).clamp(min=LEAST_CHANCE).log().sum() / len(flat)


class InfogainLoss(nn.Module):
    """Cross-entropy of the softmax with a row of ``matrix`` (classes x classes) for each label.

    The matrix is the third bottom where the layer has no file of it. ``chances``: the probabilities are returned, too.
    """

    def __init__(
        self, axis: int, ignore: int | None, normalization: Normalization, *, matrix: Tensor | None, chances: bool
    ) -> None:
        super().__init__()
        self.axis, self.ignore, self.normalization, self.chances = axis, ignore, normalization, chances
        self.matrix = matrix

    def forward(self, scores: Tensor, label: Tensor, matrix: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return the loss, a scalar."""
        axis = self.axis % scores.ndim
        classes, outer = scores.shape[axis], scores.shape[:axis].numel()
        given = self.matrix if matrix is None else matrix
        if given is None or given.numel() != classes**2:
            raise ValueError(f"a matrix of {None if given is None else given.numel()} numbers for {classes} classes")
        target = labels_like(label, scores, axis)
        counted = torch.ones_like(target, dtype=torch.bool) if self.ignore is None else target != self.ignore
        check_classes(target, counted, classes, self.ignore)
        chances = scores.softmax(axis)
        rows = given.reshape(classes, classes).to(scores)[target.where(counted, 0)].movedim(-1, axis)
        terms = (rows * chances.clamp(min=LEAST_CHANCE).log()).sum(axis).where(counted, 0)
        loss = _divided(-terms.sum(), self.normalization, full=target.numel(), valid=counted.sum(), batch=outer)
        return (loss, chances) if self.chances else loss


class ContrastiveLoss(nn.Module):
    """Half the mean squared distance of pairs that are alike, and of what others lack to a margin (third bottom: 1, 0).

    ``legacy``: what the squared distance lacks, instead of the square of what the distance lacks.
    """

    def __init__(self, margin: float, *, legacy: bool) -> None:
        super().__init__()
        self.margin, self.legacy = margin, legacy

    def forward(self, first: Tensor, second: Tensor, alike: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        if first.shape != second.shape or alike.numel() != len(first):
            raise ValueError(f"{tuple(first.shape)} against {tuple(second.shape)} with {alike.numel()} labels")
        squares = ((first - second) ** 2).flatten(1).sum(1)
        if self.legacy:
            apart = (self.margin - squares).clamp(min=0)
        else:
            # The root of 0 has no slope; Caffe's is 0 there.
            distance = squares.where(squares > 0, 1).sqrt().where(squares > 0, 0)
            apart = (self.margin - distance).clamp(min=0) ** 2
        return torch.where(alike.reshape(-1) != 0, squares, apart).sum() / (2 * len(first))


def _normalization(given: _Loss, usual: Normalization) -> Normalization:
    if given.normalization is not None or given.normalize is None:
        return given.normalization or usual
    return "VALID" if given.normalize else "BATCH_SIZE"


def _softmax_loss(layer: Layer, shapes: Shapes) -> nn.Module:
    own = "softmaxloss_param" in layer.blocks  # the word of DeepLab's first version, which counts labels the same way
    given = layer.block("softmaxloss_param" if own else "loss_param", _Loss)
    axis = axis_of(layer, layer.block("softmax_param", fields.Softmax).axis, shapes[0])
    weights = given.class_weighting if given.weight_by_label_freqs else None
    if weights and len(weights) != shapes[0][axis]:
        raise layer.fail(f"{len(weights)} class_weighting for {shapes[0][axis]} classes", "give one for each class")
    return SoftmaxWithLoss(
        axis,
        given.ignore_label,
        _normalization(given, "VALID"),
        weights=weights,
        chances=len(layer.tops) > 1,
    )


def _sigmoid_loss(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("loss_param", _Loss)
    return SigmoidCrossEntropyLoss(given.ignore_label, _normalization(given, "BATCH_SIZE"))


def _infogain(layer: Layer, shapes: Shapes) -> nn.Module:
    given, own = layer.block("loss_param", _Loss), layer.block("infogain_loss_param", _Infogain)
    matrix = None
    if len(shapes) < 3:
        if not own.source:
            raise layer.fail("has no matrix", 'give a third bottom, or infogain_loss_param { source: "….binaryproto" }')
        matrix = torch.from_numpy(read_blob(Path(layer.message.path).parent / own.source))
    axis = axis_of(layer, own.axis, shapes[0])
    return InfogainLoss(
        axis, given.ignore_label, _normalization(given, "VALID"), matrix=matrix, chances=len(layer.tops) > 1
    )


def _contrastive(layer: Layer, shapes: Shapes) -> nn.Module:
    given = layer.block("contrastive_loss_param", _Contrastive)
    return ContrastiveLoss(given.margin, legacy=given.legacy_version)


def _hinge(layer: Layer, shapes: Shapes) -> nn.Module:
    return HingeLoss(layer.block("hinge_loss_param", _Hinge).norm)


KINDS: dict[str, Kind] = {
    "SoftmaxWithLoss": Kind(
        _softmax_loss, ("loss_param", "softmaxloss_param", "softmax_param"), least=2, most=2, most_tops=2, observes=True
    ),
    "SigmoidCrossEntropyLoss": Kind(_sigmoid_loss, ("loss_param", "sigmoid_param"), least=2, most=2, observes=True),
    "EuclideanLoss": Kind(lambda layer, shapes: EuclideanLoss(), least=2, most=2, observes=True),
    "HingeLoss": Kind(_hinge, ("hinge_loss_param", "loss_param"), least=2, most=2, observes=True),
    "MultinomialLogisticLoss": Kind(
        lambda layer, shapes: MultinomialLogisticLoss(), ("loss_param",), least=2, most=2, observes=True
    ),
    "InfogainLoss": Kind(
        _infogain, ("infogain_loss_param", "loss_param", "softmax_param"), least=2, most=3, most_tops=2, observes=True
    ),
    "ContrastiveLoss": Kind(_contrastive, ("contrastive_loss_param",), least=3, most=3, observes=True),
}
