"""The sweep of ``benchmarks/caffe_sweep.py``: nothing is wrong, and refusals are in the sentences that fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullyconv.caffe.advice import ADVICE
from fullyconv.caffe.build import KINDS
from prototxts.dense import NETS, dense_nets
from prototxts.heads import classifiers
from prototxts.layers import Prototxt, layers
from prototxts.nets import CLASSIFIERS
from prototxts.others import refused, small_nets
from prototxts.trial import prototxts, tried

# Of Caffe's own types, by its documentation; what brings data is among them under Caffe's name.
PLAIN = {
    "AbsVal", "Accuracy", "ArgMax", "BatchNorm", "BatchReindex", "Bias", "BNLL", "Clip", "Concat",
    "ContrastiveLoss", "Convolution", "Crop", "Data", "Deconvolution", "Dropout", "DummyData", "ELU", "Eltwise",
    "Embed", "EuclideanLoss", "Exp", "Filter", "Flatten", "HDF5Data", "HDF5Output", "HingeLoss", "Im2col",
    "ImageData", "InfogainLoss", "InnerProduct", "Input", "LRN", "LSTM", "Log", "MVN", "MemoryData",
    "MultinomialLogisticLoss", "PReLU", "Parameter", "Pooling", "Power", "Python", "RNN", "ReLU", "Reduction",
    "Reshape", "SPP", "Scale", "Sigmoid", "SigmoidCrossEntropyLoss", "Silence", "Slice", "Softmax",
    "SoftmaxWithLoss", "Split", "Swish", "TanH", "Threshold", "Tile", "WindowData",
}  # fmt: skip


def wrong(cases: list[Prototxt], place: Path) -> list[str]:
    return [f"{case.name}: {found}" for case in cases for what, found in [tried(case, place)] if what == "wrong"]


def test_every_field_of_every_layer_is_honoured_or_refused_as_caffe_does(tmp_path: Path) -> None:
    cases = list(layers())
    kinds = {case.name.split()[0] for case in cases}
    assert kinds >= PLAIN
    assert kinds <= {*KINDS, *ADVICE, *PLAIN}
    assert wrong(cases, tmp_path) == []


@pytest.mark.parametrize("name", ["lenet", "squeezenet1.1"])
def test_a_classifier_loads_under_every_head(name: str, tmp_path: Path) -> None:
    cases = [case for case in classifiers() if case.name.startswith(f"{name}, ")]
    assert len(cases) >= 17
    assert wrong(cases, tmp_path) == []


def test_dense_and_small_nets_load_and_the_rest_is_refused(tmp_path: Path) -> None:
    assert wrong([*small_nets(), *refused()], tmp_path) == []
    assert wrong([case for case in dense_nets() if case.name in ("hed", "segnet, V1", "enet")], tmp_path) == []


@pytest.mark.slow
def test_the_whole_sweep(tmp_path: Path) -> None:
    cases = list(prototxts())
    assert {case.name.split(",")[0] for case in cases} > {*NETS, *CLASSIFIERS}
    assert wrong(cases, tmp_path) == []
