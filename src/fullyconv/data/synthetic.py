"""Generated pictures to try everything on: textured objects over clutter, thin wires, occlusion, a void band."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fullyconv.data.classes import FILE_NAME, write_classes
from fullyconv.draw import palette_image, save_picture
from fullyconv.types import VOID, ClassSet, Sample

CLASSES = ClassSet(
    names=("background", "stripes", "checker", "dots", "rings", "wire"),
    colours=((40, 40, 40), (214, 40, 57), (41, 121, 255), (255, 179, 0), (0, 150, 110), (170, 80, 220)),
)
WIRE = 5
HEIGHTS, WIDTHS = (112, 176), (144, 208)  # every picture has a size of its own
BAND_PX = 1  # half the width of the void band along the outlines, as in VOC's masks


def make_sample(*, seed: int, index: int) -> Sample:
    """Draw one picture with its labels; the same (seed, index) gives the same picture."""
    rng = np.random.default_rng((seed, index))
    height, width = int(rng.integers(*HEIGHTS)), int(rng.integers(*WIDTHS))
    image = _clutter(rng, height, width)
    labels = np.zeros((height, width), np.int16)
    for _ in range(int(rng.integers(3, 6))):
        kind = int(rng.integers(1, WIRE + 1))
        inside = _wire(rng, height, width) if kind == WIRE else _outline(rng, height, width)
        if not inside.any():
            continue
        image[inside] = _texture(rng, kind, inside)[inside]
        labels[inside] = kind
    noisy = image + rng.normal(0, 6, image.shape)
    labels[_boundary(labels)] = VOID
    return Sample(np.clip(noisy, 0, 255).astype(np.uint8), labels, f"{index:04d}")


def dataset_files(*, train: int, val: int) -> list[str]:
    """List the files that ``write_dataset`` writes, relative to its folder."""
    counts = (("train", 0, train), ("val", train, val))
    pairs = [
        f"{split}/{kind}/{index:04d}.png"
        for split, first, count in counts
        for kind in ("images", "masks")
        for index in range(first, first + count)
    ]
    return [*pairs, FILE_NAME]


def write_dataset(folder: Path, *, train: int, val: int, seed: int = 0) -> Path:
    """Write a data set of generated pictures: ``train/``, ``val/`` and ``classes.yaml``."""
    for split, first, count in (("train", 0, train), ("val", train, val)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + count):
            sample = make_sample(seed=seed, index=index)
            save_picture(sample.image, folder / split / "images" / f"{sample.name}.png")
            labels = np.where(sample.labels == VOID, 0, sample.labels)
            mask = palette_image(labels, CLASSES)
            mask.paste(CLASSES.ignore_index, mask=Image.fromarray(sample.labels == VOID))
            save_picture(mask, folder / split / "masks" / f"{sample.name}.png")
    write_classes(CLASSES, folder / FILE_NAME)
    return folder


def _colour(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(30, 225, 3)


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw two colours that can be told apart."""
    while True:
        first, second = _colour(rng), _colour(rng)
        if np.abs(first - second).sum() > 150:
            return first, second


def _clutter(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Paint a soft random background with plain shapes that belong to no class."""
    coarse = rng.uniform(40, 215, (4, 5, 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(4, 10))):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(8, 40, 2)
        fill = tuple(int(value) for value in _colour(rng))
        draw = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        draw((int(x), int(y), int(x + w), int(y + h)), fill=fill)
    return np.asarray(picture, np.float64).copy()


def _outline(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw a disc, a box or a triangle; shape says nothing about the class. H x W bool."""
    radius = rng.uniform(20, 42)
    centre = rng.uniform(0.1, 0.9, 2) * (width, height)
    corners = int(rng.choice([3, 4, 24]))
    angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners
    points = [(centre[0] + radius * np.cos(a), centre[1] + radius * np.sin(a)) for a in angles]
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon(points, fill=1)
    return np.asarray(canvas)


def _wire(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw a bent line, six to eight pixels thick, across the picture; H x W bool."""
    across = np.linspace(-0.1, 1.1, 5)
    along = rng.uniform(0.1, 0.9) + rng.uniform(-0.2, 0.2, 5)
    points = [(a * width, b * height) for a, b in zip(across, along, strict=True)]
    if rng.random() < 0.5:
        points = [(b * width, a * height) for a, b in zip(across, along, strict=True)]
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).line(points, fill=1, width=int(rng.integers(6, 9)), joint="curve")
    return np.asarray(canvas)


def _texture(rng: np.random.Generator, kind: int, inside: np.ndarray) -> np.ndarray:
    """Fill a picture with the texture of a class in two random colours, H x W x 3."""
    turn, period = rng.uniform(0, np.pi), rng.uniform(7, 11)
    middle = np.argwhere(inside).mean(0)[:, None, None]
    y, x = (np.mgrid[: inside.shape[0], : inside.shape[1]] - middle) * (2 * np.pi / period)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    if kind == WIRE:
        pattern = inside
        colours = (np.full(3, 250.0), np.full(3, rng.choice([15.0, 245.0])))
    else:
        colours = _two_colours(rng)
        pattern = {
            "stripes": np.sin(u) > 0,
            "checker": np.sin(u) * np.sin(v) > 0,
            "dots": np.cos(u / 1.6) + np.cos(v / 1.6) > 0.8,
            "rings": np.sin(np.hypot(y, x)) > 0,
        }[CLASSES.names[kind]]
    return np.where(pattern[..., None], colours[1], colours[0])


def _boundary(labels: np.ndarray) -> np.ndarray:
    """Find the pixels within ``BAND_PX`` of another label, H x W bool."""
    padded = np.pad(labels, BAND_PX, mode="edge")
    around = [
        padded[dy : dy + labels.shape[0], dx : dx + labels.shape[1]]
        for dy in range(2 * BAND_PX + 1)
        for dx in range(2 * BAND_PX + 1)
    ]
    boundary: np.ndarray = np.any([shifted != labels for shifted in around], axis=0)
    return boundary
