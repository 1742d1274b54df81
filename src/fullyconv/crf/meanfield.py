"""Mean-field inference for the fully connected CRF (Krähenbühl & Koltun 2011).

Per update, every pixel's energy becomes its unary minus what its peers say, E = U + sum_m w_m mu_m k_m(Q),
and its marginals Q = softmax(-E). The filters k_m run on lattices; the whole update is one pass over
the pixels: slice, softmax, splat.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from fullyconv.crf.exchange import Exchange
from fullyconv.crf.grid_filter import GridFilter, norms
from fullyconv.crf.lattice import Lattice, build_lattice, kernels
from fullyconv.crf.terms import Gaussian, GridGaussian, Normalization
from fullyconv.crf.threads import Team, shares


class DenseCRF:
    """A fully connected CRF over the points of a grid, ready to infer the marginals of any unaries.

    ``shape`` is the grid's (H x W, D x H x W, ...); ``terms`` the kernels, any number of them.

    ``normalization``: ``symmetric`` divides each kernel by the square roots of its row sums at both
    ends (the old package's habit: a border pixel hears as much as an inner one), ``before`` at the
    sender, ``after`` at the receiver, ``none`` leaves it as it is.

    ``keep_diagonal``: the textbook's sum leaves out a pixel's message to itself; the package that
    published parameters were tuned with keeps it, and with normalised kernels it only sharpens a
    pixel's belief by a little. Kept by default, so that those parameters mean the same here; without
    it the lattice's own response of each point to itself is taken off.

    ``mask`` (shape, bool): where false a pixel neither sends nor receives; its marginals are the
    softmax of its unary. Raises ``ValueError`` for terms that do not fit the grid.
    """

    def __init__(
        self,
        shape: Sequence[int],
        terms: Sequence[Gaussian | GridGaussian],
        *,
        normalization: Normalization = "symmetric",
        keep_diagonal: bool = True,
        mask: np.ndarray | None = None,
    ) -> None:
        if normalization not in ("symmetric", "before", "after", "none"):
            raise ValueError(f"normalization is 'symmetric', 'before', 'after' or 'none', not {normalization!r}")
        self.shape, self.points = tuple(shape), int(np.prod(shape))
        if self.points < 1:
            raise ValueError(f"a grid has a point at least, not the shape {self.shape}")
        if mask is not None and mask.shape != self.shape:
            raise ValueError(f"a mask of the grid's shape {self.shape} is needed, not {mask.shape}")
        self._kernels, self._simplex = kernels()
        self._normalization, self._keep_diagonal = normalization, keep_diagonal
        self._active = None if mask is None else np.ascontiguousarray(mask, np.float32).ravel()
        self._terms = [term for term in terms if isinstance(term, Gaussian)]
        self._grids = [
            GridFilter(term, self.shape, normalization=normalization, active=self._active, keep_diagonal=keep_diagonal)
            for term in terms
            if isinstance(term, GridGaussian)
        ]
        with Team() as team:
            self._build(team)

    def _build(self, team: Team) -> None:
        """Build the lattices side by side in one table, and fold weights and normalisation into it."""
        columns = sum(len(term.features) + 1 for term in self._terms)
        self._offsets = np.empty((self.points, columns), np.int32)
        self._splats = np.empty((self.points, columns), np.float32)
        self._lattices: list[Lattice] = []
        first = 0
        for term in self._terms:
            if term.features.shape[1:] != self.shape:
                raise ValueError(f"features are d x {self.shape}, not {term.features.shape}: one vector per point")
            last = first + len(term.features) + 1
            features = np.ascontiguousarray(term.features, np.float32).reshape(len(term.features), -1)
            ours = {"offsets": self._offsets[:, first:last], "weights": self._splats[:, first:last]}
            self._lattices.append(build_lattice(features, team, **ours))
            first = last
        self._slices = self._splats
        self._selves: list[np.ndarray] = []
        if self._lattices:
            self._normalise(team)

    def _normalise(self, team: Team) -> None:
        exchange = Exchange(self._lattices, self._offsets, labels=1, team=team)
        ones = np.ones(self.points, np.float32) if self._active is None else self._active
        exchange.scatter(ones, self._splats)
        exchange.blur()
        if self._normalization != "symmetric" or any(not _is_potts(term) for term in self._terms):
            self._slices = self._splats.copy()
        first = 0
        for index, (term, lattice) in enumerate(zip(self._terms, self._lattices, strict=True)):
            columns = (first, first + lattice.axes)
            sums = exchange.answers(index, self._splats) * np.float32(lattice.gain)
            own = None if self._keep_diagonal else self._diagonal(lattice, team)
            if own is not None:
                sums -= own * ones
            sender, receiver = norms(sums, self._normalization)
            loudness = np.float32(np.sqrt(term.weight * lattice.gain)) if _is_potts(term) else np.float32(1)
            if self._active is not None:
                sender, receiver = sender * self._active, receiver * self._active
            self._rescale(self._splats, sender * loudness, columns, team)
            if self._slices is not self._splats:
                self._rescale(self._slices, receiver * loudness, columns, team)
            if own is not None:
                self._selves.append(own * sender * receiver)
            first = columns[1]

    def _diagonal(self, lattice: Lattice, team: Team) -> np.ndarray:
        own = np.empty(self.points, np.float32)
        given = (np.ascontiguousarray(lattice.offsets), np.ascontiguousarray(lattice.weights), lattice.neighbours, own)
        team.run([partial(self._simplex.diagonal, *given, *part) for part in shares(self.points, team.size)])
        own *= np.float32(lattice.gain)
        return own

    def _rescale(self, weights: np.ndarray, factors: np.ndarray, columns: tuple[int, int], team: Team) -> None:
        given = (weights, factors, columns, weights)
        team.run([partial(self._kernels.rescale, *given, *part) for part in shares(self.points, team.size)])

    def marginals(self, unary: np.ndarray, *, iterations: int, out: np.ndarray | None = None) -> np.ndarray:
        """Infer the marginals of C x shape unary energies (-log p), C x shape float32.

        ``out`` is filled if given. Raises ``ValueError`` for unaries of another shape or a negative
        number of iterations.
        """
        labels = len(unary)
        if unary.shape[1:] != self.shape or labels < 1 or iterations < 0:
            raise ValueError(
                f"unaries are C x {self.shape} with iterations >= 0, not {unary.shape} with {iterations} iterations"
            )
        planes = np.ascontiguousarray(unary, np.float32).reshape(labels, -1)
        found = np.empty((labels, *self.shape), np.float32) if out is None else out
        with Team() as team:
            exchange = Exchange(self._lattices, self._offsets, labels=labels, team=team)
            rows = np.empty(self.points * exchange.width, np.float32)
            simple = not self._grids and not self._selves and iterations > 0
            settle = self._settle if simple else self._settle_with_rows
            settle(exchange, rows, (planes, found.reshape(labels, -1)), iterations)
        return found

    def _share(self, team: Team, kernel: Any, *given: Any) -> None:
        team.run([partial(kernel, *given, *part) for part in shares(self.points, team.size)])

    def _settle(
        self, exchange: Exchange, rows: np.ndarray, planes: tuple[np.ndarray, np.ndarray], iterations: int
    ) -> None:
        """Iterate on lattices alone: beliefs are never written down before the last update."""
        weights = self._slices, self._splats
        exchange.update(rows, *weights, modes=(False, True, False), planes=planes[0])
        for iteration in range(iterations):
            self._deliver(exchange, len(planes[0]))
            if iteration < iterations - 1:
                exchange.update(rows, *weights, modes=(True, True, False))
        exchange.update(rows, *weights, modes=(True, False, True), planes=planes[1])

    def _settle_with_rows(
        self, exchange: Exchange, rows: np.ndarray, planes: tuple[np.ndarray, np.ndarray], iterations: int
    ) -> None:
        """Iterate with the beliefs at hand, for kernels that are not on a lattice and for the diagonal."""
        labels, weights = len(planes[0]), (self._slices, self._splats)
        self._share(exchange.team, self._kernels.to_rows, planes[0], -1.0, rows, exchange.width)
        unary = rows.copy()
        exchange.update(rows, *weights, modes=(False, iterations > 0, True))
        for iteration in range(iterations):
            energies = unary.copy()
            self._whisper(energies.reshape(self.points, -1)[:, :labels], rows.reshape(self.points, -1)[:, :labels])
            self._deliver(exchange, labels)
            rows[:] = energies
            exchange.update(rows, *weights, modes=(True, iteration < iterations - 1, True))
        self._share(exchange.team, self._kernels.to_planes, rows, planes[1], exchange.width)

    def _whisper(self, energies: np.ndarray, beliefs: np.ndarray) -> None:
        """Add to P x C negative energies what does not go over a lattice: grid kernels, less the pixels' own part."""
        for grid in self._grids:
            energies += _transformed(grid(beliefs), grid.term)
        if self._selves:
            for own, term in zip(self._selves, self._terms, strict=True):
                energies -= _transformed(own[:, None] * beliefs, term)

    def _deliver(self, exchange: Exchange, labels: int) -> None:
        """Blur, and turn what was said of each label into energies where labels are not Potts."""
        exchange.blur()
        for index, (term, lattice) in enumerate(zip(self._terms, self._lattices, strict=True)):
            if not _is_potts(term):
                held = exchange.rows(index)[:, :labels]
                held[:] = _transformed(held, term) * np.float32(lattice.gain)


def _is_potts(term: Gaussian | GridGaussian) -> bool:
    return term.compatibility is None and term.weight >= 0


def _transformed(heard: np.ndarray, term: Gaussian | GridGaussian) -> np.ndarray:
    """Turn messages (... x C) into changes of the negative energies.

    Potts penalises all labels but the heard one; less what all labels share, that rewards the heard
    one.
    """
    weight = np.float32(term.weight)
    if term.compatibility is None:
        return heard * weight
    penalties = np.asarray(term.compatibility, np.float32)
    if penalties.shape != (heard.shape[-1],) * 2:
        raise ValueError(f"a compatibility of {heard.shape[-1]} labels is C x C, not {penalties.shape}")
    changed: np.ndarray = heard @ (-weight * penalties.T)
    return changed
