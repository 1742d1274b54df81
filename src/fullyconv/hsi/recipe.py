"""A scene recipe: every choice of a training on one hyperspectral scene, as one frozen value."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from fullyconv.hsi.files import SceneFiles
from fullyconv.hsi.labels import Zero
from fullyconv.hsi.splits import SplitKind
from fullyconv.machine import DeviceName, Precision
from fullyconv.networks import external_trunk, generic_names
from fullyconv.train.optim import Descent
from fullyconv.train.recipe import nearest

Positive = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


class SceneRecipe(Descent):
    """The choices of a run on one scene. Lengths are in pixels, ``minutes`` in minutes of wall time."""

    changeable: ClassVar[tuple[str, ...]] = ("steps", "minutes", "device")

    network: str = "fcn1s-spectral4"
    """``spectral1``, ``2``, ``4`` or ``8`` sees 1, 5, 13 or 29 px far; any trunk of colours is widened to the bands,
    those from elsewhere too (``fcn8s-timm:resnet18``)."""
    start_from: str | None = None
    """A model folder: its weights are taken over, a first layer of fewer channels with their mean for the others."""

    labels: str | None = None
    """The file of the label map, if it is not in the scene's own."""
    cube_key: str | None = None
    label_key: str | None = None
    zero: Zero = "unlabelled"
    """What 0 means in the label map: not labelled, or, as in maps of targets (1) and background (0), a class."""

    split: SplitKind = "blocks"
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Of every class, what the training side gets."""
    per_class: Positive | None = None
    """Draw no more than so many training pixels of each class."""
    guard: Annotated[int, Field(ge=0)] | None = None
    """Between blocks; ``None``: as far as the network sees, or as far as every class stays on both sides."""
    block: Positive | None = None
    """The side of the blocks; ``None`` tries many."""
    masks: str | None = None
    """With ``split: masks``, an .npz file with the masks ``train`` and ``test``."""

    bands: tuple[Index | tuple[float, float], ...] | None = None
    """The bands to use, from 0, or all between two wavelengths in nanometres; ``None``: all."""
    drop_bad: bool = True
    """Leave out the bands that the file marks as bad."""
    components: Positive | None = None
    """Project the spectra to so many principal components of the training pixels."""
    whiten: bool = False

    steps: Positive = 300
    minutes: Annotated[float, Field(gt=0)] | None = None
    """A budget: the schedule is shortened where the machine would need longer than this."""
    sample: Positive = 64
    """Training pixels of each class that an update learns from, so that rare classes count as much as large ones."""
    crop: Positive | None = None
    """An update sees the whole scene, or the surroundings of a tile of this side; scenes of over a million pixels
    are always cut, 512 px wide."""
    turn: bool = True
    """Show the scene flipped and turned by quarters."""

    device: DeviceName = "auto"
    precision: Precision | Literal["auto"] = "fp32"
    """``bf16`` trains faster where the machine has instructions for it, ``auto`` takes it there; spectra often differ
    by less than its eight bits."""
    seed: Annotated[int, Field(ge=0)] = 1337

    def files(self, cube: Path | str) -> SceneFiles:
        """Return the files of a scene that this recipe reads."""
        return SceneFiles(cube, self.labels, self.cube_key, self.label_key, zero=self.zero)

    @field_validator("network")
    @classmethod
    def _known_network(cls, name: str) -> str:
        if name not in generic_names() and external_trunk(name) is None:
            raise ValueError(f"unknown network{nearest(name, generic_names())}")
        return name
