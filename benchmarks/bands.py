"""Time large images in bands of rows beside one pass: `python benchmarks/bands.py [MODEL|NETWORK ...] [--side N]`.

Both label the same noise with PyTorch's operations, in turns within one process; labels are compared first.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from fullyconv import ClassSet, Preprocess, Segmenter, build, load
from fullyconv.machine import keep_freed_memory


def opened(name: str, precision: str) -> Segmenter:
    """Load a model, or build a network of random weights."""
    if Path(name).is_dir() or name in ("camvid", "camvid-scratch"):
        return load(name, engine="pytorch", device="cpu", precision=precision)
    torch.manual_seed(0)
    network = build(name, 11)
    for layer in network.score_layers["heads"]:
        torch.nn.init.normal_(layer.weight)  # they begin as zeros, of which all labels agree
    classes = ClassSet(tuple(f"class {number}" for number in range(11)))
    options = {"engine": "pytorch", "device": "cpu", "precision": precision}
    return Segmenter(network.eval(), classes=classes, preprocess=Preprocess(), **options)


def main() -> None:
    """Print a line for each network and arithmetic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["camvid-scratch", "camvid"])
    parser.add_argument("--precision", action="append", choices=("float32", "bfloat16"))
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    keep_freed_memory()
    pixels = np.random.default_rng(0).integers(0, 256, (given.side, given.side, 3), np.uint8)
    for name in given.names:
        for precision in given.precision or ("bfloat16", "float32"):
            model, found, seconds = opened(name, precision), {}, {"whole": [], "bands": []}
            band = model.prepared().fitting(model.memory)
            for turn in range(given.turns + 1):
                for way, area in (("whole", 0), ("bands", band)):
                    model._area = lambda _, area=area: area
                    started = perf_counter()
                    found[way] = model.labels(pixels[None])
                    if turn:
                        seconds[way].append(perf_counter() - started)
            ratios = [bands / whole for whole, bands in zip(seconds["whole"], seconds["bands"], strict=True)]
            alike = float((found["whole"] == found["bands"]).mean())
            whole, bands = (median(seconds[way]) for way in ("whole", "bands"))
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(
                f"{name:24} {precision:9} whole {whole:.3f} s, bands {bands:.3f} s: {bands / whole:.2f} times ", end=""
            )
            print(f"(pairs {spread}); {alike:.5%} of labels agree", flush=True)


if __name__ == "__main__":
    main()
