from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv import Preprocess, Segmenter, build, evaluate
from fullyconv.data.dataset import read_sample
from fullyconv.data.folder import open_folder
from fullyconv.data.synthetic import CLASSES
from fullyconv.evaluation import Evaluation
from fullyconv.files import write_json
from fullyconv.scores.metrics import confusion


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(0)
    network = build("fcn8s-resnet18", len(CLASSES))
    for head in network.heads:
        torch.nn.init.normal_(head.weight)
    return Segmenter(network, classes=CLASSES, preprocess=Preprocess())


def test_counts_add_up_over_images_of_different_sizes(model: Segmenter, shapes: Path) -> None:
    pairs = open_folder(shapes).splits["val"]
    evaluation = evaluate(model, pairs)
    samples = [read_sample(pair, CLASSES) for pair in pairs]
    assert len({sample.labels.shape for sample in samples}) > 1
    expected = sum(
        confusion(sample.labels, model.predict(sample.image).labels, classes=len(CLASSES)) for sample in samples
    )
    np.testing.assert_array_equal(evaluation.counts, expected)
    assert evaluation.counts.dtype == np.int64
    assert evaluation.void_pixels == sum(int((sample.labels < 0).sum()) for sample in samples)
    assert set(evaluation.image_iu) == {pair.name for pair in pairs}


def test_order_does_not_matter(model: Segmenter, shapes: Path) -> None:
    pairs = open_folder(shapes).splits["val"]
    assert evaluate(model, pairs).document()["mean_iu"] == evaluate(model, pairs[::-1]).document()["mean_iu"]


def test_the_document_says_everything(tmp_path: Path) -> None:
    counts = np.zeros((6, 6), np.int64)
    counts[0, 0] = 10
    document = Evaluation(CLASSES, counts, 10, {"x": 1.0}).document()
    assert document["mean_iu"] == 1
    assert document["absent_classes"] == list(CLASSES.names[1:])
    assert document["void_share"] == 0.5
    assert "one confusion matrix" in document["convention"]
    assert len(document["per_class_iu"]) == 6
    write_json(tmp_path / "e.json", document)
    assert "NaN" not in (tmp_path / "e.json").read_text()
