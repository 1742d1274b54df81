"""Views so small that a normalisation would see one value per channel, or too large: found before, not after epochs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fullyconv.augment import Augmentation
from fullyconv.files import BadFile
from fullyconv.machine import whole_memory
from fullyconv.trace import input_channels
from fullyconv.train.recipe import Recipe

LARGEST_PX = 512  # a larger view is tried at this size: no trunk shrinks it to one value
Size = tuple[int, int]


BYTES = 50  # of each pixel of a view at the least: itself, its label, the first maps, their gradient
CROWD = 8  # processes per core


class _Starved(Exception):
    """A layer, by its name, that would see one value per channel."""


def check_views(network: nn.Module, sizes: Mapping[Path, Size], options: Augmentation, batch: int) -> None:
    """Refuse views of which PyTorch would say "Expected more than 1 value per channel when training".

    Args:
        network: N x 3 x H x W to scores; run once in evaluation mode on zeros for each smallest size.
        sizes: Height and width of every training image.
        options: How views are made of them; the random zoom may make them smaller.
        batch: Views in a batch.

    Raises:
        BadFile: Naming the smallest image and the layer, with what to set.
        ValueError: If views are cut to one size, likewise.
    """
    if batch > 1 and not any(isinstance(module, _InstanceNorm) for module in network.modules()):
        return  # two views are two values
    views = {smallest_view(size, options): path for path, size in sizes.items()}
    for size in minimal(views):
        layer = _starved(network, size, batch)
        if layer is None:
            continue
        what = f"views of {size[0]} x {size[1]} pixels (height x width) leave {layer} one value per channel"
        if options.crop is not None:
            raise ValueError(f"crop={list(options.crop)}, batch={batch}: {what}: set a larger crop, or batch=2 or more")
        fix = f"zoom out less (scale={list(options.scale)}), set a crop and batch=2, or leave small images out"
        raise BadFile(views[size], what, fix)


def check_room(recipe: Recipe, sizes: Iterable[Size]) -> None:
    """Refuse batches that no machine like this one can hold, and more processes than it has any use for.

    Args:
        recipe: How views are made, how many are in a batch, and how many processes prepare them.
        sizes: Height and width of every training image.

    Raises:
        ValueError: With what to set.

    >>> check_room(Recipe(crop=(10**6, 10**6)), [(9, 9)])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: crop=[1000000, 1000000], batch=8: one batch takes 372529 GiB or more, and this machine has ...
    """
    most = CROWD * (os.cpu_count() or 1)
    if recipe.workers > most:
        raise ValueError(f"workers={recipe.workers}: this machine has {os.cpu_count()} cores: set at most {most}")
    zoom = recipe.scale[1]
    height, width = recipe.crop or max(sizes, key=lambda size: size[0] * size[1], default=(1, 1))
    area = height * width * (1 if recipe.crop else zoom**2)
    needed, have = area * recipe.batch * BYTES / 2**30, whole_memory() / 2**30
    if needed > have:
        said = f"crop={list(recipe.crop)}" if recipe.crop else f"whole pictures, to {zoom:g} times their size"
        what = f"one batch takes {needed:.0f} GiB or more, and this machine has {have:.0f}"
        raise ValueError(f"{said}, batch={recipe.batch}: {what}: set a smaller crop, or a smaller batch")


def smallest_view(size: Size, options: Augmentation) -> Size:
    """Return the least height and width of a view of an image.

    >>> smallest_view((40, 60), Augmentation(scale=(0.5, 2.0))), smallest_view((40, 60), Augmentation(crop=(32, 32)))
    ((20, 30), (32, 32))
    """
    whole = (max(1, round(size[0] * options.scale[0])), max(1, round(size[1] * options.scale[0])))
    height, width = options.crop or whole
    cut = max(0, options.shift - 1)
    return max(1, height - cut), max(1, width - cut)


def minimal(sizes: Iterable[Size]) -> list[Size]:
    """Keep the sizes than which no other is as low and as narrow: where these are large enough, all are.

    >>> minimal([(20, 30), (40, 10), (40, 40), (20, 31)])
    [(20, 30), (40, 10)]
    """
    kept: list[Size] = []
    for height, width in sorted(set(sizes)):
        if all(width < other for _, other in kept):
            kept.append((height, width))
    return kept


def _starved(network: nn.Module, size: Size, batch: int) -> str | None:
    """Run a network on zeros and name the first normalisation that sees one value per channel."""
    device = next(network.parameters()).device
    try:
        with _watched(network, batch), torch.inference_mode():
            network(torch.zeros(1, input_channels(network), *(min(side, LARGEST_PX) for side in size), device=device))
    except _Starved as starved:
        return str(starved)
    return None


@contextmanager
def _watched(network: nn.Module, batch: int) -> Iterator[None]:
    """Stop at a normalisation that has too little to go by; modes and hooks are as before when the block ends."""
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm | _InstanceNorm):
            views = batch if isinstance(module, _BatchNorm) else 1  # each view is normalised by itself

            def note(_: nn.Module, inputs: tuple[Tensor], name: str = name, views: int = views) -> None:
                (features,) = inputs
                if features.shape[2:].numel() * views <= 1:
                    raise _Starved(name)

            handles.append(module.register_forward_pre_hook(note))
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for handle in handles:
            handle.remove()
