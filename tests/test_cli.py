"""The commands as a user runs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from fullyconv import build, load, save
from fullyconv.cli import app, main
from fullyconv.files import BadFile

TINY = ["--set", "epochs=1", "--set", "crop=[64,64]", "--set", "batch=2", "--set", "device=cpu"]


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    result = CliRunner().invoke(app, ["train", "default", "--data", str(shapes), "--out", str(out), *TINY])
    assert result.exit_code == 0, result.output
    assert "mean IU" in result.output
    return out


def test_training_leaves_a_model_figures_and_a_page(run: Path) -> None:
    for name in ("model/config.json", "model/model.safetensors", "metrics.jsonl", "report.html", "evaluation.json"):
        assert (run / name).is_file(), name
    assert Image.open(run / "confusion.png").width > 200


def test_the_page_is_complete_and_needs_no_network(run: Path) -> None:
    page = (run / "report.html").read_text()
    for part in ("Classes", "Curves", "Confusions", "Worst images", "Best images", "Recipe", "stripes"):
        assert part in page
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!data:|#)', page)
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_evaluate_writes_the_four_scores(run: Path, shapes: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    result = CliRunner().invoke(app, ["evaluate", str(run / "model"), str(shapes), "--json", str(file)])
    assert result.exit_code == 0, result.output
    document = json.loads(file.read_text())
    assert document["images"] == 3
    for key in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
        assert 0 <= document[key] <= 1
        assert f"{document[key]:.4f}" in result.output
    assert len(document["per_class_iu"]) == 6
    assert "convention" in result.output
    assert Image.open(tmp_path / "scores.png").width > 200
    trained = json.loads((run / "evaluation.json").read_text())
    assert trained["mean_iu"] == document["mean_iu"]


def test_predict_skips_a_bad_file_and_says_so(run: Path, shapes: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad [1].png"
    bad.write_text("no picture")
    out = tmp_path / "out"
    images = str(shapes / "val" / "images")
    command = ["predict", str(run / "model"), images, str(bad), "--out", str(out), "--probabilities"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "3 of 4 images labelled" in result.output
    assert "bad [1].png" in result.output
    for path in (shapes / "val" / "images").iterdir():
        mask = Image.open(out / path.name)
        assert mask.size == Image.open(path).size
        assert mask.mode == "P"
        with np.load(out / f"{path.stem}.npz", allow_pickle=False) as file:
            assert file["probabilities"].shape == (6, *mask.size[::-1])


@pytest.mark.parametrize("suffix", [".mat", ".npy", ".hdr", ".tif"])
def test_a_scene_is_no_folder_of_pictures(run: Path, tmp_path: Path, suffix: str) -> None:
    scene = tmp_path / f"x{suffix}"
    scene.write_bytes(b"ENVI")
    trained = CliRunner().invoke(app, ["train", "camvid", "--data", str(scene), "--out", str(tmp_path / "out")])
    assert "for a scene the recipe is hsi" in str(trained.exception)
    scored = CliRunner().invoke(app, ["evaluate", str(run / "model"), str(scene)])
    assert "this model labels pictures" in str(scored.exception)
    predicted = CliRunner().invoke(app, ["predict", str(run / "model"), str(scene), "--out", str(tmp_path / "out")])
    assert predicted.exit_code == 1
    assert "pair" not in predicted.output
    assert ("labels pictures, not scenes" in " ".join(predicted.output.split())) == (suffix != ".tif")


def test_a_sound_set_checks_out_and_a_broken_one_does_not(shapes: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["data", "check", str(shapes)]).exit_code == 0
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{name}.png")
    Image.fromarray(np.array([[0, 1]] * 2, np.uint8).repeat(4, 0).repeat(4, 1)).save(tmp_path / "masks" / "a.png")
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert result.exit_code == 1
    assert "b.png: has no mask" in result.output
    assert "1 problem" in result.output
    assert "2 classes inferred from the masks (class_0, class_1): to name them" in " ".join(result.output.split())
    refused = CliRunner().invoke(
        app, ["train", "default", "--data", str(tmp_path), "--out", str(tmp_path / "run"), *TINY]
    )
    assert refused.exit_code == 1
    assert "b.png: has no mask" in refused.output
    assert not (tmp_path / "run").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "masks"], "written into unasked"
    written = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--write-classes"])
    assert "class_1" in (tmp_path / "classes.yaml").read_text()
    assert "edit their names in" in written.output
    (tmp_path / "classes.yaml").write_text("classes: [sea, land]\n")
    again = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--write-classes"])
    assert "states its classes: nothing is written" in " ".join(again.output.split())
    assert (tmp_path / "classes.yaml").read_text() == "classes: [sea, land]\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "camvit", "--data", "x", "--out", "y"], "did you mean 'camvid'"),
        (["train", "default", "--data", "x", "--out", "y", "--set", "epoch=1"], "did you mean 'epochs'"),
        (["train", "default", "--data", "x", "--out", "y", "--set", "scale=2"], "write 2 numbers, scale=[2,2]"),
        (["train", "default", "--data", "x", "--out", "y", "--set", "scale=[1]"], "write 2 numbers, scale=[0.5,2.0]"),
        (["train", "hsi", "--data", "x", "--out", "y", "--set", "bands=5"], "write a list, bands=[5]"),
        (["train", "default", "--data", "x", "--out", "y", "--set", "network=foo"], "'foo': unknown network 'foo': ch"),
        (["train", "hsi", "--data", "x", "--out", "y", "--set", "network=foo"], "'foo': unknown network 'foo': choose"),
        (["train", "default", "--data", "nowhere", "--out", "y"], "nowhere: no such folder"),
        (["evaluate", "nowhere", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fullyconv", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def every_command(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from every_command(inner, (*words, name))


@pytest.mark.parametrize("words", list(every_command(typer.main.get_command(app))), ids=" ".join)
def test_every_help_has_an_example_of_its_command(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    shown = " ".join(result.output.split())
    assert re.search(rf"Examples?: {' '.join(['fullyconv', *words])} ", shown), result.output


def test_help_does_not_wait_for_pytorch() -> None:
    code = "import sys, fullyconv.cli; print(any(m == 'torch' or m.startswith('matplotlib') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_package_offers_its_names() -> None:
    import fullyconv

    for name in fullyconv.__all__:
        assert getattr(fullyconv, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = fullyconv.nothing


def test_a_function_in_the_working_folder_is_a_trunk_when_it_is_typed(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "typed_nets.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(8, 5))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    settings = ["network=fcn2s-typed_nets:build", "epochs=1", "crop=[32, 32]", "batch=3", "device=cpu"]
    words = [word for setting in settings for word in ("--set", setting)]
    result = CliRunner().invoke(app, ["train", "default", "--data", str(shapes), "--out", "run", *words])
    assert result.exit_code == 0, result.output
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(tmp_path)])
    sys.modules.pop("typed_nets")
    with pytest.raises(BadFile, match=r"--trust typed_nets:build"):
        load(tmp_path / "run" / "model")
    with pytest.raises(ImportError, match=r"put its package on PYTHONPATH"):
        load(tmp_path / "run" / "model", trust="typed_nets:build")
    words = ["run", str(shapes / "val" / "images"), "--out", "labelled"]
    refused = CliRunner().invoke(app, ["predict", *words])
    assert isinstance(refused.exception, BadFile)
    trusted = CliRunner().invoke(app, ["predict", *words, "--trust", "typed_nets:build"])
    assert trusted.exit_code == 0, trusted.output


@pytest.mark.parametrize("given", [["--out", ""], ["--out="]])
def test_an_empty_out_is_not_the_working_folder(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fullyconv", "predict", "model", "photo.jpg", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--out is empty" in capsys.readouterr().err


def test_pictures_are_not_put_into_a_model(tmp_path: Path) -> None:
    model = save(build("fcn4s-lenet", 2), tmp_path / "model")
    result = CliRunner().invoke(app, ["predict", str(model), str(tmp_path), "--out", str(model)])
    assert isinstance(result.exception, BadFile)
    assert "is a model's folder" in str(result.exception)
