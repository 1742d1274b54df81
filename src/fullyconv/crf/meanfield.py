"""Mean-field inference for the fully connected CRF (Krähenbühl & Koltun 2011).

One update (their algorithm 1): message passing filters the marginals Q with every kernel k_m, the compatibility
transform mu_m turns messages into penalties, and the local update adds the unary U and normalises:
E = U + sum_m w_m mu_m k_m(Q), Q = softmax(-E). The filters run on permutohedral lattices (splat, blur, slice), so
that the slice of one update, its softmax and the splat of the next are one pass over the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from fullyconv.crf.exchange import Exchange
from fullyconv.crf.grid_filter import GridFilter, norms
from fullyconv.crf.lattice import Lattice, build_lattice, kernels
from fullyconv.crf.stepwise import Inference
from fullyconv.crf.terms import Gaussian, GridGaussian, Normalization, check_energies
from fullyconv.threads import Team, shares


class DenseCRF:
    """A fully connected CRF over the points of a grid, ready to infer the marginals of any unaries.

    Args:
        shape: The grid's, H x W, D x H x W or of any other dimension.
        terms: The pairwise kernels, any number of them; each is ``Gaussian`` or ``GridGaussian``.
        normalization: ``symmetric`` divides each kernel by the square roots of its row sums at both ends (as the
            authors' package does: the messages to a border pixel weigh as much as those to an inner one),
            ``before`` by the row sum at the sender, ``after`` at the receiver, ``none`` leaves it as it is.
        keep_diagonal: Whether a pixel's message to itself counts. The paper's sum leaves it out; the package that
            published parameters were tuned with keeps it, and with normalised kernels it only sharpens a
            pixel's marginals by a little. Kept by default, so that those parameters mean the same here; without
            it the lattice's own response of each point to itself is taken off.
        mask: Bool of the grid's shape; where false a pixel neither sends nor receives, and its marginals are the
            softmax of its unary.

    Raises:
        ValueError: For terms that do not fit the grid, or an unknown normalization.

    >>> smooth = GridGaussian((1.0, 1.0), weight=2.0)
    >>> unary = np.full((2, 3, 3), 0.7, np.float32)
    >>> unary[:, 1, 1] = 0.9, 0.6  # the middle pixel alone prefers label 1 ...
    >>> unary[1] += 0.3
    >>> DenseCRF((3, 3), [smooth]).marginals(unary, iterations=5).argmax(0).tolist()  # ... and gives way
    [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
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
        """Build the lattices side by side in one table, and fold weights and normalisation into it.

        Side by side, because the pass over the pixels then reads each pixel's corners of all lattices at once.
        """
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
        self._slices = self._splats  # one table serves both where sender and receiver factors are the same
        self._diagonals: list[np.ndarray] = []
        if self._lattices:
            self._normalise(team)

    def _normalise(self, team: Team) -> None:
        """Filter ones for the row sums of the kernels, and multiply the weights by what normalises them.

        A term's own weight and the lattice's gain go in as well, by their square roots at splat and slice, so that
        an update on Potts labels multiplies by nothing but these weights.
        """
        exchange = Exchange(self._lattices, self._offsets, labels=1, team=team)
        ones = np.ones(self.points, np.float32) if self._active is None else self._active
        exchange.splat(ones, self._splats)
        exchange.blur()
        if self._normalization != "symmetric" or any(not _is_potts(term) for term in self._terms):
            self._slices = self._splats.copy()
        first = 0
        for index, (term, lattice) in enumerate(zip(self._terms, self._lattices, strict=True)):
            columns = (first, first + lattice.axes)
            sums = exchange.slice_column(index, self._splats) * np.float32(lattice.gain)
            own = None if self._keep_diagonal else self._diagonal(lattice, team)
            if own is not None:
                sums -= own * ones
            sender, receiver = norms(sums, self._normalization)
            strength = np.float32(np.sqrt(term.weight * lattice.gain)) if _is_potts(term) else np.float32(1)
            if self._active is not None:
                sender, receiver = sender * self._active, receiver * self._active
            self._rescale(self._splats, sender * strength, columns, team)
            if self._slices is not self._splats:
                self._rescale(self._slices, receiver * strength, columns, team)
            if own is not None:
                self._diagonals.append(own * sender * receiver)
            first = columns[1]

    def _diagonal(self, lattice: Lattice, team: Team) -> np.ndarray:
        """Return the lattice's response of each point to itself, before normalisation."""
        own = np.empty(self.points, np.float32)
        given = (np.ascontiguousarray(lattice.offsets), np.ascontiguousarray(lattice.weights), lattice.neighbours, own)
        team.run([partial(self._simplex.diagonal, *given, *part) for part in shares(self.points, team.size)])
        own *= np.float32(lattice.gain)
        return own

    def _rescale(self, weights: np.ndarray, factors: np.ndarray, columns: tuple[int, int], team: Team) -> None:
        """Multiply the ``columns`` of each pixel's weights by its factor, in place."""
        given = (weights, factors, columns, weights)
        team.run([partial(self._kernels.rescale, *given, *part) for part in shares(self.points, team.size)])

    def marginals(self, unary: np.ndarray, *, iterations: int, out: np.ndarray | None = None) -> np.ndarray:
        """Infer the marginals of unary energies by mean-field updates.

        Args:
            unary: C x shape energies (-log probability), of any floating type; computed in float32.
            iterations: How many updates; 0 gives the softmax of the unaries, 5 to 10 settle.
            out: C x shape float32 that is filled, if given.

        Returns:
            C x shape float32 marginals, which add up to 1 over the labels.

        Raises:
            ValueError: For unaries of another shape, NaN or infinite ones, or a negative number of iterations.
        """
        labels = len(unary)
        if unary.shape[1:] != self.shape or labels < 1 or iterations < 0:
            raise ValueError(
                f"unaries are C x {self.shape} with iterations >= 0, not {unary.shape} with {iterations} iterations"
            )
        planes = np.ascontiguousarray(unary, np.float32).reshape(labels, -1)
        check_energies(planes)
        found = np.empty((labels, *self.shape), np.float32) if out is None else out
        with Team() as team:
            exchange = Exchange(self._lattices, self._offsets, labels=labels, team=team)
            rows = np.empty(self.points * exchange.width, np.float32)
            simple = not self._grids and not self._diagonals and iterations > 0
            update = self._update_on_lattices if simple else self._update_with_beliefs
            update(exchange, rows, (planes, found.reshape(labels, -1)), iterations)
        return found

    def start(self, unary: np.ndarray) -> Inference:
        """Begin an inference that goes step by step.

        Args:
            unary: As ``marginals`` takes it.

        Returns:
            The marginals without any update; ``step`` updates them.

        Raises:
            ValueError: As ``marginals`` does.
        """
        self.marginals(unary, iterations=0)  # checks
        return Inference(self.messages, np.asarray(unary, np.float32))

    def map(self, unary: np.ndarray, *, iterations: int) -> np.ndarray:
        """Return the label of the largest marginal at every point.

        Args:
            unary: As ``marginals`` takes it.
            iterations: Likewise.

        Returns:
            Labels of the grid's shape, int64.
        """
        labels: np.ndarray = self.marginals(unary, iterations=iterations).argmax(0)
        return labels

    def messages(self, marginals: np.ndarray) -> np.ndarray:
        """Return what all points say of each label at every point, as a change of its negative energy.

        Args:
            marginals: C x shape float32.

        Returns:
            C x shape float32; with Potts labels without what all labels share, which the softmax does not see.
        """
        planes = np.ascontiguousarray(marginals, np.float32).reshape(len(marginals), -1)
        labels = len(planes)
        with Team() as team:
            exchange = Exchange(self._lattices, self._offsets, labels=max(2, labels), team=team)
            rows = np.zeros(self.points * exchange.width, np.float32)
            self._share(team, self._kernels.to_rows, planes, 1.0, rows, exchange.width)
            rows.reshape(self.points, -1)[:, labels:] = 0
            changed = np.zeros((self.points, labels), np.float32)
            self._add_other_messages(changed, rows.reshape(self.points, -1)[:, :labels])
            if self._lattices:
                exchange.splat(rows, self._splats)
                self._blur(exchange, labels)
                rows[:] = 0
                exchange.slice(rows, self._slices)
                changed += rows.reshape(self.points, -1)[:, :labels]
        return np.ascontiguousarray(changed.T).reshape(marginals.shape)

    def _share(self, team: Team, kernel: Any, *given: Any) -> None:
        team.run([partial(kernel, *given, *part) for part in shares(self.points, team.size)])

    def _update_on_lattices(
        self, exchange: Exchange, rows: np.ndarray, planes: tuple[np.ndarray, np.ndarray], iterations: int
    ) -> None:
        """Update on lattices alone: marginals go from softmax to splat without being written down before the end.

        The first pass softmaxes the unaries and splats; each later one slices what was blurred, softmaxes and
        splats again; the last writes the marginals instead.
        """
        weights = self._slices, self._splats
        exchange.update(rows, *weights, modes=(False, True, False), planes=planes[0])
        for iteration in range(iterations):
            self._blur(exchange, len(planes[0]))
            if iteration < iterations - 1:
                exchange.update(rows, *weights, modes=(True, True, False))
        exchange.update(rows, *weights, modes=(True, False, True), planes=planes[1])

    def _update_with_beliefs(
        self, exchange: Exchange, rows: np.ndarray, planes: tuple[np.ndarray, np.ndarray], iterations: int
    ) -> None:
        """Update with the marginals at hand, for kernels that are not on a lattice and for the removed diagonal."""
        labels, weights = len(planes[0]), (self._slices, self._splats)
        self._share(exchange.team, self._kernels.to_rows, planes[0], -1.0, rows, exchange.width)
        unary = rows.copy()
        exchange.update(rows, *weights, modes=(False, iterations > 0, True))
        for iteration in range(iterations):
            energies = unary.copy()
            self._add_other_messages(
                energies.reshape(self.points, -1)[:, :labels], rows.reshape(self.points, -1)[:, :labels]
            )
            self._blur(exchange, labels)
            rows[:] = energies
            exchange.update(rows, *weights, modes=(True, iteration < iterations - 1, True))
        self._share(exchange.team, self._kernels.to_planes, rows, planes[1], exchange.width)

    def _add_other_messages(self, energies: np.ndarray, beliefs: np.ndarray) -> None:
        """Add to P x C negative energies what does not go over a lattice: grid kernels, less the removed diagonal."""
        for grid in self._grids:
            energies += _compatibility_transform(grid(beliefs), grid.term)
        if self._diagonals:
            for own, term in zip(self._diagonals, self._terms, strict=True):
                energies -= _compatibility_transform(own[:, None] * beliefs, term)

    def _blur(self, exchange: Exchange, labels: int) -> None:
        """Blur, and transform messages on the vertices where labels are not Potts.

        The compatibility transform is linear over labels and the slice over vertices, so their order may be
        exchanged: there are fewer vertices than pixels.
        """
        exchange.blur()
        for index, (term, lattice) in enumerate(zip(self._terms, self._lattices, strict=True)):
            if not _is_potts(term):
                held = exchange.rows(index)[:, :labels]
                held[:] = _compatibility_transform(held, term) * np.float32(lattice.gain)


def _is_potts(term: Gaussian | GridGaussian) -> bool:
    """Return whether a term's weight can be split into two real square roots, and needs no transform."""
    return term.compatibility is None and term.weight >= 0


def _compatibility_transform(messages: np.ndarray, term: Gaussian | GridGaussian) -> np.ndarray:
    """Turn messages (... x C) into changes of the negative energies: the compatibility transform.

    Potts adds to a label the messages of all others; less what all labels share (their sum, which the softmax
    does not see), it takes off the label's own.
    """
    weight = np.float32(term.weight)
    if term.compatibility is None:
        return messages * weight
    penalties = np.asarray(term.compatibility, np.float32)
    if penalties.shape != (messages.shape[-1],) * 2:
        raise ValueError(f"a compatibility of {messages.shape[-1]} labels is C x C, not {penalties.shape}")
    changed: np.ndarray = messages @ (-weight * penalties.T)
    return changed
