from __future__ import annotations

import json
import multiprocessing
import signal
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fullyconv import Recipe, load
from fullyconv.checkpoint import read_config
from fullyconv.data.dataset import read_sample
from fullyconv.data.folder import open_folder
from fullyconv.data.pairs import Pair
from fullyconv.data.synthetic import write_dataset
from fullyconv.files import BadFile, without_nan
from fullyconv.tensors import read_tensors
from fullyconv.train.assemble import assemble
from fullyconv.train.folder import open_run
from fullyconv.train.job import Validation
from fullyconv.train.pictures import PixelLoss
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import change
from fullyconv.train.run import Run
from fullyconv.train.stop import StopRequest
from fullyconv.train.update import LOSSES_BEHIND
from fullyconv.types import ClassSet, Sample
from runs import Notes, newest, train

TINY: dict[str, Any] = {
    "network": "fcn4s", "trunk": "teams:dropping", "crop": [32, 32], "epochs": 3, "batch": 2, "validate_every": 9,
    "precision": "fp32", "device": "cpu", "learning_rate": 1e-3,
}  # fmt: skip


def run(data: Path, out: Path, watcher: Notes, *, resume: bool = False, **settings: Any) -> None:
    train(change(Recipe(), TINY | settings, source="test"), data, out, watcher, resume=resume)


def lines(out: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key not in ("seconds", "waiting")} for entry in entries]


def last_weights(run_: Path) -> bytes:
    return (newest(run_) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def through(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Notes]:
    """A run that nothing interrupts: its folder, and what it told."""
    out, notes = tmp_path_factory.mktemp("through"), Notes()
    run(shapes, out, notes)
    return out, notes


@pytest.mark.parametrize(("optimizer", "stop_at"), [("adamw", 4), ("sgd", 6)])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    shapes: Path, tmp_path: Path, optimizer: str, stop_at: int
) -> None:
    through, stopped, resumed = Notes(), Notes(stop_at=stop_at), Notes()
    choices = {"optimizer": optimizer, "validate_every": 1}
    run(shapes, tmp_path / "through", through, **choices)
    with pytest.raises(KeyboardInterrupt):
        run(shapes, tmp_path / "stopped", stopped, **choices)
    run(shapes, tmp_path / "stopped", resumed, resume=True, **choices)
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
    assert load(tmp_path / "run" / "model", trust=TINY["trunk"]).classes.names[0] == "background"
    first, second = lines(tmp_path / "run")
    assert "mean_iu" not in first
    assert 0 <= second["mean_iu"] <= 1
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


@pytest.mark.parametrize("scores", [(0.2, 0.7, 0.4), (0.7, 0.7, 0.1), (0.1, 0.2, 0.3), (float("nan"), 0.2, 0.1)])
def test_the_model_that_is_kept_is_the_first_of_the_best_not_the_last(
    shapes: Path, tmp_path: Path, scores: tuple[float, ...]
) -> None:
    recipe, states = change(Recipe(), TINY | {"validate_every": 1}, source="test"), []

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


@pytest.mark.skipif(find_spec("timm") is None, reason="small trunks that learn quickly are timm's")
def test_training_lowers_the_loss(shapes: Path, tmp_path: Path) -> None:
    watcher = Notes()
    run(shapes, tmp_path / "run", watcher, trunk="timm:test_resnet", crop=[64, 64], epochs=6, flip=False)
    assert sum(watcher.losses[-3:]) < 0.8 * sum(watcher.losses[:3])


def test_a_time_budget_ends_the_run(shapes: Path, tmp_path: Path) -> None:
    watcher = Notes()
    run(shapes, tmp_path / "run", watcher, epochs=1000, minutes=0.01)
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


@pytest.mark.parametrize("stop_at", [None, 4])
def test_losses_that_are_read_later_change_nothing(
    shapes: Path, tmp_path: Path, through: tuple[Path, Notes], monkeypatch: pytest.MonkeyPatch, stop_at: int | None
) -> None:
    later, more = Notes(stop_at=stop_at), Notes()
    monkeypatch.setitem(LOSSES_BEHIND, "cpu", 2)
    if stop_at:
        with pytest.raises(KeyboardInterrupt):
            run(shapes, tmp_path / "later", later)
    run(shapes, tmp_path / "later", more, resume=stop_at is not None)
    assert later.losses + more.losses == through[1].losses
    assert lines(tmp_path / "later") == lines(through[0])
    assert last_weights(tmp_path / "later") == last_weights(through[0])


