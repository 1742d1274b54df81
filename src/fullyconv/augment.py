"""Random views of a sample: scale, crop, flip, colour. Every function takes its own random generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from fullyconv.types import VOID, Sample


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
    """

    crop: tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    colour: float = 0.0
    shift: int = 0


def sample_rng(*, seed: int, epoch: int, index: int) -> np.random.Generator:
    """Derive a view's randomness from its position: the same after a resume and on any number of workers."""
    return np.random.default_rng((seed, epoch, index))


def augment(sample: Sample, options: Augmentation, *, fill: tuple[int, int, int], rng: np.random.Generator) -> Sample:
    """Draw one view.

    Args:
        sample: An image with its labels.
        options: What may happen to it.
        fill: RGB of what lies outside the image; its labels are void.
        rng: Where the randomness comes from; ``sample_rng`` derives it from a view's position in a run.

    Returns:
        The view, contiguous in memory.

    >>> sample = Sample(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.int16))
    >>> rng = sample_rng(seed=0, epoch=0, index=0)
    >>> augment(sample, Augmentation(crop=(8, 8)), fill=(1, 2, 3), rng=rng).labels.shape
    (8, 8)
    """
    factor = float(np.exp(rng.uniform(*np.log(options.scale))))
    if options.crop is not None:
        sample = zoom_crop(sample, factor=factor, crop=options.crop, place=rng.random(2), fill=fill)
    elif factor != 1:
        height, width = sample.labels.shape
        whole = max(1, round(height * factor)), max(1, round(width * factor))
        sample = zoom_crop(sample, factor=factor, crop=whole, place=np.zeros(2), fill=fill)
    if options.shift > 1:
        sample = cut_start(sample, by=rng.integers(options.shift, size=2))
    image, labels = sample.image, sample.labels
    if options.flip and rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    if options.colour:
        image = jitter(image, amounts=1 + rng.uniform(-options.colour, options.colour, 3))
    return Sample(np.ascontiguousarray(image), np.ascontiguousarray(labels), sample.name)


def zoom_crop(
    sample: Sample, *, factor: float, crop: tuple[int, int], place: np.ndarray, fill: tuple[int, int, int]
) -> Sample:
    """Enlarge a sample and cut a view out of it.

    Only the part of the image that is kept gets resized: bilinear for pixels, nearest for labels.

    Args:
        sample: An image with its labels.
        factor: Of the enlargement; below 1 it reduces.
        crop: Height and width of the view.
        place: Vertical and horizontal place of the view, 0 (top, left) to 1 (bottom, right).
        fill: RGB of what lies outside the image; its labels are void.

    Returns:
        The view, of size ``crop``.

    >>> sample = Sample(np.zeros((1, 3, 3), np.uint8), np.array([[0, 1, 2]], np.int16))
    >>> zoom_crop(sample, factor=2, crop=(1, 6), place=np.zeros(2), fill=(0, 0, 0)).labels.tolist()
    [[0, 0, 1, 1, 2, 2]]
    """
    image = np.empty((*crop, 3), np.uint8)
    image[:] = fill
    labels = np.full(crop, VOID, np.int16)
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
    patch = Image.fromarray(sample.image).resize(size, Image.Resampling.BILINEAR, (left, top, right, bottom))
    image[rows, columns] = np.asarray(patch)
    labels[rows, columns] = sample.labels[row_centres[:, None], column_centres]
    return Sample(image, labels, sample.name)


def cut_start(sample: Sample, *, by: np.ndarray) -> Sample:
    """Cut rows and columns off the top and the left, but leave at least one of each.

    >>> cut_start(Sample(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.int16)), by=np.array([1, 9])).labels.shape
    (3, 1)
    """
    top, left = (min(int(pixels), length - 1) for pixels, length in zip(by, sample.labels.shape, strict=True))
    return Sample(sample.image[top:, left:], sample.labels[top:, left:], sample.name)


def jitter(image: np.ndarray, *, amounts: np.ndarray) -> np.ndarray:
    """Multiply brightness, contrast and saturation, in this order, as torchvision defines them.

    Args:
        image: H x W x 3 uint8 RGB.
        amounts: Three factors around 1.

    Returns:
        H x W x 3 uint8.

    >>> jitter(np.full((1, 1, 3), 100, np.uint8), amounts=np.array([1.5, 1.0, 1.0])).tolist()
    [[[150, 150, 150]]]
    """
    brightness, contrast, saturation = (float(amount) for amount in amounts)
    # The three steps multiplied out: b c s x + b c (1 - s) luma(x) + b (1 - c) mean luma; luma is linear.
    pixels = image.astype(np.float32)
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    pixels *= brightness * contrast * saturation
    pixels += (luma * (brightness * contrast * (1 - saturation)))[..., None]
    pixels += float(luma.mean()) * brightness * (1 - contrast)
    return np.clip(pixels, 0, 255).astype(np.uint8)
