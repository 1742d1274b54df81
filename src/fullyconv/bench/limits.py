"""What a machine can do: the best rate of plain arithmetic, and how fast memory is copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fullyconv.bench.timing import Watch, race
from fullyconv.machine import fast_bf16

SIDE = 2048  # of matrices: large enough for the full rate, and still 0.1 s a product on two old cores
COPIED = 256 << 20  # bytes: more than any cache holds


@dataclass(frozen=True)
class Limits:
    """Rates that no network exceeds by much.

    Attributes:
        operations: Operations per second (a multiplication and an addition are two) by arithmetic (``fp32``,
            ``bf16``): the better one of a product of matrices and a convolution that can hardly run better.
        bytes: Bytes read and written per second by a copy.
    """

    operations: dict[str, float]
    bytes: float


def measure_limits(*, watch: Watch | None = None, device: torch.device | None = None, rounds: int = 5) -> Limits:
    """Measure the rates of a CPU or GPU with all its threads; takes a few seconds.

    Args:
        watch: What looks at the machine meanwhile.
        device: Where; by default the CPU.
        rounds: How often each is timed; the best counts, for this is a limit.

    Returns:
        The rates; ``bf16`` only where the device has instructions for it.
    """
    device = device or torch.device("cpu")
    kinds = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if fast_bf16(device) else {})
    works: dict[str, tuple[str, float, Callable[[], object]]] = {}
    for name, kind in kinds.items():
        works[f"{name} product"] = name, 2.0 * SIDE**3, _product(kind, device)
        works[f"{name} convolution"] = name, 2.0 * 9 * 512 * 512 * 64 * 64, _convolution(kind, device)
    source, target = (torch.ones(COPIED // 4, device=device) for _ in range(2))
    variants = {name: work for name, (_, _, work) in works.items()}
    variants["copy"] = _waiting(lambda: target.copy_(source), device)
    with torch.inference_mode():
        found = race(variants, rounds, watch=watch)
    best = dict.fromkeys(kinds, 0.0)
    for work, (name, operations, _) in works.items():
        best[name] = max(best[name], operations / found[work].low)
    return Limits(best, 2.0 * COPIED / found["copy"].low)


def _product(kind: torch.dtype, device: torch.device) -> Callable[[], object]:
    one = torch.ones(SIDE, SIDE, dtype=kind, device=device)
    return _waiting(lambda: one @ one, device)


def _convolution(kind: torch.dtype, device: torch.device) -> Callable[[], object]:
    """Return VGG's widest 3 x 3 convolution, channels last, at a map that the caches hold."""
    layer = nn.Conv2d(512, 512, 3, padding=1).to(device, kind).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    maps = torch.ones(1, 512, 64, 64, dtype=kind, device=device).to(memory_format=torch.channels_last)
    return _waiting(lambda: layer(maps), device)


def _waiting(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Let a call last until its work is done, where a device works on after it."""
    if device.type != "cuda":
        return work

    def run() -> object:
        found = work()
        torch.cuda.synchronize(device)
        return found

    return run
