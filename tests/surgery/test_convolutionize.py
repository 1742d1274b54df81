from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv import convolutionize, from_classifier
from fullyconv.trace import NotFollowed


def settled(net: nn.Module) -> nn.Module:
    """Make batch statistics uneven, in float64, for evaluation."""
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0, 0.1)  # type: ignore[union-attr,operator]
            layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr,operator]
    return net.double().eval()


def trunk() -> list[nn.Module]:
    return [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]


class Head(nn.Module):
    """Heads as people write them, after a trunk of stride 4."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.trunk = nn.Sequential(*trunk())
        self.fc = nn.Linear(8 * 36 if kind in ("flatten", "view", "channels last") else 8, 5)
        self.norm, self.batch, self.middle = nn.LayerNorm(8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.rand(5))
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return HEADS[self.kind](self, self.trunk(x))


def two_heads(net: Head, x: Tensor) -> Tensor:
    x = x.mean([2, 3])
    return (net.fc(x) + functional.linear(x, net.fc.weight.flip(0))) / 2


def two_pools(net: Head, x: Tensor) -> Tensor:
    pooled = functional.adaptive_avg_pool2d(x, 1).flatten(1) + functional.adaptive_max_pool2d(x, 1).flatten(1)
    return net.fc(pooled)


def rms_norm(x: Tensor) -> Tensor:
    spread = x.pow(2).mean(dim=1, keepdim=True) + torch.var(x, dim=1, correction=0, keepdim=True)
    return x * torch.rsqrt(spread + 1e-6)


def channels_last_norm(net: Head, x: Tensor) -> Tensor:
    y = x.mean((2, 3), keepdim=True).permute(0, 2, 3, 1)
    y = y * torch.rsqrt(torch.var(y, dim=(-1,), keepdim=True) + 1e-6) * net.norm.weight
    return net.fc(y.permute(0, 3, 1, 2).flatten(1))


HEADS: dict[str, Callable[[Head, Tensor], Tensor]] = {
    "flatten": lambda net, x: net.fc(functional.dropout(torch.flatten(x, 1), training=net.training)),
    "view": lambda net, x: net.fc(x.view(x.size(0), -1)),
    "channels last": lambda net, x: net.fc(x.permute(0, 2, 3, 1).flatten(1)),
    "mean": lambda net, x: net.fc(x.mean((2, 3))) * net.scale,
    "adaptive": lambda net, x: net.fc(functional.adaptive_avg_pool2d(x, 1)[:, :, 0, 0]).mul(2),
    "batch norm": lambda net, x: net.fc(net.batch(functional.avg_pool2d(x, 6).flatten(1))),
    "two heads": two_heads,
    "layer norm": lambda net, x: net.fc(net.norm(x.mean((2, 3)))),
    "rms norm": lambda net, x: net.fc(rms_norm(x.mean((2, 3), keepdim=True)).flatten(1)),
    "channels last norm": channels_last_norm,
    "hidden": lambda net, x: net.fc(functional.hardswish(net.middle(x.mean((2, 3))))),
    "max": lambda net, x: net.fc(x.amax((2, 3))),
    "average and maximum": two_pools,
}


AFFINE = ["mean", "adaptive", "batch norm", "two heads"]
WINDOWS = [
    "flatten",
    "view",
    "channels last",
    "layer norm",
    "rms norm",
    "channels last norm",
    "hidden",
    "max",
    "average and maximum",
]


@pytest.mark.parametrize("kind", [*AFFINE, *WINDOWS])
def test_on_the_example_it_is_the_classifier(kind: str) -> None:
    torch.manual_seed(0)
    net = settled(Head(kind))
    dense = convolutionize(net, (3, 24, 24))
    image = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        found = dense(image)
        assert found.shape[2:] == ((6, 6) if kind in AFFINE else (1, 1))
        torch.testing.assert_close(found.mean((2, 3)), net(image))
    assert dense.slides == (kind in WINDOWS)


@pytest.mark.parametrize("kind", AFFINE)
def test_after_averaging_the_mean_of_the_map_is_the_classifier_at_every_size(kind: str) -> None:
    torch.manual_seed(0)
    net = settled(Head(kind))
    image = torch.randn(1, 3, 33, 41, dtype=torch.float64)
    with torch.no_grad():
        wanted = net(image) if kind != "batch norm" else None  # which pools 6 x 6 and nothing else
        found = convolutionize(net, (3, 24, 24))(image)
    assert found.shape == (1, 5, 9, 11)
    if wanted is not None:
        torch.testing.assert_close(found.mean((2, 3)), wanted)


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_window_is_the_classifier_slid_over_the_picture(kind: str) -> None:
    """With a trunk of windows without padding a unit is exactly the classifier on its crop."""
    torch.manual_seed(0)
    net = Head(kind)
    net.trunk = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 8, 2, 2))
    net = settled(net)
    side = 27  # 12 units, then 6
    dense = convolutionize(net, (3, side, side))
    image = torch.randn(1, 3, side + 8, side + 13, dtype=torch.float64)
    with torch.no_grad():
        found = dense(image)
        assert found.shape == (1, 5, 3, 4)
        assert (dense.rows.scale, dense.rows.field) == (4, side)
        for row, column in ((0, 0), (2, 3), (1, 2)):
            crop = image[..., 4 * row : 4 * row + side, 4 * column : 4 * column + side]
            torch.testing.assert_close(found[..., row, column], net(crop))


@pytest.mark.parametrize("kind", [*AFFINE, *WINDOWS])
@pytest.mark.parametrize("size", [(1, 1), (7, 90), (25, 24)])
def test_any_size_goes_in(kind: str, size: tuple[int, int]) -> None:
    dense = convolutionize(Head(kind).eval(), (3, 24, 24))
    assert min(dense(torch.randn(1, 3, *size)).shape) >= 1


def test_the_classifier_stays_as_it_was_and_the_copy_trains() -> None:
    net = Head("mean")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    dense = convolutionize(net, (3, 24, 24))
    assert net.training
    assert dense.training
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    dense(torch.randn(2, 3, 24, 24)).sum().backward()
    assert all(parameter.grad is not None for name, parameter in dense.named_parameters() if "middle" not in name)


class Attending(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return ((tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens).mean(1)


def test_what_cannot_be_honoured_names_operation_and_module() -> None:
    with pytest.raises(NotFollowed, match=r"4 \(matmul\): is attention: it compares positions with positions"):
        convolutionize(nn.Sequential(*trunk(), Attending()), (3, 24, 24))


def test_squeeze_and_excitation_is_kept_and_said() -> None:
    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.fc(x.mean((2, 3), keepdim=True)).sigmoid()

    net = settled(nn.Sequential(*trunk(), Squeeze(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)))
    dense = convolutionize(net, (3, 24, 24))
    assert [str(remark) for remark in dense.remarks] == ["4: sees the whole picture at every position"]
    image = torch.randn(1, 3, 40, 31, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(dense(image).mean((2, 3)), net(image))


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(7), nn.AdaptiveMaxPool2d((7, 7))])
@pytest.mark.parametrize(("side", "units"), [(14, (14, 20)), (28, (4, 7))])
def test_adaptive_pooling_to_a_grid_keeps_the_window_it_has_at_the_example(
    pool: nn.Module, side: int, units: tuple[int, int]
) -> None:
    head = (nn.Flatten(), nn.Linear(8 * 49, 6), nn.ReLU(), nn.Linear(6, 5))
    net = settled(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), pool, *head))
    dense, image = convolutionize(net, (3, side, side)), torch.randn(2, 3, side, side).double()
    torch.testing.assert_close(dense(image)[..., 0, 0], net(image), rtol=0, atol=1e-10)
    assert dense(torch.zeros(1, 3, 40, 52).double()).shape[2:] == units
    segmenter = from_classifier(net, 3, side // 7, example=(3, side, side))
    maps = segmenter.trunk(torch.zeros(1, 3, 56, 84).double())
    assert maps[-1].shape[2:] == (56 * 7 // side, 84 * 7 // side)
