"""The networks of the papers, against the fact sheet (section 1.5 where no other is named)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fullyconv import build, save
from fullyconv.checkpoint import load_network
from fullyconv.geometry import axis_map, size
from fullyconv.networks import CLASSIFIERS, architecture_of, network_names
from fullyconv.networks.classifier import Classifier
from fullyconv.networks.fcn import FCN
from fullyconv.networks.fusion import LateFusion
from fullyconv.networks.heads import ManyHeads
from fullyconv.networks.reference import REFERENCES, RELEASED
from fullyconv.networks.trunks.vgg import VGG16

LEARNABLE = {
    "voc-fcn32s": 134_346_581,
    "voc-fcn16s": 134_357_354,
    "voc-fcn8s": 134_362_751,
    "voc-fcn8s-atonce": 134_362_751,
    "voc-fcn-alexnet": 56_954_261,
    "pascalcontext-fcn32s": 134_506_364,
    "pascalcontext-fcn16s": 134_537_144,
    "pascalcontext-fcn8s": 134_552_564,
    "siftflow-fcn32s": 134_408_036,
    "siftflow-fcn16s": 134_426_504,
    "siftflow-fcn8s": 134_435_756,
    "nyud-fcn32s-color": 134_424_424,
    "nyud-fcn32s-color-d": 134_425_000,
    "nyud-fcn32s-hha": 134_424_424,
    "nyud-fcn32s-color-hha": 268_848_848,
    "voc-fcn-googlenet": 5_995_077,  # section 4.2
    "voc-fcn32s-fixed": 134_346_581,
    "voc-fcn16s-max": 134_357_354,
    "voc-fcn8s-max": 134_362_751,
    "voc-fcn-pool5": 14_714_688 + 512 * 21 + 21,  # the convolutions, and a score of the last map
    "voc-fcn-pool4": 7_635_264 + 512 * 21 + 21,
    "voc-fcn-pool3": 1_735_488 + 256 * 21 + 21,
}
KERNELS_AND_CROPS = {  # kernel, factor, crop of the upsampled map (negative: of the skip's)
    0: [(64, 32, 19)],
    1: [(4, 2, -5), (32, 16, 27)],
    2: [(4, 2, -5), (4, 2, -9), (16, 8, 31)],
}


def meta(name: str) -> FCN:
    with torch.device("meta"):
        return build(name)


def count(net: nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad or not trained)


@pytest.mark.parametrize("name", LEARNABLE)
def test_parameter_counts(name: str) -> None:
    assert count(meta(name)) == LEARNABLE[name]


def test_the_fifteen_of_the_release_are_there() -> None:
    assert set(RELEASED) == set(list(LEARNABLE)[:15])
    assert len(RELEASED) == 15


@pytest.mark.parametrize("name", REFERENCES)
def test_crops_kernels_and_smallest_inputs(name: str) -> None:
    net = meta(name)
    expected = {"voc-fcn-alexnet": [(63, 32, 18)], "voc-fcn-googlenet": [(63, 32, 1)]}
    # Sections 4.1 and 4.2: from the middle of the kernel to unit 0 of pool5, 4, 3, at -83.5, -91.5 and -95.5 px.
    expected |= {"voc-fcn-pool5": [(64, 32, 115)], "voc-fcn-pool4": [(32, 16, 107)], "voc-fcn-pool3": [(16, 8, 103)]}
    for plan in net.plans:
        stages = [(stage.kernel, stage.factor, stage.offset) for stage in plan.stages]
        assert stages == expected.get(name, KERNELS_AND_CROPS[REFERENCES[name].skips])
    assert net.smallest_input == ((31, 31) if name == "voc-fcn-googlenet" else (1, 1))


@pytest.mark.parametrize(
    ("name", "maps", "upsampled"),  # section 1.4: sizes over 500 pixels, coarse to fine, and before the crop
    [
        ("voc-fcn32s", [16], [544]),
        ("voc-fcn16s", [16, 44], [34, 560]),
        ("voc-fcn8s", [16, 44, 88], [34, 70, 568]),
        ("voc-fcn-alexnet", [16], [543]),
    ],
)
def test_sizes_at_500_pixels(name: str, maps: list[int], upsampled: list[int]) -> None:
    net = meta(name)
    plan = net.plans[0]
    assert [size(path, 500) for path in plan.taps] == maps
    units = maps[0]
    for upsampler, expected in zip(net.upsamplers, upsampled, strict=True):
        assert upsampler.full_size(units, 0) == expected
        units = expected


@pytest.mark.parametrize(
    ("name", "field", "stride"),
    [
        ("voc-fcn8s", 404, 32), ("voc-fcn16s-max", 404, 32), ("voc-fcn-alexnet", 355, 32),
        ("voc-fcn-pool5", 212, 32), ("voc-fcn-pool4", 100, 16), ("voc-fcn-pool3", 44, 8),
    ],
)  # fmt: skip
def test_receptive_fields_are_those_of_the_paper(name: str, field: int, stride: int) -> None:
    line = axis_map(meta(name).plans[0].taps[0])
    assert (line.field, line.scale) == (field, stride)


@pytest.mark.parametrize("name", RELEASED)
def test_only_trunk_and_scores_learn_and_upsampling_is_fixed(name: str) -> None:
    net = meta(name)
    assert count(net, trained=True) == LEARNABLE[name]
    assert not any(True for ladder in net.upsamplers for _ in ladder.parameters())
    assert len(net.state_dict()) == len(list(net.parameters()))
    for head in net.heads:
        assert head.weight.shape[0] == REFERENCES[name].classes
    assert [head.weight.shape[1] for head in net.heads] == [4096, 512, 256][: REFERENCES[name].skips + 1]


def test_fixed_trains_the_last_layer_only() -> None:
    net = meta("voc-fcn32s-fixed")
    assert count(net, trained=True) == 86_037  # section 8.8
    assert [key for key, p in net.named_parameters() if p.requires_grad] == ["heads.0.weight", "heads.0.bias"]


def test_learned_upsampling_adds_one_kernel_per_class() -> None:
    net = meta("voc-fcn8s-learned")
    assert count(net, trained=True) - LEARNABLE["voc-fcn8s"] == 21 * (4 * 4 + 4 * 4 + 16 * 16)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("vgg16", 138_357_544),
        ("caffenet", 60_965_224),
        ("alexnet", 60_965_224),
        ("googlenet", 6_998_552),
        ("lenet", 431_080),
    ],
)
def test_classifiers(name: str, parameters: int) -> None:
    with torch.device("meta"):
        net = build(name)
        side = {"lenet": 28, "vgg16": 224, "googlenet": 224}.get(name, 227)
        image = torch.zeros(2, 1 if name == "lenet" else 3, side, side)
        assert isinstance(net, Classifier)
        assert count(net) == parameters
        assert net(image).shape == (2, CLASSIFIERS[name].classes)
        window = 7 if name == "googlenet" else 1
        assert net.heat_map(image).shape[2:] == (window, window)


@pytest.mark.parametrize(
    ("name", "fcn"), [("vgg16", "voc-fcn8s"), ("caffenet", "voc-fcn-alexnet"), ("googlenet", "voc-fcn-googlenet")]
)
def test_a_classifier_starts_an_fcn(name: str, fcn: str) -> None:
    with torch.device("meta"):
        classifier, net = build(name), build(fcn)
    trunk = {key: value.shape for key, value in classifier.trunk.state_dict().items()}
    assert trunk == {key: value.shape for key, value in net.trunk.state_dict().items()}


def test_a_classifier_averages_its_heat_map_and_sees_crops() -> None:
    net = build("lenet").eval()
    image = torch.randn(1, 1, 40, 36)
    with torch.inference_mode():
        torch.testing.assert_close(net(image), net.heat_map(image).mean((2, 3)))
        # Section 8.1: unit (i, j) of a larger picture is the net on crop (i, j).
        torch.testing.assert_close(net.heat_map(image)[..., 2, 1], net(image[..., 8:36, 4:32]), rtol=1e-4, atol=1e-5)


class Tiny(nn.Module):
    """A trunk with VGG's form: padded image, pools, maps at three strides."""

    channels = (4, 5, 6)

    def __init__(self, colours: int = 3) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(colours, 4, 3, padding=20), nn.MaxPool2d(2, 2, ceil_mode=True))
        self.two = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.MaxPool2d(2, 2, ceil_mode=True))
        self.three = nn.Sequential(nn.Conv2d(5, 6, 3, padding=1), nn.MaxPool2d(2, 2, ceil_mode=True))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = self.one(image)
        two = self.two(one)
        return one, two, self.three(two)


