"""Mean-field inference one update at a time, with the free energy that the updates lower."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LEAST = 1e-20  # of a marginal whose logarithm is taken


class Inference:
    """Marginals on their way (``DenseCRF.start`` makes one).

    As many steps as ``DenseCRF.marginals`` takes updates come to the same marginals, within rounding.

    Args:
        messages: What the CRF makes of marginals (``DenseCRF.messages``).
        unary: C x shape, each label's energy at each point.

    Attributes:
        marginals: C x shape float32, as they are now.

    >>> from fullyconv.crf import CRFParameters, image_crf
    >>> crf = image_crf(np.zeros((4, 5, 3), np.uint8), CRFParameters())
    >>> state = crf.start(np.random.default_rng(0).random((2, 4, 5)).astype(np.float32))
    >>> before = state.kl_divergence
    >>> state.step(5).kl_divergence < before
    True
    """

    def __init__(self, messages: Callable[[np.ndarray], np.ndarray], unary: np.ndarray) -> None:
        self._say, self._unary = messages, unary
        self.marginals = _softmax(-unary)
        self._heard: np.ndarray | None = None

    def step(self, count: int = 1) -> Inference:
        """Update all marginals at once, ``count`` times.

        Args:
            count: Of updates, 0 or more.

        Returns:
            The same object.

        Raises:
            ValueError: For a negative number.
        """
        if count < 0:
            raise ValueError(f"steps go forward, not {count} times")
        for _ in range(count):
            self.marginals, self._heard = _softmax(self._messages - self._unary), None
        return self

    @property
    def _messages(self) -> np.ndarray:
        """What the others say of each label now, as a change of its negative energy."""
        if self._heard is None:
            self._heard = self._say(self.marginals)
        return self._heard

    @property
    def labels(self) -> np.ndarray:
        """The most probable label of each point, of the grid's shape."""
        found: np.ndarray = self.marginals.argmax(0)
        return found

    @property
    def kl_divergence(self) -> float:
        """How far the marginals are from the CRF's distribution, up to a constant of the CRF (their free energy).

        The sum of Q log Q + Q U, and half of what each point's marginals say of its neighbours': each pair once. (The
        authors' package adds the pairs twice: its number is this one less half the sum of Q times the messages.)
        """
        chances = self.marginals.astype(np.float64)
        own = chances * (np.log(np.maximum(chances, LEAST)) + self._unary)
        return float(own.sum() - (chances * self._messages).sum() / 2)


def _softmax(scores: np.ndarray) -> np.ndarray:
    chances = np.exp(scores - scores.max(0))
    return np.asarray(chances / chances.sum(0), np.float32)
