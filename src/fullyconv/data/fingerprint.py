"""What a data set's pictures and masks are like, as far as it decides how to train on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fullyconv.data.bounds import middle, spread_order
from fullyconv.data.dataset import read_sample
from fullyconv.data.pairs import Pair
from fullyconv.files import BadFile
from fullyconv.scores.bounds import STRIDES, Bounds, count_bounds
from fullyconv.types import ClassSet, Sample

PIXELS = 8_000_000  # that are looked at in all
MOST = 100  # pictures that are looked at
SPECK = 50  # pixels of a class below which a picture says nothing of it
GRID = 8  # cells of a picture's layout of brightness, down and across

Size = tuple[int, int]


@dataclass(frozen=True)
class Fingerprint:
    """What decides how to train on a data set.

    Attributes:
        pictures: Training pictures.
        held_out: Pixels of all validation pictures together.
        size: Median height and width of the training pictures.
        names: The classes.
        shares: Of each class among the labelled training pixels.
        thickness: The median over pictures of each class's thickness in pixels: twice its area over the length of its
            outline (NaN: never there).
        variety: The standard deviation, over pictures, of the logarithm of a class's thickness; median of the classes.
        bounds: The best IU of predictions at several strides.
        grey: Whether the pictures have no colours.
        halves: How much top and bottom differ, 0..1: the share of pixels whose class would have to change to make the
            upper half, over all pictures, like the lower.
        layout: Of what turning pictures upside down changes in their brightness, the share that they have in common.
        sided: The class that lies on one side of nearly every picture, if one does.
    """

    pictures: int
    held_out: int
    size: Size
    names: tuple[str, ...]
    shares: tuple[float, ...]
    thickness: tuple[float, ...]
    variety: float
    bounds: Bounds
    grey: bool
    halves: float
    layout: float
    sided: str | None = None

    @property
    def megapixels(self) -> float:
        """Millions of pixels of the training pictures, each counted as one of median size."""
        return self.pictures * self.size[0] * self.size[1] / 1e6

    @property
    def upright(self) -> bool:
        """Whether the pictures have an up: CamVid's halves differ by 0.8, those of cells and vessels by 0.01."""
        return self.halves > 0.1 or self.layout > 0.65

    @property
    def thinnest(self) -> int:
        """The class of the least thickness."""
        return int(np.nanargmin(self.thickness)) if np.isfinite(self.thickness).any() else 0


@dataclass(frozen=True)
class _Look:
    """What one picture shows; per class C float64 each."""

    thickness: np.ndarray
    halves: np.ndarray  # shares in the upper half minus those in the lower
    across: np.ndarray  # the mean place of a class, -0.5 (left) to 0.5
    brightness: np.ndarray  # GRID x GRID, mean 0
    grey: bool


def take_fingerprint(
    train: Sequence[Pair],
    held_out: int,
    classes: ClassSet,
    *,
    shares: Sequence[float],
    sizes: Sequence[Size],
    progress: Callable[[str, int, int], None] | None = None,
) -> Fingerprint:
    """Look at training pictures, at even distances, as many as seconds allow.

    Args:
        train: The training pairs.
        held_out: Pixels of all validation pictures.
        classes: What the masks hold.
        shares: Of the classes among the labelled training pixels.
        sizes: Height and width of every training picture.
        progress: Called with (what is being done, done, total).

    Returns:
        The same for the same pairs.

    Raises:
        BadFile: If no pair can be read.
    """
    bounds = Bounds(STRIDES, *np.zeros((2, len(STRIDES), len(classes), len(classes)), np.int64))
    looks: list[_Look] = []
    problem, left = None, PIXELS
    for place in spread_order(len(train))[:MOST]:
        try:
            sample = read_sample(train[place], classes)
        except BadFile as bad:
            problem = bad
            continue
        looks.append(_look(sample, len(classes)))
        part = middle(sample.labels)
        bounds += count_bounds(part, classes=len(classes))
        left -= part.size
        if progress is not None:
            progress("looking at the data", PIXELS - left, PIXELS)
        if left <= 0:
            break
    if problem is not None and not looks:
        raise problem
    heights, widths = np.array(sizes).T
    thickness = np.array([look.thickness for look in looks])
    return Fingerprint(
        pictures=len(train),
        held_out=held_out,
        size=(int(np.median(heights)), int(np.median(widths))),
        names=classes.names,
        shares=tuple(map(float, shares)),
        thickness=tuple(float(np.median(seen)) if (seen := _seen(each)).size else np.nan for each in thickness.T),
        variety=_variety(thickness),
        bounds=bounds,
        grey=all(look.grey for look in looks),
        halves=_halves(looks),
        layout=_layout(looks),
        sided=_sided(looks, classes.names),
    )


