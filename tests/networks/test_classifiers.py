"""FCNs on classifiers from elsewhere: one contract for every family."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fullyconv
from fullyconv import build, convolutionize, from_classifier, save
from fullyconv.checkpoint import load_network
from fullyconv.geometry import axis_map
from fullyconv.networks import CLASSIFIERS, architecture_of
from fullyconv.networks.dense import to_atrous
from fullyconv.networks.trunks.external import build_classifier, is_external, library, origins, usual_example
from fullyconv.tiles import plan_axis
from fullyconv.trace import NotFollowed, input_channels

# Small members of as many families, with what is derived for rows: strides of the taps, offsets, margin.
FAMILIES = {
    "timm:resnet18": ((32, 16, 8), [1, 1, 7], 0),
    "timm:convnext_atto": ((32, 16, 8), [1, 1, 20], 16),
    "timm:mobilenetv3_small_050": ((32, 16, 8), [1, 1, 7], 0),
    "timm:tf_efficientnet_b0": ((32, 16, 8), [0, 0, 16], 16),
    "timm:regnety_002": ((32, 16, 8), [1, 1, 7], 0),
    "timm:hrnet_w18_small": ((32, 16, 8), [1, 1, 17], 1),
    "timm:repvgg_a0": ((32, 16, 8), [1, 1, 7], 0),
    "timm:dla46_c": ((32, 16, 8), [1, 1, 5], 0),
    "timm:convmixer_768_32": ((7,), None, None),
    "torchvision:squeezenet1_1": ((16, 8), None, None),
    "torchvision:shufflenet_v2_x0_5": ((32, 16, 8), [1, 1, 7], 0),
    "torchvision:mnasnet0_5": ((32, 16, 8), [1, 1, 7], 0),
}


# Others do what one of the rest does, too: grouped convolutions, branches that are folded, aggregation, narrow blocks.
LONG = ("timm:regnety_002", "timm:repvgg_a0", "timm:dla46_c", "torchvision:mnasnet0_5")


def families(*names: str) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in names]


@pytest.fixture(scope="module", params=families(*FAMILIES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def net(name: str) -> nn.Module:
    torch.manual_seed(0)
    made = build_classifier(name).eval()
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return made


@pytest.fixture(scope="module")
def fcn(name: str, net: nn.Module) -> fullyconv.FCN:
    made = from_classifier(net, 5, min(FAMILIES[name][0]), origin=name).eval()
    for head in made.heads:
        nn.init.normal_(head.weight)
    return made


def test_the_dense_classifier_agrees_with_the_classifier(net: nn.Module) -> None:
    example = usual_example(net) or (3, 224, 224)
    image = torch.randn(1, *example)
    with torch.inference_mode():
        scores, found = net(image), convolutionize(net, example)(image).mean((2, 3))
    assert (found - scores).abs().max() <= 1e-4 * scores.abs().max()


def test_taps_and_offsets_are_derived(name: str, fcn: fullyconv.FCN) -> None:
    strides, offsets, margin = FAMILIES[name]
    rows = fcn.plans[0]
    assert tuple(axis_map(path).scale for path in rows.taps) == strides
    assert len(fcn.trunk.tapped) == len(strides)
    if offsets is not None:
        assert ([stage.offset for stage in rows.stages], rows.margin) == (offsets, margin)


@pytest.mark.parametrize("size", [(97, 131), (1, 1), (64, 33)])
def test_any_size_in_is_the_size_out(fcn: fullyconv.FCN, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        assert fcn(torch.randn(1, 3, *size)).shape == (1, 5, *size)


def test_it_trains_and_reloads_identically(name: str, fcn: fullyconv.FCN, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(fcn.parameters(), 1e-6)
    fcn.train()
    fcn(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in fcn.heads)
    optimizer.step()
    fcn.eval()
    save(fcn, tmp_path)
    again, config = load_network(tmp_path)
    assert config.architecture.name == f"fcn{min(FAMILIES[name][0])}s-{name}"
    image = torch.randn(1, 3, 50, 61)
    with torch.inference_mode():
        assert torch.equal(again(image), fcn(image))


LOCAL = ["timm:resnet18", "timm:convnext_atto", "timm:dla46_c", "timm:hrnet_w18_small", "torchvision:mnasnet0_5"]


@pytest.mark.parametrize("name", families(*LOCAL), indirect=True)
def test_a_pixel_depends_on_no_more_than_its_reach(fcn: fullyconv.FCN) -> None:
    assert not [remark for remark in fcn.remarks if remark.kind == "global"]
    reach = fcn.plans[0].reach
    place = reach + 40
    image = torch.rand(1, 3, 2 * place, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(fcn(image)[0, :, place].square().sum(), image)
    touched = gradient[0].abs().amax((0, 2)).nonzero()[:, 0]
    assert place - reach <= touched.min()
    assert touched.max() <= place + reach
    assert touched.min() < place < touched.max()


@pytest.mark.parametrize("name", families(*LOCAL), indirect=True)
def test_a_tile_gives_what_the_whole_image_gives(fcn: fullyconv.FCN) -> None:
    plan = fcn.plans[0]
    length = 2 * plan.reach + 6 * plan.stride
    span = plan_axis(length, core=plan.stride, reach=plan.reach, align=plan.stride)[3]
    image = torch.rand(1, 3, length, 32)
    with torch.inference_mode():
        whole = fcn(image)[:, :, span.core_start : span.core_stop]
        tile = fcn(image[:, :, span.start : span.stop])
    core = tile[:, :, span.core_start - span.start : span.core_stop - span.start]
    torch.testing.assert_close(core, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


def test_branches_side_by_side_are_tapped_at_their_ends() -> None:
    net = from_classifier("timm:hrnet_w18_small", 3, 4)
    assert [axis_map(path).scale for path in net.plans[0].taps] == [32, 16, 8, 4]
    assert net.trunk.tapped[0].startswith("incre_modules.0")


def test_taps_can_be_named(tmp_path: Path) -> None:
    net = from_classifier("timm:resnet18", 3, taps=("layer1", "layer3")).eval()
    assert net.trunk.tapped == ("layer1.1.act2", "layer3.1.act2")
    assert [axis_map(path).scale for path in net.plans[0].taps] == [16, 4]
    save(net, tmp_path)
    again, config = load_network(tmp_path)
    assert config.architecture.taps == ("layer1", "layer3")
    image = torch.randn(1, 3, 40, 50)
    with torch.inference_mode():
        assert torch.equal(again(image), net(image))


@pytest.mark.parametrize(("stride", "out"), [(8, None), (32, None), (8, (2, 3)), (32, (4,))])
def test_a_network_of_features_is_tapped_at_what_it_gives(stride: int, out: tuple[int, ...] | None) -> None:
    named = {} if out is None else {"out_indices": out}
    features = library("timm").create_model("resnet18", features_only=True, **named).eval()
    fcn = from_classifier(features, 3, stride)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        found, given = fcn.trunk(image), features(image)
        assert fcn(image).shape == (1, 3, 64, 96)
    strides = [stride for stride in (2, 4, 8, 16, 32) if out is None or {8: 2, 16: 3, 32: 4}.get(stride) in out]
    wanted = [features for each, features in zip(strides, given, strict=True) if each >= stride]
    assert len(found) == len(wanted) == len(fcn.heads)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(NotFollowed, match=r"maps, no scores"):
        convolutionize(features)


@pytest.mark.slow
def test_a_convolutional_trunk_below_attention_pooling_is_taken() -> None:
    net = library("timm").create_model("resnet50_clip").eval()
    fcn = from_classifier(net, 3, 8)
    assert fcn.trunk.channels == (512, 1024, 2048)
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(fcn.trunk(image)[-1], net.forward_features(image), rtol=1e-3, atol=1e-3)
    with pytest.raises(NotFollowed, match="adds tokens to the positions"):
        convolutionize(net)


def test_fully_connected_layers_belong_to_the_trunk() -> None:
    """As the reference casts VGG: fc6 and fc7 as convolutions, the scores cut off."""

    net = SmallVGG()
    fcn = from_classifier(net, 4, 4, example=(3, 32, 32))
    assert fcn.trunk.channels == (8, 16)
    conv = fcn.trunk.classifier.fc6
    assert (tuple(conv.weight.shape), conv.padding) == ((16, 8, 4, 4), (2, 2))
    assert torch.equal(conv.weight.flatten(1), net.fc6.weight)
    assert not hasattr(fcn.trunk.classifier, "fc8")
    assert fcn(torch.randn(1, 3, 19, 45)).shape == (1, 4, 19, 45)


class SmallVGG(nn.Module):
    """Convolutions, pools, fully connected layers; can be built without arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.fc6, self.drop, self.fc8 = nn.Linear(8 * 16, 16), nn.Dropout(), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc8(self.drop(torch.relu(self.fc6(self.features(x).flatten(1)))))


