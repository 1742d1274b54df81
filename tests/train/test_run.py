from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fullyconv import Recipe, load
from fullyconv.checkpoint import read_config, read_tensors
from fullyconv.files import BadFile, without_nan
from fullyconv.train.assemble import assemble, prepare
from fullyconv.train.folder import open_run
from fullyconv.train.recipe import change
from fullyconv.train.run import Run, Validation
from runs import Notes, newest, train

TINY: dict[str, Any] = {
    "crop": [64, 64], "epochs": 3, "batch": 2, "precision": "fp32", "device": "cpu", "learning_rate": 1e-3,
}  # fmt: skip


def run(data: Path, out: Path, watcher: Notes, *, resume: bool = False, **settings: Any) -> None:
    train(change(Recipe(), TINY | settings, source="test"), data, out, watcher, resume=resume)


def lines(out: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


@pytest.mark.parametrize(("optimizer", "stop_at"), [("adamw", 4), ("sgd", 6)])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    shapes: Path, tmp_path: Path, optimizer: str, stop_at: int
) -> None:
    through, stopped, resumed = Notes(), Notes(stop_at=stop_at), Notes()
    run(shapes, tmp_path / "through", through, optimizer=optimizer)
    with pytest.raises(KeyboardInterrupt):
        run(shapes, tmp_path / "stopped", stopped, optimizer=optimizer)
    run(shapes, tmp_path / "stopped", resumed, resume=True, optimizer=optimizer)
    assert stopped.losses + resumed.losses == through.losses
    assert lines(tmp_path / "through") == lines(tmp_path / "stopped")
    left, right = newest(tmp_path / "through"), newest(tmp_path / "stopped")
    for ours, other in (
        (left / "model.safetensors", right / "model.safetensors"),
        (left / "optimizer.safetensors", right / "optimizer.safetensors"),
        *((tmp_path / out / "model" / "model.safetensors" for out in ("through", "stopped")),),
    ):
        expected, got = read_tensors(ours), read_tensors(other)
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_leaves_all_it_should(shapes: Path, tmp_path: Path, workers: int) -> None:
    watcher = Notes()
    run(shapes, tmp_path / "run", watcher, epochs=2, workers=workers, balance=0.5, validate_every=2)
    assert [path.name for path in sorted((tmp_path / "run").iterdir())] == [
        ".lock", "classes.yaml", "data.json", "last", "metrics.jsonl", "model", "recipe.yaml", "tensorboard",
    ]  # fmt: skip
    assert load(tmp_path / "run" / "model").classes.names[0] == "background"
    first, second = lines(tmp_path / "run")
    assert "mean_iu" not in first
    assert 0 <= second["mean_iu"] <= 1
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


@pytest.mark.parametrize("scores", [(0.2, 0.7, 0.4), (0.7, 0.7, 0.1), (0.1, 0.2, 0.3), (float("nan"), 0.2, 0.1)])
def test_the_model_that_is_kept_is_the_first_of_the_best_not_the_last(
    shapes: Path, tmp_path: Path, scores: tuple[float, ...]
) -> None:
    recipe, states = change(Recipe(), TINY, source="test"), []

    def validate() -> Validation:
        states.append({name: tensor.clone() for name, tensor in job.network.state_dict().items()})
        score = scores[len(states) - 1]
        return Validation(score, without_nan({"mean_iu": score}))

    with open_run(tmp_path / "run", resume=False) as folder:
        job = replace(assemble(recipe, prepare(recipe, shapes), folder), validate=validate)
        Run(job, folder).train()
    best = max((score, -epoch) for epoch, score in enumerate(scores) if score == score)[1]
    kept = read_tensors(tmp_path / "run" / "model" / "model.safetensors")
    differ = [index for index, state in enumerate(states) if any((kept[name] != state[name]).any() for name in kept)]
    assert set(range(3)) - set(differ) == {-best}
    assert read_config(tmp_path / "run" / "model").notes["epoch"] == 1 - best
    last = read_tensors(newest(tmp_path / "run") / "model.safetensors")
    assert all(torch.equal(last[name], states[-1][name]) for name in last)


def test_workers_do_not_change_the_run(shapes: Path, tmp_path: Path) -> None:
    alone, helped = Notes(), Notes()
    run(shapes, tmp_path / "alone", alone, epochs=1)
    run(shapes, tmp_path / "helped", helped, epochs=1, workers=2)
    assert alone.losses == helped.losses


def test_accumulated_batches_make_one_update(shapes: Path, tmp_path: Path) -> None:
    watcher = Notes()
    run(shapes, tmp_path / "run", watcher, epochs=1, batch=1, accumulate=3)
    assert len(watcher.losses) == 2


def test_a_set_smaller_than_a_batch_still_trains(shapes: Path, tmp_path: Path) -> None:
    watcher = Notes()
    run(shapes, tmp_path / "run", watcher, epochs=1, batch=16)
    assert len(watcher.losses) == 1


def test_training_lowers_the_loss(shapes: Path, tmp_path: Path) -> None:
    watcher = Notes()
    run(shapes, tmp_path / "run", watcher, epochs=8, validate_every=8, flip=False)
    assert sum(watcher.losses[-3:]) < 0.8 * sum(watcher.losses[:3])


def test_a_time_budget_ends_the_run(shapes: Path, tmp_path: Path) -> None:
    watcher = Notes()
    run(shapes, tmp_path / "run", watcher, epochs=1000, minutes=0.03)
    assert 1 <= len(watcher.epochs) < 100
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_a_diverging_run_says_so(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lower learning_rate"):
        run(shapes, tmp_path / "run", Notes(), optimizer="sgd", learning_rate=1e30, warmup=0)


def test_a_run_is_not_overwritten_nor_resumed_as_another(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no run to resume"):
        run(shapes, tmp_path / "run", Notes(), resume=True)
    run(shapes, tmp_path / "run", Notes(), epochs=1)
    with pytest.raises(BadFile, match="already holds a run"):
        run(shapes, tmp_path / "run", Notes(), epochs=1)
    with pytest.raises(BadFile, match="another batch"):
        run(shapes, tmp_path / "run", Notes(), resume=True, batch=3)
    more = Notes()
    run(shapes, tmp_path / "run", more, resume=True, epochs=2)
    assert [figures["epoch"] for figures in more.epochs] == [2]


def test_whole_images_of_different_sizes_need_batches_of_one(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"views of different sizes cannot share a batch: .* set batch=1"):
        run(shapes, tmp_path / "run", Notes(), crop=None)
    alone = Notes()
    run(shapes, tmp_path / "alone", alone, crop=None, batch=1, epochs=1)
    assert len(alone.losses) == 6
