"""The weights that a training starts from, and the normalisation that goes with them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullyconv.checkpoint import load_network, read_config
from fullyconv.crf import CRFParameters
from fullyconv.files import BadFile
from fullyconv.networks import foreign_trunk, split_name
from fullyconv.networks.fcn import FCN, continue_from
from fullyconv.networks.fusion import LateFusion
from fullyconv.networks.trunks import BACKBONES
from fullyconv.networks.trunks.external import build_classifier, usual_preprocess
from fullyconv.surgery import Transplant, transplant
from fullyconv.surgery.layers import widen, without_weights
from fullyconv.surgery.weights import prefixes_of_trunks
from fullyconv.tensors import read_weights
from fullyconv.trace import input_channels
from fullyconv.train.recipe import Recipe
from fullyconv.types import Preprocess

PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
WRAPPINGS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")  # the best of a checkpoint first

COLOURS = 3
CRF_UPDATES = 5  # enough for learning (Zheng et al. 2015, section 7.1)
CLASSIFIERS = re.compile(r"^(trunk\.|layers\.)+classifier\.")  # before the names of one from elsewhere

Start = tuple[Transplant, Preprocess | None]
"""What was taken over, and the normalisation it was trained with, where that is known."""


def take_weights(network: FCN, recipe: Recipe, trust: Sequence[str] = ()) -> Start | None:
    """Take over the weights that a recipe starts from: ``start_from``, ``weights`` or ``pretrained``.

    Args:
        network: The recipe's; changed in place.
        recipe: Says where from.
        trust: Functions that loading a model folder may call.

    Returns:
        What moved, with the normalisation that the weights were trained with: of a model folder its own, of a
        classifier's weights the classifier's; ``None`` where the recipe starts from fresh weights.

    Raises:
        BadFile: Where a file cannot be read or does not fit.
        ValueError: Where the library cannot fetch its weights.
    """
    if recipe.pretrained:
        return _of_classifier(network, recipe, _fetched(str(recipe.classifier)), str(recipe.classifier))
    source = recipe.weights or recipe.start_from
    if source is None:
        return None
    path = Path(source)
    if recipe.weights:
        return _of_classifier(network, recipe, read_named(path), source)
    if path.suffix == ".safetensors" or path.suffix in PICKLED:
        tensors = _for_channels(named_as_in(network.state_dict(), read_named(path)), network)
        moved = transplant(tensors, network)
        if isinstance(network, LateFusion):
            _start_second(network, tensors, recipe, trust)
        return _checked(moved, path), _normalisation(recipe) if recipe.classifier else _stated(network)
    trained, config = load_network(path, trust=[*trust, foreign_trunk(recipe.network_name) or ""])
    # Of a classifier there is only a trunk to take.
    if network.in_channels > COLOURS == input_channels(trained.trunk) < input_channels(network.trunk):
        widen(trained.trunk, input_channels(network.trunk))
    moved = continue_from(trained, network) if isinstance(trained, FCN) else transplant(trained, network)
    if isinstance(network, LateFusion):
        _start_second(network, trained.state_dict(), recipe, trust)
    return _checked(moved, path), config.preprocess if isinstance(config.preprocess, Preprocess) else None


def start_crf(recipe: Recipe) -> CRFParameters:
    """Return what a CRF that is trained stands on: the parameters of the model it starts from, or the usual ones.

    Args:
        recipe: Says where it starts from.

    Returns:
        Bandwidths and first weights, for ``CRF_UPDATES`` updates on lattices.

    Raises:
        BadFile: Where that model cannot be read.
    """
    path = Path(recipe.start_from or "")
    of_model = recipe.start_from is not None and path.suffix not in (".safetensors", *PICKLED)
    found = read_config(path).crf if of_model else None
    return replace(found or CRFParameters(), iterations=CRF_UPDATES, keep_diagonal=True, exact_smoothness=False)


def _for_channels(tensors: dict[str, Tensor], network: FCN) -> dict[str, Tensor]:
    """Give filters of colours the further channels that a network sees: each the mean of theirs (color-d)."""
    known, fitted = network.state_dict(), dict(tensors)
    for name, tensor in tensors.items():
        more = known[name].shape[1] - tensor.shape[1] if name in known and tensor.ndim == known[name].ndim == 4 else 0
        if more > 0 and tensor.shape[1] == COLOURS:
            fitted[name] = torch.cat([tensor, tensor.mean(1, keepdim=True).expand(-1, more, -1, -1)], 1)
    return fitted


def _start_second(network: LateFusion, tensors: Mapping[str, Tensor], recipe: Recipe, trust: Sequence[str]) -> None:
    """Start the second stream of a network from ``second_from``, else from what the first one started from.

    A network of two streams brings its second one itself.
    """
    if any(name.startswith("second.") for name in tensors):
        return
    if recipe.second_from is not None:
        tensors = load_network(Path(recipe.second_from), trust=trust)[0].state_dict()
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(("trunk.", "heads."))}
    transplant(own, network, rename={"trunk": "second", "heads": "second_heads"})


def read_named(path: Path) -> dict[str, Tensor]:
    """Read named weights from ``.safetensors``, or from what ``torch.save`` wrote, of which tensors alone are read.

    Of a training checkpoint the weights are taken (``state_dict``, ``model``, …; averaged ones first), without the
    prefix ``module.`` of parallel training.

    Raises:
        BadFile: If it cannot be read so.
    """
    if path.suffix not in PICKLED:
        return read_weights(path)
    if not path.is_file():
        raise BadFile(path, "no such file", "check the path")
    try:
        # What a pickle holds beside tensors could be code: torch refuses it.
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
        fix = "save its state_dict() alone: torch.save(model.state_dict(), path)"
        raise BadFile(path, f"not readable as tensors alone ({first})", fix) from None
    inner = next((found[key] for key in WRAPPINGS if isinstance(found, Mapping) and key in found), found)
    if not isinstance(inner, Mapping) or not all(isinstance(value, Tensor) for value in inner.values()):
        raise BadFile(path, "holds no mapping of names to tensors", "save a model's state_dict()")
    return {str(name).removeprefix("module."): tensor for name, tensor in inner.items()}


def _of_classifier(network: FCN, recipe: Recipe, tensors: dict[str, Tensor], source: str) -> Start:
    """Take over a classifier's weights; its whole trunk has to be among them."""
    try:
        moved = transplant(named_as_in(network.state_dict(), tensors), network)
    except ValueError as error:
        raise BadFile(source, str(error), f"use the weights of {recipe.classifier} itself") from None
    missing = (CLASSIFIERS.sub("", name) for name in moved.missing if CLASSIFIERS.match(name))
    lost = [name for name in missing if not name.endswith("num_batches_tracked")]
    if lost:
        what = f"lacks {len(lost)} tensors of {recipe.classifier}, first {lost[0]}"
        raise BadFile(source, what, f"use the weights of {recipe.classifier} itself, under its library's names")
    return moved, _normalisation(recipe)


