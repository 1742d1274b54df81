"""The memory that a block of code takes."""

from __future__ import annotations

import ctypes
import sys

import torch


class PeakMemory:
    """Measures the most memory that a block takes beyond what the process held before it, in bytes.

    Use as a context manager and read ``taken`` afterwards, and ``before`` for what was held: of the device where that
    is CUDA, else of the process. Only Linux can measure one block after another; elsewhere ``taken`` is NaN.

    What libraries take without Python is counted, too. ``tracemalloc`` counts none of it, and stopping it while another
    thread unpacks a file ends the process (CPython before 3.12.9).
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._cuda = device is not None and device.type == "cuda"
        self.taken = self.before = float("nan")

    def __enter__(self) -> PeakMemory:
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = float(torch.cuda.memory_allocated())
        elif sys.platform.startswith("linux"):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before counts as free
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # sets the peak back to what is held now
            self.before = _held("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self.taken = torch.cuda.max_memory_allocated() - self.before
        elif sys.platform.startswith("linux"):
            self.taken = max(_held("VmHWM") - self.before, 0.0)


def _held(what: str) -> float:
    with open("/proc/self/status") as file:
        return next(1024.0 * int(line.split()[1]) for line in file if line.startswith(what))
