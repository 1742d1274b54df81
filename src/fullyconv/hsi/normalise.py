"""Normalising spectra by what training pixels alone say: mean and deviation per band, principal components."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fullyconv.hsi.formats.mapped import FINITE, not_finite, row_blocks
from fullyconv.hsi.scene import Scene
from fullyconv.types import SpectralPreprocess

Bands = Sequence["int | tuple[float, float]"]
"""Bands by index from 0, or all bands between two wavelengths in nanometres: ``[3, (450, 900)]``."""

LEAST_VARIANCE = 1e-10  # of a component, as a share of the largest: below it there is only rounding


def fit_spectral(
    scene: Scene,
    training: np.ndarray,
    *,
    bands: Bands | None = None,
    drop_bad: bool = True,
    components: int | None = None,
    whiten: bool = False,
) -> SpectralPreprocess:
    """Fit the normalisation of a scene on its ``training`` pixels (H x W bool), reading no others.

    ``bands`` chooses bands (default: all), ``drop_bad`` leaves out those that the file marks as bad;
    bands that are constant over the training pixels are always left out. ``components`` projects on
    that many principal components, which ``whiten`` divides by their deviations. Raises ``ValueError``.
    """
    if training.shape != scene.cube.shape[:2] or training.dtype != bool or not training.any():
        what = f"{training.dtype} of {training.shape} with {np.count_nonzero(training)} pixels set"
        raise ValueError(
            f"training pixels are an H x W bool mask of {scene.cube.shape[:2]} with a pixel set, not {what}"
        )
    if whiten and components is None:
        raise ValueError("whitening scales principal components: say how many (components)")
    chosen = choose_bands(scene, bands, drop_bad=drop_bad)
    mean, std = _moments(scene, training, chosen)
    varied = std > 1e-7 * np.abs(mean)  # what is less is float32's rounding
    if not varied.any():
        raise ValueError(
            f"scene {scene.name!r}: no band varies over the {training.sum()} training pixels: train on more"
        )
    chosen = [band for band, keep in zip(chosen, varied, strict=True) if keep]
    mean, std = mean[varied], std[varied]
    rows = () if components is None else _components(scene, training, (chosen, mean, std), components, whiten=whiten)
    return SpectralPreprocess(scene.cube.shape[2], tuple(chosen), _numbers(mean), _numbers(std), rows)


def choose_bands(scene: Scene, bands: Bands | None, *, drop_bad: bool = True) -> list[int]:
    """Return the indices of the chosen bands, in rising order; raises ``ValueError``."""
    count = scene.cube.shape[2]
    chosen: set[int] = set(range(count)) if bands is None else set()
    for wanted in bands or ():
        found = {wanted} if isinstance(wanted, int) else _between(scene, *wanted)
        if not found or not found <= set(range(count)):
            raise ValueError(f"scene {scene.name!r} has no band {wanted}: choose from 0 to {count - 1}{_range(scene)}")
        chosen |= found
    if drop_bad:
        chosen -= set(scene.bad_bands)
    if not chosen:
        raise ValueError(f"scene {scene.name!r}: all chosen bands are marked bad: choose others, or keep bad ones")
    return sorted(chosen)


def _between(scene: Scene, low: float, high: float) -> set[int]:
    if not scene.wavelengths:
        raise ValueError(f"scene {scene.name!r} has no wavelengths: choose bands by their indices")
    return {band for band, wavelength in enumerate(scene.wavelengths) if low <= wavelength <= high}


def _range(scene: Scene) -> str:
    return f", {min(scene.wavelengths):g} to {max(scene.wavelengths):g} nm" if scene.wavelengths else ""


def _spectra(scene: Scene, training: np.ndarray, bands: list[int]) -> Iterator[np.ndarray]:
    """Return the training pixels' chosen bands in pieces, N x B float64."""
    for rows in row_blocks(scene.cube):
        if training[rows].any():
            yield scene.cube[rows][training[rows]][:, bands].astype(np.float64)


def _moments(scene: Scene, training: np.ndarray, bands: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Measure mean and deviation per band in two passes, which loses no digits."""
    count, sums, squares = int(training.sum()), np.zeros(len(bands)), np.zeros(len(bands))
    for spectra in _spectra(scene, training, bands):
        sums += spectra.sum(axis=0)
    broken = [band for band, total in zip(bands, sums, strict=True) if not np.isfinite(total)]
    if broken:
        raise ValueError(f"scene {scene.name!r}: {not_finite(broken)}: {FINITE}")
    mean = sums / count
    for spectra in _spectra(scene, training, bands):
        squares += np.square(spectra - mean).sum(axis=0)
    return mean, np.sqrt(squares / count)


def _components(
    scene: Scene,
    training: np.ndarray,
    fitted: tuple[list[int], np.ndarray, np.ndarray],
    count: int,
    *,
    whiten: bool,
) -> tuple[tuple[float, ...], ...]:
    bands, mean, std = fitted
    scatter = np.zeros((len(bands), len(bands)))
    for spectra in _spectra(scene, training, bands):
        normal = (spectra - mean) / std
        scatter += normal.T @ normal
    variances, vectors = np.linalg.eigh(scatter / training.sum())
    variances, vectors = variances[::-1], vectors[:, ::-1]  # largest first
    rank = int(np.count_nonzero(variances > LEAST_VARIANCE * variances[0]))
    if not 1 <= count <= rank:
        raise ValueError(f"the training spectra have 1 to {rank} principal components, not {count}")
    kept = vectors[:, :count].T  # K x B
    kept = kept * np.sign(kept[np.arange(count), np.abs(kept).argmax(axis=1)])[:, None]  # an eigenvector has no sign
    if whiten:
        kept = kept / np.sqrt(variances[:count])[:, None]
    return tuple(map(_numbers, kept))


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
