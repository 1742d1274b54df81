"""FCN-32s, -16s and -8s as one design: trunk, score heads, skip fusion, upsampling, crop (paper, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.geometry import Window
from fullyconv.networks.alignment import AxisPlan
from fullyconv.networks.architecture import Architecture, Fusion, Upsampling, class_count
from fullyconv.surgery.trunk import Trunk
from fullyconv.surgery.weights import Transplant, prefixes_of_trunks, transplant
from fullyconv.trace import input_channels, outputs
from fullyconv.upsample import Border, LastStep, Upsample

if TYPE_CHECKING:
    from fullyconv.networks.crf import CRFLayer


def score_heads(trunk: Trunk, classes: int, skips: int) -> nn.ModuleList:
    """Make a convolution for each map that is scored, coarse to fine: 1 x 1, or of the window that the trunk states.

    They start at zero, which leaves the coarse prediction untouched until a skip has learned
    (paper, section 4.2).
    """
    classes = class_count(classes)
    rows, columns = score_window(trunk)
    kernel, pad = (rows.kernel, columns.kernel), (rows.pad, columns.pad)
    heads = nn.ModuleList(nn.Conv2d(wide, classes, kernel, padding=pad) for wide in trunk.channels[_coarsest(skips)])
    for parameter in heads.parameters():
        nn.init.zeros_(parameter)
    return heads


def score_window(trunk: nn.Module) -> tuple[Window, Window]:
    """Return the window of the convolutions that score a trunk's maps, on rows and columns."""
    rows, columns = getattr(trunk, "score_window", Trunk.score_window)
    return rows, columns


def _coarsest(skips: int) -> slice:
    """Choose the coarsest maps of a trunk, coarse to fine."""
    return slice(None, -(skips + 2), -1)


