"""The folder of a run: whose it is, who may write into it, what it is a run of."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fullyconv.cli import app
from fullyconv.data.synthetic import write_dataset
from fullyconv.files import BadFile
from fullyconv.train.folder import LOCK, begun, finished, hold, open_run, read_metrics
from fullyconv.train.recipe import Recipe
from runs import Notes, newest, train

TINY = Recipe(
    network="fcn4s", trunk="teams:dropping", crop=(32, 32), epochs=2, batch=3, device="cpu", precision="fp32",
    validate_every=9,
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "shapes", train=6, val=2)


def test_a_folder_that_is_not_ours_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out" / "last").mkdir(parents=True)
    (tmp_path / "out" / "last" / "thesis.txt").write_text("five years")
    with (
        pytest.raises(BadFile, match="holds last, which no run of this version has written"),
        open_run(tmp_path / "out", resume=False),
    ):
        pass
    assert (tmp_path / "out" / "last" / "thesis.txt").read_text() == "five years"
    assert not (tmp_path / "out" / LOCK).exists()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("train")
    with open_run(tmp_path / "notes", resume=False):
        pass
    assert (tmp_path / "notes" / "todo.txt").read_text() == "train"


def test_what_others_put_into_a_run_is_left_as_it_is(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(TINY, shapes, run)
    notes = [run / "notes.txt", run / "model" / "README.md", newest(run) / "mine.txt", run / "last" / "2024" / "x.txt"]
    for note in notes:
        note.parent.mkdir(exist_ok=True)
        note.write_text("mine")
    with open_run(run, resume=True) as folder:
        folder.replace_model(lambda model: (model / "config.json").write_text("{}"))
        folder.clear()
    assert all(note.read_text() == "mine" for note in notes)
    assert sorted(path.name for path in run.iterdir()) == [LOCK, "last", "model", "notes.txt"]


def test_the_demonstration_deletes_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "data" / "thesis.txt").write_text("five years")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "home")])
    assert "holds data, which no run of this version has written" in str(result.exception)
    assert (tmp_path / "home" / "data" / "thesis.txt").read_text() == "five years"


def test_a_refused_training_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        train(TINY, tmp_path / "nothing", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["file/run", "file"])
def test_a_folder_that_cannot_be_made_is_told_at_once(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFile, match="cannot be written"), open_run(tmp_path / place, resume=False):
        pass


def test_a_full_disk_is_told_before_an_update_is_made(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    notes, larger = Notes(), TINY.model_copy(update={"network": "fcn32s-resnet18", "trunk": None})
    with pytest.raises(BadFile, match="room for 1 MB, and this run needs"):
        train(larger, shapes, tmp_path / "run", notes)
    assert notes.losses == []
    monkeypatch.undo()
    train(TINY, shapes, tmp_path / "run", notes)  # nothing has begun there
    assert len(notes.losses) == 4


HOLDER = """
import sys, time
from pathlib import Path
from fullyconv.train.folder import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadFile, match=rf"another run \(process {other.pid}\) is writing into it: wait"), hold(run):
            pass
        other.kill()
        other.wait()
        with hold(run) as ours:
            assert ours
            with pytest.raises(BadFile, match="this process is writing into it already"), hold(run):
                pass


