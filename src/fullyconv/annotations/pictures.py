"""The pictures below a folder, found by what documents call them."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from fullyconv.annotations.documents import said_split
from fullyconv.annotations.shapes import Drawing
from fullyconv.data.images import suffix_of
from fullyconv.data.layout import Found, look
from fullyconv.data.naming import folded
from fullyconv.files import BadFile
from fullyconv.outputs import Predictions

UNPACKED = ".unpacked"  # a folder of pictures that were in documents
UPLOADED = re.compile(r"[0-9a-f]{8}-")  # what Label Studio puts before the names of uploaded files


class Pictures:
    """The pictures below a folder, but those that ``predict`` wrote.

    Names in documents lead nowhere by themselves: only what lies below the folder is found, whatever they say.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        predictions = Predictions()  # drawn from pictures, not pictures that are drawn on
        self.found = [found for found in look(root) if found.path not in predictions]
        self._by_name: dict[str, list[Found]] = defaultdict(list)
        for found in self.found:
            self._by_name[folded(found.path.name)].append(found)
            self._by_name[folded(found.path.stem) + "/"].append(found)  # no name has a slash

    def find(self, name: str, document: Path, split: str = "") -> Found:
        """Find a picture.

        Args:
            name: A name, path or address of any system, of which the file's name and, among several, the folders count.
            document: The file that names it; what lies beside it comes first.
            split: What it says of the split; of pictures that fit alike, those in such folders come first.

        Raises:
            BadFile: If there is none, or several are meant as well.
        """
        parts = [folded(part) for part in _path(name).split("/") if part not in ("", ".", "..")] or [""]
        candidates = self._called(parts[-1])
        if not candidates:
            what = f"names the picture {name[:100]!r}, which is not there"
            raise BadFile(document, what, f"put it below {self.root}, or remove it from the document")
        rated = [
            (_shared(found, parts), found.path.parent == document.parent, split in self._splits(found), found)
            for found in candidates
        ]
        most = max(rated, key=lambda each: each[:3])
        if sum(each[:3] == most[:3] for each in rated) > 1:
            what = f"names the picture {name[:100]!r}, and several are called so"
            raise BadFile(document, what, f"rename them: {rated[0][3].path} and {rated[1][3].path}")
        return most[3]

    def unpack(self, drawing: Drawing, folder: Path) -> Found:
        """Write the picture's file that is in a document.

        Args:
            drawing: Of the document; it has one.
            folder: Where it is written, called as the document calls it, with the suffix that its content has.

        Returns:
            The picture, of which the document's place says what that of a file would.

        Raises:
            BadFile: For what is no picture.
        """
        assert drawing.embedded is not None
        content = drawing.embedded()
        suffix = suffix_of(content)
        if not suffix:
            raise BadFile(drawing.document, "imageData is no picture", "put the picture's file beside the document")
        name = PurePosixPath(_path(drawing.name)).stem or drawing.document.stem
        path = folder / drawing.document.relative_to(self.root).with_suffix("") / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return replace(self._documents[drawing.document], path=path, role="image", stem=name)

    @cached_property
    def _documents(self) -> dict[Path, Found]:
        return {found.path: found for found in look(self.root, (".json",))}

    def _splits(self, found: Found) -> set[str]:
        """Return the splits that the folders of a picture say: ``train``, and ``train2017`` too."""
        folders = found.path.parent.relative_to(self.root).parts
        return {split for split in (found.split, *map(said_split, folders)) if split}

    def _called(self, name: str) -> list[Found]:
        """Return what is called so, or so without what an upload put before it, or so with another suffix."""
        spellings = [name, UPLOADED.sub("", name, count=1)]
        spellings += [f"{Path(spelling).stem}/" for spelling in spellings]
        return next((self._by_name[spelling] for spelling in spellings if spelling in self._by_name), [])


def _path(name: str) -> str:
    """Return the path in an address: of Label Studio's local files it is behind ``?d=``."""
    if "?" in name or "%" in name or "://" in name:
        try:
            parts = urlsplit(name)
        except ValueError:
            return name
        name = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    return name.replace("\\", "/")


def _shared(found: Found, parts: list[str]) -> int:
    """Count the names that a file's path and a document's have in common, from the end."""
    ours = [folded(part) for part in found.path.parent.parts]
    theirs = parts[:-1]
    count = 0
    while count < min(len(ours), len(theirs)) and ours[-1 - count] == theirs[-1 - count]:
        count += 1
    return count
