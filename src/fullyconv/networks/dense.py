"""Scores at every pixel from a strided network, without upsampling: shift-and-stitch and à trous (paper, section 3.2).

A network of output stride f answers on every f-th pixel. Shift-and-stitch runs it f x f times, on
inputs shifted by 0..f-1 pixels, and interlaces the answers. À trous computes the same numbers in one
pass: every stride becomes 1, and the filters of later layers are spread out ("rarefied") by the
product of the strides removed before them.

Both pad first and shift then: each strided layer pads its map as always and starts at the shift's
share for that layer. Without inner padding this is the network on cropped images; with it, shifting
the image alone would move zeros into the picture, and the two would differ at the borders.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, fx, nn
from torch.nn import functional

from fullyconv.machine import evaluating
from fullyconv.networks.atrous import Rewriter, border_of, uncropped
from fullyconv.networks.fcn import FCN
from fullyconv.networks.rarefied import Border, Pair, Windows, sides_of, weights_of
from fullyconv.networks.strided import Step, Strided, axes_of
from fullyconv.trace.operations import Operation
from fullyconv.trace.positions import Given


class ScoreMap(nn.Module):
    """The coarsest scores of an FCN, before any upsampling or fusion: N x 3 x H x W -> N x C x h x w."""

    def __init__(self, network: FCN) -> None:
        super().__init__()
        self.trunk, self.head = network.trunk, network.heads[0]
        self.example = getattr(network.trunk, "example", None)

    def forward(self, image: Tensor) -> Tensor:
        """Score the units of the trunk's last map."""
        return cast("Tensor", self.head(self.trunk(image)[-1]))


def shift_and_stitch(model: nn.Module, image: Tensor) -> Tensor:
    """Run a strided network on every shift of N x C x H x W and interlace its answers, N x K x h x w.

    Output (y, x) of shift (dy, dx) lands at (dy + f*y, dx + f*x), where f is the network's stride: a
    map of stride 1 whose every f-th unit is the network's own answer. ``model`` gives one map, by operations that
    can be followed (``fullyconv.trace``) and that enlarge none; an ``FCN`` stands for its coarsest
    score map. Dropout is off and no gradient is recorded. f x f passes, so 1024 for VGG. Raises
    ``ValueError`` for other operations and for images that are too small for one answer.
    """
    plan = _plan(model)
    height, width = plan.dense_size(image)
    rows, columns = plan.stride
    stitched: Tensor | None = None
    for dy in range(min(rows, height)):
        for dx in range(min(columns, width)):
            scores = _answer(plan, image, (dy, dx))
            if stitched is None:
                stitched = scores.new_empty(*scores.shape[:2], height, width)
            stitched[..., dy::rows, dx::columns] = scores
    return cast("Tensor", stitched)


def shifted(model: nn.Module, image: Tensor, phase: Pair) -> Tensor:
    """Return the part of ``shift_and_stitch`` for one shift, ``phase`` = (dy, dx) pixels: N x K x h x w."""
    plan = _plan(model)
    plan.dense_size(image)
    return _answer(plan, image, phase)


def _plan(model: nn.Module, keep: int = 1) -> Strided:
    return Strided.of(ScoreMap(model) if isinstance(model, FCN) else model, keep)


def _answer(plan: Strided, image: Tensor, phase: Pair) -> Tensor:
    with evaluating(plan.recorded):
        return cast("Tensor", _Shifted(plan, phase).run(image))


def to_atrous(model: nn.Module, keep: int = 1) -> fx.GraphModule:
    """Remove a network's strides and rarefy its later filters: the result of ``shift_and_stitch`` in one pass.

    Convolutions and pools get stride 1, and dilation and padding times the strides removed before
    them; where a pool kept partial windows at the end (ceil mode), so does the new one. What sees a whole map
    (squeeze-and-excitation, normalisation over positions) is applied to the units of each shift by themselves. Takes
    what ``shift_and_stitch`` takes and raises what it raises. The new network shares its parameters with
    ``model``: training one trains the other.

    With ``keep`` the strides stay up to that one, in pixels, and only those beyond it are removed: the trunk of DeepLab
    (``keep=8``), whose every so-manieth unit is the network's own answer. What sees a whole map then sees all of it.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.MaxPool2d(2, 2), nn.Conv2d(1, 1, 3))
    >>> [layer.dilation for layer in to_atrous(net).children()]
    [(1, 1), (2, 2), (4, 4)]
    """
    made = Rewriter(_plan(model, keep)).run()
    made.training = model.training
    return made


class _Shifted(fx.Interpreter):
    """Runs a network as on an image shifted by ``phase`` pixels."""

    def __init__(self, plan: Strided, phase: Pair) -> None:
        super().__init__(plan.recorded)
        self._plan, self._phase = plan, phase

    def run_node(self, n: fx.Node) -> Any:
        """Run one step: windows start later by the phase's share, maps that are joined are cut to the shortest."""
        step, kind = self._plan.steps.get(n), self._plan.kinds.get(n)
        if step is not None and kind == "join":
            return self._joined(n, step)
        if step is not None and kind == "window":
            return self._window(n, step)
        if step is not None and kind == "crop":
            return self._crop(step)
        return super().run_node(n)

    def _joined(self, node: fx.Node, step: Step) -> Any:
        whole = {source: self.env[source] for source in step.placed}
        for axis in (0, 1):
            places = {source: axes_of(self._plan.found.positions[source])[axis] for source in whole}
            length = min(self.env[source].shape[place] for source, place in places.items())
            self.env.update({source: self.env[source].narrow(place, 0, length) for source, place in places.items()})
        result = super().run_node(node)
        self.env.update(whole)
        return result

    def _starts(self, step: Step, windows: Windows) -> Pair:
        rows, columns = (
            shift // before % window.stride
            for shift, before, window in zip(self._phase, step.lattice, windows, strict=True)
        )
        return rows, columns

    def _crop(self, step: Step) -> Any:
        windows, features = cast("Windows", step.windows), self.env[step.placed[0]]
        axes = axes_of(self._plan.found.positions[step.placed[0]])
        place = [slice(None)] * features.ndim
        for axis, start, window in zip(axes, self._starts(step, windows), windows, strict=True):
            place[axis] = slice(start, None, window.stride)
        return Border(sides_of(windows), axes=axes)(features)[tuple(place)][uncropped(step.call)]

    def _window(self, node: fx.Node, step: Step) -> Tensor:
        windows, row, features = cast("Windows", step.windows), cast("Operation", step.row), self.env[step.placed[0]]
        top, left = self._starts(step, windows)
        given = Given(*self.fetch_args_kwargs_from_env(node), step.call.layer)
        kernel, stride, dilation = (
            (getattr(windows[0], name), getattr(windows[1], name)) for name in ("kernel", "stride", "dilation")
        )
        padded = border_of(row, step.call, windows, (1, 1))(features)[..., top:, left:]
        if row.head == "convolution":
            weight, bias = given.argument(1, "weight"), given.argument(2, "bias")
            return functional.conv2d(padded, weight, bias, stride, 0, dilation, given.argument(6, "groups", 1))
        if row.pools != "mean":
            return functional.max_pool2d(padded, kernel, stride, 0, dilation)
        total = functional.avg_pool2d(padded, kernel, stride, divisor_override=1)
        divisor = given.argument(6, "divisor_override")
        weights = weights_of(windows, features, (1, 1), bool(given.argument(5, "count_include_pad", True)))
        each = functional.avg_pool2d(weights[..., top:, left:], kernel, stride, divisor_override=1)
        return total / (each if divisor is None else divisor)
