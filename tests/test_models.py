"""Models that come with the package: found by name, listed, never written to."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fullyconv import build, load, models, save
from fullyconv.checkpoint import find_model, store_crf
from fullyconv.cli import app
from fullyconv.crf import CRFParameters
from fullyconv.files import BadFile
from fullyconv.types import ClassSet


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one model, and an empty folder to work in."""
    home = tmp_path / "package"
    notes = {"mean_iu": 0.5, "licence": "CC0"}
    folder = save(build("fcn4s-lenet", 2), home / "tiny", classes=ClassSet(("ink", "paper")), notes=notes, compact=True)
    (folder / "README.md").write_text("# tiny\n")
    monkeypatch.setattr(models, "HOME", home)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return home


def test_a_model_is_found_by_its_name(home: Path) -> None:
    assert load("tiny").classes.names == ("ink", "paper")
    assert find_model(Path("tiny")) == home / "tiny"


def test_a_folder_of_that_name_comes_first(home: Path) -> None:
    save(build("fcn4s-lenet", 3), "tiny")
    assert len(load("tiny").classes) == 3


def test_an_unknown_name_lists_those_there_are(home: Path) -> None:
    with pytest.raises(BadFile, match=r"tiyn: no such folder: check the path, or name a model of the package: tiny"):
        load("tiyn")


def test_nothing_is_written_into_the_package(home: Path) -> None:
    before = {path.name: path.read_bytes() for path in (home / "tiny").iterdir()}
    for name in ("tiny", home / "tiny"):
        with pytest.raises(BadFile, match=r"copy .*tiny and name the copy"):
            store_crf(Path(name), CRFParameters())
    assert {path.name: path.read_bytes() for path in (home / "tiny").iterdir()} == before


def test_the_command_lists_network_labels_score_and_licence(home: Path) -> None:
    said = CliRunner().invoke(app, ["models"], env={"COLUMNS": "200"}).output
    for word in ("tiny", "fcn4s-lenet", "ink, paper", "0.500", "CC0", "README.md"):
        assert word in said


def test_names_are_not_cut_short_where_the_terminal_is_narrow() -> None:
    said = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"}).output
    for name in models.packaged():
        assert f"│ {name} " in said


def test_every_model_of_this_package_opens_and_has_a_card() -> None:
    for name, folder in models.packaged().items():
        config = load(name)
        assert len(config.classes) > 1
        assert (folder / "README.md").read_text().startswith("#")
