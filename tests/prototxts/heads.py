"""The ways in which files of Caffe's years bring data to a classifier and end it: deploy, train_val, stages, V1."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fullyconv.caffe.upgrade import OLD_TYPES
from prototxts.layers import Prototxt, Sizes
from prototxts.nets import CLASSIFIERS, Body

PROB = 'layer { name: "prob" type: "Softmax" bottom: "%s" top: "prob" }\n'
LOSSES = """
layer { name: "accuracy" type: "Accuracy" bottom: "%(top)s" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "accuracy5" type: "Accuracy" bottom: "%(top)s" bottom: "label" top: "accuracy5" include: { phase: TEST }
  accuracy_param { top_k: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "%(top)s" bottom: "label" top: "loss" loss_weight: 1 }
"""
STAGED = """
layer { name: "accuracy" type: "Accuracy" bottom: "%(top)s" bottom: "label" top: "accuracy" include { stage: "val" } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "%(top)s" bottom: "label" top: "loss" exclude { stage: "deploy" } }
layer { name: "prob" type: "Softmax" bottom: "%(top)s" top: "prob" include { stage: "deploy" } }
"""


def _pair(kind: str, block: str, transform: str) -> str:
    """Write two data layers of one kind, for both phases."""
    return "".join(
        f'layer {{ name: "data" type: "{kind}" top: "data" top: "label" include {{ phase: {phase} }}\n'
        f"  transform_param {{ {transform} {mirror} }} {block % phase.lower()} }}\n"
        for phase, mirror in (("TRAIN", "mirror: true"), ("TEST", "mirror: false"))
    )


def _staged(channels: int, side: int, grey: str) -> str:
    return "".join(
        f'layer {{ name: "{stage}-data" type: "Data" top: "data" top: "label" include {{ stage: "{stage}" }}\n'
        f"  transform_param {{ crop_size: {side} {grey} }}\n"
        f'  data_param {{ source: "{stage}_db" backend: LMDB batch_size: 2 }} }}\n'
        for stage in ("train", "val")
    ) + (
        'layer { name: "deploy-data" type: "Input" top: "data" include { stage: "deploy" }\n'
        f"  input_param {{ shape {{ dim: 1 dim: {channels} dim: {side} dim: {side} }} }} }}\n"
    )


def heads(channels: int, side: int) -> dict[str, tuple[str, str, str, str]]:
    """Return head, tail, phase and stage of each way; the tail takes the name of the class scores."""
    grey = "force_gray: true" if channels == 1 else ""
    crop = f'crop_size: {side} mean_file: "mean.binaryproto" {grey}'
    means = f"crop_size: {side} mean_value: 104 mean_value: 117 mean_value: 123"
    database = 'data_param { source: "%s_lmdb" batch_size: 2 backend: LMDB }'
    dims = f"dim: 1 dim: {channels} dim: {side} dim: {side}"
    shapes = f"shape {{ {dims.replace('1', '2', 1)} }} shape {{ dim: 2 }}"
    memory = f"batch_size: 2 channels: {channels} height: {side} width: {side}"
    found = {
        "deploy": (f'input: "data"\n{dims.replace("dim", "input_dim")}\n', PROB, "", ""),
        "deploy, input_shape": (f'input: "data"\ninput_shape {{ {dims} }}\n', PROB, "", ""),
        "deploy, Input": (f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n',
                          PROB, "", ""),
        "deploy of no size": ('input: "data"\n', PROB, "", ""),
        "train_val, TEST": (_pair("Data", database, crop), LOSSES, "TEST", ""),
        "train_val, TRAIN": (_pair("Data", database, crop), LOSSES, "TRAIN", ""),
        "lists of pictures": (_pair("ImageData", 'image_data_param { source: "%s.txt" batch_size: 2 new_height: 256 '
                                    f'new_width: 256 {"is_color: false" if channels == 1 else ""} }}',
                                    crop), LOSSES, "TRAIN", ""),
        "databases of no size": (_pair("Data", database, "scale: 0.00390625"), LOSSES, "TEST", ""),
        "HDF5": (_pair("HDF5Data", 'hdf5_data_param { source: "%s.txt" batch_size: 2 }', ""), LOSSES, "TEST", ""),
        "memory": ('layer { name: "data" type: "MemoryData" top: "data" top: "label" '
                   f"memory_data_param {{ {memory} }} }}\n", LOSSES, "TRAIN", ""),
        "dummy": ('layer { name: "data" type: "DummyData" top: "data" top: "label" '
                  f"dummy_data_param {{ {shapes} }} }}\n", LOSSES, "TRAIN", ""),
        **{f"stage {stage}": (_staged(channels, side, grey), STAGED, phase, stage)
           for stage, phase in (("deploy", ""), ("train", "TRAIN"), ("val", "TEST"))},
    }  # fmt: skip
    if channels == 3:
        found["windows"] = (_pair("WindowData", 'window_data_param { source: "%s" batch_size: 2 fg_threshold: 0.5 }',
                                  means), LOSSES, "TRAIN", "")  # fmt: skip
    return found


def as_v1(text: str) -> str:
    """Write a net of today in V1's form: ``layers``, types as words, factors of blobs beside each other."""
    text = text.replace("layer {", "layers {")
    for word, kind in OLD_TYPES.items():
        text = text.replace(f'type: "{kind}"', f"type: {word}")
    return re.sub(r"param \{ lr_mult: (\d+) decay_mult: (\d+) \}", r"blobs_lr: \1 weight_decay: \2", text)


def classifiers() -> Iterator[Prototxt]:
    """Write every classifier under every head."""
    for name, (architecture, channels, side, classes, parameters) in CLASSIFIERS.items():
        body = Body()
        architecture(body, classes)
        spatial = architecture.__name__ in ("network_in_network", "densenet121", "mobilenet") or "squeezenet" in name
        for way, (head, tail, phase, stage) in heads(channels, side).items():
            text = f'name: "{name}"\n{head}{body.text}{tail % ({"top": body.top} if "%(top)" in tail else body.top)}'
            open_size = "no size" in way or way == "HDF5"
            outputs = _outputs(tail, stage, phase, (1, classes, *((1, 1) if spatial else ())))
            if open_size and "prob" in outputs:
                outputs = {}
            options = {key: value for key, value in (("phase", phase), ("stage", stage)) if value}
            count = None if open_size else parameters
            labels = (1, 10, 10) if open_size and name == "nin" else (1,) if open_size else (2,)  # of 500 x 500 pixels
            feeds = {"label": labels} if tail is not PROB and stage != "deploy" else {}
            yield Prototxt("classifiers", f"{name}, {way}", text, outputs, "", count, options, feeds)
            is_today = re.search("BatchNorm|Scale|PReLU", text) is not None
            if way in ("deploy", "train_val, TEST", "train_val, TRAIN") and not is_today:
                yield Prototxt("classifiers", f"{name}, {way}, V1", as_v1(text), outputs, "", count, options, feeds)


def _outputs(tail: str, stage: str, phase: str, prob: Sizes) -> dict[str, Sizes]:
    if tail is PROB or stage == "deploy":
        return {"prob": prob}
    scores: dict[str, Sizes] = {"loss": ()}
    if phase == "TEST":
        scores["accuracy"] = ()
    return scores
