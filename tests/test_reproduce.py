"""``fullyconv reproduce`` on a miniature in exactly the official layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import miniatures
from fullyconv.cli import app
from fullyconv.networks.reference import REFERENCES
from fullyconv.networks.trunks.vgg import BLOCKS
from fullyconv.recipes import RECIPES
from fullyconv.recipes.published import PUBLISHED, REPRODUCTIONS

STAGES = ("voc-fcn32s", "voc-fcn16s", "voc-fcn8s")
SMALL = [f"--set={stage}.network={stage.removeprefix('voc-')}-resnet18" for stage in STAGES]


@pytest.mark.parametrize(
    "networks", [pytest.param(SMALL, id="compact"), pytest.param([], id="reference", marks=pytest.mark.slow)]
)
def test_the_whole_chain_runs_and_prints_ours_beside_the_papers(tmp_path: Path, networks: list[str]) -> None:
    voc, sbdd = miniatures.voc(tmp_path), miniatures.sbdd(tmp_path)
    command = ["reproduce", "voc-fcn8s", "--voc", str(voc), "--sbdd", str(sbdd), "--out", str(tmp_path / "runs")]
    command += ["--set=epochs=1", "--set=device=cpu", *networks]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    for figure in ("63.6", "65.0", "65.5", "ours", "PAMI 2016"):
        assert figure in result.output
    assert "the papers' has 736" in result.output
    for before, stage in pairwise(STAGES):
        moved = json.loads((tmp_path / "runs" / stage / "transplant.json").read_text())
        assert moved["moved"], f"{stage} takes nothing over from {before}"
    again = CliRunner().invoke(app, [*command, "--resume"])
    assert again.exit_code == 0, again.output
    assert again.output.count("finished before") == 3


def test_networks_without_published_scores_are_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["reproduce", "voc-fcn9s", "--voc", "x", "--sbdd", "y"])
    assert "did you mean 'voc-fcn" in str(result.exception)


def test_every_network_of_the_papers_is_trained_and_reproduced() -> None:
    assert set(REFERENCES) <= set(RECIPES)
    assert set(REFERENCES) <= set(REPRODUCTIONS)
    assert set(REPRODUCTIONS) == set(PUBLISHED)
    for name, chain in REPRODUCTIONS.items():
        assert list(chain.stages)[-1] == name
        assert all(stage in PUBLISHED and recipe == RECIPES[stage] for stage, recipe in chain.stages.items())


# Of each chain the whole one; the two sides of "max" and "learned" hang on stages that the others have.
PATHS = ("voc-fcn8s-atonce", "voc-fcn-alexnet", "voc-fcn-googlenet", "voc-fcn32s-fixed", "voc-fcn32s-patchwise",
         "voc-fcn8s-max", "voc-fcn8s-learned", "voc-fcn-pool5", "voc-fcn-pool4", "voc-fcn-pool3",
         "pascalcontext-fcn8s", "siftflow-fcn8s", "nyud-fcn16s-color-hha", "nyud-fcn32s-color-d")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("network", PATHS)
def test_each_chain_runs_to_its_end(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On networks of the papers' layers, with a sixteenth of VGG's channels."""
    monkeypatch.setattr("fullyconv.networks.trunks.vgg.BLOCKS", [(count, wide // 16) for count, wide in BLOCKS])
    monkeypatch.setattr("fullyconv.networks.trunks.vgg.HIDDEN", 32)
    monkeypatch.setattr(miniatures, "SIZE", (32, 40))  # GoogLeNet, unpadded, needs 31 x 31
    command = ["reproduce", network, "--out", str(tmp_path / "runs"), "--set=epochs=1", "--set=device=cpu"]
    family = network.partition("-")[0]
    if family == "voc":
        command += ["--voc", str(miniatures.voc(tmp_path)), "--sbdd", str(miniatures.sbdd(tmp_path))]
    else:
        make = {"siftflow": miniatures.siftflow, "nyud": miniatures.nyud, "pascalcontext": miniatures.context}[family]
        command += ["--data", str(make(tmp_path))]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    for stage in REPRODUCTIONS[network].stages:
        document = json.loads((tmp_path / "runs" / stage / "evaluation.json").read_text())
        assert document["images"] == (1 if family != "voc" else 2)
        assert ("geometric" in document) == (family == "siftflow")
        losses = [json.loads(line)["loss"] for line in (tmp_path / "runs" / stage / "metrics.jsonl").open()]
        assert np.isfinite(losses).all()


@pytest.mark.slow
@pytest.mark.parametrize(("network", "make"), [
    ("siftflow-fcn16s", miniatures.siftflow), ("nyud-fcn32s-color-d", miniatures.nyud),
    ("nyud-fcn32s-color-hha", miniatures.nyud), ("pascalcontext-fcn32s", miniatures.context),
])  # fmt: skip
def test_a_network_of_each_data_set_is_reproduced(network: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    command = ["reproduce", network, "--data", str(make(tmp_path)), "--out", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, [*command, "--set=epochs=1", "--set=device=cpu"])
    assert result.exit_code == 0, result.output
    last = tmp_path / "runs" / network
    document = json.loads((last / "evaluation.json").read_text())
    assert document["images"] == 1
    assert ("geometric" in document) == network.startswith("siftflow")
    for stage in (tmp_path / "runs").glob("nyud-*"):  # of the fused one, the colour net's and the HHA net's before it
        scored = ["evaluate", str(stage / "model"), str(tmp_path / "nyud"), "--json", str(stage / "again.json")]
        result = CliRunner().invoke(app, [*scored, "--split", "test", "--device", "cpu"])
        assert result.exit_code == 0, result.output
        documents = [json.loads((stage / name).read_text()) for name in ("evaluation.json", "again.json")]
        assert documents[1]["mean_iu"] == pytest.approx(documents[0]["mean_iu"], abs=1e-6)
    assert network != "nyud-fcn32s-color-hha" or (tmp_path / "runs" / "nyud-fcn32s-hha" / "again.json").is_file()
