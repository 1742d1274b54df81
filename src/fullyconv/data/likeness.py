"""Pictures that show the same scene a moment later, or from a step aside: near-duplicates, by layout and edges."""

from __future__ import annotations

import numpy as np
from PIL import Image

ROWS, COLUMNS, CELL = 12, 16, 4  # cells of a picture and their side, in pixels of the reduced picture
TURNS = 8  # directions of edges
ALIKE = 0.72
"""Pictures whose signatures' product is at least this show the same scene.

On CamVid's 468 frames (108,811 pairs): pairs of other drives, or of more than 15 seconds apart, reach 0.716 at most
(a car that stands still); of pairs within 4 frames of each other all are above, of those within a second a good half.
"""


def signature(image: np.ndarray) -> np.ndarray:
    """Describe a picture so that the product of two signatures tells how alike they are.

    Half of it is the colours' layout in 12 x 16 cells, half the directions of edges in each (as in HOG): colours alone
    call two streets under one sky alike, edges alone lose a scene that moves by a cell.

    Args:
        image: H x W x 3 uint8 RGB.

    Returns:
        2112 float32 of Euclidean length 1 (0 for a picture of one colour).

    >>> board = np.indices((48, 64)).sum(0) % 7 * 30
    >>> one = signature(np.repeat(board[..., None], 3, 2).astype(np.uint8))
    >>> one.shape, round(float(one @ one), 3)
    ((2112,), 1.0)
    """
    size = (COLUMNS * CELL, ROWS * CELL)
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX), np.float32) / 255
    colours = small.reshape(ROWS, CELL, COLUMNS, CELL, 3).mean((1, 3)).reshape(-1)
    edges = _edges(small.mean(2))
    both = np.concatenate([_centred(colours), _centred(edges)])
    return both / max(float(np.linalg.norm(both)), 1e-6)


def _edges(grey: np.ndarray) -> np.ndarray:
    """Return each cell's histogram of edge directions, of about length 1 where there are edges."""
    down, across = np.zeros_like(grey), np.zeros_like(grey)
    down[1:-1], across[:, 1:-1] = grey[2:] - grey[:-2], grey[:, 2:] - grey[:, :-2]
    turn = np.arctan2(down, across) % np.pi / np.pi * TURNS
    first = np.floor(turn).astype(np.int64)
    strength, rest = np.hypot(down, across), turn - first
    found = np.zeros((TURNS, *grey.shape), np.float32)
    for index in range(TURNS):
        found[index] = strength * ((first % TURNS == index) * (1 - rest) + ((first + 1) % TURNS == index) * rest)
    cells = np.sqrt(found.reshape(TURNS, ROWS, CELL, COLUMNS, CELL).sum((2, 4)))
    return np.asarray(cells / np.sqrt((cells**2).sum(0) + 0.01)).reshape(-1)


def _centred(values: np.ndarray) -> np.ndarray:
    values = values - values.mean()
    length = float(np.linalg.norm(values))
    return np.asarray(values / length if length > 1e-4 else np.zeros_like(values), np.float32)


def alike_from(signatures: np.ndarray, *, most: int = 500) -> float:
    """Return from which product on two pictures of a set show the same scene.

    ``ALIKE``; in a set whose pictures are all laid out alike (retinas, portraits, radiographs: products of 0.8) half
    way from what any two of them have in common to sameness.

    Args:
        signatures: N x D of the whole set.
        most: How many are compared, at even distances.

    >>> alike_from(np.eye(3)), round(alike_from(np.array([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])), 2)
    (0.72, 0.9)
    """
    drawn = signatures[:: -(-len(signatures) // most)] if len(signatures) else signatures
    products = (drawn @ drawn.T)[np.triu_indices(len(drawn), 1)]
    return max(ALIKE, (1 + float(np.median(products))) / 2) if products.size else ALIKE


def count_scenes(signatures: np.ndarray, *, alike: float = ALIKE) -> list[int]:
    """Count different scenes: each picture joins the first earlier one that leads a scene and is alike.

    Args:
        signatures: N x D.
        alike: From which product on two pictures show one scene.

    Returns:
        For each picture the place of its leader.

    >>> count_scenes(np.array([[1.0, 0.0], [0.9, 0.436], [0.0, 1.0]]))
    [0, 0, 2]
    """
    leaders: list[int] = []
    joined = []
    for place, one in enumerate(signatures):
        near = signatures[leaders] @ one if leaders else np.zeros(0)
        if near.size and near.max() >= alike:
            joined.append(leaders[int(near.argmax())])
        else:
            leaders.append(place)
            joined.append(place)
    return joined


def nearest(queries: np.ndarray, known: np.ndarray, *, at_once: int = 1024) -> list[tuple[int, float]]:
    """Find for each signature of one split the most alike of another.

    Args:
        queries: N x D.
        known: M x D, M > 0.
        at_once: Rows of ``queries`` whose products are in memory at a time.

    Returns:
        The place in ``known`` and the product, for each query.

    >>> nearest(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0], [0.6, 0.8]]))
    [(1, 0.8)]
    """
    found: list[tuple[int, float]] = []
    for start in range(0, len(queries), at_once):
        products = queries[start : start + at_once] @ known.T
        best = products.argmax(1)
        found += [(int(place), float(row[place])) for place, row in zip(best, products, strict=True)]
    return found
