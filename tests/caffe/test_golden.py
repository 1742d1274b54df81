"""Nets with results from an independent implementation, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv.caffe import load

NETS = (
    "mini-fcn32s", "mini-fcn8s", "mini-fcn8s-atonce", "mini-siftflow-fcn8s", "mini-alexnet", "mini-color-d",
    "mini-color-hha", "mini-lenet", "mini-inception",
)  # fmt: skip


@pytest.fixture
def golden() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "golden" / "caffe"
    if not folder.is_dir():
        pytest.skip("the golden nets are not beside the repository (../shared/golden/caffe)")
    return folder


@pytest.mark.parametrize("name", NETS)
def test_scores_agree_with_an_independent_implementation(golden: Path, name: str) -> None:
    net = load(golden / f"{name}.prototxt", golden / f"{name}.caffemodel")
    cases = sorted(golden.glob(f"{name}.*.npz"))
    assert cases
    for case in cases:
        with np.load(case) as blobs:
            fed = {key[3:]: torch.from_numpy(blobs[key]) for key in blobs if key.startswith("in_")}
            expected = {key[4:]: blobs[key] for key in blobs if key.startswith("out_")}
        with torch.inference_mode():
            found = net(fed)
        assert found.keys() == expected.keys()
        for key, scores in expected.items():
            assert np.abs(found[key].numpy() - scores).max() <= 1e-5 * np.abs(scores).max()
