from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from fullyconv.checkpoint import load_network, save
from fullyconv.hsi.fitting import fit, make_network, sample_classes
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.scoring import evaluate_map
from fullyconv.hsi.segmenter import SceneSegmenter
from fullyconv.hsi.trial import make_trial, network_windows
from fullyconv.networks import build
from fullyconv.surgery.layers import widen
from fullyconv.train.folder import open_run, read_metrics
from runs import Notes

TINY = SceneRecipe(network="fcn1s-spectral2", steps=4, sample=20, device="cpu")


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("change", [{}, {"turn": False}, {"crop": 32}, {"components": 5, "whiten": True}])
def test_without_leakage_no_test_pixel_can_change_what_is_learned(change: dict[str, object], scene: Scene) -> None:
    recipe = TINY.model_copy(update=change)
    trial = make_trial(recipe, scene)
    assert trial.leakage(network_windows(recipe, (64, 80))) == 0
    cube = scene.cube.copy()
    cube[trial.split.test] = np.random.default_rng(0).integers(0, 9_999, (int(trial.split.test.sum()), 20))
    other = make_trial(recipe, replace(scene, cube=cube))
    assert same(weights(fit(trial)), weights(fit(other)))


def test_a_trunk_from_elsewhere_is_widened_trained_saved_and_loaded(scene: Scene, tmp_path: Path) -> None:
    trial = make_trial(TINY.model_copy(update={"network": "fcn32s-timm:resnet18", "steps": 1}), scene)
    with open_run(tmp_path / "run", resume=False) as folder:
        network = fit(trial, folder=folder)
    assert network.in_channels == trial.preprocess.channels == 20
    again, _ = load_network(tmp_path / "run" / "model")
    assert same(weights(network), weights(again))


def test_with_leakage_a_test_pixel_does_change_it(scene: Scene) -> None:
    recipe = TINY.model_copy(update={"split": "random"})
    trial = make_trial(recipe, scene)
    cube = scene.cube.copy()
    cube[trial.split.test] = 0
    assert not same(weights(fit(trial)), weights(fit(make_trial(recipe, replace(scene, cube=cube)))))


def test_a_scene_is_learned(scene: Scene) -> None:
    recipe = TINY.model_copy(update={"steps": 60})
    trial = make_trial(recipe, scene)
    notes = Notes()
    network = fit(trial, watcher=notes)
    assert notes.losses[-1] < 0.2 * notes.losses[0]
    guess = (
        SceneSegmenter(network, classes=trial.classes, preprocess=trial.preprocess, device="cpu").predict(scene).labels
    )
    assert evaluate_map(trial, guess, network_windows(recipe, (64, 80))).scores.pixel_accuracy > 0.9


def test_an_interrupted_run_continues_bit_for_bit(scene: Scene, tmp_path: Path) -> None:
    trial = make_trial(TINY, scene)

    out = tmp_path / "run"
    with open_run(out, resume=False) as folder, pytest.raises(KeyboardInterrupt):
        fit(trial, folder=folder, watcher=Notes(stop_at=2))
    with open_run(out, resume=True) as folder:
        resumed = fit(trial, folder=folder)
    assert same(weights(fit(trial)), weights(resumed))
    again, config = load_network(out / "model")
    assert same(weights(resumed), weights(again))
    assert config.preprocess == trial.preprocess
    assert config.architecture.channels == 20
    assert config.notes["steps"] == 4


def test_a_run_that_saved_nothing_starts_anew(scene: Scene, tmp_path: Path) -> None:
    trial, notes = make_trial(TINY, scene), Notes()
    (tmp_path / "run").mkdir()
    with open_run(tmp_path / "run", resume=False):
        pass
    with open_run(tmp_path / "run", resume=True) as folder:
        assert same(weights(fit(trial, folder=folder, watcher=notes)), weights(fit(trial)))
    assert "nothing whole was saved" in notes.remarks[0]


def test_a_sample_holds_as_many_of_each_class_as_there_are() -> None:
    labels = np.array([[0] * 50, [1] * 50, [-1] * 47 + [2] * 3])
    kept = sample_classes(labels, 10, np.random.default_rng(0))
    assert np.bincount(kept[kept >= 0]).tolist() == [10, 10, 3]
    assert ((kept == labels) | (kept == -1)).all()


def test_a_network_of_colours_starts_one_of_more_channels(scene: Scene, tmp_path: Path) -> None:
    torch.manual_seed(0)
    colours = build("fcn32s-resnet18", 3)
    save(colours, tmp_path / "colours")
    recipe = TINY.model_copy(update={"network": "fcn8s-resnet18", "start_from": str(tmp_path / "colours")})
    network = make_network(make_trial(recipe, scene))
    first, before = network.trunk.stem[0].weight, colours.trunk.stem[0].weight  # type: ignore[index, union-attr]
    assert first.shape[1] == 20
    torch.testing.assert_close(first[:, :3], before)
    torch.testing.assert_close(first[:, 7], before.mean(1))
    torch.testing.assert_close(
        network.trunk.state_dict()["stage4.1.conv2.weight"], colours.trunk.state_dict()["stage4.1.conv2.weight"]
    )


def test_a_widened_network_answers_as_before_where_the_new_channels_are_zero() -> None:
    network = build("fcn8s-resnet18", 3).eval()
    nn.init.normal_(network.heads[0].weight)  # type: ignore[arg-type]
    image = torch.rand(1, 3, 40, 40)
    before = network(image)
    widen(network, 8)
    torch.testing.assert_close(network(torch.cat([image, torch.zeros(1, 5, 40, 40)], 1)), before)


def test_a_scenes_run_writes_its_curves_and_trains_in_half_the_bits(scene: Scene, tmp_path: Path) -> None:
    recipe = TINY.model_copy(update={"steps": 70})
    trial = make_trial(recipe, scene)
    short = make_trial(recipe.model_copy(update={"precision": "bf16"}), scene)
    notes, halved = Notes(), Notes()
    with open_run(tmp_path / "run", resume=False) as folder:
        fit(trial, folder=folder, watcher=notes)
    fit(short, watcher=halved)
    assert notes.losses[3] != halved.losses[3] == pytest.approx(notes.losses[3], rel=0.05)
    lines, damaged = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert not damaged
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [line["loss"] for line in lines] == pytest.approx([np.mean(notes.losses[:50]), np.mean(notes.losses[50:])])
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2]


def test_a_scene_may_be_given_more_updates(scene: Scene, tmp_path: Path) -> None:
    for steps, resume in ((70, False), (90, True)):
        notes = Notes()
        with open_run(tmp_path / "run", resume=resume) as folder:
            fit(make_trial(TINY.model_copy(update={"steps": steps}), scene), folder=folder, watcher=notes)
    assert len(notes.losses) == 20
    assert [line["epoch"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")[0]] == [1, 2]
    assert load_network(tmp_path / "run" / "model")[1].notes["steps"] == 90
