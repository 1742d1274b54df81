"""The checkpoints of a run: folders that appear whole or not at all, told by their checksums."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from fullyconv.checkpoint import CONFIG, WEIGHTS
from fullyconv.files import parse_json, whole_folder, write_json

OPTIMIZER, STATE, MANIFEST = "optimizer.safetensors", "state.json", "manifest.json"
PARTS = (WEIGHTS, CONFIG, OPTIMIZER, STATE)


class Checkpoints:
    """Numbered checkpoints in a folder of their own.

    Saving is one transaction: all files are written into a folder under a temporary name and reach the disk, then it is
    renamed to the next number. Whatever instant a process dies at, the newest whole checkpoint holds weights,
    optimiser and position of one and the same moment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole: int | None = None  # the newest that was saved or found whole

    def numbers(self) -> list[int]:
        """Return the numbers of all checkpoints, whole or not, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal() and entry.is_dir())

    def save(self, fill: Callable[[Path], object], *, alone: bool) -> None:
        """Write one more checkpoint: ``fill`` puts ``PARTS`` into the folder it is given.

        The one before is kept, in case the disk damages the new one; with ``alone`` (at the end of a run) it is not.
        No more than two take room at any time.
        """
        number = max(self.numbers(), default=0) + 1
        self.keep_newest()
        with whole_folder(self.folder / str(number)) as draft:
            fill(draft)
            write_json(draft / MANIFEST, {name: _checksum(draft / name) for name in PARTS})
        if alone or self._whole is None:
            self._whole = number
            self.keep_newest()
        self._whole = number

    def keep_newest(self) -> None:
        """Remove all checkpoints but the newest whole one, if one is known."""
        for number in self.numbers() if self._whole is not None else ():
            if number != self._whole:
                _discard(self.folder / str(number))

    def newest(self) -> tuple[Path | None, list[str]]:
        """Find the newest whole checkpoint, and a remark on each damaged one that was passed over."""
        remarks: list[str] = []
        for number in reversed(self.numbers()):
            path = self.folder / str(number)
            damage = _damage(path)
            if damage is None:
                self._whole = number
                return path, remarks
            remarks.append(f"{path} is damaged ({damage}): passed over")
        return None, remarks

    def sweep(self) -> None:
        """Remove what a death while saving left behind."""
        for draft in self.folder.glob(".*.new"):
            shutil.rmtree(draft)

    def clear(self) -> None:
        """Remove all checkpoints, and the folder if nothing else is in it."""
        self.sweep()
        for number in self.numbers():
            _discard(self.folder / str(number))
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, ``None`` if it is whole."""
    try:
        noted = parse_json((path / MANIFEST).read_bytes())
        for name in PARTS:
            if _checksum(path / name) != noted[name]:
                return f"{name} is not what was saved"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is unreadable"
    return None


def _discard(path: Path) -> None:
    """Remove a checkpoint's files, and its folder unless somebody has put more into it."""
    for name in (MANIFEST, *PARTS):  # without its manifest a half removed one is taken for none
        (path / name).unlink(missing_ok=True)
    if not any(path.iterdir()):
        path.rmdir()
