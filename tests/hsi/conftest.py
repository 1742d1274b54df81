from __future__ import annotations

import numpy as np
import pytest

from fullyconv.hsi.scene import Scene
from fullyconv.hsi.synthetic import Look, make_scene
from fullyconv.types import VOID, ClassSet


def fields(classes: int = 3, side: int = 16) -> np.ndarray:
    """Square fields in rows, class after class, a pixel of unlabelled ground between them."""
    labels = np.fromfunction(lambda row, column: (row // side + column // side) % classes, (4 * side, 5 * side))
    labels = labels.astype(np.int16)
    labels[::side], labels[:, ::side] = VOID, VOID
    return labels


@pytest.fixture(scope="session")
def scene() -> Scene:
    """A generated scene of 64 x 80 pixels, 20 bands and three classes that are easy to tell apart."""
    easy = Look(contrast=0.6, variation=0.03, light=0.05, noise=0.01)
    return make_scene(fields(), ClassSet(("corn", "road", "water")), bands=20, look=easy)
