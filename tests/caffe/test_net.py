from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv.caffe import Net, load
from fullyconv.caffe.wire import write_weights
from fullyconv.files import BadFile


def written(folder: Path, text: str) -> Path:
    path = folder / "net.prototxt"
    path.write_text(text)
    return path


DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4 dim: 9 dim: 8 } } }\n'


def layer(kind: str, fields: str = "", *, bottom: str = "data", top: str = "out") -> str:
    bottoms = " ".join(f'bottom: "{name}"' for name in bottom.split())
    return f'layer {{ name: "it" type: "{kind}" {bottoms} top: "{top}" {fields} }}\n'


def run(folder: Path, text: str, **blobs: torch.Tensor) -> torch.Tensor:
    return load(written(folder, DATA + text))(blobs or {"data": torch.randn(1, 4, 9, 8)})["out"]


OLD = """
name: "old"
input: "data" input_dim: 1 input_dim: 3 input_dim: 11 input_dim: 12
layers { bottom: "data" top: "conv" name: "conv" type: CONVOLUTION blobs_lr: 0 blobs_lr: 2 weight_decay: 1
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" std: 1 } } }
layers { bottom: "conv" top: "conv" name: "relu" type: RELU }
layers { bottom: "conv" top: "fc" name: "fc" type: INNER_PRODUCT
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } bias_filler { value: 0.5 } } }
layers { bottom: "fc" top: "prob" name: "prob" type: SOFTMAX }
"""


def test_the_old_form_in_place_layers_and_fillers(tmp_path: Path) -> None:
    net = load(written(tmp_path, OLD))
    assert isinstance(net, torch.nn.Module)
    assert net.inputs == {"data": (1, 3, 11, 12)}
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == {
        "layers.conv.weight": (4, 3, 3, 3),
        "layers.conv.bias": (4,),
        "layers.fc.weight": (5, 4 * 9 * 10),
        "layers.fc.bias": (5,),
    }
    assert not net.layers.conv.weight.requires_grad
    assert net.layers.conv.bias.requires_grad
    image = torch.randn(2, 3, 11, 12)
    conv = torch.relu(net.layers.conv(image))
    expected = torch.nn.functional.linear(conv.flatten(1), net.layers.fc.weight, net.layers.fc.bias).softmax(1)
    torch.testing.assert_close(net({"data": image}), {"prob": expected})
    assert (net.layers.fc.bias == 0.5).all()
    torch.testing.assert_close(copy.deepcopy(net)({"data": image}), {"prob": expected})
    with pytest.raises(ValueError, match=r"'fc' \(InnerProduct\).*feed the size that the net was made for"):
        net({"data": torch.randn(1, 3, 20, 12)})


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ("kernel_size: 3 pad: 1 stride: 2", {"kernel": 3, "padding": 1, "stride": 2}),
        ("kernel_h: 1 kernel_w: 4 pad_w: 2 stride_h: 2", {"kernel": (1, 4), "padding": (0, 2), "stride": (2, 1)}),
        ("kernel_size: 3 kernel_size: 2 dilation: 2", {"kernel": (3, 2), "dilation": 2}),
        ("kernel_size: 2 group: 2 bias_term: false", {"kernel": 2, "groups": 2, "bias": False}),
    ],
)
@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_convolutions_of_every_form(tmp_path: Path, kind: str, fields: str, options: dict[str, object]) -> None:
    net = load(written(tmp_path, DATA + layer(kind, f"convolution_param {{ num_output: 6 {fields} }}")))
    make = torch.nn.Conv2d if kind == "Convolution" else torch.nn.ConvTranspose2d
    twin = make(4, 6, options.pop("kernel"), **options)
    options["kernel"] = twin.kernel_size
    net.layers["it"].load_state_dict(twin.state_dict())
    image = torch.randn(2, 4, 10, 7)
    torch.testing.assert_close(net({"data": image})["out"], twin(image))


def test_a_bilinear_filler_upsamples(tmp_path: Path) -> None:
    fields = (
        'num_output: 4 group: 4 kernel_size: 4 stride: 2 pad: 1 bias_term: false weight_filler { type: "bilinear" }'
    )
    net = load(written(tmp_path, DATA + layer("Deconvolution", f"convolution_param {{ {fields} }}")))
    inside = net({"data": torch.ones(1, 4, 9, 8)})["out"][..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.ones_like(inside))