def wake(net: nn.Module) -> nn.Module:
    """Give score heads, which start at zero, random weights."""
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter)
    return net.eval()


@pytest.mark.parametrize("skips", [0, 2])
def test_two_heads_are_two_networks_on_one_trunk(skips: int) -> None:
    net = wake(ManyHeads(FCN(Tiny(), classes=5, skips=skips), {"geometric": 3}))
    image = torch.randn(2, 3, 21, 34)
    scores = net(image)
    assert scores._fields == ("semantic", "geometric")
    for heads, found in ((net.heads, scores.semantic), (net.geometric_heads, scores.geometric)):
        alone = FCN(net.trunk, classes=heads[0].out_channels, skips=skips).eval()
        alone.heads = heads
        assert torch.equal(alone(image), found)


def test_max_fusion_takes_the_larger_score_and_switches_its_gradient() -> None:
    torch.manual_seed(0)
    net = wake(FCN(Tiny(), classes=3, skips=1, fusion="max"))
    image = torch.randn(2, 3, 22, 31)
    coarse, fine = net.score_maps(image)
    row, column = (plan.stages[0] for plan in net.plans)
    sizes = row.size(coarse.shape[2], fine.shape[2]), column.size(coarse.shape[3], fine.shape[3])
    up = net.upsamplers[0](coarse, (row.kept, column.kept), sizes)
    met = fine[:, :, row.met : row.met + sizes[0], column.met : column.met + sizes[1]]
    fused = net.fused([coarse, fine])
    assert torch.equal(fused, torch.where(up > met, up, met))
    assert 0.05 < float((up > met).float().mean()) < 0.95
    # What the papers blame: each unit teaches the one map that is larger there, and nothing the other.
    (by_fine,) = torch.autograd.grad(fused.sum(), [fine])
    inside = by_fine[:, :, row.met : row.met + sizes[0], column.met : column.met + sizes[1]]
    assert torch.equal(inside, (met > up).float())
    with pytest.raises(ValueError, match="'sum' or 'max'"):
        FCN(Tiny(), classes=3, skips=1, fusion="mean")


