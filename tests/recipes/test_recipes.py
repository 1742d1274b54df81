from __future__ import annotations

from pathlib import Path

import pytest

from fullyconv.files import BadFile
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.recipes import CHAINS, RECIPES, find_chain, find_recipe, find_scene_recipe, voc
from fullyconv.train.recipe import Recipe, read_recipe, write_recipe

ALL = RECIPES | {f"{chain}/{name}": stage for chain, value in CHAINS.items() for name, stage in value.stages.items()}


@pytest.mark.parametrize("name", ALL)
def test_every_recipe_is_valid(name: str) -> None:
    assert Recipe.model_validate(ALL[name].model_dump()) == ALL[name]


def test_the_reference_solvers_are_the_references() -> None:
    # Fact sheet, section 2.1.
    rates = [stage.learning_rate for stage in voc.STAGED.stages.values()]
    assert rates == [1e-10, 1e-12, 1e-14]
    for heavy in (*voc.STAGED.stages.values(), voc.AT_ONCE):
        assert (heavy.batch, heavy.accumulate, heavy.momentum, heavy.weight_decay) == (1, 1, 0.99, 5e-4)
        assert (heavy.normalization, heavy.schedule, heavy.optimizer) == ("batch", "fixed", "caffe-sgd")
        assert (heavy.crop, heavy.flip, heavy.scale, heavy.colour) == (None, False, (1, 1), 0)
    assert voc.HEAVY_32S.epochs * 8498 == pytest.approx(100_000, rel=0.03)
    assert voc.AT_ONCE.epochs * 8498 == pytest.approx(300_000, rel=0.03)
    assert (voc.ACCUMULATED.accumulate, voc.ACCUMULATED.momentum, voc.ACCUMULATED.normalization) == (20, 0.9, "valid")


def test_an_unknown_recipe_is_told_the_nearest_chain_too() -> None:
    with pytest.raises(ValueError, match="did you mean 'voc-staged'"):
        find_recipe("voc-stage")


def test_a_file_with_stages_is_a_chain(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: demo\nepochs: 5\nstages:\n  coarse: {network: fcn32s-resnet18, learning_rate: 1e-3}\n"
        "  fine: {network: fcn8s-resnet18, epochs: 2}\n  same:\n"
    )
    chain = find_chain(str(path))
    assert chain is not None
    coarse, fine, same = chain.stages.values()
    assert (coarse.network, coarse.epochs, coarse.learning_rate) == ("fcn32s-resnet18", 5, 1e-3)
    assert (fine.network, fine.epochs, fine.crop) == ("fcn8s-resnet18", 2, RECIPES["demo"].crop)
    assert same.network == RECIPES["demo"].network
    path.write_text("epochs: 5")
    assert find_chain(str(path)) is None
    assert find_chain("demo") is None
    path.write_text("stages: [a, b]")
    with pytest.raises(BadFile, match="mapping of names"):
        find_chain(str(path))
    path.write_text("stages: {a: {epoch: 2}}")
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        find_chain(str(path))
    with pytest.raises(ValueError, match="is a chain of recipes"):
        find_recipe("voc-staged")


def test_scene_recipes_are_found_by_name_and_in_files_based_on_one(tmp_path: Path) -> None:
    assert find_scene_recipe("hsi") == SceneRecipe()
    assert find_scene_recipe("camvid") is None
    path = tmp_path / "mine.yaml"
    path.write_text("base: hsi-random\nper_class: 50\nlearning_rate: 1e-3\nbands: [3, [450, 900]]\n")
    found = find_scene_recipe(str(path))
    assert found is not None
    assert (found.split, found.per_class, found.learning_rate) == ("random", 50, 1e-3)
    assert found.bands == (3, (450, 900))
    write_recipe(found, path)
    assert read_recipe(path, {"default": SceneRecipe()}) == found
    path.write_text("base: demo\nepochs: 2\n")
    assert find_scene_recipe(str(path)) is None
