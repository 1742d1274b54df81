"""A training step beside the step as it is usually written, and the loss alone: agreement first, then time and memory.

    python benchmarks/training.py [--case compact] [--rounds 5] [--keep-freed-memory]

The usual step computes in float32, interpolates the scores to the picture and takes ``cross_entropy`` of them; SGD with
momentum is PyTorch's default. Ours is the step of ``fullyconv train``. Variants take turns in one process, each with
weights of its own; figures are medians. Peak memory is that of a step beyond weights and the optimiser's state, each
variant in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv import build
from fullyconv.hsi.memory import PeakMemory
from fullyconv.losses import upsampled_loss
from fullyconv.machine import keep_freed_memory
from fullyconv.networks.fcn import FCN
from fullyconv.train.form import FusedScores
from fullyconv.train.job import make_fabric
from fullyconv.train.optim import DenseSGD
from fullyconv.types import VOID


@dataclass(frozen=True)
class Case:
    """What is trained: a network, and the batch and the size (height, width) of its pictures."""

    network: str
    classes: int
    batch: int
    size: tuple[int, int]


CASES = {
    "compact": Case("fcn8s-resnet18", 11, 8, (360, 480)),
    "vgg16": Case("fcn8s-vgg16-same", 21, 1, (500, 500)),
}
Step = Callable[[], Tensor]


def problem(case: Case) -> tuple[FCN, Tensor, Tensor]:
    """Make a network with random heads, pictures and labels, a tenth of them void."""
    torch.manual_seed(0)
    network = build(case.network, case.classes).train()
    for head in network.heads:
        nn.init.normal_(head.weight, std=0.01)
    labels = torch.randint(0, case.classes, (case.batch, *case.size))
    labels[torch.rand(labels.shape) < 0.1] = VOID
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # variants draw in other orders
    return network, torch.randn(case.batch, 3, *case.size), labels


def usual(case: Case, *, half: bool = False) -> Step:
    """Return the step as it is usually written; ``half``: with autocast and channels-last, as the next best."""
    network, image, labels = problem(case)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    if half:
        network, image = network.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            fused = network.fused(network.score_maps(image))
            scores = functional.interpolate(fused, size=case.size, mode="bilinear", align_corners=False)
            loss = functional.cross_entropy(scores.float(), labels, ignore_index=VOID)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def ours(case: Case, *, checkpointing: bool = False) -> Step:
    """Return the step of ``fullyconv train`` in bfloat16."""
    network, image, labels = problem(case)
    network = network.to(memory_format=torch.channels_last)
    fabric = make_fabric("cpu", "bf16")
    optimizer = DenseSGD(network.parameters(), lr=1e-6, momentum=0.9, fused=True)
    run, wrapped = fabric.setup(FusedScores(network, checkpointing=checkpointing), optimizer)
    last_step = network.last_step

    def step() -> Tensor:
        wrapped.zero_grad(set_to_none=True)
        loss = upsampled_loss(run(image.contiguous(memory_format=torch.channels_last)), labels, last_step)
        fabric.backward(loss)
        wrapped.step()
        return loss.detach()

    return step


VARIANTS: dict[str, Callable[[Case], Step]] = {
    "usual": usual,
    "usual, bf16 channels-last": lambda case: usual(case, half=True),
    "ours": ours,
    "ours, checkpointing": lambda case: ours(case, checkpointing=True),
}


def losses(case: Case) -> dict[str, Step]:
    """Return the loss alone, forwards and backwards, of scores at an eighth of the picture's size."""
    network, _, labels = problem(case)
    with torch.no_grad():
        fused = network.fused(network.score_maps(torch.zeros(1, 3, *case.size)))
    values = torch.randn(case.batch, *fused.shape[1:]) * 3
    last_step = network.last_step

    def run(loss_of: Callable[[Tensor], Tensor]) -> Step:
        def step() -> Tensor:
            scores = values.clone().requires_grad_()
            loss = loss_of(scores)
            loss.backward()
            return loss.detach()

        return step

    def interpolated(scores: Tensor) -> Tensor:
        full = functional.interpolate(scores, size=case.size, mode="bilinear", align_corners=False)
        return functional.cross_entropy(full, labels, ignore_index=VOID)

    return {"usual": run(interpolated), "ours": run(lambda scores: upsampled_loss(scores, labels, last_step))}


def race(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Take turns; returns each variant's seconds. Raises ``ValueError`` where losses differ by more than 3 %."""
    first = {name: float(step()) for name, step in steps.items()}
    if max(first.values()) > 1.03 * min(first.values()):
        raise ValueError(f"the variants do not compute the same: {first}")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def peak(case: str, variant: str) -> float:
    """Return the MiB that a step takes beyond weights and the optimiser's state, measured in a child process."""
    words = [sys.executable, __file__, "--case", case, "--peak", variant]
    return float(json.loads(subprocess.check_output(words)))


def rows(cases: tuple[str, ...] = tuple(CASES), *, rounds: int = 5, memory: bool = True) -> Iterator[dict[str, object]]:
    """Measure; gives a row for each case, part (step or loss) and variant, ratios to the usual one."""
    for name in cases:
        parts = {"loss": losses(CASES[name]), "step": {label: make(CASES[name]) for label, make in VARIANTS.items()}}
        for part, steps in parts.items():
            seconds = race(steps, rounds if part == "step" else 3 * rounds)
            peaks = {label: peak(name, label) if memory and part == "step" else float("nan") for label in steps}
            for label, taken in seconds.items():
                yield {
                    "case": name, "part": part, "variant": label,
                    "ms": round(1e3 * median(taken), 2), "low": round(1e3 * min(taken), 2),
                    "high": round(1e3 * max(taken), 2),
                    "ratio": round(median(seconds["usual"]) / median(taken), 2),
                    "peak MiB": round(peaks[label]), "peak ratio": round(peaks[label] / peaks["usual"], 2),
                } if peaks[label] == peaks[label] else {
                    "case": name, "part": part, "variant": label,
                    "ms": round(1e3 * median(taken), 2), "low": round(1e3 * min(taken), 2),
                    "high": round(1e3 * max(taken), 2),
                    "ratio": round(median(seconds["usual"]) / median(taken), 2),
                }  # fmt: skip


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep-freed-memory", action="store_true", help="As the command line does; of all variants.")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak", choices=list(VARIANTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.keep_freed_memory:
        keep_freed_memory()
    cases = tuple(given.case or CASES)
    if given.peak:
        step = VARIANTS[given.peak](CASES[cases[0]])
        step()
        step()
        with PeakMemory(torch.device("cpu")) as found:
            step()
        print(json.dumps(found.taken / 2**20))
        return
    for row in rows(cases, rounds=given.rounds, memory=not given.no_memory):
        print(" | ".join(f"{key} {value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
