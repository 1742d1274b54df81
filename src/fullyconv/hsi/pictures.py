"""Pictures of scenes: false colours, and what the spectra of a class have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fullyconv.hsi.formats.mapped import release, row_blocks
from fullyconv.hsi.scene import Scene

RGB_NM = (650.0, 550.0, 450.0)
NEAR_NM = 60.0  # farther from the bands there is no such colour
STRETCH = (2.0, 98.0)  # percentiles that become black and white
SAMPLED = 128  # rows and columns, at most, that the stretch is measured on


def colour_bands(scene: Scene, wavelengths: Sequence[float] = RGB_NM) -> tuple[int, int, int]:
    """Choose the bands that show as red, green and blue; bad ones are not shown.

    Args:
        scene: The scene.
        wavelengths: What to show as red, green and blue, nm.

    Returns:
        The nearest bands. Without wavelengths of its own, or without bands near those asked for, a scene shows bands
        from three quarters, half and a quarter of its range.

    >>> colour_bands(Scene(np.zeros((1, 1, 4)), wavelengths=(450, 550, 650, 900)))
    (2, 1, 0)

    """
    good = [band for band in range(scene.cube.shape[2]) if band not in scene.bad_bands] or [0]
    known = np.array([scene.wavelengths[band] for band in good]) if scene.wavelengths else np.zeros(0)
    if known.size and all(np.abs(known - wanted).min() <= NEAR_NM for wanted in wavelengths):
        red, green, blue = (good[int(np.abs(known - wanted).argmin())] for wanted in wavelengths)
    else:
        red, green, blue = (good[len(good) * quarter // 4] for quarter in (3, 2, 1))
    return red, green, blue


def false_colour(scene: Scene, wavelengths: Sequence[float] = RGB_NM) -> np.ndarray:
    """Show three bands of a scene, each stretched between its 2nd and 98th percentile.

    Args:
        scene: The scene; pixels without data, and infinity, count for nothing in the stretch.
        wavelengths: What shows as red, green and blue, nm.

    Returns:
        H x W x 3 uint8; black where any of the three has no data.

    >>> false_colour(Scene(np.array([[[0.0], [50.0], [100.0], [np.nan]]])))[0, :, 0].tolist()
    [0, 128, 255, 0]

    """
    bands = list(colour_bands(scene, wavelengths))
    height, width = scene.cube.shape[:2]
    picture = np.empty((height, width, 3), np.uint8)
    every_row, every_column = -(-height // SAMPLED), -(-width // SAMPLED)
    sampled = scene[::every_row, ::every_column]
    sample = sampled.cube[..., bands][~sampled.missing(bands)].astype(np.float64)  # N x 3
    sample = sample[np.isfinite(sample).all(axis=1)]
    low, high = np.percentile(sample, STRETCH, axis=0) if len(sample) else np.zeros((2, 3))
    release(scene.cube)
    for rows in row_blocks(scene.cube):
        with np.errstate(invalid="ignore"):
            shown = (scene.cube[rows][..., bands] - low) / np.where(high > low, high - low, 1)
        picture[rows] = (np.clip(np.nan_to_num(shown), 0, 1) * 255).round()
        if scene.may_miss:
            picture[rows][scene[rows].missing(bands)] = 0
    return picture


def class_spectra(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the deviation of each class's spectra, C x B float64 each; NaN for a class without pixels."""
    if scene.labels is None or scene.classes is None:
        raise ValueError(f"scene {scene.name!r} has no labels: name its label map")
    classes, bands = len(scene.classes), scene.cube.shape[2]
    counts, sums, squares = np.zeros((classes, 1)), np.zeros((classes, bands)), np.zeros((classes, bands))
    shift = scene.cube[np.unravel_index(scene.labels.argmax(), scene.labels.shape)].astype(np.float64)
    for rows in row_blocks(scene.cube):
        labels = scene.labels[rows]
        for index in np.unique(labels[labels >= 0]):
            spectra = scene.cube[rows][labels == index] - shift
            counts[index] += len(spectra)
            sums[index] += spectra.sum(axis=0)
            squares[index] += np.square(spectra).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums / counts
        return mean + shift, np.sqrt(np.maximum(squares / counts - mean**2, 0))
