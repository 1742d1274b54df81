"""Look at a scene once: what is in it, and everything that is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fullyconv.files import BadFile
from fullyconv.hsi.formats.files import class_pixels, read_scene, scene_problems
from fullyconv.hsi.formats.mapped import FINITE, not_finite, row_blocks
from fullyconv.hsi.labels import PURE
from fullyconv.hsi.scene import Scene


@dataclass(frozen=True)
class SceneReport:
    """All that a scene's files say."""

    scene: Scene
    low: float  # the least and the greatest of the finite values
    high: float
    constant: list[int]  # bands of a single value
    pixels: np.ndarray  # labelled, per class; none without labels
    problems: list[BadFile]


def check_scene(
    cube: Path,
    labels: Path | None = None,
    *,
    cube_key: str | None = None,
    label_key: str | None = None,
    threshold: float = PURE,
) -> SceneReport:
    """Read a scene piece by piece and list what is wrong with it, in the words of ``open_scene``.

    Raises ``BadFile`` for files that cannot be read at all.
    """
    scene = read_scene(cube, labels, cube_key=cube_key, label_key=label_key, threshold=threshold)
    low, high, finite = _ranges(scene.cube)
    problems = scene_problems(scene, cube, labels, finite=False)
    broken = [band for band in np.flatnonzero(~finite).tolist() if band not in scene.bad_bands]
    if broken:
        problems.append(BadFile(cube, not_finite(broken), FINITE))
    constant = np.flatnonzero(low == high).tolist()
    surprising = [band for band in constant if band not in scene.bad_bands]
    if surprising:
        what = f"band {', '.join(map(str, surprising[:12]))} (counted from 0) is the same everywhere"
        problems.append(BadFile(cube, what, "mark it as bad (ENVI: bbl); training leaves it out"))
    pixels = np.zeros(0, np.int64) if scene.labels is None else class_pixels(scene)
    return SceneReport(scene, float(low.min()), float(high.max()), constant, pixels, problems)


def _ranges(cube: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure the least and the greatest finite value of each band, and whether all are finite."""
    bands = cube.shape[2]
    low, high, finite = np.full(bands, np.inf), np.full(bands, -np.inf), np.ones(bands, bool)
    for rows in row_blocks(cube):
        block = cube[rows].reshape(-1, bands)
        if block.dtype.kind == "f":
            known = np.isfinite(block)
            finite &= known.all(axis=0)
            low = np.minimum(low, np.where(known, block, np.inf).min(axis=0))
            high = np.maximum(high, np.where(known, block, -np.inf).max(axis=0))
        else:
            low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    return low, high, finite
