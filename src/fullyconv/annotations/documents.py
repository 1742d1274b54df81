"""Documents of annotation tools: JSON that anyone may have written, read by a model of what has to be in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fullyconv.data.layout import SPLIT_NAMES
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

Model = TypeVar("Model")
MOST_ERRORS = 20  # that are looked at
PLACE = re.compile(r"[a-zA-Z0-9]\w*")  # a key or a number; pydantic's names of our own kinds begin with _
FIX = "export it again from the tool that wrote it, or leave it out"


class Part(BaseModel):
    """Something in a document; what else stands there is passed over."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)


@contextmanager
def at_place(path: Path, place: str, fix: str = FIX) -> Iterator[None]:
    """Say of what is wrong inside (a ``ValueError``) in which file it stands, and where; raises ``BadFile``."""
    try:
        yield
    except ValueError as error:
        raise BadFile(path, f"{place}: {error}", fix) from None


def read_bytes(path: Path) -> bytes:
    """Read a document whole, within ``LIMITS.annotation_bytes``; raises ``BadFile``."""
    try:
        if not S_ISREG(path.stat().st_mode):
            raise BadFile(path, "is no regular file", "leave it out")  # a pipe would be waited for
        if path.stat().st_size > LIMITS.annotation_bytes:
            raise BadFile(path, f"more than {LIMITS.annotation_bytes} bytes", LIMITS.remedy("annotation_bytes"))
        return path.read_bytes()
    except OSError as error:
        raise BadFile(path, f"unreadable ({error.strerror})", "check the path and its permissions") from None


def read_text(path: Path) -> str:
    """Read a document in UTF-8, with or without a byte order mark; raises ``BadFile``."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadFile(path, "not UTF-8 text", "save it as UTF-8") from None


def read_document(path: Path, kind: type[Model]) -> Model:
    """Read a JSON document.

    Args:
        path: The file.
        kind: What has to be in it.

    Raises:
        BadFile: For what is no JSON, is too large or too deep, or lacks something, with the place.
    """
    try:
        return TypeAdapter(kind).validate_json(read_bytes(path).removeprefix(b"\xef\xbb\xbf"))
    except ValidationError as error:
        # Of the forms that something might have, the one that fits farthest is what was meant.
        first = max(error.errors(include_url=False)[:MOST_ERRORS], key=lambda each: len(each["loc"]))
        where = ".".join(str(part) for part in first["loc"] if PLACE.fullmatch(str(part)))
        said = f"{where}: {first['msg']}" if where else first["msg"]
        raise BadFile(path, f"not usable ({said[:200]})", FIX) from None


def said_split(name: str) -> str:
    """Return the split that a file's name says: ``instances_train2017`` is train; empty if none or several.

    >>> said_split("instances_val2017"), said_split("trainval"), said_split("training_1")
    ('val', '', 'train')
    """
    words = {SPLIT_NAMES[word] for word in re.split(r"[\W_\d]+", name.lower()) if word in SPLIT_NAMES}
    return words.pop() if len(words) == 1 else ""