TRAINING = """
layer { name: "train" type: "Data" top: "data" top: "label" include { phase: TRAIN } data_param { batch_size: 2 } }
layer { name: "test" type: "Python" top: "data" top: "label" include { phase: TEST }
  python_param { module: "m" layer: "L" } }
layer { name: "score" type: "Convolution" bottom: "data" top: "score"
  convolution_param { num_output: 5 kernel_size: 1 } }
layer { name: "drop" type: "Dropout" bottom: "score" top: "score" include { phase: TRAIN } }
layer { name: "accuracy" type: "Accuracy" bottom: "score" bottom: "label" top: "accuracy" exclude { phase: TRAIN } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
  loss_param { normalize: false } }
"""


def test_phases_labels_and_losses(tmp_path: Path) -> None:
    path = written(tmp_path, TRAINING)
    net = load(path)
    assert [layer.name for layer in net.described] == ["score", "accuracy", "loss"]
    assert [layer.name for layer in load(path, phase="TRAIN").described] == ["score", "drop", "loss"]
    image, label = torch.randn(1, 3, 4, 6), torch.zeros(1, 1, 4, 6)
    assert net({"data": image}).keys() == {"score"}
    found = net({"data": image, "label": label})
    assert found.keys() == {"score", "accuracy", "loss"}
    assert found["loss"].item() == pytest.approx(24 * np.log(5), rel=1e-5)
    assert net.loss_weights == {"loss": 1}
    nameless = TRAINING.replace('top: "loss"', "loss_weight: 0.3")
    assert load(written(tmp_path, nameless))({"data": image, "label": label}).keys() == found.keys()
    assert load(written(tmp_path, nameless)).loss_weights == {"loss": 0.3}
    with pytest.raises(ValueError, match="'data' is missing: layer 'score'"):
        net({"label": label})
    with pytest.raises(ValueError, match="no input is called 'depth': the net has data, label"):
        net({"data": image, "depth": image})


def test_sizes_that_data_layers_leave_open(tmp_path: Path) -> None:
    matrix = layer("InnerProduct", "inner_product_param { num_output: 2 bias_filler { value: 3 } }")
    text = TRAINING + matrix
    net = load(written(tmp_path, text))  # the first picture decides
    assert net({"data": torch.randn(2, 3, 4, 6)})["out"].tolist() == [[3, 3]] * 2
    assert net.layers["it"].weight.shape == (2, 72)
    with pytest.raises(ValueError, match="feed the size that the net was made for"):
        net({"data": torch.randn(2, 3, 4, 5)})
    net = load(written(tmp_path, text), shapes={"data": (1, 1, 5, 4)})
    assert net.layers["it"].weight.shape == (2, 20)
    with pytest.raises(ValueError, match="no input is called picture"):
        load(written(tmp_path, TRAINING), shapes={"picture": (1, 1, 5, 4)})
    cropped = TRAINING.replace("python_param {", "transform_param { crop_size: 6 } python_param {")
    assert load(written(tmp_path, cropped)).inputs["data"] == (1, 3, 6, 6)
    write_weights(
        tmp_path / "w", "n", {"score": ("Convolution", [np.ones((5, 1, 1, 1), np.float32), np.ones(5, np.float32)])}
    )
    assert load(written(tmp_path, TRAINING), tmp_path / "w").inputs["data"][1] == 1


def test_the_other_layers(tmp_path: Path) -> None:
    image = torch.randn(1, 4, 9, 8)
    cases = {
        layer("Concat", bottom="data data"): torch.cat((image, image), 1),
        layer("Concat", "concat_param { concat_dim: 2 }", bottom="data data"): torch.cat((image, image), 2),
        layer("ReLU", "relu_param { negative_slope: 0.1 }"): torch.nn.functional.leaky_relu(image, 0.1),
        layer("Power", "power_param { scale: -1 shift: 2 }"): 2 - image,
        layer("Sigmoid"): image.sigmoid(),
        layer("TanH"): image.tanh(),
        layer("Flatten"): image.flatten(1),
        layer("Dropout"): image,
        layer("Scale", "scale_param { filler { value: 0.5 } }"): image / 2,
        layer("LRN", "lrn_param { local_size: 3 }"): torch.nn.LocalResponseNorm(3, 1.0, 0.75, 1)(image),
        layer("Pooling", "pooling_param { pool: AVE global_pooling: true }"): image.mean((2, 3), keepdim=True),
        layer("Split"): image,
    }
    for text, expected in cases.items():
        torch.testing.assert_close(run(tmp_path, text, data=image), expected)
    sliced = (
        'layer { name: "s" type: "Slice" bottom: "data" top: "a" top: "out" slice_param { axis: 1 slice_point: 1 } }'
    )
    silent = sliced + 'layer { name: "q" type: "Silence" bottom: "a" }'
    net = load(written(tmp_path, DATA + silent))
    assert net({"data": image}).keys() == {"out"}
    torch.testing.assert_close(net({"data": image})["out"], image[:, 1:])


