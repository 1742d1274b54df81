"""How the maps of an FCN line up: kernels, crops, margins and reach, derived per axis from the trunk's paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, lcm

from fullyconv.geometry import (
    AxisMap,
    Path,
    Spread,
    Window,
    aligning_kernel,
    axis_map,
    bilinear_kernel_size,
    crop_offset,
    seen,
    size,
    smallest_input,
)
from fullyconv.upsample import Border

LONGEST_MINIMUM = 4096  # a network that needs more pixels than this per axis is a mistake
LONGEST_MARGIN = 1024
FEW = 16  # units of the coarsest map that are enough for every layer before it


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
        return lcm(int(self.lines[0].scale), self.multiple)

    def padding(self, length: int) -> tuple[int, int]:
        """Return how many zeros come before and after an axis of ``length`` pixels."""
        # Of numbers above 0 alone: other formats that networks are exported to divide towards 0, Python downwards.
        whole = (length + 2 * self.margin + self.multiple - 1) // self.multiple * self.multiple
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


@dataclass(frozen=True)
class Meeting:
    """How a coarse map is laid on the next finer one along an axis: upsampled, then cut (or padded) at both ends."""

    kernel: int
    factor: int
    before: int
    after: int

    @classmethod
    def derive(cls, coarse: Path, fine: Path, lengths: Sequence[int], *, learned: bool = False) -> Meeting:
        """Find it from the layers behind the two maps.

        Args:
            coarse: Of the map to upsample.
            fine: Of the map it is laid on.
            lengths: Lengths of pictures, on all of which the ends have to be the same.
            learned: Upsample by as few taps as align, of which each output reads one (or two); else by bilinear ones.

        Raises:
            ValueError: Where strides do not divide, or the ends depend on the picture's size.
        """
        low, high = axis_map(coarse), axis_map(fine)
        ratio = low.scale / high.scale
        if ratio.denominator != 1:
            raise ValueError(f"stride {low.scale} px is not a multiple of the next finer one, {high.scale} px")
        factor = int(ratio)
        near = high.moved(-((high.shift - low.shift) % (high.scale / 2)))  # the grids meet but for a part of a step
        kernels = (factor, factor + 1) if learned else (2 * factor, 2 * factor - 1)
        spread = Spread(aligning_kernel(kernels, factor, low, near), factor)
        before = crop_offset(low.then(spread.axis_map()), near)
        ends = {spread.size(size(coarse, length)) - before - size(fine, length) for length in lengths}
        if len(ends) != 1:
            raise ValueError(f"the maps of strides {low.scale} and {high.scale} px end apart, depending on the size")
        return cls(spread.kernel, factor, before, ends.pop())


def meetings(
    coarse: tuple[Path, Path], fine: tuple[Path, Path], coarsest: tuple[Path, Path], *, learned: bool = False
) -> tuple[Meeting, Meeting]:
    """Find how a map is laid on the next finer one, for pictures of whole numbers of the coarsest stride.

    Args:
        coarse: The layers behind it, along rows and along columns.
        fine: The layers behind the finer map.
        coarsest: The layers behind the coarsest map of all.
        learned: As ``Meeting.derive`` takes it.

    Returns:
        Along rows and along columns.

    Raises:
        ValueError: Where the maps do not meet.
    """
    strides = [int(axis_map(path).scale) for path in coarsest]
    rows, columns = (
        Meeting.derive(low, high, [stride * units for units in range(FEW, FEW + 4)], learned=learned)
        for low, high, stride in zip(coarse, fine, strides, strict=True)
    )
    return rows, columns


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
