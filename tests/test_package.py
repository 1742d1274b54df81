"""The package as an importer, a type checker and a reader of its pages meet it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fullyconv
from fullyconv.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/**/*.md")])


def test_the_version_is_said_once_and_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"fullyconv {fullyconv.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", fullyconv.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert "version" not in project


def test_dir_lists_what_can_be_reached_and_nothing_else() -> None:
    listed = {name for name in dir(fullyconv) if not name.startswith("_")}
    assert set(fullyconv.__all__) <= listed
    assert {"crf", "caffe", "surgery", "networks", "losses"} <= listed
    for name in listed - {"cli"}:
        assert getattr(fullyconv, name) is not None
    modules = {
        path.stem
        for path in (ROOT / "src" / "fullyconv").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").is_file()) and not path.name.startswith("__")
    }
    assert listed == modules | set(fullyconv.__all__)


@pytest.mark.parametrize("name", ["no_such_thing", "__main__", "_rooms_", "cli.main", "test_package"])
def test_other_names_are_attribute_errors(name: str) -> None:
    with pytest.raises(AttributeError, match=re.escape(repr(name))):
        fullyconv.__getattr__(name)


def test_subpackages_are_attributes_without_importing_them_first() -> None:
    program = "import fullyconv; fullyconv.crf.dense_crf; fullyconv.caffe.load; fullyconv.surgery.linear_to_conv"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_importing_the_package_or_asking_for_help_does_not_wait_for_pytorch() -> None:
    program = "import sys, fullyconv, fullyconv.cli; dir(fullyconv); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("name", ["data.folder", "data.images", "scores", "scores.metrics", "files", "geometry"])
def test_data_and_scores_need_no_models(name: str) -> None:
    """What reads data sets and counts starts at once: neither PyTorch nor numba, nor the rooms of networks."""
    late = ("torch", "numba", "matplotlib", "fullyconv.networks", "fullyconv.trace")
    program = f"import sys, fullyconv.{name}; print([each for each in {late} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_name_that_a_page_spells_can_be_reached(page: Path) -> None:
    for dotted in re.findall(r"(?<!\.)\bfullyconv(?:\.[A-Za-z_]\w*)+", page.read_text()):
        parts = dotted.split(".")[1:]
        assert _reach(parts) is not None, dotted


def _reach(parts: list[str]) -> object:
    """Follow a dotted name from the package on, as attributes; modules deeper down are imported on the way."""
    here: object = fullyconv
    for depth, part in enumerate(parts):
        if not hasattr(here, part):
            here = import_module(".".join(["fullyconv", *parts[: depth + 1]]))
        else:
            here = getattr(here, part)
    return here
