"""What quicker arithmetic costs: the share of labels that change, and the mean IU, against PyTorch in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fullyconv.data.pairs import Pair
from fullyconv.machine import Arithmetic, EngineName
from fullyconv.predict.image import Segmenter
from fullyconv.predict.openvino_engine import available
from fullyconv.predict.quantised import INT8
from fullyconv.scores.metrics import confusion, score

Variant = tuple[EngineName, Arithmetic]
REFERENCE: Variant = ("pytorch", "float32")


@dataclass(frozen=True)
class Price:
    """What one engine in one arithmetic changes.

    Attributes:
        engine: What computes.
        precision: In which arithmetic.
        changed: The share of labels that are not those of PyTorch in float32, 0..1.
        mean_iu: The mean IU, 0..1.
        difference: That less the mean IU of PyTorch in float32.
    """

    engine: str
    precision: str
    changed: float
    mean_iu: float
    difference: float

    def words(self) -> str:
        """Say it in a line.

        >>> Price("openvino", "bfloat16", 0.0008, 0.6146, -0.0001).words()
        'openvino bfloat16: 0.080 % of labels change, mean IU 0.6146 (-0.0001)'
        """
        share = f"{100 * self.changed:.3f} % of labels change"
        return f"{self.engine} {self.precision}: {share}, mean IU {self.mean_iu:.4f} ({self.difference:+.4f})"


def usable_variants(folder: Path | None) -> list[Variant]:
    """List what this installation and this model can compute in, but the reference."""
    variants: list[Variant] = [("pytorch", "bfloat16")]
    if available():
        variants += [("openvino", "float32"), ("openvino", "bfloat16")]
        if folder is not None and (folder / INT8).is_file():
            variants.append(("openvino", "int8"))
    return variants


def measure_prices(
    segmenter: Segmenter,
    pairs: Sequence[Pair],
    variants: Sequence[Variant],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Price]:
    """Label every picture in several arithmetics and compare.

    Args:
        segmenter: The model, on the CPU.
        pairs: Images with their masks.
        variants: Engines and arithmetics; compared with ``REFERENCE``.
        progress: Called with (done, total) after each pair.

    Returns:
        A ``Price`` for each variant, in their order.

    Raises:
        BadFile: For a pair that cannot be read, or int8 that does not fit the model.
        ValueError: Without pairs.
    """
    if not pairs:
        raise ValueError("no pictures to compare arithmetics on")
    models = [segmenter.anew(*variant) for variant in (REFERENCE, *variants)]
    classes = len(segmenter.classes)
    counts, changed, pixels = [np.zeros((classes, classes), np.int64) for _ in models], np.zeros(len(models)), 0
    for done, pair in enumerate(pairs, start=1):
        sample = segmenter.sample(pair)
        found = [model.predict(sample.image).labels for model in models]
        pixels += found[0].size
        for index, labels in enumerate(found):
            changed[index] += np.count_nonzero(labels != found[0])
            counts[index] += confusion(sample.labels, labels, classes=classes)
        if progress is not None:
            progress(done, len(pairs))
    means = [score(each).mean_iu for each in counts]
    return [
        Price(engine, precision, float(changed[index]) / pixels, means[index], means[index] - means[0])
        for index, (engine, precision) in enumerate(variants, start=1)
    ]
