"""Views so small that a normalisation would see one value per channel, or too large: found before, not after epochs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from fullyconv.train.recipe import MOST_VIEWS, Recipe

LARGEST_PX = 512  # a larger view is tried at this size: no trunk shrinks it to one value
BYTES = 50  # of each pixel of a view at the least: itself, its label, the first maps, their gradient
WAITING = 20  # of each pixel of a view that waits for its update: three channels in float32, the label in int64
CROWD = 8  # processes per core
Size = tuple[int, int]


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
    """Refuse what no machine like this one can hold or has a use for, and variations that leave nothing of a view.

    Args:
        recipe: How views are made, how many are in a batch and an update, and how many processes prepare them.
        sizes: Height and width of every training image.

    Raises:
        ValueError: With what to set.

    >>> check_room(Recipe(crop=(10**6, 10**6)), [(9, 9)])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: crop=[1000000, 1000000], batch=8: one batch takes 372529 GiB or more, and this machine has ...
    """
    most, known = CROWD * (os.cpu_count() or 1), list(sizes)
    if recipe.workers > most:
        raise ValueError(f"workers={recipe.workers}: this machine has {os.cpu_count()} cores: set at most {most}")
    if recipe.repeat > max(1, MOST_VIEWS // max(1, len(known))):
        room = max(1, MOST_VIEWS // len(known))
        raise ValueError(f"repeat={recipe.repeat}: epochs have at most {MOST_VIEWS} views: set at most {room}")
    _check_memory(recipe, known)
    side = max(map(min, [recipe.crop] if recipe.crop else known), default=1)
    for key, value in (("shift", recipe.shift), ("blur", recipe.blur)):
        if value > max(1, side):
            raise ValueError(f"{key}={value:g}: leaves nothing of views that are {side} pixels wide or high: set less")


def _check_memory(recipe: Recipe, sizes: Sequence[Size]) -> None:
    """Refuse a batch, an update or a cache that is larger than this machine's memory."""
    have = whole_memory() / 2**30
    zoom = recipe.scale[1]
    height, width = recipe.crop or max(sizes, key=lambda size: size[0] * size[1], default=(1, 1))
    pixels = height * width * (1 if recipe.crop else zoom**2) * recipe.batch / 2**30
    said = f"crop={list(recipe.crop)}" if recipe.crop else f"whole pictures, to {zoom:g} times their size"
    if pixels * BYTES > have:
        what = f"one batch takes {pixels * BYTES:.0f} GiB or more, and this machine has {have:.0f}"
        raise ValueError(f"{said}, batch={recipe.batch}: {what}: set a smaller crop, or a smaller batch")
    if pixels * WAITING * recipe.batches > have:
        keys = f"accumulate={recipe.accumulate}" + (f", sampling={recipe.sampling:g}" if recipe.sampling < 1 else "")
        what = f"the {recipe.batches} batches of an update take {pixels * WAITING * recipe.batches:.0f} GiB"
        most = int(have / (pixels * WAITING) * recipe.sampling)
        fix = f"set accumulate to at most {most}" if most else "set sampling nearer to 1"
        raise ValueError(f"{keys}, {said}, batch={recipe.batch}: {what}, and this machine has {have:.0f}: {fix}")
    if (recipe.cache_gib or 0) > have:
        raise ValueError(f"cache_gib={recipe.cache_gib:g}: this machine has {have:.0f} GiB: set less, or leave it out")


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
