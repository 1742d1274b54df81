"""Files of tensors, safetensors, whole or with weights in 8 bits. Nothing is ever unpickled."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fullyconv.files import BadFile, whole_file
from fullyconv.limits import LIMITS

SAVED = "restore it from where it was saved"
SCALE = "..scale"  # behind the name of an 8-bit tensor, for its scales: no module's tensor can be called so
EARLIER_SCALE = ".scale"  # in files of version 0.1


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, under a temporary name first."""
    try:
        with whole_file(path) as draft:
            draft.touch()
            mode = draft.stat().st_mode  # safetensors would make the file readable by its owner alone
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft)
            draft.chmod(mode)
    except SafetensorError as error:  # it knows the system's errors only as words
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raises ``BadFile``."""
    if not path.is_file():  # opening a pipe would wait for a writer
        what = "is no regular file" if path.exists() else "no such file"
        raise BadFile(path, what, "name the whole model folder, as it was saved")
    _check_header(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadFile(path, f"not readable as safetensors ({error})", SAVED) from None


def _check_header(path: Path) -> None:
    """Refuse a header that names more tensors than any network has, before it is parsed: each takes its time."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LIMITS.header_bytes:  # a file of something else may say anything here
            raise BadFile(path, f"not readable as safetensors (its header takes {length} bytes)", SAVED)
        count = file.read(length).count(b"data_offsets")
    if count > LIMITS.tensors:
        raise BadFile(path, f"holds {count} tensors", LIMITS.remedy("tensors"))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of weights, which may be stored in 8 bits; raises ``BadFile``."""
    try:
        return expand(read_tensors(path))
    except BadFile:
        raise
    except ValueError as error:
        raise BadFile(path, str(error), SAVED) from None


def shrink(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store each weight of two or more dimensions as int8, with one scale per output channel beside it."""
    stored = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or not tensor.is_floating_point():
            stored[name] = tensor
            continue
        scale = tensor.abs().amax(tuple(range(1, tensor.ndim)), keepdim=True).clamp(min=1e-30) / 127
        stored[name] = (tensor / scale).round().to(torch.int8)
        stored[name + SCALE] = scale
    return stored


def expand(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``shrink``; other tensors stay as they are. Raises ``ValueError`` for scales of another shape.

    >>> weight = torch.tensor([[0.5, -0.25]])
    >>> expand(shrink({"affine.scale": weight}))["affine.scale"]
    tensor([[ 0.5000, -0.2520]])
    """
    scales = {
        name: name + suffix
        for name, tensor in tensors.items()
        for suffix in (SCALE, EARLIER_SCALE)
        if tensor.dtype == torch.int8 and name + suffix in tensors
    }
    for name, scale in scales.items():
        expected = (*tensors[name].shape[:1], *(1 for _ in tensors[name].shape[1:]))
        if tuple(tensors[scale].shape) != expected:
            raise ValueError(f"{scale} is {tuple(tensors[scale].shape)}, the scales of {name} are {expected}")
    return {
        name: tensor * tensors[scales[name]] if name in scales else tensor
        for name, tensor in tensors.items()
        if name not in scales.values()
    }
