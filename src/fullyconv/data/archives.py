"""Unpack tar and zip archives from strangers: nothing lands outside the folder, nothing grows without bound."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

CHUNK = 1 << 20
SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".zip")

DISTRUST = "do not use this archive: it is not the published one"


@dataclass
class Unpacked:
    """What came of an archive: files written, bytes in them, and the links and devices that were left out."""

    files: int = 0
    size: int = 0
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Member:
    """An entry of an archive; ``content`` is ``None`` for what is neither file nor folder."""

    name: str
    is_folder: bool
    content: IO[bytes] | None


class _Guarded:
    """A stream for ``tarfile`` that refuses to read a header of any size into memory.

    ``tarfile`` reads long names and extended headers in one piece of the size that the archive claims.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read at most ``LIMITS.header_bytes`` bytes."""
        if not 0 <= size <= LIMITS.header_bytes:
            raise tarfile.TarError(f"a header that asks for {size} bytes")
        return self._stream.read(size)


def is_archive(path: Path) -> bool:
    """Return whether a name is that of an archive."""
    return path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path) -> Unpacked:
    """Unpack an archive over what is in a folder. Links and devices are skipped, never followed.

    Entries are read one by one and written by ourselves, not by ``extractall``: only so can the bytes of all
    of them be counted while they come, whatever their headers claim.

    Args:
        archive: A tar file, plain or compressed by gzip, bzip2 or xz, or a zip file.
        folder: Where to; made if it is not there. A leading slash of a name in the archive is dropped.

    Returns:
        What was written and what was left out.

    Raises:
        BadFile: For a broken archive, a name that leads out of ``folder`` (by ``..`` or through a link that is
            there), a file with holes, and beyond ``LIMITS.archive_bytes`` or ``LIMITS.archive_files``.

    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    done = Unpacked()
    try:
        with archive.open("rb") as file:
            for member in _zip_members(file) if archive.name.lower().endswith(".zip") else _tar_members(file):
                _place(member, folder, archive, done)
    except BadFile:
        raise
    except (ValueError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise BadFile(archive, f"not a sound archive ({error})", "remove it and fetch it again") from None
    except (NotImplementedError, RuntimeError) as error:  # zipfile: odd compression, passwords
        raise BadFile(archive, f"cannot be unpacked ({error})", DISTRUST) from None
    except OSError as error:
        # gzip and bz2 say with OSError that the archive is broken, the system that the disk is full.
        fix = "remove the archive and fetch it again" if error.errno is None else "make room, or choose another folder"
        raise BadFile(archive, f"stopped after {done.files} files ({error})", fix) from None
    return done


def _tar_members(file: BinaryIO) -> Iterator[_Member]:
    with tarfile.open(fileobj=cast("Any", _Guarded(_decompressed(file))), mode="r:") as tar:
        for entry in tar:
            if entry.issparse():  # 1.5 kB of tar may hold 3 GiB of nothing, and no data set needs that
                raise tarfile.TarError(f"{entry.name!r} is a file with holes")
            yield _Member(entry.name, entry.isdir(), tar.extractfile(entry) if entry.isreg() else None)


def _decompressed(file: BinaryIO) -> BinaryIO:
    mark = file.read(6)
    file.seek(0)
    if mark.startswith(b"\x1f\x8b"):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if mark.startswith(b"BZh"):
        return cast("BinaryIO", bz2.BZ2File(file))
    return cast("BinaryIO", lzma.LZMAFile(file)) if mark.startswith(b"\xfd7zXZ\0") else file


def _zip_members(file: BinaryIO) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as pack:
        for entry in pack.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the archive's maker did not say
            is_folder = entry.filename.endswith("/")  # ``is_dir`` fails for a name of no letters
            if is_folder or kind not in (0, stat.S_IFREG):
                yield _Member(entry.filename, is_folder, None)
            else:
                with pack.open(entry) as content:
                    yield _Member(entry.filename, False, content)


def _place(member: _Member, folder: Path, archive: Path, done: Unpacked) -> None:
    """Write one entry, and count it."""
    target = _target(member.name, folder, archive)
    if member.content is not None and target == folder:
        raise BadFile(archive, f"holds a file called {member.name!r}", DISTRUST)
    if member.is_folder:
        target.mkdir(parents=True, exist_ok=True)
        return
    if member.content is None:
        done.skipped = (*done.skipped, member.name)
        return
    done.files += 1
    if done.files > LIMITS.archive_files:
        raise BadFile(archive, f"more than {LIMITS.archive_files} files", DISTRUST)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # not written through, should it be a link
    with target.open("xb") as out:
        while chunk := member.content.read(CHUNK):
            done.size += len(chunk)
            if done.size > LIMITS.archive_bytes:
                raise BadFile(archive, f"unpacks to more than {LIMITS.archive_bytes} bytes", DISTRUST)
            out.write(chunk)


def _target(name: str, folder: Path, archive: Path) -> Path:
    """Return the place of an entry; raises ``BadFile`` for one outside ``folder``, also through links."""
    try:
        # The standard library's judge of names in tar files is as right about those in zip files.
        inside = tarfile.data_filter(tarfile.TarInfo(name), str(folder)).name
    except (tarfile.FilterError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadFile(archive, f"holds {name!r}, which leads out of the folder ({error})", DISTRUST) from None
    return Path(os.path.normpath(folder / inside))
