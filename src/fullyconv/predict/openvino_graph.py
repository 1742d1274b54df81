"""A network as an OpenVINO graph: from pixels to score maps, for images of every size."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullyconv.networks.alignment import AxisPlan
from fullyconv.networks.fcn import FCN
from fullyconv.openvino import import_openvino
from fullyconv.predict.rounding import round_to_sums
from fullyconv.types import Preprocess
from fullyconv.upsample import bilinear_taps

COLOURS = 3
FRONT = ("Transpose", "Convert", "Gather", "Multiply", "Subtract", "Add", "Pad")  # between pixels and convolutions
NORMALISED = "normalised"  # what the network itself begins with
_TRACING = threading.Lock()  # the recorder of PyTorch has one state for the process


class _Maps(nn.Module):
    """The score maps of a network as a tuple, which can be recorded.

    Zeros up to a multiple of some length are another number for each size, which recording would make a constant:
    so where there are such, images come with them.
    """

    def __init__(self, network: FCN) -> None:
        super().__init__()
        self.network, self.covers = network, _covers(network)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.every_scored(image if self.covers else self.network.padded(image)))


def _covers(network: FCN) -> bool:
    return any(plan.multiple > 1 for plan in network.plans)


def make_graph(network: FCN, preprocess: Preprocess | None) -> Any:
    """Convert a network.

    Args:
        network: In evaluation mode, float32, on the CPU.
        preprocess: Its normalisation, which becomes a part of the graph; ``None`` for pixels normalised already.

    Returns:
        An ``openvino.Model`` of N x H x W x K pixels (uint8 of networks that see colours alone, else float32) to one
        N x h x w x C map per scale and task, in the order of ``FCN.every_scored``; N, H and W are free.

    Raises:
        ValueError: For a network that OpenVINO cannot convert.
    """
    ov = import_openvino()
    example = torch.zeros(1, network.in_channels, *example_size(network))
    if _covers(network):
        example = network.padded(example)
    try:
        with _TRACING, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes that the network checks become constants: the example's are valid
            traced = torch.jit.trace(_Maps(network), example, check_trace=False)  # type: ignore[no-untyped-call]
            model = ov.convert_model(
                traced, example_input=example, input=[ov.PartialShape([-1, network.in_channels, -1, -1])]
            )
    except Exception as error:  # whatever a foreign operation makes the recorder or the converter raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"OpenVINO cannot convert this network ({lines[-1].strip()})") from error
    return _from_pixels(model, preprocess, network.plans if _covers(network) else ())


def example_size(network: FCN) -> tuple[int, int]:
    """Return a height and a width to record: small, odd, unequal, and no multiple of anything the network needs."""
    rows, columns = network.plans
    least = network.smallest_input
    return least[0] + 2 * rows.stride + 1, least[1] + 3 * columns.stride + 3


def _from_pixels(model: Any, preprocess: Preprocess | None, plans: Sequence[AxisPlan]) -> Any:
    """Let a graph of normalised N x K x H x W begin with pixels and end with maps whose channels are last."""
    ov = import_openvino()
    operations = ov.opset13
    old = model.inputs[0]
    channels = old.get_partial_shape()[1].get_length()
    colours = reads_bytes(channels, preprocess)
    pixels = operations.parameter([-1, -1, -1, channels], np.uint8 if colours else np.float32, name="pixels")
    planes = operations.transpose(pixels, np.array([0, 3, 1, 2]))
    if colours:
        planes = operations.convert(planes, np.float32)
    if preprocess is not None:
        scale, shift = (numbers[:, None, None] for numbers in _line(preprocess))
        planes = operations.subtract(operations.multiply(_ordered(planes, preprocess, 1), scale), shift)
    planes.set_friendly_name(NORMALISED)
    if plans:
        planes = _padded(planes, plans)
    for reader in list(old.get_target_inputs()):
        reader.replace_source_output(planes.output(0))
    maps = [operations.transpose(result.input_value(0), np.array([0, 2, 3, 1])) for result in model.get_results()]
    return ov.Model(maps, [pixels], "fullyconv")


def _padded(planes: Any, plans: Sequence[AxisPlan]) -> Any:
    """Put zeros around N x K x H x W, as ``AxisPlan.padding`` counts them."""
    operations = import_openvino().opset13
    margins, multiples = (
        np.array(each) for each in zip(*((plan.margin, plan.multiple) for plan in plans), strict=True)
    )
    sides = operations.gather(operations.shape_of(planes, "i64"), np.array([2, 3]), np.array(0))
    missing = operations.floor_mod(operations.negative(operations.add(sides, 2 * margins)), multiples)
    after = operations.concat([np.zeros(2, np.int64), operations.add(missing, margins)], 0)
    return operations.pad(planes, np.array([0, 0, *margins]), after, "constant", np.float32(0))


def fixed_graph(graph: Any, preprocess: Preprocess | None, shape: tuple[int, ...]) -> Any:
    """Return a copy of a graph for one size, which normalises in fewer steps.

    Args:
        graph: As ``make_graph`` made it, or quantised.
        preprocess: Its normalisation.
        shape: Of the pixels, N x H x W x K.
    """
    operations = import_openvino().opset13
    graph = graph.clone()
    graph.reshape(list(shape))
    number, height, width, channels = shape
    numbers = graph.inputs[0]
    old = next(node for node in graph.get_ordered_ops() if node.get_friendly_name() == NORMALISED).output(0)
    readers = list(old.get_target_inputs())
    if preprocess is not None:
        # All of a row at once, for vectors of one pixel's channels would be short. The transposition is then no work,
        # for the first convolution reads channels last.
        scale, shift = (np.tile(each, width) for each in _line(preprocess))
        lines = operations.convert(_ordered(numbers, preprocess, 3), np.float32)
        lines = operations.reshape(lines, np.array([number, height, width * channels]), False)
        lines = operations.subtract(operations.multiply(lines, scale), shift)
        numbers = operations.reshape(lines, np.array(shape), False)
    planes = operations.transpose(numbers, np.array([0, 3, 1, 2]))
    for reader in readers:
        reader.replace_source_output(planes.output(0))
    graph.validate_nodes_and_infer_types()
    return graph


def reads_bytes(channels: int, preprocess: Preprocess | None) -> bool:
    """Return whether a graph takes uint8 pixels."""
    return channels == COLOURS and preprocess is not None


def _ordered(pixels: Any, preprocess: Preprocess, axis: int) -> Any:
    """Put the channels in the network's order."""
    if preprocess.order != "BGR":
        return pixels
    return import_openvino().opset13.gather(
        pixels, np.array([2, 1, 0, *range(3, len(preprocess.mean))]), np.array(axis)
    )


