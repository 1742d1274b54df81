"""Our engine and head against OpenVINO's own form of the whole network: a picture to its labels, in turns.

    OMP_NUM_THREADS=2 python benchmarks/openvino_whole.py models/camvid-scratch 360 480

OpenVINO's own form is the network with upsampling and argmax, converted for one fixed size, with the normalisation in
the graph; ours has free sizes. Labels are compared first.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fullyconv import Predictor, load
from fullyconv.machine import frozen
from fullyconv.networks.fcn import FCN
from fullyconv.openvino import import_openvino
from fullyconv.types import Preprocess

HINTS = {"float32": "f32", "bfloat16": "bf16"}


class _Whole(nn.Module):
    """From N x H x W x 3 uint8 to labels."""

    def __init__(self, network: FCN, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = network
        std = torch.tensor(preprocess.std)
        self.scale, self.shift = (1 / std)[:, None, None], (torch.tensor(preprocess.mean) / std)[:, None, None]

    def forward(self, pixels: Tensor) -> Tensor:
        labels: Tensor = self.network(pixels.permute(0, 3, 1, 2).float() * self.scale - self.shift).argmax(1)
        return labels


def openvino_whole(
    network: FCN, preprocess: Preprocess, size: tuple[int, int], precision: str
) -> Callable[[np.ndarray], np.ndarray]:
    """Convert all of a network (normalised RGB) for one size; what is returned takes and gives arrays."""
    ov = import_openvino()
    example = torch.zeros(1, *size, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(_Whole(frozen(network), preprocess), example, check_trace=False)
        graph = ov.convert_model(traced, example_input=example, input=[ov.PartialShape([1, *size, 3])])
    settings = {"INFERENCE_PRECISION_HINT": HINTS[precision], "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = ov.Core().compile_model(graph, "CPU", settings | {"NUM_STREAMS": 1}).create_infer_request()

    def run(pixels: np.ndarray) -> np.ndarray:
        request.infer({0: pixels[None]}, share_inputs=True)
        labels: np.ndarray = request.output_tensors[0].data[0]
        return labels

    return run


def main() -> None:
    """Compare, then time in turns."""
    size = int(sys.argv[2]), int(sys.argv[3])
    segmenter = load(sys.argv[1], device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    variants: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    for precision in HINTS:
        variants[f"openvino {precision}"] = openvino_whole(segmenter.network, segmenter.preprocess, size, precision)
        variants[f"ours {precision}"] = Predictor(segmenter, precision, "openvino")
    wanted = variants["openvino float32"](pixels).copy()
    for name, run in variants.items():
        print(f"{name}: {100 * np.mean(run(pixels) == wanted):.3f} % of labels agree")
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(40):
        for name, run in variants.items():
            start = time.perf_counter()
            run(pixels)
            seconds[name].append(time.perf_counter() - start)
    for name, each in seconds.items():
        print(f"{name}: {1000 * statistics.median(each):.2f} ms ({1000 * min(each):.2f} to {1000 * max(each):.2f})")


if __name__ == "__main__":
    main()
