"""Several processes that train together do what one would have done."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fullyconv import Recipe, load, save
from fullyconv.data.folder import open_folder
from fullyconv.data.synthetic import write_dataset
from fullyconv.evaluation import evaluate
from fullyconv.evaluation.scoring import merge
from fullyconv.networks import build
from fullyconv.predict.image import Segmenter
from fullyconv.tensors import read_tensors
from fullyconv.train.assemble import assemble
from fullyconv.train.folder import open_run
from fullyconv.train.job import Quiet
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import change
from fullyconv.train.run import Run
from fullyconv.train.share import Share, synchronised
from fullyconv.train.stop import StopRequest
from fullyconv.train.team import ALONE, Lost, Team
from fullyconv.types import Preprocess
from runs import Notes, newest
from teams import in_processes

TINY: dict[str, Any] = {
    "network": "fcn4s", "trunk": "teams:classifier", "crop": [32, 32], "precision": "fp32", "device": "cpu",
    "epochs": 10, "batch": 4, "validate_every": 10, "optimizer": "sgd", "learning_rate": 0.05,
}  # fmt: skip
WHOLE = {"trunk": "teams:dropping", "batch": 1, "accumulate": 4, "sampling": 1.0, "average": 0.9, "clip": 1.0}
PARTS = {
    "sync_batchnorm": True,
    "loss": "cross-entropy+lovasz",
    "hardest": 0.6,
    "balance": 0.5,
    "statistics": "measured",
}


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pairs to train on, five to validate on: no number of processes divides them."""
    return write_dataset(tmp_path_factory.mktemp("data") / "eight", train=8, val=5)


def train(
    data: Path, out: Path, team: Team, settings: dict[str, Any], watcher: Quiet | None = None, *, resume: bool = False
) -> None:
    recipe = change(Recipe(), TINY | settings, source="test")
    prepared = prepare(recipe, data)
    if team.first:
        with open_run(out, resume=resume) as folder:
            Run(assemble(recipe, prepared, folder, team=team), folder, watcher).train()
    else:
        Run(assemble(recipe, prepared, None, team=team), watcher=watcher).train()


