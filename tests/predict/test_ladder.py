"""Labels straight from score maps are those of the network's own fusion, upsampling and argmax."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.networks import build
from fullyconv.networks.alignment import UpsamplingStage
from fullyconv.networks.architecture import Upsampling
from fullyconv.networks.fcn import FCN
from fullyconv.networks.heads import ManyHeads
from fullyconv.networks.trunks import backbone
from fullyconv.predict.ladder import Ladder, NotFinite
from fullyconv.threads import side_by_side
from fullyconv.upsample import Upsample

Pair = tuple[int, int]


class Head(nn.Module):
    """What a ladder needs of a network: any steps of any crops, with the network's own way up them."""

    def __init__(self, steps: Sequence[tuple[UpsamplingStage, UpsamplingStage]], classes: int, border: str) -> None:
        super().__init__()
        rows, columns = zip(*steps, strict=True)
        self.plans = SimpleNamespace(stages=rows), SimpleNamespace(stages=columns)
        self.upsamplers = nn.ModuleList(
            Upsample(
                classes,
                kernel=(row.kernel, column.kernel),
                stride=(row.factor, column.factor),
                border=border,
            )
            for row, column in steps
        )
        self.ladders, self.fusion = {"upsamplers": self.upsamplers}, "sum"

    fused, upsampled = FCN.fused, FCN.upsampled
    _climb, _to_image, _last_step, _fuse = FCN._climb, FCN._to_image, FCN._last_step, FCN._fuse


def check_labels(network: FCN, maps: list[Tensor], size: Pair) -> None:
    """Compare with float64: where labels differ, the two scores are equal but for rounding."""
    labels = Ladder(network).labels(maps, size)
    scores = network.upsampled(network.fused([scores.double() for scores in maps]), size)
    assert labels.shape == scores.shape[:1] + scores.shape[2:]
    assert labels.dtype == (torch.uint8 if scores.shape[1] <= 256 else torch.uint16)
    best = scores.max(1).values
    ours = scores.gather(1, labels.long()[:, None])[:, 0]
    rounding = 4e-6 * max(float(scores.abs().max()), max(float(each.abs().max()) for each in maps))
    assert float((best - ours).max()) <= rounding
    for rows, band in Ladder(network).bands(maps, size, rows=7):
        assert band.dtype == torch.float32
        assert float((band - scores[:, :, rows]).abs().max()) <= rounding


@st.composite
def axes(draw: st.DrawFn, border: str) -> tuple[list[UpsamplingStage], list[int], int]:
    """Draw the steps along an axis, the units of the maps that meet there, and the pixels."""
    units, length = [], draw(st.integers(1, 6))
    stages = []
    count = length
    for last in (False,) * draw(st.integers(0, 2)) + (True,):
        units.append(count)
        factor = draw(st.sampled_from([1, 2, 3, 4, 8, 16, 32] if last else [1, 2, 3]))
        kernel = max(2 * factor - draw(st.integers(0, 1)), 1)
        full = factor * (length - 1) + kernel
        ghosts = factor if border == "replicate" else 0
        least = -ghosts if last else 0  # an inner crop that begins before the map is a map that begins later
        offset = draw(st.integers(least, full - 1))
        if not last and draw(st.booleans()):
            offset = -draw(st.integers(1, 3))
        stages.append(UpsamplingStage(kernel, factor, offset, last=last))
        if not last and offset < 0:
            length = full
            count = full - offset + draw(st.integers(0, 2))
        else:
            room = full - offset + ghosts * (offset >= 0 or last)
            length = draw(st.integers(1, min(room, 70)))
            count = length
    return stages, units, length


@st.composite
def heads(draw: st.DrawFn) -> tuple[Head, list[Tensor], Pair]:
    border = draw(st.sampled_from(["zero", "replicate"]))
    rows, high, height = draw(axes(border))
    columns, wide, width = draw(axes(border).filter(lambda axis: len(axis[0]) == len(rows)))
    classes = draw(st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 300])))
    head = Head(list(zip(rows, columns, strict=True)), classes, border)
    head.fusion = draw(st.sampled_from(["sum", "max"]))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        for step in cast("Sequence[Upsample]", head.upsamplers):
            step.weight = nn.Parameter(torch.randn(classes, 1, *step.kernel), requires_grad=False)
    smooth, batch = draw(st.booleans()), draw(st.integers(1, 2))
    maps = [_scores(batch, classes, units, smooth) for units in zip(high, wide, strict=True)]
    if draw(st.booleans()):
        maps = [scores.contiguous(memory_format=torch.channels_last) for scores in maps]
    return head, maps, (height, width)


def _scores(batch: int, classes: int, size: Pair, smooth: bool) -> Tensor:
    if smooth:
        return functional.interpolate(torch.randn(batch, classes, 2, 2), size=size, mode="bilinear")
    return torch.randn(batch, classes, *size)


