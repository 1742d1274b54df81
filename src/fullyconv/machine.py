"""The machine: devices, precisions, memory."""

from __future__ import annotations

import copy
import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]
Arithmetic = Literal["auto", "float32", "bfloat16", "int8"]
ArithmeticName = Arithmetic | Precision
EngineName = Literal["auto", "pytorch", "openvino"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def choose_device(name: DeviceName | torch.device) -> torch.device:
    """Return the device; ``auto`` is CUDA where there is one. Raises ``ValueError`` if it is not there."""
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but PyTorch sees none: use device=cpu, or a CUDA build of torch")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' was asked for, but PyTorch sees no Apple GPU: use device=cpu")
    if name not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device is auto, cpu, cuda or mps, not {name!r}")
    return torch.device(name)


def arithmetic(name: str) -> Arithmetic:
    """Return the full name of an arithmetic to predict in, which training calls by its short name.

    >>> arithmetic("bf16"), arithmetic("int8")
    ('bfloat16', 'int8')
    """
    full = {"fp32": "float32", "bf16": "bfloat16"}.get(name, name)
    if full not in get_args(Arithmetic):
        raise ValueError(f"precision is one of {', '.join(get_args(Arithmetic))}, not {name!r}")
    return cast("Arithmetic", full)


def fast_bf16(device: torch.device) -> bool:
    """Return whether bfloat16 is quicker than float32 there: on CPUs only with instructions for it."""
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


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out: the GPU's, or the machine's, of which PyTorch has no type.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    words = ("out of memory", "can't allocate memory", "not enough memory", "std::bad_alloc")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def free_memory() -> int:
    """Return the bytes of memory that programs can still have, as far as the system tells; else 4 GiB.

    A container's limit counts too (cgroup version 2), where it is lower.
    """
    found = 4 << 30
    try:
        with open("/proc/meminfo") as file:
            found = next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
        limit, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
        return min(found, max(0, int(limit) - int(used)))
    except (OSError, ValueError, StopIteration):
        return found


def whole_memory() -> int:
    """Return the bytes of memory that the machine has, or a container's limit (cgroup version 2) where it is lower.

    >>> whole_memory() > 1 << 20
    True
    """
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return 1 << 62
    try:
        return min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return found


def read_bytes(words: str) -> int:
    """Read an amount of memory: a number of bytes, or one of KiB, MiB, GiB, kB, MB, GB.

    Raises:
        ValueError: For anything else.

    >>> read_bytes("2GiB"), read_bytes("1.5 MB"), read_bytes("512")
    (2147483648, 1500000, 512)
    """
    units = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?)b?\s*", words.lower())
    if found is None or found[2] not in units or not float(found[1]):
        raise ValueError(f"an amount of memory is like 2GiB or 800MB, not {words!r}")
    return int(float(found[1]) * units[found[2]])


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


Frozen = TypeVar("Frozen", bound=nn.Module)


def frozen(network: Frozen) -> Frozen:
    """Return a network with the same weights, the very tensors, that stays in evaluation mode whoever trains.

    Its modules are its own, so it takes no memory to speak of, and no ``train()`` of the original reaches it;
    weights that change in place (an optimiser's step, ``load_state_dict``) change in both.

    >>> network = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    >>> still = frozen(network)
    >>> network.train()[0].training, still[0].training, still[1].weight is network[1].weight
    (True, False, True)
    """
    return twin(network).eval()


def twin(network: Frozen) -> Frozen:
    """Return a network with modules of its own, in the same modes, and the very tensors of another."""
    tensors: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, tensors)


@contextmanager
def evaluating(network: nn.Module, *, kept: bool = False) -> Iterator[nn.Module]:
    """Switch dropout off and freeze batch statistics for a while, without recording gradients.

    Tensors that are ``kept`` and trained later must not be made in PyTorch's faster inference mode.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad() if kept else torch.inference_mode():
            yield network.eval()
    finally:
        for module, training in modes.items():
            module.training = training
