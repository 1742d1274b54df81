"""The confusion matrix as a table of the page: each cell leads to pictures in which that confusion is large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fullyconv.data.pairs import Pair
from fullyconv.draw import ERROR_COLOURS, false_colours
from fullyconv.evaluation import Evaluation
from fullyconv.predict.image import Segmenter
from fullyconv.report.page import Key, class_keys, picture

LED_FROM = 10  # cells lead to pictures: the largest confusions in pixels, and as many in shares of their class
EXAMPLES = 2  # pictures of each
LONGEST_PX = 480
SEEN = 0.05  # per cent; what is less is left blank
DARK = 55  # per cent, from which numbers are white


@dataclass(frozen=True)
class Cell:
    """A cell of the table: the share of the true class's pixels, per cent, and the anchor of its pictures, if any."""

    percent: float
    anchor: str = ""

    @property
    def shade(self) -> str:
        """Its colours, as CSS: white at 0 %, blue at 100 %."""
        share = min(1.0, self.percent / 100)
        red, green, blue = (round(255 + share * (end - 255)) for end in (8, 48, 107))
        return f"background:#{red:02x}{green:02x}{blue:02x};color:{'white' if self.percent > DARK else 'black'}"

    @property
    def text(self) -> str:
        """Its number, as short as the cell."""
        if self.percent < SEEN:
            return ""
        return f"{self.percent:.1f}" if self.percent < 9.95 else f"{self.percent:.0f}"


@dataclass(frozen=True)
class Row:
    """A class of the truth, and what its pixels were taken for."""

    key: Key
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Mistake:
    """A confusion with pictures of it: each one's name, pixels and ``data:`` address."""

    anchor: str
    truth: Key
    guess: Key
    percent: float
    pictures: tuple[tuple[str, int, str], ...]


def confusion_table(
    evaluation: Evaluation, segmenter: Segmenter, pairs: Mapping[str, Pair]
) -> tuple[list[Row], list[Mistake]]:
    """Return the rows of the table and the largest confusions with pictures.

    Args:
        evaluation: What was counted, and in which pictures most.
        segmenter: The model; it predicts those pictures again.
        pairs: The pictures by name.
    """
    counts, keys = evaluation.counts, class_keys(evaluation.classes)
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    known = evaluation.examples
    largest = sorted(known, key=lambda cell: (-counts[cell], cell))[:LED_FROM]
    largest += sorted(known.keys() - set(largest), key=lambda cell: (-percent[cell], cell))[:LED_FROM]

    @lru_cache(maxsize=8)
    def looked(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sample = segmenter.sample(pairs[name])
        return sample.image, sample.labels, segmenter.predict(sample.image).labels

    mistakes = []
    for truth, guess in largest:
        examples: Sequence[tuple[int, str]] = known[truth, guess]
        shown = [
            (name, pixels, _marked(*looked(name), truth, guess))
            for pixels, name in examples[:EXAMPLES]
            if name in pairs
        ]
        if shown:
            anchor = f"taken-{truth}-{guess}"
            mistakes.append(Mistake(anchor, keys[truth], keys[guess], float(percent[truth, guess]), tuple(shown)))
    anchors = {mistake.anchor for mistake in mistakes}
    rows = []
    for truth, key in enumerate(keys):
        names = [f"taken-{truth}-{guess}" for guess in range(len(keys))]
        cells = (Cell(float(percent[truth, at]), name if name in anchors else "") for at, name in enumerate(names))
        rows.append(Row(key, tuple(cells)))
    return rows, mistakes


def _marked(image: np.ndarray, labels: np.ndarray, found: np.ndarray, truth: int, guess: int) -> str:
    """Dim a picture and paint the pixels of a confusion."""
    dimmed = (false_colours(image).astype(np.float32) * 0.45 + 20).astype(np.uint8)
    dimmed[(labels == truth) & (found == guess)] = ERROR_COLOURS["wrong"]
    return picture(dimmed, longest=LONGEST_PX, kind="JPEG")
