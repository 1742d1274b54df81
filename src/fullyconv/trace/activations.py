"""Activations as oneDNN applies them to what it has just computed, without writing it to memory in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fullyconv.trace.positions import Given


class Activation(NamedTuple):
    """oneDNN's name of an activation as PyTorch passes it on, its numbers, and its algorithm."""

    name: str
    numbers: tuple[float, ...] = ()
    algorithm: str | None = None


Reads = Callable[[Given], Activation | None]
"""Reads an operation's arguments; ``None`` for a use that oneDNN does not have."""


def plain(name: str) -> Reads:
    """Make the reader of an activation without numbers."""
    return lambda _: Activation(name)


def relu6(_: Given) -> Activation:
    """Read min(max(x, 0), 6)."""
    return Activation("hardtanh", (0.0, 6.0))


def hardtanh(given: Given) -> Activation:
    """Read min(max(x, least), most)."""
    return Activation("hardtanh", (float(given.argument(1, "min_val", -1)), float(given.argument(2, "max_val", 1))))


def leaky_relu(given: Given) -> Activation:
    """Read max(x, slope * x)."""
    return Activation("leaky_relu", (float(given.argument(1, "negative_slope", 0.01)),))


def gelu(given: Given) -> Activation:
    """Read x Phi(x), exactly or by the hyperbolic tangent."""
    return Activation("gelu", (), str(given.argument(1, "approximate", "none")))
