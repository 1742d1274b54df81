from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

from fullyconv.checkpoint import save, store_temperature
from fullyconv.cli import app, main
from fullyconv.cli.inspect import read_size
from fullyconv.cli.opening import class_index
from fullyconv.networks import build
from fullyconv.networks.trunks import external
from fullyconv.types import ClassSet, SpectralPreprocess

NETS = """
from torch import nn

def small():
    conv, pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(4)
    return nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten(), nn.Linear(4 * 8 * 8, 3))

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.ModuleDict({"mixer": nn.MultiheadAttention(3, 1, batch_first=True)})

    def forward(self, image):
        tokens = image.flatten(2).transpose(1, 2)
        return self.block["mixer"](tokens, tokens, tokens)[0].mean(1)
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package with networks of one's own."""
    (tmp_path / "my_inspected_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_inspected_nets", raising=False)
    return "my_inspected_nets"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, words)], catch_exceptions=False)


def error_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    monkeypatch.setattr(sys, "argv", ["fullyconv", "inspect", *map(str, words)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_a_network_by_name(tmp_path: Path) -> None:
    file = tmp_path / "made" / "net.json"
    result = run("fcn8s-resnet18", "--size", "97x131", "--json", file)
    assert result.exit_code == 0
    for words in ("trunk.stage4.1.conv2", "435", "fcn8s-resnet18 at 3 x 97 x 131", "11,195,391 parameters", "574.04 M"):
        assert words in result.output
    assert "stage3.1.relu │ image" not in result.output
    assert "reach 248 px, smallest input 1 x 1" in result.output
    assert "trunk.stem.1" not in result.output
    document = json.loads(file.read_text())
    assert document["name"] == "fcn8s-resnet18"
    assert document["multiply_adds"] == 574039931
    assert len(document["alignment"]["taps"]) == 3


def test_all_shows_pointwise_layers_too() -> None:
    assert "trunk.stem.1" in run("fcn32s-resnet18", "--all", "--size", "32x32").output


def test_a_classifier_and_what_it_becomes(nets: str) -> None:
    result = run(f"{nets}:small", "--example", "32x32", "--stride", "4")
    assert result.exit_code == 0
    assert f"{nets}:small at 3 x 32 x 32" in result.output
    assert "every unit is the classifier's answer for a window; stride 4 px" in result.output
    assert "maps that are scored" in result.output
    wider = run(f"{nets}:small", "--example", "32x32", "--stride", "4", "--size", "64x40")
    assert "fully convolutional at 3 x 64 x 40" in wider.output
    assert "9 x 3" in wider.output
    tapped = run(f"{nets}:small", "--example", "32x32", "--taps", "1,2")
    assert tapped.output.count("│ image") == 1


def test_where_the_usual_stride_is_missing_the_layers_are_still_told() -> None:
    result = run("lenet")
    assert result.exit_code == 0
    assert "lenet at 1 x 28 x 28" in result.output
    assert "it has maps at strides 2, 4: choose one with --stride" in result.output
    assert "maps that are scored" in run("lenet", "--stride", "4").output


def test_squeeze_and_excitation_is_told_once() -> None:
    try:
        external.build_classifier("timm:mobilenetv3_small_050")
    except ImportError as missing:
        pytest.skip(str(missing))
    result = run("timm:mobilenetv3_small_050", "--size", "64x64")
    assert result.output.count("global: sees the whole picture at every position: blocks.0.0.se") == 1


def test_a_model_and_its_heat_map(tmp_path: Path, picture: Path) -> None:
    model = save(build("fcn32s-resnet18", classes=3), tmp_path / "model", classes=ClassSet(("sky", "car", "cart")))
    heat = tmp_path / "heat" / "sky.png"
    result = run(model, "--heatmap", picture, "--class", "sky", "--out", heat)
    assert result.exit_code == 0
    assert "random" not in result.output
    assert "mean probability: sky (0) 0.333" in result.output
    assert Image.open(heat).height > 40
    assert "score layers hold only zeros" in result.output
    assert "heat map of car (1)" in run(model, "--heatmap", picture, "--class", "car", "--out", heat).output
    network = build("fcn32s-resnet18", classes=3)
    network.heads[0].bias.data[0] = 3.0
    save(network, model, classes=ClassSet(("sky", "car", "cart")))
    command = (model, "--heatmap", picture, "--class", "sky", "--out", heat)
    assert "sky (0) 0.91," in run(*command).output  # e**3 / (e**3 + 2)
    store_temperature(model, 3.0)
    assert "sky (0) 0.576" in run(*command).output  # e / (e + 2), as predict says


def test_a_heat_map_of_a_network_by_name_is_said_to_mean_nothing(tmp_path: Path, picture: Path) -> None:
    result = run("fcn32s-resnet18", "--size", "32x32", "--heatmap", picture, "--out", tmp_path / "heat.png")
    assert "the weights are random" in result.stderr
    assert "only zeros" not in result.output


def test_a_classifiers_heat_map_with_its_weights(nets: str, tmp_path: Path, picture: Path) -> None:
    name, heat = f"{nets}:small", tmp_path / "heat.png"
    common = (name, "--example", "32x32", "--stride", "4", "--heatmap", picture, "--out", heat)
    result = run(*common, "--class", "2", "--scores")
    assert "the weights are random" in result.output
    assert "heat map of class 2" in result.output
    file = tmp_path / "small.safetensors"
    tensors = external.build_classifier(name).state_dict()
    save_file({key: value.reshape(3, 4, 8, 8) if key == "4.weight" else value for key, value in tensors.items()}, file)
    result = run(*common, "--weights", file)
    assert "random" not in result.output
    assert "1 reshaped (4.weight)" in result.output
    assert heat.is_file()


def test_mistakes_name_what_is_wrong(
    nets: str,
    tmp_path: Path,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def error(*words: object) -> str:
        return error_of(monkeypatch, capsys, *words)

    assert "block.mixer (MultiheadAttention)" in error(f"{nets}:Attention", "--example", "8x8")
    assert "did you mean fcn8s-resnet18" in error("fcn8s-resnet19")
    assert "is not a model: it has no config.json" in error(tmp_path)
    assert "is no size" in error("lenet", "--size", "28")
    assert "1000000 x 1000000 is no size" in error("camvid", "--size", "1000000x1000000")
    assert "no classifier is made for over 4194304 pixels" in error("lenet", "--example", "20000x20000")
    assert "give --out FILE.png" in error("fcn8s-resnet18", "--heatmap", picture)
    assert "it has maps at strides 4" in error(f"{nets}:small", "--example", "32x32", "--stride", "8")
    save_file(dict(nn.Linear(2, 2).state_dict()), tmp_path / "other.safetensors")
    assert "no tensor has a name of this network's" in error("lenet", "--weights", tmp_path / "other.safetensors")
    heat = ("--heatmap", picture, "--out", tmp_path / "x.png", "--example", "32x32", "--stride", "4")
    assert "there is no class 3: the network scores 3, 0 to 2" in error(f"{nets}:small", *heat, "--class", "3")


def test_a_model_of_spectra_is_inspected_but_not_painted(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spectra = SpectralPreprocess(4, (0, 1, 3), (0.0,) * 3, (1.0,) * 3)
    model = save(build("fcn32s-resnet18", classes=2), tmp_path / "model", preprocess=spectra)
    assert run(model, "--size", "32x32").exit_code == 0
    error = error_of(monkeypatch, capsys, model, "--heatmap", picture, "--out", tmp_path / "x.png")
    assert "the model sees spectra" in error


def test_classes_are_found_by_number_name_or_a_part_of_it() -> None:
    names = ("sky", "car", "cart", "tabby, tabby cat")
    assert [class_index(wanted, names, 4) for wanted in ("0", "car", "Cart", "tabby cat")] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"several match car \(1\), cart \(2\)"):
        class_index("ar", names, 4)
    with pytest.raises(ValueError, match="only numbers are known here"):
        class_index("car", (), 4)


@pytest.mark.parametrize("text", ["12", "0x5", "axb", "3x", "-3x4"])
def test_sizes_are_height_by_width(text: str) -> None:
    assert read_size("12x7") == (12, 7)
    with pytest.raises(ValueError, match="is no size"):
        read_size(text)


def test_help_has_examples() -> None:
    assert "Examples" in run("--help").output
