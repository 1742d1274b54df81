"""Normalising spectra by what training pixels alone say: mean and deviation per band, principal components."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fullyconv.hsi.formats.mapped import FINITE, band_list, infinite_bands, infinity_in, row_blocks
from fullyconv.hsi.scene import Scene, absent
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
    """Fit the normalisation of a scene on its training pixels, reading no others.

    Bands that are constant over the training pixels are always left out.

    Args:
        scene: The scene; nothing else of it is used than these pixels' spectra.
        training: H x W bool, the training pixels; those without data count for nothing.
        bands: Which bands to use; default all.
        drop_bad: Leave out the bands that the file marks as bad.
        components: Project on so many principal components.
        whiten: Divide these by their deviations.

    Returns:
        The normalisation, with mean and population deviation of each band.

    Raises:
        ValueError: For a mask of another size, an unknown band, infinity, or no band that varies.

    >>> scene = Scene(np.array([[[1, 0], [3, 0]]]))
    >>> fitted = fit_spectral(scene, np.ones((1, 2), bool))
    >>> fitted.bands, fitted.mean, fitted.std
    ((0,), (2.0,), (1.0,))

    """
    if training.shape != scene.cube.shape[:2] or training.dtype != bool or not training.any():
        what = f"{training.dtype} of {training.shape} with {np.count_nonzero(training)} pixels set"
        raise ValueError(
            f"training pixels are an H x W bool mask of {scene.cube.shape[:2]} with a pixel set, not {what}"
        )
    if whiten and components is None:
        raise ValueError("whitening scales principal components: say how many (components)")
    chosen = choose_bands(scene, bands, drop_bad=drop_bad)
    if scene.may_miss:
        training = training & ~missing_pixels(scene, chosen)
        if not training.any():
            raise ValueError(nothing_measured(scene, chosen))
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
    """Choose bands of a scene.

    Args:
        scene: The scene.
        bands: Indices from 0 and pairs of wavelengths in nanometres, whose bands are all taken; default all.
        drop_bad: Leave out the bands that the file marks as bad.

    Returns:
        Their indices, in rising order.

    Raises:
        ValueError: For a band that the scene does not have, and where none is left.

    >>> scene = Scene(np.zeros((1, 1, 4)), wavelengths=(400, 500, 600, 700), bad_bands=(1,))
    >>> choose_bands(scene, [0, (450, 650)])
    [0, 2]

    """
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


def missing_pixels(scene: Scene, bands: Sequence[int]) -> np.ndarray:
    """Mark the pixels without data in any of the bands, H x W bool, reading the scene piece by piece."""
    missing = np.zeros(scene.cube.shape[:2], bool)
    if scene.may_miss:
        for rows in row_blocks(scene.cube):
            missing[rows] = scene[rows].missing(bands)
    return missing


def nothing_measured(scene: Scene, bands: Sequence[int]) -> str:
    """Say that no labelled pixel has data in every band, and which bands have none at all."""
    gone = np.ones(len(bands), bool)
    for rows in row_blocks(scene.cube):
        gone &= absent(scene.cube[rows][..., list(bands)], scene.no_data).all(axis=(0, 1))
    empty = [band for band, none in zip(bands, gone, strict=True) if none]
    which = f"; {band_list(empty)} holds none at all" if empty else ""
    return f"scene {scene.name!r}: no labelled pixel has data in every band{which}: mark bands as bad, or choose others"


def normalise(scene: Scene, preprocess: SpectralPreprocess) -> tuple[np.ndarray, np.ndarray]:
    """Bring a scene to what a network sees.

    Where a pixel has no data, the network sees the mean spectrum: what it also sees beyond the scene's edge.

    Args:
        scene: The scene, or a piece of it.
        preprocess: The normalisation, fitted on training pixels.

    Returns:
        K x H x W float32, and H x W bool, where there is no data.

    Raises:
        ValueError: For infinity, or for numbers that float32 cannot hold.

    >>> scene, fitted = Scene(np.array([[[5.0], [np.nan]]])), SpectralPreprocess(1, (0,), (3.0,), (2.0,))
    >>> [each.tolist() for each in normalise(scene, fitted)]
    [[[[1.0, 0.0]]], [[False, True]]]

    """
    with np.errstate(invalid="ignore", over="ignore"):
        planes = preprocess(scene.cube)
    missing = scene.missing(preprocess.bands)
    planes[:, missing] = 0
    if not np.isfinite(planes).all():
        broken = [band for band in infinite_bands(scene.cube) if band in preprocess.bands]
        what = infinity_in(broken) if broken else "numbers too large for float32"
        raise ValueError(f"{what}: {FINITE}")
    return planes, missing


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
        raise ValueError(f"scene {scene.name!r}: {infinity_in(broken)}: {FINITE}")
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
