"""Random views of a sample: zoom, rotation, crop, flips, colour, blur, noise, each drawn from a generator given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, cos, radians, sin

import numpy as np
from PIL import Image, ImageFilter

from fullyconv.types import VOID, Sample

COLOURS = 3

Change = Callable[..., Mapping[str, np.ndarray]]
"""Changes a view in a way of the caller's: called with ``image`` and ``mask`` by name, gives both by name.

Any ``Compose`` of albumentations is one."""


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training sample.

    Attributes:
        crop: Height and width of every view; ``None`` keeps images whole.
        scale: The range of the random zoom, drawn on a logarithmic axis: halving is as likely as doubling.
        flip: Whether half of the views are mirrored.
        colour: The largest relative change of brightness, contrast and saturation.
        shift: Cuts 0 to ``shift - 1`` pixels off the top and the left: with the network's stride, patchwise training
            meets every patch, not only those on the stride's grid (paper, section 3.4).
        rotation: The largest angle in degrees by which views are turned, either way.
        upside_down: Whether half of the views are mirrored from top to bottom: for pictures without an up.
        blur: The largest standard deviation of a Gaussian blur, in pixels.
        noise: The largest standard deviation of added noise, in levels of 0..255.
        change: A variation of the caller's own, before all others.
    """

    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    colour: float = 0.0
    shift: int = 0
    rotation: float = 0.0
    upside_down: bool = False
    blur: float = 0.0
    noise: float = 0.0
    change: Change | None = None


def sample_rng(*, seed: int, epoch: int, index: int) -> np.random.Generator:
    """Derive a view's randomness from its position: the same after a resume and on any number of workers."""
    return np.random.default_rng((seed, epoch, index))


def augment(sample: Sample, options: Augmentation, *, fill: tuple[int, ...], rng: np.random.Generator) -> Sample:
    """Draw one view.

    Args:
        sample: An image with its labels.
        options: What may happen to it.
        fill: The colour (of all channels) of what lies outside the image; its labels are void.
        rng: Where the randomness comes from; ``sample_rng`` derives it from a view's position in a run.

    Returns:
        The view, contiguous in memory.

    >>> sample = Sample(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.int16))
    >>> rng = sample_rng(seed=0, epoch=0, index=0)
    >>> augment(sample, Augmentation(crop=(8, 8)), fill=(1, 2, 3), rng=rng).labels.shape
    (8, 8)
    """
    if options.change is not None:
        sample = changed(sample, options.change, rng=rng)
    sample = _placed(sample, options, fill, rng)
    if options.shift > 1:
        sample = cut_start(sample, by=rng.integers(options.shift, size=2))
    image, labels = sample.image, sample.labels
    if options.flip and rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    if options.upside_down and rng.random() < 0.5:
        image, labels = image[::-1], labels[::-1]
    if options.colour:
        image = jitter(image, amounts=1 + rng.uniform(-options.colour, options.colour, 3))
    if options.blur or options.noise:
        image = degrade(image, blur=rng.uniform(0, options.blur), noise=rng.uniform(0, options.noise), rng=rng)
    return Sample(np.ascontiguousarray(image), np.ascontiguousarray(labels), sample.name)


def changed(sample: Sample, change: Change, *, rng: np.random.Generator) -> Sample:
    """Let a caller's function change a sample, with randomness that follows from the view where it can be given.

    Args:
        sample: An image with its labels, which get ``VOID`` where they do not count.
        change: The function; one with ``set_random_seed`` (albumentations from 1.4.19 on) is seeded.
        rng: Where the seed comes from.

    Returns:
        What it makes of the sample.

    Raises:
        ValueError: If that is no image of as many channels with labels of its size.
    """
    seed = int(rng.integers(2**31))
    if hasattr(change, "set_random_seed"):
        change.set_random_seed(seed)
    found = change(image=sample.image, mask=sample.labels)
    image, labels = np.asarray(found["image"]), np.asarray(found["mask"])
    fits = image.dtype == np.uint8 and image.shape[2:] == sample.image.shape[2:] and image.shape[:2] == labels.shape
    if not fits or labels.dtype.kind not in "iu":
        what = f"image {image.shape} {image.dtype} and mask {labels.shape} {labels.dtype}"
        raise ValueError(f"the augmentation gave {what}: it keeps uint8 and the channels, and labels whole numbers")
    return Sample(image, labels.astype(np.int16), sample.name)