def figures(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def apart(one: Path, other: Path) -> float:
    """Return how far the weights, averages and optimisers of two runs' states lie apart."""
    found = []
    for name in ("model.safetensors", "optimizer.safetensors"):
        left, right = read_tensors(newest(one) / name), read_tensors(newest(other) / name)
        assert left.keys() == right.keys()
        found += [float((left[key].double() - right[key].double()).abs().max()) for key in left]
    return max(found)


def equals_one_process(data: Path, folder: Path, size: int, settings: dict[str, Any]) -> None:
    train(data, folder / "one", ALONE, settings)
    assert in_processes(size, lambda team: train(data, folder / "many", team, settings)) == [0] * size
    assert apart(folder / "one", folder / "many") < 1e-5
    one, many = figures(folder / "one"), figures(folder / "many")
    assert [line["loss"] for line in many] == pytest.approx([line["loss"] for line in one], abs=1e-5)
    recipe = change(Recipe(), TINY | settings, source="test")
    counted = evaluate(load(folder / "many" / "model", trust=recipe.trunk or ()), prepare(recipe, data).val)
    assert counted.scores.per_class_iu == tuple(many[-1]["per_class_iu"])
    assert counted.scores.pixel_accuracy == many[-1]["pixel_accuracy"]


@pytest.mark.parametrize("settings", [WHOLE, PARTS], ids=["whole batches", "parts of batches"])
def test_two_processes_train_as_one(eight: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    equals_one_process(eight, tmp_path, 2, settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [WHOLE, PARTS, WHOLE | {"optimizer": "adamw", "learning_rate": 1e-3}, PARTS | {"upsampling": "learned"}],
    ids=["whole batches", "parts of batches", "AdamW", "learned upsampling"],
)
def test_four_processes_train_as_one(eight: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    equals_one_process(eight, tmp_path, 4, settings)


class Death(nn.Module):
    """A loss at which its process is killed."""

    def __init__(self, loss: Any, calls: int) -> None:
        super().__init__()
        self._loss, self._left = loss, calls

    def forward(self, *given: Any) -> torch.Tensor:
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._loss(*given)


def test_where_a_process_is_killed_the_state_before_that_update_is_saved(eight: Path, tmp_path: Path) -> None:
    def doomed(team: Team) -> None:
        recipe = change(Recipe(), TINY | WHOLE, source="test")
        prepared = prepare(recipe, eight)
        if not team.first:
            job = assemble(recipe, prepared, None, team=team)
            Run(replace(job, loss=Death(job.loss, 11))).train()  # in the middle of the sixth update
            return
        with open_run(tmp_path / "killed", resume=False) as folder:
            try:
                Run(assemble(recipe, prepared, folder, team=team), folder).train()
            except Lost as lost:
                (tmp_path / "said").write_text(str(lost))
                raise SystemExit(7) from None

    assert in_processes(2, doomed) == [7, -signal.SIGKILL]
    said = (tmp_path / "said").read_text()
    assert re.fullmatch("another of the 2 processes has ended: .*; 5 updates are saved: .*--resume continues", said)
    train(eight, tmp_path / "through", ALONE, WHOLE)
    notes = Notes()
    train(eight, tmp_path / "killed", ALONE, WHOLE, notes, resume=True)
    assert notes.remarks == ["begun with 2 process(es), goes on with 1: the same updates"]
    assert len(notes.losses) == 15
    assert apart(tmp_path / "through", tmp_path / "killed") < 1e-5


@pytest.mark.slow
def test_a_stop_that_one_process_hears_of_saves_and_another_number_of_processes_goes_on(
    eight: Path, tmp_path: Path
) -> None:
    def stopped(team: Team) -> None:
        watcher = Notes(stop_at=None if team.first else 7)
        with pytest.raises(KeyboardInterrupt):
            train(eight, tmp_path / "stopped", team, WHOLE, watcher)

    assert in_processes(2, stopped) == [0, 0]
    assert in_processes(4, lambda team: train(eight, tmp_path / "stopped", team, WHOLE, resume=True)) == [0] * 4
    train(eight, tmp_path / "through", ALONE, WHOLE)
    assert apart(tmp_path / "through", tmp_path / "stopped") < 1e-5


def test_what_cannot_be_shared_evenly_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"3 processes cannot share updates of 2 x 4 views evenly: make batch \(or accu"
    ):
        Share.fitting(Team(0, 3), batch=4, accumulate=2)
    assert not Share.fitting(Team(0, 2), batch=3, accumulate=4).parts
    assert Share.fitting(Team(0, 2), batch=4, accumulate=4, together=True).parts

    class Normed(nn.BatchNorm2d):
        """More than batch normalisation, for all we know."""

    with pytest.raises(ValueError, match=r"a Normed \(1\): leave it out"):
        synchronised(nn.Sequential(nn.Conv2d(3, 3, 1), Normed(3)), Team(0, 2))


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_evaluations_in_parts_make_the_evaluation_of_all(shapes: Path, parts: int) -> None:
    recipe = change(Recipe(), TINY, source="test")
    prepared = prepare(recipe, shapes)
    torch.manual_seed(0)
    model = Segmenter(
        build(recipe.network_name, len(prepared.report.classes)),
        classes=prepared.report.classes,
        preprocess=Preprocess(),
        device="cpu",
    )
    pairs = [*prepared.val, *prepared.train[:2]]
    whole = evaluate(model, pairs, groups=list("ababa"))
    found = merge([evaluate(model, pairs[part::parts]) for part in range(parts)], pairs, list("ababa"))
    assert found.document() == whole.document()
    assert np.array_equal(found.counts, whole.counts)


def test_a_signal_that_a_launcher_repeats_is_one_request() -> None:
    with StopRequest(relayed=True) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.asked


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["--devices", "torchrun"])
def test_the_command_trains_in_two_processes_and_one_of_them_speaks(eight: Path, tmp_path: Path, launcher: str) -> None:
    settings = TINY | {"network": "fcn32s-resnet18", "trunk": None, "epochs": 1, "validate_every": 1}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    given = ["-m", "fullyconv", "train", "default", "--data", str(eight), "--out", str(tmp_path / "run"), *sets]
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*given, "--devices", "2"] if launcher == "--devices" else [*starter, *given]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images at native resolution") == 1
    assert (tmp_path / "run" / "report.html").is_file()
    again = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode != 0
    assert again.stderr.count("already holds a run: continue it with --resume") == 1


@pytest.mark.slow
def test_the_command_evaluates_in_two_processes_as_in_one(eight: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("fcn32s-resnet18", 6)
    nn.init.normal_(network.score_layers["heads"][0].weight)
    classes = open_folder(eight).classes
    save(network, tmp_path / "model", classes=classes, preprocess=Preprocess())
    documents = []
    for number in "1", "2":
        figures = tmp_path / f"{number}.json"
        words = ["evaluate", str(tmp_path / "model"), str(eight), "--devices", number, "--json", str(figures)]
        done = subprocess.run(
            [sys.executable, "-m", "fullyconv", *words], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("images at native resolution") == 1
        documents.append(json.loads(figures.read_text()))
    assert documents[0] == documents[1]


@pytest.mark.slow
@pytest.mark.parametrize("joined", [False, True])
def test_where_the_process_that_writes_is_killed_before_it_has_saved_all_end(
    eight: Path, tmp_path: Path, joined: bool
) -> None:
    settings = TINY | {"network": "fcn32s-resnet18", "trunk": None, "epochs": 1, "validate_every": 1}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    given = ["train", "default", "--data", str(eight), "--out", str(tmp_path / "run"), *sets, "--devices", "2"]
    command = [sys.executable, "-m", "fullyconv", *given]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    while len(found := children.read_text().split()) < 2 or (joined and not (tmp_path / "run").exists()):
        time.sleep(0.05)
    os.kill(int(found[0]), signal.SIGKILL)
    killed = time.monotonic()
    advice = "--resume continues" if joined else "run the same command again"
    assert re.search(f"process 1 of 2, which writes, was killed by SIGKILL: .*{advice}", running.communicate()[1])
    assert running.returncode == 1
    assert time.monotonic() - killed < 60
    command += ["--resume"] * joined
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run" / "report.html").is_file()
