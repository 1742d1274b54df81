"""Which images there are among files, folders and globs, and what each output is called."""

from __future__ import annotations

import glob
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fullyconv.data.channels import is_first
from fullyconv.data.images import SUFFIXES
from fullyconv.data.unread import UNREAD
from fullyconv.files import BadFile, FileWarning, calls_itself_store, counted, is_store
from fullyconv.outputs import Outputs, Predictions
from fullyconv.predict.work import Task
from fullyconv.types import Levels


class _Match(NamedTuple):
    """A file that an input stands for: it lies ``below`` the ``root`` that was given, or its own folder.

    Both are text: names of a hundred thousand pictures take seconds to handle as ``Path``.
    """

    file: Path
    root: str
    below: str


def find_images(inputs: Iterable[Path | str], *, out: Path | None = None, levels: Levels | None = None) -> list[Task]:
    """Expand files, folders (with their subfolders) and globs to pictures, as ``find_files`` does.

    By ``levels``, the model's, a picture may be several files: folders and globs then stand for the first of each. Of
    pictures in formats that are not read, which folders and globs pass over, a warning says how many there are.
    """
    beside = () if levels is None else levels.beside
    passed: dict[str, dict[Path, None]] = {}

    def wanted(file: Path) -> bool:
        if file.suffix.lower() in UNREAD and not file.name.startswith("."):
            passed.setdefault(file.suffix.lower(), {})[file] = None
        return _is_image(file) and is_first(file, beside)

    found = find_files(inputs, wanted, "image", SUFFIXES, out=out)
    for suffix, files in passed.items():
        others = f" and {counted(len(files) - 1, 'more file')}" if len(files) > 1 else ""
        what = f"not read{others}: {suffix} is none of {', '.join(SUFFIXES)}: save them as one of these"
        warnings.warn(FileWarning(next(iter(files)), what), stacklevel=2)
    return found


def find_files(
    inputs: Iterable[Path | str],
    wanted: Callable[[Path], bool],
    what: str,
    suffixes: Sequence[str],
    *,
    out: Path | None = None,
) -> list[Task]:
    """Expand files, folders (with their subfolders) and globs to tasks, each with a name of its own.

    Outputs are named after their inputs, in the same subfolders. Inputs of one folder that would share a name keep
    their suffix in it (``a.jpg`` and ``a.png`` give ``a.jpg.png`` and ``a.png.png``), those of several folders get
    the folders' names before it (``monday/cam1.png`` and ``tuesday/cam1.png`` give ``monday_cam1.png`` and
    ``tuesday_cam1.png``). Names that differ by case alone, or by how an accent is written, count as one:
    on some file systems they are.

    Args:
        inputs: Files, folders and globs, in this order; a file that several stand for comes once.
        wanted: Which files of folders and globs to take.
        what: What they are called in errors.
        suffixes: Their suffixes, for errors.
        out: The output folder: what earlier runs have written there is no input, nor are predictions elsewhere, unless
            they are named one by one.

    Returns:
        A task for each file.

    Raises:
        BadFile: For an input that matches nothing.

    >>> from pathlib import Path
    >>> [str(task.target) for task in find_files([__file__], lambda file: True, "file", [".py"])]
    ['finding']
    """
    ours, predictions = None if out is None else Outputs(out), Predictions()

    def taken(file: Path) -> bool:
        return wanted(file) and not (ours is not None and ours.wrote(file)) and file not in predictions

    found: dict[str, _Match] = {}  # by absolute path
    for given in map(str, inputs):
        matches = list(_expand(given, taken))
        if not matches:
            rest = " but what fullyconv wrote" if any(_expand(given, wanted)) else _others(given)
            raise BadFile(given, f"no {what} there{rest}", f"name files, folders or globs of {', '.join(suffixes)}")
        for match in matches:
            found.setdefault(os.path.abspath(match.file), match)
    return _named(list(found.values()))


def _others(given: str) -> str:
    """Say what there is instead, by the most frequent suffix."""
    suffixes = Counter(match.file.suffix for match in _expand(given, _told_by_name))
    found = suffixes.most_common(1)
    return f", but {counted(found[0][1], f'{found[0][0]} file')}" if found else ""


def _told_by_name(file: Path) -> bool:
    return bool(file.suffix) and not file.name.startswith(".")


