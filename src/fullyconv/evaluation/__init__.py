"""Scoring a model over a data set."""

from fullyconv.evaluation.scoring import Evaluation, Progress, evaluate, evaluate_heads

__all__ = ["Evaluation", "Progress", "evaluate", "evaluate_heads"]
