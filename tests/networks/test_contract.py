"""What every network of the family does, whatever its decoder and trunk: a trained run goes through all doors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv import load
from fullyconv.data.folder import open_folder
from fullyconv.evaluation import evaluate
from fullyconv.export import Source, export
from fullyconv.networks.inspection import inspect
from fullyconv.networks.trunks.classic import Contracting
from fullyconv.train.recipe import Recipe, change
from fullyconv.types import ClassSet
from runs import train

TINY = {"crop": [64, 64], "epochs": 1, "batch": 2, "precision": "fp32", "device": "cpu"}
NAMES = (
    "fcn8s-resnet18", "fcn8s-timm:resnet18", "fpn8s-lite0", "segnet-basic", "segnet-torchvision:vgg11_bn",
    "deeplab-largefov-lite0", "deeplab-resnet18", "deeplab-timm:resnet18d", "unet-resnet18",
    "unet-timm:convnext_atto", "unet-original",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_is_trained_saved_scored_exported_inspected_and_its_tiles_are_the_whole(
    name: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Contracting, "channels", (4, 6, 8, 10, 12)
    )  # the original U-Net's has 64 to 1024 and no padding
    train(change(Recipe(), {**TINY, "network": name}, source="test"), shapes, tmp_path / "run")
    model = load(tmp_path / "run", device="cpu")
    network = model.network
    assert network.architecture.name == name
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    pairs = open_folder(shapes).splits["val"]
    assert evaluate(model, pairs).scores.mean_iu == pytest.approx(line["mean_iu"], abs=1e-6)
    for size in ((1, 1), (33, 70)):
        assert model.predict(np.zeros((*size, 3), np.uint8)).labels.shape == size
    source = Source(network, ClassSet(model.classes.names), model.preprocess)
    assert max(each.apart for each in export(source, tmp_path / "out", to="torch").agreements) < 1e-3
    document = inspect(network, size=(40, 33)).document()
    assert document["parameters"] == sum(each.numel() for each in network.parameters())
    assert document["layers"][-1]["looks"]["rows"]["field"] == network.plans[0].output.field
    network.double()
    rows = network.plans[0]
    halo = -(-rows.reach // rows.stride) * rows.stride
    cut = halo + rows.stride
    image = torch.randn(1, 3, 2 * cut + 9, 24, dtype=torch.float64)
    with torch.inference_mode():
        lower, whole = network(image[:, :, cut - halo :])[:, :, halo:], network(image)[:, :, cut:]
    torch.testing.assert_close(lower, whole, rtol=1e-7, atol=1e-7)
