from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import fullyconv.data

HEAVY = ("torch", "matplotlib", "scipy", "rasterio", "timm", "tifffile", "imagecodecs")


def test_looking_at_a_folder_loads_no_network() -> None:
    """Every command that opens a data set waits for this import: under 0.3 s without PyTorch, seconds with it."""
    code = "import sys, fullyconv.data.folder; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fullyconv" in loaded
    assert set(loaded).isdisjoint(HEAVY)


def test_no_function_shadows_its_module() -> None:
    for info in iter_modules(fullyconv.data.__path__):
        module = import_module(f"fullyconv.data.{info.name}")
        assert not hasattr(module, info.name), f"{module.__name__}.{info.name}"