def _placed(sample: Sample, options: Augmentation, fill: tuple[int, ...], rng: np.random.Generator) -> Sample:
    """Zoom, turn and cut a sample."""
    factor = float(np.exp(rng.uniform(*np.log(options.scale))))
    angle = float(rng.uniform(-options.rotation, options.rotation)) if options.rotation else 0.0
    height, width = sample.labels.shape[:2]
    if options.crop is not None:
        size, place = options.crop, rng.random(2)
    else:
        size, place = (max(1, round(height * factor)), max(1, round(width * factor))), np.zeros(2)
        if factor == 1 and not angle:
            return sample
    if not angle:
        return zoom_crop(sample, factor=factor, crop=size, place=place, fill=fill)
    wide = turned_size(size, angle)
    place = place if options.crop is not None else np.full(2, 0.5)
    return turn(zoom_crop(sample, factor=factor, crop=wide, place=place, fill=fill), angle=angle, size=size, fill=fill)


def zoom_crop(
    sample: Sample, *, factor: float, crop: tuple[int, int], place: np.ndarray, fill: tuple[int, ...]
) -> Sample:
    """Enlarge a sample and cut a view out of it.

    Only the part of the image that is kept gets resized: bilinear for pixels, nearest for labels.

    Args:
        sample: An image with its labels.
        factor: Of the enlargement; below 1 it reduces.
        crop: Height and width of the view.
        place: Vertical and horizontal place of the view, 0 (top, left) to 1 (bottom, right).
        fill: The colour (of all channels) of what lies outside the image; its labels are void.

    Returns:
        The view, of size ``crop``.

    >>> sample = Sample(np.zeros((1, 3, 3), np.uint8), np.array([[0, 1, 2]], np.int16))
    >>> zoom_crop(sample, factor=2, crop=(1, 6), place=np.zeros(2), fill=(0, 0, 0)).labels.tolist()
    [[0, 0, 1, 1, 2, 2]]
    """
    image = np.empty((*crop, sample.image.shape[2]), np.uint8)
    image[:] = fill
    labels = np.full((*crop, *sample.labels.shape[2:]), VOID, np.int16)
    windows = []
    for axis in (0, 1):
        length = sample.labels.shape[axis]
        scaled = max(1, round(length * factor))
        start = round(float(place[axis]) * (scaled - crop[axis]))  # negative: the view is larger than the image
        first, last = max(start, 0), min(start + crop[axis], scaled)
        ratio = length / scaled
        # Pixel i of the zoomed image covers i..i + 1: its centre lies in the source pixel whose label it gets.
        centres = ((np.arange(first, last) + 0.5) * ratio).astype(np.intp)
        windows.append((first * ratio, last * ratio, slice(first - start, last - start), centres))
    (top, bottom, rows, row_centres), (left, right, columns, column_centres) = windows
    size = (column_centres.size, row_centres.size)
    box = (left, top, right, bottom)
    image[rows, columns] = _by_threes(
        sample.image, lambda picture, _: picture.resize(size, Image.Resampling.BILINEAR, box)
    )
    labels[rows, columns] = sample.labels[row_centres[:, None], column_centres]
    return Sample(image, labels, sample.name)


def turned_size(size: tuple[int, int], angle: float) -> tuple[int, int]:
    """Return the height and width that a view of ``size`` covers when it is turned, with a pixel to interpolate.

    >>> turned_size((10, 20), 90)
    (22, 12)
    """
    across, along = abs(sin(radians(angle))), abs(cos(radians(angle)))
    height, width = size
    return ceil(height * along + width * across - 1e-9) + 2, ceil(height * across + width * along - 1e-9) + 2


