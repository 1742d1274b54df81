"""Download over HTTP(S): what a broken connection left is continued, and nothing unchecked takes the file's name."""

from __future__ import annotations

import errno
import hashlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, cast

from fullyconv.data.sources import Source
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

CHUNK = 1 << 20
HOPELESS = range(400, 500)  # statuses that a repetition does not mend …
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
PATIENT = (408, 425, 429)  # … but for these

Progress = Callable[[int, int | None], None]
"""Called with (bytes there, bytes in all or ``None`` if the server does not say)."""


@dataclass(frozen=True)
class Fetched:
    """A downloaded file, its SHA-256, and whether that was compared with a known one."""

    path: Path
    sha256: str
    verified: bool


class _Broken(Exception):
    """The connection ended early; what came is kept."""


def download(
    source: Source, target: Path, *, progress: Progress | None = None, tries: int = 5, pause_s: float = 2.0
) -> Fetched:
    """Download a file to ``target``, continuing ``target.part`` if an earlier try left it.

    A connection that breaks is taken up again where it broke, until ``tries`` times in a row no byte came,
    with growing pauses (``pause_s``, doubled each time).

    Args:
        source: The address, and the size and sum that are known of the file.
        target: Where to; a file that is there is only checked.
        progress: Told of the bytes that have come.
        tries: Failures in a row after which it gives up.
        pause_s: Seconds before the first new try.

    Returns:
        The file, its sum, and whether that was compared with a known one.

    Raises:
        BadFile: Naming the address: for one that is not http(s), a server that refuses, a size or a sum that is not
            the known one.
    """
    if target.is_file():
        return _verify(source, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _continue(source, part, progress)
            break
        except _Broken as broken:
            failures = 0 if _size(part) > before else failures + 1
            if failures >= tries:
                what = f"broke off after {_size(part)} bytes ({broken})"
                raise BadFile(source.url, what, f"try again: {part} will be continued") from None
            time.sleep(pause_s * 2**failures)
    fetched = _verify(source, part)
    part.replace(target)
    _tag_file(part).unlink(missing_ok=True)
    return Fetched(target, fetched.sha256, fetched.verified)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag_file(part: Path) -> Path:
    """Name the file that remembers which version of the remote file ``part`` is of."""
    return part.with_name(part.name + ".tag")


def _continue(source: Source, part: Path, progress: Progress | None) -> None:
    """Ask for what is missing and append it; raises ``_Broken`` where that may be tried again."""
    if not re.match(r"https?://", source.url, re.IGNORECASE):
        raise BadFile(source.url, "not an address of the web", "use http:// or https://")
    start, version = _size(part), _recall(part)[0]
    if start and source.size == start:
        return
    request = urllib.request.Request(source.url, headers={"User-Agent": "fullyconv", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    if start and version:
        request.add_header("If-Range", version)
    try:
        _receive(request, source, part, progress)
    except urllib.error.HTTPError as error:
        _refused(error, source, part)
    except (OSError, HTTPException) as error:
        if getattr(error, "errno", None) in NO_ROOM:
            raise BadFile(part, f"cannot be written ({error})", "make room, or choose another folder") from None
        raise _Broken(str(error) or type(error).__name__) from None


def _receive(request: urllib.request.Request, source: Source, part: Path, progress: Progress | None) -> None:
    """Write what a server answers to where it belongs: behind the part, or from the start."""
    with cast("HTTPResponse", _opener().open(request, timeout=LIMITS.download_seconds)) as answer:
        start, total = _place(answer, _size(part))
        _check_claim(source, total)
        if start == 0:
            _remember(answer, total, part)
        elif total is not None and _recall(part)[1] not in (None, total):
            _drop(part)
            raise _Broken("the file has changed meanwhile")
        with part.open("r+b" if start else "wb") as file:
            file.truncate(start)
            file.seek(start)
            _copy(answer, file, total, progress)


def _opener() -> urllib.request.OpenerDirector:
    """Make an opener that knows http and https and nothing else, wherever a redirection leads."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _refused(error: urllib.error.HTTPError, source: Source, part: Path) -> None:
    error.close()
    if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{_size(part)}":
        return  # all of it is there: an earlier run ended between the last byte and the check
    if error.code == 416:  # beyond the end: the part is of something else
        _drop(part)
    elif error.code in HOPELESS and error.code not in PATIENT:
        fix = "the data set may have moved: download it by hand from its home page"
        raise BadFile(source.url, f"the server answers {error.code} {error.reason}", fix) from None
    raise _Broken(f"the server answers {error.code} {error.reason}")


def _place(answer: HTTPResponse, wanted: int) -> tuple[int, int | None]:
    """Return where in the file an answer starts, and how long the file is."""
    if answer.status == 206:
        given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if given is None or int(given[1]) != wanted:
            raise _Broken("the server answered with another part of the file")
        return wanted, None if given[2] == "*" else int(given[2])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _check_claim(source: Source, total: int | None) -> None:
    if source.size is not None and total is not None and total != source.size:
        fix = "it is not the published file: download it by hand from its home page"
        raise BadFile(source.url, f"has {total} bytes, not {source.size}", fix)
    if total is not None and total > LIMITS.download_bytes:
        raise BadFile(source.url, f"claims {total} bytes", "that is no data set: check the address")


def _remember(answer: HTTPResponse, total: int | None, part: Path) -> None:
    """Keep what identifies this version of the file: a mark for the server to compare, and the length."""
    version = answer.headers.get("ETag") or ""
    if not version or version.startswith("W/"):  # weak marks do not serve for ranges
        version = answer.headers.get("Last-Modified") or ""
    _tag_file(part).write_text(f"{version}\n{'' if total is None else total}\n")


def _recall(part: Path) -> tuple[str, int | None]:
    """Return the mark and the length of the file that a part is of, empty and ``None`` if not known."""
    if not _tag_file(part).is_file():
        return "", None
    version, total = [*_tag_file(part).read_text().splitlines(), "", ""][:2]
    return version, int(total) if total.isdecimal() else None


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_file(part).unlink(missing_ok=True)


def _copy(answer: HTTPResponse, file: BinaryIO, total: int | None, progress: Progress | None) -> None:
    limit = LIMITS.download_bytes if total is None else total
    while chunk := answer.read1(CHUNK):
        if file.tell() + len(chunk) > limit:
            raise _Broken(f"more than the {limit} bytes announced")
        file.write(chunk)
        if progress is not None:
            progress(file.tell(), total)
    if total is not None and file.tell() < total:
        raise _Broken(f"{file.tell()} of {total} bytes")


def _verify(source: Source, path: Path) -> Fetched:
    """Compare a file with what is known of it; a part that is wrong is removed, a finished file is not."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    found, size = digest.hexdigest(), _size(path)
    wrong = None
    if source.size is not None and size != source.size:
        wrong = f"has {size} bytes, not {source.size}"
    elif source.sha256 is not None and found != source.sha256:
        wrong = f"has SHA-256 {found}, not {source.sha256}"
    if wrong is None:
        return Fetched(path, found, source.sha256 is not None)
    if path.suffix != ".part":
        raise BadFile(path, wrong, "it is not the published file: remove it and fetch it again")
    _drop(path)
    raise BadFile(source.url, wrong, "it was damaged on the way, or it is not the published file: fetch it again")
