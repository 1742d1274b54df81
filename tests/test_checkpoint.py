from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from fullyconv import ClassSet, Preprocess, build, load, save
from fullyconv.checkpoint import Config, load_network
from fullyconv.files import BadFile
from fullyconv.types import SpectralPreprocess

CLASSES = ClassSet(("ground", "tree"), colours=((1, 2, 3), (4, 5, 6)), values=(3, 9), ignore_index=0)
PREPROCESS = Preprocess(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), order="BGR")


@pytest.mark.parametrize("upsampling", ["fixed", "learned"])
def test_a_model_reads_back_bit_for_bit(tmp_path: Path, upsampling: str) -> None:
    network = build("fcn16s-resnet18", 2, upsampling=upsampling).eval()
    for head in network.heads:
        torch.nn.init.normal_(head.weight)
    save(network, tmp_path / "model", classes=CLASSES, preprocess=PREPROCESS, notes={"score": 0.5})
    again, config = load_network(tmp_path / "model")
    assert (config.classes, config.preprocess, config.notes) == (CLASSES, PREPROCESS, {"score": 0.5})
    image = torch.randn(1, 3, 40, 50)
    with torch.inference_mode():
        assert torch.equal(again(image), network(image))
    files = sorted((tmp_path / "model").iterdir())
    assert [path.name for path in files] == ["config.json", "model.safetensors"]
    assert files[0].stat().st_mode == files[1].stat().st_mode


def test_compact_models_are_a_quarter_of_the_size_and_nearly_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("fcn8s-resnet18", 2).eval()
    save(network, tmp_path / "full")
    save(network, tmp_path / "compact", compact=True)
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("full", "compact")]
    assert sizes[1] < 0.26 * sizes[0]
    small, _ = load_network(tmp_path / "compact")
    for (name, weight), (_, rounded) in zip(network.named_parameters(), small.named_parameters(), strict=True):
        step = weight.abs().max() / 127
        assert (weight - rounded).abs().max() <= 0.51 * step, name


def test_classes_and_normalisation_have_defaults(tmp_path: Path) -> None:
    save(build("fcn32s-resnet18", 3), tmp_path)
    assert load(tmp_path).classes.names == ("class_0", "class_1", "class_2")


def test_wrong_number_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scores 3 classes, 2 are named"):
        save(build("fcn32s-resnet18", 3), tmp_path, classes=CLASSES)


def test_networks_not_built_by_name_cannot_be_saved(tmp_path: Path) -> None:
    network = build("fcn32s-resnet18", 3)
    del network.architecture
    with pytest.raises(ValueError, match=r"how this FCN was built is not known"):
        save(network, tmp_path)


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_pickle_in_the_place_of_weights_is_refused(tmp_path: Path) -> None:
    save(build("fcn32s-resnet18", 2), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(BadFile, match="not readable as safetensors"):
        load(tmp_path)


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="is not a model"):
        load(tmp_path)
    save(build("fcn32s-resnet18", 2), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def rewrite(**changes: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))

    rewrite(architecture={"name": "fcn16s-resnet18", "classes": 2})
    with pytest.raises(BadFile, match="does not hold a fcn16s-resnet18"):
        load(tmp_path)
    rewrite(format=2)
    with pytest.raises(BadFile, match="format 2"):
        load(tmp_path)
    rewrite(surprise=1)
    with pytest.raises(BadFile, match="surprise"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadFile, match=r"config\.json"):
        load(tmp_path)
    rewrite()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadFile, match="not readable"):
        load(tmp_path)


@pytest.mark.parametrize("components", [(), ((0.1, -1 / 3),)])
def test_spectral_normalisation_comes_back_exactly(components: tuple[tuple[float, ...], ...]) -> None:
    fitted = SpectralPreprocess(4, (1, 3), (0.1, 1 / 3), (2 / 3, 7.0), components)
    network = build("fcn32s-resnet18", 2)
    config = Config(architecture=network.architecture, classes=ClassSet(("a", "b")), preprocess=fitted)
    assert Config.model_validate_json(json.dumps(config.model_dump())).preprocess == fitted
    usual = config.model_copy(update={"preprocess": Preprocess()})
    assert Config.model_validate_json(json.dumps(usual.model_dump())).preprocess == Preprocess()
    damaged = config.model_dump() | {"preprocess": {**asdict(fitted), "bands": (1, 4)}}
    with pytest.raises(ValidationError, match="bands 1 to 4 of a scene of 4"):
        Config.model_validate_json(json.dumps(damaged))