def _expand(given: str, wanted: Callable[[Path], bool]) -> Iterator[_Match]:
    """List the files that one input stands for, in order of their names."""
    if _is_store(given):
        yield _Match(Path(given), *os.path.split(os.path.normpath(given)))
    elif os.path.isdir(given):
        for below in sorted(_below(given), key=lambda name: name.split(os.sep)):
            if wanted(file := Path(given, below)):
                yield _Match(file, given, below)
    elif os.path.isfile(given):
        yield _Match(Path(given), *os.path.split(given))
    else:
        for name in sorted(glob.glob(given, recursive=True)):
            if wanted(file := Path(name)):
                yield _Match(file, *os.path.split(name))


def _below(folder: str) -> Iterator[str]:
    """List the files of a folder and its subfolders, relative to it; a Zarr store counts as a file.

    Links to folders are followed where they lead elsewhere: what lies in the folder comes once, by its own name.
    """
    known = [os.path.realpath(folder)]

    def leads_back(path: str) -> bool:
        target = os.path.realpath(path)
        seen = any(os.path.commonpath([each, target]) in (each, target) for each in known)
        known.extend([] if seen else [target])
        return seen

    for place, folders, names in os.walk(folder, followlinks=True):
        inside = os.path.relpath(place, folder)
        paths = {name: os.path.join(place, name) for name in sorted(folders)}
        stores = [name for name, path in paths.items() if _is_store(path)]
        folders[:] = [
            name
            for name, path in paths.items()
            if name not in stores and not (os.path.islink(path) and leads_back(path))
        ]
        names += stores
        yield from names if inside == os.curdir else (os.path.join(inside, name) for name in names)


def _named(matches: Sequence[_Match]) -> list[Task]:
    names = name_outputs([(match.root, match.below) for match in matches])
    return [Task(match.file, Path(name)) for match, name in zip(matches, names, strict=True)]


def name_outputs(places: Sequence[tuple[str, str]]) -> list[str]:
    """Name what is written for each file, so that no two are alike.

    Args:
        places: The folder that was given, and the file's name below it.

    Returns:
        The stems of what is written, in the same order.

    >>> name_outputs([("monday", "a.jpg"), ("tuesday", "a.jpg"), ("tuesday", "b.jpg")])
    ['monday_a', 'tuesday_a', 'b']
    """
    stems = [os.path.splitext(below)[0] for _, below in places]
    alike = [(root, _alike(stem)) for (root, _), stem in zip(places, stems, strict=True)]
    counts = Counter(alike)
    names = [below if counts[key] > 1 else stem for (_, below), key, stem in zip(places, alike, stems, strict=True)]
    return _numbered(_told_apart([root for root, _ in places], names))


def _told_apart(roots: Sequence[str], names: Sequence[str]) -> list[str]:
    """Put as many folders' names before the names of several roots as tell them apart."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(_alike(name), []).append(index)
    longer = list(names)
    for group in groups.values():
        folders = {index: Path(os.path.abspath(roots[index])).parts[1:] for index in group if len(group) > 1}
        for depth in range(1, max(map(len, folders.values()), default=0) + 1):
            if 1 < len(set(folders.values())) == len({folders[index][-depth:] for index in group}):
                for index in group:
                    longer[index] = "_".join([*folders[index][-depth:], names[index]])
                break
    return longer


def _numbered(names: Iterable[str]) -> list[str]:
    """Add a number to names that are taken, where only case or the form of an accent tells inputs apart."""
    taken: set[str] = set()
    unique = []
    for name in names:
        candidate, number = name, 1
        while _alike(candidate) in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(_alike(candidate))
        unique.append(candidate)
    return unique


def _alike(name: str) -> str:
    """Return what is equal for names that are one on a file system that ignores case, or normalises Unicode."""
    return unicodedata.normalize("NFC", name).casefold()


def _is_image(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    # A link that leads nowhere, or a pipe, is a bad picture rather than none: its reader says so.
    return (path.suffix.lower() in SUFFIXES and not path.is_dir()) or _is_store(path)


def _is_store(path: Path | str) -> bool:
    """Return whether a folder is a picture: a store, or what is left of one (its reader says what is wrong with it).

    A folder of pictures that is merely called so is none.
    """
    if is_store(path) or not calls_itself_store(path):
        return is_store(path)
    inside = (os.path.join(place, name) for place, folders, names in os.walk(path) for name in (*folders, *names))
    return not any(is_store(each) or os.path.splitext(each)[1].lower() in SUFFIXES for each in inside)
