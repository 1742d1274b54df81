"""Recipes by name: frozen values, one file per data set."""

from __future__ import annotations

from pathlib import Path

from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.recipes import hsi, scenes, voc
from fullyconv.recipes.camvid import CAMVID, PRETRAINED
from fullyconv.recipes.demo import DEMO, DEMO_STAGED
from fullyconv.train.chain import Chain, read_chain
from fullyconv.train.recipe import Recipe, make_recipe, nearest, read_document, read_recipe

RECIPES: dict[str, Recipe] = {
    "default": Recipe(auto=True),
    "auto": Recipe(auto=True),
    "camvid": CAMVID,
    "camvid-pretrained": PRETRAINED,
    "demo": DEMO,
    "voc-fcn32s": voc.HEAVY_32S,
    "voc-fcn16s": voc.HEAVY_16S,
    "voc-fcn8s": voc.HEAVY_8S,
    "voc-fcn8s-atonce": voc.AT_ONCE,
    "voc-fcn16s-max": voc.MAX_16S,
    "voc-fcn8s-max": voc.MAX_8S,
    **voc.POOLS,
    "voc-fcn16s-learned": voc.LEARNED_16S,
    "voc-fcn8s-learned": voc.LEARNED_8S,
    "voc-fcn-alexnet": voc.ALEXNET,
    "voc-fcn-googlenet": voc.GOOGLENET,
    "voc-fcn32s-accumulated": voc.ACCUMULATED,
    "voc-fcn32s-fixed": voc.FIXED,
    "voc-fcn32s-patchwise": voc.PATCHWISE,
    **scenes.CONTEXT_NETS,
    **scenes.SIFTFLOW_NETS,
    **scenes.NYUD_NETS,
}

SCENE_RECIPES: dict[str, SceneRecipe] = {"hsi": hsi.HSI, "hsi-random": hsi.HSI_RANDOM}

CHAINS: dict[str, Chain] = {"demo-staged": DEMO_STAGED, "voc-staged": voc.STAGED}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by its name or from a YAML file; raises ``ValueError`` for an unknown name."""
    if name in RECIPES:
        return RECIPES[name]
    if name.endswith((".yaml", ".yml")):
        return read_recipe(Path(name), RECIPES)
    if name in CHAINS:
        raise ValueError(f"{name!r} is a chain of recipes, not one: choose one of {', '.join(RECIPES)}")
    raise ValueError(f"unknown recipe{nearest(name, [*RECIPES, *CHAINS, *SCENE_RECIPES])} (or a .yaml file)")


def find_chain(name: str) -> Chain | None:
    """Return a chain by its name or from a YAML file with ``stages``; ``None`` for what is not a chain."""
    if name in CHAINS:
        return CHAINS[name]
    return read_chain(Path(name), RECIPES) if name.endswith((".yaml", ".yml")) else None


def find_scene_recipe(name: str) -> SceneRecipe | None:
    """Return a scene recipe by its name or from a YAML file whose ``base`` is one; ``None`` for what is none."""
    if name in SCENE_RECIPES:
        return SCENE_RECIPES[name]
    if not name.endswith((".yaml", ".yml")):
        return None
    document = read_document(Path(name))
    return make_recipe(document, SCENE_RECIPES, Path(name)) if document.get("base") in SCENE_RECIPES else None
