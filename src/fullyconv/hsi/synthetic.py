"""Generated scenes: spectra for the classes of a label map, mixed at borders, lit unevenly, with noise.

Every row depends on (seed, row) alone, so a scene larger than memory is made piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fullyconv.files import whole_file
from fullyconv.hsi.formats.envi import write_header
from fullyconv.hsi.labels import class_set
from fullyconv.hsi.scene import Scene
from fullyconv.types import ClassSet

RANGE_NM = (400.0, 2400.0)
WATER_NM = (1400.0, 1900.0)  # where the air's water vapour absorbs most of the light
FULL = 10_000  # the number that stands for a reflectance of 1
GROUND = 3  # kinds of ground between the labelled fields
SHIFTS = 4  # smooth ways in which the spectra of one class differ
FIELD_PX = 40  # over what distance light and composition change
BLOCK_ROWS = 32


@dataclass(frozen=True)
class Look:
    """How hard a generated scene is."""

    spread_px: float = 0.7  # deviation of the sensor's point spread, which mixes neighbours
    contrast: float = 0.08  # how far the classes' spectra lie apart
    variation: float = 0.15  # within a class, as a share of its spectrum
    light: float = 0.15  # uneven illumination
    noise: float = 0.02  # of a reflectance of 1, in the worst band


def make_scene(
    labels: np.ndarray, classes: ClassSet, *, bands: int = 103, seed: int = 0, look: Look | None = None
) -> Scene:
    """Make a cube for a label map.

    Pixels without a label show kinds of ground that are no class. The same arguments give the same scene.

    Args:
        labels: H x W class indices, below 0 where there is none.
        classes: What the indices mean.
        bands: How many bands, from 400 to 2400 nm.
        seed: Of spectra, light and noise.
        look: How hard the scene is.

    Returns:
        A scene of H x W x ``bands`` uint16 reflectances, 10,000 for all light.

    >>> make_scene(np.zeros((2, 3), int), ClassSet(("soil",)), bands=5).cube.shape
    (2, 3, 5)

    """
    cube = np.empty((*labels.shape, bands), np.uint16)
    for rows in _blocks(len(labels)):
        cube[rows] = scene_rows(labels, classes, rows, bands=bands, seed=seed, look=look)
    return Scene(cube, labels, classes, tuple(wavelengths(bands)), name="synthetic")


def scene_rows(
    labels: np.ndarray, classes: ClassSet, rows: slice, *, bands: int, seed: int, look: Look | None = None
) -> np.ndarray:
    """Make some rows of a scene, h x W x bands uint16."""
    look = look or Look()
    height, width = labels.shape
    spectra, shifts, noise = _spectra(len(classes), bands, seed, look)
    parts = _mixture(_materials(labels, rows, len(classes), seed, look), look.spread_px)  # h x W x materials
    first = np.random.default_rng((seed, 1))
    size = (height, width)
    light = np.exp(look.light * smooth_field(first, size, rows))
    tilt = look.variation * smooth_field(first, size, rows)
    slope = np.linspace(-1, 1, bands, dtype=np.float32)
    cube = np.empty((rows.stop - rows.start, width, bands), np.uint16)
    for offset, row in enumerate(range(rows.start, rows.stop)):  # a row at a time stays in the processor's cache
        rng = np.random.default_rng((seed, 2, row))
        line = parts[offset] @ spectra  # W x B
        line *= (1 + tilt[offset, :, None] * slope) * light[offset, :, None]
        line *= 1 + look.variation * rng.standard_normal((width, SHIFTS), np.float32) @ shifts
        line += noise * rng.standard_normal((width, bands), np.float32)
        line *= FULL
        cube[offset] = line.clip(0, 65_535, out=line)
    return cube


def wavelengths(bands: int) -> list[float]:
    """MeanAndDeviation ``bands`` wavelengths over the range of an imaging spectrometer, nm."""
    return [round(float(value), 3) for value in np.linspace(*RANGE_NM, bands)]


def random_map(height: int, width: int, *, classes: int, seed: int = 0) -> np.ndarray:
    """Draw a label map of soft random regions, H x W int16."""
    labels = np.empty((height, width), np.int16)
    for rows in _blocks(height):
        rng = np.random.default_rng((seed, 3))
        labels[rows] = np.stack([smooth_field(rng, (height, width), rows) for _ in range(classes)]).argmax(axis=0)
    return labels


def write_large(path: Path, *, size: tuple[int, int], bands: int = 100, classes: int = 9, seed: int = 0) -> np.ndarray:
    """Write a generated cube that may be larger than memory; 4,000 x 4,000 pixels of 100 bands take 3.2 GB.

    Args:
        path: To write to: ``.npy`` or ENVI (``.hdr``).
        size: Height and width.
        bands: How many bands.
        classes: How many classes.
        seed: Of labels, spectra, light and noise.

    Returns:
        Its labels, H x W int16.

    """
    labels, names = random_map(*size, classes=classes, seed=seed), class_set(classes)
    data = path if path.suffix == ".npy" else path.with_suffix(".img")
    with whole_file(data) as draft, draft.open("wb") as file:
        if path.suffix == ".npy":
            header = {"descr": "<u2", "fortran_order": False, "shape": (*size, bands)}
            np.lib.format.write_array_header_1_0(file, header)
        for rows in _blocks(size[0]):
            file.write(scene_rows(labels, names, rows, bands=bands, seed=seed).astype("<u2").data)
    if path.suffix != ".npy":
        fields = {"wavelength units": "Nanometers", "wavelength": wavelengths(bands)}
        write_header(path, (*size, bands), np.dtype("<u2"), fields, interleave="bip")
    return labels


def smooth_field(rng: np.random.Generator, size: tuple[int, int], rows: slice) -> np.ndarray:
    """Draw a smooth random field of deviation (about) 1 over ``size`` and give some of its rows, float32."""
    grid = rng.standard_normal([length // FIELD_PX + 3 for length in size]).astype(np.float32)
    down, below = np.divmod(np.arange(rows.start, rows.stop) / FIELD_PX, 1)
    across, right = np.divmod(np.arange(size[1]) / FIELD_PX, 1)
    y, x = down.astype(int), across.astype(int)
    v, u = _ease(below)[:, None], _ease(right)[None, :]
    top = grid[np.ix_(y, x)] * (1 - u) + grid[np.ix_(y, x + 1)] * u
    bottom = grid[np.ix_(y + 1, x)] * (1 - u) + grid[np.ix_(y + 1, x + 1)] * u
    field: np.ndarray = top * (1 - v) + bottom * v
    return field


def _ease(share: np.ndarray) -> np.ndarray:
    eased: np.ndarray = (share * share * (3 - 2 * share)).astype(np.float32)
    return eased


def _blocks(height: int) -> Iterator[slice]:
    for start in range(0, height, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, height))


def _spectra(classes: int, bands: int, seed: int, look: Look) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the materials' spectra, (classes + GROUND) x B, and how pixels stray from them.

    That is ``SHIFTS`` x B of smooth changes, and the deviation of each band's noise, B.
    """
    rng = np.random.default_rng((seed, 0))
    nm = np.array(wavelengths(bands))
    common = _bumps(rng, nm, 6, 300)
    common = 0.1 + 0.5 * (common - common.min()) / max(1e-9, np.ptp(common))
    water = np.prod([1 - 0.8 * np.exp(-(((nm - centre) / 45) ** 2)) for centre in WATER_NM], axis=0)
    spectra = []
    for _ in range(classes + GROUND):
        own = common * (1 + look.contrast * _bumps(rng, nm, 8, 150))
        for _ in range(3):  # absorption features
            own *= 1 - look.contrast * rng.uniform(0.1, 1) * np.exp(
                -(((nm - rng.uniform(*RANGE_NM)) / rng.uniform(15, 60)) ** 2)
            )
        spectra.append(own * water)
    noise = look.noise * (0.3 + 0.7 * rng.uniform(0, 1, bands) ** 4)
    shifts = [_bumps(rng, nm, 4, 300) for _ in range(SHIFTS)]
    return np.array(spectra, np.float32), np.array(shifts, np.float32), noise.astype(np.float32)


