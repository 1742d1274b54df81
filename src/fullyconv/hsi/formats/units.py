"""Wavelengths in nanometres, whatever unit a file gives them in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

LIGHT = 299_792_458.0  # metres per second: what ties a frequency to its wavelength in vacuum

LENGTHS = {"nanometer": 1.0, "nm": 1.0, "micrometer": 1e3, "micron": 1e3, "um": 1e3, "millimeter": 1e6, "mm": 1e6,
           "centimeter": 1e7, "cm": 1e7, "meter": 1e9, "m": 1e9, "angstrom": 0.1, "å": 0.1, "a": 0.1}  # fmt: skip
"""Nanometres in one unit of length."""
RECIPROCALS = {"wavenumber": 1e7, "cm-1": 1e7, "1/cm": 1e7, "cm^-1": 1e7, "hz": LIGHT * 1e9, "khz": LIGHT * 1e6,
               "mhz": LIGHT * 1e3, "ghz": LIGHT, "thz": LIGHT * 1e-3}  # fmt: skip
"""What is divided by a number of them to give nanometres."""
MICROMETRES_END = 100.0  # without a unit, numbers that all lie below this are micrometres


def nanometres(values: Sequence[float], unit: str = "") -> tuple[float, ...]:
    """Bring wavelengths to nanometres.

    Args:
        values: One positive number per band.
        unit: ENVI's name of the unit, in any case, singular or plural. Without one, numbers that all lie
            below 100 are micrometres, others nanometres, and 1, 2, 3, … (or 0, 1, 2, …) number the bands.

    Returns:
        The wavelengths, or nothing where the numbers are none (``Index``, ``Unknown``, an unheard-of unit, all 0).

    Raises:
        ValueError: For a number that is not positive and finite.

    >>> nanometres([0.4, 2.5]), nanometres([4000, 25000], "Angstroms"), nanometres([22222.2], "Wavenumber")
    ((400.0, 2500.0), (400.0, 2500.0), (450.00045,))
    >>> nanometres([666205.46], "GHz"), nanometres([1, 2, 3], "Index")
    ((450.000002,), ())

    """
    if not any(values):
        return ()
    scale = _scale(values, unit.strip().lower())
    if scale is None:
        return ()
    wrong = [value for value in values if not (math.isfinite(value) and value > 0)]
    if wrong:
        raise ValueError(f"a wavelength of {wrong[0]:g}")
    return tuple(round(float(scale(value)), 6) for value in values)


def _scale(values: Sequence[float], unit: str) -> Callable[[float], float] | None:
    """Return what turns a number into nanometres; ``None`` where the numbers are no wavelengths."""
    if not unit:
        if (
            len(values) > 1
            and [value - values[0] for value in values] == list(range(len(values)))
            and values[0] in (0, 1)
        ):
            return None
        factor = 1e3 if max(values) < MICROMETRES_END else 1.0
        return lambda value: value * factor
    unit = unit.replace("metre", "meter").replace("µ", "u").replace("μ", "u")
    singular = unit if unit in LENGTHS or unit in RECIPROCALS else unit.removesuffix("s")
    if singular in RECIPROCALS:
        return lambda value: RECIPROCALS[singular] / value if value else math.inf
    if singular in LENGTHS:
        return lambda value: value * LENGTHS[singular]
    return None
