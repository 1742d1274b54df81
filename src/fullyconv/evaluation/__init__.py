"""Scoring a model over a data set."""

from fullyconv.evaluation.scoring import Evaluation, Progress, evaluate

__all__ = ["Evaluation", "Progress", "evaluate"]