@given(heads())
@settings(max_examples=40, deadline=None)
def test_labels_and_bands_are_those_of_any_head(drawn: tuple[Head, list[Tensor], Pair]) -> None:
    head, maps, size = drawn
    check_labels(cast("FCN", head), maps, size)


@pytest.mark.parametrize("size", [(1, 1), (5, 33), (70, 41)])
@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("fcn8s-resnet18", 21),
        ("fcn16s-resnet18", 2),
        ("fcn32s-resnet18", 257),
        ("fcn8s-spectral8", 150),
        ("fcn4s-lenet", 1),
    ],
)
def test_labels_are_those_of_the_networks(name: str, classes: int, size: Pair) -> None:
    network = cast("FCN", build(name, classes))
    size = max(size[0], network.smallest_input[0]), max(size[1], network.smallest_input[1])
    with torch.inference_mode():
        maps = network.score_maps(torch.randn(2, network.in_channels, *size))
        check_labels(network, [torch.randn_like(scores) for scores in maps], size)


def test_each_task_of_two_has_its_ladder() -> None:
    network = ManyHeads(FCN(backbone("resnet18"), classes=4, skips=1, upsampling="learned"), {"geometric": 3})
    for step in cast("Sequence[Upsample]", network.geometric_upsamplers):
        nn.init.normal_(cast("nn.Parameter", step.weight))
    maps = [torch.randn(1, 3, 2, 3), torch.randn(1, 3, 4, 5)]
    labels = Ladder(network, "geometric_upsamplers").labels(maps, (40, 70))
    scores = network._to_image(
        network._climb(maps, network.geometric_upsamplers), network.geometric_upsamplers, (40, 70)
    )
    assert torch.equal(labels.long(), scores.argmax(1))


def test_of_equal_scores_the_first_class_wins() -> None:
    network = cast("FCN", build("fcn8s-resnet18", 5))
    maps = network.score_maps(torch.zeros(1, 3, 40, 40))
    assert all(not scores.any() for scores in maps)  # heads begin at zero
    assert not Ladder(network).labels(maps, (40, 40)).any()


@pytest.mark.parametrize("upsampling", ["fixed", "learned"])
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("place", [20, 200, 325])
def test_scores_that_are_not_finite_are_refused(junk: float, place: int, upsampling: Upsampling) -> None:
    network = build("fcn32s-resnet18", 21, upsampling=upsampling)
    if upsampling == "learned":
        network.upsamplers[0].weight.data *= 2
    maps = [torch.zeros(1, 21, 4, 4)]
    maps[0].view(-1)[place] = junk
    ladder = Ladder(network)
    if junk == 3e38 and upsampling == "fixed":
        assert ladder.labels(maps, (60, 60)).any()
        return
    with pytest.raises(NotFinite, match="not finite"):
        ladder.labels(maps, (60, 60))
    with pytest.raises(NotFinite, match="not finite"):
        next(ladder.bands(maps, (60, 60)))


@pytest.mark.parametrize(
    ("maps", "size"),
    [
        ([(1, 3, 2, 2)], (60, 60)),
        ([(1, 3, 2, 2), (1, 3, 4, 4)], (600, 60)),
        ([(1, 3, 2, 2), (1, 4, 4, 4)], (60, 60)),
        ([(1, 3, 2, 2), (2, 3, 4, 4)], (60, 60)),
        ([(1, 3, 2, 2), (1, 3, 40, 4)], (60, 60)),
    ],
)
def test_maps_of_another_image_are_refused(maps: list[tuple[int, ...]], size: Pair) -> None:
    ladder = Ladder(cast("FCN", build("fcn16s-resnet18", 3)))
    with pytest.raises(ValueError, match=r"takes 2 maps of N x 3|lie outside the upsampled map"):
        ladder.labels([torch.zeros(shape) for shape in maps], size)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_label(threads: int) -> None:
    head = Head([(UpsamplingStage(16, 8, 3, last=True),) * 2], 21, "zero")
    scores = torch.randn(3, 21, 40, 40)
    before = torch.get_num_threads()
    alone = Ladder(cast("FCN", head)).labels([scores], (300, 301))
    try:
        torch.set_num_threads(threads)
        assert torch.equal(Ladder(cast("FCN", head)).labels([scores], (300, 301)), alone)
        assert sum(side_by_side(lambda start, stop: stop - start, 17, 9)) == 17
    finally:
        torch.set_num_threads(before)


def test_where_nothing_can_be_kept_on_disk_it_compiles_anew(tmp_path: Path) -> None:
    copy = tmp_path / "read_only.py"
    copy.write_text(
        "from fullyconv.compiler import compiled\n@compiled\ndef double(x: int) -> int:\n    return 2 * x\n"
    )
    code = """
import sys
from numba.core import caching
caching.CacheImpl._locator_classes = []
sys.path.insert(0, sys.argv[1])
import read_only
print(read_only.double(21))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "42\n", done.stderr
