"""A model as a folder: ``model.safetensors`` and ``config.json``. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fullyconv.crf.parameters import CRFParameters
from fullyconv.files import BadFile, whole_file, write_json
from fullyconv.limits import LIMITS
from fullyconv.networks import Architecture, architecture_of, rebuild
from fullyconv.networks.fcn import FCN
from fullyconv.surgery import factor_like
from fullyconv.types import ClassSet, Preprocess, SpectralPreprocess

WEIGHTS, CONFIG = "model.safetensors", "config.json"
SCALE = "..scale"  # behind the name of an 8-bit tensor, for its scales: no module's tensor can be called so
EARLIER_SCALE = ".scale"  # in files of version 0.1


def _kind(preprocess: Any) -> str:
    """Distinguish spectra from colours; without it what is no valid one would be tried as the other."""
    spectral = "scene_bands" in preprocess if isinstance(preprocess, dict) else hasattr(preprocess, "scene_bands")
    return "spectra" if spectral else "colours"


AnyPreprocess = Annotated[
    Annotated[Preprocess, Tag("colours")] | Annotated[SpectralPreprocess, Tag("spectra")], Discriminator(_kind)
]


class Config(BaseModel):
    """What ``config.json`` holds beside the weights."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    format: int = 1
    architecture: Architecture
    classes: ClassSet
    preprocess: AnyPreprocess
    crf: CRFParameters | None = None  # what `fullyconv crf tune` found
    notes: dict[str, Any] = {}  # how the model came to be: recipe, scores, versions


def save(
    network: nn.Module,
    folder: Path | str,
    *,
    classes: ClassSet | None = None,
    preprocess: Preprocess | SpectralPreprocess | None = None,
    notes: Mapping[str, Any] | None = None,
    compact: bool = False,
) -> Path:
    """Write a model folder; each file appears whole or not at all.

    ``compact`` stores convolution weights in 8 bits, one scale per output channel: a quarter of the
    size, for sharing; what is loaded then differs by rounding.

    Without ``classes`` the classes are called ``class_0``, …; without ``preprocess`` the usual
    ImageNet statistics are assumed. Raises ``ValueError`` if the classes do not fit the network.
    """
    architecture = architecture_of(network)
    classes = classes or ClassSet(tuple(f"class_{index}" for index in range(architecture.classes)))
    if len(classes) != architecture.classes:
        raise ValueError(f"the network scores {architecture.classes} classes, {len(classes)} are named")
    config = Config(
        architecture=architecture,
        classes=classes,
        preprocess=preprocess or Preprocess(),
        notes=dict(notes or {}),
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = network.state_dict()
    write_tensors(folder / WEIGHTS, shrink(tensors) if compact else tensors)
    write_json(folder / CONFIG, config.model_dump())
    return folder


def load_network(folder: Path | str) -> tuple[FCN, Config]:
    """Read a model folder, a classifier's too.

    Raises ``BadFile`` when a file is missing, damaged or does not fit the architecture.
    """
    folder = Path(folder)
    config = read_config(folder)
    network = rebuild(config.architecture)
    tensors = read_weights(folder / WEIGHTS)
    factor_like(network, tensors)
    expected = network.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys()) or sorted(
        name for name in expected if expected[name].shape != tensors[name].shape
    )
    if wrong:
        raise BadFile(
            folder / WEIGHTS,
            f"does not hold a {config.architecture.name} ({wrong[0]} and {len(wrong) - 1} more differ)",
            f"use the {CONFIG} it was saved with",
        )
    network.load_state_dict(tensors)
    return network.eval(), config


def read_config(folder: Path) -> Config:
    """Read and check a model's ``config.json``; raises ``BadFile``."""
    path = folder / CONFIG
    if not path.is_file():
        raise BadFile(
            folder, f"is not a model: it has no {CONFIG}", "name the folder that holds config.json (RUN/model)"
        )
    if path.stat().st_size > LIMITS.text_bytes:
        raise BadFile(path, f"larger than {LIMITS.text_bytes} bytes", "restore it from where the model was saved")
    try:
        config = Config.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadFile(path, f"{where}: {first['msg']}", "restore it from where the model was saved") from None
    if config.format != 1:
        raise BadFile(path, f"format {config.format}", "update fullyconv: this version reads format 1")
    return config


def store_crf(folder: Path, parameters: CRFParameters) -> None:
    """Put CRF parameters into a model's ``config.json``; raises ``BadFile`` if there is none."""
    config = read_config(folder).model_copy(update={"crf": parameters})
    write_json(folder / CONFIG, config.model_dump())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, under a temporary name first."""
    try:
        with whole_file(path) as draft:
            draft.touch()
            mode = draft.stat().st_mode  # safetensors would make the file readable by its owner alone
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, draft)
            draft.chmod(mode)
    except SafetensorError as error:  # a full disk, above all
        raise OSError(f"{path}: cannot be written ({error})") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raises ``BadFile``."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadFile(path, f"not readable as safetensors ({error})", "restore it from where it was saved") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of weights, which may be stored in 8 bits; raises ``BadFile``."""
    return expand(read_tensors(path))


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
    """Undo ``shrink``; other tensors stay as they are.

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
    return {
        name: tensor * tensors[scales[name]] if name in scales else tensor
        for name, tensor in tensors.items()
        if name not in scales.values()
    }
