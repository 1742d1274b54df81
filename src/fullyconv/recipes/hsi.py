"""One hyperspectral scene: ``fullyconv train hsi --data scene.mat --out runs/scene --set labels=gt.mat``.

Samson (95 x 95, 156 bands, three classes) by blocks: a minute on one CPU core, see docs/hyperspectral.md.
"""

from fullyconv.hsi.recipe import SceneRecipe

HSI = SceneRecipe()

HSI_RANDOM = HSI.model_copy(update={"split": "random", "fraction": 0.1})
"""A random tenth of every class, as most papers split: for comparison with them; it leaks nearly everything."""
