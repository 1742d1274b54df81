"""Operations that sum up, weigh or normalise along axes: over channels per position, over positions globally."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from fullyconv.trace.joins import channelwise, unitwise
from fullyconv.trace.positions import POOLED, Call, Positions

BATCH = "mixes the pictures of a batch"
SCORES = 2  # axes of vectors N x C; a stack of vectors may have its first axis for something else


def reduce(index: int = 1) -> Callable[[Call], Positions]:
    """Make the rule of a mean, sum or maximum over some axes; ``index`` is the place of the argument ``dim``."""

    def follow(call: Call) -> Positions:
        given = call.argument(index, "dim")
        if isinstance(given, fx.Node):  # torch.max(first, second)
            return unitwise(call)
        over_all = given is None or isinstance(given, bool) or given == ()  # torch.var(x, False): no axis
        asked = range(-len(call.before), 0) if over_all else (given if isinstance(given, tuple | list) else (given,))
        reduced, source = {call.from_end(axis) for axis in asked}, call.source
        if -len(call.before) in reduced and (source.axes or len(call.before) <= SCORES):
            raise call.refuse(BATCH)
        if reduced >= set(source.axes):
            return POOLED
        if reduced & set(source.axes):
            raise call.refuse("reduces one of rows and columns and keeps the other")
        if len(call.shape) == len(call.before):
            return source
        return source.moved(lambda axis: axis + sum(other > axis for other in reduced))

    return follow


def softmax(call: Call) -> Positions:
    """Follow weights that sum to one along an axis."""
    axis = call.argument(1, "dim")
    if axis is None:
        raise call.refuse("does not say along which axis (dim)")
    return _weighs(call, call.from_end(axis))


def softmax_2d(call: Call) -> Positions:
    """Follow ``nn.Softmax2d``: softmax along the third axis from the end."""
    return _weighs(call, -3)


def _weighs(call: Call, axis: int) -> Positions:
    if axis in call.source.axes:
        call.remark("global", "weighs all positions against each other")
    return call.source


def normalize(call: Call) -> Positions:
    """Follow ``functional.normalize``: the division by a norm along an axis."""
    if call.from_end(call.argument(2, "dim", 1)) in call.source.axes:
        call.remark("global", "normalises over all positions")
    return call.source


def layer_norm(call: Call) -> Positions:
    """Follow normalisation over the last axes."""
    shape = call.argument(1, "normalized_shape", ())
    if len(shape) >= len(call.before):
        raise call.refuse(BATCH)
    axes = [axis for axis in call.source.axes if axis >= -len(shape)]
    if any(isinstance(shape[axis], int) for axis in axes):
        raise call.refuse(f"fixes rows and columns by normalising {tuple(shape)}: it would fail at any other size")
    if axes:
        call.remark("global", "normalises over all positions")
    return call.source


def spatial_norm(call: Call) -> Positions:
    """Follow normalisation over positions: in groups of channels, or instance by instance."""
    if call.source.axes:
        call.remark("global", "normalises over all positions")
    return channelwise(call)
