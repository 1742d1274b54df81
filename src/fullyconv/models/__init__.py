"""Trained models that come with the package, by name: each a folder here, with its card."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).parent
CARD = "README.md"


def packaged() -> dict[str, Path]:
    """Return the folders of the models that come with the package, by their names.

    >>> "camvid" in packaged()
    True
    """
    return {path.parent.name: path.parent for path in sorted(HOME.glob(f"*/{CARD}"))}
