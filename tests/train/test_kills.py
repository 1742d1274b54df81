"""Real runs, killed at random instants until they are done, must end with the uninterrupted run's weights.

``make kills`` kills at least 200 times: pictures with and without workers, a scene, a chain; a third of the processes
save slowly, so that many of the deaths fall into a save. ``KILLS=N`` asks for another number.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from fullyconv.data.synthetic import write_dataset
from fullyconv.hsi.fitting import fit
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.run import data_print
from fullyconv.hsi.synthetic import make_scene
from fullyconv.hsi.trial import make_trial
from fullyconv.train.chain import Chain, place
from fullyconv.train.folder import hold, open_run
from fullyconv.train.recipe import Recipe
from fullyconv.train.run import Run
from fullyconv.types import ClassSet
from runs import train

KILLS = int(os.environ.get("KILLS", "24"))
LOG = logging.getLogger(__name__)  # shown by pytest's --log-cli-level=WARNING, as `make kills` asks
MOST = 12  # starts of one run
SECONDS = 300.0  # after which a process counts as stuck


@dataclass(frozen=True)
class Case:
    """A training to kill, up to its report, and where its runs lie below its folder."""

    name: str
    work: Callable[[Path, bool], object]  # (folder, resume)
    runs: tuple[str, ...] = ("",)


class Trainee:
    """A training in a process of its own.

    It is forked from this one, which has imported all that it needs: else most deaths would fall into its start. With
    ``slow`` every file of a state takes so many seconds, and lies there half for as long.
    """

    def __init__(self, case: Case, out: Path, *, slow: float = 0.0) -> None:
        self._log = out.parent / f"{out.name}.log"
        self._ready, ready = os.pipe()
        resume = any(out.rglob(".lock"))
        self._child = os.fork()
        if not self._child:
            self._train(case, out, resume, slow, ready)
        os.close(ready)

    def _train(self, case: Case, out: Path, resume: bool, slow: float, ready: int) -> NoReturn:
        with self._log.open("w") as log:
            os.dup2(log.fileno(), 2)
        if slow:
            sync, digest = os.fsync, hashlib.file_digest
            os.fsync = lambda handle: (time.sleep(slow), sync(handle))[1]
            hashlib.file_digest = lambda *given: (time.sleep(slow), digest(*given))[1]
        begin = Run.train
        Run.train = lambda run: (os.write(ready, b"."), begin(run))[1]
        try:
            case.work(out, resume)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)

    def wait_until_it_trains(self) -> None:
        """Wait until all is prepared, or the process has ended."""
        os.read(self._ready, 1)

    def wait(self, seconds: float) -> str | None:
        """Wait so long for the end: empty if it is a good one, else what was said; ``None`` if there is none yet."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            done, status = os.waitpid(self._child, os.WNOHANG)
            if done:
                said = self._log.read_text().strip()
                return "" if status == 0 else said.splitlines()[-1] if said else f"status {status}"
            time.sleep(0.002)
        return None

    def kill(self) -> None:
        """Kill it, whatever it does."""
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)

    def close(self) -> None:
        """Forget the process that has ended."""
        os.close(self._ready)


def weights(case: Case, out: Path) -> list[bytes]:
    return [
        path.read_bytes()
        for run in case.runs
        for path in (*(out / run / "last").rglob("model.safetensors"), out / run / "model" / "model.safetensors")
    ]


def lines(case: Case, out: Path) -> list[list[int]]:
    files = (out / run / "metrics.jsonl" for run in case.runs)
    return [[json.loads(line)["epoch"] for line in file.read_text().splitlines()] for file in files]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    if find_spec("timm") is None:
        pytest.skip("small trunks are timm's")
    data = write_dataset(tmp_path_factory.mktemp("data") / "shapes", train=8, val=2)
    pictures = Recipe(
        trunk="timm:test_resnet", crop=(32, 32), batch=2, epochs=4, device="cpu", precision="fp32", validate_every=2
    )
    workers = pictures.model_copy(update={"workers": 2, "epochs": 2})
    stages = {
        name: pictures.model_copy(update={"network": name, "epochs": 2})
        for name in ("fcn32s-resnet18", "fcn8s-resnet18")
    }
    labels = np.fromfunction(lambda row, column: (row // 12 + column // 15) % 2, (48, 60)).astype(np.int16)
    made = make_scene(labels, ClassSet(("a", "b")), bands=9)
    spectral = SceneRecipe(network="fcn1s-spectral2", steps=250, sample=20, split="random", device="cpu")

    def chain(out: Path, resume: bool) -> None:
        with hold(out):
            for stage in place(Chain(stages), out):
                if not stage.finished:
                    train(stage.recipe, data, stage.run, resume=resume and stage.begun)

    def scene(out: Path, resume: bool) -> None:
        trial = make_trial(spectral, made)
        with open_run(out, resume=resume) as folder:
            folder.begin(spectral, data_print(trial))
            fit(trial, folder=folder)

    return [
        Case("pictures", lambda out, resume: train(pictures, data, out, resume=resume)),
        Case("workers", lambda out, resume: train(workers, data, out, resume=resume)),
        Case("scene", scene),
        Case("chain", chain, tuple(stages)),
    ]


def kill_until_done(case: Case, out: Path, draw: random.Random, span: float) -> tuple[int, str]:
    """Train again and again, killed after a random while; gives the deaths and how it ended."""
    for deaths in range(MOST):
        trainee = Trainee(case, out, slow=0.03 if draw.random() < 0.33 else 0.0)
        if draw.random() < 0.9:  # few deaths are wanted before there is anything to lose
            trainee.wait_until_it_trains()
        # In the end it is left alone: a run that is killed in every epoch would take forever.
        end = trainee.wait(draw.uniform(0, span / 2) if deaths < MOST - 1 else SECONDS)
        if end is None:
            trainee.kill()
        trainee.close()
        if end is not None:
            return deaths, f"stuck: {end}" if end else ""
    return MOST, "stuck: it takes too long"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are started quickly by forking")
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(cases: list[Case], tmp_path: Path) -> None:
    draw, found, deaths, wrong = random.Random(0), Counter[str](), Counter[str](), []
    expected, spans = {}, {}
    for case in cases:
        trainee = Trainee(case, tmp_path / case.name)
        trainee.wait_until_it_trains()
        started = time.monotonic()
        assert trainee.wait(SECONDS) == ""
        trainee.close()
        spans[case.name] = time.monotonic() - started
        expected[case.name] = weights(case, tmp_path / case.name), lines(case, tmp_path / case.name)
    turn = 0
    while deaths.total() < KILLS:
        case = cases[turn % len(cases)]
        out = tmp_path / f"{case.name}-{turn}"
        killed, problem = kill_until_done(case, out, draw, spans[case.name])
        if not problem and (weights(case, out), lines(case, out)) != expected[case.name]:
            problem = "other weights or lines"
        verdict = "stuck" if problem.startswith("stuck") else "other" if problem else "exact"
        found[verdict] += killed
        deaths[case.name] += killed
        wrong += [f"{out.name} after {killed} deaths: {problem}"] if problem else []
        turn += 1
        LOG.warning("%s: %d deaths, %s (%d in all)", out.name, killed, problem or "exact", deaths.total())
    LOG.warning("%d runs, %d kills %s: %s", turn, deaths.total(), dict(deaths), dict(found))
    assert not wrong
