"""What every method on a scene starts from: the same training pixels, test pixels and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from fullyconv.files import BadFile, whole_file
from fullyconv.hsi.formats.numpy_files import check_npz
from fullyconv.hsi.normalise import choose_bands, fit_spectral, missing_pixels, normalise, nothing_measured
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.splits import (
    PixelSplit,
    SplitKind,
    Windows,
    block_split,
    farthest,
    leakage,
    mask_split,
    random_split,
    turned,
    within,
)
from fullyconv.networks import build
from fullyconv.networks.fcn import FCN
from fullyconv.surgery.layers import without_weights
from fullyconv.types import VOID, ClassSet, SpectralPreprocess

WHOLE_PIXELS = 1_000_000  # larger scenes train tile by tile
TILE_PX = 512


@dataclass(frozen=True)
class SceneTrial:
    """A labelled scene, its split, and the normalisation that its training pixels give."""

    recipe: SceneRecipe
    scene: Scene
    labels: np.ndarray  # H x W, below 0 where there is none
    classes: ClassSet
    split: PixelSplit
    preprocess: SpectralPreprocess

    @property
    def training_labels(self) -> np.ndarray:
        """The labels of the training pixels, H x W; every other pixel is void."""
        return np.where(self.split.train, self.labels, -1)

    def spectra(self, region: slice | tuple[slice, slice] = slice(None)) -> np.ndarray:
        """Normalise the scene, or a piece of it, K x h x w float32; what has no data is 0, the mean spectrum."""
        return normalise(self.scene[region], self.preprocess)[0]

    def leakage(self, windows: Windows) -> float:
        """Return the share of test pixels that a method with these windows has seen in training."""
        return leakage(self.split.train, self.split.test, windows)


def make_trial(recipe: SceneRecipe, scene: Scene, *, guard: int = 0) -> SceneTrial:
    """Split a scene and fit its normalisation on the training pixels.

    Args:
        recipe: The choices.
        scene: The scene with its labels. Those of pixels without data in a band in use neither train nor test.
        guard: Where the recipe gives none, blocks keep at least so many pixels apart, and as many as the recipe's
            network sees, if the scene has room for it.

    Returns:
        What every method on the scene starts from.

    Raises:
        ValueError: For a scene without labels, or none where there are data.

    """
    labels, classes = labelled(scene, choose_bands(scene, recipe.bands, drop_bad=recipe.drop_bad))
    scene = replace(scene, labels=labels)
    split = make_split(recipe, labels, guard=guard)
    preprocess = fit_spectral(
        scene,
        split.train,
        bands=recipe.bands,
        drop_bad=recipe.drop_bad,
        components=recipe.components,
        whiten=recipe.whiten,
    )
    return SceneTrial(recipe, scene, labels, classes, split, preprocess)


def labelled(scene: Scene, bands: Sequence[int]) -> tuple[np.ndarray, ClassSet]:
    """Return the labels that can be learned or tested, and their classes.

    Args:
        scene: A scene with labels.
        bands: The bands in use; pixels without data in any of them have no label.

    Raises:
        ValueError: If no label is left.

    """
    if scene.labels is None or scene.classes is None:
        raise ValueError(f"scene {scene.name!r} has no labels: give the label map with --set labels=FILE")
    labels = np.where(missing_pixels(scene, bands), np.int16(VOID), scene.labels)
    if (labels < 0).all():
        raise ValueError(nothing_measured(scene, bands))
    return labels, scene.classes


def make_split(recipe: SceneRecipe, labels: np.ndarray, *, guard: int = 0) -> PixelSplit:
    """Split labels as the recipe says.

    Args:
        recipe: The choices.
        labels: H x W class indices, below 0 where there is none.
        guard: As in ``make_trial``.

    Raises:
        ValueError: If a side has no pixel; of a file of masks, ``BadFile``.

    """
    if recipe.split == "random":
        split = random_split(labels, fraction=recipe.fraction, per_class=recipe.per_class, seed=recipe.seed)
    elif recipe.split == "blocks":
        if recipe.guard is None:
            guard = max(guard, farthest(_seen_windows(_outline(recipe), recipe, (labels.shape[0], labels.shape[1]))))
        else:
            guard = recipe.guard
        split = block_split(
            labels,
            guard=guard,
            fraction=recipe.fraction,
            per_class=recipe.per_class,
            block=recipe.block,
            seed=recipe.seed,
        )
    elif recipe.masks is None:
        raise ValueError("split=masks needs the masks: --set masks=FILE.npz")
    else:
        split = read_split(Path(recipe.masks), labels)
    split.check(labels)
    return split


def network_windows(recipe: SceneRecipe, shape: tuple[int, int]) -> Windows:
    """Return all that the recipe's network reads in training, from its own geometry."""
    return training_windows(_outline(recipe), recipe, shape)


def _outline(recipe: SceneRecipe) -> FCN:
    """Build the recipe's network without weights."""
    return without_weights(lambda: build(recipe.network, 2))


def training_windows(network: FCN, recipe: SceneRecipe, shape: tuple[int, int]) -> Windows:
    """Return the windows of a network's training pixels, over all the views of the scene that it sees.

    An operation over all positions (squeeze-and-excitation) makes them the whole scene.

    Args:
        network: The network; its weights do not matter.
        recipe: Says whether views are turned and cut into tiles.
        shape: Height and width of the scene.

    """
    if any(remark.kind == "global" for remark in network.remarks):
        return within(shape, max(shape))
    return _seen_windows(network, recipe, shape)


def _seen_windows(network: FCN, recipe: SceneRecipe, shape: tuple[int, int]) -> Windows:
    if tile_side(recipe, shape) is not None:  # a tile's phase is not the scene's: the widest of all phases
        return within(shape, max(plan.reach for plan in network.plans))
    rows, columns = ([np.array(plan.windows(length)) for plan in network.plans] for length in shape)
    if not recipe.turn:
        return rows[0], columns[1]
    return turned((rows[0], rows[1]), (columns[0], columns[1]))


def tile_side(recipe: SceneRecipe, shape: tuple[int, int]) -> int | None:
    """Return the side of the tiles that a training sees one by one; ``None`` where it sees the whole scene."""
    side = recipe.crop or (TILE_PX if shape[0] * shape[1] > WHOLE_PIXELS else None)
    return None if side is None or side >= max(shape) else side


def read_split(path: Path, labels: np.ndarray) -> PixelSplit:
    """Read a split from the masks ``train`` and ``test`` of an .npz file, perhaps by ``write_split``.

    Args:
        path: The file.
        labels: H x W, what the masks split.

    Raises:
        BadFile: If the masks are not of this size, overlap, or leave a side empty.

    """
    try:
        check_npz(path, 16 * labels.size + 1024)
        with np.load(path, allow_pickle=False) as arrays:
            given = mask_split(labels, arrays["train"], arrays["test"])
            if "kind" not in arrays:
                return given
            split = replace(given, kind=cast("SplitKind", str(arrays["kind"])), guard=int(arrays["guard"]))
            split.check(labels)
            return split
    except BadFile:
        raise
    except Exception as error:  # zipfile, zlib, tokenize and NumPy raise kinds of their own
        raise BadFile(
            path, f"is no split of these labels ({error})", "write masks 'train' and 'test' with numpy.savez"
        ) from None


def write_split(split: PixelSplit, path: Path) -> None:
    """Write a split, for ``read_split``."""
    with whole_file(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, train=split.train, test=split.test, kind=split.kind, guard=split.guard)
