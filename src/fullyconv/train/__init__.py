"""Training: recipes, runs and their folders. The room may be called: ``fullyconv.train("default", data=…, out=…)``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A room with the function of its name: ``fullyconv.runs.train``, imported when it is first called."""

    @property
    def __call__(self) -> Callable[..., Any]:
        # By name: what trains whole runs stands above this room and uses it.
        found: Callable[..., Any] = import_module("fullyconv.runs").train
        return found


sys.modules[__name__].__class__ = _Room
