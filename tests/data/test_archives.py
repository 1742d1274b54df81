from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from fullyconv.data.archives import is_archive, unpack
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS

FILES = {"VOCdevkit/VOC2012/a.txt": b"a" * 512, "VOCdevkit/b.bin": bytes(range(256)) * 50, "empty": b""}


def tar(path: Path, files: dict[str, bytes], *entries: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as pack:
        for entry in entries:
            pack.addfile(entry)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            pack.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED  # any name, also none
            with pack.open(info, "w") as entry:
                entry.write(content)
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("suffix", ["tar", "tgz", "tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_archives_unpack_to_what_went_in(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    packing = suffix.replace("tgz", "tar.gz").partition(".")[2]
    archive = zipped(path, FILES) if suffix == "zip" else tar(path, FILES, mode=f"w:{packing}")
    assert is_archive(archive)
    done = unpack(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    assert (done.files, done.size, done.skipped) == (3, sum(map(len, FILES.values())), ())
    unpack(archive, tmp_path / "out")  # once more, over itself
    assert contents(tmp_path / "out") == FILES


def test_other_files_are_no_archives() -> None:
    assert not is_archive(Path("labels.txt"))


@pytest.mark.parametrize("form", [tar, zipped])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a/../b/../../evil"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, form: object) -> None:
    archive = form(tmp_path / ("x.zip" if form is zipped else "x.tar"), {"good": b"1", name: b"2"})
    with pytest.raises(BadFile, match="leads out of the folder"):
        unpack(archive, tmp_path / "deep" / "out")
    assert set(contents(tmp_path)) == {archive.name, "deep/out/good"}


@pytest.mark.parametrize("form", [tar, zipped])
@pytest.mark.parametrize("name", ["/evil", "//evil", "..\\evil", "C:\\evil", "C:/evil"])
def test_absolute_and_foreign_names_stay_inside(tmp_path: Path, name: str, form: object) -> None:
    archive = form(tmp_path / ("x.zip" if form is zipped else "x.tar"), {name: b"2"})
    unpack(archive, tmp_path / "deep" / "out")
    (file,) = set(contents(tmp_path)) - {archive.name}
    assert file.startswith("deep/out/")


@pytest.mark.parametrize("form", [tar, zipped])
@pytest.mark.parametrize("name", ["", ".", "a/.."])
def test_files_without_a_name_are_refused(tmp_path: Path, name: str, form: object) -> None:
    with pytest.raises(BadFile, match="holds a file called"):
        unpack(form(tmp_path / ("x.zip" if form is zipped else "x.tar"), {name: b"2"}), tmp_path / "out")


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.pax_headers = {"path": "a\0b"}
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as pack:
        pack.addfile(info)
    with pytest.raises(BadFile, match="leads out of the folder"):
        unpack(tmp_path / "x.tar", tmp_path / "out")


def test_sparse_files_are_refused_before_they_are_written(tmp_path: Path) -> None:
    """1.5 kB of GNU tar that claims a file of 3 GiB."""
    info = tarfile.TarInfo("holes")
    info.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"00000000000\x0000000000000\x00"  # one piece of no bytes, at the start
    block[483:495] = b"30000000000\x00"  # the real size, octal: 3 GiB
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "x.tar").write_bytes(bytes(block) + b"\0" * 1024)
    with pytest.raises(BadFile, match="'holes' is a file with holes"):
        unpack(tmp_path / "x.tar", tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_links_and_devices_are_skipped_and_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    entries = [
        link("soft", str(outside)),
        link("hard", "../outside/x", tarfile.LNKTYPE),
        link("pipe", "", tarfile.FIFOTYPE),
        link("device", "", tarfile.CHRTYPE),
    ]
    archive = tar(tmp_path / "x.tar", {"soft/evil": b"1"}, *entries)
    done = unpack(archive, tmp_path / "out")
    assert done.skipped == ("soft", "hard", "pipe", "device")
    assert contents(tmp_path / "out") == {"soft/evil": b"1"}  # in a folder of that name, not through the link
    assert contents(outside) == {}


def test_links_in_zips_are_skipped(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as pack:
        info = zipfile.ZipInfo("soft")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        pack.writestr(info, "/etc")
    assert unpack(tmp_path / "x.zip", tmp_path / "out").skipped == ("soft",)
    assert contents(tmp_path / "out") == {}


def test_links_that_are_already_there_are_not_written_through(tmp_path: Path) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (outside / "file").write_bytes(b"mine")
    (out / "folder").symlink_to(outside)
    (out / "file").symlink_to(outside / "file")
    for name in ("folder/evil", "file"):
        with pytest.raises(BadFile, match="leads out of the folder"):
            unpack(tar(tmp_path / "x.tar", {name: b"theirs"}), out)
    assert contents(outside) == {"file": b"mine"}


@pytest.mark.parametrize("suffix", ["tar.gz", "zip"])
def test_bombs_are_stopped(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LIMITS, "archive_bytes", 5_000_000)
    files = {f"{index}": b"\0" * 2_000_000 for index in range(4)}
    path = tmp_path / f"x.{suffix}"
    archive = zipped(path, files) if suffix == "zip" else tar(path, files, mode="w:gz")
    with pytest.raises(BadFile, match="unpacks to more than 5000000 bytes"):
        unpack(archive, tmp_path / "out")
    assert sum(map(len, contents(tmp_path / "out").values())) <= 5_000_000
    monkeypatch.setattr(LIMITS, "archive_files", 2)
    with pytest.raises(BadFile, match="more than 2 files"):
        unpack(tar(tmp_path / "y.tar", {"a": b"", "b": b"", "c": b""}), tmp_path / "out2")


def test_headers_of_any_size_are_not_read_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096)
    with pytest.raises(BadFile, match="header that asks for"):
        unpack(tmp_path / "x.tar", tmp_path / "out")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_broken_archives_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    whole = (zipped(path, FILES) if suffix == "zip" else tar(path, FILES, mode=f"w:{suffix[4:]}")).read_bytes()
    path.write_bytes(whole[: 2000 if suffix == "tar" else len(whole) // 2])
    with pytest.raises(BadFile, match=f"{path.name}: (not a sound archive|stopped)") as caught:
        unpack(path, tmp_path / "out")
    assert "fetch it again" in caught.value.fix
    path.write_text("no archive at all, but a page that says sorry")
    with pytest.raises(BadFile, match="not a sound archive"):
        unpack(path, tmp_path / "out")
