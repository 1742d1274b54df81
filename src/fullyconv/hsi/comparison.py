"""Methods side by side on one scene: same split, same metric; time and memory of each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from fullyconv.hsi.baselines import PATCH_PX, Labeller, fit_forest, fit_patches, fit_svm
from fullyconv.hsi.fitting import fit
from fullyconv.hsi.normalise import missing_pixels
from fullyconv.hsi.recipe import SceneRecipe
from fullyconv.hsi.scene import Scene
from fullyconv.hsi.scoring import (
    MeanAndDeviation,
    SceneEvaluation,
    evaluate_map,
    markdown,
    spread,
    summary_document,
    tables,
)
from fullyconv.hsi.segmenter import SceneSegmenter
from fullyconv.hsi.splits import Windows, within
from fullyconv.hsi.trial import SceneTrial, make_trial, network_windows
from fullyconv.machine import choose_device
from fullyconv.memory import PeakMemory
from fullyconv.types import VOID, ClassSet

FCN, PATCH = "FCN", f"patch CNN {PATCH_PX}×{PATCH_PX}"
MAP_SECONDS, MAP_REPEATS = 1.0, 5  # a map that is made quicker is made again; the quickest counts
MIB = 1 << 20


def fit_network(trial: SceneTrial) -> Labeller:
    """Train the recipe's network; its map is one pass over the scene."""
    network = fit(trial)
    segmenter = SceneSegmenter(network, classes=trial.classes, preprocess=trial.preprocess, device=trial.recipe.device)

    def label() -> np.ndarray:
        return segmenter.predict(trial.scene).labels.astype(np.int64)

    return label


METHODS: dict[str, Callable[[SceneTrial], Labeller]] = {
    "SVM": fit_svm,
    "random forest": fit_forest,
    PATCH: fit_patches,
    FCN: fit_network,
}


def method_windows(method: str, trial: SceneTrial) -> Windows:
    """Return what a method reads to label each pixel."""
    height, width = trial.labels.shape
    if method == FCN:
        return network_windows(trial.recipe, (height, width))
    return within((height, width), PATCH_PX // 2 if method == PATCH else 0)


@dataclass(frozen=True)
class Cost:
    """What a method took: seconds, and bytes beyond what held the scene."""

    train_seconds: float
    train_bytes: float
    map_seconds: float
    map_bytes: float


@dataclass(frozen=True)
class MethodOutcome:
    """A method's map of the scene, its scores and what it took."""

    labels: np.ndarray
    evaluation: SceneEvaluation
    cost: Cost


@dataclass(frozen=True)
class MethodComparison:
    """The outcomes of every method, run by run; run ``k`` has one trial for all."""

    classes: ClassSet
    trials: tuple[SceneTrial, ...]
    outcomes: dict[str, list[MethodOutcome]]

    @property
    def evaluations(self) -> dict[str, list[SceneEvaluation]]:
        """The scores of every method, run by run."""
        return {method: [run.evaluation for run in runs] for method, runs in self.outcomes.items()}

    def cost_rows(self) -> list[list[str]]:
        """Lay out time and memory: a row per method."""
        rows = [["method", "training s", "training MiB", "full map s", "full map MiB"]]
        for method, runs in self.outcomes.items():
            rows.append(
                [
                    method,
                    str(spread([run.cost.train_seconds for run in runs])),
                    f"{spread([run.cost.train_bytes / MIB for run in runs]).mean:.0f}",
                    spread([run.cost.map_seconds for run in runs]).to(3),
                    f"{spread([run.cost.map_bytes / MIB for run in runs]).mean:.0f}",
                ]
            )
        return rows

    def speed_up(self) -> MeanAndDeviation | None:
        """Return how many times faster the FCN's full map is than the patch CNN's, run by run."""
        if not {FCN, PATCH} <= self.outcomes.keys():
            return None
        pairs = zip(self.outcomes[PATCH], self.outcomes[FCN], strict=True)
        return spread([patch.cost.map_seconds / fcn.cost.map_seconds for patch, fcn in pairs])

    def markdown(self) -> str:
        """Write the tables."""
        overall, *classes = tables(self.evaluations)
        faster = self.speed_up()
        line = (
            "" if faster is None else f"\nThe FCN labels the scene {faster.mean:.0f} times faster than the patch CNN.\n"
        )
        return "\n".join(map(markdown, [overall, self.cost_rows(), *classes])) + line

    def document(self) -> dict[str, Any]:
        """Return all figures as plain values for JSON."""
        faster = self.speed_up()
        figures = summary_document(self.evaluations)
        for method, runs in self.outcomes.items():
            figures[method]["costs"] = [asdict(run.cost) for run in runs]
        return {
            "recipe": self.trials[0].recipe.model_dump(mode="json"),
            "classes": list(self.classes.names),
            "threads": torch.get_num_threads(),
            "methods": figures,
            "times_faster": None if faster is None else faster.mean,
        }


def compare(
    recipe: SceneRecipe,
    scene: Scene,
    *,
    methods: Sequence[str] = tuple(METHODS),
    runs: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> MethodComparison:
    """Train every method on the same pixels and score its map.

    Blocks are kept as far apart as the widest of the methods sees, where the scene has room.

    Args:
        recipe: The choices; the network's are those of the method FCN.
        scene: The scene with its labels.
        methods: Some of ``METHODS``.
        runs: How often, each time with another split and seed.
        progress: Called with (methods done, methods in all, method).

    Raises:
        ValueError: For an unknown method.

    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise ValueError(f"unknown method {', '.join(unknown)!r}: choose from {', '.join(METHODS)}")
    seeded = [recipe.model_copy(update={"seed": recipe.seed + run}) for run in range(runs)]
    trials = tuple(make_trial(each, scene, guard=PATCH_PX // 2) for each in seeded)
    outcomes: dict[str, list[MethodOutcome]] = {method: [] for method in methods}
    for done, (trial, method) in enumerate((trial, method) for trial in trials for method in methods):
        if progress is not None:
            progress(done, runs * len(methods), method)
        outcomes[method].append(run_alone(method, trial))
    return MethodComparison(trials[0].classes, trials, outcomes)


def run_alone(method: str, trial: SceneTrial) -> MethodOutcome:
    """Train and apply a method in a fresh process, so that nothing of another one is in its time and memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        labels, cost = pool.submit(measure, method, trial, torch.get_num_threads()).result()
    labels[missing_pixels(trial.scene, trial.preprocess.bands)] = VOID
    return MethodOutcome(labels, evaluate_map(trial, labels, method_windows(method, trial)), cost)


def measure(method: str, trial: SceneTrial, threads: int) -> tuple[np.ndarray, Cost]:
    """Train a method, label the whole scene; gives the map and what the two took."""
    torch.set_num_threads(threads)
    device = choose_device(trial.recipe.device)
    with PeakMemory(device) as training:
        started = time.perf_counter()
        label = METHODS[method](trial)
        train_seconds = time.perf_counter() - started
    times: list[float] = []
    with PeakMemory(device) as mapping:
        while not times or (sum(times) < MAP_SECONDS and len(times) < MAP_REPEATS):
            started = time.perf_counter()
            labels = label()
            times.append(time.perf_counter() - started)
    return labels, Cost(train_seconds, training.taken, min(times), mapping.taken)
