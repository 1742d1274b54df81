"""How a network is built again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fullyconv.networks.fcn import Upsampling

USUAL_CLASSES = 21


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


def architecture_of(network: nn.Module) -> Architecture:
    """Return how a network was built; raises ``ValueError`` if it was not built by name."""
    architecture = getattr(network, "architecture", None)
    if not isinstance(architecture, Architecture):
        raise ValueError(
            f"how this {type(network).__name__} was built is not known: make it with build(), or name the function "
            "that makes its classifier, from_classifier(…, origin='my_package.nets:build')"
        )
    return architecture
