"""Dense CRF beside pydensecrf2: agreement first, then time, memory and how the cost grows.

    python benchmarks/crf.py --image street.png --unary street-21.npz --out docs/figures

The picture is brought to 500 x 375, and so is the file's ``unary`` (C x H x W). Peers take turns;
the figures are medians, CPU time on one core and wall time on two. Needs ``pip install
pydensecrf2``.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from fullyconv.bench import Machine, Timing, Watch, race
from fullyconv.crf import dense_crf

WIDTH, HEIGHT = 500, 375
SETTINGS = {"usual (sxy 80, srgb 13)": (80.0, 13.0), "wide (sxy 67, srgb 3)": (67.0, 3.0)}
SMOOTHNESS = {"smoothness_weight": 3.0, "smoothness_sxy": 3.0, "appearance_weight": 10.0}


def ours(unary: np.ndarray, image: np.ndarray, kernel: tuple[float, float], iterations: int = 10) -> np.ndarray:
    """Infer with this package."""
    sxy, srgb = kernel
    return dense_crf(unary, image, iterations=iterations, appearance_sxy=sxy, appearance_srgb=srgb, **SMOOTHNESS)


def theirs(unary: np.ndarray, image: np.ndarray, kernel: tuple[float, float], iterations: int = 10) -> np.ndarray:
    """Infer with the old package."""
    import pydensecrf.densecrf as old

    classes, height, width = unary.shape
    crf = old.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(unary.reshape(classes, -1))
    crf.addPairwiseGaussian(sxy=SMOOTHNESS["smoothness_sxy"], compat=SMOOTHNESS["smoothness_weight"])
    crf.addPairwiseBilateral(sxy=kernel[0], srgb=kernel[1], rgbim=image, compat=SMOOTHNESS["appearance_weight"])
    return np.array(crf.inference(iterations)).reshape(unary.shape)


def resized(image: np.ndarray, unary: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Bring picture and energies to one size."""
    planes = [np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)) for plane in unary]
    return np.array(Image.fromarray(image).resize((width, height))), np.stack(planes)


def on_threads(count: int, job: Callable[[], object]) -> Callable[[], object]:
    """Make a job set the number of threads first."""

    def run() -> None:
        torch.set_num_threads(count)
        job()

    return run


def cpu_race(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Take turns by CPU time."""
    return race(jobs, rounds, watch=Watch(machine=Machine(clock=time.process_time)))


def beside(image: np.ndarray, unary: np.ndarray, rounds: int) -> list[str]:
    """Check agreement, then let the peers take turns; returns rows of a Markdown table."""
    rows = []
    for name, kernel in SETTINGS.items():
        old, new = theirs(unary, image, kernel), ours(unary, image, kernel)
        agreement, apart = (old.argmax(0) == new.argmax(0)).mean(), np.abs(old - new).mean()
        if agreement < 0.995 or apart > 0.01:
            raise SystemExit(f"{name}: argmax equal on {agreement:.4%}, marginals {apart:.4f} apart: not the same CRF")
        job, peer = partial(ours, unary, image, kernel), partial(theirs, unary, image, kernel)
        cpu = cpu_race({"old": peer, "ours": on_threads(1, job)}, rounds)
        wall = race({"old": peer, "ours": on_threads(2, job)}, rounds)
        cells = [
            f"{1e3 * times['old'].median:.0f} | {1e3 * times['ours'].median:.0f} "
            f"({times['old'].median / times['ours'].median:.1f}x)"
            for times in (cpu, wall)
        ]
        rows.append(f"| {name} | {cells[0]} | {cells[1]} | {agreement:.4%} | {apart:.1e} |")
    return rows


def growth(image: np.ndarray, unary: np.ndarray) -> dict[str, list[tuple[float, float]]]:
    """Time one core over pixels, labels and iterations: (how many, CPU ms)."""
    torch.set_num_threads(1)
    kernel = SETTINGS["usual (sxy 80, srgb 13)"]

    def least(picture: np.ndarray, energies: np.ndarray, iterations: int = 10) -> float:
        return 1e3 * cpu_race({"ours": partial(ours, energies, picture, kernel, iterations)}, 3)["ours"].low

    curves: dict[str, list[tuple[float, float]]] = {"pixels": [], "labels": [], "iterations": []}
    for scale in (0.5, 1.0, 1.5, 2.0):
        picture, energies = resized(image, unary, round(WIDTH * scale**0.5), round(HEIGHT * scale**0.5))
        curves["pixels"].append((energies[0].size, least(picture, energies)))
    for labels in (8, 16, 24, 32, 48, 64):
        energies = np.ascontiguousarray(unary[np.arange(labels) % len(unary)])
        curves["labels"].append((labels, least(image, energies)))
    for iterations in (1, 5, 10, 15, 20):
        curves["iterations"].append((iterations, least(image, unary, iterations)))
    return curves


def plot(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Draw the growth with a straight line through each."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, 3), curves.items(), strict=True):
        x, y = np.array(points).T
        slope, start = np.polyfit(x, y, 1)
        axes.plot(x, y, "o", color="#1565c0")
        axes.plot([0, x.max()], [start, start + slope * x.max()], color="#999", linestyle=":")
        axes.set(xlabel=name, ylabel="CPU ms, one core", ylim=(0, None), xlim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def peak(who: str, arguments: argparse.Namespace) -> float:
    """Measure in a process of its own how much memory one inference adds at its peak, MB."""
    command = [sys.executable, __file__, "--image", arguments.image, "--unary", arguments.unary, "--peak", who]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def memory_of(who: str, image: np.ndarray, unary: np.ndarray) -> float:
    """Measure how much one inference adds to this process at its peak, MB."""
    torch.set_num_threads(1)
    job = ours if who == "ours" else theirs
    kernel = SETTINGS["usual (sxy 80, srgb 13)"]
    job(np.ascontiguousarray(unary[:, :40, :40]), np.ascontiguousarray(image[:40, :40]), kernel)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status("VmRSS")
    job(unary, image, kernel)
    return (status("VmHWM") - before) / 1024


def status(key: str) -> int:
    """Read a figure of this process, kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main() -> None:
    """Run everything, or one memory measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True)
    parser.add_argument("--unary", required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peak", choices=["ours", "old"])
    arguments = parser.parse_args()
    picture = np.asarray(Image.open(arguments.image).convert("RGB"))
    image, unary = resized(picture, np.load(arguments.unary)["unary"].astype(np.float32), WIDTH, HEIGHT)
    if arguments.peak:
        sys.stdout.write(str(memory_of(arguments.peak, image, unary)))
        return
    rows = beside(image, unary, arguments.rounds)
    table = [
        f"{WIDTH} x {HEIGHT}, {len(unary)} labels, 10 iterations; {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; "
        f"medians of {arguments.rounds} rounds, peers in turn, ms.",
        "",
        "| kernels | pydensecrf2, CPU | ours, 1 core, CPU | pydensecrf2, wall | ours, 2 cores, wall | argmax equal "
        "| mean difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"Peak memory of an inference: pydensecrf2 {peak('old', arguments):.0f} MB, "
        f"ours {peak('ours', arguments):.0f} MB.",
        "",
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "crf.md").write_text("\n".join(table))
    plot(growth(image, unary), arguments.out / "crf.png")
    sys.stdout.write("\n".join(table))


if __name__ == "__main__":
    main()