def test_a_pool_alone_scores_what_the_whole_trunk_gives_there() -> None:
    net, image = wake(build("voc-fcn-pool3")), torch.randn(1, 3, 23, 9)
    whole = VGG16(hidden=False).eval()
    whole.load_state_dict(net.trunk.state_dict(), strict=False)
    with torch.inference_mode():
        (pool3,) = net.trunk(image)
        assert torch.equal(pool3, whole(image)[0])
        assert net(image).shape == (1, 21, 23, 9)
    with pytest.raises(ValueError, match="fc6 stands on pool5, not on pool4"):
        VGG16(last=4)


@pytest.mark.parametrize("skips", [0, 1])
def test_late_fusion_averages_the_scores_of_two_networks(skips: int) -> None:
    net = wake(LateFusion(Tiny(), Tiny(), classes=4, skips=skips))
    colour, hha = FCN(net.trunk, classes=4, skips=skips).eval(), FCN(net.second, classes=4, skips=skips).eval()
    colour.heads, hha.heads = net.heads, net.second_heads
    image = torch.randn(1, 6, 30, 23)
    expected = (colour(image[:, :3]) + hha(image[:, 3:])) / 2
    torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-5)


def test_late_fusion_refuses_trunks_that_do_not_align() -> None:
    other = Tiny()
    other.one[0] = nn.Conv2d(3, 4, 3, padding=22)
    with pytest.raises(ValueError, match="different strides or windows"):
        LateFusion(Tiny(), other, classes=4, skips=0)


def test_scales_shrink_what_the_skips_see() -> None:
    plain, scaled = (FCN(Tiny(), classes=3, skips=2, scales=scales).eval() for scales in ((), (0.01, 0.0001)))
    wake(plain)
    scaled.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 25, 31)
    with torch.no_grad():
        plain.heads[1].weight *= 0.01
        plain.heads[2].weight *= 0.0001
        torch.testing.assert_close(scaled(image), plain(image), rtol=1e-4, atol=1e-5)


def test_wrong_channels_and_wrong_choices_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"takes N x 3 x H x W, not \(1, 4, 8, 8\)"):
        FCN(Tiny(), classes=2, skips=0)(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="1 scales for 2 skips"):
        FCN(Tiny(), classes=2, skips=2, scales=(0.1,))
    with torch.device("meta"), pytest.raises(ValueError, match="is a classifier"):
        build("googlenet", upsampling="learned")  # type: ignore[call-overload]


@pytest.mark.parametrize("name", [*network_names(), *CLASSIFIERS])
def test_architectures_build_the_same_network_again(name: str) -> None:
    net = meta(name)
    architecture = architecture_of(net)
    # What built it is said, so the same call builds it again; that files bring networks back is shown below.
    assert (architecture.name, architecture.classes) == (name, net.classes)
    assert architecture.upsampling == ("learned" if name.endswith("-learned") else "fixed")


@pytest.mark.parametrize("name", ["voc-fcn-googlenet", "lenet"])
def test_reference_networks_save_and_load(tmp_path: Path, name: str) -> None:
    net = wake(build(name))
    again, config = load_network(save(net, tmp_path))
    assert config.architecture.name == name
    image = torch.randn(1, 1 if name == "lenet" else 3, 40, 45)
    with torch.inference_mode():
        assert torch.equal(again(image), net(image))
