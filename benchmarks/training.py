"""A training step beside the step as it is usually written, and the loss alone: agreement first, then time and memory.

    make bench ROWS="training training-vgg"

The usual step computes in float32, interpolates the scores to the picture and takes ``cross_entropy`` of them; SGD
with momentum is PyTorch's default. Ours is the step of ``fullyconv train``. Each variant has weights of its own. Peak
memory is that of a step beyond what weights, gradients and the optimiser hold after two others, each variant in a
process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from contest import Contest, Entry
from torch import Tensor, nn
from torch.nn import functional

from fullyconv import build
from fullyconv.losses import upsampled_loss
from fullyconv.memory import PeakMemory
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


def contest(name: str, *, memory: bool = True) -> Contest:
    """Return the step of a case, the peak memory of each variant in notes below."""
    case = CASES[name]
    height, width = case.size
    found = Contest(f"training step, {case.network}, {case.batch} x {case.classes} x {height} x {width}", {}, rounds=5)
    for label, make in VARIANTS.items():
        like = "" if label == "usual" else "usual"
        found.entries[label] = Entry(make(case), like=like, least=1.0, within=0.03)  # bfloat16's losses
    if memory:
        taken = {label: peak(name, label) for label in VARIANTS}
        said = ", ".join(f"{label} {most:.0f} MiB ({most / taken['usual']:.2f})" for label, most in taken.items())
        found.notes.append(f"Peak memory of a step: {said}.")
    return found


def peak(case: str, variant: str) -> float:
    """Return the MiB that a step takes beyond weights, gradients and the optimiser's state, from a child process."""
    return float(subprocess.check_output([sys.executable, __file__, case, variant], text=True).splitlines()[-1])


def measured_peak(step: Step) -> float:
    """Return the MiB that a step takes beyond what it leaves behind."""
    step()
    step()
    with PeakMemory(torch.device("cpu")) as found:
        step()
    return found.taken / 2**20


if __name__ == "__main__":  # the child process of ``peak``
    print(measured_peak(VARIANTS[sys.argv[2]](CASES[sys.argv[1]])))
