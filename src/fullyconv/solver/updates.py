"""How weights follow gradients, as Caffe's solvers compute it (fact sheet, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, sqrt

import torch
from torch import Tensor

from fullyconv.solver.settings import Method, Settings


@dataclass(frozen=True)
class Weight:
    """A blob of weights that trains: its factors on learning rate and weight decay."""

    values: Tensor
    rate: float = 1
    decay: float = 1


def learning_rate(settings: Settings, iteration: int, step: int) -> float:
    """Return the learning rate of an iteration; ``step`` is how many of ``stepvalue`` are reached.

    >>> learning_rate(Settings(base_lr=1, lr_policy="step", gamma=0.1, stepsize=10), 25, 0)
    0.010000000000000002
    """
    base, gamma, power = settings.base_lr, settings.gamma or 0, settings.power or 0
    stepsize, longest = settings.stepsize or 1, settings.max_iter or 1
    factors: dict[str, Callable[[], float]] = {
        "fixed": lambda: 1.0,
        "step": lambda: gamma ** (iteration // stepsize),
        "exp": lambda: gamma**iteration,
        "inv": lambda: (1 + gamma * iteration) ** -power,
        "multistep": lambda: gamma**step,
        "poly": lambda: max(1 - iteration / longest, 0) ** power,
        "sigmoid": lambda: 1 / (1 + exp(-gamma * (iteration - stepsize))),
    }
    return base * factors[settings.lr_policy]()


class Update:
    """A solver's rule and its memory: ``history`` holds a tensor for each weight, or two rows of them.

    Args:
        settings: The solver's.
        weights: What trains, in the order of the net; weights whose factor on the rate is 0 stay as they are.
    """

    def __init__(self, settings: Settings, weights: Sequence[Weight]) -> None:
        self.settings, self.weights = settings, tuple(weights)
        self.step = 0
        rows = 2 if settings.method in ("AdaDelta", "Adam") else 1
        self.history = [torch.zeros_like(weight.values.detach()) for _ in range(rows) for weight in self.weights]

    def _rate(self, iteration: int) -> float:
        """Return the learning rate of an iteration, which may be the next step of ``multistep``."""
        steps = self.settings.stepvalue
        if self.settings.lr_policy == "multistep" and self.step < len(steps) and iteration >= steps[self.step]:
            self.step += 1
        return learning_rate(self.settings, iteration, self.step)

    @torch.no_grad()
    def apply(self, iteration: int) -> float:
        """Change the weights by their gradients, summed over ``iter_size``: clip, average, decay, follow.

        Returns the learning rate.
        """
        rate = self._rate(iteration)
        self._clip()
        rule = RULES[self.settings.method]
        count = len(self.weights)
        for index, weight in enumerate(self.weights):
            if weight.values.grad is None or weight.rate == 0:
                continue
            gradient = weight.values.grad / self.settings.iter_size
            decay = self.settings.weight_decay * weight.decay
            if decay:
                own = weight.values
                gradient = gradient + decay * (own if self.settings.regularization_type == "L2" else own.sign())
            memory = self.history[index::count]
            weight.values.sub_(rule(self.settings, rate * weight.rate, gradient, memory, iteration))
        return rate

    def _clip(self) -> None:
        """Scale all gradients down to the norm of ``clip_gradients``, before they are averaged."""
        gradients = [weight.values.grad for weight in self.weights if weight.values.grad is not None]
        if self.settings.clip_gradients < 0 or not gradients:
            return
        norm = sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients))
        if norm > self.settings.clip_gradients:
            for gradient in gradients:
                gradient.mul_(self.settings.clip_gradients / norm)


Rule = Callable[[Settings, float, Tensor, Sequence[Tensor], int], Tensor]


def _sgd(settings: Settings, rate: float, gradient: Tensor, memory: Sequence[Tensor], iteration: int) -> Tensor:
    return memory[0].mul_(settings.momentum).add_(gradient, alpha=rate)


def _nesterov(settings: Settings, rate: float, gradient: Tensor, memory: Sequence[Tensor], iteration: int) -> Tensor:
    before = memory[0].clone()
    now = memory[0].mul_(settings.momentum).add_(gradient, alpha=rate)
    return (1 + settings.momentum) * now - settings.momentum * before


def _adagrad(settings: Settings, rate: float, gradient: Tensor, memory: Sequence[Tensor], iteration: int) -> Tensor:
    squares = memory[0].add_(gradient**2)
    return rate * gradient / (squares.sqrt() + settings.delta)


def _rmsprop(settings: Settings, rate: float, gradient: Tensor, memory: Sequence[Tensor], iteration: int) -> Tensor:
    squares = memory[0].mul_(settings.rms_decay).add_(gradient**2, alpha=1 - settings.rms_decay)
    return rate * gradient / (squares.sqrt() + settings.delta)


def _adadelta(settings: Settings, rate: float, gradient: Tensor, memory: Sequence[Tensor], iteration: int) -> Tensor:
    squares, updates = memory
    squares.mul_(settings.momentum).add_(gradient**2, alpha=1 - settings.momentum)
    update = gradient * ((updates + settings.delta) / (squares + settings.delta)).sqrt()
    updates.mul_(settings.momentum).add_(update**2, alpha=1 - settings.momentum)
    return rate * update


def _adam(settings: Settings, rate: float, gradient: Tensor, memory: Sequence[Tensor], iteration: int) -> Tensor:
    mean, squares = memory
    mean.mul_(settings.momentum).add_(gradient, alpha=1 - settings.momentum)
    squares.mul_(settings.momentum2).add_(gradient**2, alpha=1 - settings.momentum2)
    time = iteration + 1
    correction = sqrt(1 - settings.momentum2**time) / (1 - settings.momentum**time)
    return rate * correction * mean / (squares.sqrt() + settings.delta)


RULES: dict[Method, Rule] = {
    "SGD": _sgd,
    "Nesterov": _nesterov,
    "AdaGrad": _adagrad,
    "RMSProp": _rmsprop,
    "AdaDelta": _adadelta,
    "Adam": _adam,
}
