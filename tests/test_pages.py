"""README and docs: Python blocks run, command lines are ones that the package has, files they name are there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner

import fullyconv
from fullyconv.cli import app
from fullyconv.data.synthetic import CLASSES, write_dataset
from fullyconv.hsi.synthetic import make_scene, random_map
from fullyconv.networks.trunks.external import library
from fullyconv.types import ClassSet

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/**/*.md")])
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELLS = ("sh", "bash", "console")
PLACEHOLDER = re.compile(r"…|^[A-Z][A-Z_0-9/]*$")


def blocks(page: str, *languages: str) -> list[str]:
    return [code for language, code in BLOCK.findall(PAGES[page]) if language in languages]


def command_lines(script: str) -> Iterator[list[str]]:
    """Yield the words of every command of a shell script, without prompts and comments."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        for separator in ("&&", ";"):
            if separator in words:
                words = words[: words.index(separator)]
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables before the command
            words = words[1:]
        if words:
            yield words


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the command that the words name and its values; raises what the command line raises."""
    command: Any = typer.main.get_command(app)
    name, rest = "fullyconv", words
    while hasattr(command, "commands"):
        context = command.make_context(name, list(rest))
        if not rest or rest[0] not in command.commands:
            raise ValueError(f"no command {' '.join(words)}")
        name, command, rest = f"{name} {rest[0]}", command.commands[rest[0]], rest[1:]
        assert context is not None
    return name, command.make_context(name, list(rest)).params


def scripts() -> list[tuple[str, list[str]]]:
    """All commands of all pages' shell blocks."""
    return [(page, words) for page in PAGES for code in blocks(page, *SHELLS) for words in command_lines(code)]


def spans() -> list[tuple[str, list[str]]]:
    """All command lines that stand in the text, and in the commands' own help."""
    texts = dict(PAGES) | {f"help of {name}": text for name, text in helps(typer.main.get_command(app), "fullyconv")}
    return [
        (page, shlex.split(" ".join(code.split()).replace("'", "’")))
        for page, text in texts.items()
        for code in re.findall(r"`(fullyconv [^`]+)`", BLOCK.sub("", text))
    ]


def helps(command: Any, name: str) -> Iterator[tuple[str, str]]:
    yield name, command.help or ""
    for word, subcommand in getattr(command, "commands", {}).items():
        yield from helps(subcommand, f"{name} {word}")


def show(case: tuple[str, list[str]]) -> str:
    return f"{case[0]}: {' '.join(case[1])}"[:90]


@pytest.mark.parametrize("case", [each for each in scripts() if each[1][0] == "fullyconv"], ids=show)
def test_every_command_of_a_script_is_one_the_package_has(case: tuple[str, list[str]]) -> None:
    if case[1][1:] in (["--version"], ["--help"]):
        return
    parse(case[1][1:])


@pytest.mark.parametrize("case", spans(), ids=show)
def test_every_command_named_in_a_text_exists_with_its_options(case: tuple[str, list[str]]) -> None:
    """Commands in texts may be cut short; as far as they go, they must be right."""
    command: Any = typer.main.get_command(app)
    words = case[1][1:]
    while words and hasattr(command, "commands"):
        if PLACEHOLDER.search(words[0]) or words[0].startswith("-"):
            break
        assert words[0] in command.commands, f"no command {' '.join(case[1])}"
        command, words = command.commands[words[0]], words[1:]
    options = {spelling for parameter in command.params for spelling in parameter.opts} | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in options, f"{word} is no option of {' '.join(case[1])}"


@pytest.mark.parametrize("case", [each for each in scripts() if each[1][0] != "fullyconv"], ids=show)
def test_every_other_command_of_a_script_is_known_and_names_what_exists(case: tuple[str, list[str]]) -> None:
    page, words = case
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, f"{page}: no target {words[1]}"
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), f"{page}: no file {words[1]}"
    elif words[0] == "torchrun":
        parse(words[words.index("fullyconv") + 1 :])
    elif words[:2] == ["pip", "install"]:
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for extras in re.findall(r"\[([\w,]+)\]", " ".join(words)):
            assert set(extras.split(",")) <= set(known)
    else:
        assert words[0] in (".", "pre-commit"), f"{page}: what is {words}?"


