"""The loss of scores that are still to be upsampled: one operation, with nothing of C x H x W in memory."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fullyconv.losses.pixel import (
    Normalization,
    check_normalization,
    check_weights,
    no_class,
    normalized,
    pixel_loss,
    softmax_loss,
    weigh,
)
from fullyconv.threads import Team, shares
from fullyconv.types import VOID
from fullyconv.upsample import AxisUpsampling, LastStep, gpu_rows

if TYPE_CHECKING:
    from fullyconv.losses.kernels import Axis

BAND_ROWS = 16  # of the picture, whose scores exist at once where there is no compiled loop


def upsampled_loss(
    scores: Tensor,
    labels: Tensor,
    step: LastStep,
    *,
    weights: Tensor | None = None,
    normalization: Normalization = "valid",
    ignore_index: int = VOID,
) -> Tensor:
    """Compute ``pixel_loss(step(scores, size), labels, ...)`` without the scores of every pixel.

    Upsampling by fixed kernels is linear, so the gradient of the loss is made while the loss is summed: a few pixels'
    scores at a time on a CPU, in compiled loops; some rows at a time on other devices and in float64. Learned kernels
    have a gradient of their own and are upsampled first.

    Args:
        scores: N x C x h x w of any floating type, on any device: what is left to upsample.
        labels: N x H x W, as for ``pixel_loss``, of the size to upsample to.
        step: The upsampling.
        weights: As for ``pixel_loss``, like all else.
        normalization: What the sum is divided by.
        ignore_index: The label of pixels that are left out. Scores that only they see may be NaN.

    Returns:
        A scalar, once differentiable with respect to ``scores``, in float32 or, of float64 scores, in float64.

    Raises:
        ValueError: As ``pixel_loss`` does, and for a size that the scores do not reach.

    >>> from fullyconv.upsample import Upsample
    >>> step = LastStep(Upsample(2, kernel=(3, 3), stride=(2, 2)), (1, 1))
    >>> scores = torch.tensor([[[[2.0, 4.0]], [[0.0, 0.0]]]])  # two classes, two units: 2, 3, 4 upsampled
    >>> round(upsampled_loss(scores, torch.tensor([[[0, 1, VOID]]]), step).item(), 4)
    1.5878
    """
    check_normalization(normalization)
    if labels.ndim != 3 or scores.ndim != 4 or len(scores) != len(labels):
        raise ValueError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)} do not go together")
    layer, size = step.layer, (labels.shape[1], labels.shape[2])
    if layer.weight is not None:
        return pixel_loss(
            step(scores, size), labels, weights=weights, normalization=normalization, ignore_index=ignore_index
        )
    units = (scores.shape[2], scores.shape[3])
    layer.check(units, step.offset, size)
    axes = [_axis(layer.axis(axis), units[axis], step.offset[axis], size[axis]) for axis in (0, 1)]
    if scores.device.type != "cpu" or scores.dtype == torch.float64 or None in axes or not labels.numel():
        matrices = layer.matrices(units, step.offset, size)
        targets, pixel_weights = weigh(scores, labels, weights, ignore_index)
        total: Tensor = _InBands.apply(scores, matrices, targets, pixel_weights)  # type: ignore[no-untyped-call]
        return normalized(total, pixel_weights.sum(), labels, normalization)
    each = torch.ones(scores.shape[1]) if weights is None else weights
    check_weights(each, scores.shape[1])
    total, weight = _Compiled.apply(scores, labels, each, ignore_index, axes)  # type: ignore[no-untyped-call]
    return normalized(total, weight, labels, normalization)


@lru_cache(maxsize=64)
def _axis(upsampling: AxisUpsampling, count: int, offset: int, size: int) -> Axis | None:
    """Write an interpolation matrix as two units for each pixel.

    ``None`` for a kernel that is wider, or where a unit is the first of no pixel.
    """
    matrix = upsampling.matrix(count, offset, size).numpy()
    used = matrix != 0
    units = np.where(used.any(1), used.argmax(1), 0)
    # A row of zeros (a kernel with gaps) belongs to the run before it.
    units = np.maximum.accumulate(units)
    rest, pixels = matrix.copy(), np.arange(size)
    first = rest[pixels, units].copy()
    rest[pixels, units] = 0
    following = np.minimum(units + 1, count - 1)
    second = rest[pixels, following].copy()
    rest[pixels, following] = 0
    if rest.any() or (np.diff(units) > 1).any():
        return None
    ends = np.searchsorted(units, units, side="right")
    return (units.astype(np.int64), first.astype(np.float32), second.astype(np.float32), ends.astype(np.int64))


class _Compiled(torch.autograd.Function):
    """The summed loss and the weight of the pixels, from the loops of ``kernels``."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, labels: Tensor, weights: Tensor, ignored: int, axes: tuple[Axis, Axis]
    ) -> tuple[Tensor, Tensor]:
        from fullyconv.losses import kernels  # numba takes half a second to import

        rows, columns = axes
        tops = np.append(np.flatnonzero(np.diff(rows[0], prepend=-1)), len(rows[0]))
        units = np.ascontiguousarray(scores.detach().float().numpy())
        truth = np.ascontiguousarray(labels.numpy(), np.int64)
        each = np.ascontiguousarray(weights.detach().numpy(), np.float32)
        starts = rows[0][tops[: -1 : kernels.CHUNK]]
        chunks, wanted = len(units) * len(starts), bool(ctx.needs_input_grad[0])
        sums = np.empty((chunks, 4))
        room = chunks if wanted else 0, kernels.CHUNK + 1, units.shape[1], units.shape[3]
        slopes = np.empty(room, np.float32)
        with Team() as team:
            work = partial(kernels.lose, units, truth, (each, ignored), (rows, columns))
            parts = [(tops, *part) for part in shares(chunks, team.size)]
            team.run([partial(work, part, (sums, slopes)) for part in parts])
        if np.isfinite(sums[:, 2]).any():
            raise no_class(sums[:, 2].min(), sums[:, 3].max(), units.shape[1], ignored)
        if wanted:
            gradient = np.zeros_like(units)
            kernels.collect(slopes, starts, gradient)
            ctx.save_for_backward(torch.from_numpy(gradient))
        ctx.kind = scores.dtype
        total, weight = (torch.tensor(sum_, dtype=torch.float32) for sum_ in sums[:, :2].sum(0))
        ctx.mark_non_differentiable(weight)
        return total, weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * output_gradient).to(ctx.kind), None, None, None, None


class _InBands(torch.autograd.Function):
    """The summed loss by way of ``softmax_loss``, some rows of the picture at a time."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, matrices: list[Tensor], targets: Tensor, pixel_weights: Tensor) -> Tensor:
        units = scores.detach().to(pixel_weights.dtype)
        down, across = (matrix.to(units) for matrix in matrices)
        gradient = torch.zeros_like(units) if ctx.needs_input_grad[0] else None
        total = pixel_weights.new_zeros(())
        on_cpu, row = units.device.type == "cpu", units.shape[0] * units.shape[1] * targets.shape[2]
        height = BAND_ROWS if on_cpu else gpu_rows(row, BAND_ROWS)
        for top in range(0, targets.shape[1], height):
            rows = slice(top, top + height)
            with torch.enable_grad():
                band = ((down[rows] @ units) @ across.T).requires_grad_(gradient is not None)
                loss = softmax_loss(band, targets[:, rows], pixel_weights[:, rows])
            total += loss.detach()
            if gradient is not None:
                (slope,) = torch.autograd.grad(loss, band)
                gradient += down[rows].T @ (slope @ across)
        ctx.save_for_backward(gradient)
        ctx.kind = scores.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * output_gradient).to(ctx.kind), None, None, None
