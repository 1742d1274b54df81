"""The batches of an epoch, prepared ahead of the training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fullyconv.data.dataset import Views, epoch_order

Group = tuple[list[Tensor], list[Tensor]]
"""The batches of one update: images, N x 3 x h x w each, and labels, N x h x w each."""


def steps_per_epoch(views: Views, per_update: int) -> int:
    """Count the updates of an epoch; what does not fill a last one is left to the next epoch's shuffle."""
    return max(1, len(views) // per_update)


def update_batches(views: Views, *, epoch: int, start: int, batch: int, accumulate: int) -> list[list[int]]:
    """Choose the views of each batch of an epoch, from update ``start`` on."""
    order = epoch_order(count=len(views), epoch=epoch, seed=views.seed)
    while len(order) < batch * accumulate:  # a set smaller than one update: go round again
        order = order + order
    count = steps_per_epoch(views, batch * accumulate) * accumulate
    return [order[index * batch : (index + 1) * batch] for index in range(start * accumulate, count)]


def prepare_batches(views: Views, chosen: Sequence[list[int]], *, accumulate: int, workers: int) -> Iterator[Group]:
    """Return each update its batches, prepared by ``workers`` processes or, with 0, by a thread."""
    loader = iter(DataLoader(views, batch_sampler=chosen, num_workers=workers)) if workers else _threaded(views, chosen)
    group: Group = ([], [])
    for images, labels in loader:
        group[0].append(images)
        group[1].append(labels)
        if len(group[0]) == accumulate:
            yield group
            group = ([], [])


def _threaded(views: Views, chosen: Sequence[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Collate batches one ahead in a thread: decoding and resizing release the interpreter lock.

    NumPy does the stacking: PyTorch would start a second team of threads here, which takes the cores
    from the training.
    """

    def prepare(indices: list[int]) -> tuple[Tensor, Tensor]:
        images, labels = zip(*(views[index] for index in indices), strict=True)
        sizes = {tuple(each.shape) for each in labels}
        if len(sizes) > 1:
            raise ValueError(
                f"views of different sizes cannot share a batch: {', '.join(f'{h} x {w}' for h, w in sorted(sizes))}: "
                "set batch=1 (and accumulate), or a crop and shift=0"
            )
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = None
        for indices in chosen:
            coming = pool.submit(prepare, indices)
            if ahead is not None:
                yield ahead.result()
            ahead = coming
        if ahead is not None:
            yield ahead.result()
