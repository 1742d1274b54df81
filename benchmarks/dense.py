"""Scores at every pixel in three ways, side by side: upsampling, shift-and-stitch, à trous (paper, section 3.2).

``python benchmarks/dense.py`` uses FCN-32s on VGG-16 with a 32nd of its channels; ``--width 1`` takes it
whole, which wants a GPU. Prints time and memory of each, and how far the two dense routes differ.
Memory is what the device holds at most beyond the network and the image; on CPU it is the sum of all
live tensors at the worst moment, by PyTorch's profiler.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from fullyconv.machine import choose_device, evaluating
from fullyconv.networks import build
from fullyconv.networks.dense import shift_and_stitch, to_atrous
from fullyconv.networks.fcn import FCN
from fullyconv.surgery import replace_layer


@dataclass(frozen=True)
class Cost:
    """What a route took, and what it gave."""

    seconds: float
    bytes: int
    scores: Tensor


def slim(network: FCN, share: int) -> FCN:
    """Divide the channels of every convolution between image and scores, keeping windows and paddings."""
    convs = [(name, module) for name, module in network.trunk.named_modules() if isinstance(module, nn.Conv2d)]
    wide = 3
    for name, conv in convs:
        channels = max(1, conv.out_channels // share)
        thin = nn.Conv2d(wide, channels, cast("Any", conv.kernel_size), padding=cast("Any", conv.padding))
        nn.init.kaiming_normal_(thin.weight, nonlinearity="relu")
        replace_layer(network.trunk, name, thin)
        wide = channels
    network.heads[0] = nn.Conv2d(wide, network.classes, 1)
    return network


def measure(route: Callable[[], Tensor], device: torch.device) -> Cost:
    """Run twice: for the time, then for the memory."""
    started = time.perf_counter()
    scores = route()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return Cost(seconds, _peak_cuda(route) if device.type == "cuda" else _peak_cpu(route), scores)


def _peak_cuda(route: Callable[[], Tensor]) -> int:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    route()
    return torch.cuda.max_memory_allocated() - before


def _peak_cpu(route: Callable[[], Tensor]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        route()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in cast("Any", record.profiler).kineto_results.events()
        if event.name() == "[memory]"
    ]
    live = worst = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        live += change
        worst = max(worst, live)
    return worst


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64), metavar=("H", "W"), help="image, pixels")
    parser.add_argument("--width", type=int, default=32, help="divide VGG-16's channels by this")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    chosen = parser.parse_args()
    device = choose_device(chosen.device)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # the comparison is of methods, not of TF32
    network = slim(build("fcn32s-vgg16", chosen.classes), chosen.width).to(device)
    nn.init.normal_(cast("Tensor", network.heads[0].weight), std=0.01)
    image = torch.randn(1, 3, *chosen.size, device=device)
    with evaluating(network):
        atrous = to_atrous(network)
        network(image)  # warm up
        routes = {
            "upsampling": measure(lambda: cast("Tensor", network(image)), device),
            "shift-and-stitch": measure(lambda: shift_and_stitch(network, image), device),
            "à trous": measure(lambda: cast("Tensor", atrous(image)), device),
        }
    place = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"FCN-32s VGG-16 / {chosen.width}, {chosen.size[0]} x {chosen.size[1]}, {place}, torch {torch.__version__}\n")
    print(f"{'route':<18}{'scores':>14}{'seconds':>12}{'MiB':>10}{'x time':>9}")
    base = routes["upsampling"].seconds
    for name, cost in routes.items():
        shape = " x ".join(map(str, cost.scores.shape[-2:]))
        print(f"{name:<18}{shape:>14}{cost.seconds:>12.4f}{cost.bytes / 2**20:>10.1f}{cost.seconds / base:>9.1f}")
    stitched, direct = routes["shift-and-stitch"].scores, routes["à trous"].scores
    difference = float((stitched - direct).abs().max() / direct.abs().max())
    print(f"\nshift-and-stitch and à trous differ by {difference:.1e} of the largest score")


if __name__ == "__main__":
    main()