def _bumps(rng: np.random.Generator, nm: np.ndarray, count: int, width_nm: float) -> np.ndarray:
    """Add up smooth random bumps over the wavelengths."""
    centres, heights = rng.uniform(*RANGE_NM, count), rng.standard_normal(count)
    widths = width_nm * rng.uniform(0.7, 1.5, count)
    bumps: np.ndarray = (heights * np.exp(-(((nm[:, None] - centres) / widths) ** 2))).sum(axis=1)
    return bumps


def _materials(labels: np.ndarray, rows: slice, classes: int, seed: int, look: Look) -> np.ndarray:
    """Draw each pixel's material as shares of 0 and 1, with the rows that the point spread mixes in."""
    halo = _radius(look.spread_px)
    first, last = max(0, rows.start - halo), min(len(labels), rows.stop + halo)
    rng = np.random.default_rng((seed, 4))
    wide = slice(first, last)
    ground = np.stack([smooth_field(rng, labels.shape, wide) for _ in range(GROUND)]).argmax(axis=0)
    seen = labels[wide]
    material = np.where(seen >= 0, seen, classes + ground)
    shares = np.eye(classes + GROUND, dtype=np.float32)[material]
    before, after = first - (rows.start - halo), rows.stop + halo - last
    return np.pad(shares, ((before, after), (halo, halo), (0, 0)), mode="edge")


def _mixture(shares: np.ndarray, spread_px: float) -> np.ndarray:
    """Mix neighbours as the sensor's point spread does: a Gaussian along rows and columns."""
    radius = _radius(spread_px)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(spread_px, 1e-6)) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    height, width = (length - 2 * radius for length in shares.shape[:2])
    down = np.zeros((height, *shares.shape[1:]), np.float32)
    for at, tap in enumerate(taps):
        down += tap * shares[at : at + height]
    across = np.zeros((height, width, shares.shape[2]), np.float32)
    for at, tap in enumerate(taps):
        across += tap * down[:, at : at + width]
    return across


def _radius(spread_px: float) -> int:
    return int(np.ceil(3 * spread_px))