def test_a_convolution_that_scores_positions_is_cut_off_too() -> None:
    net = from_classifier("torchvision:squeezenet1_1", 3, 16)
    assert net.trunk.channels == (512,)
    assert not [name for name, _ in net.trunk.named_parameters() if "classifier.classifier" in name]


@pytest.mark.parametrize("name", [pytest.param("vgg16", marks=pytest.mark.slow), "googlenet", "lenet", "caffenet"])
def test_our_own_classifiers_go_through_the_same_door(name: str) -> None:
    torch.manual_seed(0)
    net = build(name).eval()
    example = (input_channels(net), CLASSIFIERS[name].side, CLASSIFIERS[name].side)
    image = torch.randn(1, *example)
    with torch.inference_mode():
        torch.testing.assert_close(convolutionize(net, example)(image).mean((2, 3)), net(image))


def test_the_graph_of_an_fcn_serves_a_trous_too() -> None:
    torch.manual_seed(0)
    net = from_classifier("timm:resnet18", 3, 32).eval()
    nn.init.normal_(net.heads[0].weight)
    image = torch.randn(1, 3, 35, 33)
    with torch.inference_mode():
        dense, strided = to_atrous(net)(image), net.heads[0](net.trunk(image)[-1])
    torch.testing.assert_close(dense[..., ::32, ::32], strided, rtol=1e-4, atol=1e-4)