class FCN(nn.Module):
    """A fully convolutional network over any trunk: N x K x H x W in, N x C x H x W class scores out.

    The coarsest ``skips + 1`` maps of the trunk are scored by zero-initialised 1 x 1 convolutions, upsampled by
    bilinear transposed convolution and fused (paper, section 4). Kernels, crops, smallest input and reach are derived
    from the trunk's graph, for rows and columns. ``remarks`` say what is to be known of the trunk's operations
    (``fullyconv.trace``).

    Args:
        trunk: Gives feature maps fine to coarse and has ``channels``, one number per map.
        classes: The number of classes C.
        skips: How many finer maps are fused.
        upsampling: ``fixed`` or ``learned``, see ``Upsample``.
        border: ``zero`` or ``replicate``, see ``Upsample``.
        fusion: ``sum``, or ``max``: the larger of two scores, so that a unit's gradient goes into one map alone.
        scales: One factor per skip that multiplies the finer map before it is scored (the at-once net); none: 1.
        cover: Put the smallest margin of zeros around the image with which images of every size can be labelled.

    Raises:
        ValueError: For choices that do not fit the trunk; in ``forward`` for an image of other channels than
            ``in_channels`` or smaller than ``smallest_input``.

    >>> import torch
    >>> from fullyconv.networks.trunks import backbone
    >>> network = FCN(backbone("lenet"), classes=2, skips=0)
    >>> network.in_channels, network(torch.zeros(1, 1, 9, 30)).shape
    (1, torch.Size([1, 2, 9, 30]))
    """

    architecture: Architecture | None = None
    tasks: Mapping[str, int] = MappingProxyType({})  # further ones, by their names, with their numbers of classes

    def __init__(  # noqa: PLR0913 (the choices of one network)
        self,
        trunk: Trunk,
        *,
        classes: int,
        skips: int,
        upsampling: Upsampling = "fixed",
        border: Border = "zero",
        fusion: Fusion = "sum",
        scales: Sequence[float] = (),
        cover: bool = False,
    ) -> None:
        super().__init__()
        if upsampling not in ("fixed", "learned"):
            raise ValueError(f"upsampling is 'fixed' or 'learned', not {upsampling!r}")
        if fusion not in ("sum", "max"):
            raise ValueError(f"scores are fused by 'sum' or 'max', not {fusion!r}")
        if len(scales) not in (0, skips):
            raise ValueError(f"{len(scales)} scales for {skips} skips: give one for each, or none")
        self.trunk, self.classes, self.border, self.upsampling = trunk, class_count(classes), border, upsampling
        self.heads = score_heads(trunk, classes, skips)
        self.fusion = fusion
        self.crf: CRFLayer | None = None  # trained with it; stands behind the scores that ``forward`` gives
        self.scales = (1.0, *(scales or (1.0,) * skips))
        self.in_channels = input_channels(trunk)
        traced = outputs(trunk)
        self.remarks = traced.remarks
        plan = partial(AxisPlan.covering, border=border) if cover else AxisPlan.derive
        rows, columns = (
            plan(
                [path if scored == Window(1) else (*path, scored) for path in traced.along(axis)[_coarsest(skips)]],
                traced.drifts_along(axis)[_coarsest(skips)],
                multiple=traced.multiples[axis],
            )
            for axis, scored in enumerate(score_window(trunk))
        )
        self.plans = rows, columns
        self.upsamplers = self._upsamplers(classes)
        self.smallest_input = rows.smallest_input(border), columns.smallest_input(border)

    @property
    def streams(self) -> dict[str, Trunk]:
        """The trunks by the names of their modules."""
        return {"trunk": self.trunk}

    @property
    def score_layers(self) -> dict[str, nn.ModuleList]:
        """The layers that score the maps, coarse to fine, by the names of their modules."""
        return {"heads": self.heads}

    @property
    def ladders(self) -> dict[str, nn.ModuleList]:
        """The steps that upsample scores to the image, by the names of their modules."""
        return {"upsamplers": self.upsamplers}

    def _upsamplers(self, classes: int) -> nn.ModuleList:
        """Make the ladder from the coarsest map to the image."""
        return nn.ModuleList(
            Upsample(
                classes,
                kernel=(row.kernel, column.kernel),
                stride=(row.factor, column.factor),
                learned=self.upsampling == "learned",
                border=self.border,
            )
            for row, column in zip(self.plans[0].stages, self.plans[1].stages, strict=True)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            image: N x K x H x W, normalised; H and W from ``smallest_input`` on.

        Returns:
            N x C x H x W scores (before the softmax).

        Raises:
            ValueError: For an image of other channels or smaller than ``smallest_input``.
        """
        return self.upsampled(self.fused(self.score_maps(image)), (image.shape[2], image.shape[3]))

    def score_maps(self, image: Tensor) -> list[Tensor]:
        """Score the maps of the trunk, each at its own resolution.

        Args:
            image: N x K x H x W, normalised; H and W from ``smallest_input`` on.

        Returns:
            One N x C x h x w tensor per map, coarse to fine; of a network with several tasks those of the first.

        Raises:
            ValueError: For an image of other channels or smaller than ``smallest_input``.
        """
        self.check(image)
        return self.scored(self.padded(image))

    def scored(self, padded: Tensor) -> list[Tensor]:
        """Score the maps of an image that has its margin already, as ``score_maps`` does.

        Args:
            padded: What ``padded`` returns, N x K x H' x W'.

        Returns:
            Scores of each map, coarse to fine.
        """
        return self._score(self.trunk(padded), self.heads)

    def every_scored(self, padded: Tensor) -> list[Tensor]:
        """Score the maps for every task, as ``scored`` does for the first: one task's maps behind the other's.

        Args:
            padded: What ``padded`` returns, N x K x H' x W'.

        Returns:
            Scores of each map, coarse to fine, of the first task, then of each further one.
        """
        return self.scored(padded)

    def padded(self, image: Tensor) -> Tensor:
        """Put the margin of zeros around an image that the trunk needs, if any.

        Args:
            image: N x K x H x W.

        Returns:
            N x K x H' x W'.
        """
        if not any(plan.margin or plan.multiple > 1 for plan in self.plans):
            return image
        rows, columns = (plan.padding(length) for plan, length in zip(self.plans, image.shape[-2:], strict=True))
        return functional.pad(image, (*columns, *rows))

    def check(self, image: Tensor) -> None:
        """Refuse an image that the network cannot take.

        Args:
            image: N x K x H x W.

        Raises:
            ValueError: For other channels, or a height or width below ``smallest_input``.
        """
        height, width = image.shape[-2:]
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ValueError(f"this network takes N x {self.in_channels} x H x W, not {tuple(image.shape)}")
        if height < self.smallest_input[0] or width < self.smallest_input[1]:
            raise ValueError(
                f"an image of {height} x {width} is too small for this network, which needs "
                f"{self.smallest_input[0]} x {self.smallest_input[1]}: enlarge or pad it, or use a network with padding"
            )

    def _score(self, features: Sequence[Tensor], heads: nn.ModuleList) -> list[Tensor]:
        """Score the maps of a trunk (fine to coarse), coarse to fine."""
        maps = zip(heads, features[::-1], self.scales, strict=False)
        return [head(found if scale == 1 else found * scale) for head, found, scale in maps]

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse score maps up to the finest one: all of the ladder but its last step.

        Args:
            maps: N x C x h x w each, coarse to fine (``score_maps``).

        Returns:
            N x C x h x w.
        """
        return self._climb(maps, self.upsamplers)

    def upsampled(self, fused: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsample fused scores to an image.

        Args:
            fused: What ``fused`` returns, N x C x h x w.
            size: Height and width of the image, pixels.

        Returns:
            N x C x H x W.
        """
        return self._to_image(fused, self.upsamplers, size)

    @property
    def last_step(self) -> LastStep:
        """The step from fused scores to the image."""
        return self._last_step(self.upsamplers)

    def _climb(self, maps: Sequence[Tensor], upsamplers: nn.ModuleList) -> Tensor:
        fused, *finer = maps
        for stage, fine in enumerate(finer):
            fused = self._fuse(stage, fused, fine, cast("Upsample", upsamplers[stage]))
        return fused

    def _to_image(self, fused: Tensor, upsamplers: nn.ModuleList, size: tuple[int, int]) -> Tensor:
        return self._last_step(upsamplers)(fused, size)

    def _last_step(self, upsamplers: nn.ModuleList) -> LastStep:
        rows, columns = (plan.stages[-1] for plan in self.plans)
        return LastStep(cast("Upsample", upsamplers[-1]), (rows.kept, columns.kept))

    def _fuse(self, stage: int, coarse: Tensor, fine: Tensor, upsampler: Upsample) -> Tensor:
        """Upsample the coarse scores and fuse them with the fine ones where the two grids coincide."""
        keep, sizes = [], []
        for axis, plan in enumerate(self.plans):
            step = plan.stages[stage]
            sizes.append(step.size(coarse.shape[2 + axis], fine.shape[2 + axis]))
            keep.append(step.kept)
            fine = fine.narrow(2 + axis, step.met, sizes[axis])
        upsampled: Tensor = upsampler(coarse, (keep[0], keep[1]), (sizes[0], sizes[1]))
        return upsampled + fine if self.fusion == "sum" else torch.maximum(upsampled, fine)


def continue_from(coarser: FCN, finer: FCN) -> Transplant:
    """Start a finer network from a trained coarser one: FCN-32s -> FCN-16s -> FCN-8s (paper, section 4.2).

    Trunk, score layers and intermediate upsampling move; the source's last upsampling, whose factor
    no longer fits, stays behind, and new score layers keep their zeros. Between networks of different
    classes, or of different decoders, only the trunk moves; likewise with the heads of further tasks.
    """
    given = coarser.state_dict()
    source, target = prefixes_of_trunks(given, finer.state_dict())
    if source != target:
        named = {
            target + name.removeprefix(source): tensor for name, tensor in given.items() if name.startswith(source)
        }
        return transplant(named, finer)
    skip = [*coarser.score_layers, *coarser.ladders, "crf"] if coarser.classes != finer.classes else []
    for name in coarser.tasks.keys() & finer.tasks.keys():
        if coarser.tasks[name] != finer.tasks[name]:
            skip += [f"{name}_heads", f"{name}_upsamplers"]
    if len(coarser.upsamplers) != len(finer.upsamplers):
        skip += [f"{ladder}.{len(coarser.upsamplers) - 1}" for ladder in coarser.ladders]
    return transplant(coarser, finer, skip=skip)
