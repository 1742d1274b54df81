"""Files: the error that names one, and files that appear whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class BadFile(ValueError):
    """A file that cannot be used: which, why, and what to do about it."""

    def __init__(self, path: Path | str, what: str, fix: str) -> None:
        super().__init__(f"{path}: {what}: {fix}")
        self.path, self.what, self.fix = str(path), what, fix


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to; it takes the place of ``path`` when the block ends.

    If the block raises, what was written is removed and an older ``path`` stays as it was.
    """
    draft = path.with_name(path.name + ".tmp")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:
    """Write JSON (NaN as null), under a temporary name first."""
    with whole_file(path) as draft:
        draft.write_text(json.dumps(_without_nan(document), indent=2, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return value
