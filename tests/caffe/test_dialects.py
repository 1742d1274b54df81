"""SegNet, ENet, DeepLab and PSPNet: small nets in their words, and the files their Caffes write."""

from __future__ import annotations

import re
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fullyconv.caffe import load
from fullyconv.caffe.export import network_layers
from fullyconv.caffe.text import to_text
from fullyconv.caffe.upgrade import OLD_TYPES
from fullyconv.caffe.wire import PACKAGE, _messages, read_weights, write_weights
from fullyconv.files import BadFile
from fullyconv.networks import build

SEGNET = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 12
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BN" bottom: "conv" top: "conv" bn_param { bn_mode: INFERENCE
  scale_filler { type: "constant" value: 2 } shift_filler { type: "constant" value: 0.001 } } }
layer { name: "prelu" type: "PReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" top: "mask"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "drop" type: "Python" bottom: "pool" top: "drop" python_param {
  module: "spatial_dropout" layer: "SpatialDropoutLayer" param_str: "{\\'phase\\': \\'TRAIN\\', \\'p\\': \\'0.5\\'}" } }
layer { name: "up" type: "Upsample" bottom: "drop" bottom: "mask" top: "up"
  upsample_param { scale: 2 pad_out_h: true } }
"""


def test_a_segnet_puts_maxima_back(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(SEGNET)
    net, image = load(path), torch.randn(2, 3, 9, 12)
    features = functional.prelu(net.layers["conv"](image) * 2 + 0.001, torch.tensor([0.25]))
    padded = functional.pad(features, (0, 0, 0, 1), value=-1e9)
    top, index = functional.max_pool2d(padded, 2, return_indices=True)
    expected = functional.max_unpool2d(top, index, 2)[:, :, :9]
    torch.testing.assert_close(net({"data": image})["up"], expected)
    with pytest.raises(ValueError, match=r"plane of \(10, 12\), this layer makes \(9, 12\): feed the size"):
        net({"data": torch.randn(1, 3, 10, 12)})
    dropped = net.train()({"data": image})["up"]
    maps = dropped.flatten(2).abs().sum(2)
    assert ((maps == 0) | torch.isclose(maps, 2 * expected.flatten(2).abs().sum(2))).all()


def test_places_of_pictures_of_unknown_size_wait_for_what_is_fed(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    data = (
        'layer { name: "data" type: "DenseImageData" top: "data" top: "label" dense_image_data_param { source: "x" } }'
    )
    decoder = ('layer { name: "last" type: "Convolution" bottom: "up" top: "last" '
               "convolution_param { num_output: 2 kernel_size: 1 } }")  # fmt: skip
    path.write_text(data + SEGNET[SEGNET.index("layer") :] + decoder)
    net = load(path)
    assert net.layers["last"].weight.shape == (2, 4, 1, 1)
    assert net({"data": torch.randn(1, 3, 9, 12)})["last"].shape == (1, 2, 9, 12)


PSPNET = """
layer { name: "data" type: "ImageSegData" top: "data" top: "label" image_data_param { label_type: PIXEL } }
layer { name: "bn" type: "BN" bottom: "data" top: "bn" }
layer { name: "up" type: "Interp" bottom: "bn" top: "up" interp_param { height: 9 width: 7 } }
"""


def test_the_number_of_blobs_tells_which_bn_it_is(tmp_path: Path) -> None:
    path, image = tmp_path / "net.prototxt", torch.randn(2, 3, 5, 4)
    path.write_text(PSPNET)
    blobs = [np.abs(np.random.default_rng(1).normal(size=(1, 3, 1, 1))).astype(np.float32) for _ in range(4)]
    write_weights(tmp_path / "w", "n", {"bn": ("BN", blobs)})
    slope, bias, mean, variance = (torch.from_numpy(blob) for blob in blobs)
    expected = slope * (image - mean) / (variance + 1e-5).sqrt() + bias
    interpolated = functional.interpolate(expected, (9, 7), mode="bilinear", align_corners=True)
    torch.testing.assert_close(load(path, tmp_path / "w")({"data": image})["up"], interpolated)
    write_weights(tmp_path / "w", "n", {"bn": ("BN", blobs[:2])})
    deviation, centre = torch.std_mean(image, (0, 2, 3), correction=0, keepdim=True)
    expected = slope * (image - centre) / deviation + bias
    interpolated = functional.interpolate(expected, (9, 7), mode="bilinear", align_corners=True)
    torch.testing.assert_close(load(path, tmp_path / "w")({"data": image})["up"], interpolated, rtol=1e-4, atol=1e-4)


DEEPLAB = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9
layers { name: "fc6" type: CONVOLUTION bottom: "data" top: "fc6" strict_dim: false convolution_param {
  num_output: 2 kernel_size: 3 hole: 2 pad: 2 weight_filler { type: "gaussian" } } }
layers { name: "crop" type: CROP bottom: "fc6" bottom: "data" top: "crop" }
layers { name: "shrink" type: INTERP bottom: "crop" top: "shrink" interp_param { shrink_factor: 4 } }
"""


