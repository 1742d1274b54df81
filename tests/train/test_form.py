from __future__ import annotations

import copy
from importlib.util import find_spec

import pytest
import torch
from torch import fx, nn

from fullyconv import build
from fullyconv.losses import pixel_loss, upsampled_loss
from fullyconv.networks.fcn import FCN
from fullyconv.train import form
from fullyconv.train.form import ByChannel, Checkpointed, Columns, FusedScores, _guard_strides, _multiply_large


def learn(run: nn.Module, network: nn.Module, image: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return loss, gradients and buffers after one pass."""
    torch.manual_seed(3)
    network.zero_grad()
    scores = run(image)
    step = network.last_step  # type: ignore[union-attr]
    loss = upsampled_loss(scores, labels, step) if isinstance(run, FusedScores) else pixel_loss(scores, labels)
    loss.backward()
    gradients = [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]
    return loss.detach(), *gradients, *(buffer.clone() for buffer in network.buffers())


def made(name: str) -> tuple[FCN, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    network = build(name, 4)
    for head in network.heads:
        nn.init.normal_(head.weight, std=0.1)
    return network.train(), torch.randn(2, 3, 64, 96), torch.randint(-1, 4, (2, 64, 96))


NETWORKS = [
    "fcn8s-resnet18",
    pytest.param("fcn8s-timm:test_resnet", marks=pytest.mark.skipif(find_spec("timm") is None, reason="needs timm")),
]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("upsampling", ["fixed", "learned"])
def test_fused_scores_learn_as_the_network_does(name: str, upsampling: str) -> None:
    network, image, labels = made(name)
    network = build(name, 4, upsampling=upsampling) if upsampling == "learned" else network  # type: ignore[arg-type]
    network.train()
    other = copy.deepcopy(network)
    fused = FusedScores(network)
    assert {id(each) for each in fused.parameters()} == {id(each) for each in network.parameters()}
    for ours, plain in zip(learn(fused, network, image, labels), learn(other, other, image, labels), strict=True):
        largest = float(plain.abs().max())
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4 * largest)


@pytest.mark.parametrize("name", [*NETWORKS, "fpn4s-lite0"])
def test_checkpointing_changes_nothing(name: str) -> None:
    network, image, labels = made(name)
    other = copy.deepcopy(network)
    forgetful = FusedScores(network, checkpointing=True)
    assert sum(isinstance(module, Checkpointed) for module in forgetful.modules()) > 2
    ours, plain = learn(forgetful, network, image, labels), learn(FusedScores(other), other, image, labels)
    assert len(ours) == len(plain)
    for one, another in zip(ours, plain, strict=True):
        assert torch.equal(one, another)


def test_checkpointing_draws_the_same_dropout() -> None:
    unit = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.ReLU(inplace=True))
    image = torch.randn(2, 3, 9, 9)
    found = []
    for module in (unit, Checkpointed(copy.deepcopy(unit))):
        torch.manual_seed(1)
        module(image).square().sum().backward()
        found.append([*(weight.grad for weight in module.parameters()), *module.buffers()])
    assert all(torch.equal(one, another) for one, another in zip(*found, strict=True))


def test_checkpointing_keeps_less() -> None:
    network, image, _ = made("fcn8s-resnet18")

    def kept(run: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            scores = run(image)
        weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
        assert scores.requires_grad
        return sum(size for place, size in sizes.items() if place not in weights)

    assert kept(FusedScores(network, checkpointing=True)) < 0.45 * kept(FusedScores(network))


def passed(
    module: nn.Module,
    image: torch.Tensor,
    slope: torch.Tensor,
    *,
    autocast: bool = False,
    dtype: torch.dtype = torch.float32,
) -> list[torch.Tensor]:
    """Return what a module makes of an image, and the gradients of image and weights for a slope of that."""
    module.zero_grad()
    own = image.detach().clone().to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = module(own)
    found.backward(slope.to(found.dtype))
    assert own.grad is not None
    return [found.detach(), own.grad, *(weight.grad.clone() for weight in module.parameters())]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kernel", "padding", "size"), [(7, 3, (16, 16)), (7, 0, (9, 12)), (1, 0, (5, 6)), (6, 2, (5, 5))]
)
def test_columns_equal_the_convolution_within_bfloat16(kernel: int, padding: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(24, 40, kernel, padding=padding).to(memory_format=torch.channels_last)
    columns = Columns(convolution)
    image = torch.randn(2, 24, *size)
    slope = torch.randn_like(convolution(image))

    exact = passed(copy.deepcopy(convolution).double(), image, slope, dtype=torch.float64)
    ours, theirs = passed(columns, image, slope, autocast=True), passed(convolution, image, slope, autocast=True)
    assert ours[0].dtype == torch.bfloat16
    assert ours[2].dtype == torch.float32
    for one, other, right in zip(ours, theirs, exact, strict=True):
        error, usual = ((each.double() - right).abs().max() / right.abs().max() for each in (one, other))
        assert error < max(2 * usual, 4e-3)
    for one, right in zip(passed(columns, image, slope), exact, strict=True):
        torch.testing.assert_close(one.double(), right, rtol=1e-4, atol=1e-4)


def test_scores_of_few_classes_on_4096_channels_have_a_gradient_that_stays_in_its_memory() -> None:
    # PyTorch's own ends the process there, on machines with matrix units: "free(): invalid next size".
    network = nn.Module()
    network.head = nn.Conv2d(4096, 5, 1)
    _multiply_large(network)
    assert isinstance(network.head, Columns)
    image, slope = torch.randn(2, 4096, 5, 7), torch.randn(2, 5, 5, 7)
    exact = passed(copy.deepcopy(network.head.convolution).double(), image, slope, dtype=torch.float64)
    for one, right in zip(passed(network.head, image, slope, autocast=True), exact, strict=True):
        assert (one.double() - right).abs().max() < 2e-2 * right.abs().max()


def test_only_large_plain_convolutions_become_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "LARGE", 512 * 512 * 9)
    network = build("fcn8s-resnet18", 4)
    found = [name for name, module in FusedScores(network).network.named_modules() if isinstance(module, Columns)]
    assert found == ["trunk.stage4.0.conv2", "trunk.stage4.1.conv1", "trunk.stage4.1.conv2"]
    assert not any(isinstance(module, Columns) for module in network.modules())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (5, 2, 2, 1), (3, 2, 0, 2)])
def test_convolutions_by_channel_have_their_gradient_within_bfloat16(
    kernel: int, stride: int, padding: int, dilation: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(24, 24, kernel, stride, padding, dilation, groups=24, bias=bias)
    image = torch.randn(2, 24, 13, 18)
    slope = torch.randn_like(layer(image))

    exact = passed(copy.deepcopy(layer).double(), image, slope, dtype=torch.float64)
    ours, theirs = passed(ByChannel(layer), image, slope, autocast=True), passed(layer, image, slope, autocast=True)
    assert torch.equal(ours[0], theirs[0])
    for one, other, right in zip(ours, theirs, exact, strict=True):
        error, usual = ((each.double() - right).abs().max() / right.abs().max() for each in (one, other))
        assert error < max(1.5 * usual, 4e-3)
    for one, plain in zip(passed(ByChannel(layer), image, slope), passed(layer, image, slope), strict=True):
        assert torch.equal(one, plain)


@pytest.mark.parametrize("name", ["fpn4s-lite0", "fcn8s-lite0"])
def test_layers_that_pad_unevenly_still_do_in_training(name: str) -> None:
    network = build(name, 3)
    for head in network.heads:
        nn.init.normal_(head.weight)
    form_, image = FusedScores(network).eval(), torch.randn(1, 3, 64, 96)
    assert any(isinstance(module, ByChannel) for module in form_.modules())
    with torch.no_grad():
        torch.testing.assert_close(form_(image), network.eval().fused(network.score_maps(image)))
    form_.train()(image).sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


@pytest.mark.skipif(find_spec("timm") is None, reason="needs timm")
def test_convolutions_by_channel_are_found_as_modules_and_as_calls() -> None:
    network = build("fcn8s-timm:tf_efficientnet_lite0", 4)
    form_ = FusedScores(network).network
    layers = [module for module in form_.modules() if isinstance(module, ByChannel)]
    calls = [
        node
        for module in form_.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if node.target is form.conv_by_channel
    ]
    # Four of its sixteen pad by the picture's size, which a recording writes as a call.
    assert (len(layers), len(calls)) == (12, 4)
    assert not any(isinstance(module, ByChannel) for module in network.modules())
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(form_.eval()(image), network.eval()(image))


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 2, (1, 1)), (3, 2, (5, 1)), (5, 3, (2, 2)), (7, 4, (3, 3))])
def test_maps_less_wide_than_a_stride_have_a_gradient_of_their_own(
    kernel: int, stride: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 32, kernel, stride, kernel // 2)
    network = nn.Sequential(copy.deepcopy(plain))
    recorded = nn.Sequential(fx.symbolic_trace(_Called(plain)))
    for each in (network, recorded):
        _guard_strides(each)
    images = torch.randn(2, 16, *size)
    exact = torch.autograd.grad(plain(images).square().sum(), plain.weight)[0]
    for short in (network, recorded):
        (weight,) = (each for name, each in short.named_parameters() if name.endswith("weight"))
        with torch.autocast("cpu", torch.bfloat16):
            scores = short(images)
        # What the gradient must not take for its own: freed memory full of NaN, of the sizes that it will ask for.
        litter = [torch.full((weight.numel() // part,), float("nan")) for part in (1, 2) for _ in range(9)]
        del litter
        found = torch.autograd.grad(scores.float().square().sum(), weight)[0]
        torch.testing.assert_close(found, exact, atol=0.02 * float(exact.abs().max()), rtol=0.02)


class _Called(nn.Module):
    """A convolution as a recording calls it."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.rest = convolution.stride, convolution.padding, convolution.dilation, convolution.groups

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.conv2d(features, self.weight, self.bias, *self.rest)