@pytest.mark.parametrize("page", PAGES)
def test_files_of_the_repository_that_a_page_names_are_there(page: str) -> None:
    for file in re.findall(r"`((?:tests|benchmarks|docs|models|examples|src|\.ci)/[\w./-]+)", PAGES[page]):
        if "NAME" not in file:
            assert (ROOT / file).exists(), file
    for file, words in re.findall(r"`(tests/[\w./-]+\.py) -k \"?([\w ]+)\"?`", PAGES[page]):
        tests = re.findall(r"def (test_\w+)", (ROOT / file).read_text())
        for word in words.split(" or "):
            assert any(word in name for name in tests), f"{file} has no test {word}"


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", PAGES[page])):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def furnish(here: Path) -> None:
    """Make the data that the pages' examples name, and a model of one run."""
    for name in ("photos", "camvid"):
        write_dataset(here / name, train=4, val=2)
    fullyconv.save(fullyconv.build("fcn8s-resnet18", classes=6), here / "runs" / "camvid" / "model", classes=CLASSES)
    (here / "holiday").mkdir()
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(here / "holiday" / "beach.jpg")
    labels = random_map(60, 60, classes=3)
    cube, truth = make_scene(labels, ClassSet(("a", "b", "c")), bands=8).cube, labels.astype(np.uint8) + 1
    savemat(here / "PaviaU.mat", {"paviaU": cube})
    savemat(here / "PaviaU_gt.mat", {"paviaU_gt": truth})
    savemat(here / "Samson.mat", {"cube": cube, "labels": truth})
    (here / "my_package").mkdir()
    net = "nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))"
    (here / "my_package" / "nets.py").write_text(f"from torch import nn\n\n\ndef build():\n    return {net}\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages' examples name, what their commands would have made too."""
    torch.manual_seed(0)
    here = tmp_path_factory.mktemp("pages")
    furnish(here)
    for run in ("photos", "first"):
        shutil.copytree(here / "runs" / "camvid", here / "runs" / run)
    (here / "shapes" / "val" / "images").mkdir(parents=True)
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(here / "shapes" / "val" / "images" / "0040.png")
    return here


def given(page: str) -> dict[str, Any]:
    """The names that a page's examples take for granted."""
    rng = np.random.default_rng(0)
    if page == "docs/crf.md":
        return {"scores": rng.normal(size=(3, 12, 15)), "image": rng.integers(0, 255, (12, 15, 3), dtype=np.uint8)}
    return {}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if "timm" in "".join(blocks(page, "python")) else ())
        for page in PAGES
        if blocks(page, "python")
    ],
)
def test_python_blocks_run_one_after_the_other(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    if any("timm" in code for code in blocks(page, "python")):
        offline(monkeypatch)
    namespace = given(page)
    for number, code in enumerate(blocks(page, "python"), start=1):
        exec(compile(code, f"{page}, block {number}", "exec"), namespace)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let timm build without the weights that it would download."""
    timm = library("timm")  # with torchvision's operators where their compiled code does not fit PyTorch's
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **rest: create(name, **rest))


TINY = ["--set", "epochs=1", "--set", "crop=[64,64]", "--set", "batch=2", "--set", "device=cpu"]
TINY_SCENE = ["--set", "steps=2", "--set", "network=fcn1s-spectral1"]
SCRIPTS = {  # of the pages whose commands run on the miniatures: what is added to make them quick
    "README.md": {"train default": [*TINY]},
    "docs/index.md": {"train demo": ["--set", "crop=[64,64]", "--set", "epochs=1"], "data demo": ["--train", "4"]},
    "docs/crf.md": {"crf tune": ["--images", "1", "--trials", "2"]},
    "docs/hyperspectral.md": {"train hsi": TINY_SCENE, "hsi compare": ["--runs", "1", "--method", "SVM"]},
}
QUICK = "README.md"


@pytest.mark.parametrize(
    "page", [QUICK, *(pytest.param(page, marks=pytest.mark.slow) for page in SCRIPTS if page != QUICK)]
)
def test_scripts_run_on_miniatures(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [words for code in blocks(page, *SHELLS) for words in command_lines(code) if words[0] == "fullyconv"]
    assert len(commands) >= 3
    for words in commands:
        line = " ".join(words[1:])
        more = next((more for start, more in SCRIPTS[page].items() if line.startswith(start)), [])
        result = CliRunner().invoke(app, [*words[1:], *more])
        assert result.exit_code == 0, f"{line}: {result.output} {result.exception!r}"


def test_extras_bring_what_the_start_page_says() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGES["docs/index.md"], re.MULTILINE)
    assert {name for name, _ in rows} == {name for name, brought in extras.items() if brought} - {
        "dev",
        "docs",
        "mutants",
    }  # `crf` is a name of old
    for name, brought in rows:
        assert brought.split(", ") == [re.split("[>=]", each)[0] for each in extras[name]]


def test_torchvision_is_imported_as_the_page_on_classifiers_says() -> None:
    call = 'fullyconv.networks.trunks.external.library("timm")'
    assert call in PAGES["docs/classifiers.md"]
    code = f"import fullyconv; {call}; import torchvision, timm; torchvision.models.resnet18()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
