"""Count which prototxts load: PYTHONPATH=src:tests python benchmarks/caffe_sweep.py prints the table of docs/caffe.md.

The files are written from Caffe's documentation (tests/prototxts): every layer with each field in each spelling, and
whole nets in the styles of the public repositories. --opencv computes those that OpenCV reads in both, with the same
random weights (pip install opencv-python-headless<5): what differs is printed, and why OpenCV does not read the others.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fullyconv.caffe.net import Net
from fullyconv.caffe.wire import write_weights
from prototxts.layers import Prototxt
from prototxts.trial import loaded, prototxts, tried


def main() -> None:
    """Print the table, and whatever did not do what it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opencv", action="store_true", help="compute in OpenCV, too")
    parser.add_argument("--most", type=int, default=30_000_000, help="weights of a net that is computed twice")
    parser.add_argument("--groups", nargs="*", help="only these")
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for case in prototxts():
            if asked.groups and case.group not in asked.groups:
                continue
            outcome, found = tried(case, Path(folder))
            counts[case.group][outcome] += 1
            if outcome == "wrong":
                print(f"{case.group}: {case.name}: wanted {case.refused or case.tops}, found {found}")
            elif outcome == "loaded" and asked.opencv:
                counts[case.group][compared(case, Path(folder), asked.most)] += 1
    print("| prototxts | of them | load | refused, by name | wrong |", "|---|--:|--:|--:|--:|", sep="\n")
    for group, row in counts.items():
        whole = row["loaded"] + row["refused"] + row["wrong"]
        print(f"| {group} | {whole} | {row['loaded']} | {row['refused']} | {row['wrong']} |")
    if asked.opencv:
        print(
            {
                group: {key: row[key] for key in ("agree", "differ", "not read", "too large")}
                for group, row in counts.items()
            }
        )


def compared(case: Prototxt, place: Path, most: int) -> str:
    """Compute a net of at most so many weights here and in OpenCV."""
    import cv2

    with torch.device("meta"):
        if sum(weights.numel() for weights in loaded(case, place).parameters()) > most:
            return "too large"
    net = loaded(case, place)
    net_file, weights = place / "net.prototxt", place / "net.caffemodel"
    net_file.write_text(case.text.replace("hole:", "dilation:"))  # DeepLab's word is not known there
    write_weights(weights, "net", shaken(net))
    generator = np.random.default_rng(0)
    sizes = {name: case.feeds.get(name, shape) for name, shape in net.inputs.items()}
    blobs = {name: np.abs(generator.normal(size=shape)).astype(np.float32) for name, shape in sizes.items()}
    try:
        other = cv2.dnn.readNetFromCaffe(str(net_file), str(weights))
        for name, blob in blobs.items():
            other.setInput(blob, name)
        tops = other.getUnconnectedOutLayersNames()
        theirs = dict(zip(tops, other.forward(tops), strict=True))
    except cv2.error as error:
        print(f"not read by OpenCV: {case.group}: {case.name}: {error.err}")
        return "not read"
    with torch.inference_mode():
        ours = {
            name: top.numpy() for name, top in net({name: torch.from_numpy(b) for name, b in blobs.items()}).items()
        }
    both = [(ours[name], theirs[name]) for name in ours if name in theirs]
    if len(ours) == len(theirs) == 1:  # in place OpenCV calls an output after its layer
        both = [(*ours.values(), *theirs.values())]
    if not both:
        return "not read"
    if all(near(one, two) for one, two in both):
        return "agree"
    print(f"differs from OpenCV: {case.group}: {case.name}: {[(one.shape, two.shape) for one, two in both]}")
    return "differ"


@torch.no_grad()
def shaken(net: Net) -> dict[str, tuple[str, list[np.ndarray]]]:
    """Give a net random weights that keep values near 1, and return them by layer."""
    torch.manual_seed(0)
    found = {}
    for layer in net.described:
        blobs = net.blobs(layer)
        for name, blob in blobs:
            _shake(layer.kind, name, blob)
        if blobs:
            found[layer.name] = (layer.kind, [blob.detach().numpy() for _, blob in blobs])
    return found


def _shake(kind: str, name: str, blob: Tensor) -> None:
    if kind == "BatchNorm":
        blob.fill_(1) if name == "factor" else blob.uniform_(0.5, 1.5)
    else:
        blob.normal_(0, (2 / blob[0].numel()) ** 0.5 if blob.ndim > 1 else 0.3)


def near(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether two outputs are one but for axes of one unit and rounding."""
    if one.squeeze().shape != two.squeeze().shape:
        return False
    return np.allclose(one.ravel(), two.ravel(), rtol=1e-3, atol=1e-4 * max(np.abs(one).max(), 1e-6))


if __name__ == "__main__":
    main()
