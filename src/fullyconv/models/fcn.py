"""FCN-32s, -16s and -8s as one design: trunk, score heads, skip fusion, upsampling, crop (paper, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, cast

from torch import Tensor, nn

from fullyconv.geometry import (
    AxisMap,
    Path,
    Spread,
    axis_map,
    bilinear_kernel_size,
    crop_offset,
    size,
    smallest_input,
)
from fullyconv.trace import output_paths
from fullyconv.upsample import Border, Upsample

LONGEST_MINIMUM = 4096  # a network that needs more pixels than this per axis is a mistake


@dataclass(frozen=True)
class Stage:
    """One step up the ladder, along one axis: upsample by ``factor`` and meet a finer map (or the image).

    ``offset`` is the upsampled unit that lies on unit 0 of the finer map, so the upsampled map is
    cropped by it; where it is negative the finer map starts first and is cropped by ``-offset``.
    """

    kernel: int
    factor: int
    offset: int


@dataclass(frozen=True)
class AxisPlan:
    """How the maps of an FCN line up along one axis; all of it follows from the trunk's paths."""

    taps: tuple[Path, ...]  # coarse to fine
    stages: tuple[Stage, ...]  # one per tap; the last one meets the image
    output: AxisMap  # where an output pixel looks: scale 1, and the widest field

    @classmethod
    def derive(cls, taps: Sequence[Path]) -> AxisPlan:
        """Choose kernels and crops so that every fused unit and every output pixel is exactly centred."""
        stages = []
        current, *finer_maps = [axis_map(path) for path in taps]
        for finer in [*finer_maps, AxisMap()]:
            ratio = current.scale / finer.scale
            if ratio.denominator != 1:
                raise ValueError(f"stride {current.scale} px is not a multiple of the next finer one, {finer.scale} px")
            kernel = bilinear_kernel_size(int(ratio), current, finer)
            upsampled = current.then(Spread(kernel, int(ratio)).axis_map())
            offset = crop_offset(upsampled, finer)
            stages.append(Stage(kernel, int(ratio), offset))
            start = finer if offset >= 0 else upsampled
            current = AxisMap(start.scale, start.shift, max(upsampled.field, finer.field))
        return cls(tuple(taps), tuple(stages), current)

    @property
    def stride(self) -> int:
        """The coarsest stride in pixels: an image shifted by it gives the same units."""
        return int(axis_map(self.taps[0]).scale)

    @property
    def reach(self) -> int:
        """How many pixels away the network can see: the halo that makes a tile exact."""
        return ceil(self.output.reach)

    def fits(self, length: int, border: Border) -> bool:
        """Tell whether every map has units and every crop stays inside its map, for an axis of ``length`` pixels."""
        units, *finer_sizes = [size(path, length) for path in self.taps]
        for stage, finer in zip(self.stages, [*finer_sizes, length], strict=True):
            if min(units, finer) < 1:
                return False
            full = Spread(stage.kernel, stage.factor).size(units)
            ghosts = stage.factor if border == "replicate" else 0
            if stage.offset < 0 and stage is not self.stages[-1]:
                inside = full - stage.offset <= finer
                units = full
            else:
                inside = -ghosts <= stage.offset and stage.offset + finer <= full + ghosts
                units = finer
            if not inside:
                return False
        return True


class FCN(nn.Module):
    """A fully convolutional network over any trunk: N x 3 x H x W in, N x C x H x W class scores out.

    ``trunk`` gives feature maps fine to coarse and has ``channels``, one number per map. The coarsest
    ``skips + 1`` of them are scored by zero-initialised 1 x 1 convolutions, upsampled by bilinear
    transposed convolution and summed. Kernels, crops, smallest input and reach are derived from the
    trunk's graph, for rows and columns. ``upsampling`` fixed or learned, ``border``: see ``Upsample``.

    Takes any H and W from ``smallest_input`` on (1 x 1 for the networks built by name); raises
    ``ValueError`` for less.
    """

    def __init__(
        self,
        trunk: nn.Module,
        *,
        classes: int,
        skips: int,
        upsampling: Literal["fixed", "learned"] = "fixed",
        border: Border = "zero",
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"a network scores at least one class, not {classes}")
        if upsampling not in ("fixed", "learned"):
            raise ValueError(f"upsampling is 'fixed' or 'learned', not {upsampling!r}")
        self.trunk, self.classes, self.border = trunk, classes, border
        used = slice(None, -(skips + 2), -1)  # the coarsest maps, coarse to fine
        rows, columns = (AxisPlan.derive(output_paths(trunk, axis)[used]) for axis in (0, 1))
        self.plans = rows, columns
        self.heads = nn.ModuleList(
            nn.Conv2d(wide, classes, 1) for wide in cast("tuple[int, ...]", trunk.channels)[used]
        )
        for parameter in self.heads.parameters():
            # Zero scores leave the coarse prediction untouched until a skip has learned (paper, section 4.2).
            nn.init.zeros_(parameter)
        self.upsamplers = nn.ModuleList(
            Upsample(
                classes,
                kernel=(row.kernel, column.kernel),
                stride=(row.factor, column.factor),
                learned=upsampling == "learned",
                border=border,
            )
            for row, column in zip(rows.stages, columns.stages, strict=True)
        )
        self.smallest_input = tuple(
            smallest_input(lambda n, p=plan: p.fits(n, border), period=plan.stride, bound=LONGEST_MINIMUM)  # type: ignore[misc]
            for plan in self.plans
        )

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel of N x 3 x H x W."""
        height, width = image.shape[-2:]
        if height < self.smallest_input[0] or width < self.smallest_input[1]:
            raise ValueError(
                f"an image of {height} x {width} is too small for this network, which needs "
                f"{self.smallest_input[0]} x {self.smallest_input[1]}: enlarge or pad it, or use a network with padding"
            )
        features = self.trunk(image)[::-1]
        fused = self.heads[0](features[0])
        for stage in range(len(self.heads) - 1):
            fused = self._fuse(stage, fused, self.heads[stage + 1](features[stage + 1]))
        rows, columns = (plan.stages[-1] for plan in self.plans)
        scores: Tensor = self.upsamplers[-1](fused, (rows.offset, columns.offset), (height, width))
        return scores

    def _fuse(self, stage: int, coarse: Tensor, fine: Tensor) -> Tensor:
        """Upsample the coarse scores and add the fine ones where the two grids coincide."""
        upsampler = cast("Upsample", self.upsamplers[stage])
        keep, sizes = [], []
        for axis, plan in enumerate(self.plans):
            offset = plan.stages[stage].offset
            sizes.append(fine.shape[2 + axis] if offset >= 0 else upsampler.full_size(coarse.shape[2 + axis], axis))
            keep.append(max(offset, 0))
            fine = fine.narrow(2 + axis, max(-offset, 0), sizes[axis])
        fused: Tensor = upsampler(coarse, (keep[0], keep[1]), (sizes[0], sizes[1])) + fine
        return fused
