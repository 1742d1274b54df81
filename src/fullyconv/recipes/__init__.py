"""Recipes by name: frozen values, one file per data set."""

from __future__ import annotations

from pathlib import Path

from fullyconv.recipes.camvid import CAMVID
from fullyconv.recipes.demo import DEMO
from fullyconv.train.recipe import Recipe, nearest, read_recipe

RECIPES: dict[str, Recipe] = {"default": Recipe(), "camvid": CAMVID, "demo": DEMO}


def find_recipe(name: str) -> Recipe:
    """Give a recipe by its name or from a YAML file; raises ``ValueError`` for an unknown name."""
    if name in RECIPES:
        return RECIPES[name]
    if name.endswith((".yaml", ".yml")):
        return read_recipe(Path(name), RECIPES)
    raise ValueError(f"unknown recipe{nearest(name, RECIPES)} (or a .yaml file)")