@pytest.mark.parametrize(  # every two of them in all combinations
    ("behind", "broken", "saves"), [(0, 3, -1.0), (0, 5, 600.0), (2, 3, 600.0), (2, 5, -1.0)]
)
def test_nothing_that_follows_from_a_loss_of_nan_is_saved(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: int, broken: int, saves: float
) -> None:
    monkeypatch.setitem(LOSSES_BEHIND, "cpu", behind)
    monkeypatch.setattr("fullyconv.train.run.SAVE_SECONDS", saves)
    compute, calls = PixelLoss.__call__, iter(range(100))

    def breaking(self: PixelLoss, *given: Any) -> torch.Tensor:
        return compute(self, *given) * (float("nan") if next(calls) == broken else 1.0)

    monkeypatch.setattr(PixelLoss, "__call__", breaking)
    notes = Notes()
    with pytest.raises(ValueError, match="the loss became nan"):
        run(shapes, tmp_path / "run", notes)
    assert len(notes.losses) == broken
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in read_tensors(path).values())
    monkeypatch.setattr(PixelLoss, "__call__", compute)
    more = Notes()
    run(shapes, tmp_path / "run", more, resume=True)
    assert len(more.losses) == (9 - broken if saves < 0 else 6)


def test_the_cache_of_pictures_changes_nothing_and_is_bounded(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def counted(pair: Pair, classes: ClassSet) -> Sample:
        reads.append(pair.image)
        return read_sample(pair, classes)

    monkeypatch.setattr("fullyconv.data.dataset.read_sample", counted)
    weights, counts = [], []
    for gib in (0, 1, 1e-3):
        run(shapes, tmp_path / str(gib), Notes(), cache_gib=gib, validate_every=1)
        weights.append(last_weights(tmp_path / str(gib)))
        counts.append(len(reads))
        reads.clear()
    assert weights[0] == weights[1] == weights[2]
    assert counts[1] == len({*open_folder(shapes).splits["train"], *open_folder(shapes).splits["val"]})
    assert counts[0] > counts[2] > counts[1]


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_batch_systems_and_closed_terminals_stop_a_run_as_ctrl_c_does(
    shapes: Path, tmp_path: Path, through: tuple[Path, Notes], kind: signal.Signals
) -> None:
    outside = signal.signal(kind, signal.SIG_DFL)  # nohup lets it be ignored, which a run then does, too
    try:
        with pytest.raises(KeyboardInterrupt):
            run(shapes, tmp_path / "run", Notes(stop_at=4, kind=kind))
    finally:
        signal.signal(kind, outside)
    more = Notes()
    run(shapes, tmp_path / "run", more, resume=True)
    assert len(more.losses) == 5
    assert last_weights(tmp_path / "run") == last_weights(through[0])


def test_a_second_ctrl_c_costs_only_what_was_not_saved(
    shapes: Path, tmp_path: Path, through: tuple[Path, Notes]
) -> None:
    class Impatient(Notes):
        def step(self, **figures: Any) -> None:
            super().step(**figures)
            if len(self.losses) == 5:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(shapes, tmp_path / "run", Impatient())
    more = Notes()
    run(shapes, tmp_path / "run", more, resume=True)
    assert len(more.losses) == 6  # from the end of the first epoch: 3 of 9
    assert last_weights(tmp_path / "run") == last_weights(through[0])


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.asked
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("workers", "harm"), [(0, "gone"), (2, "cut")])
def test_a_picture_that_is_lost_on_the_way_is_named_and_costs_nothing(tmp_path: Path, workers: int, harm: str) -> None:
    data = write_dataset(tmp_path / "shapes", train=6, val=2)
    run(data, tmp_path / "through", Notes())
    lost = sorted((data / "train" / "images").iterdir())[2]
    content = lost.read_bytes()

    class Loser(Notes):
        def step(self, **figures: Any) -> None:
            super().step(**figures)
            if len(self.losses) == 3:  # with workers each epoch reads anew, without what was read is in memory
                lost.unlink() if harm == "gone" else lost.write_bytes(content[:200])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fullyconv.data.dataset.Views._sample", lambda self, i: read_sample(self.pairs[i], self.classes))
        with pytest.raises(BadFile, match=lost.name) as refused:
            run(data, tmp_path / "run", Loser(), workers=workers)
        assert "\n" not in str(refused.value)
    lost.write_bytes(content)
    more = Notes()
    run(data, tmp_path / "run", more, resume=True, workers=workers)
    assert len(more.losses) <= 6  # the state was saved when the picture was found missing
    assert last_weights(tmp_path / "run") == last_weights(tmp_path / "through")


