"""FCN-32s, -16s and -8s as one design: trunk, score heads, skip fusion, upsampling, crop (paper, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil, lcm
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from fullyconv.geometry import (
    AxisMap,
    Path,
    Spread,
    Window,
    axis_map,
    bilinear_kernel_size,
    crop_offset,
    seen,
    size,
    smallest_input,
)
from fullyconv.networks.architecture import Architecture, Upsampling, class_count
from fullyconv.surgery.trunk import Trunk
from fullyconv.surgery.weights import Transplant, transplant
from fullyconv.trace import input_channels, outputs
from fullyconv.upsample import Border, Upsample

LONGEST_MINIMUM = 4096  # a network that needs more pixels than this per axis is a mistake
LONGEST_MARGIN = 1024


@dataclass(frozen=True)
class UpsamplingStage:
    """One step up the ladder, along one axis: upsample by ``factor`` and meet a finer map (or the image).

    ``offset`` is the upsampled unit that lies on unit 0 of the finer map, so the upsampled map is
    cropped by it; where it is negative the finer map starts first and is cropped by ``-offset``.
    """

    kernel: int
    factor: int
    offset: int
    last: bool = False

    @property
    def crops(self) -> bool:
        """Return whether the upsampled map is cropped to the finer one (or the image), not fused whole."""
        return self.last or self.offset >= 0

    @property
    def kept(self) -> int:
        """The first upsampled unit that is kept; negative where the border is repeated before it."""
        return self.offset if self.crops else 0

    @property
    def met(self) -> int:
        """The unit of the finer map that the first upsampled one is added to."""
        return 0 if self.crops else -self.offset

    @property
    def spread(self) -> Spread:
        """The upsampling, before anything is cropped."""
        return Spread(self.kernel, self.factor)

    def size(self, units: int, finer: int) -> int:
        """Count the units after fusion of ``units`` coarse ones with ``finer`` fine ones."""
        return finer if self.crops else self.spread.size(units)


@dataclass(frozen=True)
class AxisPlan:
    """How the maps of an FCN line up along one axis; all of it follows from the trunk's paths."""

    taps: tuple[Path, ...]  # coarse to fine
    lines: tuple[AxisMap, ...]  # where the units of each are taken to lie
    stages: tuple[UpsamplingStage, ...]  # one per tap; the last one meets the image
    output: AxisMap  # where an output pixel looks: scale 1, and the widest field
    margin: int = 0  # zeros on each side of the image
    multiple: int = 1  # what the trunk's input is a multiple of, by more zeros at the end

    @classmethod
    def derive(
        cls, taps: Sequence[Path], drifts: Sequence[Fraction] = (), *, margin: int = 0, multiple: int = 1
    ) -> AxisPlan:
        """Choose kernels and crops so that every fused unit and every output pixel is exactly centred.

        ``drifts`` are those of the taps, in pixels (``fullyconv.trace.positions.Trail``), coarse to fine; they count
        as far as the grids allow, to half the step of the next finer grid.
        """
        stages: list[UpsamplingStage] = []
        if margin:
            taps = [(Window(1, pad=margin), *path) for path in taps]
        lines = _aligned([axis_map(path) for path in taps], drifts or [Fraction(0)] * len(taps))
        current, *finer_maps = lines
        for finer in [*finer_maps, AxisMap()]:
            ratio = current.scale / finer.scale
            if ratio.denominator != 1:
                raise ValueError(f"stride {current.scale} px is not a multiple of the next finer one, {finer.scale} px")
            kernel = bilinear_kernel_size(int(ratio), current, finer)
            upsampled = current.then(Spread(kernel, int(ratio)).axis_map())
            offset = crop_offset(upsampled, finer)
            stages.append(UpsamplingStage(kernel, int(ratio), offset, last=len(stages) == len(finer_maps)))
            start = finer if stages[-1].crops else upsampled
            current = AxisMap(start.scale, start.shift, max(upsampled.field, finer.field))
        return cls(tuple(taps), tuple(lines), tuple(stages), current, margin, multiple)

    @classmethod
    def covering(cls, taps: Sequence[Path], drifts: Sequence[Fraction], border: Border, *, multiple: int) -> AxisPlan:
        """Choose the smallest margin with which every image, however small, is covered by every map.

        (The reference pads by 100 for the same reason.)
        """
        for margin in range(LONGEST_MARGIN):
            plan = cls.derive(taps, drifts, margin=margin, multiple=multiple)
            if all(plan.fits(length, border) for length in range(1, plan.stride + 1)):
                return plan
        raise ValueError(f"no margin up to {LONGEST_MARGIN} px makes the network's maps cover an image")

    @property
    def stride(self) -> int:
        """The smallest shift in pixels after which an image gives the same units."""
        return lcm(int(axis_map(self.taps[0]).scale), self.multiple)

    def padding(self, length: int) -> tuple[int, int]:
        """Return how many zeros come before and after an axis of ``length`` pixels."""
        whole = -(-(length + 2 * self.margin) // self.multiple) * self.multiple
        return self.margin, whole - length - self.margin

    def _padded(self, length: int) -> int:
        """Count the pixels that the taps' paths, which begin with the margin, start from."""
        return length + sum(self.padding(length)) - 2 * self.margin

    @property
    def reach(self) -> int:
        """How many pixels away the network can see: the halo that makes a tile exact."""
        return ceil(self.output.reach)

    def windows(self, length: int) -> list[tuple[int, int]]:
        """Return the first and the last pixel that each output pixel reads, over an axis of ``length`` pixels.

        Upsampling makes the window depend on the pixel's phase; ``reach`` is the farthest of them.
        """
        sizes = [size(path, self._padded(length)) for path in self.taps]
        for index, stage in enumerate(self.stages[:-1], start=1):
            sizes[index] = stage.size(sizes[index - 1], sizes[index])
        return [self._seen(pixel, sizes, length) for pixel in range(length)]

    def _seen(self, pixel: int, sizes: Sequence[int], length: int) -> tuple[int, int]:
        """Climb down the ladder, whose fused maps have ``sizes`` units, and note what each map's units read."""
        first = last = pixel
        ends = [pixel]
        for index in range(len(self.stages) - 1, -1, -1):
            stage = self.stages[index]
            first, last = stage.spread.seen(first + stage.kept, last + stage.kept)
            first, last = (min(max(unit, 0), sizes[index] - 1) for unit in (first, last))  # beyond: edge, or nothing
            start = self.stages[index - 1].met if index else 0
            ends += seen(self.taps[index], first + start, last + start)
        return max(min(ends), 0), min(max(ends), length - 1)

    def fits(self, length: int, border: Border) -> bool:
        """Return whether every map has units and every crop stays inside its map, for an axis of ``length`` pixels."""
        units, *finer_sizes = [size(path, self._padded(length)) for path in self.taps]
        for stage, finer in zip(self.stages, [*finer_sizes, length], strict=True):
            if min(units, finer) < 1:
                return False
            full, fused = stage.spread.size(units), stage.size(units, finer)
            ghosts = stage.factor if border == "replicate" and stage.crops else 0
            if not (-ghosts <= stage.kept and stage.kept + fused <= full + ghosts and stage.met + fused <= finer):
                return False
            units = fused
        return True

    def smallest_input(self, border: Border) -> int:
        """Find the shortest axis from which on every length can be labelled."""
        return smallest_input(lambda length: self.fits(length, border), period=self.stride, bound=LONGEST_MINIMUM)


def _aligned(lines: Sequence[AxisMap], drifts: Sequence[Fraction]) -> list[AxisMap]:
    """Move maps, coarse to fine, by their drifts, to the nearest places where the grids still meet."""
    target, moved = AxisMap(), []
    for line, drift in zip(reversed(lines), reversed(drifts), strict=True):
        if any(drifts):
            step = target.scale / 2
            wanted = target.shift + round((line.shift + drift - target.shift) / step) * step
            line = line.moved(wanted - line.shift)
        moved.append(line)
        target = line
    return moved[::-1]


def score_heads(trunk: Trunk, classes: int, skips: int) -> nn.ModuleList:
    """Make a 1 x 1 convolution for each map that is scored, coarse to fine.

    They start at zero, which leaves the coarse prediction untouched until a skip has learned
    (paper, section 4.2).
    """
    classes = class_count(classes)
    heads = nn.ModuleList(nn.Conv2d(wide, classes, 1) for wide in trunk.channels[_coarsest(skips)])
    for parameter in heads.parameters():
        nn.init.zeros_(parameter)
    return heads


def _coarsest(skips: int) -> slice:
    """Choose the coarsest maps of a trunk, coarse to fine."""
    return slice(None, -(skips + 2), -1)


class FCN(nn.Module):
    """A fully convolutional network over any trunk: N x K x H x W in, N x C x H x W class scores out.

    The coarsest ``skips + 1`` maps of the trunk are scored by zero-initialised 1 x 1 convolutions, upsampled by
    bilinear transposed convolution and summed (paper, section 4). Kernels, crops, smallest input and reach are derived
    from the trunk's graph, for rows and columns. ``remarks`` say what is to be known of the trunk's operations
    (``fullyconv.trace``).

    Args:
        trunk: Gives feature maps fine to coarse and has ``channels``, one number per map.
        classes: The number of classes C.
        skips: How many finer maps are fused.
        upsampling: ``fixed`` or ``learned``, see ``Upsample``.
        border: ``zero`` or ``replicate``, see ``Upsample``.
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

    def __init__(  # noqa: PLR0913 (the choices of one network)
        self,
        trunk: Trunk,
        *,
        classes: int,
        skips: int,
        upsampling: Upsampling = "fixed",
        border: Border = "zero",
        scales: Sequence[float] = (),
        cover: bool = False,
    ) -> None:
        super().__init__()
        if upsampling not in ("fixed", "learned"):
            raise ValueError(f"upsampling is 'fixed' or 'learned', not {upsampling!r}")
        if len(scales) not in (0, skips):
            raise ValueError(f"{len(scales)} scales for {skips} skips: give one for each, or none")
        self.trunk, self.classes, self.border, self.upsampling = trunk, class_count(classes), border, upsampling
        self.heads = score_heads(trunk, classes, skips)
        self.scales = (1.0, *(scales or (1.0,) * skips))
        self.in_channels = input_channels(trunk)
        traced = outputs(trunk)
        self.remarks = traced.remarks
        plan = partial(AxisPlan.covering, border=border) if cover else AxisPlan.derive
        rows, columns = (
            plan(
                traced.along(axis)[_coarsest(skips)],
                traced.drifts_along(axis)[_coarsest(skips)],
                multiple=traced.multiples[axis],
            )
            for axis in (0, 1)
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
        self._check(image)
        return self._climb(self._score(self.trunk(self.padded(image)), self.heads), self.upsamplers, image)

    def padded(self, image: Tensor) -> Tensor:
        """Put the margin of zeros around an image that the trunk needs, if any.

        Args:
            image: N x K x H x W.

        Returns:
            N x K x H' x W'.
        """
        rows, columns = (plan.padding(length) for plan, length in zip(self.plans, image.shape[-2:], strict=True))
        return functional.pad(image, (*columns, *rows)) if any((*rows, *columns)) else image

    def _check(self, image: Tensor) -> None:
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

    def _climb(self, scores: Sequence[Tensor], upsamplers: nn.ModuleList, image: Tensor) -> Tensor:
        """Fuse score maps, coarse to fine, and upsample them to the image."""
        fused, *finer = scores
        for stage, fine in enumerate(finer):
            fused = self._fuse(stage, fused, fine, cast("Upsample", upsamplers[stage]))
        rows, columns = (plan.stages[-1] for plan in self.plans)
        result: Tensor = upsamplers[-1](fused, (rows.kept, columns.kept), tuple(image.shape[-2:]))
        return result

    def _fuse(self, stage: int, coarse: Tensor, fine: Tensor, upsampler: Upsample) -> Tensor:
        """Upsample the coarse scores and add the fine ones where the two grids coincide."""
        keep, sizes = [], []
        for axis, plan in enumerate(self.plans):
            step = plan.stages[stage]
            sizes.append(step.size(coarse.shape[2 + axis], fine.shape[2 + axis]))
            keep.append(step.kept)
            fine = fine.narrow(2 + axis, step.met, sizes[axis])
        fused: Tensor = upsampler(coarse, (keep[0], keep[1]), (sizes[0], sizes[1])) + fine
        return fused


def continue_from(coarser: FCN, finer: FCN) -> Transplant:
    """Start a finer network from a trained coarser one: FCN-32s -> FCN-16s -> FCN-8s (paper, section 4.2).

    Trunk, score layers and intermediate upsampling move; the source's last upsampling, whose factor
    no longer fits, stays behind, and new score layers keep their zeros. Between networks of different
    classes only the trunk moves.
    """
    if coarser.classes != finer.classes:
        return transplant(coarser, finer, skip=[*coarser.score_layers, *coarser.ladders])
    same = len(coarser.upsamplers) == len(finer.upsamplers)
    return transplant(coarser, finer, skip=() if same else (f"upsamplers.{len(coarser.upsamplers) - 1}",))
