"""Which layers are there, what data layers say about sizes, weights under one name, and files of older forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv.caffe import load
from fullyconv.caffe.net import Net
from fullyconv.caffe.wire import write_weights
from fullyconv.files import BadFile

CONV = (
    'layer { name: "%s" type: "Convolution" bottom: "data" top: "%s" %s '
    "convolution_param { num_output: 2 kernel_size: 1 } }"
)
DATA = 'layer { name: "data" type: "Data" top: "data" top: "label" %s }'


def net(folder: Path, *layers: str, **options: object) -> Net:
    path = folder / "net.prototxt"
    path.write_text("\n".join(layers))
    return load(path, **options)


def names(found: Net) -> list[str]:
    return [layer.name for layer in found.described]


def test_layers_of_stages_and_levels(tmp_path: Path) -> None:
    layers = [
        DATA % "",
        CONV % ("a", "a", 'include { stage: "fit" stage: "gpu" }'),
        CONV % ("b", "b", 'exclude { stage: "fit" } exclude { not_stage: "quiet" phase: TRAIN }'),
        CONV % ("c", "c", "include { min_level: 2 max_level: 3 }"),
        CONV % ("d", "d", 'include { phase: 0 } include { not_stage: "fit" level: 0 }'.replace(" level: 0", "")),
    ]
    assert names(net(tmp_path, *layers)) == ["b", "d"]
    assert names(net(tmp_path, *layers, stage="fit")) == []
    assert names(net(tmp_path, *layers, stage=("fit", "gpu"))) == ["a"]
    assert names(net(tmp_path, *layers, phase="TRAIN", stage="fit")) == ["d"]
    assert names(net(tmp_path, *layers, phase="TRAIN")) == ["d"]
    assert names(net(tmp_path, *layers, phase="TRAIN", stage="quiet")) == ["b", "d"]
    assert names(net(tmp_path, *layers, level=2)) == ["b", "c", "d"]
    assert names(net(tmp_path, 'state { level: 3 stage: "fit" }', *layers)) == ["c"]


def test_data_of_another_state_is_fed_all_the_same(tmp_path: Path) -> None:
    fit = DATA % 'include { stage: "fit" } transform_param { crop_size: 7 } data_param { batch_size: 3 }'
    found = net(tmp_path, fit, CONV % ("a", "a", ""))
    assert found.inputs["data"] == (3, 3, 7, 7)
    only = net(tmp_path, DATA % "include { phase: TRAIN }", CONV % ("a", "a", ""))
    assert only({"data": torch.zeros(1, 3, 2, 2)})["a"].shape == (1, 2, 2, 2)
    with pytest.raises(BadFile, match=r"'e'.* bottom 'a' is no top.*layer 'a' .* line 2 gives it in stage 'fit'"):
        net(
            tmp_path, DATA % "", CONV % ("a", "a", 'include { stage: "fit" }'),
            'layer { name: "e" type: "ReLU" bottom: "a" top: "e" }',
        )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "shapes"),
    [
        ('type: "DummyData" dummy_data_param { shape { dim: 2 dim: 3 dim: 5 dim: 5 } shape { dim: 2 } }',
         [(2, 3, 5, 5), (2,)]),
        ('type: "DummyData" dummy_data_param { num: 2 num: 4 channels: 3 height: 5 width: 6 }',
         [(2, 3, 5, 6), (4, 3, 5, 6)]),
        ('type: "MemoryData" memory_data_param { batch_size: 4 channels: 1 height: 6 width: 7 }', [(4, 1, 6, 7), (4,)]),
        ('type: "Data" transform_param { crop_size: 9 force_gray: true } data_param { batch_size: 4 }', [(4, 1, 9, 9)]),
        ('type: "Data" transform_param { crop_size: 9 mean_value: [1, 2, 3, 4] }', [(1, 4, 9, 9)]),
        ('type: "ImageData" image_data_param { new_height: 4 new_width: 5 is_color: false batch_size: 2 }',
         [(2, 1, 4, 5)]),
        ('type: "DenseImageData" dense_image_data_param { new_height: 4 new_width: 5 batch_size: 2 }',
         [(2, 3, 4, 5), (2, 1, 4, 5)]),
        ('type: "ImageSegData" transform_param { crop_size: 8 } image_data_param { batch_size: 2 label_type: PIXEL }',
         [(2, 3, 8, 8), (2, 1, 8, 8)]),
    ],
)  # fmt: skip
def test_data_layers_say_sizes(tmp_path: Path, source: str, shapes: list[tuple[int, ...]]) -> None:
    found = net(tmp_path, f'layer {{ name: "d" top: "data" top: "label" {source} }}', CONV % ("a", "a", ""))
    assert [found.inputs[name] for name in ("data", "label")][: len(shapes)] == shapes
    assert found.layers["a"].weight.shape[1] == shapes[0][1]


def test_what_is_made_of_unknown_sizes_waits_for_what_is_fed(tmp_path: Path) -> None:
    found = net(
        tmp_path,
        'layer { name: "d" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "x" batch_size: 2 } }',
        'layer { name: "cut" type: "Slice" bottom: "label" top: "a" top: "b" slice_param { slice_point: 4 } }',
        'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 4 } }',
        'layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "a" top: "loss" }',
        'layer { name: "soft" type: "SoftmaxWithLoss" bottom: "fc" bottom: "b" top: "soft" top: "prob" }',
        'layer { name: "hit" type: "Accuracy" bottom: "prob" bottom: "b" top: "hit" accuracy_param { top_k: 4 } }',
    )
    out = found({"data": torch.randn(2, 7), "label": torch.tensor([[0, 0, 0, 0, 2], [2.0, 0, 0, 0, 3]])})
    assert out["loss"].item() == pytest.approx(1)
    assert found({"data": torch.randn(1, 7)}).keys() == {"fc"}
    with pytest.raises(ValueError, match="'data' is missing: layer 'fc'"):
        found({"label": torch.randn(1, 5)})
    assert out["soft"].item() == pytest.approx(float(np.log(4)), rel=1e-6)
    assert out["hit"].item() == 1


def test_weights_of_one_name_are_one(tmp_path: Path) -> None:
    filler = 'weight_filler { type: "gaussian" }'
    layers = [
        'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }',
        *((CONV % (name, name, 'param { name: "w" } param { name: "b" }')).replace("size: 1", f"size: 1 {filler}")
          for name in ("one", "two")),
    ]  # fmt: skip
    found = net(tmp_path, *layers)
    assert found.layers["one"].weight is found.layers["two"].weight
    assert len(list(found.parameters())) == 2
    out = found({"data": torch.randn(1, 2, 4, 4)})
    assert torch.equal(out["one"], out["two"])
    weights = [np.full((2, 2, 1, 1), 3, np.float32), np.ones(2, np.float32)]
    write_weights(tmp_path / "w", "n", {"one": ("Convolution", weights)})
    taken = load(tmp_path / "net.prototxt", tmp_path / "w")
    assert taken.layers["two"].weight is taken.layers["one"].weight
    assert taken.layers["two"].weight.sum().item() == 12


def test_twins_share_their_weights_over_a_pair_of_pictures(tmp_path: Path) -> None:
    one = CONV % ("one", "one", 'param { name: "w" } param { name: "b" }')
    two = (CONV % ("two", "two", 'param { name: "w" } param { name: "b" }')).replace(
        'bottom: "data"', 'bottom: "data_p"'
    )
    found = net(
        tmp_path,
        'layer { name: "pair" type: "Data" top: "pair" top: "sim" data_param { source: "x" batch_size: 64 } }',
        'layer { name: "cut" type: "Slice" bottom: "pair" top: "data" top: "data_p" slice_param { slice_dim: 1 '
        "slice_point: 1 } }",
        one,
        two,
        'layer { name: "loss" type: "ContrastiveLoss" bottom: "one" bottom: "two" bottom: "sim" top: "loss" }',
    )
    assert found.layers["one"].weight.shape == (2, 1, 1, 1)
    pair = torch.randn(1, 1, 3, 3).repeat(2, 2, 1, 1)
    assert found({"pair": pair, "sim": torch.ones(2)})["loss"].item() == 0


PAIR = 'layer { name: "pair" type: "Data" top: "data" top: "other" data_param { source: "x" } }'
MATRIX = (
    'layer { name: "%s" type: "InnerProduct" bottom: "%s" top: "%s" param { name: "w" lr_mult: %d } '
    'inner_product_param { num_output: 3 bias_term: false weight_filler { type: "xavier" } } }'
)


def test_matrices_over_pictures_of_unknown_size_are_one_by_name(tmp_path: Path) -> None:
    """The first blob makes them; a caffemodel does before, from the weights of either."""
    layers = [PAIR, MATRIX % ("one", "data", "one", 1), MATRIX % ("two", "other", "two", 1)]
    pair = {"data": torch.randn(2, 3, 4, 5), "other": torch.randn(2, 3, 4, 5)}
    found = net(tmp_path, *layers)
    tops, weight = found(pair), found.layers["one"].weight
    assert weight is found.layers["two"].weight
    assert weight.requires_grad
    for name, blob in zip(("one", "two"), pair.values(), strict=True):
        torch.testing.assert_close(tops[name], blob.flatten(1) @ weight.T)
    write_weights(tmp_path / "w", "n", {"one": ("InnerProduct", [weight.detach().numpy()])})
    again = load(tmp_path / "net.prototxt", tmp_path / "w")
    assert again.layers["one"].weight is again.layers["two"].weight
    assert torch.equal(again(pair)["two"], tops["two"])
    frozen = net(tmp_path, PAIR, MATRIX % ("one", "data", "one", 0), 'layer { type: "Silence" bottom: "other" }')
    frozen(pair)
    assert not frozen.layers["one"].weight.requires_grad
    layers[2] = layers[2].replace("num_output: 3", "num_output: 4")
    with pytest.raises(BadFile, match=r"'two'.* shares the weights 'w' of layer 'one'.* another shape"):
        net(tmp_path, *layers)


def test_weights_say_the_channels_of_pictures_and_not_their_size(tmp_path: Path) -> None:
    layers = [
        PAIR,
        CONV % ("conv", "conv", ""),
        (MATRIX % ("one", "conv", "one", 1)),
        'layer { type: "Silence" bottom: "other" }',
    ]
    grey = torch.randn(2, 1, 4, 5)
    weights = [np.ones((2, 1, 1, 1), np.float32), np.zeros(2, np.float32)]
    write_weights(tmp_path / "w", "n", {"conv": ("Convolution", weights),
                                        "one": ("InnerProduct", [np.ones((3, 40), np.float32)])})  # fmt: skip
    with pytest.raises(
        ValueError, match=r"the file does not say the size of 'data': .*shapes=\{'data': \(2, 1, 4, 5\)"
    ):
        net(tmp_path, *layers)({"data": grey})
    found = load(tmp_path / "net.prototxt", tmp_path / "w")({"data": grey})["one"]
    torch.testing.assert_close(found, 2 * grey.sum((1, 2, 3))[:, None].expand(2, 3))


def test_a_layer_does_the_same_to_each_of_several_bottoms(tmp_path: Path) -> None:
    layers = ['layer { name: "in" type: "Input" top: "data" top: "other" input_param { shape { dim: [1, 3, 2, 2] } } }']
    found = net(tmp_path, *layers, (CONV % ("a", "a", 'bottom: "other" top: "b"')))
    pair = {"data": torch.randn(1, 3, 2, 2), "other": torch.randn(1, 3, 2, 2)}
    out, conv = found(pair), found.layers["a"]
    assert torch.equal(out["a"], conv(pair["data"]))
    assert torch.equal(out["b"], conv(pair["other"]))


def test_old_layers_by_number_and_of_the_oldest_form(tmp_path: Path) -> None:
    old = net(tmp_path, 'input: "data" input_dim: [1, 3, 4, 4] layers { name: "a" type: 4 bottom: "data" top: "a" '
              'param: "w" blobs_lr: 0 convolution_param { num_output: 2 kernel_size: 1 } }')  # fmt: skip
    assert [(layer.kind, layer.params[0].name, layer.params[0].lr_mult) for layer in old.described] == [
        ("Convolution", "w", 0)
    ]
    oldest = net(
        tmp_path,
        """
        input: "data" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8
        layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "data" top: "pad" }
        layers { layer { name: "conv" type: "conv" num_output: 4 kernelsize: 5 stride: 2 biasterm: false
                 weight_filler { type: "gaussian" std: 0.1 } blobs_lr: 3 } bottom: "pad" top: "conv" }
        layers { layer { name: "relu" type: "relu" } bottom: "conv" top: "conv" }
        layers { layer { name: "pool" type: "pool" pool: MAX kernelsize: 2 stride: 2 } bottom: "conv" top: "pool" }
        layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.4 } bottom: "pool" top: "pool" }
        layers { layer { name: "fc" type: "innerproduct" num_output: 3 } bottom: "pool" top: "fc" }
        layers { layer { name: "prob" type: "softmax" } bottom: "fc" top: "prob" }
    """,
    )
    conv = oldest.layers["conv"]
    assert (conv.padding, conv.kernel_size, conv.bias, oldest.described[0].params[0].lr_mult) == (
        (2, 2),
        (5, 5),
        None,
        3,
    )
    assert oldest({"data": torch.randn(2, 3, 8, 8)})["prob"].shape == (2, 3)
    with pytest.raises(BadFile, match="a relu layer with num_output"):
        net(tmp_path, 'layers { layer { name: "r" type: "relu" num_output: 3 } bottom: "x" top: "y" }')
