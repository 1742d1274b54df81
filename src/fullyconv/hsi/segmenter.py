"""A trained network of scenes: spectra in, a class for every pixel out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fullyconv.checkpoint import load_network
from fullyconv.files import BadFile
from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.formats.mapped import release
from fullyconv.hsi.normalise import missing_pixels, normalise
from fullyconv.hsi.pictures import false_colour
from fullyconv.hsi.scene import Scene
from fullyconv.machine import ArithmeticName, DeviceName, EngineName
from fullyconv.networks.fcn import FCN
from fullyconv.predict.image import Segmenter
from fullyconv.predict.inputs import Picture
from fullyconv.predict.prediction import Prediction
from fullyconv.types import VOID, ClassSet, SpectralPreprocess

WHOLE_BYTES = 640 << 20  # of memory that a scene may take in one pass, about; larger ones flow through in bands
TILE_BYTES = 256 << 20  # that what is computed at a time may take then


class SceneSegmenter(Segmenter):
    """A ``Segmenter`` of hyperspectral scenes: it reads spectra, and cuts by memory instead of pixels."""

    preprocess: SpectralPreprocess  # type: ignore[assignment]

    def __init__(
        self,
        network: FCN,
        *,
        classes: ClassSet,
        preprocess: SpectralPreprocess,
        device: DeviceName = "auto",
        precision: ArithmeticName = "float32",
        engine: EngineName = "auto",
    ) -> None:
        if preprocess.channels != network.in_channels:
            raise ValueError(
                f"the network sees {network.in_channels} channels, its normalisation gives {preprocess.channels}"
            )
        super().__init__(
            network,
            classes=classes,
            preprocess=preprocess,  # type: ignore[arg-type]
            device=device,
            precision=precision,
            engine=engine,
        )

    def predict(  # type: ignore[override]  # one scene at a time
        self, image: Picture | Scene, *, probabilities: bool = False
    ) -> Prediction:
        """Label every pixel of a scene.

        Large scenes flow through the network in bands of rows, as images do in ``Segmenter.predict``.

        Args:
            image: The path of a scene, a ``Scene``, or an H x W x B array, memory-mapped too.
            probabilities: Whether to give those of the classes too.

        Returns:
            The prediction; its labels are ``VOID`` (-1, and int16 then) and its probabilities 0 where a band that the
            network sees has no data.

        Raises:
            BadFile: For a file that cannot be read.
            ValueError: For another number of bands, or infinity.

        """
        scene = as_scene(image, self.preprocess.scene_bands)
        found = self._label(scene, false_colour(scene), probabilities=probabilities)  # type: ignore[arg-type]
        missing = missing_pixels(scene, self.preprocess.bands)
        if not missing.any():
            return found
        if found.probabilities is not None:
            found.probabilities[:, missing] = 0
        return replace(found, labels=np.where(missing, VOID, found.labels.astype(np.int16)).astype(np.int16))

    # Pieces of a scene take the place of arrays of pixels below: a piece knows where it has no data.

    def _area(self, pixels: Scene) -> int:  # type: ignore[override]
        per_pixel = 16 * pixels.shape[2] + self.prepared().per_pixel
        sides = [size + sum(plan.padding(size)) for size, plan in zip(pixels.shape, self.network.plans, strict=False)]
        if sides[0] * sides[1] * per_pixel <= (self.memory or WHOLE_BYTES):
            return 0
        return max(1, (self.memory or TILE_BYTES) // per_pixel)

    def _read(self, pixels: Scene | np.ndarray) -> np.ndarray:
        scene = Scene(pixels) if isinstance(pixels, np.ndarray) else pixels
        found = normalise(scene, self.preprocess)[0].transpose(1, 2, 0)
        release(scene.cube)
        return found


def as_scene(image: Picture | Scene, bands: int) -> Scene:
    """Bring any accepted form of a scene to one of so many bands; raises ``BadFile`` or ``ValueError``."""
    if isinstance(image, Path | str):
        image = SceneFiles(image).open_cube()
    scene = Scene(image) if isinstance(image, np.ndarray) else image
    if not isinstance(scene, Scene) or scene.cube.ndim != 3 or 0 in scene.cube.shape:
        given = image.shape if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"this model takes scenes, H x W x {bands}, not {given}")
    if scene.cube.shape[2] != bands or scene.cube.dtype.kind not in "buif":
        what = f"wrong band count: {scene.cube.shape[2]} bands of {scene.cube.dtype}"
        raise ValueError(f"{what}: the model was trained on {bands} bands of numbers: use scenes of its sensor")
    return scene


def load_scene_model(
    folder: Path | str, *, device: DeviceName = "auto", trust: str | Sequence[str] = ()
) -> SceneSegmenter:
    """Open a model folder for scenes; raises ``BadFile`` if it is not one."""
    network, config = load_network(folder, trust=trust)
    if not isinstance(config.preprocess, SpectralPreprocess):
        raise BadFile(folder, "labels pictures, not scenes", "name the model of a run of train hsi")
    return SceneSegmenter(network, classes=config.classes, preprocess=config.preprocess, device=device)
