"""What a network says of one picture: the class of every pixel, and what can be drawn, counted and written of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from fullyconv.draw import overlay, palette_image, save_picture, with_legend
from fullyconv.files import whole_file
from fullyconv.regions import Polygon, trace
from fullyconv.regions import simplify as simpler
from fullyconv.types import VOID, ClassSet


@dataclass(frozen=True)
class Uncertainty:
    """What several looks at one picture say of every pixel (``fullyconv.predict.uncertainty``).

    Attributes:
        entropy: Of the looks' mean probabilities, H x W float32, 0 (certain) to 1 (all classes alike).
        spread: The part of it that comes from the looks' disagreement (mutual information), on the same scale: high
            where the model lacks knowledge, low where the picture itself is unclear.
    """

    entropy: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    Attributes:
        image: The image, H x W x 3 uint8 RGB (of other networks H x W x K numbers).
        labels: The class of every pixel, H x W, the smallest unsigned integer type that holds the classes; int16 with
            ``VOID`` (-1) for pixels that hold nothing ("no data", NaN) where the picture has such.
        classes: What the labels mean.
        probabilities: C x H x W float16, 0..1, if they were asked for.
        uncertainty: How certain the model is of every pixel, where a ``Doubter`` predicts.

    >>> pixels, labels = np.zeros((2, 2, 3), np.uint8), np.array([[0, 1], [1, 1]], np.uint8)
    >>> Prediction(pixels, labels, ClassSet(("road", "sky"))).overlay().size
    (2, 2)
    """

    image: np.ndarray = field(repr=False)  # H x W x 3 uint8 RGB
    labels: np.ndarray = field(repr=False)
    classes: ClassSet
    probabilities: np.ndarray | None = field(default=None, repr=False)
    uncertainty: Uncertainty | None = field(default=None, repr=False)

    def without(self, missing: np.ndarray | None) -> Prediction:
        """Say nothing of some pixels: they are of no class (``VOID``), and their probabilities and uncertainty are 0.

        Args:
            missing: Which, H x W bool; ``None``: none.

        Returns:
            The prediction, its labels int16 where there are such pixels.

        Raises:
            ValueError: For another size.

        >>> found = Prediction(np.zeros((1, 2, 3), np.uint8), np.array([[1, 1]], np.uint8), ClassSet(("road", "sky")))
        >>> found.without(np.array([[True, False]])).labels.tolist()
        [[-1, 1]]
        """
        if missing is None or not missing.any():
            return self
        if missing.shape != self.labels.shape:
            raise ValueError(f"pixels that hold nothing are {missing.shape}, those of the picture {self.labels.shape}")
        doubt, chances = self.uncertainty, self.probabilities
        if doubt is not None:
            doubt = Uncertainty(*(np.where(missing, np.float32(0), each) for each in (doubt.entropy, doubt.spread)))
        return replace(
            self,
            labels=void_where(missing, self.labels),
            probabilities=None if chances is None else np.where(missing, chances.dtype.type(0), chances),
            uncertainty=doubt,
        )

    def overlay(self, *, alpha: float = 0.5, legend: bool = False) -> Image.Image:
        """Paint the classes over the image.

        Args:
            alpha: The colours' share, 0 (the image alone) to 1 (the colours alone).
            legend: Put the classes' names below.

        Returns:
            A picture of the image's size; with a legend larger.
        """
        painted = overlay(self.image, self.labels, self.classes, alpha=alpha)
        return Image.fromarray(with_legend(painted, self.classes) if legend else painted)

    def save(self, path: Path | str) -> Path:
        """Write the labels as ``.png`` (the numbers of their classes, in their colours), or the overlay as ``.jpg``.

        Args:
            path: The file; it appears whole or not at all.

        Returns:
            The file.

        Raises:
            ValueError: For another suffix.
        """
        path = Path(path)
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise ValueError(f"{path}: labels are saved as .png, overlays as .jpg")
        if path.suffix.lower() == ".png":
            save_picture(palette_image(self.labels, self.classes), path)
            return path
        with whole_file(path) as draft:
            self.overlay().save(draft, "JPEG", quality=90)
        return path

    def _repr_png_(self) -> bytes:
        """Show the overlay with its legend in Jupyter."""
        stream = BytesIO()
        self.overlay(legend=True).save(stream, "PNG")
        return stream.getvalue()

    def polygons(self, *, simplify: float = 0.0, least: int = 1) -> list[Polygon]:
        """Find the outlines of all regions, exactly on the edges of pixels.

        Args:
            simplify: Pixels by which an outline may move to have fewer corners.
            least: Pixels; smaller regions are left out.

        Returns:
            The polygons of all classes, with their holes; ``fullyconv.regions.documents`` writes them as GeoJSON,
            COCO, YOLO and LabelMe.
        """
        return [simpler(each, simplify) for each in trace(self.labels, least=least)]

    def areas(self) -> dict[str, int]:
        """Count the pixels of each class.

        Returns:
            Pixels by the classes' names; 0 where a class does not occur.
        """
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.classes))
        return dict(zip(self.classes.names, counts.tolist(), strict=True))


def void_where(missing: np.ndarray | None, labels: np.ndarray) -> np.ndarray:
    """Let labels be ``VOID`` where a picture holds nothing, int16 then.

    >>> void_where(np.array([True, False]), np.array([3, 4], np.uint8)).tolist()
    [-1, 4]
    """
    if missing is None or not missing.any():
        return labels
    return np.where(missing, np.int16(VOID), labels.astype(np.int16))
