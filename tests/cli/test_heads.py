"""The commands on a model of two heads: what each does for the further one."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from fullyconv import ClassSet, Segmenter, build, load, save
from fullyconv.checkpoint import read_config, store_crf
from fullyconv.cli import app
from fullyconv.crf import CRFParameters
from fullyconv.data.folder import open_folder
from fullyconv.evaluation import evaluate
from fullyconv.predict.predictor import Predictor
from fullyconv.predict.refine import CRFSegmenter
from fullyconv.types import Preprocess

COLOURS = np.array([(0, 0, 0), (200, 0, 0), (0, 200, 0)], np.uint8)
GEOMETRY = ClassSet(("up", "flat"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of blocks of three colours, with a mask of those and one of the rows they are in."""
    folder, numbers = tmp_path_factory.mktemp("blocks"), np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for index in range(count):
            labels = numbers.integers(0, 3, (4 + index, 5)).repeat(12, 0).repeat(12, 1).astype(np.uint8)
            pixels = np.minimum(COLOURS[labels] + numbers.integers(0, 50, (*labels.shape, 3)), 255).astype(np.uint8)
            lie = np.indices(labels.shape)[0] // 20 % 2
            for place, values in (("images", pixels), ("masks", labels), ("geometry", lie.astype(np.uint8))):
                file = folder / split / place / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(file)
    (folder / "classes.yaml").write_text("classes: [a, b, c]\nheads: {geometry: [up, flat]}\n")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = build("fcn1s-spectral2", 3, channels=3, tasks={"geometry": 2}).eval()
    for bank in network.score_layers.values():
        nn.init.normal_(bank[0].weight, std=0.2)  # type: ignore[arg-type]
    heads = {"geometry": GEOMETRY}
    return save(network, tmp_path / "tiny", classes=ClassSet(("a", "b", "c")), preprocess=Preprocess(), heads=heads)


def opened(model: Path, precision: str = "float32") -> Segmenter:
    found = load(model, device="cpu", precision=precision)  # type: ignore[arg-type]
    assert isinstance(found, Segmenter)
    return found


def command(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return " ".join((result.output + str(result.exception or "")).split())


def test_each_head_has_a_crf_of_its_own(model: Path, data: Path, tmp_path: Path) -> None:
    told = command("crf", "tune", model, data, "--images", 2, "--trials", 3, "--device", "cpu")
    assert "head geometry: best of 3 trials" in told
    config = read_config(model)
    assert config.crf is not None
    assert config.heads["geometry"].crf is not None
    store_crf(model, CRFParameters(iterations=1, appearance_weight=0.5), "geometry")
    command("predict", model, data / "val/images", "--out", tmp_path / "out", "--crf", "--device", "cpu")
    pairs = open_folder(data).splits["val"]
    segmenter = opened(model)
    for name, head in {"": segmenter, **segmenter.heads}.items():
        around = CRFSegmenter(head, read_config(model).heads[name].crf if name else config.crf)
        for pair in pairs:
            with Image.open(tmp_path / "out" / name / f"{pair.name}.png") as mask:
                np.testing.assert_array_equal(np.asarray(mask), around.predict(pair.image).labels)
    told = command("evaluate", model, data, "--crf", "--json", tmp_path / "scores.json", "--device", "cpu")
    assert "head geometry: 2 images, dense CRF" in told
    after = json.loads((tmp_path / "scores.json").read_text())["geometry"]["after"]
    around = CRFSegmenter(segmenter.heads["geometry"], read_config(model).heads["geometry"].crf)
    assert after["confusion"] == evaluate(around, pairs).counts.tolist()


def test_a_head_without_a_crf_says_so(model: Path, data: Path, tmp_path: Path) -> None:
    for place in ("images", "masks"):
        shutil.copytree(data / "val" / place, tmp_path / "plain" / place)
    (tmp_path / "plain/classes.yaml").write_text("classes: [a, b, c]\n")
    told = command("crf", "tune", model, tmp_path / "plain", "--images", 1, "--trials", 1, "--device", "cpu")
    assert "has no masks of the head 'geometry'" in told
    told = command("predict", model, data / "val/images", "--out", tmp_path / "out", "--crf", "--device", "cpu")
    assert "the head geometry holds no CRF parameters: the usual ones are taken" in told
    assert "the model holds no CRF" not in told


@pytest.mark.slow
@pytest.mark.skipif(find_spec("nncf") is None, reason="NNCF is not installed")
def test_all_heads_are_calibrated_for_8_bits(model: Path, data: Path, tmp_path: Path) -> None:
    told = command("quantize", model, data)
    assert "head geometry against PyTorch in float32, over 2 pictures" in told
    assert told.count("openvino int8") == 2
    exact, short = opened(model), opened(model, "int8")
    assert short.heads["geometry"].prepared().engine.precision == "int8"
    predict = Predictor(short.heads["geometry"])
    for pair in open_folder(data).splits["val"]:
        found, wanted = short.predict_heads(pair.image), exact.predict_heads(pair.image)
        for name in ("", "geometry"):
            assert (found[name].labels != wanted[name].labels).mean() < 0.05
        np.testing.assert_array_equal(predict(pair.image), found["geometry"].labels)
    command("predict", model, data / "val/images", "--out", tmp_path / "out", "--precision", "int8", "--tta", "flip")
    assert (tmp_path / "out/geometry/0.png").is_file()


@pytest.mark.slow
def test_heads_are_exported_beside_each_other(model: Path, tmp_path: Path) -> None:
    command("export", model, "--out", tmp_path / "out", "--to", "torch")
    first = (tmp_path / "out/tiny.pt2").read_bytes()
    command("export", model, "--out", tmp_path / "out", "--to", "torch", "--head", "geometry")
    assert (tmp_path / "out/tiny.pt2").read_bytes() == first
    assert (tmp_path / "out/tiny-geometry.pt2").is_file()
    again = opened(model).heads["geometry"].export(tmp_path / "python", to="torch")
    assert again.path.name == "tiny-geometry.pt2"


def test_a_sheet_of_each_head_and_a_folder_called_as_one(model: Path, data: Path, tmp_path: Path) -> None:
    images = data / "val/images"
    told = command("predict", model, images, "--out", tmp_path / "out", "--sheet", "--areas", "--device", "cpu")
    assert "2 of 2 images labelled in" in told
    assert f"by the further heads in {tmp_path / 'out/geometry'}" in told
    for place, name in (("", "c"), ("geometry", "flat")):
        assert f">{name}<" in (tmp_path / "out" / place / "index.html").read_text()
        assert (tmp_path / "out" / place / "areas.csv").is_file()
    shutil.copytree(images, tmp_path / "in/geometry")
    told = command("predict", model, tmp_path / "in", "--out", tmp_path / "other", status=1)
    assert "the folder geometry/ among the inputs is called as a head of the model" in told
