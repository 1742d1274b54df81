"""Heads as people write them: each is converted to what it is, or refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fullyconv import convolutionize, from_classifier
from fullyconv.surgery.sliding import SlidingHead
from fullyconv.trace import NotFollowed

SIDE = 24  # 6 x 6 units


class Net(nn.Module):
    """A trunk of stride 4 with 8 channels, and a head."""

    def __init__(self, head: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = head
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.fc, self.norm, self.look, self.ask = nn.Linear(8, 5), nn.LayerNorm(8), nn.Conv2d(8, 1, 1), nn.Linear(8, 8)
        self.matrix, self.grid = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(6, 6, 5))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self, self.trunk(x))


def tokens(z: Tensor) -> Tensor:
    return z.flatten(2).transpose(1, 2)


def looked_at(net: Net, z: Tensor) -> Tensor:
    weights = net.look(z).flatten(2).softmax(-1)
    return net.fc((z.flatten(2) * weights).sum(-1))


def asked(net: Net, z: Tensor) -> Tensor:
    found = tokens(z)
    found = torch.cat([found.mean(1, keepdim=True), found], 1)
    return net.fc(functional.scaled_dot_product_attention(net.ask(found[:, :1]), found, found)[:, 0])


AT_EVERY_SIZE: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "avg_pool2d of shape": lambda net, z: net.fc(functional.avg_pool2d(z, z.shape[2:]).flatten(1)),
    "avg_pool2d of size()": lambda net, z: net.fc(functional.avg_pool2d(z, z.size()[2:])[..., 0, 0]),
    "avg_pool2d of named sizes": lambda net, z: net.fc(
        functional.avg_pool2d(z, kernel_size=(z.size(2), z.size(3))).view(z.size(0), -1)
    ),
    "view and mean": lambda net, z: net.fc(z.view(z.size(0), z.size(1), -1).mean(2)),
    "view by number and mean": lambda net, z: net.fc(z.view(z.size(0), 8, -1).mean(-1)),
    "reshape to h * w": lambda net, z: net.fc(z.reshape(z.size(0), z.size(1), z.size(2) * z.size(3)).mean(2)),
    "flatten and mean": lambda net, z: net.fc(z.flatten(2).mean(2)),
    "mean and mean": lambda net, z: net.fc(z.mean(3).mean(2)),
    "mean and mean from the end": lambda net, z: net.fc(z.mean(-1).mean(-1)),
    "mean and mean, kept": lambda net, z: net.fc(z.mean(2, keepdim=True).mean(3, keepdim=True).flatten(1)),
    "sum over h * w": lambda net, z: net.fc(z.sum((2, 3)) / (z.shape[2] * z.shape[3])),
    "sum and sum over h * w": lambda net, z: net.fc(z.sum(3).sum(2) / (z.shape[2] * z.shape[3])),
    "sum": lambda net, z: net.fc(z.sum((2, 3))),
    "tokens, linear, mean": lambda net, z: net.fc(tokens(z)).mean(1),
    "channels last, linear, mean": lambda net, z: net.fc(z.permute(0, 2, 3, 1)).mean((1, 2)),
    "einsum per position": lambda net, z: torch.einsum("bchw,ck->bkhw", z, net.matrix).mean((2, 3)),
    "matrix product": lambda net, z: z.mean((2, 3)) @ net.matrix,
}

SLIDING: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "max_pool2d of size()": lambda net, z: net.fc(functional.max_pool2d(z, z.size()[2:]).flatten(1)),
    "flatten and amax": lambda net, z: net.fc(z.flatten(2).amax(2)),
    "amax and amax": lambda net, z: net.fc(z.amax(3).amax(2)),
    "flatten and max": lambda net, z: net.fc(z.flatten(2).max(2)[0]),
    "tokens, norm, linear, mean": lambda net, z: net.fc(net.norm(tokens(z))).mean(1),
    "tokens, linear, gelu, mean": lambda net, z: functional.gelu(net.fc(tokens(z))).mean(1),
    "tokens, mean, norm, linear": lambda net, z: net.fc(net.norm(tokens(z).mean(1))),
    "einsum sums": lambda net, z: net.fc(torch.einsum("bchw->bc", z) / 36),
    "einsum scores": lambda net, z: torch.einsum("bchw,ck->bk", z, net.matrix),
    "einsum of vectors": lambda net, z: torch.einsum("bc,ck->bk", z.mean((2, 3)), net.matrix),
    "einsum with numbers for each position": lambda net, z: torch.einsum("bchw,hwk->bk", z, net.grid),
    "weights for each position": looked_at,
    "generalised mean": lambda net, z: net.fc(z.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)),
    "mean and deviation": lambda net, z: net.fc(z.mean((2, 3)) + z.std((2, 3))),
    "soft maximum": lambda net, z: net.fc(z.flatten(2).logsumexp(2)),
}


@pytest.mark.parametrize("kind", [*AT_EVERY_SIZE, *SLIDING])
def test_a_head_becomes_what_it_is(kind: str) -> None:
    net = Net((AT_EVERY_SIZE | SLIDING)[kind])
    dense = convolutionize(net, (3, SIDE, SIDE))
    image = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        found = dense(image)
        torch.testing.assert_close(found.mean((2, 3)), net(image))
    assert dense.slides == (kind in SLIDING)
    assert found.shape[2:] == ((1, 1) if dense.slides else (6, 6))


@pytest.mark.parametrize("kind", AT_EVERY_SIZE)
def test_averages_are_the_classifier_at_every_size(kind: str) -> None:
    net = Net(AT_EVERY_SIZE[kind])
    image = torch.randn(1, 3, 40, 29, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(convolutionize(net, (3, SIDE, SIDE))(image).mean((2, 3)), net(image))


@pytest.mark.parametrize("kind", SLIDING)
def test_other_heads_are_the_classifier_on_every_window(kind: str) -> None:
    """With a trunk of windows without padding a unit is exactly the classifier on its crop."""
    net = Net(SLIDING[kind])
    net.trunk = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 8, 2, 2)).double()
    side = 27  # 12 units, then 6
    dense = convolutionize(net, (3, side, side))
    image = torch.randn(2, 3, side + 8, side + 13, dtype=torch.float64)
    with torch.no_grad():
        found = dense(image)
        assert found.shape == (2, 5, 3, 4)
        assert (dense.rows.scale, dense.rows.field) == (4, side)
        for row, column in ((0, 0), (2, 3), (1, 2)):
            crop = image[..., 4 * row : 4 * row + side, 4 * column : 4 * column + side]
            torch.testing.assert_close(found[..., row, column], net(crop))


@pytest.mark.parametrize("kind", [*AT_EVERY_SIZE, *SLIDING])
def test_fcns_stand_on_the_maps_before_the_head(kind: str) -> None:
    net = Net((AT_EVERY_SIZE | SLIDING)[kind])
    fcn = from_classifier(net, 3, 4, example=(3, SIDE, SIDE))
    assert fcn(torch.zeros(1, 3, 19, 33, dtype=torch.float64)).shape == (1, 3, 19, 33)
    wide = {"einsum per position": 5}.get(kind, 8)
    assert fcn.trunk.channels == (wide,)


def test_a_head_that_attends_is_left_out_by_name() -> None:
    net = Net(asked)
    with pytest.raises(NotFollowed, match=r"cat \(cat\): adds tokens to the positions"):
        convolutionize(net, (3, SIDE, SIDE))
    with pytest.raises(NotFollowed, match=r"cat \(cat\): adds tokens"):  # two convolutions, two layers after: no trunk
        from_classifier(net, 3, 4, example=(3, SIDE, SIDE))
    net.trunk = nn.Sequential(*net.trunk, *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)), nn.ReLU()).double()
    fcn = from_classifier(net, 3, 4, example=(3, SIDE, SIDE))
    image = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    torch.testing.assert_close(fcn.trunk(image)[-1], net.trunk(image))


def test_transformers_are_no_trunks() -> None:
    with pytest.raises(NotFollowed, match="adds tokens to the positions"):
        from_classifier("torchvision:vit_b_16", 3, 16)


FLATTENED: dict[str, Callable[[Tensor], Tensor]] = {
    "norm": lambda v: v / v.norm(dim=1, keepdim=True),
    "normalize": functional.normalize,
    "softmax": lambda v: functional.softmax(v, 1),
    "softmax from the end": lambda v: v.softmax(-1),
    "log_softmax": lambda v: v.log_softmax(1),
    "minus mean": lambda v: v - v.mean(1, keepdim=True),
    "over deviation": lambda v: v / v.std(1, keepdim=True),
    "over maximum": lambda v: v / v.amax(1, keepdim=True),
    "gate": lambda v: v * torch.sigmoid(v.mean(1, keepdim=True)),
    "first entry": lambda v: v * v[:, :1],
    "halves transposed": lambda v: v.view(-1, 2, 144).transpose(1, 2).flatten(1),
    "flipped": lambda v: v.flip(1),
    "layer norm": lambda v: functional.layer_norm(v, v.shape[1:]),
    "numbers of its own": lambda v: v * torch.linspace(-1, 1, 288, dtype=v.dtype),
    "BatchNorm1d": nn.BatchNorm1d(288).double().eval(),
    "PReLU": nn.PReLU(288).double(),
    "LayerNorm": nn.LayerNorm(288).double(),
    "nothing": lambda v: v,
    "hidden": nn.Sequential(nn.Linear(288, 288), nn.BatchNorm1d(288), nn.ReLU()).double().eval(),
}


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("kind", FLATTENED)
def test_what_is_done_to_a_flattened_map_is_done_in_every_window(kind: str, hidden: bool) -> None:
    """The shared cases 05 and 06, and their relatives: with one fully connected layer behind, or two."""
    torch.manual_seed(0)
    last = nn.Sequential(nn.Linear(288, 7), nn.ReLU(), nn.Linear(7, 5)) if hidden else nn.Linear(288, 5)
    operate = FLATTENED[kind]
    for layer in operate.modules() if isinstance(operate, nn.Module) else ():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.normal_()  # type: ignore[union-attr,operator]
    net = Net(lambda net, z: net.last(operate(z.flatten(1))))  # type: ignore[operator]
    net.last = last.double()
    if isinstance(operate, nn.Module):
        net.operate = operate
    dense = convolutionize(net, (3, SIDE, SIDE))
    image = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(dense(image)[..., 0, 0], net(image))
        assert dense(torch.randn(1, 3, 37, 50, dtype=torch.float64)).shape == (1, 5, 5, 8)
    fcn = from_classifier(net, 3, 4, example=(3, SIDE, SIDE))
    assert fcn(torch.zeros(1, 3, 19, 33, dtype=torch.float64)).shape == (1, 3, 19, 33)
    layers = 2 if kind == "hidden" or hidden else 1
    assert fcn.trunk.channels == ((8,) if layers == 1 else (7,) if hidden else (288,))


def test_windows_are_laid_out_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = SlidingHead(nn.Sequential(nn.Flatten(), nn.Linear(4 * 6, 3)), (2, 3), pad=True)
    features = torch.randn(2, 4, 9, 7)
    whole = layer(features)
    assert whole.shape == (2, 3, 10, 7)
    monkeypatch.setattr("fullyconv.surgery.sliding.MOST_NUMBERS", 1)
    torch.testing.assert_close(layer(features), whole)
    torch.testing.assert_close(whole[:, :, 4, 3], layer.head(features[:, :, 3:5, 2:5]))


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda z: z.mean((2, 3)),
    "adaptive": lambda z: functional.adaptive_avg_pool2d(z, 1).flatten(1),
    "grid": lambda z: functional.adaptive_avg_pool2d(z, (z.shape[2] // 2, z.shape[3])).flatten(1),
    "maximum": lambda z: z.amax((2, 3)),
    "flatten": lambda z: z.flatten(1),
    "channels last": lambda z: z.permute(0, 2, 3, 1).flatten(1),
    "tokens": lambda z: tokens(z).mean(1),
    "tokens flattened": lambda z: tokens(z).flatten(1),
    "first token": lambda z: tokens(z)[:, 0],
    "square": lambda z: z.square().sum((2, 3)).sqrt(),
    "both": lambda z: torch.cat([z.mean((2, 3)), z.amax((2, 3))], 1),
    "weights": lambda z: (z.flatten(2) * z.mean(1).flatten(1).softmax(-1)[:, None]).sum(-1),
}

STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "softmax": lambda v: v.softmax(-1),
    "norm": lambda v: v / (1 + v.norm(dim=1, keepdim=True)),
    "centre": lambda v: v - v.mean(1, keepdim=True),
    "shuffle": lambda v: v.view(v.shape[0], 2, -1).transpose(1, 2).flatten(1),
    "roll": lambda v: v.roll(1, 1),
    "half": lambda v: v[:, : v.shape[1] // 2],
    "twice": lambda v: torch.cat([v, v.neg()], 1),
    "gate": lambda v: v * v[:, :1].sigmoid(),
    "cumulate": lambda v: v.cumsum(1),
    "scale": lambda v: v * torch.linspace(0, 1, v.shape[1], dtype=v.dtype, device=v.device),
    "outer": lambda v: (v[:, :, None] * v[:, None, :2]).flatten(1),
    "batch": lambda v: functional.batch_norm(v, torch.zeros(v.shape[1]).double(), torch.ones(v.shape[1]).double()),
    "glu": lambda v: functional.glu(v, 1),
    "maximum": lambda v: torch.maximum(v, v.flip(1)),
}

TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "valid": lambda: nn.Conv2d(4, 4, 3),
    "strided": lambda: nn.Conv2d(4, 4, 3, 2, 1),
    "dilated": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    "grouped": lambda: nn.Conv2d(4, 4, (1, 3), (1, 2), groups=2),
    "reflected": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "maximum": lambda: nn.MaxPool2d(2, ceil_mode=True),
    "average": lambda: nn.AvgPool2d(3, 2, 1),
    "norm": lambda: nn.BatchNorm2d(4),
    "groups": lambda: nn.GroupNorm(2, 4),
    "relu": lambda: nn.ReLU(inplace=True),
    "squeeze": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid()),
    "drop": lambda: nn.Dropout2d(),
    "larger": lambda: nn.Upsample(scale_factor=2),
}


class Generated(nn.Module):
    def __init__(self, trunk: list[str], pool: str, steps: list[str], hidden: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.layers = nn.ModuleList(TRUNKS[name]() for name in trunk)
        self.pool, self.steps = pool, steps
        self.hidden = nn.LazyLinear(6) if hidden else nn.Identity()
        self.fc = nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.stem(x)
        for layer in self.layers:
            made = layer(z)
            z = z * made if made.shape[2:] == (1, 1) else z + made if made.shape == z.shape else made
        v = POOLS[self.pool](z)
        for step in self.steps:
            v = STEPS[step](v)
        return self.fc(torch.tanh(self.hidden(v)))


@settings(max_examples=40, deadline=None)
@given(
    trunk=st.lists(st.sampled_from(sorted(TRUNKS)), max_size=4, unique=True),
    pool=st.sampled_from(sorted(POOLS)),
    steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=3),
    hidden=st.booleans(),
    seed=st.integers(0, 99),
)
@example(trunk=[], pool="channels last", steps=["glu"], hidden=False, seed=0)
def test_a_conversion_is_the_classifier_or_refuses(
    trunk: list[str], pool: str, steps: list[str], hidden: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    net, image = Generated(trunk, pool, steps, hidden).double().eval(), torch.randn(3, 3, 28, 36).double()
    try:
        with torch.no_grad():
            wanted = net(image)
    except (RuntimeError, ZeroDivisionError):
        event("no network")
        return
    try:
        dense = convolutionize(net, (3, 28, 36))
    except NotFollowed as reason:
        event("refused: " + str(reason).partition(": ")[2][:50])
    else:
        event("slides" if dense.slides else "averages")
        with torch.no_grad():
            torch.testing.assert_close(dense(image).mean((2, 3)), wanted, rtol=1e-4, atol=1e-6)
            assert min(dense(torch.randn(1, 3, 45, 61).double()).shape) >= 1
    try:
        fcn = from_classifier(net, 2, 2, example=(3, 28, 36))
    except ValueError as reason:
        event("no FCN: " + str(reason)[:30])
    else:
        with torch.no_grad():
            assert fcn(torch.randn(1, 3, 23, 31).double()).shape == (1, 2, 23, 31)