FILLED = 'convolution_param { num_output: 1 kernel_size: 1 weight_filler { type: "no" } }'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (layer("ROIPooling"), r"net.prototxt:2: layer 'it' \(ROIPooling\): this type is not supported: detection"),
        (layer("Python"), r"layer 'it' \(Python\): this type is not supported: it runs Python code of its own"),
        (layer("Filter", bottom="data data"), r"'it' \(Filter\): this type is not supported: its result depends"),
        (layer("BatchReindex", bottom="data data"), r"'it' \(BatchReindex\): this type is not supported: its result"),
        (layer("LSTM", bottom="data data"), r"'it' \(LSTM\): this type is not supported: recurrent layers"),
        (layer("MultiStageMeanfield", bottom="data data"), r"refine its scores with fullyconv.crf.dense_crf"),
        (layer("Sigmod"), "did you mean Sigmoid"),
        (layer("ReLU", "\npoling_param { }"), "poling_param is no block of Caffe's: it takes relu_param"),
        (layer("Pooling", "pooling_param {\n kernel_size: 2 \n wrong: 1 }"), r"txt:4: layer 'it' \(Pooling\).*'wrong'"),
        (layer("Pooling", "wrong: 1"), r"layer 'it' \(Pooling\) has a field 'wrong'"),
        (layer("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 pad: 1 }"), "only MAX and AVE have one"),
        (layer("Pooling", "pooling_param { pool: AVE kernel_size: 2 }", top='out" top: "mask'), "places of values"),
        (layer("Pooling", "pooling_param { kernel_size: 2 ceil_mode: false round_mode: CEIL }"), "give one of them"),
        (layer("Pooling", "pooling_param { pool: 3 kernel_size: 2 }"), "pool of .* is 3: write one of MAX, AVE"),
        (layer("Pooling"), "kernel_size is given 0 times"),
        (layer("Pooling", "pooling_param { kernel_size: 2 pad: 2 }"), "smaller than the kernel"),
        (layer("Pooling", "pooling_param { kernel_size: 20 }"), "smaller than the window"),
        (layer("Pooling", "pooling_param { kernel_size: 2 global_pooling: true }"), "global pooling has none"),
        (layer("Convolution", "convolution_param { kernel_size: 1 }"), "has no num_output"),
        (layer("Convolution", "convolution_param { num_output: 0 kernel_size: 1 }"), "num_output is 0"),
        (layer("Convolution", "convolution_param { num_output: 4 kernel_size: 1 group: 3 }"), "3 groups"),
        (layer("Convolution", "convolution_param { num_output: 4 kernel_size: 1 kernel_h: 1 }"), "both"),
        (layer("Convolution", "convolution_param { num_output: 4 kernel_size: 30 }"), r"'it' \(Convolution\)"),
        (layer("Convolution", "convolution_param { num_output: 9 kernel_size: 2 pad: 9999999 }"), "over 2147483648"),
        (layer("Convolution", "convolution_param { num_output: 2147483647 kernel_size: 2147483647 }"), "it"),
        (layer("Convolution", "convolution_param { num_output: 9999999 kernel_size: 8 }"), "over 280000000 weights"),
        (layer("Convolution", FILLED), "filler 'no'"),
        (layer("LRN", "lrn_param { local_size: 4 }"), "it is odd"),
        (layer("Eltwise", "eltwise_param { coeff: 1 }", bottom="data data"), "2 bottoms with 1 coefficients"),
        (layer("Eltwise"), "1 bottoms: it takes 2 to any number"),
        (layer("Concat", "concat_param { axis: 4 }"), "axis 4 of a blob of 4 axes"),
        (layer("Concat", "concat_param { axis: 1 concat_dim: 1 }"), "both names"),
        (layer("ReLU") + layer("TanH"), "its top 'out' is there already"),
        (layer("Slice", top='a" top: "a'), "its top 'a' is there already"),
        (layer("Tile", "tile_param { tiles: 1000000000 }"), "gives over 2147483648 values"),
        (layer("InnerProduct", "inner_product_param { num_output: 1000000000 }"), "InnerProduct.: a matrix of 288 x"),
        (layer("ReLU", bottom="absent"), "its bottom 'absent' is no top of an earlier layer"),
        (layer("Dropout", "dropout_param { dropout_ratio: 1 }"), "dropout_ratio is 1.0"),
        (layer("ReLU", "include { phase: TEST } exclude { phase: TRAIN }"), "both include and exclude"),
        (layer("Convolution", 'param { name: "w" } convolution_param { num_output: 2 kernel_size: 1 }')
         + layer("Convolution", 'param { name: "w" } convolution_param { num_output: 3 kernel_size: 1 }', top="other"),
         "shares the weights 'w' of layer 'it' .Convolution., which have another shape"),
        ('layers { layer { name: "x" } }', "type '' of the oldest form: write one of accuracy"),
        ("layers { type: NEW }", "type of layer '.' .NEW. is NEW: write one of ACCURACY"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadFile, match=message):
        load(written(tmp_path, DATA + text))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, DATA + layer("Convolution", "convolution_param { num_output: 2 kernel_size: 1 }"))
    right = [np.ones((2, 4, 1, 1), np.float32), np.ones(2, np.float32)]

    def refuse(blobs: list[np.ndarray], message: str, name: str = "it") -> None:
        write_weights(tmp_path / "w", "n", {name: ("Convolution", blobs)})
        with pytest.raises(BadFile, match=message):
            load(path, tmp_path / "w")

    refuse(right, r"layer 'it' \(Convolution\) has no weights here", name="other")
    refuse(right[:1], "has 1 blobs here, it needs 2")
    refuse([right[0].reshape(4, 2, 1, 1), right[1]], r"its weight is \(4, 2, 1, 1\) here, it needs \(2, 4, 1, 1\)")
    refuse([right[0].repeat(2, 1), right[1]], "it needs")
    write_weights(tmp_path / "w", "n", {"it": ("", [right[0], right[1].reshape(1, 1, 1, 2)]), "more": ("", right)})
    assert isinstance(load(path, tmp_path / "w"), Net)


