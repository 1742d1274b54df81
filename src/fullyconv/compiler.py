"""Numba as the package uses it: strict types, kept on disk, outside the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function on its first call, for the types it is given; the machine code is kept on disk.

    It lies in ``NUMBA_CACHE_DIR``, in ``__pycache__`` beside the code or in the user's cache; where none of them can be
    written, every process compiles anew.

    ``error_model="numpy"`` leaves out the checks for division by zero. Sums keep their order: results
    do not depend on the compiler's liberties.
    """
    return _kept(function, nogil=True, error_model="numpy")


def contracted(function: Function) -> Function:
    """Compile as ``compiled`` does, but round a product and the sum it goes into once, as machines with FMA can."""
    return _kept(function, nogil=True, error_model="numpy", fastmath={"contract"})


def _kept(function: Function, **options: Any) -> Function:
    try:
        return cast("Function", njit(cache=True, **options)(function))
    except RuntimeError:  # there is no place that can be written
        return cast("Function", njit(**options)(function))
