"""Whatever file operation a run dies at, or finds the disk full at: resumed, it ends with the same weights.

A child process is forked for every operation, so that a death is a real one: no ``finally`` cleans up after it. The
runs are those of scenes, whose networks are small; pictures are saved by the same code (``test_kills.py`` kills them).
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fullyconv.hsi import fitting as scenes
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.run import data_print
from fullyconv.hsi.synthetic import make_scene
from fullyconv.hsi.trial import SceneTrial, make_trial
from fullyconv.train.folder import open_run
from fullyconv.types import ClassSet

OPERATIONS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "ctypes.dlsym")
FULL = 40  # exit status of a child that found the disk full, in words


@pytest.fixture(scope="module")
def trial() -> SceneTrial:
    labels = np.fromfunction(lambda row, column: (row // 8 + column // 10) % 2, (24, 30)).astype(np.int16)
    scene = make_scene(labels, ClassSet(("a", "b")), bands=5)
    recipe = SceneRecipe(network="fcn1s-spectral1", split="random", steps=5, sample=10, device="cpu")
    return make_trial(recipe, scene)


def train(trial: SceneTrial, out: Path, *, resume: bool = False) -> None:
    with open_run(out, resume=resume) as folder:
        folder.begin(trial.recipe, data_print(trial))
        scenes.fit(trial, folder=folder)


def in_a_child(work: Callable[[], None]) -> int:
    """Run something in a forked process; gives its exit status, negative for the signal it died of."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except (ValueError, OSError) as error:
            words = str(error)
            os._exit(FULL if "No space left" in words and "\n" not in words else 41)
        except BaseException:
            os._exit(42)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_operation(number: int, out: Path, strike: Callable[[str, Any], None]) -> Callable[[], None]:
    """Strike from the ``number``-th file operation in a run's folder on; for a child, as hooks cannot be taken off."""
    seen = 0

    def count(event: str, args: Any) -> None:
        nonlocal seen
        seen += 1
        if seen >= number:
            strike(event, args)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event in OPERATIONS and (event == "ctypes.dlsym" or str(out) in str(args)):
            count(event, args)

    def install() -> None:
        sync = os.fsync
        os.fsync = lambda handle: (count("fsync", ()), sync(handle))[1]
        sys.addaudithook(watch)

    return install


def die(event: str, args: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def result(out: Path) -> dict[str, Any]:
    """Read all that a run is judged by: both models, the optimiser, the lines of metrics, what else lies there."""
    (last,) = (path for path in (out / "last").iterdir())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "last": (last / "model.safetensors").read_bytes(),
        "optimizer": (last / "optimizer.safetensors").read_bytes(),
        "model": (out / "model" / "model.safetensors").read_bytes(),
        "lines": [{key: value for key, value in line.items() if key not in ("seconds", "waiting")} for line in lines],
        "files": sorted(path.name for path in out.iterdir()),
        "in last": sorted(path.name for path in last.iterdir()),
    }


def operations(trial: SceneTrial, out: Path) -> int:
    """Count the file operations of a run, in a child."""
    reader, writer = os.pipe()
    seen = [0]

    def work() -> None:
        def count(event: str, args: tuple[Any, ...]) -> None:
            if event in OPERATIONS and (event == "ctypes.dlsym" or str(out) in str(args)):
                seen[0] += 1

        sync = os.fsync
        os.fsync = lambda handle: (seen.__setitem__(0, seen[0] + 1), sync(handle))[1]
        sys.addaudithook(count)
        train(trial, out)
        os.write(writer, str(seen[0]).encode())

    assert in_a_child(work) == 0
    os.close(writer)
    with os.fdopen(reader) as pipe:
        return int(pipe.read())


@pytest.fixture
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "ROUND", 2)
    torch.set_num_threads(1)  # a forked process has no other threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a death at a given instant is had by forking")
@pytest.mark.usefixtures("_short_rounds")
@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_death_at_any_file_operation_loses_nothing(trial: SceneTrial, tmp_path: Path, every: int) -> None:
    train(trial, tmp_path / "through")
    expected = result(tmp_path / "through")
    many = operations(trial, tmp_path / "counted")
    assert many > 80  # three saves of five files each, every file synced
    for number in range(1, many + 1, every):
        out = tmp_path / str(number)

        def killed(out: Path = out, number: int = number) -> None:
            at_operation(number, out, die)()
            train(trial, out)

        assert in_a_child(killed) == -signal.SIGKILL, number
        train(trial, out, resume=(out / ".lock").exists())
        assert result(out) == expected, number


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a full disk at a given instant is had by forking")
@pytest.mark.usefixtures("_short_rounds")
@pytest.mark.parametrize("every", [14, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_full_at_any_file_operation_is_told_and_loses_nothing(
    trial: SceneTrial, tmp_path: Path, every: int
) -> None:
    train(trial, tmp_path / "through")
    expected, told = result(tmp_path / "through"), 0
    for number in range(1, operations(trial, tmp_path / "counted") + 1, every):
        out = tmp_path / str(number)

        def full(event: str, args: Any) -> None:
            if event == "os.mkdir" or (event == "open" and args[1] is not None and "r" not in args[1]):
                raise OSError(errno.ENOSPC, "No space left on device", args[0])

        def filled(out: Path = out, number: int = number) -> None:
            at_operation(number, out, full)()
            train(trial, out)

        status = in_a_child(filled)
        assert status in (0, FULL), (number, status)  # 0: the operation takes no room
        told += status == FULL
        if status:
            train(trial, out, resume=(out / ".lock").exists())
        assert result(out) == expected, number
    assert told > 60 / every
