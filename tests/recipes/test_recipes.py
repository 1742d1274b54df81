from __future__ import annotations

import pytest

from fullyconv.recipes import CHAINS, RECIPES, find_recipe, voc
from fullyconv.train.recipe import Recipe

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
