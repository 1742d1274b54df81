r"""Each decoder on the same trunk, trained for equal minutes or equal steps on one data set: mean IU, milliseconds, MB.

    python benchmarks/decoders.py camvid/ --trunk lite0 --weights tf_efficientnet_lite0.safetensors --minutes 10
    python benchmarks/decoders.py camvid/ --trunk vgg16 --weights vgg16.safetensors --epochs 2 \
        --set crop=[160,208] --set batch=4 --set learning_rate=1e-4 --set average=0

Epochs are equal steps: all decoders see the same views. A run is kept in ``--out``, continued where it was stopped, and
scored once on all of ``val``. ``--no-times`` leaves the milliseconds out, for a machine with other work to do; run
again without it, what is trained is only timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv import Recipe, load
from fullyconv.evaluation import evaluate
from fullyconv.networks.reference import preprocess_of
from fullyconv.predict.image import Segmenter
from fullyconv.recipes import find_recipe
from fullyconv.train.assemble import assemble
from fullyconv.train.folder import BEST, finished, open_run
from fullyconv.train.job import Quiet
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import change, parse_settings
from fullyconv.train.run import Run

DECODERS = ("fcn8s", "fpn8s", "unet", "deeplab-largefov", "deeplab", "segnet", "deconvnet")
SIZE = (360, 480)
REPEATS = 9
SCORED = "decoder.json"


class Told(Quiet):
    """Prints how a run goes, now and then."""

    def __init__(self, name: str) -> None:
        self.name, self.begun = name, time.monotonic()

    def step(self, *, epoch: int, done: int, total: int, loss: float) -> None:
        """Print every twentieth update."""
        if done % 20 == 0 or done in (1, total):
            spent = time.monotonic() - self.begun
            print(f"{self.name}: {done} of {total}, loss {loss:.3f}, {spent:.0f} s", file=sys.stderr, flush=True)

    def remark(self, text: str) -> None:
        """Print it."""
        print(f"{self.name}: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Train, score and time each decoder that the trunk carries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--trunk", default="lite0", help="of our own, or timm:NAME")
    parser.add_argument("--recipe", default="camvid-pretrained")
    parser.add_argument("--weights", help="what the trunk starts from, a file or a model folder")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="for each decoder")
    length.add_argument("--epochs", type=int, help="for each decoder, as many steps as those of all others")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, for all")
    parser.add_argument("--decoders", nargs="+", default=DECODERS)
    parser.add_argument("--out", type=Path, default=Path("runs/decoders"))
    parser.add_argument("--no-times", action="store_true", help="measure no milliseconds")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        train(options.only, options)
        return
    rows = [row for decoder in options.decoders if (row := _row(decoder, options)) is not None]
    print("| decoder | parameters, M | steps | mean IU | ms per picture | model, MB |\n|---|---|---|---|---|---|")
    for row in rows:
        print(row)


def network_name(decoder: str, trunk: str) -> str:
    """Name a decoder on a trunk; FCN and pyramids stand on the VGG-16 that pads like the others' (by 1, not 100)."""
    same = trunk == "vgg16" and decoder.startswith(("fcn", "fpn"))
    return f"{decoder}-{trunk}{'-same' if same else ''}"


def recipe_of(name: str, options: argparse.Namespace) -> Recipe:
    """Return the recipe of one of the runs."""
    settings: dict[str, Any] = {"network": name, "validate_every": 10**6}
    settings |= {"start_from": options.weights} if options.weights else {}
    if options.trunk.startswith("vgg16"):  # as its weights were trained
        settings["preprocess"] = preprocess_of("voc-fcn32s")
    settings |= {"minutes": None, "epochs": options.epochs} if options.epochs else {}
    settings |= {"minutes": options.minutes} if options.minutes else {}
    return change(find_recipe(options.recipe), settings | parse_settings(options.set), source="--set")


def train(name: str, options: argparse.Namespace) -> None:
    """Train one network, or go on with it, and score it once on the validation pictures."""
    run, recipe = run_folder(name, options), recipe_of(name, options)
    prepared = prepare(recipe, options.data)
    with open_run(run, resume=run.is_dir()) as folder:
        # No validation on the way: at these sizes it would take longer than the training.
        job = replace(assemble(recipe, prepared, folder), validate=None)
        going = Run(job, folder, told := Told(name))
        position = going.train()
        going.write_model(run / BEST, {})
    model = load(run / BEST, precision="auto")
    assert isinstance(model, Segmenter)
    model.soon = True
    found = {
        "mean_iu": evaluate(model, prepared.val).scores.mean_iu,
        "steps": position.epoch * job.schedule.per_epoch + position.step,
        "seconds": position.seconds,
    }
    told.remark(f"mean IU {found['mean_iu']:.3f}")
    (run / SCORED).write_text(json.dumps(found))


def run_folder(name: str, options: argparse.Namespace) -> Path:
    """Return the folder of a network's run."""
    folder: Path = options.out / name.replace(":", "-")
    return folder


def _row(decoder: str, options: argparse.Namespace) -> str | None:
    name = network_name(decoder, options.trunk)
    run = run_folder(name, options)
    if not ((run / SCORED).is_file() and finished(run)):
        # In a process of its own: what one decoder leaves in memory does not slow the next one down.
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        done = subprocess.run(command, check=False)
        if done.returncode:
            print(f"{name}: not trained", file=sys.stderr)
            return None
    found = json.loads((run / SCORED).read_text())
    model = load(run / BEST)
    count = sum(each.numel() for each in model.network.parameters()) / 1e6
    size = (run / BEST / "model.safetensors").stat().st_size / 2**20
    spent = "" if options.no_times else f"{_milliseconds(model):.0f}"
    return f"| `{name}` | {count:.2f} | {found['steps']} | {found['mean_iu']:.3f} | {spent} | {size:.1f} |"


def _milliseconds(model: Any) -> float:
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    model.predict(picture)
    spent = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        model.predict(picture)
        spent.append(1000 * (time.perf_counter() - start))
    return statistics.median(spent)


if __name__ == "__main__":
    main()
