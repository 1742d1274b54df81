from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from fullyconv.files import BadFile
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.networks import build
from fullyconv.recipes import RECIPES, find_recipe
from fullyconv.surgery.layers import without_weights
from fullyconv.train.elsewhere import ELSEWHERE
from fullyconv.train.recipe import Recipe, change, read_recipe, write_recipe
from fullyconv.train.settings import parse_settings


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_network_and_survives_a_file(name: str, tmp_path: Path) -> None:
    recipe = find_recipe(name)
    assert without_weights(partial(build, recipe.network_name, 2)).classes == 2  # type: ignore[arg-type]
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert read_recipe(tmp_path / "recipe.yaml", RECIPES) == recipe


def test_settings_are_typed() -> None:
    settings = parse_settings(["epochs=3", "crop=[64, 96]", "learning_rate=1e-3", "minutes=null", "flip=false"])
    recipe = change(Recipe(), settings, source="--set")
    assert (recipe.epochs, recipe.crop, recipe.learning_rate, recipe.minutes, recipe.flip) == (
        3, (64, 96), 1e-3, None, False,
    )  # fmt: skip
    assert Recipe().epochs != 3


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epoch=3", "did you mean 'epochs'"),
        ("quark=3", "choose one of"),
        ("epochs=many", "epochs='many'"),
        ("network=fcn8s-resnet", "did you mean 'fcn8s-resnet18'"),
        ("colour=1.5", "less than 1"),
        ("optimizer=adam", "'sgd' or 'adamw'"),
        ("scale=[2, 1]", "smallest, largest"),
    ],
)
def test_mistakes_name_the_key_and_the_way_out(setting: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("[", r"\[")):
        change(Recipe(), parse_settings([setting]), source="--set")


def test_settings_need_an_equals_sign() -> None:
    with pytest.raises(ValueError, match="key=value"):
        parse_settings(["epochs"])


def test_files_build_on_a_named_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: camvid\nepochs: 5\nlearning_rate: 3e-4\n")
    recipe = find_recipe(str(path))
    assert recipe == RECIPES["camvid"].model_copy(update={"epochs": 5, "learning_rate": 3e-4})
    path.write_text("base: camvit\n")
    with pytest.raises(BadFile, match="did you mean 'camvid'"):
        find_recipe(str(path))
    path.write_text("- 1\n")
    with pytest.raises(BadFile, match="not a mapping"):
        find_recipe(str(path))
    path.write_text("epocs: 4\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: unknown key 'epocs': did you mean 'epochs'"):
        find_recipe(str(path))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lr", "here it is 'learning_rate'"),
        ("imgsz", "here it is 'crop'"),
        ("Batch_Size", "here it is 'batch'"),
        ("color", "here it is 'colour'"),
        ("criterion", "here it is 'loss'"),
    ],
)
def test_keys_of_other_tools_point_to_ours(key: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        change(RECIPES["default"], {key: 1}, source="--set")


def test_every_pointer_leads_to_a_key() -> None:
    assert {name for name in ELSEWHERE.values() if " " not in name} <= set(Recipe.model_fields)
    assert not set(ELSEWHERE) & set(Recipe.model_fields)


@pytest.mark.parametrize("pair", ["crop=[320,320", "crop={1: ", "epochs=&x [*x]", "epochs", "epochs=!!set {a}"])
def test_settings_that_are_no_yaml_are_named(pair: str) -> None:
    with pytest.raises(ValueError, match=f"--set {re.escape(pair)}:"):
        parse_settings([pair])


def test_unknown_recipes_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'camvid'"):
        find_recipe("camvit")


@pytest.mark.parametrize("key", ["batch", "epochs", "seed", "learning_rate", "momentum", "minutes", "sampling"])
@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_no_number(key: str, value: bool) -> None:
    with pytest.raises(ValueError, match=rf"x\.yaml: {key}=.*true and false are no numbers"):
        change(Recipe(), {key: value}, source="x.yaml")
    with pytest.raises(ValueError, match=r"x\.yaml: scale=.*true and false are no numbers"):
        change(Recipe(), {"scale": [0.5, value]}, source="x.yaml")
    assert change(Recipe(), {"flip": value}, source="x.yaml").flip is value


def test_settings_that_do_not_go_together_are_said_without_all_others() -> None:
    with pytest.raises(ValueError, match=r"^--set: weights is for a classifier from elsewhere: name it"):
        change(Recipe(), {"weights": "a.pth"}, source="--set")


@pytest.mark.parametrize("word", ["[64,48]", "64,48", "64x48", "64 x 48", "(64, 48)", "64 48", '"64,48"'])
def test_pairs_are_taken_however_they_are_written(word: str) -> None:
    assert change(Recipe(), parse_settings([f"crop={word}"]), source="--set").crop == (64, 48)
    assert change(Recipe(), parse_settings(["scale=0.5,2"]), source="--set").scale == (0.5, 2.0)
    assert change(Recipe(), parse_settings(["crop=64"]), source="--set").crop == (64, 64)
    assert change(Recipe(), parse_settings(["crop=null"]), source="--set").crop is None
    assert Recipe(crop="64").crop == (64, 64)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="crop"):
        change(Recipe(), parse_settings(["crop=large"]), source="--set")


@pytest.mark.parametrize("word", ["[^_]+", r"(\d+): x", "^a #b", "{2}", "*x", "0006", "no", "1e3", "a=b"])
def test_text_is_what_is_written(word: str) -> None:
    for key in ("hold_out", "mask_suffix", "start_from", "stage.hold_out"):
        assert parse_settings([f"{key}={word}"]) == {key: word}
        assert parse_settings([f"{key}='x: y'"]) == {key: "x: y"}
        assert parse_settings([f"{key}=null"]) == {key: None}
    assert parse_settings([f"group={word}", "group=2"]) == {"group": 2}
    assert parse_settings([f"label_key={word}"], SceneRecipe) == {"label_key": word}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["group=^p"], "group=.* is about whole groups: set split=group with it"),
        (["hold_out=p1"], "hold_out=p1 is about whole groups"),
        (["split=group", "hold_out=p1", "fold=[1,2]"], "hold_out and fold both say what is held out"),
        (["learning_rate=.inf"], "learning_rate=.*finite"),
        (["scale=[1,.inf]"], "scale.*finite"),
        (["noise=1000"], "noise=.*less than or equal to 255"),
        (["seed=99999999999999999999"], "seed=.*less than or equal to"),
    ],
)
def test_what_would_be_passed_over_or_end_in_nothing_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=f"--set: {said}"):
        change(Recipe(), parse_settings(words), source="--set")
