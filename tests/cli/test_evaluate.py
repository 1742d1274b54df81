"""What scores do where a data set has the model's classes in an order and with numbers of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import miniatures
from fullyconv import ClassSet, build, facts, save
from fullyconv.checkpoint import read_config, store_temperature
from fullyconv.cli import app
from fullyconv.data.classes import write_classes
from fullyconv.data.dataset import TRAINED_ON, picture_digest, remember
from fullyconv.data.published import open_for
from fullyconv.data.siftflow import open_siftflow
from fullyconv.evaluation import evaluate
from fullyconv.files import BadFile
from fullyconv.networks.reference import preprocess_of
from fullyconv.predict.image import Segmenter
from fullyconv.types import Preprocess

NAMES = ("road", "sky", "car")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = build("fcn32s-resnet18", 3)
    for head in network.heads:
        torch.nn.init.normal_(head.weight)
    return save(network, tmp_path_factory.mktemp("model"), classes=ClassSet(NAMES))


def dataset(root: Path, classes: ClassSet) -> str:
    """Write two pairs whose masks hold the same labels in the numbers of ``classes``."""
    rng = np.random.default_rng(0)
    values = np.array([classes.values[classes.names.index(name)] for name in NAMES if name in classes.names], np.uint8)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(root / f"images/{name}.png")
        Image.fromarray(values[rng.integers(0, len(values), (40, 50))]).save(root / f"masks/{name}.png")
    write_classes(classes, root / "classes.yaml")
    return str(root)


@pytest.mark.parametrize("options", [[], ["--crf"], ["--tta", "flip,scales=0.8,1"]])
def test_scores_do_not_depend_on_what_stands_for_a_class(model: Path, tmp_path: Path, options: list[str]) -> None:
    sets = {"same": ClassSet(NAMES), "own": ClassSet(("sky", "car", "road"), values=(0, 255, 7), ignore_index=1)}
    said, scores = {}, {}
    for name, classes in sets.items():
        file, data = tmp_path / f"{name}.json", dataset(tmp_path / name / "data", classes)
        page = ["--report", str(tmp_path / name / "page")]
        result = CliRunner().invoke(app, ["evaluate", str(model), data, "--json", str(file), *page, *options])
        assert result.exit_code == 0, result.output
        said[name], scores[name] = result.output, json.loads(file.read_text())
    assert scores["own"] == scores["same"]
    assert "another order: names decide" in " ".join(said["own"].split())
    assert "order" not in said["same"]


@pytest.mark.parametrize("command", [["evaluate"], ["evaluate", "--crf"], ["crf", "tune"]])
def test_other_names_are_refused(model: Path, tmp_path: Path, command: list[str]) -> None:
    data = dataset(tmp_path / "data", ClassSet(("road", "bus")))
    error = CliRunner().invoke(app, [*command, str(model), data]).exception
    assert isinstance(error, BadFile)
    assert "(bus, road) are not the model's (sky, car, road)" in error.what


@pytest.fixture
def remembering(tmp_path: Path) -> tuple[Path, str]:
    """A model that was trained on one picture of a folder of two, and the folder."""
    data = dataset(tmp_path / "data", ClassSet(NAMES))
    known = remember([picture_digest(np.asarray(Image.open(f"{data}/images/a.png")))])
    network = build("fcn32s-resnet18", 3)
    return save(network, tmp_path / "model", classes=ClassSet(NAMES), notes={TRAINED_ON: known}), data


def scored(model: Path, data: str, *options: str) -> tuple[str, dict[str, Any]]:
    file = model.with_name("scores.json")
    result = CliRunner().invoke(app, ["evaluate", str(model), data, "--json", str(file), *options])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split()), json.loads(file.read_text())


def test_pictures_that_were_trained_on_are_left_out_or_named(remembering: tuple[Path, str]) -> None:
    model, data = remembering
    said, scores = scored(model, data)
    assert "trained on 1 of 2 pictures: they are left out, 1 is scored (--split all scores all)" in said
    assert (list(scores["image_mean_iu"]), scores["intervals"]) == (["b"], None)
    Path(data, "images/a.png").rename(Path(data, "images/c.png"))  # a new name does not make a new picture
    Path(data, "masks/a.png").rename(Path(data, "masks/c.png"))
    said, scores = scored(model, data, "--split", "all")
    assert "trained on 1 of 2 pictures: their scores flatter it" in said
    assert sorted(scores["image_mean_iu"]) == ["b", "c"]
    low, high = scores["intervals"]["mean_iu"]
    assert low <= scores["mean_iu"] <= high
    assert scores["intervals"]["units"] == "pictures"


def test_intervals_are_over_groups_where_they_are_named(model: Path, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", ClassSet(NAMES))
    said, scores = scored(model, data, "--group", ".", "--calibration")
    assert scores["intervals"]["units"] == "groups"
    assert "expected calibration error" in said
    calibration = scores["calibration"]
    assert sum(each["pixels"] for each in calibration["reliability"]) == np.sum(scores["confusion"])
    right = sum(each["pixels"] * (each["accuracy"] or 0) for each in calibration["reliability"])
    assert right / np.sum(scores["confusion"]) == pytest.approx(scores["pixel_accuracy"], abs=2e-3)
    result = CliRunner().invoke(app, ["evaluate", str(model), data, "--group", "q"])
    assert "does not match" in str(result.exception)


@pytest.mark.usefixtures("narrow_vgg")
@pytest.mark.parametrize("options", [[], ["--crf"], ["--tta=flip"]])
def test_both_heads_are_scored_each_as_a_network_of_its_own(options: list[str], tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build("siftflow-fcn32s")
    for head in (*network.heads, *network.geometric_heads):
        torch.nn.init.normal_(head.weight)
    model = save(network, tmp_path / "model", classes=facts.SIFTFLOW_SEMANTIC.classes)
    root = miniatures.siftflow(tmp_path)
    _, found = scored(model, str(root), "--split", "test", *options)
    second = found["geometric"]
    if options == ["--crf"]:
        assert second["before"]["confusion"] != found["before"]["confusion"]
        second, found = second["before"], found["before"]
    assert second["classes"] == list(facts.SIFTFLOW_GEOMETRIC.classes.names)
    assert (second["images"], found["images"]) == (1, 1)
    if not options:
        pair = open_siftflow(root, "geometric").splits["test"][0]
        geometric, classes = network.task_network("geometric"), facts.SIFTFLOW_GEOMETRIC.classes
        alone = Segmenter(geometric, classes=classes, preprocess=Preprocess(), device="cpu")
        assert second["confusion"] == evaluate(alone, [pair]).counts.tolist()
        plain = dataset(tmp_path / "plain", ClassSet(facts.SIFTFLOW_SEMANTIC.classes.names))
        said, found = scored(model, plain, "--overwrite")
        assert "has no masks of the head 'geometric', which is not scored" in said
        assert "geometric" not in found


@pytest.mark.usefixtures("narrow_vgg")
def test_networks_that_see_more_than_colour_find_it_beside_the_pictures(tmp_path: Path) -> None:
    name = "nyud-fcn32s-color-d"
    network, preprocess = build(name), preprocess_of(name)
    torch.nn.init.normal_(network.heads[0].weight)
    model = save(network, tmp_path / "model", classes=facts.NYUD.classes, preprocess=preprocess)
    root = miniatures.nyud(tmp_path)
    _, found = scored(model, str(root), "--split", "test")
    alone = Segmenter(network, classes=facts.NYUD.classes, preprocess=preprocess, device="cpu")
    folder = open_for(name, root)
    assert folder is not None
    assert found["confusion"] == evaluate(alone, folder.splits["test"]).counts.tolist()


def test_folds_score_every_picture_once_by_a_model_that_has_not_seen_it(shapes: Path, tmp_path: Path) -> None:
    small = [
        word
        for key in ("epochs=1", "crop=[32,32]", "network=fcn4s", "trunk=teams:classifier")
        for word in ("--set", key)
    ]
    words = ["train", "default", "--data", str(shapes), "--out", str(tmp_path / "run"), "--folds", "2", *small]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "run" / "folds.json").read_text())
    names = [name for part in found["parts"] for name in part["image_mean_iu"]]
    assert len(names) == len(set(names)) == found["together"]["images"] == 9
    assert found["mean"]["mean_iu"] == pytest.approx(np.mean([part["mean_iu"] for part in found["parts"]]))
    whole = [sum(map(sum, part["confusion"])) for part in (*found["parts"], found["together"])]
    assert whole[0] + whole[1] == whole[2]
    for part, evaluation in enumerate(found["parts"], start=1):
        data = json.loads((tmp_path / "run" / f"fold-{part}" / "data.json").read_text())
        assert not {Path(name).stem for name in data["training pairs"]} & evaluation["image_mean_iu"].keys()


def test_a_temperature_of_one_picture_is_not_kept(remembering: tuple[Path, str]) -> None:
    model, data = remembering
    store_temperature(model, 1.7)
    said, scores = scored(model, data, "--fit-temperature")
    assert "nothing saved: one picture is too few, the model keeps its temperature 1.700" in said
    assert read_config(model).temperature == 1.7
    assert scores["confidence"]["pictures"] == 1


def test_options_of_training_that_say_two_things_are_refused(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", ClassSet(NAMES))
    for words in (["split=group", "hold_out=a"], ["fold=[1,2]"]):
        given = ["train", "default", "--data", data, "--out", str(tmp_path / "run"), "--folds", "2"]
        done = CliRunner().invoke(app, [*given, *(word for each in words for word in ("--set", each))])
        assert "--folds holds out each part in turn: leave hold_out and fold out" in str(done.exception)
    assert not (tmp_path / "run").exists()