def _look(sample: Sample, classes: int) -> _Look:
    labels = sample.labels
    height, width = labels.shape
    upper, lower = (
        np.bincount(half[half >= 0], minlength=classes) for half in (labels[: height // 2], labels[(height + 1) // 2 :])
    )
    area = np.bincount(labels[labels >= 0], minlength=classes)
    columns = np.broadcast_to(np.arange(width), labels.shape)[labels >= 0]
    sums = np.bincount(labels[labels >= 0], columns, minlength=classes)
    across = np.where(area > SPECK, (sums / np.maximum(area, 1) + 0.5) / width - 0.5, np.nan)
    light = Image.fromarray(sample.image.mean(2, dtype=np.float32))
    small = np.asarray(light.resize((GRID, GRID), Image.Resampling.BOX), np.float64)
    few = sample.image[:: max(1, height // 64), :: max(1, width // 64)].astype(np.float32)
    return _Look(
        thickness=measure_thickness(labels, classes=classes),
        halves=upper / max(1, upper.sum()) - lower / max(1, lower.sum()),
        across=across,
        brightness=small - small.mean(),
        grey=bool((abs(few - few[..., :1]) <= 2).all()),
    )


def measure_thickness(labels: np.ndarray, *, classes: int) -> np.ndarray:
    """Return how thick each class's areas are: of a strip its width, of a disc half its diameter.

    Args:
        labels: H x W; negative labels are void.
        classes: C.

    Returns:
        C float64 in pixels: twice the area over the length of its outline, counted along rows and columns (the edges of
        the picture are none) and corrected for outlines in all directions; NaN for fewer than 50 pixels, infinity
        where nothing ends.

    >>> measure_thickness(np.arange(100)[None].repeat(60, 0) // 10 % 2, classes=2).round().tolist()
    [14.0, 14.0]
    """
    area = np.bincount(labels[labels >= 0], minlength=classes).astype(np.float64)
    outline = np.zeros(classes)
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        for sides in (one[one != other], other[one != other]):
            outline += np.bincount(sides[sides >= 0], minlength=classes)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(area > SPECK, 2 * area / (np.pi / 4 * outline), np.nan))


def _seen(values: np.ndarray) -> np.ndarray:
    return np.asarray(values[~np.isnan(values)])


def _variety(thickness: np.ndarray) -> float:
    logs = (np.log(each[np.isfinite(each)]) for each in thickness.T)
    spreads = [float(each.std()) for each in logs if each.size > 1]
    return float(np.median(spreads)) if spreads else 0.0


def _halves(looks: Sequence[_Look]) -> float:
    """Return the mean difference of the halves as a share of pixels, beyond what chance gives so few pictures."""
    halves = np.array([look.halves for look in looks])
    chance = halves.std(0) / np.sqrt(len(looks))
    return float(np.maximum(abs(halves.mean(0)) - 2 * chance, 0).sum() / 2)


def _layout(looks: Sequence[_Look]) -> float:
    layouts = np.array([look.brightness for look in looks])
    each = layouts - layouts[:, ::-1]
    energy, count = float((each**2).sum((1, 2)).mean()), len(looks)
    if not energy or count < 2:
        return 0.0
    common = float((each.mean(0) ** 2).sum()) / energy  # 1 over the count by chance
    return max(0.0, (common - 1 / count) / (1 - 1 / count))


def _sided(looks: Sequence[_Look], names: Sequence[str]) -> str | None:
    """Find a class on one side in at least 95 % of 8 or more pictures, by 0.15 of their width in the mean."""
    for name, places in zip(names, np.array([look.across for look in looks]).T, strict=True):
        seen = _seen(places)
        same = max((seen > 0).sum(), (seen < 0).sum())
        if seen.size >= 8 and same >= 0.95 * seen.size and abs(seen.mean()) > 0.15:
            return str(name)
    return None
