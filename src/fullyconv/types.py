"""The nouns that travel through the package: classes, normalisation, samples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from keyword import iskeyword
from math import isfinite
from typing import Literal

import numpy as np

VOID = -1
"""The label of a pixel that counts nowhere: not in the loss, not in the scores."""

MOST_CLASSES = 32_767  # labels travel as int16
MOST_VALUE = 65_535  # of a class in a mask file: masks are written as 8 or 16 bit
LONGEST_NAME = 200  # characters of a class's name


def palette_colour(index: int) -> tuple[int, int, int]:
    """Return PASCAL VOC's colour of a label: its bits, three at a time, fill R, G, B from the top.

    >>> palette_colour(15), palette_colour(255)
    ((192, 128, 128), (224, 224, 192))
    """
    red = green = blue = 0
    rest = index
    for bit in range(7, -1, -1):
        red |= (rest & 1) << bit
        green |= (rest >> 1 & 1) << bit
        blue |= (rest >> 2 & 1) << bit
        rest >>= 3
    return red, green, blue


def _twice(entries: Iterable[Hashable]) -> list[Hashable]:
    """Return what stands more than once."""
    return [entry for entry, count in Counter(entries).items() if count > 1]


@dataclass(frozen=True)
class ClassSet:
    """What the labels mean.

    Attributes:
        names: ``names[c]`` is class ``c``.
        colours: Each class's RGB colour in pictures, 0..255; default: PASCAL VOC's.
        ignore_index: The mask value of pixels that are not scored, and the one written for them.
        values: The number that stands for each class in an index mask; default: its own index.
        colour_masks: Whether the masks are RGB pictures whose colours are ``colours``; every other colour is then an
            error except ``ignore_colours``.
        ignore_colours: In such masks, the colours of pixels that are not scored.
        also_ignored: Further mask values of pixels that are not scored.
        instances: Whether the masks number things: every number (or colour) above 0 is the class of value 1.

    Raises:
        ValueError: For classes that share a name, a value or (in RGB masks) a colour, and for values out of range.

    >>> ClassSet(("road", "sky"), values=(7, 23), ignore_index=0, also_ignored=(1, 2)).ignored
    (0, 1, 2)
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...] = ()
    ignore_index: int = 255
    values: tuple[int, ...] = ()
    colour_masks: bool = False
    ignore_colours: tuple[tuple[int, int, int], ...] = ()
    also_ignored: tuple[int, ...] = ()
    instances: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MOST_CLASSES:
            raise ValueError(f"a class set holds 1 to {MOST_CLASSES} classes, not {len(self.names)}")
        if not self.colours:
            object.__setattr__(self, "colours", tuple(map(palette_colour, range(len(self.names)))))
        if not self.values:
            object.__setattr__(self, "values", tuple(range(len(self.names))))
        self._check()

    def _check(self) -> None:
        for what, given in (("colours", self.colours), ("values", self.values)):
            if len(given) != len(self.names):
                raise ValueError(f"{len(self.names)} classes need as many {what}, not {len(given)}")
        if self.instances and (self.colour_masks or set(self.values) != {0, 1}):
            raise ValueError("masks that number things have two classes, of values 0 (background) and 1 (all things)")
        if twice := _twice(self.names):
            raise ValueError(f"two classes share a name: {twice[0]!r}")
        if long := [name for name in self.names if len(name) > LONGEST_NAME]:
            raise ValueError(
                f"a class name of {len(long[0])} characters, {long[0][:30]}…: write at most {LONGEST_NAME}"
            )
        self._check_values()
        self._check_colours()

    def _check_values(self) -> None:
        stored = (*self.values, *self.ignored)
        beyond = [value for value in stored if not 0 <= value <= MOST_VALUE]
        if beyond:
            raise ValueError(f"mask values are 0 to {MOST_VALUE}, not {beyond[0]}: masks are written as 8 or 16 bit")
        if twice := _twice(stored):
            raise ValueError(f"mask values must differ from each other and from ignore: {twice[0]} stands twice")

    def _check_colours(self) -> None:
        painted = (*self.colours, *self.ignore_colours)
        for colour in painted:
            if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
                raise ValueError(f"a colour is red, green and blue, each 0 to 255, not {colour}")
        if self.colour_masks and (twice := _twice(painted)):
            raise ValueError(
                f"in RGB masks every class and every ignored kind of pixel needs a colour of its own: {twice[0]}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def ignored(self) -> tuple[int, ...]:
        """All mask values of pixels that are not scored."""
        return (self.ignore_index, *self.also_ignored)


def _check_statistics(mean: Iterable[float], std: Iterable[float]) -> None:
    """Refuse a normalisation that turns numbers to NaN or infinity, in float32 as it is computed."""
    for value in mean:
        if not abs(value) <= LARGEST:
            raise ValueError(f"a mean is a finite number, {LARGEST:g} at most, not {value}")
    for value in std:
        if not 1 / LARGEST <= value <= LARGEST:
            raise ValueError(f"a standard deviation is a finite number above 0, from {1 / LARGEST:g}, not {value}")


LARGEST = 1e15  # mean, deviation or its inverse: the products of two leave much room in float32
CHANNEL_ENDING = re.compile(r"_\d{4}")  # of the files of one picture's channels
FIRST_HEAD = "semantic"  # what the first task of a network of several is called
HEAD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")  # of a further task
TAKEN_NAMES = frozenset({
    FIRST_HEAD, "absent_classes", "after", "before", "boundary_convention", "boundary_f", "calibration", "classes",
    "confidence", "confusion", "convention", "crf", "image", "image_mean_iu", "images", "intervals", "trimap_iu",
    "void_share", "per_class_boundary_f", "pixel_accuracy", "mean_accuracy", "mean_iu", "mean_iu_present",
    "frequency_weighted_iu", "kappa", "per_class_accuracy", "per_class_iu", "per_class_f1", "count", "index",
})  # fmt: skip
"""What no further task can be called: its scores stand under its name beside these."""
PLAIN_NAME = re.compile(r"[^./\\][^/\\]{0,199}")  # of a folder: leads nowhere else


def check_head(name: str) -> str:
    """Return the name of a further task of a network; raises ``ValueError`` for what is no plain word, or taken.

    >>> check_head("geometry")
    'geometry'
    """
    if not HEAD_NAME.fullmatch(name) or iskeyword(name):
        raise ValueError(f"a head's name is letters (a to z), digits and _ and begins with a letter, not {name[:60]!r}")
    if name in TAKEN_NAMES:
        raise ValueError(f"no head can be called {name!r}, which stands for something else beside its scores")
    return name


@dataclass(frozen=True)
class Levels:
    """How the numbers of pictures that do not fill their type become levels 0..255, of all pictures alike.

    Attributes:
        ranges: What becomes 0 and what 255: one pair for all channels, or one for each.
        pages: Of files with several pages: which one, from 0, or ``channels``, all of them; ``None``: none are read.
        beside: Of pictures whose channels are several files, where those after the first lie: the ending that has the
            place of ``_0000`` in their names (``_0001``), or the name of a folder beside the images' (``depth``).

    Raises:
        ValueError: For a range that is none, and a name that is no folder's.

    >>> Levels(((100, 300),))(np.array([[[100], [200], [999]]], np.uint16)).ravel().tolist()
    [0, 128, 255]
    """

    ranges: tuple[tuple[float, float], ...]
    pages: int | Literal["channels"] | None = None
    beside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.beside:
            if not PLAIN_NAME.fullmatch(name):
                raise ValueError(f"further channels lie in a folder beside the images', which {name!r} is no name of")
        for low, high in self.ranges:
            if not (isfinite(low) and isfinite(high) and low < high):
                raise ValueError(f"a range goes from a finite number to a larger one, not from {low} to {high}")

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Bring numbers, ... x C, to levels, uint8; what lies outside a range becomes 0 or 255.

        Raises ``ValueError`` for numbers that are infinite or not a number.
        """
        low, high = np.array(self.ranges, np.float64).T
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise ValueError("it holds numbers that are infinite or not a number (NaN)")
        levels: np.ndarray = np.rint(np.clip((numbers - low) * 255 / (high - low), 0, 255)).astype(np.uint8)
        return levels


@dataclass(frozen=True)
class Preprocess:
    """How pixels become network input: ``(pixel - mean) / std`` in the given channel order.

    Networks that see more than colour have further channels (log-depth, HHA) behind the three, which keep their order.

    Attributes:
        mean: The mean of each channel, on the scale 0..255, in ``order``; the default is ImageNet's.
        std: The standard deviation of each channel, likewise.
        order: ``RGB`` or ``BGR``: the order in which the network sees colours.
        levels: How numbers of more than 8 bits become 0..255; ``None``: those of each picture by its own white.

    Raises:
        ValueError: For fewer than three channels, or numbers that give NaN or infinity.

    >>> Preprocess(mean=(100, 100, 100), std=(50, 50, 50))(np.full((1, 1, 3), 150)).round(3).ravel().tolist()
    [1.0, 1.0, 1.0]
    """

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    order: Literal["RGB", "BGR"] = "RGB"
    levels: Levels | None = None

    def __post_init__(self) -> None:
        if self.levels is not None and len(self.levels.ranges) not in (1, len(self.mean)):
            raise ValueError(f"{len(self.levels.ranges)} ranges for {len(self.mean)} channels")
        if len(self.mean) != len(self.std) or len(self.mean) < 3:
            raise ValueError(f"three or more means need as many deviations: {len(self.mean)} and {len(self.std)}")
        _check_statistics(self.mean, self.std)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Normalise H x W x K (RGB, then any further channels) to K x H x W float32."""
        pixels = image
        if self.order == "BGR":
            pixels = image[..., [2, 1, 0, *range(3, len(self.mean))]]
        std = np.asarray(self.std, np.float32)
        planes = pixels * (1 / std) - np.asarray(self.mean, np.float32) / std
        return np.ascontiguousarray(planes.astype(np.float32, copy=False).transpose(2, 0, 1))

    @property
    def fill(self) -> tuple[int, ...]:
        """The colour (RGB, then further channels) that normalises to (about) zero: what lies outside an image."""
        mean = (*self.mean[2::-1], *self.mean[3:]) if self.order == "BGR" else self.mean
        return tuple(round(value) for value in mean)


@dataclass(frozen=True)
class Sample:
    """An image with its labels: H x W x 3 (or more channels) uint8 RGB, H x W int16 (class index or ``VOID``)."""

    image: np.ndarray
    labels: np.ndarray
    name: str = ""


@dataclass(frozen=True)
class SpectralPreprocess:
    """How spectra become network input: choose ``bands``, ``(value - mean) / std``, then project.

    ``bands`` are indices from 0 into a scene of ``scene_bands`` bands; ``mean`` and ``std``, one each per
    chosen band, are those of training pixels alone. ``components`` (K rows, one weight per chosen band;
    empty: no projection) are principal components, divided by their deviations where they whiten.
    """

    scene_bands: int
    bands: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    components: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        sizes = {len(self.mean), len(self.std), *map(len, self.components)}
        if not self.bands or sizes != {len(self.bands)}:
            raise ValueError(f"each of {len(self.bands)} bands needs one number, in each row: {sorted(sizes)}")
        _check_statistics((*self.mean, *(weight for row in self.components for weight in row)), self.std)
        if min(self.bands) < 0 or max(self.bands) >= self.scene_bands:
            raise ValueError(f"bands {min(self.bands)} to {max(self.bands)} of a scene of {self.scene_bands}")

    @property
    def channels(self) -> int:
        """The number of channels that the network sees."""
        return len(self.components) or len(self.bands)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Normalise H x W x B to K x H x W float32: a view of what lies in memory pixel after pixel."""
        every = self.bands == tuple(range(image.shape[-1]))
        spectra = np.array(image if every else image[..., list(self.bands)], np.float32)
        spectra -= np.asarray(self.mean, np.float32)
        spectra /= np.asarray(self.std, np.float32)
        if self.components:
            spectra = spectra @ np.asarray(self.components, np.float32).T
        return spectra.transpose(2, 0, 1)
