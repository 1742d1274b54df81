"""Eight-bit arithmetic: where a network's graph is quantised and in which ranges, found by NNCF.

Kept beside the weights are numbers only, in ``int8.safetensors``: the graph itself is made anew from the network.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullyconv.checkpoint import find_model, find_own_model
from fullyconv.files import BadFile
from fullyconv.networks.fcn import FCN
from fullyconv.openvino import import_openvino, quiet_import
from fullyconv.predict.openvino_graph import is_bilinear, make_graph
from fullyconv.tensors import read_tensors, write_tensors
from fullyconv.types import Preprocess

INT8 = "int8.safetensors"
COMMAND = "fullyconv quantize MODEL DATA"
LIMITS = ("low", "high", "lowest", "highest")  # of what is given, and of what it becomes


def find_quantisation(network: FCN, preprocess: Preprocess, images: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Calibrate a network on images by NNCF's post-training quantisation.

    Args:
        network: In evaluation mode, float32, on the CPU.
        preprocess: Its normalisation.
        images: H x W x 3 uint8 each, of any sizes; training images.

    Returns:
        What ``store_quantisation`` keeps: places, ranges and corrected biases.

    Raises:
        ValueError: For a network that OpenVINO cannot convert.
        ImportError: Where NNCF is not installed.
    """
    graph = make_graph(network, preprocess)
    try:
        with quiet_import():
            import nncf
    except ImportError:
        raise ImportError("quantising needs NNCF: pip install 'fullyconv[openvino]'") from None
    logging.getLogger("nncf").setLevel(logging.ERROR)
    data = nncf.Dataset([image[None] for image in images])
    quantised = nncf.quantize(graph, data, subset_size=len(images), preset=nncf.QuantizationPreset.MIXED)
    return {
        "weights": _bytes(weights_sum(network)),
        "graph": _bytes(_kinds_sum(graph)),
        **_differences(graph, quantised),
    }


def _differences(graph: Any, quantised: Any) -> dict[str, Tensor]:
    """Say what NNCF has put into a graph, by the numbers of the nodes."""
    number = {node.get_friendly_name(): index for index, node in enumerate(graph.get_ordered_ops())}
    before = {node.get_friendly_name(): node for node in graph.get_ordered_ops()}
    found: dict[str, Tensor] = {}
    for node in quantised.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() == "FakeQuantize":
            source = node.input_value(0)
            readers = [
                (number[reader.get_node().get_friendly_name()], reader.get_index())
                for reader in node.output(0).get_target_inputs()
            ]
            key = f"quantiser.{len(found)}"
            start = [number[source.get_node().get_friendly_name()], source.get_index(), node.get_levels()]
            found[key] = torch.tensor([*start, *(entry for reader in sorted(readers) for entry in reader)])
            for port, what in enumerate(LIMITS, start=1):
                found[f"{key}.{what}"] = torch.from_numpy(np.array(node.input_value(port).get_node().data, np.float32))
        elif name in before and (scale := _weight_scale(node)) is not None:
            found[f"weights.{len(found)}"] = torch.tensor([number[name], 1])
            found[f"weights.{len(found) - 1}.scale"] = torch.from_numpy(scale)
        elif name in before and node.get_type_name() == "Add":
            for port in (0, 1):
                old, new = (each.input_value(port).get_node() for each in (before[name], node))
                if _constant(old) and _constant(new) and not np.array_equal(old.data, new.data):
                    key = f"bias.{len(found)}"
                    found[key] = torch.tensor([number[name], port])
                    found[f"{key}.values"] = torch.from_numpy(np.array(new.data, np.float32))
    return found


def _weight_scale(node: Any) -> np.ndarray | None:
    """Return the scales of a node's weights where NNCF has put whole numbers times these in; else ``None``."""
    if node.get_input_size() < 2:
        return None
    product = node.input_value(1).get_node()
    if product.get_type_name() != "Multiply" or product.input_value(0).get_node().get_type_name() != "Convert":
        return None
    return np.array(product.input_value(1).get_node().data, np.float32)


def quantise(graph: Any, found: Mapping[str, Tensor]) -> None:
    """Put quantisers and corrected biases into a graph, where ``find_quantisation`` found them.

    Args:
        graph: The graph of the same network, as ``make_graph`` makes it.
        found: What was found; it may come from a file of anyone's.

    Raises:
        ValueError: For places that the graph has not, or ranges that are none.
    """
    operations = import_openvino().opset13
    nodes = graph.get_ordered_ops()
    for key in sorted(name for name in found if name.count(".") == 1):
        place = found[key].flatten().tolist()
        if not all(isinstance(entry, int) and 0 <= entry < max(len(nodes), 257) for entry in place):
            raise ValueError(f"{key} names nodes that the network has not")
        _check_ports(nodes, key, place)
        try:
            if key.startswith("weights.") and is_bilinear(nodes[place[0]]):
                continue  # it interpolates, see there
            if not key.startswith("quantiser."):
                _replace(nodes[place[0]].input(place[1]), key, found)
                continue
            source = nodes[place[0]].output(place[1])
            limits = [operations.constant(_finite(found[f"{key}.{what}"])) for what in LIMITS]
            quantiser = operations.fake_quantize(source, *limits, levels=place[2])
            for reader, port in zip(place[3::2], place[4::2], strict=True):
                if nodes[reader].input_value(port) != source:
                    raise ValueError(f"{key} joins nodes that are not joined")
                nodes[reader].input(port).replace_source_output(quantiser.output(0))
        except (RuntimeError, IndexError, KeyError, AttributeError) as error:
            raise ValueError(f"{key} does not fit the network ({str(error).strip().splitlines()[-1][:120]})") from None
    graph.validate_nodes_and_infer_types()


