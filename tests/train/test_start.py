"""The weights that a run starts from, and the normalisation that goes with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fullyconv.checkpoint import save
from fullyconv.files import BadFile
from fullyconv.networks import build
from fullyconv.networks.trunks.external import build_classifier
from fullyconv.tensors import write_tensors
from fullyconv.train.optim import make_optimizer
from fullyconv.train.recipe import Recipe
from fullyconv.train.start import read_named, take_weights
from fullyconv.types import Preprocess

NAME = "timm:tf_efficientnet_lite0"
RECIPE = Recipe(network="fcn32s-resnet18", trunk=NAME)


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    torch.manual_seed(1)
    return build_classifier(NAME)


def test_a_classifiers_file_fills_the_trunk_and_brings_its_normalisation(classifier: nn.Module, tmp_path: Path) -> None:
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in classifier.state_dict().items()}}, tmp_path / "a.pth"
    )
    write_tensors(tmp_path / "a.safetensors", classifier.state_dict())
    for choice in ({"weights": "a.pth"}, {"weights": "a.safetensors"}, {"start_from": "a.safetensors"}):
        given = {key: str(tmp_path / name) for key, name in choice.items()}
        network = build(RECIPE.network_name, 2)
        found = take_weights(network, RECIPE.model_copy(update=given))
        assert found is not None
        moved, preprocess = found
        assert torch.equal(network.trunk.classifier.conv_stem.weight, classifier.conv_stem.weight)  # type: ignore[union-attr]
        assert preprocess is not None
        assert preprocess.mean == preprocess.std == (127.5,) * 3  # timm's word for these weights, not ImageNet's usual
        assert {name.split(".")[2] for name in moved.left} == {"classifier"}


def test_weights_that_lack_a_part_of_the_trunk_are_refused(classifier: nn.Module, tmp_path: Path) -> None:
    tensors = classifier.state_dict()
    del tensors["conv_stem.weight"]
    write_tensors(tmp_path / "part.safetensors", tensors)
    recipe = RECIPE.model_copy(update={"weights": str(tmp_path / "part.safetensors")})
    with pytest.raises(BadFile, match=r"lacks 1 tensors of timm:tf_efficientnet_lite0, first conv_stem"):
        take_weights(build(RECIPE.network_name, 2), recipe)


def test_what_cannot_be_fetched_says_how_to_give_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, *, pretrained: bool) -> nn.Module:
        assert pretrained
        raise OSError("no route to host")

    monkeypatch.setattr("fullyconv.train.start.build_classifier", offline)
    with pytest.raises(ValueError, match=r"could not be fetched \(no route to host\).*weights=FILE"):
        take_weights(build(RECIPE.network_name, 2), RECIPE.model_copy(update={"pretrained": True}))


def test_a_fetched_classifier_is_taken_over(classifier: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullyconv.train.start._fetched", lambda trunk: classifier.state_dict())
    network = build(RECIPE.network_name, 2)
    take_weights(network, RECIPE.model_copy(update={"pretrained": True}))
    assert torch.equal(network.trunk.classifier.conv_stem.weight, classifier.conv_stem.weight)  # type: ignore[union-attr]


def test_a_model_folder_brings_its_weights_and_its_normalisation(tmp_path: Path) -> None:
    torch.manual_seed(2)
    trained, network = build("fcn4s-lenet", 2), build("fcn4s-lenet", 2)
    normalisation = Preprocess(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    found = take_weights(
        network,
        Recipe(network="fcn4s-lenet", start_from=str(save(trained, tmp_path / "model", preprocess=normalisation))),
    )
    assert found is not None
    assert found[1] == normalisation
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in trained.state_dict().items())


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this was run",)


@pytest.mark.parametrize("contents", [Payload(), {"state_dict": Payload()}, [torch.zeros(1)], {"a": 3}])
def test_a_pickle_is_tensors_or_refused(contents: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(contents, tmp_path / "bad.pth")
    words = r"bad\.pth: (not readable as tensors alone \(Weights only load failed|holds no mapping of names to tensors)"
    with pytest.raises(BadFile, match=words):
        read_named(tmp_path / "bad.pth")
    assert "this was run" not in capsys.readouterr().out
    for damage in (b"", b"\x80\x02", (tmp_path / "bad.pth").read_bytes()[:-40]):
        (tmp_path / "cut.pth").write_bytes(damage)
        with pytest.raises(BadFile, match=r"cut\.pth"):
            read_named(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    "choices", [{"weights": "a", "start_from": "b", "trunk": NAME}, {"weights": "a"}, {"pretrained": True}]
)
def test_two_sources_or_a_source_without_its_classifier_are_refused(choices: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"leave one out|trunk=timm:NAME"):
        Recipe(**choices)  # type: ignore[arg-type]


def test_a_pyramid_starts_from_a_classifiers_file_and_names_its_variant_alone(
    classifier: nn.Module, tmp_path: Path
) -> None:
    write_tensors(tmp_path / "a.safetensors", classifier.state_dict())
    recipe = Recipe(network="fpn8s", trunk=NAME, weights=str(tmp_path / "a.safetensors"))
    network = build(recipe.network_name, 2)
    assert take_weights(network, recipe) is not None
    assert torch.equal(network.trunk.trunk.classifier.conv_stem.weight, classifier.conv_stem.weight)  # type: ignore[union-attr]
    assert make_optimizer(network, recipe.model_copy(update={"trunk_rate": 0.5})).param_groups[2]["share"] == 0.5
    with pytest.raises(ValidationError, match="trunk=timm:NAME"):
        Recipe(network="fpn8s")
