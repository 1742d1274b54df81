"""Whatever graph is written as Caffe's layers computes what it computed; what cannot be written is refused by name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.caffe import load
from fullyconv.caffe.margins import covered, moved, repeated
from fullyconv.caffe.text import Written, to_text
from fullyconv.caffe.trunk import TrunkWriter
from fullyconv.caffe.wire import write_weights
from fullyconv.surgery.trunk import Trunk

CHANNELS = 2


def computed(layers: Sequence[Written], image: Tensor) -> Tensor:
    """Compute the last layer's top from files."""
    data = Written("data", "Input", (), "data", {"shape": {"dim": list(image.shape)}})
    blobs = {
        layer.name: (layer.kind, [blob.values.detach().numpy() for blob in layer.blobs])
        for layer in layers
        if layer.blobs
    }
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        net, weights = Path(folder) / "net.prototxt", Path(folder) / "net.caffemodel"
        net.write_text(to_text("net", [data, *layers]))
        write_weights(weights, "net", blobs)
        return load(net, weights)({"data": image})[layers[-1].top]


ENDS = st.tuples(st.integers(-2, 4), st.integers(-2, 4))
SIZES = st.tuples(st.integers(1, 3), st.integers(5, 9), st.integers(5, 9))


@settings(max_examples=20)
@given(SIZES, ENDS, ENDS)
def test_maps_are_moved_as_padding_moves_them(
    size: tuple[int, int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image = torch.randn(1, *size)
    found = computed([moved("top", "data", size[0], rows, columns)], image)
    assert torch.equal(found, functional.pad(image, (*columns, *rows)))


@settings(max_examples=20)
@given(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)))
def test_borders_repeat_exactly(size: tuple[int, int, int]) -> None:
    image = torch.randn(1, *size)
    found = computed(repeated("top", "data", size[0]), image)
    assert torch.equal(found, functional.pad(image, (1, 1, 1, 1), mode="replicate"))


@settings(max_examples=20)
@given(SIZES, st.tuples(*[st.integers(0, 5)] * 2), st.tuples(*[st.integers(1, 6)] * 2))
def test_pictures_become_whole_multiples(
    size: tuple[int, int, int], margins: tuple[int, int], multiples: tuple[int, int]
) -> None:
    image = torch.randn(1, *size)
    found = computed(covered("top", "data", size[0], margins, multiples), image)
    ends = []
    for length, margin, multiple in reversed([*zip(size[1:], margins, multiples, strict=True)]):
        ends += [margin, -(length + 2 * margin) % multiple + margin]
    assert torch.equal(found, functional.pad(image, ends))


class Normed(nn.BatchNorm2d):
    """Batch normalisation that holds what comes behind it, as timm's does."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__(CHANNELS)
        self.drop, self.act = nn.Identity(), act

    def forward(self, features: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(features)))


class Graph(Trunk):
    """A convolution, and a function of its map and of a few layers."""

    channels = (CHANNELS,)

    def __init__(self, after: Callable[[Graph, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, CHANNELS, 3), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Conv2d(CHANNELS, CHANNELS, 3))
        self.valid, self.pool, self.idle = nn.Conv2d(CHANNELS, CHANNELS, 3), nn.MaxPool2d(2, 2), nn.Identity()
        self.rectified, self.silent = Normed(nn.ReLU6()), Normed(nn.Identity())
        self.smooth, self.replicated = Normed(nn.SiLU()), nn.ReplicationPad2d(1)
        self.average = nn.AvgPool2d(3, 2, padding=1, ceil_mode=True)
        self.after = after

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.after(self, self.first(image)),)


WRITTEN: dict[str, Callable[[Graph, Tensor], Tensor]] = {
    "what is read later is not changed": lambda g, x: x.relu() + x,
    "nor through what does nothing": lambda g, x: g.idle(x).relu() + g.second(x),
    "nor what a clip reads": lambda g, x: torch.cat((functional.relu6(x), x), 1),
    "a map twice": lambda g, x: torch.cat((x + x, x), 1),
    "rows and columns put on and cut": lambda g, x: functional.pad(x, (0, 3, -1, 2)),
    "a cut beside a map": lambda g, x: torch.cat((functional.pad(x, (-1, -1, -1, -1)), g.valid(x)), 1),
    "a cut beside nothing": lambda g, x: functional.pad(x, (-1, -2, -1, 0)),
    "layers called twice": lambda g, x: g.pool(g.second(g.pool(g.second(x)))),
    "averages": lambda g, x: g.average(x),
    "a function": lambda g, x: functional.conv2d(x, g.second.weight, g.second.bias, stride=2, padding=1),
    "normalised and rectified": lambda g, x: g.silent(g.rectified(x)) + x,
}  # fmt: skip
REFUSED: dict[str, tuple[Callable[[Graph, Tensor], Tensor], str]] = {
    "silu": (lambda g, x: functional.silu(x), "silu.*no layer in Caffe that this writer knows"),
    "rows": (lambda g, x: torch.cat((x, x), 2), "puts maps one after the other"),
    "sums of sizes": (lambda g, x: x + x.mean((2, 3), keepdim=True), "no layer in Caffe"),
    "numbers": (lambda g, x: x + 1, "joins maps with what does not depend on the picture"),
    "weighted": (lambda g, x: torch.add(x, g.second(x), alpha=2), "more than the sum of two maps"),
    "borders": (lambda g, x: g.replicated(x), "something else than zeros"),
    "ones": (lambda g, x: functional.pad(x, (1, 1, 1, 1), value=1.0), "something else than zeros"),
    "averages": (lambda g, x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False), "count their padding"),
    "weights": (lambda g, x: g.computed(x), "weights? (lie in a layer|that is computed)"),
    "activations": (lambda g, x: g.smooth(x), "holds an activation"),
}  # fmt: skip


def written(after: Callable[[Graph, Tensor], Tensor]) -> tuple[Graph, list[Written]]:
    torch.manual_seed(0)
    graph = Graph(after).eval()
    for norm in (graph.rectified, graph.silent):
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.weight, 0.5, 2)
    return graph, TrunkWriter(graph, "data", prefix="trunk", renamed={}, rated=False).layers


@pytest.mark.parametrize("name", WRITTEN)
def test_a_graph_in_caffes_layers_computes_the_same(name: str) -> None:
    graph, layers = written(WRITTEN[name])
    for size in ((37, 41), (24, 32)):
        image = torch.randn(1, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(computed(layers, image), graph(image)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_caffe_cannot_compute_is_refused_by_name(name: str) -> None:
    after, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        written(after)
