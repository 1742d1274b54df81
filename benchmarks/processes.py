"""Training and predicting in one process and in two, and a model of more.

``python benchmarks/processes.py`` measures here and prints the tables of ``docs/scaling.md``. Each process has one
thread. Every update is the same eight views; two processes have four of them each. Predictions are those of a worker
on a cluster: a picture is read, labelled with PyTorch in float32, and written.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import distributed as dist

from fullyconv.data.synthetic import write_dataset
from fullyconv.predict.folder import write_prediction
from fullyconv.predict.predictor import Predictor
from fullyconv.train.assemble import assemble
from fullyconv.train.job import Quiet
from fullyconv.train.prepare import prepare
from fullyconv.train.recipe import Recipe
from fullyconv.train.run import Run
from fullyconv.train.team import joined

RECIPE = Recipe(
    network="fcn8s-resnet18", crop=(128, 128), batch=4, accumulate=2, epochs=4, precision="fp32", device="cpu",
    validate_every=100, optimizer="sgd", statistics="running",
)  # fmt: skip
GRADIENT = {"fcn8s-resnet18": 11.2e6 * 4, "fcn8s-vgg16": 134.3e6 * 4}  # bytes
STEP_SECONDS = 0.15  # of a GPU's update, of which two thirds are the gradient's: assumed
HOP_SECONDS = 100e-6  # of Gloo's ring, in which the processes agree before each update
BETWEEN, WITHIN, NODE = 12.5e9, 150e9, 8  # bytes per second and GPU: 100 Gbit/s, NVLink; GPUs of a machine


class Clock(Quiet):
    """Notes when updates end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def step(self, **_: object) -> None:
        """Note an update."""
        self.times.append(time.perf_counter())


def measure(data: Path, size: int) -> float:
    """Return the median seconds of an update, the first epoch left out."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told, tell = os.pipe()
    for rank in range(size):
        if os.fork():
            continue
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        os.environ.update(shared | {"WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)})
        clock = Clock()
        with joined() as team:
            Run(assemble(RECIPE, prepare(RECIPE, data), None, team=team), watcher=clock).train()
        if rank == 0:
            gaps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
            os.write(tell, f"{statistics.median(gaps[len(gaps) // 4 :])}".encode())
        os._exit(0)
    for _ in range(size):
        os.wait()
    return float(os.read(told, 99))


def write_pictures(folder: Path) -> list[Path]:
    """Write forty pictures of 480 x 360 pixels, smooth as photographs are."""
    folder.mkdir()
    files = [folder / f"{index}.jpg" for index in range(40)]
    for index, file in enumerate(files):
        coarse = np.random.default_rng(index).integers(0, 256, (45, 60, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((480, 360), Image.Resampling.BICUBIC).save(file)
    return files


def label(pictures: list[Path], out: Path, size: int) -> float:
    """Return the pictures that are labelled in a second, by so many processes that have equal shares of them."""
    segmenter = Predictor("camvid", "float32", "pytorch", device="cpu").segmenter
    segmenter.predict(pictures[0])
    begun = time.perf_counter()
    for rank in range(size):
        if os.fork():
            continue
        for picture in pictures[rank::size]:
            write_prediction(segmenter.predict(picture), out / picture.stem)
        os._exit(0)
    for _ in range(size):
        os.wait()
    return len(pictures) / (time.perf_counter() - begun)


def modelled(gpus: int, gradient: float) -> tuple[float, float, float]:
    """Return seconds of the ring of gradients, of agreeing, and the efficiency, of one update on so many GPUs.

    A ring moves 2 (P - 1) / P of the gradient through the slowest link; DistributedDataParallel hides it behind the
    gradient's computation, two thirds of the update.
    """
    link = WITHIN if gpus <= NODE else BETWEEN
    ring = 2 * (gpus - 1) / gpus * gradient / link
    agree = 2 * (gpus - 1) * HOP_SECONDS
    shown = max(0.0, ring - STEP_SECONDS * 2 / 3) + agree
    return ring, agree, STEP_SECONDS / (STEP_SECONDS + shown)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = write_dataset(Path(folder) / "data", train=32, val=2)
        found = {size: [] for size in (1, 2)}
        for _ in range(2):
            for size, times in found.items():
                times.append(measure(data, size))
        pictures = write_pictures(Path(folder) / "pictures")
        speeds = {size: [label(pictures, Path(folder) / "out", size) for _ in range(2)] for size in (1, 2)}
    print(f"pictures of 480 x 360 labelled in a second: 1 process {speeds[1]}, 2 processes {speeds[2]}")
    one, two = (statistics.median(found[size]) for size in (1, 2))
    print(f"seconds per update: 1 process {found[1]}, 2 processes {found[2]}: {one / two:.2f} times as fast")
    print(f"exchanged per update and process: {GRADIENT['fcn8s-resnet18'] / 1e6:.0f} MB")
    for name, gradient in GRADIENT.items():
        for gpus in (8, 64, 1024):
            ring, agree, efficiency = modelled(gpus, gradient)
            print(f"| {name} | {gpus} | {ring * 1e3:.1f} | {agree * 1e3:.1f} | {efficiency:.0%} |")


if __name__ == "__main__":
    main()
