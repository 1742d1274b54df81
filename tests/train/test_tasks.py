"""Networks that see or learn more than a picture and a mask: what is read, what is trained, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import miniatures
from fullyconv import build, facts, load, save
from fullyconv.augment import Augmentation
from fullyconv.caffe import export as caffe_export
from fullyconv.caffe import import_model
from fullyconv.cli import app
from fullyconv.data.dataset import Views, read_every, read_sample
from fullyconv.data.nyud import depth_path, read_colour_depth
from fullyconv.data.published import Places, open_for, open_published
from fullyconv.data.siftflow import open_siftflow
from fullyconv.files import BadFile
from fullyconv.networks.fcn import FCN
from fullyconv.networks.fusion import LateFusion
from fullyconv.networks.heads import ManyHeads
from fullyconv.networks.reference import preprocess_of
from fullyconv.networks.trunks import backbone
from fullyconv.recipes import RECIPES
from fullyconv.recipes.published import PUBLISHED, REPRODUCTIONS
from fullyconv.train.chain import change_chain, place
from fullyconv.train.pictures import PixelLoss
from fullyconv.train.prepare import prepare
from fullyconv.train.tasks import FusedTasks, SummedLoss
from fullyconv.types import Preprocess


def two_heads() -> ManyHeads:
    torch.manual_seed(0)
    network = ManyHeads(FCN(backbone("resnet18"), classes=5, skips=1), {"geometric": 3})
    for bank in network.score_layers.values():
        for head in bank:
            torch.nn.init.normal_(head.weight)
    return network.eval()


def test_the_loss_of_two_heads_is_the_sum_of_both_and_reaches_both() -> None:
    network = two_heads()
    image = torch.randn(2, 3, 40, 50)
    labels = torch.stack([torch.randint(0, 5, (2, 40, 50)), torch.randint(-1, 3, (2, 40, 50))], 1)
    first, second = network.steps
    loss = SummedLoss((PixelLoss(step=first), PixelLoss(step=second)))
    found = loss(FusedTasks(network)(image), labels, torch.Generator())
    scores = network(image)
    wanted = sum(
        torch.nn.functional.cross_entropy(each, labels[:, task], ignore_index=-1) for task, each in enumerate(scores)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    found.backward()
    for bank in network.score_layers.values():
        assert all(head.weight.grad.abs().sum() > 0 for head in bank)  # type: ignore[union-attr]


def test_the_geometric_network_is_the_second_head_on_the_same_layers() -> None:
    network = two_heads()
    image = torch.randn(1, 3, 33, 47)
    view = network.task_network("geometric")
    torch.testing.assert_close(view(image), network(image).geometric)
    assert view.classes == 3
    assert network.classes == 5
    with torch.no_grad():
        network.geometric_heads[0].bias.fill_(7.0)  # type: ignore[union-attr]
    torch.testing.assert_close(view(image), network(image).geometric)


@pytest.fixture
def narrow(narrow_vgg: None, tmp_path: Path) -> ManyHeads:
    """SIFT Flow's network with few channels, saved as ``model``."""
    network = build("siftflow-fcn32s").eval()
    for bank in network.score_layers.values():
        torch.nn.init.normal_(bank[0].weight)  # type: ignore[arg-type]
    save(network, tmp_path / "model", classes=facts.SIFTFLOW_SEMANTIC.classes)
    return network  # type: ignore[return-value]


FIRST = "2 heads: labels are those of the first"


