from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from fullyconv.train.batches import Batching


@dataclass(frozen=True)
class Numbers:
    """Views that hold their own number, of which some cannot be read."""

    count: int
    seed: int = 0
    broken: int = -1
    odd: int = -1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == self.broken:
            raise ValueError(f"view {index} is broken")
        size = (2, 3) if index == self.odd else (2, 2)
        return torch.full((3, *size), float(index)), torch.full(size, index)


def batching(views: Numbers, *, batch: int = 2, accumulate: int = 1, workers: int = 0) -> Batching:
    return Batching(cast("Any", views), batch, accumulate, workers)


def numbers(batching: Batching, epoch: int, start: int = 0) -> list[list[list[int]]]:
    """The views of each batch of each update."""
    found = []
    for images, labels in batching(epoch, start):
        for image, truth in zip(images, labels, strict=True):
            assert image.shape[1:] == (3, 2, 2)
            assert truth.shape[1:] == (2, 2)
            assert torch.equal(image[:, 0], truth.float())
        found.append([truth[:, 0, 0].tolist() for truth in labels])
    return found


@pytest.mark.parametrize(
    ("count", "batch", "accumulate", "updates"),
    [
        (10, 2, 1, 5),
        (11, 2, 1, 5),
        (10, 2, 2, 2),
        (12, 2, 3, 2),
        (1, 4, 1, 1),
        (3, 2, 2, 1),
        (7, 7, 1, 1),
        (6, 1, 1, 6),
    ],
)
def test_an_epoch_holds_every_view_at_most_once_and_as_many_as_fill_updates(
    count: int, batch: int, accumulate: int, updates: int
) -> None:
    made = batching(Numbers(count), batch=batch, accumulate=accumulate)
    assert made.updates == updates
    found = numbers(made, 0)
    assert [[len(each) for each in update] for update in found] == [[batch] * accumulate] * updates
    seen = [view for update in found for each in update for view in each]
    most = -(-batch * accumulate // count) if count < batch * accumulate else 1
    assert max(map(seen.count, seen)) <= 2 * most
    if count >= batch * accumulate:
        assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(count))
    assert numbers(made, 0) == found
    if count > 4:
        assert numbers(made, 1) != found


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_goes_on_where_it_was_left(workers: int) -> None:
    whole = numbers(batching(Numbers(12), accumulate=2), 3)
    made = batching(Numbers(12), accumulate=2, workers=workers)
    for start in (0, 1, 3) if workers == 0 else (1,):
        assert numbers(made, 3, start) == whole[start:]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_said_as_it_was(workers: int) -> None:
    with pytest.raises(ValueError, match=r"^view 3 is broken$"):
        numbers(batching(Numbers(6, broken=3), workers=workers), 0)


def test_views_of_different_sizes_share_no_batch() -> None:
    words = r"views of different sizes cannot share a batch: 2 x 2, 2 x 3: set batch=1"
    with pytest.raises(ValueError, match=words):
        numbers(batching(Numbers(4, odd=1)), 0)
    assert len(list(batching(Numbers(4, odd=1), batch=1)(0, 0))) == 4


def test_the_handler_of_dying_children_stays_ours() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    assert len(numbers(batching(Numbers(4), workers=1), 0)) == 2
    assert signal.getsignal(signal.SIGCHLD) == before
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(numbers(batching(Numbers(4), workers=1), 0)))
    thread.start()
    thread.join()
    assert len(found) == 2
    assert signal.getsignal(signal.SIGCHLD) == before
