"""The MRF of a pixel grid, minimised by iterated conditional modes (Besag 1986)."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from fullyconv.crf.terms import check_energies

Links: TypeAlias = dict[tuple[int, int], np.ndarray]
"""What it costs to cut each pair of neighbours, by the (row, column) step between them."""

STEPS = {4: ((0, 1), (1, 0)), 8: ((0, 1), (1, 0), (1, 1), (1, -1))}


def icm(
    unary: np.ndarray,
    *,
    weight: float,
    neighbours: Literal[4, 8] = 8,
    image: np.ndarray | None = None,
    srgb: float = 13.0,
    sweeps: int = 50,
) -> np.ndarray:
    """Label a grid so that no pixel alone can lower the energy (iterated conditional modes).

    The energy is the sum of the unaries and, for each pair of neighbours that differ, ``weight`` over their
    distance; with an image times ``exp(-|difference|^2 / 2 srgb^2)``, so that edges of the picture are cheap to
    cut. Starts from the best unary. A local minimum: every change lowers the energy.

    Args:
        unary: C x H x W energies.
        weight: What it costs to cut two neighbours at distance 1.
        neighbours: 4 or 8.
        image: H x W x K, or none.
        srgb: Standard deviation of the image's differences, on its scale.
        sweeps: After so many passes it ends, or earlier, when one changes nothing.

    Returns:
        H x W int64 labels.

    Raises:
        ValueError: For sizes that differ, and energies that are NaN or infinite.

    >>> unary = np.zeros((2, 3, 3)); unary[0, 1, 1] = 1.0  # the middle prefers label 1, the others neither
    >>> icm(unary + [[[0.0]], [[0.1]]], weight=0.5)[1].tolist()
    [0, 0, 0]
    """
    check_energies(unary)
    links = grid_links(unary.shape[1:], weight=weight, neighbours=neighbours, image=image, srgb=srgb)
    labels: np.ndarray = unary.argmin(0)
    colours = 2 if neighbours == 4 else 4
    rows, columns = np.indices(labels.shape)
    # Pixels of one colour are no neighbours, so that all of them may change at once.
    colour = (rows + columns) % 2 if colours == 2 else rows % 2 * 2 + columns % 2
    for _ in range(sweeps):
        changed = False
        for turn in range(colours):
            energies = unary - _support(labels, len(unary), links)
            best = energies.argmin(0)
            better = (np.take_along_axis(energies, best[None], 0) < np.take_along_axis(energies, labels[None], 0))[
                0
            ] & (colour == turn)
            labels[better] = best[better]
            changed |= bool(better.any())
        if not changed:
            break
    return labels


def grid_energy(labels: np.ndarray, unary: np.ndarray, links: Links) -> float:
    """Compute the energy of H x W labels."""
    own = np.take_along_axis(unary, labels[None], 0).sum(dtype=np.float64)
    pairs = 0.0
    for step, strength in links.items():
        here, there = _ends(step, labels.shape)
        pairs += float(strength[labels[here] != labels[there]].sum(dtype=np.float64))
    return float(own) + pairs


def grid_links(
    shape: tuple[int, ...],
    *,
    weight: float,
    neighbours: Literal[4, 8],
    image: np.ndarray | None = None,
    srgb: float = 13.0,
) -> Links:
    """Return what it costs to cut each pair, by (row, column) step from one pixel to the other."""
    if neighbours not in STEPS:
        raise ValueError(f"a pixel has 4 or 8 neighbours, not {neighbours}")
    if image is not None and image.shape[:2] != shape:
        raise ValueError(f"unaries of {shape} pixels need an image of that size, not {image.shape[:2]}")
    links: Links = {}
    for step in STEPS[neighbours]:
        here, there = _ends(step, shape)
        strength = np.full(np.empty(shape, np.bool_)[here].shape, weight / np.hypot(*step), np.float32)
        if image is not None:
            pixels = image.reshape(*shape, -1).astype(np.float32)
            apart = ((pixels[here] - pixels[there]) ** 2).sum(-1)
            strength *= np.exp(-apart / (2 * srgb**2))
        links[step] = strength
    return links


def _ends(step: tuple[int, int], shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Select the first and the second pixel of every pair that is ``step`` apart."""
    down, right = step
    height, width = shape
    here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
    there = slice(down, height), slice(max(0, right), width + min(0, right))
    return here, there


def _support(labels: np.ndarray, classes: int, links: Links) -> np.ndarray:
    """Add up, for every pixel and label, the links to neighbours that have it, C x H x W."""
    support = np.zeros((classes, *labels.shape), np.float32)
    index = np.arange(classes)[:, None, None]
    for step, strength in links.items():
        here, there = _ends(step, labels.shape)
        support[(slice(None), *here)] += strength * (labels[there] == index)
        support[(slice(None), *there)] += strength * (labels[here] == index)
    return support
