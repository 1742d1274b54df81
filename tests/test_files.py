from __future__ import annotations

import json
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fullyconv.files import BadFile, settle_folder, whole_file, whole_folder, write_json


def listing(folder: Path) -> dict[str, str]:
    """Every file below a folder and what it holds."""
    return {
        file.relative_to(folder).as_posix(): file.read_text() for file in sorted(folder.rglob("*")) if file.is_file()
    }


def test_a_whole_file_appears_alone_when_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "scores.txt"
    with whole_file(path) as draft:
        draft.write_text("new")
        assert draft.parent == path.parent  # so that its name changes in one step
        assert not path.exists()
    assert listing(tmp_path) == {"scores.txt": "new"}


@pytest.mark.parametrize("written", [True, False])
def test_a_file_that_fails_leaves_the_older_one_and_nothing_else(tmp_path: Path, written: bool) -> None:
    path = tmp_path / "scores.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as draft:  # noqa: PT012 (the block is what fails)
        if written:
            draft.write_text("half")
        raise ZeroDivisionError
    assert listing(tmp_path) == {"scores.txt": "old"}


def test_a_file_that_was_never_written_is_an_error_not_a_loss(tmp_path: Path) -> None:
    path = tmp_path / "scores.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass
    assert listing(tmp_path) == {"scores.txt": "old"}


def test_a_whole_folder_takes_the_place_of_the_older_one_and_keeps_foreign_files(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for number in ("first", "second", "third"):
        with whole_folder(folder) as draft:
            assert list(draft.iterdir()) == []
            (draft / "weights").write_text(number)
            (draft / "deep").mkdir()
            (draft / "deep" / "state").write_text(number)
            assert not folder.exists() or (folder / "weights").read_text() != number
        if number == "first":
            (folder / "notes").mkdir()
            (folder / "notes" / "mine").write_text("kept")
            (folder / "readme").write_text("kept")
    assert listing(tmp_path) == {
        "model/deep/state": "third", "model/notes/mine": "kept", "model/readme": "kept", "model/weights": "third",
    }  # fmt: skip


@pytest.mark.parametrize("leftover", ["new", "old"])
def test_a_folder_is_written_over_what_a_death_left(tmp_path: Path, leftover: str) -> None:
    (tmp_path / f".model.{leftover}").mkdir()
    (tmp_path / f".model.{leftover}" / "notes").write_text(leftover)
    with whole_folder(tmp_path / "model") as draft:
        (draft / "weights").write_text("whole")
    found = {"model/weights": "whole"} | ({"model/notes": "old"} if leftover == "old" else {})
    assert listing(tmp_path) == found  # an unfinished draft is dropped, an older folder that was moved aside is not


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems swap folders in two steps")
@pytest.mark.parametrize("relative", [True, False])
def test_on_linux_a_folder_is_exchanged_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("model") if relative else tmp_path / "model"
    folder.mkdir()
    renamed = []
    monkeypatch.setattr(Path, "rename", lambda self, target: renamed.append(self))
    with whole_folder(folder) as draft:
        (draft / "weights").write_text("new")
    assert renamed == []
    assert listing(tmp_path) == {"model/weights": "new"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of open files are read from /proc")
def test_all_has_reached_the_disk_before_the_folder_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    folder = tmp_path / "model"
    folder.mkdir()
    opened = len(list(Path("/proc/self/fd").iterdir()))

    def note(handle: int) -> None:
        name = Path(f"/proc/self/fd/{handle}").readlink().relative_to(tmp_path).as_posix()
        synced.append((name, (folder / "weights").exists()))

    monkeypatch.setattr("os.fsync", note)
    with whole_folder(folder) as draft:
        (draft / "weights").write_text("new")
        (draft / "deep").mkdir()
        (draft / "deep" / "state").write_text("new")
    before = {name for name, placed in synced if not placed}
    assert before == {".model.new", ".model.new/weights", ".model.new/deep", ".model.new/deep/state"}
    assert synced[-1] == (".", True)
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_a_folder_that_fails_leaves_the_older_one_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "model"
    with whole_folder(folder) as draft:
        (draft / "weights").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_folder(folder) as draft:  # noqa: PT012 (the block is what fails)
        (draft / "weights").write_text("half")
        raise ZeroDivisionError
    assert listing(tmp_path) == {"runs/model/weights": "old"}
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("leftovers", [("new",), ("old",), ("new", "old"), ()])
def test_what_a_death_left_is_swept_up(tmp_path: Path, there: bool, leftovers: tuple[str, ...]) -> None:
    folder = tmp_path / "model"
    for name in (("model",) if there else ()) + tuple(f".model.{end}" for end in leftovers):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    settle_folder(folder)
    expected = "model" if there else ".model.old" if "old" in leftovers else None
    assert listing(tmp_path) == ({} if expected is None else {"model/weights": expected})


class _Refusing:
    """A C library whose every function fails."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *given: -1


@pytest.mark.parametrize("there", [True, False])
def test_without_the_systems_exchange_a_folder_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def library(name: str | None) -> _Refusing:
        if not there:
            raise OSError("no such library")
        return _Refusing()

    monkeypatch.setattr("ctypes.CDLL", library)
    for number in ("first", "second"):
        with whole_folder(tmp_path / "model") as draft:
            (draft / "weights").write_text(number)
    assert listing(tmp_path) == {"model/weights": "second"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_json_has_null_for_what_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    document = {"iu": [0.5, math.nan, (math.inf, -math.inf)], "deep": {"k": -2.5, "n": 3, "none": None, "word": "nan"}}
    write_json(path, document)
    expected = {"iu": [0.5, None, [None, None]], "deep": {"k": -2.5, "n": 3, "none": None, "word": "nan"}}
    assert json.loads(path.read_text()) == expected
    assert path.read_text().endswith("}\n")
    assert '\n  "iu"' in path.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.json"]


def test_an_error_names_file_value_and_fix_and_travels_between_processes() -> None:
    error = BadFile(Path("a/b.png"), "no picture", "convert it")
    assert str(error) == "a/b.png: no picture: convert it"
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.what, again.fix, str(again)) == ("a/b.png", "no picture", "convert it", str(error))
    assert isinstance(error, ValueError)
