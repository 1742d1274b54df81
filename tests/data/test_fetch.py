from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fullyconv.data import fetch
from fullyconv.data.fetch import Fetched, download
from fullyconv.data.sources import SOURCES, Source
from fullyconv.files import BadFile
from fullyconv.limits import LIMITS
from webserver import Server, serving

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(CONTENT) as running:
        yield running


def get(server: Server, folder: Path, *, sha256: str | None = SHA256, size: int | None = None) -> Fetched:
    return download(Source(server.url, sha256, size), folder / "data.bin", pause_s=0, tries=3)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_alone(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetched = download(
        Source(server.url, SHA256, len(CONTENT)), tmp_path / "a" / "b", progress=lambda *call: seen.append(call)
    )
    assert fetched == Fetched(tmp_path / "a" / "b", SHA256, verified=True)
    assert fetched.path.read_bytes() == CONTENT
    assert left(tmp_path / "a") == ["b"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_broken_connections_are_taken_up_where_they_broke(server: Server, tmp_path: Path) -> None:
    server.breaks = [1_000_000, 700_001, 0, 0, 12_345]
    assert get(server, tmp_path).path.read_bytes() == CONTENT
    starts = [None, "bytes=1000000-", "bytes=1700001-", "bytes=1700001-", "bytes=1700001-", "bytes=1712346-"]
    assert server.asked == starts
    assert left(tmp_path) == ["data.bin"]


def test_a_later_run_continues_the_part(server: Server, tmp_path: Path) -> None:
    server.breaks = [500_000, 0, 0, 0]
    with pytest.raises(BadFile, match=r"broke off after 500000 bytes .* will be continued"):
        get(server, tmp_path)
    assert left(tmp_path) == ["data.bin.part", "data.bin.part.tag"]
    server.asked.clear()
    assert get(server, tmp_path).path.read_bytes() == CONTENT
    assert server.asked == ["bytes=500000-"]


def test_a_file_that_changed_meanwhile_is_begun_anew(server: Server, tmp_path: Path) -> None:
    server.breaks = [500_000, 0, 0, 0]
    with pytest.raises(BadFile):
        get(server, tmp_path)
    server.content, server.tag = CONTENT[::-1], '"v2"'
    fetched = get(server, tmp_path, sha256=None)
    assert fetched.path.read_bytes() == CONTENT[::-1]
    assert not fetched.verified


def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.breaks = [500_000]
    assert get(server, tmp_path).path.read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_without_a_version_the_length_tells_whether_the_file_changed(server: Server, tmp_path: Path) -> None:
    server.tag = None
    server.breaks = [500_000]
    assert get(server, tmp_path).path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=500000-"]
    server.breaks = [500_000, 0, 0, 0]
    with pytest.raises(BadFile):
        get(server, tmp_path / "b")
    server.content = CONTENT[::-1] + b"more"
    assert get(server, tmp_path / "b", sha256=None).path.read_bytes() == server.content


def test_a_mixed_file_fails_its_sum_and_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"0" * 1000)
    server.tag = None
    with pytest.raises(BadFile, match="fetch it again"):
        get(server, tmp_path)
    assert left(tmp_path) == []
    assert get(server, tmp_path).verified


def test_a_part_that_is_already_whole_is_accepted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    (tmp_path / "data.bin.part.tag").write_text('"v1"')
    assert get(server, tmp_path).verified
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    assert left(tmp_path) == ["data.bin"]


def test_a_part_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / "data.bin.part.tag").write_text('"v1"')
    assert get(server, tmp_path).path.read_bytes() == CONTENT


def test_a_finished_file_is_checked_not_fetched(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path)
    server.asked.clear()
    assert get(server, tmp_path).verified
    (tmp_path / "data.bin").write_bytes(b"other")
    with pytest.raises(BadFile, match="remove it and fetch it again"):
        get(server, tmp_path)
    assert server.asked == []


def test_a_wrong_sum_is_refused_and_nothing_keeps_the_name(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=f"has SHA-256 {SHA256}, not 00"):
        get(server, tmp_path, sha256="00")
    assert left(tmp_path) == []


def test_a_wrong_size_is_refused_before_downloading(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="has 3000000 bytes, not 7"):
        get(server, tmp_path, size=7)
    assert "data.bin" not in left(tmp_path)


def test_passing_errors_are_waited_for_and_lasting_ones_are_said(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert get(server, tmp_path).verified
    server.statuses = [404]
    server.asked.clear()
    with pytest.raises(BadFile, match="answers 404"):
        download(Source(server.url), tmp_path / "x", pause_s=0)
    assert len(server.asked) == 1


def test_a_full_disk_is_not_a_broken_connection(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "_copy", full)
    with pytest.raises(BadFile, match=r"part: cannot be written .* make room"):
        get(server, tmp_path)
    assert len(server.asked) == 1


def test_nobody_there_is_said_with_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(BadFile, match=r"http://127\.0\.0\.1:9/x: broke off after 0 bytes"):
        download(Source("http://127.0.0.1:9/x"), tmp_path / "x", pause_s=0, tries=2)


@pytest.mark.parametrize("where", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_only_the_web_is_asked(server: Server, tmp_path: Path, where: str) -> None:
    with pytest.raises(BadFile, match="not an address of the web"):
        download(Source(where), tmp_path / "x")
    server.redirect = where
    with pytest.raises(BadFile):
        get(server, tmp_path)
    assert "data.bin" not in left(tmp_path)


def test_absurd_claims_are_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LIMITS, "download_bytes", 1000)
    with pytest.raises(BadFile, match="claims 3000000 bytes"):
        get(server, tmp_path, sha256=None)


def test_the_table_is_sound() -> None:
    assert {"sbdd", "pascal-context", "siftflow", "nyud", *(f"voc{year}" for year in range(2007, 2013))} == set(SOURCES)
    for sources in SOURCES.values():
        for source in sources:
            assert re.fullmatch(r"https?://[\w.-]+/[\w./~-]+", source.url)
            assert source.sha256 is None or re.fullmatch("[0-9a-f]{64}", source.sha256)
