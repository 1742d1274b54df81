"""Classifiers from elsewhere, by name: ``timm:NAME``, ``torchvision:NAME`` or ``package.module:function``."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fullyconv.types import Preprocess

PATTERN = re.compile(r"(timm|torchvision|[A-Za-z_]\w*(?:\.\w+)*):([\w.]+)")

# What torchvision describes at import and a wheel built for another PyTorch cannot register.
OPERATORS = (
    "nms", "qnms", "roi_align", "_roi_align_backward", "qroi_align", "roi_pool", "_roi_pool_backward",
    "ps_roi_align", "_ps_roi_align_backward", "ps_roi_pool", "_ps_roi_pool_backward", "deform_conv2d",
    "_deform_conv2d_backward",
)  # fmt: skip
_DECLARED: list[torch.library.Library] = []  # a declaration lives as long as its library


def is_external(name: str) -> bool:
    """Return whether a name says where a classifier comes from."""
    return PATTERN.fullmatch(name) is not None


def foreign_code(name: str) -> bool:
    """Return whether a name stands for a function that is neither timm's nor torchvision's: building it runs that.

    >>> foreign_code("timm:resnet50"), foreign_code("torchvision.models:resnet50"), foreign_code("vgg16")
    (False, True, False)
    """
    found = PATTERN.fullmatch(name)
    return found is not None and found[1] not in ("timm", "torchvision")


def build_classifier(name: str, *, pretrained: bool = False) -> nn.Module:
    """Build a classifier with fresh weights, for which nothing is downloaded, or with those its library recommends.

    ``name`` is ``timm:convnext_tiny``, ``torchvision:resnet50``, or ``my_package.nets:build``: a function (or class)
    that gives the network when it is called without arguments, in a package that can be imported. Raises
    ``ValueError`` for names that are not there and ``ImportError`` where the library is missing.

    A function is called whatever it does: a name that a file gives is only passed here where the caller
    has said that it is trusted (``fullyconv.checkpoint.load_network``).
    """
    found = PATTERN.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} names no classifier: write timm:NAME, torchvision:NAME or package.module:function")
    source, entry = found.groups()
    builders: dict[str, Callable[[str, bool], Any]] = {"timm": _timm, "torchvision": _torchvision}
    if source not in builders and pretrained:
        raise ValueError(f"{name} is a function of yours: let it give the weights, or name their file")
    network = builders[source](entry, pretrained) if source in builders else _function(source, entry)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} gives a {type(network).__name__}, not an nn.Module")
    return network


def _timm(entry: str, pretrained: bool) -> Any:
    timm = library("timm")
    if not timm.is_model(entry):
        near = ", ".join(timm.list_models(f"*{entry.split('_')[0]}*")[:8])
        raise ValueError(f"timm has no model {entry!r}" + (f": it has {near}, …" if near else ""))
    return timm.create_model(entry, pretrained=pretrained)


def _torchvision(entry: str, pretrained: bool) -> Any:
    models = library("torchvision").models
    names = models.list_models(module=models)
    if entry not in names:
        near = ", ".join([name for name in names if name[:3] == entry[:3]][:8] or names[:8])
        raise ValueError(f"torchvision has no classifier {entry!r}: it has {near}, …")
    return models.get_model(entry, weights="DEFAULT" if pretrained else None)


def _function(module: str, entry: str) -> Any:
    try:
        made: Any = importlib.import_module(module)
    except ImportError as error:
        hint = "put its package on PYTHONPATH (PYTHONPATH=. for the working folder)"
        raise ImportError(f"{module}:{entry} cannot be imported ({error}): {hint}") from None
    for part in entry.split("."):
        if not hasattr(made, part):
            raise ValueError(f"{module} has no {entry!r}")
        made = getattr(made, part)
    return made()


def library(name: str) -> ModuleType:
    """Import timm or torchvision, also beside a PyTorch for which torchvision's compiled operators were not built."""
    try:
        try:
            return _import_installed(name)
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
        # Declaring the operators is enough for everything that is plain PyTorch, classifiers among it.
        declared: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in OPERATORS:
            declared.define(f"{operator}(Tensor unused) -> Tensor")
        _DECLARED.append(declared)
        for module in [key for key in sys.modules if key.split(".")[0] in ("timm", "torchvision")]:
            del sys.modules[module]
        return _import_installed(name)
    except ImportError as error:
        raise ImportError(f"{name} cannot be imported ({error}): pip install 'fullyconv[timm]'") from None


def _import_installed(name: str) -> ModuleType:
    """Import a package, but not from the working folder, which ``python -c`` searches before everything else."""
    searched = sys.path[:]
    sys.path[:] = [entry for entry in searched if entry != ""]
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = searched


def origins(network: nn.Module) -> Iterator[str]:
    """Guess the names by which a classifier may have been built, from what it says of itself, the likeliest first."""
    kind = type(network)
    home = kind.__module__.split(".")[0]
    if home == "timm":
        config = getattr(network, "pretrained_cfg", None) or {}
        if config.get("architecture"):
            yield f"timm:{config['architecture']}"
    elif home == "torchvision":
        models: Any = library("torchvision").models
        family = [
            name
            for name in models.list_models(module=models)
            if models.get_model_builder(name).__module__ == kind.__module__
        ]
        own = sum(each.numel() for each in network.parameters())
        for name in sorted(family, key=lambda name: abs(_parameters(models, name) - own)):
            yield f"torchvision:{name}"
    elif "<locals>" not in kind.__qualname__ and home not in sys.stdlib_module_names and home != "torch":
        yield f"{kind.__module__}:{kind.__qualname__}"


def _parameters(models: Any, name: str) -> int:
    """Return how many parameters a classifier of torchvision has with the usual number of classes."""
    return max((int(weights.meta["num_params"]) for weights in models.get_model_weights(name)), default=0)


def usual_example(network: nn.Module) -> tuple[int, int, int] | None:
    """Return the size (C, H, W) that a classifier says it was made for, if it says so."""
    size = (getattr(network, "pretrained_cfg", None) or {}).get("input_size")
    return (int(size[0]), int(size[1]), int(size[2])) if size else None


def usual_preprocess(network: nn.Module) -> Preprocess:
    """Return the normalisation that a classifier says it was trained with, or the usual one."""
    config = getattr(network, "pretrained_cfg", None) or {}
    mean, std = (tuple(255 * float(value) for value in config.get(name) or ()) for name in ("mean", "std"))
    return Preprocess(mean, std) if len(mean) == len(std) == 3 else Preprocess()


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of ImageNet's 1000 classes in their usual order; none where torchvision is missing."""
    try:
        models: Any = library("torchvision").models
    except ImportError:
        return ()
    return tuple(models.get_model_weights("resnet18").DEFAULT.meta["categories"])
