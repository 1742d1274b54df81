"""How a network is built again."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Literal

from torch import nn

USUAL_CLASSES = 21

Upsampling = Literal["fixed", "learned"]


def class_count(classes: object) -> int:
    """Check a number of classes; every network that scores classes asks here.

    Args:
        classes: What was given: an ``int`` (or NumPy's) of 1 or more.

    Returns:
        The number as an ``int``.

    Raises:
        ValueError: For 0, negative numbers, truth values, floats and whatever else counts nothing.

    >>> class_count(21)
    21

    """
    if isinstance(classes, bool) or not isinstance(classes, Integral) or classes < 1:
        raise ValueError(f"a network scores at least one class, a whole number of them, not {classes!r}")
    return int(classes)


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build a network again.

    ``taps`` and ``example`` are those of ``from_classifier``, for networks on classifiers from elsewhere.
    """

    name: str
    classes: int = USUAL_CLASSES
    upsampling: Upsampling = "fixed"
    channels: int | None = None
    """Of its input, where they are not those that its trunk is made for."""
    taps: tuple[str, ...] = ()
    example: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        class_count(self.classes)


def architecture_of(network: nn.Module) -> Architecture:
    """Return how a network was built; raises ``ValueError`` if it was not built by name."""
    architecture = getattr(network, "architecture", None)
    if not isinstance(architecture, Architecture):
        raise ValueError(
            f"how this {type(network).__name__} was built is not known: make it with build(), or name the function "
            "that makes its classifier, from_classifier(…, origin='my_package.nets:build')"
        )
    return architecture