def _line(preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Return what a channel's numbers are multiplied by, and what is then subtracted."""
    std, mean = np.asarray(preprocess.std, np.float32), np.asarray(preprocess.mean, np.float32)
    return 1 / std, mean / std


def round_first_weights(model: Any) -> None:
    """Round the weights of the convolutions that read pixels to bfloat16 such that their sums stay.

    See ``fullyconv.predict.rounding``.
    """
    operations = import_openvino().opset13
    behind = [model.inputs[0]]
    while behind:
        for reader in behind.pop().get_target_inputs():
            node = reader.get_node()
            kind, weights = node.get_type_name(), node.input_values()[-1].get_node()
            if kind == "Convolution" and weights.get_type_name() == "Constant":
                rounded = operations.constant(round_to_sums(weights.data))
                node.input(1).replace_source_output(rounded.output(0))
            elif kind in FRONT:
                behind.append(node.output(0))


def interpolate(graph: Any) -> None:
    """Upsample by interpolating where a graph does by transposed convolutions with bilinear kernels, in place.

    In bfloat16 and int8 OpenVINO's transposed convolutions by channel take thirty times as long as in float32: half
    the time of a pyramid on EfficientNet-Lite0. Zeros around a map are what the convolution takes beyond its edge.
    """
    operations = import_openvino().opset13
    for node in graph.get_ordered_ops():
        if not is_bilinear(node):
            continue
        attributes, odd = node.get_attributes(), node.input_value(1).get_shape()[-1] % 2
        factors, axes = np.array(attributes["strides"]), np.array([2, 3])
        beside = np.array([0, 0, 1, 1])
        wide = operations.pad(_unquantised(node.input_value(0)), beside, beside, "constant", np.float32(0))
        wide = operations.interpolate(
            wide, factors.astype(np.float32), "linear_onnx", "scales", axes=axes,
            coordinate_transformation_mode="asymmetric" if odd else "half_pixel",
        )  # fmt: skip
        first = (1 if odd else factors // 2) + np.array(attributes["pads_begin"])
        last = (factors if odd else factors // 2) + np.array(attributes["pads_end"])
        cut = operations.slice(wide, first, -last, np.array([1, 1]), axes)
        for reader in list(node.output(0).get_target_inputs()):
            reader.replace_source_output(cut.output(0))


def is_bilinear(node: Any) -> bool:
    """Return whether a transposed convolution by channel interpolates between its units, by whole factors."""
    if node.get_type_name() != "GroupConvolutionBackpropData":
        return False
    attributes, weights = node.get_attributes(), node.input_value(1).get_node()
    if weights.get_type_name() != "Constant" or weights.data.shape[1:3] != (1, 1) or node.get_input_size() > 2:
        return False
    if attributes["dilations"] != [1, 1] or any(attributes["output_padding"]):
        return False
    kernel = weights.data.shape[3:]
    regular = all(size % 2 == kernel[0] % 2 and (size % 2 or size % 4 == 0) for size in kernel)
    if not regular or attributes["strides"] != [(size + 1) // 2 for size in kernel]:
        return False
    taps = np.outer(*(bilinear_taps(size).numpy() for size in kernel)).astype(np.float32)
    return bool((weights.data == taps).all())


def _unquantised(value: Any) -> Any:
    """Return what a quantiser reads, or the value itself."""
    node = value.get_node()
    return node.input_value(0) if node.get_type_name() == "FakeQuantize" else value