def test_holes_and_crops_of_the_old_form(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(DEEPLAB)
    net, image = load(path), torch.randn(1, 3, 9, 9)
    conv = net.layers["fc6"]
    assert conv.dilation == (2, 2)
    torch.testing.assert_close(net({"data": image})["shrink"], conv(image)[:, :, ::4, ::4])
    path.write_text(DEEPLAB + 'layers { name: "crf" type: MULTI_STAGE_MEANFIELD bottom: "crop" top: "crf" }')
    with pytest.raises(BadFile, match=r"'crf' \(MultiStageMeanfield\): this type .*fullyconv\.crf\.dense_crf"):
        load(path)


def _old(text: str) -> str:
    """Write a net of today in V1's form, crops without their offsets, as the first release has them."""
    text = re.sub(r"crop_param \{[^}]*\}", "", text).replace("layer {", "layers {")
    for word, kind in OLD_TYPES.items():
        text = text.replace(f'type: "{kind}"', f"type: {word}")
    text = re.sub(r"param \{\s*lr_mult[^}]*\}", "", text)
    return re.sub(r"layers \{[^}]*Input[^}]*\}[^}]*\}\s*\}", 'input: "data" input_dim: [1, 3, 500, 500]', text)


@pytest.mark.parametrize("name", ["voc-fcn32s", "voc-fcn16s", "voc-fcn8s", "voc-fcn-alexnet"])
def test_crops_of_the_first_release_find_their_offsets(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        layers = network_layers(build(name))
    path = tmp_path / "net.prototxt"
    path.write_text(_old(to_text(name, layers)))
    with torch.device("meta"):
        net = load(path)
    expected = {layer.name: layer.fields["offset"] for layer in layers if layer.kind == "Crop"}
    found = {layer.name: net.module(layer).offsets for layer in net.described if layer.kind == "Crop"}
    assert found == {key: (offset, offset) for key, offset in expected.items()}


def test_crops_whose_grids_do_not_meet_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(DEEPLAB.replace("hole: 2 pad: 2", "stride: 2"))
    with pytest.raises(BadFile, match="units 2 apart from 1 on do not lie on units 1 apart from 0"):
        load(path)


WEIGHTS = np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32)


@pytest.mark.parametrize(("number", "kind"), [(0, "<f8"), (1, "<f4"), (2, "<f2")])
def test_blobs_of_nvidias_caffe(tmp_path: Path, number: int, kind: str) -> None:
    net = _messages()["Net"](name="n")
    blob = net.layer.add(name="a", type="Convolution").blobs.add()
    blob.shape.dim.extend(WEIGHTS.shape)
    blob.raw_data_type, blob.raw_data = number, WEIGHTS.astype(kind).tobytes()
    (tmp_path / "w").write_bytes(net.SerializeToString())
    np.testing.assert_allclose(read_weights(tmp_path / "w")["a"][0], WEIGHTS, rtol=0 if number < 2 else 1e-3)
    blob.raw_data = blob.raw_data[:-1]
    (tmp_path / "w").write_bytes(net.SerializeToString())
    with pytest.raises(BadFile, match="cut within a number"):
        read_weights(tmp_path / "w")
    blob.raw_data_type = 7
    (tmp_path / "w").write_bytes(net.SerializeToString())
    with pytest.raises(BadFile, match="a blob of type 7"):
        read_weights(tmp_path / "w")


def test_weights_of_the_oldest_form(tmp_path: Path) -> None:
    net = _messages()["Net"](name="n")
    entry = net.layers.add()
    entry.layer.name = "a"
    blob = entry.layer.blobs.add(num=2, channels=3, height=1, width=1)
    blob.data.append(WEIGHTS.tobytes())
    (tmp_path / "w").write_bytes(net.SerializeToString())
    np.testing.assert_array_equal(read_weights(tmp_path / "w")["a"][0], WEIGHTS)
    assert PACKAGE == "fullyconv.caffe"


def test_snapshots_in_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "w.caffemodel.h5"
    with h5py.File(path, "w") as file:
        file["data/inception/3x3/0"], file["data/inception/3x3/1"] = WEIGHTS, WEIGHTS[:, 0, 0, 0]
        file["data/a/0"] = WEIGHTS.astype(np.float64)
    found = read_weights(path)
    assert found.keys() == {"inception/3x3", "a"}
    np.testing.assert_array_equal(found["inception/3x3"][1], WEIGHTS[:, 0, 0, 0])
    np.testing.assert_array_equal(found["a"][0], WEIGHTS)
    with h5py.File(path, "a") as file:
        file["data/b/0"] = h5py.ExternalLink("other.h5", "/data/a/0")
    with pytest.raises(BadFile, match="b/0 is a link"):
        read_weights(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(BadFile, match="damaged HDF5"):
        read_weights(path)
    with h5py.File(path, "w") as file:
        file["other"] = WEIGHTS
    with pytest.raises(BadFile, match="no group 'data'"):
        read_weights(path)


LABELLED = """
%(one)s { name: "data" type: %(data)s top: "data" top: "label" image_data_param { source: "x.lst" new_height: 0 } }
%(one)s { name: "same" type: %(scale)s bottom: "data" top: "same" }
%(one)s { name: "final" type: %(conv)s bottom: "same" top: "final" convolution_param { num_output: 3 kernel_size: 1
  weight_filler { type: "identity" num_groups: 1 std: 0.01 } } }
%(one)s { name: "mat" type: %(mat)s bottom: "final"
  mat_write_param { prefix: "fc8/" source: "id.txt" strip: 0 period: 1 } }
%(one)s { type: %(loss)s bottom: "final" bottom: "label" top: "loss" %(block)s { ignore_label: 255 } }
"""
TODAY = {"one": "layer", "scale": '"Scale"', "conv": '"Convolution"', "mat": '"MatWrite"', "loss": '"SoftmaxWithLoss"'}
FIRST = {"one": "layers", "scale": "DROPOUT", "conv": "CONVOLUTION", "mat": "MAT_WRITE", "loss": "SOFTMAX_LOSS"}


@pytest.mark.parametrize("words", [
    {**TODAY, "data": '"ImageLabelmapData"', "block": "loss_param"},  # HED's
    {**TODAY, "data": '"ImageLabelData"', "block": "loss_param"},  # the dilated nets'
    {**FIRST, "data": "IMAGE_SEG_DATA", "block": "softmaxloss_param"},  # DeepLab's first version's
])  # fmt: skip
def test_files_that_train_segmenters_of_forks_load(tmp_path: Path, words: dict[str, str]) -> None:
    path, image, label = tmp_path / "net.prototxt", torch.randn(1, 3, 4, 5), torch.randint(0, 3, (1, 1, 4, 5))
    path.write_text(LABELLED % words)
    weight, bias = np.random.default_rng(1).normal(size=(3, 3, 1, 1)).astype(np.float32), np.zeros(3, np.float32)
    write_weights(tmp_path / "w", "n", {"final": ("Convolution", [weight, bias])})
    label[0, 0, 0] = 255
    found = load(path, tmp_path / "w")({"data": image, "label": label})
    scores = functional.conv2d(image, torch.from_numpy(weight))
    torch.testing.assert_close(found["final"], scores)  # what would be written to files is an output
    torch.testing.assert_close(found["loss"], functional.cross_entropy(scores, label[:, 0], ignore_index=255))


def test_a_template_is_told_by_its_placeholders(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text('layers { name: "fc8_${EXP}" type: CONVOLUTION convolution_param { num_output: ${NUM_LABELS} } }')
    with pytest.raises(BadFile, match=r"net.prototxt:1: a template's \$\{NUM_LABELS\}: write its value there"):
        load(path)


EDGES = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 20 input_dim: 24
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 1 kernel_size: 3 pad: %d } }
layer { name: "crop" type: "Crop" bottom: "conv" bottom: "data" top: "edges" %s }
"""


def test_a_crop_without_fields_begins_at_0_and_says_where_a_fork_would_begin(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(EDGES % (35, ""))
    with pytest.warns(UserWarning, match=r"'crop' \(Crop\): says no offset, which is 0.* offset: 34 offset: 34 \}"):
        net = load(path)
    image = torch.randn(1, 3, 20, 24)
    assert torch.equal(net({"data": image})["edges"], net.layers["conv"](image)[:, :, :20, :24])
    for pad, fields in ((35, "crop_param { axis: 2 offset: 0 }"), (1, "")):
        path.write_text(EDGES % (pad, fields))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load(path)


def test_snapshots_in_hdf5_take_no_more_than_a_network(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "w.caffemodel.h5"
    with h5py.File(path, "w") as file:  # claims of zeros that no file holds
        for number in range(9):
            file.create_dataset(f"data/a/{number}", (1 << 26,), "f4", chunks=(1 << 20,))
    with pytest.raises(BadFile, match=r"claims \d+ numbers: raise FULLYCONV_MAX_WEIGHTS"):
        read_weights(path)
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("data/a/0", (8, 8), "f4", chunks=(8, 8), compression="gzip")
        stored.id.write_direct_chunk((0, 0), zlib.compress(bytes(100 << 20), 9))
    with pytest.raises(BadFile, match="a chunk of a/0 unpacks to more than"):
        read_weights(path)
