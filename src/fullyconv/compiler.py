"""Numba as the package uses it: strict types, kept on disk, outside the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function on its first call, for the types it is given; the machine code is kept on disk.

    ``error_model="numpy"`` leaves out the checks for division by zero. Sums keep their order: results
    do not depend on the compiler's liberties.
    """
    return cast("Function", njit(nogil=True, cache=True, error_model="numpy")(function))


def contracted(function: Function) -> Function:
    """Compile as ``compiled`` does, but round a product and the sum it goes into once, as machines with FMA can."""
    return cast("Function", njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})(function))
