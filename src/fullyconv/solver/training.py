"""A training of Caffe's: its nets, its steps, its tests and its scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from torch import Tensor, nn

from fullyconv.caffe import Net
from fullyconv.caffe.description import Description
from fullyconv.caffe.loading import set_weights
from fullyconv.scores.metrics import Scores, confusion, score
from fullyconv.solver.feeds import Feed, feed_of
from fullyconv.solver.released import Roots, stated_roots
from fullyconv.solver.settings import Solver
from fullyconv.solver.updates import Update, Weight

VOID = -1
MOST_PRINTED = 64  # values of an output; a map of scores is no figure


class Diverged(ValueError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class _Fed:
    """A net and its data."""

    net: Net
    feed: Feed


class Training:
    """A solver's nets and where its training is.

    The test nets share the weights of the net that trains, by layer name. The random numbers of a step (dropout,
    fillers of DummyData, crops) follow from ``random_seed``, 0 where the file has none, and the iteration alone.

    Args:
        solver: The solver's file, read.
        roots: Where data sets are.
        device: Where to compute.
        dtype: In which numbers; Caffe's are float32.

    Raises:
        BadFile: For nets and data that cannot be used.
    """

    def __init__(
        self, solver: Solver, roots: Roots, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.settings, self.device, self.dtype = solver.settings, torch.device(device), dtype
        self.seed = max(solver.settings.random_seed, 0)
        torch.manual_seed(self.seed)
        roots = stated_roots(solver.train, roots)
        self._train = self._open(solver.train, roots)
        self.net = self._train.net
        self.iteration, self.rate = 0, 0.0
        self._tests = [self._open(test, roots) for test in solver.tests]
        for test in self._tests:
            _share(self.net, test.net)
        self.update = Update(solver.settings, _weights(self.net))
        self._losses: deque[float] = deque(maxlen=solver.settings.average_loss)
        missing = sorted(top for top in self.net.loss_weights if top not in self._outputs())
        if missing or not self.net.loss_weights:
            what = f"its loss {missing[0]!r} goes into another layer" if missing else "it has no loss"
            raise ValueError(f"{self.net.path}: {what}: give the net a loss that is an output")

    def _open(self, description: Description, roots: Roots) -> _Fed:
        feed = feed_of(description, roots, self.seed)
        net = Net(description, {name: blob.shape for name, blob in feed.batch(0).items()})
        set_weights(net, None, description.path)
        return _Fed(net.to(self.device, self.dtype), feed)

    def _outputs(self) -> set[str]:
        used = {bottom for layer in self.net.described if not layer.is_loss for bottom in layer.bottoms}
        return {top for layer in self.net.described for top in layer.tops if top not in used}

    def _blobs(self, blobs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(np.ascontiguousarray(blob)).to(self.device, self.dtype)
            for name, blob in blobs.items()
        }

    @property
    def loss(self) -> float:
        """The loss, averaged over the last ``average_loss`` steps."""
        return sum(self._losses) / max(len(self._losses), 1)

    def batch(self, number: int) -> dict[str, Tensor]:
        """Return the blobs of a batch of the training's data."""
        return self._blobs(self._train.feed.batch(number))

    def step(self) -> float:
        """Make one update and return its loss; raises ``Diverged`` where that is no number."""
        self.net.train()
        self.net.zero_grad(set_to_none=True)
        total = 0.0
        for part in range(self.settings.iter_size):
            number = self.iteration * self.settings.iter_size + part
            torch.manual_seed(self.seed * 1_000_003 + number)
            outputs = self.net(self.batch(number))
            loss = torch.stack([outputs[top].sum() * weight for top, weight in self.net.loss_weights.items()]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        loss_value = total / self.settings.iter_size
        if not isfinite(loss_value):
            raise Diverged(f"the loss of iteration {self.iteration} is {loss_value}: lower base_lr, or check the data")
        self.rate = self.update.apply(self.iteration)
        self.iteration += 1
        self._losses.append(loss_value)
        return loss_value

    def test(self, index: int) -> dict[str, np.ndarray]:
        """Average the outputs of a test net over its first ``test_iter`` batches."""
        sums: dict[str, np.ndarray] = {}
        count = self.settings.test_iter[index]
        for outputs in self._tested(self._tests[index], count):
            for name, blob in outputs.items():
                if blob.numel() <= MOST_PRINTED:
                    sums[name] = sums.get(name, 0) + blob.double().cpu().numpy() / count
        return sums

    @torch.inference_mode()
    def _tested(self, test: _Fed, count: int) -> Iterator[dict[str, Tensor]]:
        test.net.eval()
        for number in range(count):
            yield test.net(self._blobs(test.feed.batch(number)))

    def score(self) -> dict[str, Scores]:
        """Score the test nets as the release does, on every picture of their data once: by the blob of scores.

        A blob that a SoftmaxWithLoss compares with labels, pixel by pixel, is scored over all classes that it has.
        """
        found = {}
        for index, test in enumerate(self._tests):
            pairs = {
                layer.bottoms[0]: (layer.bottoms[1], _ignored(test.net.module(layer)))
                for layer in test.net.described
                if layer.kind == "SoftmaxWithLoss"
            }
            counts: dict[str, np.ndarray] = {}
            for number in range(test.feed.items or self.settings.test_iter[index]):
                blobs = self._blobs(test.feed.batch(number))
                for name, table in self._count(test.net, blobs, pairs).items():
                    counts[name] = counts.get(name, 0) + table
            found.update({name: score(table) for name, table in counts.items()})
        return found

    @torch.inference_mode()
    def _count(
        self, net: Net, blobs: dict[str, Tensor], pairs: Mapping[str, tuple[str, int | None]]
    ) -> dict[str, np.ndarray]:
        net.eval()
        outputs = {**blobs, **net(blobs)}
        counts = {}
        for name, (label, ignored) in pairs.items():
            scores = outputs.get(name)
            if scores is None or label not in blobs or scores.ndim != 4:
                continue
            truth = blobs[label].cpu().numpy().astype(np.int64).reshape(scores.shape[0], *scores.shape[2:])
            truth[truth == ignored] = VOID
            guess = scores.argmax(1).cpu().numpy()
            counts[name] = confusion(truth, guess, classes=scores.shape[1])
        return counts


def _ignored(module: nn.Module) -> int | None:
    ignored = getattr(module, "ignore", None)
    return ignored if isinstance(ignored, int) else None


def _weights(net: Net) -> list[Weight]:
    """Return every blob of a net once, in Caffe's order; statistics do not follow gradients."""
    found: dict[int, Weight] = {}
    for layer in net.described:
        for index, (_, tensor) in enumerate(net.blobs(layer)):
            spec = layer.params[index] if index < len(layer.params) else None
            rate = 0.0 if not isinstance(tensor, nn.Parameter) else 1.0 if spec is None else spec.lr_mult
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(rate != 0)
            found.setdefault(id(tensor), Weight(tensor, rate, 1.0 if spec is None else spec.decay_mult))
    return list(found.values())


def _share(trained: Net, tested: Net) -> None:
    """Let a net use another's weights, layer by layer of one name; raises ``ValueError`` for other shapes."""
    own = {layer.name: trained.blobs(layer) for layer in trained.described}
    for layer in tested.described:
        blobs = tested.blobs(layer)
        for (name, tensor), (_, shared) in zip(blobs, own.get(layer.name, blobs), strict=True):
            if tensor.shape != shared.shape:
                raise ValueError(
                    f"{layer.label}: its {name} is {tuple(tensor.shape)} where training has {shared.shape}"
                )
            setattr(tested.module(layer), name, shared)
