"""The decoders after FCN on every trunk they take: any size in and out, tiles equal to the whole, the papers' sizes."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv import load, save
from fullyconv.geometry import axis_map
from fullyconv.networks import build, family_names, from_classifier, rebuild, split_name
from fullyconv.networks.architecture import Architecture, architecture_of
from fullyconv.networks.decoders import decoded
from fullyconv.networks.deeplab import Holes
from fullyconv.networks.fcn import FCN, continue_from
from fullyconv.networks.inspection import inspect
from fullyconv.networks.trunks import backbone
from fullyconv.networks.trunks.classic import SegNetBasic
from fullyconv.networks.trunks.vgg import BLOCKS, VGG16
from fullyconv.networks.unpooling import Unpool
from fullyconv.surgery.trunk import retap
from fullyconv.trace import outputs
from fullyconv.types import Preprocess

HUGE = "deconvnet-vgg16"  # 252 million parameters


class Chain(nn.Module):
    """A small classifier of VGG's kind: convolutions and pools in turn, and a hidden layer."""

    def __init__(self, widths: tuple[int, ...] = (6, 8, 10), *, pool: nn.Module | None = None) -> None:
        super().__init__()
        wide, layers = 3, list[nn.Module]()
        for width in widths:
            layers += [nn.Conv2d(wide, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), pool or nn.MaxPool2d(2)]
            wide = width
        self.features = nn.Sequential(*layers)
        side = 32 // 2 ** len(widths)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(wide * side**2, 12), nn.ReLU(), nn.Linear(12, 5))

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.features(image))
        return scores