def test_a_trunk_is_widened_to_more_channels(tmp_path: Path) -> None:
    first = build_classifier("timm:resnet18")
    net = from_classifier(first, 3, 8, channels=7).eval()
    weight = net.trunk.classifier.conv1.weight
    assert torch.equal(weight[:, :3], first.conv1.weight)
    torch.testing.assert_close(weight[:, 3:], first.conv1.weight.mean(1, keepdim=True).expand(-1, 4, -1, -1))
    save(net, tmp_path)
    image = torch.randn(1, 7, 30, 41)
    with torch.inference_mode():
        assert torch.equal(load_network(tmp_path)[0](image), net(image))


def test_a_function_of_the_users_is_named_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    net = build("fcn2s-my_nets:build", 3).eval()
    save(net, tmp_path / "model")
    image = torch.randn(1, 3, 9, 12)
    with torch.inference_mode():
        assert torch.equal(fullyconv.load(tmp_path / "model", trust="my_nets:build").network(image), net(image))
    sys.modules.pop("my_nets")


def test_the_origin_is_found_for_models_that_say_what_they_are() -> None:
    net = from_classifier(library("timm").create_model("resnet18", num_classes=7), 3, 16)
    assert architecture_of(net).name == "fcn16s-timm:resnet18"
    noisy = library("timm").create_model("convnext_atto", drop_path_rate=0.1, drop_rate=0.2)
    assert architecture_of(from_classifier(noisy, 3, 16)).name == "fcn16s-timm:convnext_atto"
    with pytest.raises(ValueError, match="how this FCN was built is not known"):
        architecture_of(from_classifier(library("timm").create_model("resnet18", act_layer="gelu"), 3, 16))
    other = from_classifier(build_classifier("torchvision:mobilenet_v2"), 3, 32)
    assert architecture_of(other).name == "fcn32s-torchvision:mobilenet_v2"


def test_without_an_origin_saving_says_what_to_give(tmp_path: Path) -> None:
    net = from_classifier(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 2, 2)
    with pytest.raises(ValueError, match=r"origin='my_package\.nets:build'"):
        save(net, tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:resnet999", "timm has no model 'resnet999'"),
        ("torchvision:resnet999", "torchvision has no classifier 'resnet999'"),
        ("os:getcwd", "gives a str, not an nn.Module"),
        ("no_such_package.nets:build", "put its package on PYTHONPATH"),
        ("fullyconv.types:nothing", "has no 'nothing'"),
        ("fullyconv.hsi.scene:Georeference", "missing"),
        ("resnet18", "names no classifier"),
    ],
)
def test_names_that_lead_nowhere_are_errors(name: str, words: str) -> None:
    with pytest.raises((ValueError, ImportError, TypeError), match=words):
        build_classifier(name)


def test_a_stride_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(ValueError, match="no map at stride 3: it has maps at strides 2, 4, 8, 16, 32"):
        from_classifier("timm:resnet18", 3, 3)


def test_which_names_come_from_elsewhere() -> None:
    assert is_external("timm:convnext_tiny.fb_in22k")
    assert is_external("my_package.nets:build")
    assert not is_external("resnet18")
    assert not is_external("C:/nets:build")


def test_a_classifier_is_recorded_once_to_be_converted() -> None:
    runs: list[bool] = []  # without contents, in a recording, or on pictures, to try the conversion

    class Counted(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            runs.append(x.is_meta)
            return super().forward(x)

    net = Counted(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.Flatten(), nn.Linear(8 * 56 * 56, 5)
    )
    from_classifier(net, classes=2, stride=2)
    assert (sum(runs), len(runs)) == (1, 3)
    convolutionize(net)
    assert (sum(runs), len(runs)) == (2, 6)


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "vgg16_bn", "mobilenet_v3_small"])
def test_the_name_that_is_tried_first_is_the_right_one(name: str) -> None:
    """Each name that is tried costs the time to build a network."""
    models = library("torchvision").models
    with torch.device("meta"):
        assert next(origins(models.get_model(name))) == f"torchvision:{name}"
