"""The rule of each operation against the operation itself: which axes are rows and columns, what a unit sees."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fullyconv.geometry import axis_map, size
from fullyconv.networks.inspection import inspect
from fullyconv.trace import NotFollowed, Outputs, Positions, Walk, outputs, record, walk
from fullyconv.trace.nodes import SHAPE, spelling

PICTURES, CHANNELS, HEIGHT, WIDTH = 2, 6, 5, 7  # lengths that tell the axes from each other


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def walked(function: Callable[[Tensor], Any], picture: tuple[int, int, int]) -> tuple[tuple[int, ...], Positions, Walk]:
    """Follow a function; gives the shape of its result and where that looks."""
    recorded = record(Apply(function), picture)
    found = walk(recorded)
    last = next(node for node in recorded.graph.nodes if node.op == "output").args[0]
    return last.meta[SHAPE], found.positions[last], found


AXES: dict[str, Callable[[Tensor], Tensor]] = {
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "permute a tuple": lambda x: x.permute((3, 0, 2, 1)),
    "permute by name": lambda x: torch.permute(x, dims=(0, 3, 1, 2)),
    "permute from the end": lambda x: x.permute(0, -1, -3, -2),
    "transpose": lambda x: x.transpose(1, 3),
    "transpose from the end": lambda x: x.transpose(-1, -2),
    "transpose others": lambda x: x.transpose(0, 1),
    "movedim to the end": lambda x: x.movedim(1, -1),
    "movedim to the front": lambda x: torch.movedim(x, 3, 0),
    "movedim inside": lambda x: x.movedim(-1, 1),
    "unsqueeze first": lambda x: x.unsqueeze(0),
    "unsqueeze second": lambda x: x.unsqueeze(1),
    "unsqueeze inside": lambda x: x.unsqueeze(3),
    "unsqueeze last": lambda x: x.unsqueeze(-1),
    "squeeze all": lambda x: x[:, :1].squeeze(),
    "squeeze one": lambda x: x[:, None].unsqueeze(-1).squeeze(1),
    "squeeze last": lambda x: x[:, None].unsqueeze(-1).squeeze(-1),
    "squeeze two": lambda x: x[:, None].unsqueeze(-1).squeeze((1, -1)),
    "squeeze none": lambda x: x.squeeze(1),
    "split": lambda x: x.split(2, dim=1)[1],
    "split from the end": lambda x: torch.split(x, 2, -3)[0],
    "chunk": lambda x: x.chunk(3, 1)[2],
    "unbind": lambda x: x.unbind(1)[2],
    "unbind from the end": lambda x: x.unbind(-3)[2],
    "select": lambda x: x.select(1, 3),
    "mT": lambda x: x.mT,
    "flip channels": lambda x: x.flip(1),
    "flip others": lambda x: torch.flip(x, (0, 1)),
    "narrow channels": lambda x: x.narrow(1, 2, 3),
    "roll channels": lambda x: x.roll(1, 1),
    "sort channels": lambda x: x.sort(1)[0],
    "largest channels": lambda x: x.topk(2, 1)[0],
    "running sum": lambda x: x.cumsum(1),
    "index none": lambda x: x[:, None],
    "index a channel": lambda x: x[:, 2],
    "index a channel and new axes": lambda x: x[None, :, 2, ..., None],
    "index ellipsis": lambda x: x[..., 1:, :],
    "index channels": lambda x: x[:, 1:4],
    "index twice": lambda x: x[:, None, 1:][..., None, :],
    "stack first": lambda x: torch.stack([x, x]),
    "stack inside": lambda x: torch.stack([x, x, x], 3),
    "stack before rows": lambda x: torch.stack([x.permute(2, 0, 1, 3)] * 2),
    "stack last": lambda x: torch.stack([x, x, x], dim=-1),
    "cat": lambda x: torch.cat([x, x], 1),
    "cat from the end": lambda x: torch.cat([x, x], dim=-3),
    "mean of channels": lambda x: x.mean(1),
    "mean of channels kept": lambda x: x.mean(1, keepdim=True),
    "mean of channels last": lambda x: x.permute(0, 2, 3, 1).mean(-1),
    "mean of channels last kept": lambda x: x.permute(0, 2, 3, 1).mean(-1, keepdim=True),
    "largest channel": lambda x: x.max(1)[0],
    "larger": lambda x: torch.max(x, x + 1),
    "norm": lambda x: x.norm(2, 1),
    "variance": lambda x: x.var(dim=1, unbiased=False),
    "group channels": lambda x: x.reshape(x.shape[0], 2, 3, *x.shape[2:]),
    "view groups": lambda x: x.view(x.shape[0], 3, -1, x.shape[2], x.shape[3]),
    "group channels of one picture": lambda x: x[:1].permute(0, 2, 3, 1).unflatten(-1, (2, 3)),
    "join channels": lambda x: x.unflatten(1, (2, 3)).flatten(1, 2),
    "flatten and back": lambda x: x.flatten(2).unflatten(2, x.shape[2:]),
    "flatten and view": lambda x: x.flatten(2).transpose(1, 2).view(x.shape[0], x.shape[2], x.shape[3], -1),
    "repeat channels": lambda x: x.repeat(1, 3, 1, 1),
    "repeat with more axes": lambda x: x.repeat(4, 1, 2, 1, 1),
    "expand": lambda x: x[:, :1].expand(-1, 4, -1, -1),
    "reverse": lambda x: x[0].unsqueeze(0).permute(3, 2, 1, 0),
    "einsum": lambda x: torch.einsum("nchw,kc->nhkw", x, torch.ones(4, CHANNELS)),
    "einsum without result": lambda x: torch.einsum("nchw,kc", x, torch.ones(4, CHANNELS)),
    "einsum of a rest": lambda x: torch.einsum("nc...,kc->nk...", x, torch.ones(4, CHANNELS)),
    "matmul of channels": lambda x: x.movedim(1, -1) @ torch.ones(CHANNELS, 4),
    "matmul on the other side": lambda x: (torch.ones(4, CHANNELS) @ x.flatten(2)).unflatten(2, x.shape[2:]),
    "linear": lambda x: functional.linear(x.movedim(1, -1), torch.ones(4, CHANNELS)),
    "slope": lambda x: functional.prelu(x.movedim(1, -1), torch.tensor([0.25])),
    "gain of each channel": lambda x: x * torch.ones(CHANNELS, 1, 1),
    "cast": lambda x: x.type_as(x.mean((2, 3))),
    "glu": lambda x: functional.glu(x, 1),
    "softmax": lambda x: x.softmax(1),
    "layer norm": lambda x: functional.layer_norm(x.movedim(1, -1), (CHANNELS,)),
}


@pytest.mark.parametrize("name", AXES)
def test_rows_and_columns_are_the_axes_of_their_lengths(name: str) -> None:
    crop = 1 if name == "index ellipsis" else 0
    shape, positions, found = walked(AXES[name], (CHANNELS, HEIGHT, WIDTH))
    assert positions.rows is not None
    assert positions.columns is not None
    assert (shape[positions.rows], shape[positions.columns]) == (HEIGHT - crop, WIDTH)
    assert positions.flat is None
    assert positions.stride == (1, 1)
    assert [axis_map(trail.path).field for trail in positions.trails] == [1, 1]
    assert found.remarks == []
    assert found.multiples == [1, 1]


def test_a_map_in_one_axis_keeps_that() -> None:
    flat = {
        "flatten": lambda x: x.flatten(2),
        "tokens": lambda x: x.flatten(2).transpose(1, 2),
        "heads": lambda x: x.flatten(2).unflatten(1, (2, 3)).transpose(2, 3),
        "view": lambda x: x.view(x.shape[0], CHANNELS, -1),
        "reshape": lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, CHANNELS),
    }
    for function in flat.values():
        shape, positions, _ = walked(function, (CHANNELS, HEIGHT, WIDTH))
        assert positions.flat is not None
        assert shape[positions.flat] == HEIGHT * WIDTH
        assert not positions.is_map


def test_a_flattened_map_knows_its_former_axes() -> None:
    for function, order in (
        (lambda x: x.flatten(1), "CHW"),
        (lambda x: x.permute(0, 2, 3, 1).flatten(1), "HWC"),
        (lambda x: x.permute(0, 3, 1, 2).reshape(x.shape[0], -1), "WCH"),
        (lambda x: x.flatten(1) * x.mean((1, 2, 3))[:, None], "CHW"),
        (lambda x: x.mean((1, 2, 3))[:, None] * x.flatten(1), "CHW"),
    ):
        _, positions, _ = walked(function, (CHANNELS, HEIGHT, WIDTH))
        lengths = {"C": CHANNELS, "H": HEIGHT, "W": WIDTH}
        assert positions.flattened == tuple((letter, lengths[letter]) for letter in order)
        assert positions.axes == ()


def test_channels_first_is_the_order_of_the_axes() -> None:
    assert Positions(rows=-2, columns=-1).channels_first(4) == (0, 1, 2, 3)
    assert Positions(rows=-3, columns=-2).channels_first(4) == (0, 3, 1, 2)
    assert Positions(rows=-1, columns=-3).channels_first(4) == (0, 2, 3, 1)
    assert Positions(rows=-2, columns=-1).channels_first(5) is None
    assert Positions(flat=-1).channels_first(4) is None


def held(*shape: int) -> Callable[[Tensor], Tensor]:
    numbers = torch.ones(shape)
    return lambda x: x * numbers


SQUARE = 8
REFUSED: list[tuple[Callable[[Tensor], Any], str]] = [
    (held(SQUARE, SQUARE), r"has numbers for each position of a map of \(8, 8\)"),
    (held(SQUARE, 1), r"has numbers for each position of a map of \(8, 1\)"),
    (held(1, SQUARE), r"has numbers for each position of a map of \(1, 8\)"),
    (lambda x: x + x.transpose(2, 3), "joins maps whose rows and columns are different axes"),
    (lambda x: x.flatten(1) + x.movedim(1, -1).flatten(1), "joins maps that were flattened in different orders"),
    (lambda x: torch.cat([x, x], 2), "puts maps one after the other"),
    (lambda x: functional.batch_norm(x.movedim(1, -1), torch.zeros(8), torch.ones(8)), "takes rows or columns for cha"),
    (lambda x: functional.prelu(x.movedim(1, -1), torch.ones(8)), "takes rows or columns for channels"),
    (lambda x: functional.prelu(x.movedim(1, -1), x.mean((2, 3))[0, :1].expand(8)), "takes rows or columns for chan"),
    (lambda x: functional.max_pool2d(x.movedim(1, -1), 2), "moves a window over axes that are not rows and columns"),
    (lambda x: functional.max_pool2d(x.transpose(2, 3), 2), "moves a window over axes that are not rows and columns"),
    (lambda x: functional.max_pool2d(x.flatten(2)[:, None], 2), "moves a window over positions that were flattened"),
    (lambda x: functional.conv2d(x, x.mean((0, 2, 3)).view(1, 6, 1, 1)), "mixes the pictures of a batch"),
    (lambda x: functional.conv2d(x, x.mean((2, 3))[:1, :, None, None]), "has weights that depend on the picture|mixes"),
    (nn.ConvTranspose2d(6, 2, 3, 2, output_padding=1), "a transposed convolution with output padding or dilation is n"),
    (nn.ConvTranspose2d(6, 2, 3, dilation=2), "a transposed convolution with output padding or dilation is"),
    (nn.Conv2d(6, 2, 3, padding=1, padding_mode="circular"), "pads with the opposite border"),
    (nn.CircularPad2d(1), "pads with the opposite border"),
    (nn.AdaptiveAvgPool2d(3), "pools 8 x 8 units to 3 x 3, which no fixed window does"),
    (nn.AdaptiveAvgPool2d((8, 5)), "pools 8 x 8 units to 8 x 5, which no fixed window does"),
    (lambda x: functional.pad(x.flatten(2), (1, 1)), "pads positions that were flattened into one axis"),
    (lambda x: functional.interpolate(x, scale_factor=1.5), "interpolates 8 units to 12, which is no whole factor"),
    (lambda x: functional.interpolate(x, size=16), "fixes rows and columns by interpolating to 16"),
    (lambda x: functional.interpolate(x, size=4), "fixes rows and columns by interpolating to 4"),
    (lambda x: functional.interpolate(x, None, 2, "bilinear", True), "interpolates with align_corners"),
    (lambda x: functional.adaptive_max_pool2d(x, 4, return_indices=True)[0], "pools 8 x 8 units to 4 x 4 with their"),
    (lambda x: functional.interpolate(x, size=(8, 16)), "fixes rows and columns by interpolating to"),
    (lambda x: x[:, :, :1].squeeze(2), "fixes rows and columns by stopping at 1"),
    (lambda x: x[:, :, 7:].squeeze(2), "drops rows and columns that have one unit at this size alone"),
    (lambda x: x.split(4, 2)[0], "splits rows or columns"),
    (lambda x: x.unbind(-1)[0], "takes apart rows or columns"),
    (lambda x: x.flip(-1), "turns round rows or columns"),
    (lambda x: torch.flip(x, dims=(1, 2)), "turns round rows or columns"),
    (lambda x: x.cumsum(-1), "runs along rows or columns"),
    (lambda x: x.topk(2)[0], "runs along rows or columns"),
    (lambda x: x.roll((1, 1), (1, 2)), "runs along rows or columns"),
    (lambda x: x.repeat(1, 1, 2, 1), "repeats rows or columns"),
    (lambda x: x.repeat(1, 1, 1, 2), "repeats rows or columns"),
    (lambda x: x[..., 0], "takes single positions out of a map"),
    (lambda x: x[:, :, torch.tensor([1, 0])], "takes positions by a list or tensor of indices"),
    (lambda x: x[..., :7], "fixes rows and columns by stopping at 7"),
    (lambda x: x[..., 1:1], "fixes rows and columns by stopping at 1"),
    (lambda x: x.flatten(2)[..., 1:], "takes some of the positions that were flattened into one axis"),
    (lambda x: x.narrow(2, 1, 3), "fixes rows and columns by taking 3 of them"),
    (lambda x: x.flatten(1, 2), "mixes channels and positions"),
    (lambda x: x.transpose(2, 3).flatten(2), "mixes channels and positions"),
    (lambda x: x.reshape(x.shape[0], -1, 1), "mixes channels and positions"),
    (lambda x: x.reshape(x.shape[0], 3, -1, x.shape[3]), "mixes channels and positions"),
    (lambda x: x.mean(0), "mixes the pictures of a batch"),
    (lambda x: x.mean(), "mixes the pictures of a batch"),
    (lambda x: x.var(False), "mixes the pictures of a batch"),
    (lambda x: x.mean((2, 3)).mean(0), "mixes the pictures of a batch"),
    (lambda x: x.mean((1, 2, 3)).mean(0), "mixes the pictures of a batch"),
    (lambda x: x.mean((1, 2, 3)).mean(), "mixes the pictures of a batch"),
    (lambda x: x.mean(-1), "reduces one of rows and columns and keeps the other"),
    (lambda x: x.norm(2, 3), "reduces one of rows and columns and keeps the other"),
    (lambda x: functional.layer_norm(x, (8, 8)), "fixes rows and columns by normalising"),
    (lambda x: functional.layer_norm(x, (8,)), "fixes rows and columns by normalising"),
    (lambda x: functional.linear(x, torch.ones(4, 8)), "is fully connected over positions"),
    (lambda x: functional.linear(x.movedim(1, -1), x.mean((2, 3))), "has weights that depend on the picture"),
    (lambda x: x @ torch.ones(8, 4), "is fully connected over positions"),
    (lambda x: torch.ones(4, 8) @ x, "is fully connected over positions"),
    (lambda x: x @ x.mT, "sums over rows or columns of a map"),
    (lambda x: x.flatten(2).mT @ x.flatten(2), "is attention: it compares positions with positions"),
    (lambda x: torch.einsum("nchw,ncij->nhwij", x, x), "is attention"),
    (lambda x: torch.einsum("nchw,nchj->ncwj", x, x), "is attention|sums over rows or columns"),
    (lambda x: torch.einsum("nchw->nch", x), "sums over rows or columns"),
    (lambda x: torch.einsum("nchw,wv->nchv", x, torch.ones(8, 8)), "sums over rows or columns|mixes positions"),
    (lambda x: torch.einsum("nchw,hw->nchw", x, torch.ones(8, 8)), "mixes positions: it has numbers of its own for"),
    (lambda x: torch.baddbmm(torch.ones(8, 8), x[:, 0], x[:, 1]), "adds a matrix product to positions"),
    (lambda x: torch.empty_like(x) * 0, "holds what memory held before"),
    (lambda x: x.movedim((1, 2), (2, 1)), "this use of the operation is not understood"),
    (lambda x: functional.softmax(x), r"does not say along which axis \(dim\)"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "words"), REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_is_refused_says_why(function: Callable[[Tensor], Any], words: str) -> None:
    with pytest.raises(NotFollowed, match=words):
        walk(record(Apply(function), (6, SQUARE, SQUARE)))


POOLED: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.mean((2, 3)),
    lambda x: x.mean((-1, -2), keepdim=True),
    lambda x: x.flatten(2).mean(-1),
    lambda x: x.sum(dim=(1, 2, 3)),
    lambda x: x.mean((1, 2, 3)),
    lambda x: functional.adaptive_max_pool2d(x, 1),
    lambda x: functional.linear(x.flatten(1), torch.ones(3, 6 * 64)),
    lambda x: functional.linear(x.mean((2, 3)), torch.ones(3, 6)),
    lambda x: functional.conv2d(x.mean((2, 3), keepdim=True), torch.ones(3, 6, 1, 1)),
    lambda x: functional.pad(x.mean((2, 3)), (1, 1)),
    lambda x: functional.interpolate(x.mean((2, 3), keepdim=True), scale_factor=1.0),
    lambda x: x.mean((2, 3)) @ torch.ones(6, 6),
    lambda x: torch.cdist(x.mean((2, 3)), x.mean((2, 3))),
    lambda x: functional.scaled_dot_product_attention(*[x.mean((2, 3))[:, None]] * 3),
    lambda x: torch.einsum("nc,kc->nk", x.mean((2, 3)), torch.ones(4, 6)),
    lambda x: torch.addmm(torch.ones(4), x.mean((2, 3)), torch.ones(6, 4)),
    lambda x: x.mean((2, 3)).view(2, 3, 2).transpose(1, 2),
    lambda x: x.mean((2, 3))[:, 0],
    lambda x: torch.stack([x.mean((2, 3))] * 2).mean(0),
]


@pytest.mark.parametrize("function", POOLED)
def test_what_happens_to_a_vector_has_no_positions(function: Callable[[Tensor], Tensor]) -> None:
    _, positions, found = walked(function, (6, SQUARE, SQUARE))
    assert positions.axes == ()
    assert positions.flattened == ()
    assert found.remarks == []


REMARKED: list[tuple[Callable[[Tensor], Tensor], str, str]] = [
    (lambda x: x * x.mean((2, 3), keepdim=True), "global", "sees the whole picture at every position"),
    (lambda x: x.softmax(-1), "global", "weighs all positions against each other"),
    (lambda x: functional.softmin(x, 2), "global", "weighs all positions against each other"),
    (lambda x: nn.Softmax2d()(x.transpose(1, 2)), "global", "weighs all positions against each other"),
    (lambda x: functional.normalize(x, dim=2), "global", "normalises over all positions"),
    (lambda x: functional.normalize(x.movedim(1, -1)), "global", "normalises over all positions"),
    (lambda x: functional.layer_norm(x, x.shape[2:]), "global", "normalises over all positions"),
    (lambda x: functional.layer_norm(x, x.shape[-1:]), "global", "normalises over all positions"),
    (lambda x: functional.group_norm(x, 2), "global", "normalises over all positions"),
    (lambda x: functional.instance_norm(x), "global", "normalises over all positions"),
    (lambda x: x.flatten(2) @ x.flatten(2).mT, "global", "sums over all positions"),
    (lambda x: torch.einsum("nchw->nc", x), "global", "sums over all positions"),
    (lambda x: x.flatten(2).mT @ x.mean((2, 3))[..., None], "global", "sees the whole picture at every position"),
]


@pytest.mark.parametrize(("function", "kind", "text"), REMARKED)
def test_what_is_global_is_remarked_once(function: Callable[[Tensor], Tensor], kind: str, text: str) -> None:
    for each in (function, lambda x: (function(x), function(x))[0]):
        _, _, found = walked(each, (6, SQUARE, SQUARE))
        assert {(remark.kind, remark.text) for remark in found.remarks} == {(kind, text)}
        assert len(found.wide) >= 1


def test_what_normalises_channels_is_not_remarked() -> None:
    for function in (lambda x: functional.normalize(x), lambda x: functional.normalize(x, dim=-3)):
        assert walked(function, (6, SQUARE, SQUARE))[2].remarks == []


# Windows, against what gradients see of ones: all weights are positive, so that the first and the last unit seen
# by a unit are the ends of its field.


def positive(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    return layer.eval()


def extent(net: nn.Module, length: tuple[int, int], unit: tuple[int, int]) -> list[tuple[int, int]]:
    """The first and the last row and column that a unit depends on."""
    image = torch.ones(1, 2, *length, requires_grad=True)
    net(image)[0, :, unit[0], unit[1]].sum().backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0) > 0
    ends = []
    for axis in (1, 0):
        touched = seen.any(axis).nonzero()[:, 0].tolist()
        ends.append((touched[0], touched[-1]))
    return ends


def takes_two_channels(step: nn.Module) -> nn.Module:
    """A network that says what it takes: a function does not."""
    net = nn.Sequential(step)
    net.in_channels = 2  # type: ignore[assignment]
    net.example = (2, 48, 48)  # type: ignore[assignment]
    return net


def assert_sees(net: nn.Module, length: tuple[int, int] = (40, 43), *, exactly: bool = True) -> Outputs:
    found = outputs(net)
    shape = net(torch.zeros(1, 2, *length)).shape[2:]
    unit = shape[0] // 2, shape[1] // 2
    for axis, (first, last) in enumerate(extent(net, length, unit)):
        path = found.along(axis)[0]
        for more in range(3):
            given = [length[0], length[1]]
            given[axis] += more
            assert size(path, given[axis]) == net(torch.zeros(1, 2, *given)).shape[2 + axis]
        line = axis_map(path)
        centre = line.scale * unit[axis] + line.shift
        if exactly:
            assert (centre - line.reach, centre + line.reach) == (first, last)
        else:
            assert centre - line.reach <= first <= last <= centre + line.reach
    return found


PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(
    kernel=PAIRS, stride=PAIRS, dilation=PAIRS, padding=st.sampled_from(["same", "valid", 0, 2, (1, 3)]),
    layer=st.booleans(),
)  # fmt: skip
def test_convolutions_see_what_their_settings_say(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], padding: Any, layer: bool
) -> None:
    stride = (1, 1) if padding == "same" else stride
    made = positive(nn.Conv2d(2, 2, kernel, stride, padding, dilation, bias=False))
    weight = torch.ones(2, 2, *kernel)
    function = Apply(lambda x: functional.conv2d(x, weight, None, stride, padding, dilation))
    assert_sees(takes_two_channels(made if layer else function))


@given(kernel=PAIRS, stride=PAIRS, padding=st.tuples(st.integers(0, 1), st.integers(0, 1)), layer=st.booleans())
def test_transposed_convolutions_give_as_many_units(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], layer: bool
) -> None:
    kernel = tuple(max(each, 2) for each in kernel)  # type: ignore[assignment]
    made = positive(nn.ConvTranspose2d(2, 2, kernel, stride, padding, bias=False))
    weight = torch.ones(2, 2, *kernel)
    stated = [padding] if any(padding) else []
    function = Apply(lambda x: functional.conv_transpose2d(x, weight, None, stride, *stated))
    for axis in (0, 1):
        net = nn.Sequential(made if layer else function)
        path = outputs(net).along(axis)[0]
        for length in (9, 10):
            given = (length, 12) if axis == 0 else (12, length)
            assert size(path, length) == net(torch.zeros(1, 2, *given)).shape[2 + axis]
        assert axis_map(path).scale == Fraction(1, stride[axis])


@given(
    kernel=st.tuples(st.integers(2, 4), st.integers(2, 4)), stride=st.one_of(st.none(), PAIRS),
    padding=st.integers(0, 1), ceil=st.booleans(), layer=st.booleans(),
)  # fmt: skip
def test_pools_see_what_their_settings_say(
    kernel: tuple[int, int], stride: tuple[int, int] | None, padding: int, ceil: bool, layer: bool
) -> None:
    average = nn.AvgPool2d(kernel, stride, padding, ceil)
    function = Apply(lambda x: functional.avg_pool2d(x, kernel, stride, padding, ceil))
    assert_sees(takes_two_channels(average if layer else function))


@pytest.mark.parametrize(
    "settings", [(3,), (3, 2), (2, [], 1), ((3,), (2,), (1,)), (3, 2, 1, 2), ((2, 3), (2, 1), (1, 0))]
)
def test_max_pools_see_no_more_than_their_settings_say(settings: tuple[Any, ...]) -> None:
    for ceil in (False, True):
        function = Apply(lambda x, ceil=ceil: functional.max_pool2d(x, *settings, ceil_mode=ceil))  # type: ignore[misc]
        for pool in (nn.MaxPool2d(*settings, ceil_mode=ceil), function):
            assert_sees(takes_two_channels(pool), exactly=False)
    functions = Apply(lambda x: functional.max_pool2d(x, *settings)), Apply(lambda x: torch.max_pool2d(x, *settings))
    for pool in (nn.MaxPool2d(*settings), *functions):
        found = assert_sees(takes_two_channels(pool), exactly=False)
        kernel, dilation = settings[0], settings[3] if len(settings) > 3 else 1
        high = kernel[0] if isinstance(kernel, tuple) else kernel
        assert axis_map(found.along(0)[0]).field == dilation * (high - 1) + 1


def test_padding_goes_to_the_side_that_is_named() -> None:
    taps = positive(nn.Conv2d(2, 2, 3, bias=False))
    for sides in ((1, 2, 3, 4), (0, 5), (2, 0, 0, 0), (-1, -2, -3, 0), (0, 0, 0, 0, 0, 0)):
        pad = Apply(lambda x, sides=sides: functional.pad(x, sides))  # type: ignore[misc]
        assert_sees(takes_two_channels(nn.Sequential(pad, taps)))
    assert_sees(takes_two_channels(nn.Sequential(nn.ZeroPad2d(2), taps)))


def test_padding_of_channels_moves_nothing() -> None:
    _, positions, _ = walked(lambda x: functional.pad(x, (0, 0, 0, 0, 1, 2)), (6, SQUARE, SQUARE))
    assert positions == Positions(rows=-2, columns=-1)


@pytest.mark.parametrize(
    "layer",
    [nn.ReflectionPad2d((2, 1, 0, 3)), nn.Conv2d(2, 2, 5, padding=(3, 2), padding_mode="reflect")],
)
def test_reflection_needs_something_to_reflect(layer: nn.Module) -> None:
    found = outputs(nn.Sequential(layer))
    for axis in (0, 1):
        for length in range(1, 7):
            given = (length, 12) if axis == 0 else (12, length)
            try:
                expected = layer(torch.zeros(1, 2, *given)).shape[2 + axis]
            except RuntimeError:
                expected = 0
            assert max(0, size(found.along(axis)[0], length)) == expected


def test_padding_by_the_size_is_remarked() -> None:
    remarks = outputs(Apply(lambda x: functional.pad(x, (0, x.shape[-1] % 2)))).remarks
    assert [remark.kind for remark in remarks] == ["padding"]
    assert outputs(Apply(lambda x: functional.pad(x, (0, 1)))).remarks == ()


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area", "bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("antialias", [False, True])
def test_shrinking_looks_at_the_block(mode: str, factor: int, antialias: bool) -> None:
    if antialias and not mode.startswith("bi"):
        return
    shrink = Apply(lambda x: functional.interpolate(x, scale_factor=1 / factor, mode=mode, antialias=antialias))
    length = 12 * factor, 13 * factor
    found = outputs(takes_two_channels(shrink))
    assert found.strides == (factor, factor)
    for axis, (first, last) in enumerate(extent(shrink, length, (6, 6))):
        line = axis_map(found.along(axis)[0])
        assert size(found.along(axis)[0], length[axis]) == length[axis] // factor
        assert 6 * factor + line.shift - line.reach <= first <= last <= 6 * factor + line.shift + line.reach
        assert first + last == 2 * (6 * factor + line.shift)
        assert line.field <= last - first + 3


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_enlarging_looks_at_its_neighbours(mode: str, factor: int) -> None:
    enlarge = Apply(lambda x: functional.interpolate(x, scale_factor=float(factor), mode=mode))
    found = outputs(takes_two_channels(enlarge))
    assert found.multiples == (1, 1)
    wide = []
    for unit in range(8 * factor, 9 * factor):
        for axis, (first, last) in enumerate(extent(enlarge, (16, 17), (unit, unit))):
            line = axis_map(found.along(axis)[0])
            assert size(found.along(axis)[0], 16) == 16 * factor
            centre = line.scale * unit + line.shift
            assert centre - line.reach <= first <= last <= centre + line.reach
            wide.append(line.field - (last - first + 1))
    assert min(wide) <= 2


def test_a_map_is_enlarged_to_that_of_another() -> None:
    down = nn.Conv2d(2, 2, 3, 2, 1)

    class Fused(nn.Module):
        def __init__(self, *, whole: bool) -> None:
            super().__init__()
            self.first, self.second, self.whole = nn.Conv2d(2, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, 2, 1), whole

        def forward(self, x: Tensor) -> Tensor:
            fine = self.first(x)
            coarse = self.second(fine if self.whole else fine[..., 1:, 1:])
            return fine + functional.interpolate(coarse, size=fine.shape[2:])

    found = outputs(takes_two_channels(Fused(whole=True)))
    assert found.strides == (2, 2)
    assert [remark.kind for remark in found.remarks] in ([], ["misaligned"])
    up = nn.Sequential(down, nn.Conv2d(2, 2, 3, 2, 1), nn.Upsample(scale_factor=2))
    assert outputs(up).multiples == (4, 4)
    assert outputs(up).strides == (2, 2)


@pytest.mark.parametrize("wide", [(2, 4), (4, 2), (8, 8)])
def test_adaptive_pools_by_whole_factors_are_windows(wide: tuple[int, int]) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(wide))
    recorded = record(net, (2, 16, 16))
    found = walk(recorded)
    last = list(found.positions.values())[-1]
    assert last.stride == (16 // wide[0], 16 // wide[1])
    image = torch.rand(1, 2, 16, 16)
    torch.testing.assert_close(recorded(image), net(image))
    assert recorded(torch.rand(1, 2, 32, 16)).shape == (1, 2, 2 * wide[0], wide[1])


def test_a_pool_to_several_units_is_a_window_without_a_batch_too() -> None:
    recorded = record(Apply(lambda x: functional.adaptive_avg_pool2d(x[0], (4, 8))[None]), (2, 16, 16))
    assert recorded(torch.rand(2, 2, 32, 32)).shape == (1, 2, 8, 16)
    assert list(walk(recorded).positions.values())[-1].stride == (4, 2)


def test_shuffling_needs_whole_blocks() -> None:
    down = nn.Conv2d(2, 4, 3, 2, 1)
    up = outputs(nn.Sequential(down, nn.PixelShuffle(2)))
    assert (up.strides, up.multiples) == ((1, 1), (2, 2))
    assert outputs(nn.Sequential(down, nn.PixelUnshuffle(1))).strides == (2, 2)
    unshuffled = outputs(nn.Sequential(down, nn.PixelUnshuffle(2)))
    assert (unshuffled.strides, unshuffled.multiples) == ((4, 4), (4, 4))
    for axis in (0, 1):
        assert axis_map(unshuffled.along(axis)[0]).field == 3 + 2


def test_rows_split_into_blocks_and_joined_again() -> None:
    def blocks(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, c, h // 4, 4, w).mean(3)

    found = outputs(nn.Sequential(Apply(blocks)))
    assert (found.strides, found.multiples) == ((4, 1), (4, 1))
    assert axis_map(found.along(0)[0]).field == 4

    def spread(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, c // 2, 2, h, w).permute(0, 1, 3, 4, 2).reshape(n, c // 2, h, w * 2)

    assert outputs(nn.Sequential(nn.Conv2d(3, 6, 1), Apply(spread))).strides == (1, Fraction(1, 2))


# Joins.


class Sum(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = (branch(x) for branch in self.branches)
        for other in others:
            first = torch.cat([first, other], 1)
        return first


def shifted(pixels: int) -> nn.Module:
    return Apply(lambda x: functional.pad(x, (pixels, -pixels, pixels, -pixels)))


def test_a_join_is_centred_between_its_branches_and_sees_what_they_see() -> None:
    found = outputs(nn.Sequential(Sum(nn.Conv2d(2, 2, 5, padding=2), shifted(6))))
    for axis in (0, 1):
        line = axis_map(found.along(axis)[0])
        assert found.drifts_along(axis) == [Fraction(-3)]  # the middle of 0 and -6
        assert line.shift == 0
        assert line.reach == 6
        assert size(found.along(axis)[0], 20) == 20
    assert [remark.text for remark in found.remarks] == ["joins maps 6 px apart; alignment takes the middle of all"]
    moved = outputs(Sum(nn.Sequential(shifted(3), nn.Conv2d(2, 2, 5, padding=2)), shifted(5)))
    assert [remark.text for remark in moved.remarks] == ["joins maps 2 px apart; alignment takes the middle of all"]
    again = outputs(nn.Sequential(Sum(Sum(nn.Conv2d(2, 2, 5, padding=2), shifted(6)), shifted(3))))
    assert again.drifts_along(0) == [Fraction(-3)]
    assert outputs(nn.Sequential(Sum(nn.Conv2d(2, 2, 5, padding=2), nn.Conv2d(2, 2, 1)))).remarks == ()


@pytest.mark.parametrize(
    ("first", "second", "multiple"),
    [
        (nn.Conv2d(3, 2, 3, 2, 1), nn.Conv2d(3, 2, 1, 2), 1),  # both round up
        (nn.Conv2d(3, 2, 3, 2, 1), nn.AvgPool2d(2), 2),  # one rounds down
        (nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(3, 2, 3, 2, 1), 1),
        (nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, 2, 1)), nn.Conv2d(3, 2, 1, 4), 1),
        (nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.AvgPool2d(2)), nn.Conv2d(3, 2, 1, 4), 4),
        (nn.AvgPool2d(4), nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2)), 1),
        (nn.Identity(), nn.Conv2d(3, 2, 3, padding=1), 1),
    ],
)
def test_branches_that_round_apart_need_whole_multiples(first: nn.Module, second: nn.Module, multiple: int) -> None:
    assert outputs(Sum(first, second)).multiples == (multiple, multiple)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), Sum(first, second))
    assert outputs(net).multiples == (multiple, multiple)
    for length in range(16, 25):
        fits = True
        try:
            net(torch.zeros(1, 3, length, 16))
        except RuntimeError:
            fits = False
        assert fits or length % multiple


# Counting and settling.


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.conv2d(x, torch.ones(4, 3, 3, 2), groups=2),
        lambda x: functional.conv_transpose2d(x, torch.ones(6, 5, 3, 2), stride=2),
        lambda x: functional.linear(x.movedim(1, -1), torch.ones(4, 6)),
        lambda x: x.movedim(1, -1) @ torch.ones(6, 5),
        lambda x: torch.einsum("nchw,kc->nkhw", x, torch.ones(4, 6)),
        lambda x: torch.einsum("nchw,nkhw->nck", x, x),
        lambda x: torch.relu(x),
    ],
)
def test_multiply_adds_are_those_that_pytorch_counts(function: Callable[[Tensor], Tensor]) -> None:
    net = Apply(function)
    found = inspect(net, size=(5, 7), channels=6)
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 6, 5, 7))
    assert 2 * found.multiply_adds == counter.get_total_flops()


def test_reductions_one_after_the_other_are_one() -> None:
    def taken(function: Callable[[Tensor], Tensor]) -> Tensor:
        recorded = record(Apply(function), (3, 8, 8))
        walk(recorded)
        image = torch.rand(2, 3, 9, 11)
        torch.testing.assert_close(recorded(image), function(image))
        names = [spelling(node) for node in recorded.graph.nodes if node.op.startswith("call")]
        assert len(names) == 1
        return image

    taken(lambda x: x.mean(3).mean(2))
    taken(lambda x: x.mean(2).mean(-1))
    taken(lambda x: x.mean(-1, keepdim=True).mean(-2, keepdim=True))
    taken(lambda x: x.sum((2,)).sum(2))
    taken(lambda x: x.amax(dim=1).amax(dim=(1, 2)))
    for other in (lambda x: x.mean(3).sum(2), lambda x: x.std(3).std(2), lambda x: x.mean(3, keepdim=True).mean(2)):
        recorded = record(Apply(other), (3, 8, 8))
        image = torch.rand(2, 3, 8, 8)
        torch.testing.assert_close(recorded(image), other(image))
        assert len([node for node in recorded.graph.nodes if node.op.startswith("call")]) == 2


def test_a_pool_as_large_as_its_map_is_one_to_a_single_unit() -> None:
    for function in (
        lambda x: functional.avg_pool2d(x, x.shape[2:]),
        lambda x: functional.max_pool2d(x, (x.shape[2], x.shape[3])),
        lambda x: functional.avg_pool2d(x, x.shape[2]),
        lambda x: functional.avg_pool2d(x, kernel_size=x.shape[2:]),
    ):
        recorded = record(Apply(function), (3, 8, 8))
        assert recorded(torch.rand(2, 3, 12, 12)).shape == (2, 3, 1, 1)
        assert list(walk(recorded).positions.values())[-1].axes == ()


@pytest.mark.parametrize(
    ("function", "kind", "chance"),
    [
        (lambda x: functional.dropout(x, 0.25, training=False), nn.Dropout, 0.25),
        (lambda x: functional.dropout(x, training=False), nn.Dropout, 0.5),
        (lambda x: functional.dropout2d(x, 0.125, False), nn.Dropout2d, 0.125),
    ],
)
def test_dropout_keeps_its_chance(function: Callable[[Tensor], Tensor], kind: type[nn.Module], chance: float) -> None:
    recorded = record(Apply(function), (3, 8, 8))
    dropped = [module for module in recorded.modules() if isinstance(module, kind)]
    assert [module.p for module in dropped] == [chance]


def test_lengths_are_computed_anew_at_every_size() -> None:
    def lengths(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = [
            h + 1,
            1 + h,
            h - 2,
            20 - h,
            h * 3,
            3 * w,
            h // 2,
            40 // w,
            w % 4,
            50 % w,
            -h,
            h + w,
            h - w,
            h * w,
            w // h,
        ]
        parts += [h**2, 2 ** (w // 4), h >> 1, h << 2, x.numel(), x.size(-1), x.size(dim=2), n * c]
        return x.mean() + sum(part * (1 + index) for index, part in enumerate(parts))

    recorded = record(Apply(lengths), (3, 8, 9))
    for shape in ((2, 3, 8, 9), (3, 3, 11, 17)):
        image = torch.rand(shape)
        torch.testing.assert_close(recorded(image), lengths(image))


def test_settings_are_as_many_numbers_as_there_are_axes() -> None:
    assert prod(walked(lambda x: functional.avg_pool2d(x, (2, 4)), (6, 8, 8))[0]) == 2 * 6 * 4 * 2
