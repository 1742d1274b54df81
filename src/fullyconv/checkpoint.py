"""A model as a folder: ``model.safetensors`` and ``config.json``. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite, prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from torch import Tensor, nn

from fullyconv.crf.parameters import CRFParameters
from fullyconv.facts import SIFTFLOW_GEOMETRIC
from fullyconv.files import BadFile, write_json
from fullyconv.limits import LIMITS
from fullyconv.models import packaged
from fullyconv.networks import Architecture, architecture_of, external_trunk, foreign_trunk, rebuild
from fullyconv.networks.crf import CRFLayer
from fullyconv.networks.fcn import FCN
from fullyconv.networks.heads import ManyHeads
from fullyconv.networks.reference import REFERENCES, Reference
from fullyconv.networks.trunks.external import build_classifier
from fullyconv.surgery import factor_like
from fullyconv.surgery.layers import without_weights
from fullyconv.tensors import read_weights, shrink, write_tensors
from fullyconv.types import LONGEST_NAME, ClassSet, Preprocess, SpectralPreprocess

WEIGHTS, CONFIG = "model.safetensors", "config.json"
RESTORE = "restore it from where the model was saved"
LARGEST_EXAMPLE = 1 << 26  # numbers of a picture that a classifier was made for: 4096 x 4096, four channels


def _kind(preprocess: Any) -> str:
    """Distinguish spectra from colours; without it what is no valid one would be tried as the other."""
    spectral = "scene_bands" in preprocess if isinstance(preprocess, dict) else hasattr(preprocess, "scene_bands")
    return "spectra" if spectral else "colours"


AnyPreprocess = Annotated[
    Annotated[Preprocess, Tag("colours")] | Annotated[SpectralPreprocess, Tag("spectra")], Discriminator(_kind)
]


class Head(BaseModel):
    """What is said of a further head: what its labels mean, the temperature of its probabilities, its CRF."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    classes: ClassSet
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    crf: CRFParameters | None = None


class Config(BaseModel):
    """What ``config.json`` holds beside the weights."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    format: int = 1
    architecture: Architecture
    classes: ClassSet
    preprocess: AnyPreprocess
    crf: CRFParameters | None = (
        None  # what `fullyconv crf tune` found, or what a CRF trained with the network stands on
    )
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0  # what makes its probabilities mean what they say
    heads: dict[str, Head] = {}  # of its further tasks
    notes: dict[str, Any] = {}  # how the model came to be: recipe, scores, versions

    @model_validator(mode="after")
    def _agrees(self) -> Config:
        """Refuse what would be built only to be found wrong, or at a size that no network has."""
        made = self.architecture
        if len(made.name) > LONGEST_NAME:
            raise ValueError(f"a network's name of {len(made.name)} characters")
        if made.classes != len(self.classes):
            raise ValueError(f"the architecture scores {made.classes} classes, {len(self.classes)} are named")
        named = {name: len(head.classes) for name, head in self.heads.items()}
        if (made.tasks or named) and dict(made.tasks) != named:  # those of SIFT Flow's nets need not be named
            raise ValueError(f"the architecture has the further heads {dict(made.tasks)}, named are {named}")
        if made.channels is not None and not 1 <= made.channels <= LIMITS.bands:
            raise ValueError(f"a network reads 1 to {LIMITS.bands} channels, not {made.channels}")
        if made.example is not None and not (min(made.example) >= 1 and prod(made.example) <= LARGEST_EXAMPLE):
            raise ValueError(f"no classifier is made for pictures of {' x '.join(map(str, made.example))}")
        return self

    def document(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; without what only models of several heads have."""
        found = self.model_dump()
        if not self.heads:
            del found["heads"], found["architecture"]["tasks"]
        return found


