from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.trace import complete, record
from fullyconv.trace.nodes import FROZEN, SHAPE, spelling


class Shuffled(nn.Module):
    """Shape arithmetic, methods, operators, functions and parameters used outside of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.gain = nn.Parameter(torch.full((8, 1, 1), 2.0))
        self.held = torch.arange(8.0)[:, None, None]  # neither parameter nor buffer

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(x, Tensor)
        x = functional.relu(self.norm(self.conv(x)), inplace=True)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w)
        x += self.held
        left, right = x.chunk(2, dim=1)
        return torch.cat([right, left * self.gain[:4]], 1) - 1 / x.size(1)


@pytest.mark.parametrize("size", [(16, 16), (31, 40)])
def test_the_graph_gives_what_the_network_gives_at_any_size(size: tuple[int, int]) -> None:
    net = Shuffled().eval()
    recorded = record(net, (3, 16, 16))
    image = torch.randn(3, 3, *size)
    with torch.no_grad():
        assert torch.equal(recorded(image), net(image))


def test_it_shares_parameters_under_their_names_and_trains_as_the_network() -> None:
    net = Shuffled()
    recorded = record(net)
    assert recorded.conv.weight is net.conv.weight
    assert set(dict(recorded.named_parameters())) == set(dict(net.named_parameters()))
    image = torch.randn(4, 3, 9, 9)
    recorded.train()
    recorded(image).square().sum().backward()
    gradient = net.gain.grad
    assert gradient is not None
    assert net.norm.num_batches_tracked == 1  # training mode reaches the layers
    net.gain.grad = None
    net.train()(image).square().sum().backward()
    assert torch.allclose(gradient, net.gain.grad)


def test_recording_leaves_the_network_as_it_was() -> None:
    net = Shuffled()
    net.conv.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    record(net)
    assert net.training
    assert not net.conv.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Same(nn.Module):
    """Padding that depends on the size, as TensorFlow's."""

    def forward(self, x: Tensor) -> Tensor:
        short = (-x.shape[-1]) % 4
        return functional.max_pool2d(functional.pad(x, (short // 2, short - short // 2)), 4)


def test_padding_by_the_size_is_frozen_to_the_examples() -> None:
    recorded = record(Same(), (1, 8, 10))
    pad = next(node for node in recorded.graph.nodes if spelling(node) == "pad")
    assert pad.args[1] == (1, 1)
    assert pad.meta[FROZEN]
    assert recorded(torch.zeros(1, 1, 8, 15)).shape[-1] == 4  # (15 + 2) // 4, where the network itself gives 16 / 4


class DropPath(nn.Module):
    """Noise as timm writes it: nothing at evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 if self.training else x


def test_noise_of_training_survives() -> None:
    recorded = record(nn.Sequential(nn.Conv2d(3, 2, 1), DropPath()))
    image = torch.randn(1, 3, 4, 4)
    assert recorded.train()(image).abs().max() == 0
    assert recorded.eval()(image).abs().max() > 0


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, self.training) + functional.dropout(torch.ones_like(x), training=True) * 0


def test_dropout_written_as_a_function_stays() -> None:
    recorded = record(nn.Sequential(nn.Conv2d(3, 2, 1), Dropping()))
    image = torch.randn(1, 3, 32, 32)
    assert 0.3 < (recorded.train()(image) == 0).float().mean() < 0.7
    assert (recorded.eval()(image) == 0).float().mean() == 0


class Leaking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.rrelu(x, training=False)


def test_what_draws_no_noise_is_not_taken_for_dropout() -> None:
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(record(Leaking())(image), Leaking()(image))


class Writing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0] = 0
        return y


def test_writing_into_a_tensor_is_refused_by_module() -> None:
    with pytest.raises(ValueError, match="1: writing into part of a tensor is not followed"):
        record(nn.Sequential(nn.ReLU(), Writing()))


def test_what_cannot_run_names_the_module_and_the_size() -> None:
    with pytest.raises(ValueError, match=r"a picture of \(3, 4, 4\) does not go through the network at '1'"):
        record(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 1, 7)), (3, 4, 4))


def test_what_is_written_into_a_recording_later_gets_its_shape_without_another_recording() -> None:
    recorded = record(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 8, 8))
    last = list(recorded.graph.nodes)[-2]
    recorded.add_submodule("more", nn.Conv2d(4, 2, 3, stride=2))
    with recorded.graph.inserting_after(last):
        made = recorded.graph.call_function(torch.movedim, (recorded.graph.call_module("more", (last,)), 1, -1))
    last.append(made.args[0])
    complete(recorded)
    assert made.meta[SHAPE] == (2, 2, 2, 2)
    assert made.args[0].meta[SHAPE] == (2, 2, 2, 2)