def _fetched(trunk: str) -> dict[str, Tensor]:
    try:
        return build_classifier(trunk, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the weights of {trunk} could not be fetched ({first}): download its file elsewhere and give it with "
            "weights=FILE"
        ) from None


def _normalisation(recipe: Recipe) -> Preprocess:
    """Return the normalisation that the recipe's classifier says it was trained with."""
    made: nn.Module = without_weights(partial(build_classifier, str(recipe.classifier)))
    return usual_preprocess(made)


def _stated(network: FCN) -> Preprocess | None:
    """Return the normalisation of a trunk of our own whose published weights have one."""
    parts = split_name(network.architecture.name) if network.architecture is not None else None
    maker = BACKBONES.get(parts.trunk) if parts is not None else None
    found = getattr(maker, "preprocess", None)
    return found if isinstance(found, Preprocess) else None


def _checked(moved: Transplant, source: Path) -> Transplant:
    if not moved.moved and not moved.reshaped:
        what, fix = "has no weights for this network: no name is the same", "start from a model with this trunk"
        raise BadFile(source, what, f"{fix}, or leave start_from out")
    return moved


def named_as_in(known: Mapping[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name a trunk's weights as a network does whose tensors are ``known``."""
    source, target = prefixes_of_trunks(tensors, known)
    if source == target:
        return tensors
    return {target + name.removeprefix(source): each for name, each in tensors.items() if name.startswith(source)}
