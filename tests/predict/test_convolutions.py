"""Convolutions written as layers compute what was written before, at every size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.predict.convolutions import as_layers
from fullyconv.predict.onednn import ORDERS, SIZES, PackedConvolution, can_pack
from fullyconv.trace import record
from fullyconv.trace.activations import Activation
from fullyconv.trace.nodes import spelling

sides = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))


class Padded(nn.Module):
    """Pads one side otherwise than the other, and convolves by the function."""

    def __init__(self, around: tuple[int, ...], conv: nn.Conv2d, value: float = 0.0) -> None:
        super().__init__()
        self.around, self.conv, self.value = around, conv, value

    def forward(self, image: Tensor) -> Tensor:
        wide = functional.pad(image, self.around, value=self.value)
        conv = self.conv
        return functional.conv2d(
            wide, conv.weight, conv.bias, conv.stride, conv.padding, dilation=conv.dilation, groups=conv.groups
        )


@settings(max_examples=40, deadline=None)
@given(
    around=sides, kernel=st.integers(1, 4), stride=st.integers(1, 3), padding=st.integers(0, 2),
    dilation=st.integers(1, 2), by_channel=st.booleans(), bias=st.booleans(), more=st.integers(0, 3),
)  # fmt: skip
def test_they_compute_the_same(
    around: tuple[int, ...], kernel: int, stride: int, padding: int, dilation: int, *,
    by_channel: bool, bias: bool, more: int,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    groups = 4 if by_channel else 1
    conv = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias=bias)
    net = Padded(around, conv).eval()
    recorded = record(net, (4, 16, 16))
    as_layers(recorded)
    image = torch.randn(2, 4, 16 + more, 17)
    with torch.no_grad():
        torch.testing.assert_close(recorded(image), net(image), rtol=1e-5, atol=1e-5)
    left, right, above, below = around
    gone = {abs(left - right), abs(above - below)} <= {0, dilation}
    assert any(spelling(node) == "pad" for node in recorded.graph.nodes) != gone
    assert any(isinstance(layer, nn.Conv2d) and layer is not conv for layer in recorded.modules())


@pytest.mark.parametrize(
    "net",
    [
        Padded((0, 1, 0, 1), nn.Conv2d(3, 4, 3, 2), value=1.0),
        nn.Sequential(nn.ReflectionPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2)),
        nn.Sequential(nn.ZeroPad2d((-1, 0, -1, 0)), nn.Conv2d(3, 4, 3, 2)),
        nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")),
    ],
    ids=["ones", "mirrored", "cut", "round"],
)
def test_padding_that_is_no_zeros_stays(net: nn.Module) -> None:
    recorded = record(net.eval(), (3, 16, 16))
    as_layers(recorded)
    image = torch.randn(1, 3, 18, 16)
    with torch.no_grad():
        torch.testing.assert_close(recorded(image), net(image))


def test_padding_that_others_read_stays() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, image: Tensor) -> Tensor:
            wide = functional.pad(image, (0, 1, 0, 1))
            return self.conv(wide) + wide

    net = Read().eval()
    recorded = record(net, (3, 8, 8))
    as_layers(recorded)
    image = torch.randn(1, 3, 9, 8)
    with torch.no_grad():
        assert torch.equal(recorded(image), net(image))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("inputs", "filters", "kernel"), [(320, 1280, 1), (672, 192, 1), (192, 192, 3)])
def test_weights_lie_as_the_size_wants_them(kind: torch.dtype, inputs: int, filters: int, kernel: int) -> None:
    if not can_pack(kind):
        pytest.skip("this machine has no packed convolutions of that arithmetic")
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, filters, kernel, padding=kernel // 2)
    with torch.inference_mode():
        packed = PackedConvolution(conv, conv.weight, conv.bias, kind, Activation("relu"))
        for size in [
            (8, 9),
            (12, 15),
            (8, 9),
            (48, 60),
            (8, 9),
            (12, 15),
            *((5, 3 + more) for more in range(2 * SIZES)),
        ]:
            image = torch.randn(1, inputs, *size)
            expected = conv(image).relu()
            torch.testing.assert_close(
                packed(image).float(), expected, rtol=0, atol=1e-4 if kind == torch.float32 else 0.03
            )
    assert len(packed._by_size) == SIZES
    assert len({id(each) for each in (packed.packed, *packed._by_size.values()) if each is not None}) <= ORDERS
