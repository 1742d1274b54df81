"""What a command writes: never over an input, never over a file that it did not write itself.

A list in each output folder, ``.fullyconv.jsonl``, says which files are ours: a line before a file is written (its
name was free then, or ours), and one after with its size, time and sum; both say of which input a prediction was made.
A file that is not listed belongs to someone else, and so does one that has been changed since; neither is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fullyconv.files import BadFile, is_store, parse_json, state_of, take_lock

MANIFEST = ".fullyconv.jsonl"
PREDICTIONS = "predict"
PROBE = 1 << 20  # bytes that must be free before work begins
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)

LOCK = ".fullyconv.lock"  # there while a command writes many files

_Entries = dict[str, list[dict[str, Any]]]


class Outputs:
    """The files that a command writes into one folder and its subfolders.

    Args:
        folder: Where they go; it is made, with its parents, by ``check`` or the first file.
        inputs: What the command reads. None of them is ever replaced, whatever leads to it (a link, another
            spelling of its name).
        overwrite: Replace files of ours that have been changed since they were written, or were made of another input,
            too.
        by: What makes the files, for the list: nothing else replaces them. ``PREDICTIONS`` are no inputs of later
            commands that take whole folders.

    Raises:
        BadFile: For a folder within a Zarr store, which is a picture.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp())
    >>> _ = (place / "notes.txt").write_text("of someone else")
    >>> outputs = Outputs(place)
    >>> with outputs.writing("scores.json"):
    ...     _ = (place / "scores.json").write_text("{}")
    >>> outputs.check(["scores.json"])
    >>> outputs.check(["notes.txt"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fullyconv.files.BadFile: ...notes.txt: was not written by fullyconv: ...
    """

    def __init__(self, folder: Path, *, inputs: Iterable[Path] = (), overwrite: bool = False, by: str = "") -> None:
        within = next((place for place in (folder.absolute(), *folder.absolute().parents) if is_store(place)), None)
        if within is not None:
            raise BadFile(folder, f"lies in the Zarr store {within}", "choose another --out")
        self.folder, self._overwrite, self._by = folder, overwrite, by
        self._inputs = set(filter(None, map(_identity, inputs)))
        self._manifest = folder / MANIFEST
        self._listed = _read_manifest(self._manifest)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from writing into the folder for as long as the block lasts.

        Raises:
            BadFile: If another one is writing into it, or it takes no files.
        """
        path = self.folder / LOCK
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise BadFile(self.folder, f"cannot be written ({error.strerror})", "choose another --out") from None
        try:
            if not take_lock(handle):
                what = "another command is writing into it"
                raise BadFile(self.folder, what, "wait until it ends, or choose another --out")
            try:
                # What the other wrote while this one began is listed now.
                self._listed = _read_manifest(self._manifest)
                yield
            finally:
                path.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def check(self, names: Iterable[str], *, made_of: Mapping[str, Path] | None = None) -> None:
        """Refuse, before any work, names that may not be written, and a folder that takes no files.

        Args:
            names: All that will be written, relative to the folder.
            made_of: Of predictions, the input that each name's file will be made of.

        Raises:
            BadFile: For two names that are one on some file systems (other case, other form of an accent), a file
                that is an input, is not ours or was made of another input, and a folder that is a file, cannot be
                written to or is full.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise BadFile(self.folder, "is a file, where outputs need a folder", "name a folder as --out")
        if os.path.lexists(self._manifest) and not _is_list(self._manifest):
            what = "is a link, a folder or a pipe, where the list of what fullyconv wrote belongs"
            raise BadFile(self._manifest, what, "move it away, or choose another --out")
        seen: dict[str, str] = {}
        for name in names:
            alike = unicodedata.normalize("NFC", name).casefold()
            if (other := seen.get(alike)) is not None:
                what = "is needed twice" if other == name else f"is {other!r} on file systems that ignore case"
                raise BadFile(self.folder / name, what, "rename one of the inputs, or give each its own --out")
            seen[alike] = name
            self._refuse(name, (made_of or {}).get(name))
        for name in seen.values():
            for above in Path(name).parents:
                if (file := seen.get(unicodedata.normalize("NFC", above.as_posix()).casefold())) is not None:
                    what = f"would have to be a folder, too, for {name!r}"
                    raise BadFile(self.folder / file, what, "rename one of the inputs, or give each its own --out")
        self._probe()

    @contextmanager
    def writing(self, *names: str, made_of: Path | None = None) -> Iterator[None]:
        """Write these files in the block, and note that they are ours, and of which input they are made.

        Raises:
            BadFile: As ``check`` does, before the block is entered.
        """
        for name in names:
            self._refuse(name, made_of)
        origin = {"by": self._by} if self._by else {}
        origin |= {} if made_of is None else {"of": os.path.realpath(made_of)}
        (self.folder / names[0]).parent.mkdir(parents=True, exist_ok=True)
        self._note([{"file": name} | origin for name in names])
        try:
            yield
        finally:
            self._note([found | origin for name in names if (found := _describe(self.folder, name)) is not None])

    def adopt(self, *names: str, made_of: str) -> None:
        """Note files that another process of the same command has written, and of which input (a path or URL)."""
        origin = ({"by": self._by} if self._by else {}) | {"of": made_of}
        self._note([found | origin for name in names if (found := _describe(self.folder, name)) is not None])

    def note(self, name: str, **facts: Any) -> None:
        """Note something of a file of ours that is not whole yet.

        Args:
            name: The file, relative to the folder.
            facts: What is to be known when the work goes on.
        """
        self._note([{"file": name} | ({"by": self._by} if self._by else {}) | facts])

    def noted(self, name: str) -> dict[str, Any]:
        """Return what was noted last of a file; nothing of one that is not ours."""
        entries = self._listed.get(name)
        return dict(entries[-1]) if entries else {}

    def wrote(self, path: Path) -> bool:
        """Return whether a file is an output of this folder from an earlier command."""
        try:
            name = path.absolute().relative_to(self.folder.absolute()).as_posix()
        except ValueError:
            return False
        return name in self._listed

    def _refuse(self, name: str, made_of: Path | None) -> None:
        path = self.folder / name
        identity = _identity(path)
        if identity is not None and identity in self._inputs:
            raise BadFile(path, "is one of the inputs", "choose another --out: what is read is never written over")
        if not os.path.lexists(path) or (path.is_file() and not path.is_symlink() and path.stat().st_size == 0):
            return  # an empty file holds nothing that could be lost
        entries = self._listed.get(name)
        if path.is_dir() and not path.is_symlink() and not entries:
            raise BadFile(path, "is a folder", "choose another --out, or move it away")
        if not entries:
            raise BadFile(path, "was not written by fullyconv", "choose another --out, or move the file away")
        if (maker := entries[-1].get("by") or self._by) != self._by and not self._overwrite:
            fix = "choose another name or folder, or replace it with --overwrite"
            raise BadFile(path, f"is another command's ({maker})", fix)
        if not self._overwrite and not _as_written(self.folder, name, entries):
            what = "has been changed since fullyconv wrote it"
            raise BadFile(path, what, "choose another --out, or replace it with --overwrite")
        origin = entries[-1].get("of")
        if made_of is not None and origin not in (None, os.path.realpath(made_of)) and not self._overwrite:
            what = f"was made of {origin}, and would be replaced by that of {made_of}"
            raise BadFile(path, what, "choose another --out, or replace it with --overwrite")

    def _note(self, entries: Sequence[dict[str, Any]]) -> None:
        """Add lines to the list; each is written whole, so that a death leaves at most one that is cut off."""
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        with self._manifest.open("a", encoding="ascii") as file:
            file.write(lines)
        for entry in entries:
            self._listed.setdefault(entry["file"], []).append(entry)

    def _probe(self) -> None:
        """Write and remove a megabyte: a folder that cannot take it is named before hours are spent."""
        draft = self.folder / f"{MANIFEST}.probe"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_bytes(bytes(PROBE))
            finally:
                with suppress(OSError):
                    draft.unlink(missing_ok=True)
        except OSError as error:
            what = f"cannot be written to ({error.strerror or error})"
            raise BadFile(self.folder, what, "make room, or choose another --out") from None


class Predictions:
    """Which files are predictions, by the lists of the folders they lie in; each list is read once.

    >>> Path(__file__) in Predictions()
    False
    """

    def __init__(self) -> None:
        self._lists: dict[str, list[tuple[str, _Entries]]] = {}  # of a folder and those above it, by the folder

    def __contains__(self, file: Path) -> bool:
        """Return whether ``predict`` wrote a file."""
        place, name = os.path.split(os.path.abspath(file))
        for folder, listed in self._above(place):
            entries = listed.get(Path(place, name).relative_to(folder).as_posix())
            if entries and entries[-1].get("by") == PREDICTIONS:
                return True
        return False

    def _above(self, place: str) -> list[tuple[str, _Entries]]:
        if place not in self._lists:
            listed = _read_manifest(Path(place, MANIFEST))
            above = os.path.dirname(place)
            self._lists[place] = [(place, listed)] * bool(listed) + (self._above(above) if above != place else [])
        return self._lists[place]


def single_output(
    path: Path, *more: Path, inputs: Iterable[Path] = (), overwrite: bool = False, by: str = ""
) -> Outputs:
    """Check one file, and others beside it, before the work; gives the ``Outputs`` of their folder to write them with.

    Raises:
        BadFile: As ``Outputs.check`` does.
    """
    outputs = Outputs(path.parent, inputs=inputs, overwrite=overwrite, by=by)
    outputs.check([path.name, *(each.name for each in more)])
    return outputs


def files_below(folder: Path) -> list[Path]:
    """List the files of a folder and its subfolders, the lists of what we wrote left out, in order of their names."""
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names if name != MANIFEST]
    return sorted(found)


def out_of_room(error: OSError) -> bool:
    """Return whether writing failed because of the disk and not the file: the next file would fail as well."""
    return error.errno in NO_ROOM


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what a file has one of, whatever names and links lead to it; ``None`` if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_list(path: Path) -> bool:
    """Return whether a path can be our list: a file of its own, not a link to another's or a pipe that waits."""
    return path.is_file() and not path.is_symlink()


def _read_manifest(path: Path) -> _Entries:
    """Read the list of what is ours; lines that a death cut off, or that are none of ours, say nothing."""
    listed: _Entries = {}
    if not _is_list(path):
        return listed
    try:
        text = path.read_text("ascii", errors="replace")
    except OSError:
        return listed
    for line in text.splitlines():
        with suppress(ValueError):
            entry = parse_json(line)
            if isinstance(entry, dict) and isinstance(entry.get("file"), str):
                listed.setdefault(entry["file"], []).append(entry)
    return listed


def _describe(folder: Path, name: str) -> dict[str, Any] | None:
    """Describe a file, or a folder that counts as one, that was written; ``None`` if it was not."""
    path = folder / name
    try:
        path.stat()
        size, changed = state_of(path)
        return {"file": name, "size": size, "mtime_ns": changed, "sha256": _digest(path)}
    except OSError:
        return None


def _digest(path: Path) -> str:
    if path.is_dir():
        whole = hashlib.sha256()
        for below in files_below(path):
            whole.update(f"{below.relative_to(path).as_posix()}\n{_digest(below)}\n".encode(errors="surrogateescape"))
        return whole.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_written(folder: Path, name: str, entries: Sequence[dict[str, Any]]) -> bool:
    """Return whether a file is as one of its entries says; after a death between writing and noting none does."""
    if "sha256" not in entries[-1]:
        return True
    path = folder / name
    size, changed = state_of(path)
    likely = [entry for entry in entries if entry.get("size") == size]
    if any(entry.get("mtime_ns") == changed for entry in likely):
        return True
    return bool(likely) and _digest(path) in [entry.get("sha256") for entry in likely]
