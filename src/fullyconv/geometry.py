"""Where the units of a convolutional network look, exactly.

Every layer that moves a window over its input relates positions by a line: the centre of output
unit ``o`` lies at input position ``scale * o + shift``. Lines compose and invert in rational
arithmetic, so strides, offsets, crops and receptive fields of a whole network follow from its
layers, and no alignment ever has to be written down as a number.

One axis at a time: a network with rectangular kernels has one geometry for rows and one for columns.
Positions are pixel centres at integers. (Paper, sections 3 and 4.2; Caffe calls it the coordinate map.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor


@dataclass(frozen=True)
class AxisMap:
    """Where output unit ``o`` looks: a window of ``field`` pixels centred on ``scale * o + shift``.

    Attributes:
        scale: Pixels between the centres of two neighbouring units.
        shift: The pixel that unit 0 is centred on.
        field: Pixels that a unit sees. Exact for convolutions and pooling; after upsampling, whose window depends
            on the phase of the unit, the smallest bound that holds for every phase.

    >>> pooled = AxisMap(Fraction(2), Fraction(1, 2), Fraction(2))
    >>> pooled.then(pooled)
    AxisMap(scale=Fraction(4, 1), shift=Fraction(3, 2), field=Fraction(4, 1))
    """

    scale: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)
    field: Fraction = Fraction(1)

    def then(self, deeper: AxisMap) -> AxisMap:
        """Compose: ``self`` relates a layer to the image, ``deeper`` the next layer to that layer."""
        return AxisMap(
            self.scale * deeper.scale,
            self.scale * deeper.shift + self.shift,
            self.field + self.scale * (deeper.field - 1),
        )

    def before(self, deeper: AxisMap) -> AxisMap:
        """Take the last layer off: ``line.then(deeper).before(deeper)`` is ``line``.

        >>> AxisMap(shift=Fraction(3)).then(AxisMap(Fraction(2))).before(AxisMap(Fraction(2))).shift
        Fraction(3, 1)
        """
        scale = self.scale / deeper.scale
        return AxisMap(scale, self.shift - scale * deeper.shift, self.field - scale * (deeper.field - 1))

    def moved(self, pixels: Fraction) -> AxisMap:
        """Look ``pixels`` further; the field grows to the one around the new centres that holds the old."""
        return AxisMap(self.scale, self.shift + pixels, self.field + 2 * abs(pixels))

    @property
    def reach(self) -> Fraction:
        """How many pixels beyond its centre a unit sees."""
        return (self.field - 1) / 2


@dataclass(frozen=True)
class Window:
    """A convolution or pooling layer along one axis.

    >>> layer = Window(3, stride=2, pad=1)
    >>> layer.size(7), layer.seen(0, 3)
    (4, (-1, 7))
    """

    kernel: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    ceil_mode: bool = False
    pad_end: int | None = None  # after the last unit, where it differs from ``pad``; negative pads crop
    least: int = 1  # the fewest input units it takes (padding by reflection needs something to reflect)

    @property
    def after(self) -> int:
        """The padding after the last unit."""
        return self.pad if self.pad_end is None else self.pad_end

    @property
    def extent(self) -> int:
        """The number of input units from the first to the last tap."""
        return self.dilation * (self.kernel - 1) + 1

    def axis_map(self) -> AxisMap:
        """Return the line from output units to input units."""
        return AxisMap(Fraction(self.stride), Fraction(self.extent - 1, 2) - self.pad, Fraction(self.extent))

    def size(self, units: int) -> int:
        """Count the outputs over ``units`` inputs; less than 1 means that the input is too small."""
        if units < self.least:
            return 0
        room = units + self.pad + self.after - self.extent
        if not self.ceil_mode:
            return room // self.stride + 1
        outputs = -(-room // self.stride) + 1  # a floor of the negative is a ceiling
        # A window that would start behind the input is dropped, as in PyTorch (Caffe drops it where there is padding).
        return outputs - ((outputs - 1) * self.stride >= units + self.pad)

    def seen(self, first: int, last: int) -> tuple[int, int]:
        """Return the input units that output units ``first..last`` read (padding included)."""
        return first * self.stride - self.pad, last * self.stride - self.pad + self.extent - 1


@dataclass(frozen=True)
class Spread:
    """A transposed convolution along one axis.

    Input unit ``i`` writes to the outputs ``stride * i - pad`` and the ``kernel - 1`` after it.

    >>> layer = Spread(4, stride=2, pad=1)
    >>> layer.size(5), layer.seen(0, 9), layer.axis_map().scale
    (10, (-1, 5), Fraction(1, 2))
    """

    kernel: int
    stride: int = 1
    pad: int = 0

    def axis_map(self) -> AxisMap:
        """Return the line from output units to input units."""
        half = Fraction(self.kernel - 1, 2)
        return AxisMap(Fraction(1, self.stride), (self.pad - half) / self.stride, 2 * half / self.stride + 1)

    def size(self, units: int) -> int:
        """Count the outputs of ``units`` inputs."""
        return self.stride * (units - 1) + self.kernel - 2 * self.pad

    def seen(self, first: int, last: int) -> tuple[int, int]:
        """Return the input units that output units ``first..last`` read."""
        return (
            ceil(Fraction(first + self.pad - self.kernel + 1, self.stride)),
            floor(Fraction(last + self.pad, self.stride)),
        )


Layer = Window | Spread
Path = tuple[Layer, ...]
"""The layers between the image and a unit, first to last."""


def axis_map(path: Iterable[Layer]) -> AxisMap:
    """Compose the layers of a path.

    >>> axis_map([Window(3, pad=1), Window(2, stride=2)])
    AxisMap(scale=Fraction(2, 1), shift=Fraction(1, 2), field=Fraction(4, 1))
    """
    line = AxisMap()
    for layer in path:
        line = line.then(layer.axis_map())
    return line


def size(path: Iterable[Layer], units: int) -> int:
    """Count the units at the end of a path over an axis of ``units`` pixels; 0 if one layer gets none.

    >>> size([Window(3, pad=1), Window(2, stride=2)], 9)
    4
    """
    for layer in path:
        units = layer.size(units)
        if units < 1:
            return 0
    return units


def seen(path: Path, first: int, last: int) -> tuple[int, int]:
    """Return the exact pixels that units ``first..last`` at the end of a path read (padding included).

    >>> seen((Window(3, pad=1), Window(2, stride=2)), 0, 0)
    (-1, 2)
    """
    for layer in reversed(path):
        first, last = layer.seen(first, last)
    return first, last


def crop_offset(source: AxisMap, reference: AxisMap) -> int:
    """Return the unit of ``source`` that lies exactly on unit 0 of ``reference``.

    Args:
        source: Where the units of the map to crop look.
        reference: Where those of the map that it is laid on look.

    Returns:
        A number of units; negative when ``source`` starts after ``reference``: then the reference is the one to crop.

    Raises:
        ValueError: Where the two grids do not share their spacing or never coincide.

    >>> crop_offset(AxisMap(shift=Fraction(-19)), AxisMap())
    19
    """
    if source.scale != reference.scale:
        raise ValueError(
            f"cannot align a map with {source.scale} px between its units to one with {reference.scale} px: "
            "upsample the coarser by the ratio of the two first"
        )
    offset = (reference.shift - source.shift) / source.scale
    if offset.denominator != 1:
        raise ValueError(
            f"the two grids are {offset} units apart, not a whole number: "
            "choose an upsampling kernel one tap longer or shorter"
        )
    return int(offset)


def aligning_kernel(kernels: Iterable[int], factor: int, coarse: AxisMap, target: AxisMap) -> int:
    """Choose the first kernel of a transposed convolution that puts the upsampled units on the target's grid.

    Args:
        kernels: Numbers of taps.
        factor: Upsampled units per unit.
        coarse: Where the units to upsample look.
        target: The grid on which the upsampled units have to lie.

    Returns:
        The number of taps.

    Raises:
        ValueError: Where none aligns.

    >>> aligning_kernel((2, 3), 2, Window(3, stride=2, pad=1).axis_map(), AxisMap())
    3
    """
    for taps in kernels:
        upsampled = coarse.then(Spread(taps, factor).axis_map())
        if ((target.shift - upsampled.shift) / target.scale).denominator == 1:
            return taps
    raise ValueError(
        f"no kernel of factor {factor} aligns a grid that starts at {coarse.shift} px "
        f"with one that starts at {target.shift} px"
    )


def bilinear_kernel_size(factor: int, coarse: AxisMap, target: AxisMap) -> int:
    """Choose the bilinear kernel, 2f or 2f - 1 taps, that puts the upsampled units on the target's grid.

    Even kernels place outputs half a step off the input units, odd ones on them; which of the two
    aligns depends on the network below. (VGG needs 64 for factor 32, AlexNet 63.)

    Args:
        factor: Upsampled units per unit.
        coarse: Where the units to upsample look.
        target: The grid on which the upsampled units have to lie.

    Returns:
        The number of taps.

    Raises:
        ValueError: Where neither kernel aligns.

    >>> pooled = Window(2, stride=2).axis_map()
    >>> bilinear_kernel_size(2, pooled, AxisMap()), bilinear_kernel_size(2, AxisMap(Fraction(2)), AxisMap())
    (4, 3)
    """
    return aligning_kernel((2 * factor, 2 * factor - 1), factor, coarse, target)


def smallest_input(fits: Callable[[int], bool], *, period: int, bound: int) -> int:
    """Find the smallest axis length from which on every length fits.

    Args:
        fits: Whether a network takes an axis of some length.
        period: The network's total stride. Sizes repeat with it, so that a whole period of fitting lengths settles
            the rest.
        bound: The longest answer that is looked for.

    Returns:
        The length.

    Raises:
        ValueError: If there is none up to ``bound``.

    >>> smallest_input(lambda length: length in (1, 2) or length > 6, period=4, bound=100)
    7
    """
    start = 1
    for length in range(1, bound + period):
        if not fits(length):
            start = length + 1
        elif length - start + 1 >= period:
            return start
    raise ValueError(f"no input length up to {bound} fits this network")
