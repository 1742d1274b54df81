"""Whole FCNs as OpenCV computes them: its importer of Caffe's files shares no line with ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fullyconv.caffe import export, load
from fullyconv.networks import build
from fullyconv.networks.trunks import caffenet, classic, vgg

SIZES = ((61, 43), (97, 131), (64, 96))
NETS = (
    "voc-fcn32s", "voc-fcn16s", "voc-fcn8s", "voc-fcn8s-atonce", "voc-fcn16s-max", "voc-fcn8s-learned",
    "voc-fcn-pool5", "voc-fcn-pool4", "voc-fcn-pool3", "pascalcontext-fcn16s", "siftflow-fcn8s",
    "nyud-fcn32s-color-d", "nyud-fcn32s-color-hha", "nyud-fcn16s-color-hha", "voc-fcn-alexnet",
    "fcn8s-vgg16-same", "fcn8s-resnet18", "fpn8s-vgg16-same", "deeplab-largefov-vgg16", "unet-original",
)  # fmt: skip


@torch.no_grad()
def shaken(name: str) -> nn.Module:
    """Build a network of few channels whose random weights keep values near 1."""
    net = build(name)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layer.bias is None or nn.init.normal_(layer.bias, 0, 0.1)
    return net.eval()


@pytest.mark.usefixtures("narrow_vgg")
@pytest.mark.parametrize("name", NETS)
def test_whole_fcns_are_what_opencv_computes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pads of 100, every offset and crop, dense and grouped upsampling: at sizes that divide by nothing and by 32."""
    reason = "OpenCV is not installed (pip install 'opencv-python-headless<5')"
    cv2 = pytest.importorskip("cv2", reason=reason).dnn
    monkeypatch.setattr(caffenet, "HIDDEN", 16)
    monkeypatch.setattr(caffenet.CaffeNet, "channels", (16,))
    monkeypatch.setattr(vgg.HoleVGG16, "channels", (4,))
    monkeypatch.setattr(classic.Contracting, "channels", (4, 6, 8, 8, 8))
    torch.manual_seed(0)
    files = export(shaken(name), tmp_path)
    files[0].write_text(files[0].read_text().replace("round_mode: FLOOR", "ceil_mode: false"))  # OpenCV's word for it
    ours, theirs = load(*files), cv2.readNetFromCaffe(*map(str, files))
    for size in SIZES:
        blobs = {blob: torch.randn(1, shape[1], *size) for blob, shape in ours.inputs.items()}
        with torch.inference_mode():
            found = ours(blobs)
        for blob, values in blobs.items():
            theirs.setInput(values.numpy(), blob)
        tops = theirs.getUnconnectedOutLayersNames()
        expected = dict(zip(tops, theirs.forward(tops), strict=True))
        assert found.keys() == expected.keys()
        for top, scores in found.items():
            assert scores.shape[2:] == size
            assert scores.std() > 0.01
            np.testing.assert_allclose(scores, expected[top], rtol=0, atol=1e-4 * float(scores.abs().max()))
