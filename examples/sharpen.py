"""What a dense CRF does to coarse scores, on arrays alone: python examples/sharpen.py (needs the extra crf)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from fullyconv.crf import dense_crf, unary_from_scores
from fullyconv.data.synthetic import CLASSES, make_sample
from fullyconv.scores.boundary import count_boundaries
from fullyconv.scores.metrics import confusion, score
from fullyconv.types import VOID

BLUR_PX = 6.0  # as coarse as scores at stride 16


def coarse_scores(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur the truth and disturb it, as a network with a large stride would: C x H x W."""
    known = np.where(labels == VOID, 0, labels)
    planes = (known == np.arange(len(CLASSES))[:, None, None]).astype(np.float32)
    soft = np.stack([ndimage.gaussian_filter(plane, BLUR_PX) for plane in planes])
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=labels.shape), 4) for _ in planes])
    return 8 * soft + 4 * noise


def main() -> None:
    """Compare labels before and after on five generated pictures."""
    rng = np.random.default_rng(0)
    counts = {"before": np.zeros((len(CLASSES),) * 2, np.int64), "after": np.zeros((len(CLASSES),) * 2, np.int64)}
    edges: dict[str, list[float]] = {"before": [], "after": []}
    for index in range(5):
        sample = make_sample(seed=1, index=index)
        scores = coarse_scores(sample.labels, rng)
        marginals = dense_crf(
            unary_from_scores(scores),
            sample.image,
            iterations=10,
            smoothness_weight=1.0,
            smoothness_sxy=2.0,
            appearance_weight=4.0,
            appearance_sxy=25.0,
            appearance_srgb=12.0,
        )
        for name, guess in {"before": scores.argmax(0), "after": marginals.argmax(0)}.items():
            counts[name] += confusion(sample.labels, guess, classes=len(CLASSES))
            edges[name].append(count_boundaries(sample.labels, guess, classes=len(CLASSES)).f_score)
    for name in counts:
        found = score(counts[name])
        print(f"{name:6} pixel accuracy {found.pixel_accuracy:.3f}, boundary F {np.mean(edges[name]):.3f}")
    assert score(counts["after"]).pixel_accuracy > score(counts["before"]).pixel_accuracy


if __name__ == "__main__":
    main()
