"""An FCN with further tasks on the same maps: SIFT Flow's nets (paper, section 5), pictures of several masks."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import cast

from torch import Tensor, nn

from fullyconv.networks.architecture import class_count
from fullyconv.networks.fcn import FCN, score_heads
from fullyconv.types import FIRST_HEAD, check_head
from fullyconv.upsample import LastStep


@lru_cache(maxsize=64)
def _scores_type(names: tuple[str, ...]) -> type[tuple[Tensor, ...]]:
    return cast("type[tuple[Tensor, ...]]", namedtuple("HeadScores", names))


class ManyHeads(FCN):
    """An FCN that also scores the classes of further tasks, from the same maps.

    The tasks share the trunk (with whatever decoder is in it) and nothing else. ``classes`` and all other attributes
    are those of the first task; every further one has score layers ``NAME_heads`` and upsampling ``NAME_upsamplers``.

    Args:
        first: A network of the first task, whose layers are taken over.
        tasks: The number of classes of each further task, by its name.

    Raises:
        ValueError: For a network of two trunks or with a CRF, a name that is no plain word, or a task without classes.

    >>> import torch
    >>> from fullyconv.networks.trunks import backbone
    >>> network = ManyHeads(FCN(backbone("lenet"), classes=2, skips=0), {"geometric": 3})
    >>> scores = network(torch.zeros(1, 1, 9, 30))
    >>> scores.semantic.shape, scores.geometric.shape
    (torch.Size([1, 2, 9, 30]), torch.Size([1, 3, 9, 30]))
    """

    def __init__(self, first: FCN, tasks: Mapping[str, int]) -> None:
        if type(first) is not FCN or first.crf is not None:
            what = "with a CRF" if first.crf is not None else f"that is a {type(first).__name__}"
            raise ValueError(f"a network {what} has one head: choose another network for several masks per picture")
        nn.Module.__init__(self)
        _share(first, self)
        self.tasks = {check_head(name): class_count(classes) for name, classes in tasks.items()}
        like = next(first.heads.parameters())  # in the first head's precision, where that is
        for name, classes in self.tasks.items():
            for kind, made in (
                ("heads", score_heads(first.trunk, classes, len(first.heads) - 1)),
                ("upsamplers", self._upsamplers(classes)),
            ):
                self.add_module(f"{name}_{kind}", made.to(like.device, like.dtype))

    def _of(self, kind: str) -> dict[str, nn.ModuleList]:
        return {f"{name}_{kind}": cast("nn.ModuleList", getattr(self, f"{name}_{kind}")) for name in self.tasks}

    @property
    def score_layers(self) -> dict[str, nn.ModuleList]:
        """The layers that score the maps, coarse to fine, by the names of their modules."""
        return {**super().score_layers, **self._of("heads")}

    @property
    def ladders(self) -> dict[str, nn.ModuleList]:
        """The steps that upsample scores to the image, by the names of their modules."""
        return {**super().ladders, **self._of("upsamplers")}

    def every(self, image: Tensor) -> tuple[Tensor, ...]:
        """Score N x K x H x W for every task up to the finest map that is scored, the first task first."""
        self.check(image)
        maps, each = self.every_scored(self.padded(image)), len(self.heads)
        return tuple(
            self._climb(maps[task * each : (task + 1) * each], ladder)
            for task, ladder in enumerate(self.ladders.values())
        )

    def every_scored(self, padded: Tensor) -> list[Tensor]:
        """Score the maps for every task, from one pass through the trunk; see ``FCN.every_scored``."""
        features = self.trunk(padded)
        return [scores for heads in self.score_layers.values() for scores in self._score(features, heads)]

    @property
    def steps(self) -> tuple[LastStep, ...]:
        """The steps from those scores to the image, of every task."""
        return tuple(self._last_step(ladder) for ladder in self.ladders.values())

    def task_network(self, name: str) -> FCN:
        """Return the same network as one of a further task alone; it shares all layers."""
        view = FCN.__new__(FCN)
        nn.Module.__init__(view)
        _share(self, view, trunk=self.trunk, heads=self._of("heads")[f"{name}_heads"])
        view.add_module("upsamplers", self._of("upsamplers")[f"{name}_upsamplers"])
        view.classes, view.tasks, view.architecture = self.tasks[name], {}, None
        return view.train(self.training)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Score every pixel of N x K x H x W for every task.

        Returns:
            A named tuple of N x C x H x W scores: ``semantic`` of the first task, the others by their names.
        """
        size = (image.shape[2], image.shape[3])
        scores = [step(fused, size) for step, fused in zip(self.steps, self.every(image), strict=True)]
        return _scores_type((FIRST_HEAD, *self.tasks))(*scores)


def _share(source: FCN, target: FCN, **children: nn.Module) -> None:
    """Let a bare module have all plain attributes of another, and its children or those that are named instead."""
    vars(target).update({name: value for name, value in vars(source).items() if name not in vars(target)})
    for name, child in (children or dict(source.named_children())).items():
        target.add_module(name, child)


def with_tasks(network: FCN, tasks: Mapping[str, int]) -> FCN:
    """Give a network a head for each further task; without any it stays what it is.

    Args:
        network: One that ``build`` made, of the first task.
        tasks: The number of classes of each further task, by its name.

    Returns:
        The network; its layers are those of the first.

    Raises:
        ValueError: As ``ManyHeads`` does.
    """
    if not tasks:
        return network
    made = ManyHeads(network, tasks)
    if network.architecture is not None:
        made.architecture = replace(network.architecture, tasks=tuple(made.tasks.items()))
    return made
