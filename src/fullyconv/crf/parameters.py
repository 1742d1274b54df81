"""The numbers of a dense CRF for images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

MOST_ITERATIONS = 1000  # a hundred times what settles; more would only keep whoever asks waiting


@dataclass(frozen=True)
class CRFParameters:
    """How strongly, and how far, pixels pull on each other (Krähenbühl & Koltun 2011, section 4).

    Attributes:
        iterations: Mean-field updates, 0 to 1000; 5 to 10 settle.
        smoothness_weight: Of the kernel over positions; 0 leaves it out.
        smoothness_sxy: Its standard deviation in pixels, or two: along x and y.
        appearance_weight: Of the kernel over positions and colours; 0 leaves it out.
        appearance_sxy: Its standard deviation over positions, in pixels, or two.
        appearance_srgb: Its standard deviation over colours, in grey levels of 0..255, or one for each channel.
        keep_diagonal: Whether a pixel's message to itself counts, as in the authors' package (not in their paper).
        exact_smoothness: Compute the kernel over positions exactly, axis by axis, instead of on a lattice.

    Raises:
        ValueError: For values out of range.

    >>> CRFParameters(appearance_weight=5).appearance_sxy
    80.0
    """

    iterations: int = 10
    smoothness_weight: float = 3.0
    smoothness_sxy: float | tuple[float, ...] = 3.0
    appearance_weight: float = 10.0
    appearance_sxy: float | tuple[float, ...] = 80.0
    appearance_srgb: float | tuple[float, ...] = 13.0
    keep_diagonal: bool = True
    exact_smoothness: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.iterations <= MOST_ITERATIONS:
            raise ValueError(f"iterations of a CRF are 0 to {MOST_ITERATIONS}, not {self.iterations}")
        for name, value in asdict(self).items():
            for each in value if isinstance(value, tuple | list) else (value,):
                _check(name, each)
            if isinstance(value, tuple | list):
                object.__setattr__(self, name, tuple(value))
                if name.endswith("_sxy") and len(value) != 2:
                    raise ValueError(f"{name} is one standard deviation or two, along x and y, not {len(value)}")


def _check(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value}")
    if name.endswith(("_sxy", "_srgb")) and value <= 0:
        raise ValueError(f"{name} is a standard deviation and must be positive, not {value}")
    if name.endswith("_weight") and value < 0:
        raise ValueError(f"{name} must not be negative, not {value}: 0 leaves the kernel out")