def turn(sample: Sample, *, angle: float, size: tuple[int, int], fill: tuple[int, ...]) -> Sample:
    """Turn a sample about its centre and cut a view out of the middle.

    Args:
        sample: An image with its labels.
        angle: In degrees, against the clock.
        size: Height and width of the view.
        fill: The colour (of all channels) of what lies outside the image; its labels are void.

    Returns:
        The view: pixels bilinear, labels those of the pixel that a pixel's centre falls into.

    >>> sample = Sample(np.zeros((2, 2, 3), np.uint8), np.array([[0, 1], [2, 3]], np.int16))
    >>> turn(sample, angle=90, size=(2, 2), fill=(0, 0, 0)).labels.tolist()
    [[1, 3], [0, 2]]
    """
    height, width = sample.labels.shape[:2]
    across, along = sin(radians(angle)), cos(radians(angle))
    # Where the centre of view pixel (0, 0) lies in the sample, and what a step along a row or a column adds.
    down, right = size[0] / 2, size[1] / 2
    left = width / 2 - along * right + across * down
    top = height / 2 - across * right - along * down
    matrix = (along, -across, left, across, along, top)

    def turned(picture: Image.Image, channels: list[int]) -> Image.Image:
        outside = tuple(fill[channel] for channel in channels)
        shape, method = (size[1], size[0]), Image.Transform.AFFINE
        return picture.transform(shape, method, matrix, Image.Resampling.BILINEAR, fillcolor=outside)

    rows, columns = np.arange(size[0])[:, None] + 0.5, np.arange(size[1]) + 0.5
    x = np.floor(left + along * columns - across * rows + 1e-9).astype(np.intp)
    y = np.floor(top + across * columns + along * rows + 1e-9).astype(np.intp)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    labels = np.full((*size, *sample.labels.shape[2:]), VOID, np.int16)
    labels[inside] = sample.labels[y[inside], x[inside]]
    return Sample(_by_threes(sample.image, turned), labels, sample.name)


def _by_threes(image: np.ndarray, change: Callable[[Image.Image, list[int]], Image.Image]) -> np.ndarray:
    """Change a picture of any number of channels by an operation on colours, which is told which channels these are."""
    count = image.shape[2]
    if count == COLOURS:
        return np.asarray(change(Image.fromarray(image), [0, 1, 2]))
    parts = []
    for first in range(0, count, COLOURS):
        channels = [min(channel, count - 1) for channel in range(first, first + COLOURS)]
        three = Image.fromarray(np.ascontiguousarray(image[..., channels]))
        parts.append(np.asarray(change(three, channels)))
    return np.concatenate(parts, axis=2)[..., :count]


def degrade(image: np.ndarray, *, blur: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Blur a picture by a Gaussian of ``blur`` pixels, then add noise of ``noise`` levels (standard deviations).

    >>> degrade(np.full((2, 2, 3), 7, np.uint8), blur=1, noise=0, rng=np.random.default_rng(0)).max()
    np.uint8(7)
    """
    if blur > 0:
        gaussian = ImageFilter.GaussianBlur(blur)
        image = _by_threes(np.ascontiguousarray(image), lambda picture, _: picture.filter(gaussian))
    if noise > 0:
        drawn = rng.standard_normal(image.shape, np.float32)
        image = np.clip(np.rint(image + noise * drawn), 0, 255).astype(np.uint8)
    return image


def cut_start(sample: Sample, *, by: np.ndarray) -> Sample:
    """Cut rows and columns off the top and the left, but leave at least one of each.

    >>> cut_start(Sample(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.int16)), by=np.array([1, 9])).labels.shape
    (3, 1)
    """
    top, left = (min(int(pixels), length - 1) for pixels, length in zip(by, sample.labels.shape[:2], strict=True))
    return Sample(sample.image[top:, left:], sample.labels[top:, left:], sample.name)


def jitter(image: np.ndarray, *, amounts: np.ndarray) -> np.ndarray:
    """Multiply brightness, contrast and saturation, in this order, as torchvision defines them.

    Args:
        image: H x W x 3 uint8 RGB; of another number of channels, which have no saturation.
        amounts: Three factors around 1.

    Returns:
        An array like ``image``.

    >>> jitter(np.full((1, 1, 3), 100, np.uint8), amounts=np.array([1.5, 1.0, 1.0])).tolist()
    [[[150, 150, 150]]]
    """
    brightness, contrast, saturation = (float(amount) for amount in amounts)
    # The three steps multiplied out: b c s x + b c (1 - s) luma(x) + b (1 - c) mean luma; luma is linear.
    pixels, count = image.astype(np.float32), image.shape[2]
    saturation = saturation if count == COLOURS else 1.0
    luma = pixels @ np.array([0.299, 0.587, 0.114] if count == COLOURS else [1 / count] * count, np.float32)
    pixels *= brightness * contrast * saturation
    pixels += (luma * (brightness * contrast * (1 - saturation)))[..., None]
    pixels += float(luma.mean()) * brightness * (1 - contrast)
    return np.clip(pixels, 0, 255).astype(np.uint8)
