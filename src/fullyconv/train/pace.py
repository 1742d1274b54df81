"""What there is to train with, and how quickly a network trains on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from fullyconv.losses import upsampled_loss
from fullyconv.machine import choose_device, fast_bf16, free_memory
from fullyconv.networks.fcn import FCN
from fullyconv.train.auto import Machine
from fullyconv.train.form import FusedScores
from fullyconv.train.job import make_fabric
from fullyconv.train.optim import make_optimizer
from fullyconv.train.recipe import Recipe

SIDE, BATCH = 256, 2  # of what is tried
STEPS = 3  # of which the quickest counts


def find_machine(recipe: Recipe) -> Machine:
    """Look at the device that a recipe trains on, its memory, and its arithmetic."""
    device = choose_device(recipe.device)
    if device.type == "cuda":
        return Machine("cuda", os.cpu_count() or 1, torch.cuda.mem_get_info()[0], fast_bf16(device))
    return Machine("cpu", torch.get_num_threads(), free_memory(), fast_bf16(device))


def measure_pace(recipe: Recipe, make: Callable[[], FCN]) -> float:
    """Train a network for a moment on noise.

    Args:
        recipe: Says the device and the precision.
        make: Makes the network, which is thrown away.

    Returns:
        Seconds per million pixels of views.
    """
    fabric = make_fabric(recipe.device, recipe.precision)
    with torch.random.fork_rng(devices=[]):  # a run's own random numbers do not depend on this
        network = make().to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        form, optimizer = fabric.setup(FusedScores(network), make_optimizer(network, recipe))
        images = torch.randn(BATCH, 3, SIDE, SIDE, device=fabric.device).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(network.classes, (BATCH, SIDE, SIDE), device=fabric.device)
        spent = []
        for _ in range(STEPS + 1):  # the first prepares kernels
            begun = time.perf_counter()
            loss = upsampled_loss(form(images), labels, network.last_step)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
            if fabric.device.type == "cuda":
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - begun)
    return min(spent[1:]) / (BATCH * SIDE**2 / 1e6)
