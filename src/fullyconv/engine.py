"""The machine: devices, precisions, memory."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]
DeviceName = Literal["auto", "cpu", "cuda"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def choose_device(name: DeviceName) -> torch.device:
    """Give the device; ``auto`` is CUDA where there is one. Raises ``ValueError`` if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but PyTorch sees none: use device=cpu, or a CUDA build of torch")
    return torch.device(name)


def fast_bf16(device: torch.device) -> bool:
    """Tell whether bfloat16 is quicker than float32 there: on CPUs only with instructions for it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _cpu_has("amx_bf16", "avx512_bf16")


def _cpu_has(*flags: str) -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            words = next((set(line.split()) for line in file if line.startswith("flags")), set())
    except OSError:
        return False
    return any(flag in words for flag in flags)


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks instead of returning them to the system after every layer.

    Each layer's activations are otherwise mapped, zeroed and unmapped anew: a third of the time of a
    training step on CPU. Affects the whole process, so only the command line calls it. Tells whether
    the C library could be asked.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(
        mallopt(option, amount)
        for option, amount in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 1 << 28))
    )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """Switch dropout off and freeze batch statistics for a while, without recording gradients."""
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.inference_mode():
            yield network.eval()
    finally:
        for module, training in modes.items():
            module.training = training


class PeakMemory:
    """Measures the most memory that a block takes beyond what the process held before it, in bytes.

    Use as a context manager and read ``taken`` afterwards: of the device where that is CUDA, else of
    the process. Only Linux can measure one block after another; elsewhere ``taken`` is NaN.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.taken = float("nan")

    def __enter__(self) -> PeakMemory:
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = float(torch.cuda.memory_allocated())
        elif sys.platform.startswith("linux"):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before counts as free
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # sets the peak back to what is held now
            self._before = _held("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self.taken = torch.cuda.max_memory_allocated() - self._before
        elif sys.platform.startswith("linux"):
            self.taken = max(_held("VmHWM") - self._before, 0.0)


def _held(what: str) -> float:
    with open("/proc/self/status") as file:
        return next(1024.0 * int(line.split()[1]) for line in file if line.startswith(what))


class StopRequest:
    """Lets Ctrl-C (and SIGTERM, as batch systems send it) end a loop between two steps instead of within one.

    Use as a context manager and look at ``asked``; a second signal interrupts at once. Outside the
    main thread signals cannot be caught, and nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._before[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _note(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
