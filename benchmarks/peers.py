"""The others, each as its users run it: a function from a prepared input to labels.

Their input is normalised beforehand and laid out as they like it; ours begin with the picture's bytes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullyconv.networks.fcn import FCN
from fullyconv.networks.trunks.external import library

Labels = Callable[[], np.ndarray]
HINTS = {"fp32": {"INFERENCE_PRECISION_HINT": "f32"}, "bf16": {"INFERENCE_PRECISION_HINT": "bf16"}, "int8": {}}
"""What OpenVINO is asked for; beside int8 it takes what it finds quickest."""


def torchfcn_like(network: FCN) -> nn.Module:
    """Build torchfcn's FCN8s, padding of 100 and all, with the weights of ours.

    The package imports data sets and a trainer whose own dependencies are gone; only its networks are imported.
    """
    spec = find_spec("torchfcn")
    if spec is None:
        raise ImportError("torchfcn is not installed")
    for name, path in (("torchfcn", spec.submodule_search_locations), ("fcn", None)):
        module = sys.modules[name] = ModuleType(name)
        if path is not None:
            module.__path__ = list(path)
    library("torchvision")
    theirs: nn.Module = importlib.import_module("torchfcn.models.fcn8s").FCN8s(network.classes)
    renamed = {"heads.0": "score_fr", "heads.1": "score_pool4", "heads.2": "score_pool3"}
    state = theirs.state_dict()
    for key, tensor in network.state_dict().items():
        layer, kind = key.rsplit(".", 1)
        name = f"{renamed.get(layer, layer.rsplit('.', 1)[-1])}.{kind}"
        if name not in state or state[name].shape != tensor.shape:
            raise ValueError(f"torchfcn has no {name} of {tuple(tensor.shape)}")
        state[name] = tensor
    theirs.load_state_dict(state)
    return theirs.eval()


def eager(network: nn.Module, image: Tensor) -> Labels:
    """Run a PyTorch network as its readme does: ``network(image)``, then the class of the largest score."""

    def run() -> np.ndarray:
        with torch.inference_mode():
            scores = network(image)
            scores = scores["out"] if isinstance(scores, dict) else scores
            return np.asarray(scores.argmax(1)[0])

    return run


class _ToLabels(nn.Module):
    """A network with the argmax behind it, so that an exported graph holds both."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()  # or the exporter puts the whole network back into training mode, dropout and all

    def forward(self, image: Tensor) -> Tensor:
        """Label N x C x H x W."""
        scores: Tensor = self.network(image)
        return scores.argmax(1)


def openvino(network: nn.Module, image: Tensor, precisions: Sequence[str]) -> dict[str, Labels]:
    """Export a network with its argmax to OpenVINO at the image's size, and compile it in each arithmetic."""
    import openvino as ov

    with torch.inference_mode():
        graph = ov.convert_model(_ToLabels(network), example_input=image, input=[list(image.shape)])
    core, given, found = ov.Core(), image.numpy(), {}
    for precision in precisions:
        model = _quantised(graph, given) if precision == "int8" else graph
        hints: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **HINTS[precision]}
        request = core.compile_model(model, "CPU", hints).create_infer_request()

        def run(request: Any = request) -> np.ndarray:
            return np.array(next(iter(request.infer(given).values()))[0])

        found[precision] = run
    return found


def _quantised(graph: Any, image: np.ndarray) -> Any:
    """Quantise after training, by the picture alone: this is about speed."""
    import nncf

    nncf.set_log_level(40)
    return nncf.quantize(graph, nncf.Dataset([image]), subset_size=1)


def onnxruntime(network: nn.Module, image: Tensor) -> Labels:
    """Export to ONNX and run with ONNX Runtime in float32."""
    import io

    import onnxruntime as rt

    file = io.BytesIO()
    torch.onnx.export(_ToLabels(network), (image,), file, dynamo=False)
    session = rt.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    name, given = session.get_inputs()[0].name, image.numpy()
    return lambda: np.asarray(session.run(None, {name: given})[0][0])


def torchvision_fcn(classes: int) -> nn.Module:
    """Build torchvision's FCN on ResNet-50."""
    network: nn.Module = library("torchvision").models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=classes
    )
    return network.eval()


def smp(kind: str, classes: int) -> nn.Module:
    """Build a network of segmentation-models-pytorch on ResNet-18."""
    library("torchvision")
    models = importlib.import_module("segmentation_models_pytorch")
    network: nn.Module = getattr(models, kind)("resnet18", encoder_weights=None, classes=classes)
    return network.eval()
