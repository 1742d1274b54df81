"""Files: the error that names one, and files and folders that appear whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

LONGEST_NAME = 255  # bytes of a file's name on the usual systems
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Write the codes of characters that a terminal would obey, and of bytes of file names that are no text.

    >>> printable("a\x1b[31m.png"), printable(b"stra\xdfe.png".decode("utf-8", "surrogateescape"))
    ('a\\x1b[31m.png', 'stra\\xdfe.png')
    """
    return UNPRINTABLE.sub(lambda found: _code(ord(found[0])), text)


def _code(number: int) -> str:
    """Return the code of a byte (one that Python carries as a surrogate, too), or of what turns the writing."""
    return f"\\u{number:04x}" if 255 < number < 0xD800 else f"\\x{number & 0xFF:02x}"


def counted(number: int, noun: str) -> str:
    """Write a number with what it counts.

    >>> counted(1, "picture"), counted(2, "picture")
    ('1 picture', '2 pictures')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


STORE_MARKS = ("zarr.json", ".zarray", ".zgroup")  # one of which lies in each array and group


def is_store(path: Path | str) -> bool:
    """Return whether a folder is a Zarr array or group."""
    return any(os.path.isfile(os.path.join(path, mark)) for mark in STORE_MARKS)


def calls_itself_store(path: Path | str) -> bool:
    """Return whether a folder is called as Zarr stores are, whatever is in it."""
    return os.path.splitext(os.fspath(path).rstrip("/"))[1].lower() == ".zarr" and os.path.isdir(path)


class BadFile(ValueError):
    """A file that cannot be used: which, why, and what to do about it."""

    def __init__(self, path: Path | str, what: str, fix: str) -> None:
        super().__init__(f"{path}: {what}: {fix}")
        self.path, self.what, self.fix = str(path), what, fix

    def __reduce__(self) -> tuple[type[BadFile], tuple[str, str, str]]:
        """Travel between processes: an exception is otherwise rebuilt from its message alone."""
        return BadFile, (self.path, self.what, self.fix)


class FileWarning(UserWarning):
    """What is worth knowing of a file that is used: which, and what.

    >>> str(FileWarning("a.png", "is dark"))
    'a.png: is dark'
    """

    def __init__(self, path: Path | str, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path, self.what = str(path), what


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` to write to; it takes the place of ``path`` when the block ends.

    If the block raises, what was written is removed and an older ``path`` stays as it was.
    """
    draft = draft_file(path)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def draft_file(path: Path) -> Path:
    """Return the temporary name under which ``whole_file`` writes a file, beside it: a hidden one that nobody uses.

    >>> draft_file(Path("out/scores.json")).name
    '.scores.json.new'
    """
    name = path.name
    if len(os.fsencode(name)) > LONGEST_NAME - len("..new"):
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}.new")


@contextmanager
def whole_folder(path: Path, *, keep: bool = True) -> Iterator[Path]:
    """Yield a new, empty folder to fill; it takes the place of ``path`` in one step when the block ends.

    Every file and the folder itself have reached the disk before that step, so that not even a power cut leaves
    half of it. An older ``path`` stays as it was until then, and if the block raises; files in it that the new one
    does not have (a reader's notes, say) are taken over, unless ``keep`` is false.
    """
    draft = draft_folder(path)
    settle_folder(path)
    draft.mkdir(parents=True)
    try:
        yield draft
        for entry in path.iterdir() if keep and path.is_dir() else ():
            if not (draft / entry.name).exists():
                (shutil.copytree if entry.is_dir() else shutil.copy2)(entry, draft / entry.name)
        for file in draft.rglob("*"):
            sync(file)
        sync(draft)
        _move_folder(draft, path)
        sync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def draft_folder(path: Path) -> Path:
    """Return the temporary name under which ``whole_folder`` fills a folder, beside it."""
    return path.with_name(f".{path.name}.new")


def settle_folder(path: Path) -> None:
    """Sweep up what a death during ``whole_folder`` left: ``path`` is then its newest whole state, if there is any."""
    aside = path.with_name(f".{path.name}.old")
    if aside.exists() and not path.exists():
        aside.rename(path)
    for leftover in (draft_folder(path), aside):
        if leftover.exists():
            shutil.rmtree(leftover)


def _move_folder(draft: Path, path: Path) -> None:
    if not path.exists():
        draft.rename(path)
    elif not _exchange(draft, path):  # no system call for it: the old one is nowhere for a moment
        aside = path.with_name(f".{path.name}.old")
        path.rename(aside)
        draft.rename(path)
        shutil.rmtree(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (Linux's renameat2); return whether the system could."""
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux's fcntl.h and fs.h
    try:
        swap = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return bool(swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, has reached the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def state_of(path: Path) -> tuple[int, int]:
    """Return the bytes of a file, or of all files of a folder, and when the last was changed, in nanoseconds.

    >>> state_of(Path(__file__))[0] == Path(__file__).stat().st_size
    True
    """
    files = (entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else (path,)
    found = [file.stat() for file in files]
    return sum(each.st_size for each in found), max((each.st_mtime_ns for each in found), default=0)


def parse_json(content: bytes | str) -> Any:
    """Read JSON from a file of anyone's; raises ``ValueError`` for what is none, or is nested too deeply.

    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: brackets in brackets, too many of them
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("brackets in brackets, too many of them") from None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; the file appears whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(text, "utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write JSON (NaN as null), under a temporary name first."""
    with whole_file(path) as draft:
        draft.write_text(json.dumps(without_nan(document), indent=2, allow_nan=False) + "\n")


def without_nan(value: Any) -> Any:
    """Put null where JSON has no number: NaN and infinity, at any depth.

    >>> without_nan({"iu": (0.5, float("nan"))})
    {'iu': [0.5, None]}
    """
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return value


def take_lock(handle: int) -> bool:
    """Take the lock of an open file, unless another process holds it.

    It dies with this process alone: unlike flock's, the workers it forks do not inherit it.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)  # file systems without locks let everyone in
    return True
