"""Images and outputs on any file system that fsspec knows: which there are, what has been done with them."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from fullyconv.data.images import SUFFIXES
from fullyconv.files import BadFile, parse_json
from fullyconv.outputs import Predictions
from fullyconv.predict.finding import name_outputs

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Found = TypeVar("Found")
TABLES = (".csv", ".parquet")
MANIFEST = "manifest"
TRIES, PAUSE_SECONDS = 3, 2.0  # for file systems that are elsewhere


@dataclass(frozen=True)
class Image:
    """An image somewhere, the stem of what is written for it, and what tells whether it has changed."""

    url: str
    target: str
    mark: str


def list_images(inputs: Iterable[str], out: str, *, column: str = "image") -> list[Image]:
    """List the images that files, folders, globs and tables stand for, on any file system that fsspec knows.

    Args:
        inputs: Paths or URLs (``s3://bucket/photos``, ``gs://…``); tables, ``.csv`` or ``.parquet``, hold such in a
            column.
        out: The output folder, whose files are no inputs.
        column: The tables' column.

    Returns:
        Each image once, named as ``find_images`` names outputs.

    Raises:
        BadFile: For an input that matches nothing, and a table without the column.

    >>> list_images(["nowhere/*.png"], "labelled")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fullyconv.files.BadFile: nowhere/*.png: no image there: name files, folders, globs or tables of .png, ...
    """
    predictions, inside = Predictions(), whole(out).rstrip("/") + "/"
    found: dict[str, tuple[str, str, str]] = {}  # root, what is below it, mark; by URL
    for given in inputs:
        matches = [each for each in _expand(given, column) if _wanted(each[0], inside, predictions)]
        if not matches:
            fix = f"name files, folders, globs or tables of {', '.join(SUFFIXES)}"
            raise BadFile(given, "no image there", fix)
        for url, *rest in matches:
            found.setdefault(url, (rest[0], rest[1], rest[2]))
    names = name_outputs([(root, below) for root, below, _ in found.values()])
    return [Image(url, name, mark) for (url, (_, _, mark)), name in zip(found.items(), names, strict=True)]


def _wanted(url: str, inside: str, predictions: Predictions) -> bool:
    path = PurePosixPath(url)
    ours = url.startswith(inside) or ("://" not in url and Path(url) in predictions)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not ours


def _expand(given: str, column: str) -> Iterator[tuple[str, str, str, str]]:
    """List URL, root, what lies below it, and mark of the files that an input stands for."""
    if given.lower().endswith(TABLES):
        for url in _column(given, column):
            full = whole(url)
            yield full, *os.path.split(full), ""
        return
    files, path = system(given)
    root = path
    if files.isdir(path):
        listed = files.find(path, detail=True)
    else:
        listed = {path: files.info(path)} if files.isfile(path) else files.glob(path, detail=True)
        root = ""
    for name, info in sorted(listed.items()):
        if info.get("type") == "file":
            place, below = (root, os.path.relpath(name, root)) if root else os.path.split(name)
            yield _url(files, name), place, below, _mark(info)


def _column(table: str, column: str) -> list[str]:
    import pandas

    try:
        read = pandas.read_csv if table.lower().endswith(".csv") else pandas.read_parquet
        frame = read(table)
    except (OSError, ValueError) as error:
        raise BadFile(table, f"cannot be read as a table ({error})", "write CSV or Parquet") from None
    if column not in frame.columns:
        what = f"has no column {column!r}, but {', '.join(map(str, frame.columns))}"
        raise BadFile(table, what, "name that of paths or URLs with --column")
    return [str(each) for each in frame[column]]


def system(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a path or URL, and its name there; raises ``BadFile`` where that cannot be used."""
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise BadFile(url, f"its file system cannot be used ({error})", "install what it needs (s3fs, gcsfs)") from None
    return files, str(path)


def _url(files: AbstractFileSystem, path: str) -> str:
    """Return what names a file on every machine: of this one's file system its path."""
    return path if is_here(files) else str(files.unstrip_protocol(path))


def is_here(files: AbstractFileSystem) -> bool:
    """Return whether a file system is that of this machine."""
    return "file" in ((files.protocol,) if isinstance(files.protocol, str) else files.protocol)


def whole(url: str) -> str:
    """Return the absolute path, or the URL, that a path or URL stands for."""
    return _url(*system(url))


def _mark(info: Mapping[str, Any]) -> str:
    keys = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")
    version = next((info[key] for key in keys if info.get(key)), "")
    return f"{info.get('size')} {version}"


class Manifest:
    """What has been done for an output folder: lines of JSON in files that are only ever added.

    A file lists what a run is about to write, others what became of it; object stores know no appending.

    Args:
        out: The output folder.

    >>> import tempfile
    >>> place = tempfile.mkdtemp()
    >>> Manifest(place).add([{"image": "a.jpg", "target": "a"}])
    >>> Manifest(place).lines()
    [{'image': 'a.jpg', 'target': 'a'}]
    """

    def __init__(self, out: str) -> None:
        self._files, root = system(out)
        self._folder = f"{root.rstrip('/')}/{MANIFEST}"
        self._run, self._parts = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}", 0

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write lines as one more file."""
        if lines:
            self._parts += 1
            self._files.makedirs(self._folder, exist_ok=True)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            self._files.pipe_file(f"{self._folder}/{self._run}-{self._parts:06d}.jsonl", text.encode())

    def lines(self) -> list[dict[str, Any]]:
        """Read all lines, oldest first; one that a death has cut off says nothing."""
        if not self._files.isdir(self._folder):
            return []
        found = []
        for path in sorted(self._files.glob(f"{self._folder}/*.jsonl")):
            for line in self._files.cat_file(path).splitlines():
                with suppress(ValueError):
                    entry = parse_json(line)
                    if isinstance(entry, dict) and {"image", "target"} <= entry.keys():
                        found.append(entry)
        return found


def steadily(work: Callable[[], Found]) -> Found:
    """Do a work that goes over a network, once more where that fails."""
    for left in range(TRIES - 1, -1, -1):
        try:
            return work()
        except FileNotFoundError:
            raise
        except OSError:
            if not left:
                raise
            time.sleep(PAUSE_SECONDS)
    raise AssertionError  # never comes here