def test_a_validation_picture_that_is_lost_does_not_cost_the_epoch(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "shapes", train=6, val=2)
    lost = sorted((data / "val" / "masks").iterdir())[0]

    class Loser(Notes):
        def step(self, **figures: Any) -> None:
            super().step(**figures)
            lost.rename(tmp_path / "mask.png") if len(self.losses) == 3 else None

    choices = {"validate_every": 1, "epochs": 1}
    with pytest.raises(BadFile, match=lost.name):
        run(data, tmp_path / "run", Loser(), **choices)
    (tmp_path / "mask.png").rename(lost)
    more = Notes()
    run(data, tmp_path / "run", more, resume=True, **choices)
    assert more.losses == []
    assert [figures["epoch"] for figures in more.epochs] == [1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_told_with_what_to_lower(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("fullyconv.train.pictures.PixelLoss.__call__", fail)
    expected = r"out of memory in update 1 of epoch 1: lower batch \(and raise accumulate as much\), or crop"
    with pytest.raises(ValueError, match=expected):
        run(shapes, tmp_path / "run", Notes())


def test_a_worker_that_is_killed_is_told_in_words(shapes: Path, tmp_path: Path) -> None:
    class Killer(Notes):
        def step(self, **figures: Any) -> None:
            super().step(**figures)
            for child in multiprocessing.active_children():
                child.kill()

    with pytest.raises(ValueError, match=r"a process that prepares batches has died .*: lower workers"):
        run(shapes, tmp_path / "run", Killer(), batch=1, workers=1)


def test_a_budget_that_cuts_the_schedule_is_told_and_the_epoch_goes_on_where_it_was_cut(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("fullyconv.train.run.time.monotonic", lambda: clock[0])

    class Slow(Notes):
        def step(self, **figures: Any) -> None:
            super().step(**figures)
            clock[0] += 12  # seconds for each update: 5 in a minute

    choices = {"epochs": 4, "minutes": 1.0, "batch": 2}
    notes, more = Slow(), Slow()
    run(shapes, tmp_path / "run", notes, **choices)
    assert len(notes.losses) == 5
    assert notes.remarks == [
        "stopped after 1 of 4 epochs (5 of 12 updates): 1 minutes were over, the machine was too busy or too slow for "
        "more: give it time with --set minutes=10"
    ]
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1, 2]
    run(shapes, tmp_path / "run", more, resume=True, **choices | {"minutes": 100.0})
    assert len(more.losses) == 7
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]
    assert not more.remarks


def test_a_long_epoch_is_saved_on_the_way(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullyconv.train.run.SAVE_SECONDS", -1.0)

    class Dying(Notes):
        def step(self, **figures: Any) -> None:
            super().step(**figures)
            if len(self.losses) == 6:
                raise SystemExit  # nothing is saved any more

    run(shapes, tmp_path / "through", Notes(), batch=1)
    with pytest.raises(SystemExit):
        run(shapes, tmp_path / "run", Dying(), batch=1)
    more = Notes()
    run(shapes, tmp_path / "run", more, resume=True, batch=1)
    assert len(more.losses) == 18 - 5
    assert last_weights(tmp_path / "run") == last_weights(tmp_path / "through")


def test_tensorboard_shows_every_epoch_once_after_a_resume(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(shapes, tmp_path / "run", Notes(stop_at=7))
    run(shapes, tmp_path / "run", Notes(), resume=True)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3]


def test_a_run_goes_on_without_tensorboard(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    notes = Notes()
    run(shapes, tmp_path / "run", notes)
    assert len(notes.losses) == 9
    assert notes.remarks == ["TensorBoard's events cannot be written (No space left on device): left out"]