class Squeezing(nn.Module):
    """A small residual classifier that sees whole maps at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.deeper = nn.Conv2d(8, 12, 3, 2, 1)
        self.last = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(12, 16, 3, padding=1))
        self.gate = nn.Conv2d(12, 12, 1)
        self.fc = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        found = self.deeper(self.down(self.stem(image).relu()).relu()).relu()
        found = found * self.gate(found.mean((2, 3), keepdim=True)).sigmoid()
        scores: Tensor = self.fc(self.last(found).mean((2, 3)))
        return scores


def made(decoder: str, classifier: nn.Module) -> FCN:
    torch.manual_seed(0)
    return awake(from_classifier(classifier, 3, decoder=decoder, example=(3, 32, 32)))  # type: ignore[arg-type]


@cache
def first(decoder: str, kind: type[nn.Module]) -> FCN:
    torch.manual_seed(0)
    return made(decoder, kind())


def small(decoder: str, kind: type[nn.Module] = Chain) -> FCN:
    """A network of its own, copied from the first of its kind: finding taps and windows takes longest."""
    return copy.deepcopy(first(decoder, kind))


def awake(network: FCN) -> FCN:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
    for head in network.heads:
        nn.init.normal_(head.weight)  # type: ignore[arg-type]
    return network.eval()


DECODERS = ("segnet", "deconvnet", "deeplab", "deeplab-largefov", "unet")
SMALL = [(decoder, kind) for decoder in DECODERS for kind in (Chain, Squeezing)
         if kind is Chain or decoder not in ("segnet", "deconvnet")]  # fmt: skip
ids = [f"{decoder}-{kind.__name__}" for decoder, kind in SMALL]


@pytest.mark.parametrize(("decoder", "kind"), SMALL, ids=ids)
def test_any_size_goes_in_and_comes_out_and_pictures_do_not_mix(decoder: str, kind: type[nn.Module]) -> None:
    network = small(decoder, kind)
    for size in ((1, 1), (2, 31), (33, 47)):
        pictures = torch.randn(2, 3, *size)
        both = network(pictures)
        assert both.shape == (2, 3, *size)
        torch.testing.assert_close(both[1:], network(pictures[1:]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("decoder", "kind"), [each for each in SMALL if each[1] is Chain], ids=DECODERS)
def test_tiles_equal_the_whole_and_nothing_beyond_the_reach_counts(decoder: str, kind: type[nn.Module]) -> None:
    network = small(decoder, kind).double()
    rows, columns = network.plans
    halo = -(-rows.reach // rows.stride) * rows.stride
    cut = halo + rows.stride
    image = torch.from_numpy(Preprocess()(np.random.default_rng(0).integers(0, 256, (2 * cut + 9, 24, 3), np.uint8)))
    image = image[None].double().requires_grad_()
    whole = network(image)
    lower = network(image[:, :, cut - halo :])[:, :, halo:]
    torch.testing.assert_close(lower, whole[:, :, cut:], rtol=1e-9, atol=1e-9)
    whole[0, :, cut].sum().backward()
    assert image.grad is not None
    seen = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert cut - rows.reach <= int(seen.min()) < cut < int(seen.max()) <= cut + rows.reach
    first, last = rows.windows(image.shape[2])[cut]
    assert first <= int(seen.min())
    assert int(seen.max()) <= last
    assert columns.reach == rows.reach


@pytest.mark.parametrize(("decoder", "kind"), SMALL, ids=ids)
def test_gradients_reach_every_weight_and_a_step_lowers_the_loss(decoder: str, kind: type[nn.Module]) -> None:
    network = small(decoder, kind).train()
    picture, labels = torch.randn(2, 3, 40, 36), torch.randint(0, 3, (2, 40, 36))
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        losses.append(functional.cross_entropy(network(picture), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        optimizer.step()
    assert losses[-1].item() < losses[0].item()


@pytest.mark.parametrize("decoder", DECODERS)
def test_it_is_inspected_traced_and_built_again(decoder: str, tmp_path: Path) -> None:
    network = small(decoder)
    network.architecture = Architecture(f"{decoder}-test_family:Chain", 3, example=(3, 32, 32))
    document = inspect(network, size=(40, 33)).document()
    json.dumps(document)
    assert document["parameters"] == sum(each.numel() for each in network.parameters())
    assert sum(layer["parameters"] for layer in document["layers"]) == document["parameters"]
    assert document["layers"][-1]["size"] == [40, 33]
    assert document["layers"][-1]["looks"]["rows"]["field"] == network.plans[0].output.field
    example = torch.randn(1, 3, 40, 33)
    traced = torch.jit.trace(network, example)
    torch.testing.assert_close(traced(example * 2), network(example * 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] if name != "unet-resnet18" else []) for name in family_names()
])  # fmt: skip
def test_a_model_comes_back(name: str, tmp_path: Path) -> None:
    network = awake(build(name, 3))
    image = torch.randn(1, 3, 20, 30)
    with torch.inference_mode():
        wanted = network(image)
        save(network, tmp_path / "model")
        assert network.architecture == Architecture(name, 3)
        torch.testing.assert_close(load(tmp_path / "model").network(image), wanted, rtol=1e-4, atol=1e-4)


# From segnet_basic_train.prototxt, segnet_train.prototxt (CamVid, 11 classes), DeconvNet's model/deconv.prototxt and
# DeepLab-LargeFOV's train.prototxt (VOC, 21 classes): input channels, output channels and kernel of each convolution.
ENCODER = [(3, 64, 3), (64, 64, 3), (64, 128, 3), (128, 128, 3), (128, 256, 3), (256, 256, 3), (256, 256, 3),
           (256, 512, 3), (512, 512, 3), (512, 512, 3), (512, 512, 3), (512, 512, 3), (512, 512, 3)]  # fmt: skip
DECODER = [(512, 512, 3)] * 3 + [(512, 512, 3), (512, 512, 3), (512, 256, 3), (256, 256, 3), (256, 256, 3),
           (256, 128, 3), (128, 128, 3), (128, 64, 3), (64, 64, 3)]  # fmt: skip


def counted(convolutions: list[tuple[int, int, int]], *, normalised: int = 0) -> int:
    """Count weights and biases, and the two numbers of each channel of the first so many that are normalised."""
    weights = sum(wide * narrow * kernel**2 + narrow for wide, narrow, kernel in convolutions)
    return weights + 2 * sum(narrow for _, narrow, _ in convolutions[:normalised])


SEGNET = counted([*ENCODER, *DECODER, (64, 11, 3)], normalised=25)
BASIC = counted([(3, 64, 7), *[(64, 64, 7)] * 7, (64, 11, 1)], normalised=8)
HIDDEN = [(512, 4096, 7), (4096, 4096, 1), (4096, 512, 7)]
DECONVNET = counted([*ENCODER, *HIDDEN, *DECODER, (64, 64, 3), (64, 21, 1)], normalised=29)
LARGEFOV = counted([*ENCODER, (512, 1024, 3), (1024, 1024, 1), (1024, 21, 1)])
# DeepLab v2's train.prototxt; the four convolutions that score are summed, so they are one, with one bias.
ASPP = counted([*ENCODER, *[(512, 1024, 3), (1024, 1024, 1)] * 4, (4 * 1024, 21, 1)])
UNET = counted([
    (3, 64, 3), (64, 64, 3), (64, 128, 3), (128, 128, 3), (128, 256, 3), (256, 256, 3), (256, 512, 3), (512, 512, 3),
    (512, 1024, 3), (1024, 1024, 3), (1024, 512, 2), (1024, 512, 3), (512, 512, 3), (512, 256, 2), (512, 256, 3),
    (256, 256, 3), (256, 128, 2), (256, 128, 3), (128, 128, 3), (128, 64, 2), (128, 64, 3), (64, 64, 3), (64, 2, 1),
])  # fmt: skip


@pytest.mark.parametrize(("name", "classes", "count", "published"), [
    ("segnet-vgg16", 11, SEGNET, 29.45),  # SegNet, table 2: 29.45 M
    ("segnet-basic", 11, BASIC, 1.425),  # the same table: 1.425 M, of its own basic variant
    pytest.param(HUGE, 21, DECONVNET, 252, marks=pytest.mark.slow),  # DeconvNet, section 3: "approximately 252M"
    ("deeplab-largefov-vgg16", 21, LARGEFOV, 20.5),  # DeepLab, table 2: 20.5 M
    ("deeplab-vgg16", 21, ASPP, 37.9),  # published nowhere: counted from the prototxt of ASPP-L
    ("unet-original", 2, UNET, 31.03),
])  # fmt: skip
def test_parameters_are_those_of_the_papers(name: str, classes: int, count: int, published: float) -> None:
    with torch.device("meta"):
        network = build(name, classes)
    assert sum(each.numel() for each in network.parameters()) == count
    assert count / 1e6 == pytest.approx(published, rel=0.01)


def test_receptive_fields_are_those_of_the_papers() -> None:
    with torch.device("meta"):
        largefov, aspp = build("deeplab-largefov-vgg16"), build("deeplab-vgg16")
    assert largefov.trunk.rates == (12,)  # DeepLab, section 5: input stride 12
    assert largefov.trunk.field_of_view == 224  # table 2
    assert aspp.trunk.rates == (6, 12, 18, 24)  # of 2018, ASPP-L
    assert [int(stage.factor) for stage in largefov.plans[0].stages] == [8]
    # By hand from the prototxt: 3 x 3 windows and the strides before them, holes of 2 in conv5, of 12 in fc6.
    strides = [1, 1, 1, 2, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 16, 16, 16, 8, 8, 96]
    assert axis_map(outputs(largefov.trunk).along(0)[0]).field == 1 + sum(2 * stride for stride in strides)
    # SegNet-basic's encoder: 7 x 7 windows, each with a 2 x 2 pool behind it.
    assert axis_map(outputs(SegNetBasic()).along(0)[0]).field == 1 + sum((6 + 1) * stride for stride in (1, 2, 4, 8))


def test_the_original_u_net_is_its_paper() -> None:
    """Sizes that the paper can take, as its 572 x 572, lose 92 pixels on each side; ours are the same numbers."""
    network = build("unet-original", 2).eval()
    image = torch.randn(1, 3, 188, 188)
    wanted = original(network.trunk, image)
    assert wanted.shape[2:] == (188 - 184, 188 - 184)
    first = 92 - int(axis_map(outputs(network.trunk).along(0)[0]).shift)
    with torch.inference_mode():
        found = network.trunk(functional.pad(image, (0, 4, 0, 4)))[0][:, :, first:, first:]  # to multiples of 16
    torch.testing.assert_close(found[:, :, : wanted.shape[2], : wanted.shape[3]], wanted, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def original(unet: nn.Module, image: Tensor) -> Tensor:
    """Compute figure 1 of the paper step by step: each copied map is cropped in the middle."""
    maps = []
    for level in unet.trunk.levels:
        maps.append(level(functional.max_pool2d(maps[-1], 2) if maps else image))
    found = maps.pop()
    for rise in unet.rises:
        wide, fine = rise.up(found), maps.pop()
        top, left = ((fine.shape[axis] - wide.shape[axis]) // 2 for axis in (2, 3))
        fine = fine[:, :, top : top + wide.shape[2], left : left + wide.shape[3]]
        found = rise.mix(torch.cat((fine, wide), 1))
    return found


@pytest.mark.parametrize("kernel", [2, 3])
def test_units_go_back_to_their_places(kernel: int) -> None:
    values = torch.randn(2, 3, 4 * kernel, 3 * kernel, dtype=torch.float64, requires_grad=True)
    maxima, places = functional.max_pool2d(values, kernel, return_indices=True)
    ours = Unpool(kernel)(maxima, places)
    torch.testing.assert_close(ours, functional.max_unpool2d(maxima, places, kernel))
    assert torch.equal(ours.ne(0).sum(), torch.tensor(maxima.numel()))
    weights = torch.randn_like(ours)
    assert values.grad is None
    (ours * weights).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.where(ours == values, weights, 0))


def test_every_so_manieth_unit_of_a_map_with_holes_is_the_trunks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = [(count, channels // 16) for count, channels in BLOCKS]
    monkeypatch.setattr("fullyconv.networks.trunks.vgg.BLOCKS", narrow)
    for trunk in (backbone("resnet18"), VGG16(image_pad=1, hidden=False), backbone("lite0")):
        holes = Holes(trunk.double().eval())
        image = torch.randn(1, 3, 64, 32).double()
        with torch.inference_mode():
            fine, coarse = holes(image)[0], trunk(image)[-1]
        assert holes.reduction == 4
        assert outputs(holes).strides == (8, 8)
        torch.testing.assert_close(fine[:, :, ::4, ::4][:, :, : coarse.shape[2], : coarse.shape[3]], coarse)


def test_weights_keep_their_names_below_holes_and_pools() -> None:
    plain = first("fcn", Chain).trunk.state_dict()
    for decoder in DECODERS:
        kept = small(decoder).state_dict()
        inner = [name for name in kept if ".classifier." in name]
        names = {name.rpartition("classifier.")[2] for name in inner}
        wanted = {name.rpartition("classifier.")[2] for name in plain}
        assert names - wanted == set(), decoder
        assert wanted - names == (set() if decoder == "deconvnet" else {name for name in wanted if "head" in name})


def test_what_cannot_be_undone_is_named() -> None:
    for decoder in ("segnet", "deconvnet"):
        with pytest.raises(ValueError, match=r"stem.*undoes max pools.*something else makes the map smaller"):
            made(decoder, Squeezing())
        with pytest.raises(ValueError, match="meet without overlap"):
            made(decoder, Chain((6, 8), pool=nn.MaxPool2d(3, 2, 1)))
    with pytest.raises(ValueError, match="maps at two strides at least"):
        decoded("unet", backbone("spectral1"), "original")
    with pytest.raises(ValueError, match="unknown network 'segnet-resnet18'"):
        build("segnet-resnet18")


def test_names_of_the_family_are_told_apart() -> None:
    assert [split_name(name)[::2] for name in ("deeplab-largefov-vgg16", "deeplab-vgg16", "unet-timm:resnet18")] == [
        ("deeplab-largefov", "vgg16"), ("deeplab", "vgg16"), ("unet", "timm:resnet18"),
    ]  # type: ignore[index]  # fmt: skip
    for name in family_names():
        assert split_name(name) is not None


EXTERNAL = (
    "deeplab-timm:resnet50", "deeplab-largefov-torchvision:densenet121", "unet-timm:convnext_atto",
    "segnet-torchvision:vgg11_bn", "unet-torchvision:vgg11", "deeplab-timm:efficientnet_b0", "deeplab-timm:resnet18d",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTERNAL)
def test_it_stands_on_classifiers_from_elsewhere(name: str, tmp_path: Path) -> None:
    network = awake(build(name, 3))
    for size in ((1, 1), (65, 47)):
        assert network(torch.randn(1, 3, *size)).shape == (1, 3, *size)
    again = rebuild(architecture_of(network))
    again.load_state_dict(network.state_dict())
    image = torch.randn(1, 3, 40, 50)
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(image), network(image))


def test_a_trunk_of_ours_is_tapped_at_every_stride() -> None:
    trunk = retap(backbone("resnet18"))
    assert [axis_map(rows).scale for rows in outputs(trunk).along(0)] == [2, 4, 8, 16, 32]
    assert trunk.channels == (64, 64, 128, 256, 512)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_trunk_moves_from_one_decoder_to_another(decoder: str) -> None:
    """By its names, wherever they stand; and from a file of the classifier's own."""
    torch.manual_seed(1)
    classifier, plain, network = Chain(), small("fcn"), small(decoder)
    for name, tensor in plain.trunk.state_dict().items():
        tensor.copy_(classifier.state_dict()[name.removeprefix("classifier.")].reshape(tensor.shape))
    moved = continue_from(plain, network)
    inner = [name for name in network.state_dict() if "features." in name]
    assert len(inner) > 20
    for name, tensor in classifier.state_dict().items():
        if name.startswith("features."):
            (place,) = (own for own in inner if own.endswith(f".{name}"))
            assert torch.equal(network.state_dict()[place], tensor)
    assert not [name for name in moved.moved if name.startswith("heads")]
    back = small("fcn")
    back.classes = 4  # of other classes only the trunk moves
    assert len(continue_from(network, back).moved) >= len(inner)