def test_the_lock_is_not_inherited_by_processes_that_outlive_the_run(tmp_path: Path) -> None:
    # As DataLoader's workers do for seconds after their parent was killed.
    code = HOLDER.replace("time.sleep(60)", "import os\n    if os.fork(): os.kill(os.getpid(), 9)\n    time.sleep(3)")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        other.wait()
        started = time.monotonic()
        with hold(tmp_path):
            pass
        assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("remove", r"1 of training pairs gone \(.*0000"),
        ("repaint", r"1 of training pairs changed \(.*0000"),
        ("reorder", r"classes changed \("),
        ("add", "1 of validation pairs new"),
    ],
)
def test_a_run_is_not_resumed_on_other_data(data: Path, tmp_path: Path, change: str, told: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TINY, data, tmp_path / "run", Notes(stop_at=1))
    image = sorted((data / "train" / "images").iterdir())[0]
    mask = data / "train" / "masks" / f"{image.stem}.png"
    if change == "remove":
        image.unlink()
        mask.unlink()
    elif change == "repaint":
        Image.open(image).convert("RGB").transpose(Image.Transpose.ROTATE_180).save(image)
    elif change == "add":
        for kind, file in (("images", image), ("masks", mask)):
            copy = data / "val" / kind / f"new{file.suffix}"
            Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(copy)
    else:
        text = (data / "classes.yaml").read_text()
        first, second = [line for line in text.splitlines() if "name:" in line][1:3]
        swapped = text.replace(first, "FIRST").replace(second, first).replace("FIRST", second)
        (data / "classes.yaml").write_text(swapped)
    with pytest.raises(BadFile, match=f"the data set has changed since the run began: .*{told}"):
        train(TINY, data, tmp_path / "run", resume=True)


def test_a_data_set_that_moved_is_the_same(data: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(TINY, data, tmp_path / "run", Notes(stop_at=1))
    data.rename(tmp_path / "elsewhere")
    more = Notes()
    train(TINY, tmp_path / "elsewhere", tmp_path / "run", more, resume=True)
    assert len(more.losses) == 3


def test_a_damaged_state_is_passed_over_with_a_remark(shapes: Path, tmp_path: Path) -> None:
    through, run, more = tmp_path / "through", tmp_path / "run", Notes()
    train(TINY, shapes, through)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, shapes, run, Notes(stop_at=3))
    assert sorted(path.name for path in (run / "last").iterdir()) == ["1", "2"]
    file = newest(run) / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)
    train(TINY, shapes, run, more, resume=True)
    assert "passed over" in more.remarks[0]
    assert "optimizer.safetensors" in more.remarks[0]
    assert len(more.losses) == 2  # from the end of the first epoch
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (newest(through) / name).read_bytes() == (newest(run) / name).read_bytes()
    assert len(list((run / "last").iterdir())) == 1


def test_without_a_whole_state_a_run_starts_from_the_start_and_says_so(shapes: Path, tmp_path: Path) -> None:
    train(TINY, shapes, tmp_path / "through")
    with pytest.raises(KeyboardInterrupt):
        train(TINY, shapes, tmp_path / "run", Notes(stop_at=1))
    (newest(tmp_path / "run") / "state.json").write_text("{}")
    more = Notes()
    train(TINY, shapes, tmp_path / "run", more, resume=True)
    assert "training from the start" in more.remarks[1]
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")[0]) == 2
    ours, expected = (newest(tmp_path / name) / "model.safetensors" for name in ("run", "through"))
    assert ours.read_bytes() == expected.read_bytes()


def test_leftovers_of_a_death_are_swept(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(TINY, shapes, run)
    for leftover in (run / ".model.new", run / "last" / ".2.new", run / ".model.old"):
        leftover.mkdir()
        (leftover / "config.json").write_text("{")
    (run / ".report.html.new").write_text("<")
    with open_run(run, resume=True):
        pass
    assert not list(run.rglob("*.new")) + list(run.rglob("*.old"))
    os.rename(run / "model", run / ".model.old")  # where names cannot be swapped: dead between two renames
    with open_run(run, resume=True):
        pass
    assert (run / "model" / "config.json").read_text().startswith("{\n")


def test_damaged_lines_of_metrics_are_counted_and_cost_nothing(tmp_path: Path) -> None:
    good = '{"epoch": %d, "loss": null, "learning_rate": 0.1}'
    lines = [good % 1, '{"epoch": 2, "los', "\x00\x00", "[1, 2]", good.replace("null", "{}") % 2, good % 3]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\xfe")
    whole, damaged = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in whole] == [1, 3]
    assert damaged == 5


def test_a_run_is_begun_and_finished(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert not begun(run)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, shapes, run, Notes(stop_at=1))
    assert begun(run)
    assert not finished(run)
    train(TINY, shapes, run, resume=True)
    assert finished(run)
    (newest(run) / "state.json").write_text("{")
    assert not finished(run)