def save(  # noqa: PLR0913 (what a model folder holds)
    network: nn.Module,
    folder: Path | str,
    *,
    classes: ClassSet | None = None,
    preprocess: Preprocess | SpectralPreprocess | None = None,
    heads: Mapping[str, ClassSet] | None = None,
    notes: Mapping[str, Any] | None = None,
    compact: bool = False,
) -> Path:
    """Write a model folder; each file appears whole or not at all.

    Args:
        network: A network made by ``build``, ``from_classifier`` or ``load``.
        folder: Where ``model.safetensors`` and ``config.json`` go; made if it is missing.
        classes: What the labels mean; default: ``class_0``, ``class_1``, …
        preprocess: The normalisation of pixels; default: the usual statistics of ImageNet, or numbers as they are where
            the network reads more than three channels.
        heads: What the labels of its further tasks mean, by their names; default: ``class_0``, … of each (the published
            ones of SIFT Flow's nets).
        notes: Plain values to keep with the model: recipe, scores, versions.
        compact: Store convolution weights in 8 bits, one scale per output channel: a quarter of the size, for sharing;
            what is loaded then differs by rounding.

    Returns:
        The folder.

    Raises:
        ValueError: If the classes do not fit the network, or it was not built by name.

    >>> import tempfile
    >>> from fullyconv.networks import build
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = save(build("fcn4s-lenet", 2), f"{place}/model", classes=ClassSet(("a", "b")))
    ...     sorted(file.name for file in folder.iterdir())
    ['config.json', 'model.safetensors']
    """
    architecture = architecture_of(network)
    classes = classes or _numbered(architecture.classes)
    if len(classes) != architecture.classes:
        raise ValueError(f"the network scores {architecture.classes} classes, {len(classes)} are named")
    named = {name: _usual_classes(architecture, name) for name, _ in architecture.tasks} | dict(heads or {})
    config = Config(
        architecture=architecture,
        classes=classes,
        preprocess=preprocess or _usual(network),
        heads={name: Head(classes=own) for name, own in named.items()},
        notes=dict(notes or {}),
        crf=getattr(getattr(network, "crf", None), "settings", None),
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = network.state_dict()
    write_tensors(folder / WEIGHTS, shrink(tensors) if compact else tensors)
    write_json(folder / CONFIG, config.document())
    return folder


def _numbered(count: int) -> ClassSet:
    return ClassSet(tuple(f"class_{index}" for index in range(count)))


def _usual_classes(architecture: Architecture, head: str) -> ClassSet:
    """Return what a further head's labels mean where nobody says so: of SIFT Flow's nets the published classes."""
    if (head, dict(architecture.tasks)[head]) in REFERENCES.get(architecture.name, Reference(())).tasks:
        return SIFTFLOW_GEOMETRIC.classes
    return _numbered(dict(architecture.tasks)[head])


def _usual(network: nn.Module) -> Preprocess:
    further = network.in_channels if isinstance(network, FCN) and network.in_channels > 3 else 0
    return Preprocess((0.0,) * further, (1.0,) * further) if further else Preprocess()


def load_network(folder: Path | str, *, trust: str | Sequence[str] = ()) -> tuple[FCN, Config]:
    """Read a model folder, a classifier's too.

    Args:
        folder: ``RUN/model``, or ``RUN``.
        trust: Functions ``package.module:function`` that may be called to make the network's classifier.

    Returns:
        The network in evaluation mode, and what stands beside its weights.

    Raises:
        BadFile: When a file is missing, damaged, does not fit the architecture, holds NaN or infinity, or
            names a function that is not in ``trust``.

    """
    folder = find_model(Path(folder))
    config = read_config(folder)
    network = _build(config.architecture, folder / CONFIG, (trust,) if isinstance(trust, str) else trust)
    _check_channels(folder / CONFIG, network, config)
    tensors = read_weights(folder / WEIGHTS)
    if isinstance(network, FCN) and any(name.startswith("crf.") for name in tensors):  # trained with it
        network.crf = CRFLayer(len(config.classes), config.crf)
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
    for name, tensor in tensors.items():
        _check_numbers(folder / WEIGHTS, name, tensor, expected[name])
    network.load_state_dict(tensors)
    if isinstance(network, ManyHeads) and not config.heads:  # of a version that did not name SIFT Flow's second
        made = architecture_of(network)
        config.heads = {name: Head(classes=_usual_classes(made, name)) for name in network.tasks}
    return network.eval(), config


def _check_channels(path: Path, network: nn.Module, config: Config) -> None:
    """Refuse a normalisation of other channels than the network reads, of three or more (LeNet reads grey levels)."""
    made = config.preprocess
    given = made.channels if isinstance(made, SpectralPreprocess) else len(made.mean)
    if isinstance(network, FCN) and given != network.in_channels >= 3:
        what = f"normalises {given} channels, and its network reads {network.in_channels}"
        raise BadFile(path, what, "restore it from where the model was saved")


def _check_numbers(path: Path, name: str, tensor: Tensor, expected: Tensor) -> None:
    """Refuse what would label every pixel the same without a word, or be cast to something else."""
    if tensor.is_floating_point() != expected.is_floating_point() or tensor.is_complex():
        raise BadFile(path, f"{name} holds {tensor.dtype}, not {expected.dtype}", "save the model anew")
    if tensor.is_floating_point() and tensor.numel() and not all(map(isfinite, map(float, tensor.aminmax()))):
        raise BadFile(path, f"{name} holds NaN or infinity", "take an earlier model, or train again at a lower rate")


def find_model(folder: Path) -> Path:
    """Return the model folder that a path stands for: itself, the ``model`` of a run, or the package's of that name.

    Raises ``BadFile`` if there is none.
    """
    for candidate in (folder, folder / "model"):
        if (candidate / CONFIG).is_file():
            return candidate
    if not folder.exists() and str(folder) in (known := packaged()):
        return known[str(folder)]
    if folder.is_file():
        what, fix = "is a file, not a model", f"name the folder that holds {CONFIG} and {WEIGHTS}"
    elif not folder.exists():
        names = ", ".join(packaged())
        what, fix = "no such folder", "check the path" + (f", or name a model of the package: {names}" if names else "")
    elif stages := sorted(path.parent.parent.name for path in folder.glob(f"*/model/{CONFIG}")):
        what, fix = f"holds the runs {', '.join(stages[:8])}", f"name one of them, {folder / stages[0]}"
    else:
        what = f"is not a model: it has no {CONFIG}, and no run's model folder"
        fix = "name the folder that holds config.json (RUN/model); a run has one after its first epoch"
    raise BadFile(folder, what, fix)


def find_own_model(folder: Path) -> Path:
    """Return the model folder that a path stands for, to write into; raises ``BadFile`` for one of the package's."""
    found = find_model(folder)
    if found in packaged().values():
        raise BadFile(folder, "came with the package, whose files stay as they are", f"copy {found} and name the copy")
    return found


def check_trust(network: str, path: Path | str, trust: Sequence[str], *, doing: str = "loading it") -> None:
    """Refuse, as ``BadFile``, a file's network that needs code which neither the package nor the caller names."""
    code = foreign_trunk(network)
    if code is not None and code not in trust:
        raise BadFile(
            path,
            f"{doing} calls {code}, which is not fullyconv's, timm's or torchvision's",
            f"if you know that function and trust this file, say so: trust={code!r}, or --trust {code}",
        )


def _build(architecture: Architecture, path: Path, trust: Sequence[str]) -> FCN:
    """Build the network of a model folder, but run no code that neither the package nor the caller names."""
    check_trust(architecture.name, path, trust)
    try:
        if foreign_trunk(architecture.name) is None and (external := external_trunk(architecture.name)) is not None:
            _check_weights(external[1], path)
        return rebuild(architecture)
    except BadFile:
        raise
    except (ValueError, RuntimeError) as error:
        raise BadFile(path, f"architecture: {error}", RESTORE) from None


def _check_weights(name: str, path: Path) -> None:
    """Refuse a classifier of a library that is too large, before its weights exist (our own networks have bounds)."""
    weights = sum(tensor.numel() for tensor in without_weights(partial(build_classifier, name)).state_dict().values())
    stored = path.with_name(WEIGHTS)
    if weights > max(LIMITS.weights, stored.stat().st_size if stored.is_file() else 0):  # a byte each, where compact
        raise BadFile(path, f"{name} has {weights} weights", LIMITS.remedy("weights"))


def read_config(folder: Path) -> Config:
    """Read and check a model's ``config.json``; raises ``BadFile``."""
    path = find_model(folder) / CONFIG
    if path.stat().st_size > LIMITS.text_bytes:
        raise BadFile(path, f"larger than {LIMITS.text_bytes} bytes", LIMITS.remedy("text_bytes"))
    try:
        config = Config.model_validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadFile(path, f"{where or 'as a whole'}: {first['msg'].removeprefix('Value error, ')}", RESTORE) from None
    if config.format != 1:
        raise BadFile(path, f"format {config.format}", "update fullyconv: this version reads format 1")
    return config


def store_crf(folder: Path, parameters: CRFParameters, head: str = "") -> None:
    """Put CRF parameters (of a further ``head``) into a model's ``config.json``; raises ``BadFile`` without one."""
    _store(folder, {"crf": parameters}, head)


def store_temperature(folder: Path, temperature: float, head: str = "") -> None:
    """Put the temperature of the probabilities (of a further ``head``) into a model's ``config.json``.

    Raises:
        BadFile: If there is none.
    """
    _store(folder, {"temperature": temperature}, head)


def _store(folder: Path, values: Mapping[str, Any], head: str) -> None:
    folder = find_own_model(folder)
    config = read_config(folder)
    if head:
        values = {"heads": config.heads | {head: config.heads[head].model_copy(update=values)}}
    write_json(folder / CONFIG, config.model_copy(update=values).document())
