"""The formats: how a recorded graph is written, and how a written file is run again to be checked."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.export import ExportedProgram

from fullyconv.openvino import import_openvino

Format = Literal["onnx", "openvino", "torch"]
Metadata = Mapping[str, Any]
Run = Callable[[np.ndarray], np.ndarray]


class Kind(NamedTuple):
    """A format: the suffixes of its files, the first of which is opened, what writes them, and what runs them."""

    suffixes: tuple[str, ...]
    write: Callable[[ExportedProgram, Path, Metadata], None]
    open: Callable[[Path], Run]
    needs: Callable[[], None]


def _need_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ImportError(f"export to onnx needs {', '.join(missing)}: pip install 'fullyconv[export]'")


def _need_openvino() -> None:
    import_openvino("export to openvino")


def _need_nothing() -> None:
    """PyTorch is there."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a converter tells its developers from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _write_onnx(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    with _quiet():
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["image"], output_names=[metadata["output_name"]]
        )
        if made is None:
            raise ValueError("PyTorch made no ONNX file")
        model = made.model_proto
    import onnx

    del model.graph.value_info[:]  # sizes of maps in between, by the recorder's names for height and width
    inputs, outputs = model.graph.input[0], model.graph.output[0]
    for value, names in ((inputs, ("N", "", "H", "W")), (outputs, ("N", "", "H", "W"))):
        sides = value.type.tensor_type.shape.dim
        for side, name in zip(sides, names if len(sides) == 4 else ("N", "H", "W"), strict=True):
            if name:
                side.dim_param = name
    onnx.helper.set_model_props(model, {key: _text(value) for key, value in metadata.items()})
    model.producer_name, model.producer_version = "fullyconv", ""
    path.write_bytes(model.SerializeToString())


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run(None, {name: image})[0]
        return found

    return run


def _write_openvino(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    ov = import_openvino()
    with _quiet():
        model = ov.convert_model(program)
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({metadata["output_name"]})
    for key, value in metadata.items():
        model.set_rt_info(_text(value), ["fullyconv", key])
    ov.save_model(model, str(path), compress_to_fp16=False)


def _open_openvino(path: Path) -> Run:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = import_openvino().Core().compile_model(str(path), "CPU", settings)

    def run(image: np.ndarray) -> np.ndarray:
        found: np.ndarray = compiled({0: image})[0]
        return found

    return run


def _write_torch(program: ExportedProgram, path: Path, metadata: Metadata) -> None:
    with _quiet():
        torch.export.save(program, path, extra_files={"metadata.json": json.dumps(metadata)})


def _open_torch(path: Path) -> Run:
    with _quiet():
        module = torch.export.load(path).module()

    def run(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = module(torch.from_numpy(image)).numpy()
        return found

    return run


def _text(value: Any) -> str:
    """Write a value as the formats keep it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


KINDS: dict[Format, Kind] = {
    "onnx": Kind((".onnx",), _write_onnx, _open_onnx, _need_onnx),
    "openvino": Kind((".xml", ".bin"), _write_openvino, _open_openvino, _need_openvino),
    "torch": Kind((".pt2",), _write_torch, _open_torch, _need_nothing),
}