def command(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_a_network_of_two_heads_labels_by_both(narrow: ManyHeads, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    command("predict", tmp_path / "model", tmp_path / "a.png", "--out", tmp_path / "out")
    image = torch.from_numpy(load(tmp_path / "model", device="cpu").preprocess(pixels))[None]
    with torch.inference_mode():
        wanted = narrow(image)
    for name, scores in ((".", wanted.semantic), ("geometric", wanted.geometric)):
        with Image.open(tmp_path / "out" / name / "a.png") as mask:
            np.testing.assert_array_equal(mask, scores[0].argmax(0))


@pytest.mark.slow
def test_the_first_of_two_heads_is_exported_and_both_go_out_to_caffe(narrow: ManyHeads, tmp_path: Path) -> None:
    said = command("export", tmp_path / "model", "--to", "torch", "--out", tmp_path / "out")
    assert FIRST in said
    exported, image = torch.export.load(next((tmp_path / "out").glob("*.pt2"))).module(), torch.randn(1, 3, 40, 50)
    torch.testing.assert_close(exported(image), narrow(image).semantic, rtol=1e-3, atol=1e-3)
    again = import_model(*caffe_export(narrow, tmp_path / "caffe"))
    torch.testing.assert_close(again(image), narrow(image))


def test_both_labels_of_a_scene_come_together(tmp_path: Path) -> None:
    root = miniatures.siftflow(tmp_path)
    folder = open_for("siftflow-fcn16s", root)
    assert folder is not None
    pair = folder.splits["train"][0]
    sample = read_every(pair, facts.SIFTFLOW_SEMANTIC.classes)
    for task, target in enumerate(("semantic", "geometric")):
        alone = next(each for each in open_siftflow(root, target).splits["train"] if each.image == pair.image)
        wanted = read_sample(alone, (facts.SIFTFLOW_SEMANTIC, facts.SIFTFLOW_GEOMETRIC)[task].classes)
        np.testing.assert_array_equal(sample.labels[..., task], wanted.labels)
    options = Augmentation(crop=(16, 20), scale=(0.8, 1.2), rotation=10, shift=3, flip=True, upside_down=True)
    views = Views([pair], facts.SIFTFLOW_SEMANTIC.classes, Preprocess(), options, seed=1)
    for position in range(4):
        image, labels = views[position]
        assert labels.shape == (2, *image.shape[1:])
    prepared = prepare(RECIPES["siftflow-fcn32s"], root)
    assert [pair.further for pair in prepared.val] == [()] * len(prepared.val)
    assert [pair.image for pair in prepared.heads["geometric"]] == [pair.image for pair in prepared.val]
    (tmp_path / "other").mkdir()
    with pytest.raises(BadFile, match="not SIFT Flow"):
        open_for("siftflow-fcn8s", tmp_path / "other")


@pytest.mark.parametrize(("network", "channels"), [
    ("nyud-fcn32s-color-d", 4), ("nyud-fcn32s-color-hha", 6), ("nyud-fcn32s-hha", 3),
])  # fmt: skip
def test_what_lies_beside_a_picture_stands_behind_its_channels(network: str, channels: int, tmp_path: Path) -> None:
    folder = open_published(network, Places(data=miniatures.nyud(tmp_path)))
    assert {split: len(pairs) for split, pairs in folder.splits.items()} == {"train": 2, "val": 1}
    pair = folder.splits["train"][0]
    image = read_sample(pair, facts.NYUD.classes).image
    assert image.shape[2] == channels
    if channels == 4:
        np.testing.assert_array_equal(image, read_colour_depth(pair))
    normalised = preprocess_of(network)(image)
    assert normalised.shape == (channels, *miniatures.SIZE)
    if channels > 3:
        Image.new("L" if channels == 6 else "I;16", (3, 3)).save(pair.beside[0])
        with pytest.raises(BadFile, match=r"it is 3 x 3"):
            read_sample(pair, facts.NYUD.classes)
        depth_path(pair).unlink()
        pair.beside[0].unlink(missing_ok=True)
        problems = open_published(network, Places(data=tmp_path / "nyud")).problems
        assert pair.beside[0] in [Path(problem.path) for problem in problems]


def test_every_published_network_has_a_chain_and_stages_start_where_they_should(tmp_path: Path) -> None:
    for name, chain in REPRODUCTIONS.items():
        assert list(chain.stages)[-1] == name
        assert all(stage in PUBLISHED for stage in chain.stages)
    chain = change_chain(REPRODUCTIONS["nyud-fcn16s-color-hha"], {"start_from": "vgg"}, source="--set")
    starts = [(stage.recipe.start_from, stage.recipe.second_from) for stage in place(chain, tmp_path)]
    color, hha, fused = (str(tmp_path / f"nyud-fcn32s-{each}" / "model") for each in ("color", "hha", "color-hha"))
    assert starts == [("vgg", None), ("vgg", None), (color, hha), (fused, None)]


def test_streams_and_depth_start_from_colours(tmp_path: Path) -> None:
    from fullyconv.train.start import _for_channels, _start_second

    torch.manual_seed(0)
    one, other = (build("fcn32s-resnet18", 2) for _ in range(2))
    fused = LateFusion(backbone("resnet18"), backbone("resnet18"), classes=2, skips=0)
    _start_second(fused, other.state_dict(), RECIPES["default"], ())
    assert torch.equal(fused.second.stem[0].weight, other.trunk.stem[0].weight)
    assert not torch.equal(fused.trunk.stem[0].weight, other.trunk.stem[0].weight)
    deep = build("fcn32s-resnet18", 2, channels=4)
    fitted = _for_channels(one.state_dict(), deep)["trunk.stem.0.weight"]
    assert torch.equal(fitted[:, :3], one.trunk.stem[0].weight)
    torch.testing.assert_close(fitted[:, 3], one.trunk.stem[0].weight.mean(1))


def test_networks_and_data_that_do_not_fit_are_told(tmp_path: Path) -> None:
    from fullyconv.train.assemble import _check_trainable

    prepared = prepare(RECIPES["nyud-fcn32s-color-d"], miniatures.nyud(tmp_path))
    with pytest.raises(ValueError, match="takes 3 channels, these pictures have 4"):
        _check_trainable(build("fcn32s-resnet18", 40), RECIPES["default"], prepared)
    with pytest.raises(ValueError, match="trained on as they are"):
        _check_trainable(build("fcn32s-resnet18", 40, channels=4), RECIPES["default"], prepared)
    with pytest.raises(ValueError, match="say where the data lie: --data, the folder of NYUDv2"):
        open_published("nyud-fcn32s-hha", Places())