def _check_ports(nodes: Sequence[Any], key: str, place: Sequence[int]) -> None:
    """Refuse inputs and outputs that nodes have not: OpenVINO would read beyond them."""
    source, readers = (place[:3], place[3:]) if key.startswith("quantiser.") else ([], place)
    pairs = list(zip(readers[::2], readers[1::2], strict=False))
    known = all(node < len(nodes) and port < nodes[node].get_input_size() for node, port in pairs)
    if source:
        known = known and len(source) == 3 and source[0] < len(nodes) and 2 <= source[2] <= 256
        known = known and source[1] < nodes[source[0]].get_output_size()
    if not known or not pairs or len(readers) % 2:
        raise ValueError(f"{key} names nodes that the network has not")


def _replace(reader: Any, key: str, found: Mapping[str, Tensor]) -> None:
    """Put a corrected bias, or weights in 8 bits, in the place of a constant."""
    operations = import_openvino().opset13
    old = reader.get_source_output().get_node()
    if not _constant(old):
        raise ValueError(f"{key} is no constant of the network")
    if key.startswith("bias."):
        values = _finite(found[f"{key}.values"])
        if values.shape != old.data.shape:
            raise ValueError(f"{key} has the shape {values.shape}, not {old.data.shape}")
        reader.replace_source_output(operations.constant(values).output(0))
        return
    scale = _finite(found[f"{key}.scale"])
    if np.broadcast_shapes(scale.shape, old.data.shape) != old.data.shape:
        raise ValueError(f"{key}.scale has the shape {scale.shape}, the weights {old.data.shape}")
    # Whole numbers times a scale: with a quantiser in their place OpenVINO takes three times as long for a picture
    # (7 x 7, 64 to 1024 channels).
    whole = np.clip(np.rint(old.data / np.where(scale == 0, 1, scale)), -127, 127).astype(np.int8)
    floats = operations.convert(operations.constant(whole), np.float32)
    reader.replace_source_output(operations.multiply(floats, operations.constant(scale)).output(0))


def _constant(node: Any) -> bool:
    return bool(node.get_type_name() == "Constant")


def _finite(values: Tensor) -> np.ndarray:
    numbers = values.numpy()
    if numbers.dtype != np.float32 or not np.isfinite(numbers).all():
        raise ValueError("a range holds NaN, infinity, or no float32 numbers")
    if sum(side > 1 for side in numbers.shape) > 1:  # free heights and widths would take it until an image comes
        raise ValueError(f"a range or bias has the shape {numbers.shape}, not one number or one per channel")
    return numbers


def weights_sum(network: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _kinds_sum(graph: Any) -> str:
    """Return the SHA-256 of the kinds of a graph's nodes in their order: other converters make other graphs."""
    kinds = " ".join(node.get_type_name() for node in graph.get_ordered_ops())
    return hashlib.sha256(kinds.encode()).hexdigest()


def _bytes(hexadecimal: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(hexadecimal)), dtype=torch.uint8)


def store_quantisation(folder: Path, found: Mapping[str, Tensor]) -> Path:
    """Keep a quantisation in its model's folder, whole; raises ``BadFile`` where there is no model."""
    path = find_own_model(folder) / INT8
    write_tensors(path, found)
    return path


def quantised_graph(folder: Path | None, network: FCN, graph: Any) -> Any:
    """Quantise a graph as the file in the model's folder says.

    Args:
        folder: The model's folder.
        network: The network as it is now.
        graph: What ``make_graph`` made of it; it is changed.

    Raises:
        BadFile: Where the model has no such file, or one that is damaged or of other weights.
    """
    if folder is None:
        raise ValueError(f"precision int8 needs a model's folder, calibrated by {COMMAND}: take float32 or bfloat16")
    path = find_model(folder) / INT8
    again = f"quantise it again: {COMMAND}"
    if not path.exists():
        raise BadFile(path, "no such file: the model has not been calibrated for int8", f"run {COMMAND}")
    found = read_tensors(path)
    for what, wanted in (("weights", weights_sum(network)), ("graph", _kinds_sum(graph))):
        if what not in found or not torch.equal(found[what], _bytes(wanted)):
            whose = "weights" if what == "weights" else "operations (another version of OpenVINO's converter)"
            raise BadFile(path, f"was made for other {whose}", again)
    try:
        quantise(graph, found)
    except (ValueError, RuntimeError) as error:
        raise BadFile(path, str(error).strip().splitlines()[-1], again) from None
    return graph
