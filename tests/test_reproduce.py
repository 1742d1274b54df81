"""``fullyconv reproduce`` on a miniature in exactly the official layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

import miniatures
from fullyconv.cli import app

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


@pytest.mark.slow
@pytest.mark.parametrize("network", ["voc-fcn16s-max", "voc-fcn-pool4"])
def test_what_the_papers_tried_and_left_is_reproduced(network: str, tmp_path: Path) -> None:
    voc, sbdd = miniatures.voc(tmp_path), miniatures.sbdd(tmp_path)
    command = ["reproduce", network, "--voc", str(voc), "--sbdd", str(sbdd), "--out", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, [*command, "--set=epochs=1", "--set=device=cpu"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / network / "model" / "model.safetensors").is_file()
    assert ("22.4" if network == "voc-fcn-pool4" else "badly") in result.output  # the column is narrow


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