def test_weights_may_share_a_name_across_phases(tmp_path: Path) -> None:
    phases = [layer("ReLU", f'param {{ name: "w" }} include {{ phase: {phase} }}') for phase in ("TRAIN", "TEST")]
    image = torch.randn(1, 4, 9, 8)
    torch.testing.assert_close(run(tmp_path, "".join(phases), data=image), image.relu())


def test_names_that_modules_cannot_have(tmp_path: Path) -> None:
    text = "".join(
        f'layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "{name}" '
        "convolution_param { num_output: 1 kernel_size: 1 } }\n"
        for name in ("a.b", "a_b", "forward", "type", "inc/3x3")
    )
    net = load(written(tmp_path, DATA + text))
    assert len(net({"data": torch.ones(1, 4, 2, 2)})) == 5
    assert len(net.state_dict()) == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('layer { name: "a" type: "InnerProduct" top: "a" inner_product_param { num_output: 2 } }', "0 bottoms"),
        ('input: "x" input_shape { dim: 4 } layer { name: "a" type: "Flatten" bottom: "x" top: "a" }', "axis 1 of"),
        ('input: "x" input_shape { dim: 4 } layer { name: "a" type: "LRN" bottom: "x" top: "a" }', "does not take"),
        ('input: "x" input_shape { dim: 4 } layer { name: "a" type: "Pooling" bottom: "x" top: "a" '
         'pooling_param { kernel_size: 2 } }', "does not take"),
        ('input: "x" input_shape { dim: 1 dim: 2 dim: 9 dim: 9 } layer { name: "a" type: "Convolution" bottom: "x" '
         'top: "a" '
         'convolution_param { num_output: 20000000 kernel_size: 3 } }', "FULLYCONV_MAX_WEIGHTS"),
    ],
)  # fmt: skip
def test_sizes_and_axes_that_do_not_fit_are_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(BadFile, match=words):
        load(tmp_path / "net.prototxt")
