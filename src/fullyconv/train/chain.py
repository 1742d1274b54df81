"""Recipes that continue each other: each stage starts from the best model of the one before (paper, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fullyconv.files import BadFile
from fullyconv.train.folder import BEST, begun, finished
from fullyconv.train.recipe import Recipe, change, make_recipe, nearest, read_document


@dataclass(frozen=True)
class Chain:
    """Recipes by stage name, in the order in which they run; each but the first starts from the one before.

    Stages in ``sources`` start from others: from none of the chain, from one, or (two streams) from two.
    """

    stages: Mapping[str, Recipe]
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a chain has at least one stage")
        for name in self.stages:
            if not name or name != Path(name).name or "." in name:
                raise ValueError(f"a stage is named like a folder, without dots, not {name!r}")


@dataclass(frozen=True)
class Stage:
    """One stage in place: what to run, where, and whether that has been begun or finished before."""

    name: str
    recipe: Recipe
    run: Path
    begun: bool
    finished: bool


def change_chain(chain: Chain, settings: dict[str, Any], *, source: str) -> Chain:
    """Replace fields: ``key`` in every stage, ``stage.key`` in one; ``start_from`` only in the first.

    Raises ``ValueError`` naming ``source`` for unknown stages, unknown keys and bad values.
    """
    everywhere: dict[str, Any] = {}
    by_stage: dict[str, dict[str, Any]] = {name: {} for name in chain.stages}
    for key, value in settings.items():
        stage, dot, field = key.rpartition(".")
        if not dot:
            everywhere[key] = value
        elif stage in by_stage:
            by_stage[stage][field] = value
        else:
            raise ValueError(f"{source}: unknown stage{nearest(stage, by_stage)}")
    first = next(iter(chain.stages))
    changed = {}
    for name, recipe in chain.stages.items():
        starts = name == first or chain.sources.get(name) == ()
        wanted = {key: value for key, value in everywhere.items() if starts or key != "start_from"}
        changed[name] = change(recipe, wanted | by_stage[name], source=source)
    return Chain(changed, chain.sources)


def place(chain: Chain, out: Path) -> list[Stage]:
    """Return every stage a run folder of its own under ``out`` and its start: the best model of the stage before."""
    stages: list[Stage] = []
    for name, recipe in chain.stages.items():
        before = chain.sources.get(name, (stages[-1].name,) if stages else ())
        starts = dict(zip(("start_from", "second_from"), (str(out / each / BEST) for each in before), strict=False))
        recipe = recipe.model_copy(update=starts)
        run = out / name
        stages.append(Stage(name, recipe, run, begun=begun(run), finished=finished(run)))
    return stages


def read_chain(path: Path, named: dict[str, Recipe]) -> Chain | None:
    """Read a YAML chain: recipe keys that hold for every stage, and ``stages``, a mapping of names to more keys.

    ``base`` names the recipe that is changed, as in a recipe's file. Gives ``None`` for a file without
    ``stages``, which is a recipe; raises ``BadFile`` or ``ValueError`` for what is neither.
    """
    document = read_document(path)
    stages = document.pop("stages", None)
    if stages is None:
        return None
    if not isinstance(stages, dict) or not all(isinstance(keys, dict | type(None)) for keys in stages.values()):
        raise BadFile(
            path, "stages is not a mapping of names to recipe keys", "write 'stages: {fcn32s: {network: …}, …}'"
        )
    return Chain({str(name): make_recipe(document | (keys or {}), named, path) for name, keys in stages.items()})
