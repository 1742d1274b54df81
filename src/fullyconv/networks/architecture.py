"""How a network is built again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, NamedTuple, cast

from torch import nn

from fullyconv.types import check_head

USUAL_CLASSES = 21

Upsampling = Literal["fixed", "learned"]
Fusion = Literal["sum", "max"]
"""How an FCN joins upsampled scores and those of a finer map (``max``: the papers tried it, it learns badly)."""
Decoder = Literal["fcn", "fpn", "segnet", "deconvnet", "deeplab", "deeplab-largefov", "unet"]
"""What makes scores of a trunk's maps: the sum of those of several, a feature pyramid (``networks.pyramid``), …"""

VARIANT = re.compile(r"(f[cp]n)(\d+)s|segnet|deconvnet|deeplab-largefov|deeplab|unet")
"""What a network's name begins with: its decoder, and for some the stride of the finest map."""


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

    Attributes:
        name: What ``build`` calls it.
        classes: The number of classes.
        upsampling: ``fixed`` or ``learned``.
        channels: The channels of its input, where they are not those that its trunk is made for.
        taps: The modules whose maps are scored, of networks on classifiers from elsewhere; none: those found by itself.
        example: A size (C, H, W) that such a classifier takes; ``None``: the usual one.
        tasks: Further tasks on the same maps, each with its name and its number of classes; none: those that a network
            of the papers was published with.

    >>> Architecture("fcn8s-resnet18", classes=5)
    Architecture(name='fcn8s-resnet18', classes=5, upsampling='fixed', channels=None, taps=(), example=None, tasks=())
    """

    name: str
    classes: int = USUAL_CLASSES
    upsampling: Upsampling = "fixed"
    channels: int | None = None
    """Of its input, where they are not those that its trunk is made for."""
    taps: tuple[str, ...] = ()
    example: tuple[int, int, int] | None = None
    tasks: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        class_count(self.classes)
        for name, classes in self.tasks:
            check_head(name)
            class_count(classes)


class Name(NamedTuple):
    """A network's name in parts; ``stride`` is that of the finest map, where the name says it."""

    decoder: Decoder
    stride: int | None
    trunk: str


def split_name(name: str) -> Name | None:
    """Split the name of a decoder on a trunk.

    Args:
        name: A network's name, as ``build`` takes it.

    Returns:
        Its parts; ``None`` for names of another form (networks of the papers, classifiers).

    >>> split_name("fpn4s-timm:resnet18"), split_name("deeplab-largefov-vgg16").trunk, split_name("voc-fcn8s")
    (Name(decoder='fpn', stride=4, trunk='timm:resnet18'), 'vgg16', None)
    """
    found = VARIANT.match(name)
    if found is None or not name[found.end() :].startswith("-"):
        return None
    decoder = cast("Decoder", found[1] or found[0])
    return Name(decoder, int(found[2]) if found[2] else None, name[found.end() + 1 :])


def architecture_of(network: nn.Module) -> Architecture:
    """Return how a network was built.

    Args:
        network: A network made by ``build``, ``from_classifier`` or ``fullyconv.load``.

    Returns:
        What ``rebuild`` builds it again from.

    Raises:
        ValueError: If it was not built by name.

    >>> architecture_of(nn.Linear(2, 2))
    Traceback (most recent call last):
    ValueError: ...
    """
    architecture = getattr(network, "architecture", None)
    if not isinstance(architecture, Architecture):
        raise ValueError(
            f"how this {type(network).__name__} was built is not known: make it with build(), or name the function "
            "that makes its classifier, from_classifier(…, origin='my_package.nets:build')"
        )
    return architecture
