"""The walk against what the network does: sizes, and where units look by back-propagation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.geometry import axis_map, size
from fullyconv.trace import NotFollowed, outputs, record, walk


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def space_to_depth(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, c * 4, h // 2, w // 2)[:, :2]


def channels_last(x: Tensor) -> Tensor:
    y = functional.gelu(functional.layer_norm(x.permute(0, 2, 3, 1), (2,)))
    return (y @ torch.eye(2)).movedim(-1, 1)


def grouped(x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    return x.reshape(n, 1, 2, h, w).mean(1).unsqueeze(2).squeeze(2)


def flat(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.flatten(2).transpose(1, 2).softmax(-1).transpose(1, 2).reshape(n, c, h, w)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(2, 2, 3, padding=1),
    "valid conv": lambda: nn.Conv2d(2, 2, (3, 2)),
    "strided conv": lambda: nn.Conv2d(2, 2, 3, 2, 1),
    "dilated conv": lambda: nn.Conv2d(2, 2, 3, padding="same", dilation=2),
    "functional conv": lambda: Apply(lambda x: functional.conv2d(x, torch.ones(2, 1, 2, 2), stride=2, groups=2)),
    "max pool": lambda: nn.MaxPool2d(3, 2, 1),
    "ceil pool": lambda: nn.MaxPool2d(2, 2, ceil_mode=True),
    "avg pool": lambda: Apply(lambda x: functional.avg_pool2d(x, 2)),
    "pad": lambda: Apply(lambda x: functional.pad(x, (1, 0, 0, 2))),
    "crop": lambda: Apply(lambda x: x[..., 1:, :-1]),
    "stride by slicing": lambda: Apply(lambda x: x[:, :, ::2, 1::2]),
    "reflect": lambda: nn.ReflectionPad2d(1),
    "channels last": lambda: Apply(channels_last),
    "grouped": lambda: Apply(grouped),
    "flat": lambda: Apply(flat),
    "split": lambda: Apply(lambda x: torch.cat(x.split(1, dim=1)[::-1], 1)),
    "residual": lambda: Apply(lambda x: x + functional.max_pool2d(x, 3, 1, 1)),
}

EVEN_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "space to depth": lambda: Apply(space_to_depth),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "bilinear": lambda: Apply(lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear")),
    "transposed": lambda: nn.ConvTranspose2d(2, 2, 4, 2, 1),
}


@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4), st.integers(40, 50), st.integers(40, 50))
def test_sizes_are_those_of_the_network(names: list[str], height: int, width: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), *(LAYERS[name]() for name in names)).eval()
    paths = outputs(net).paths[0]
    shape = net(torch.zeros(1, 3, height, width)).shape
    assert [size(path, length) for path, length in zip(paths, (height, width), strict=True)] == list(shape[2:])


def seen_by(net: nn.Module, image: Tensor, row: int, column: int) -> tuple[list[int], list[int]]:
    """Tell which rows and columns a unit depends on."""
    image = image.clone().requires_grad_()
    net(image)[0, :, row, column].square().sum().backward()
    assert image.grad is not None
    touched = image.grad[0].abs().sum(0) > 0
    return touched.any(1).nonzero()[:, 0].tolist(), touched.any(0).nonzero()[:, 0].tolist()


@given(
    st.lists(st.sampled_from(sorted(EVEN_LAYERS)), max_size=1), st.lists(st.sampled_from(sorted(LAYERS)), max_size=3)
)
def test_units_see_no_more_than_their_field_and_its_middle(first: list[str], then: list[str]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 1), *((LAYERS | EVEN_LAYERS)[name]() for name in [*first, *then])).eval()
    traced = outputs(net)
    image = torch.rand(1, 3, 64, 64)
    shape = net(image).shape[2:]
    place = (shape[0] // 2, shape[1] // 2)
    for axis, touched in enumerate(seen_by(net, image, *place)):
        line = axis_map(traced.paths[0][axis])
        centre = line.scale * place[axis] + line.shift
        assert touched
        assert centre - line.reach <= min(touched)
        assert max(touched) <= centre + line.reach


def test_what_needs_whole_multiples_says_so() -> None:
    down = nn.Conv2d(3, 2, 3, 2, 1)
    assert outputs(nn.Sequential(down, Apply(space_to_depth))).multiples == (4, 4)
    assert outputs(nn.Sequential(down, nn.Upsample(scale_factor=2))).multiples == (2, 2)
    assert outputs(down).multiples == (1, 1)


class Squeeze(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Squeeze(), "1: sees the whole picture at every position"),
        (nn.GroupNorm(1, 2), "1: normalises over all positions"),
    ],
)
def test_what_stays_global_is_said(layer: nn.Module, words: str) -> None:
    remarks = outputs(nn.Sequential(nn.Conv2d(3, 2, 3), layer)).remarks
    assert [(remark.kind, str(remark)) for remark in remarks] == [("global", words)]


class Crooked(nn.Module):
    """A shortcut by average pooling beside a convolution: half a unit apart, as in ResNet-D."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(x, 3, 2, 1) + functional.avg_pool2d(x, 2, 2)


def test_branches_apart_are_said_and_the_field_covers_both() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), Crooked())
    traced = outputs(net)
    assert walk(record(net)).wide == set()  # that is no global operation
    assert [(remark.kind, remark.text) for remark in traced.remarks] == [
        ("misaligned", "joins maps 0.5 px apart; alignment takes the middle of all")
    ]
    line = axis_map(traced.along(0)[0])
    assert (line.scale, line.shift) == (2, 0)
    assert line.shift - line.reach <= -1
    assert line.shift + line.reach >= 1


def attend(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (attend, r"1 \(matmul\): is attention: it compares positions with positions"),
        (
            lambda x: functional.scaled_dot_product_attention(x.flatten(2), x.flatten(2), x.flatten(2)),
            r"1 \(scaled_dot_product_attention\): is attention",
        ),
        (lambda x: functional.linear(x.flatten(2), torch.ones(4, 64)), r"1 \(linear\): is fully connected over pos"),
        (lambda x: torch.cat([x.flatten(2), torch.zeros(2, 2, 1)], 2), r"1 \(cat\): adds tokens to the positions"),
        (lambda x: x.reshape(2, 2, 4, 16) + 0, r"1 \(reshape\): .*"),
        (lambda x: x.permute(0, 2, 3, 1).reshape(-1, 2, 8, 2), r"1 \(reshape\): .* moves positions into the batch"),
        (lambda x: x.flatten(2).view(2, 2, 8, 8), r"1 \(view\): fixes rows and columns by reshaping"),
        (lambda x: functional.interpolate(x, size=(16, 16)), r"1 \(interpolate\): fixes rows and columns"),
        (lambda x: x.cumsum(2), r"1 \(cumsum\): runs along rows or columns"),
        (lambda x: x.roll(1, 2), r"1 \(roll\): runs along rows or columns"),
        (lambda x: torch.cdist(x, x), r"1 \(cdist\): how this operation treats positions is not known"),
        (lambda x: x[:, :, 0], r"1 \(getitem\): takes single positions out of a map"),
        (lambda x: x.mean(2), r"1 \(mean\): reduces one of rows and columns"),
        (
            lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
            r"1 \(interpolate\): interpolates with align_corners",
        ),
    ],
)
def test_what_has_no_fully_convolutional_form_is_named(function: Callable[[Tensor], Tensor], words: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), Apply(function))
    with pytest.raises(NotFollowed, match=words):
        walk(record(net, (3, 8, 8)))
