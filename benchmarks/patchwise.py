"""A classifier on a whole picture beside the same classifier on every window of it (paper, section 3.1 and its note 1).

    make bench ROWS="patchwise patchwise-training"

CaffeNet sees 227 x 227 pixels; windows every 32 pixels of a picture of 515 x 515 give 10 x 10 outputs, and so does the
picture as a whole. Inner layers pad with zeros, at the border of each window but only at that of the picture: as
published the two differ there. Without this padding a unit sees 355 x 355 pixels, and both are equal: that is checked
first. The paper's figures, on a GPU of 2014: 22 ms for the picture, 120 ms for 100 windows in a batch (5.45 times),
540 ms one by one (24.5 times).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from contest import Contest, Entry
from torch import Tensor, nn

from fullyconv.networks import build
from fullyconv.networks.classifier import Classifier

CELLS, STRIDE, WINDOW, UNPADDED = 10, 32, 227, 355


def caffenet(*, padded: bool = True) -> Classifier:
    """Build CaffeNet with random weights and scores; without dropout, so that all ways compute the same."""
    torch.manual_seed(0)
    network = build("caffenet")
    assert isinstance(network, Classifier)
    nn.init.normal_(network.score.weight, std=0.01)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not padded:
            module.padding = (0, 0)
    return network.eval()


def windows(picture: Tensor, side: int) -> Tensor:
    """Cut every window of a 1 x C x H x W picture: CELLS² x C x side x side, row by row."""
    cut = picture.unfold(2, side, STRIDE).unfold(3, side, STRIDE)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, picture.shape[1], side, side).contiguous()


def picture(side: int) -> Tensor:
    """Return noise, 1 x 3 x H x W, of the size whose windows make CELLS x CELLS."""
    length = side + STRIDE * (CELLS - 1)
    return torch.randn(1, 3, length, length, generator=torch.Generator().manual_seed(0))


def check() -> None:
    """Raise ``ValueError`` unless windows and picture give the same scores and gradients, without inner padding."""
    network, whole = caffenet(padded=False), picture(UNPADDED)
    apart = windows(whole, UNPADDED).split(10)
    given = [learn(network, parts) for parts in ((whole,), apart)]
    for what, (at_once, in_parts) in zip(("scores", "gradients"), zip(*given, strict=True), strict=True):
        worst = float(np.abs(at_once - in_parts).max() / np.abs(in_parts).max())
        if worst > 1e-3:
            raise ValueError(f"{what} of the picture are {worst:.1g} away from those of its windows")


def learn(network: Classifier, parts: tuple[Tensor, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (CELLS² x C) and the gradient of the first layer's weights, of half the sum of squared scores."""
    network.zero_grad(set_to_none=True)
    found = []
    for part in parts:
        scores = network.heat_map(part)
        (scores.square().sum() / 2).backward()  # type: ignore[no-untyped-call]
        found.append(_rows(scores.detach()))
    gradient = network.trunk.get_parameter("layers.conv1.weight").grad
    assert gradient is not None
    return np.concatenate(found), gradient.numpy()


def score(network: Classifier, parts: tuple[Tensor, ...]) -> np.ndarray:
    """Return scores alone, CELLS² x C."""
    with torch.inference_mode():
        return np.concatenate([_rows(network.heat_map(part)) for part in parts])


def _rows(scores: Tensor) -> np.ndarray:
    rows: np.ndarray = scores.flatten(2).transpose(1, 2).reshape(-1, scores.shape[1]).numpy()
    return rows


def contest(*, backward: bool) -> Contest:
    """Return the three ways to the outputs of a picture; with ``backward`` also to the gradients of all weights."""
    check()
    network, whole = caffenet(), picture(WINDOW)
    apart = windows(whole, WINDOW)
    if backward:
        title, paper = "forward and backward", "not said together; backward alone 6.5 times as fast as a batch"
    else:
        title, paper = "forward", "5.45 times as fast as in a batch, 24.5 times as fast as one by one"
    found = Contest(
        f"CaffeNet, 10 x 10 outputs of 515 x 515 pixels, {title}", {}, rounds=2 if backward else 3,
        notes=[
            "Without zeros that pad inner layers, windows and picture give equal scores and gradients (checked).",
            f"The whole picture in the paper: {paper}.",
        ],
    )  # fmt: skip

    def run(parts: tuple[Tensor, ...]) -> np.ndarray:
        return learn(network, parts)[0] if backward else score(network, parts)

    batch = "100 windows in a batch"
    found.entries[batch] = Entry(partial(run, (apart,)))
    found.entries["100 windows one by one"] = Entry(partial(run, apart.split(1)), like=batch, least=0.999)
    found.entries["the whole picture"] = Entry(partial(run, (whole,)))
    return found
