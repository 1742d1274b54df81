"""Confusion matrix beside those of others: agreement first, then time, on one core.

    python benchmarks/confusion.py [--masks FOLDER]

Three pairs of 500 x 500 label maps with 21 classes and void: smooth regions, random labels, and the masks of a folder
where one is named. The reference's ``fast_hist`` (NumPy's bincount) and torchmetrics, where it is installed, take turns
with ours; the figures are medians, least and most of the rounds' CPU times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from fullyconv.bench import Machine, Timing, Watch, race
from fullyconv.networks.trunks.external import library
from fullyconv.scores.metrics import confusion

CLASSES, SIDE, VOID = 21, 500, 255
Counter = Callable[[np.ndarray, np.ndarray], np.ndarray]


def fast_hist(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Count as the FCN reference does."""
    seen = (truth >= 0) & (truth < CLASSES)
    pairs = CLASSES * truth[seen].astype(int) + guess[seen]
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def counters() -> dict[str, Counter]:
    """Return who counts, ours first."""
    found: dict[str, Counter] = {"ours": lambda truth, guess: confusion(truth, guess, classes=CLASSES)}
    found["fast_hist"] = fast_hist
    with suppress(ImportError):
        library("torchvision")  # torchmetrics imports it: make that work beside a PyTorch for the CPU
    try:
        from torchmetrics.functional.classification import multiclass_confusion_matrix
    except ImportError:
        return found

    def torchmetrics(validate: bool) -> Counter:
        def count(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
            pair = torch.from_numpy(guess), torch.from_numpy(truth)
            made = multiclass_confusion_matrix(*pair, CLASSES, ignore_index=VOID, validate_args=validate)
            return np.asarray(made)

        return count

    return {**found, "torchmetrics": torchmetrics(True), "torchmetrics, unchecked": torchmetrics(False)}


def pairs(masks: Path | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Make the label maps, uint8: truth with void, and prediction."""
    drawn = torch.Generator().manual_seed(0)
    scores = torch.randn(1, CLASSES, 16, 16, generator=drawn)
    noisy = scores + 0.7 * torch.randn(scores.shape, generator=drawn)
    smooth, guessed = (
        np.array(functional.interpolate(each, (SIDE, SIDE), mode="bilinear")[0].argmax(0), np.uint8)
        for each in (scores, noisy)
    )
    smooth[np.roll(smooth, 1, 0) != smooth] = VOID
    random = [np.array(torch.randint(CLASSES, (SIDE, SIDE), generator=drawn), np.uint8) for _ in range(2)]
    found = {"smooth": (smooth, guessed), "random": (random[0], random[1])}
    if masks is not None:
        mask = Image.open(min(masks.glob("*.png"))).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        truth = np.array(mask, np.uint8)
        found[masks.name] = truth, np.roll(np.where(truth < CLASSES, truth, 0), (2, 3), (0, 1))
    return found


def rows(masks: Path | None = None, *, rounds: int = 40) -> Iterator[tuple[str, str, str, Timing, float]]:
    """Check that all count the same, then let them take turns on one core.

    Yields:
        Label maps, dtype, peer, the CPU time of one count, and how many times that is ours.
    """
    torch.set_num_threads(1)
    watch = Watch(machine=Machine(clock=time.process_time))
    for name, maps in pairs(masks).items():
        for dtype in (np.uint8, np.int64):
            truth, guess = (each.astype(dtype) for each in maps)
            peers = {peer: partial(count, truth, guess) for peer, count in counters().items()}
            counted = {peer: count() for peer, count in peers.items()}
            for peer, counts in counted.items():
                if not np.array_equal(counts, counted["ours"]):
                    raise SystemExit(f"{name}, {dtype.__name__}: {peer} counts differently")
            times = race(peers, rounds, watch=watch)  # several calls a sample: the maps are in the cache
            for peer, each in times.items():
                yield name, dtype.__name__, peer, each, each.median / times["ours"].median


def main() -> None:
    """Print the rows as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=Path, help="a folder of PNG masks")
    print("| label maps | dtype | who | ms (least to most) | x ours |\n| --- | --- | --- | --- | --- |")
    for name, dtype, peer, each, ratio in rows(parser.parse_args().masks):
        took = f"{1e3 * each.median:.3f} ({1e3 * each.low:.3f} to {1e3 * each.high:.3f})"
        print(f"| {name} | {dtype} | {peer} | {took} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
