"""A ridge regression pooled over users, and each user's shrunk mean residual."""

from collections.abc import MutableMapping
from typing import Any

import numpy as np

from metapers.base import Cohort
from metapers.baselines.features import Scale, has_features, parts, scale
from metapers.baselines.predictor import Predictor, ratings, spread, support_mean, training_ratings
from metapers.members import Member
from metapers.options import Option


def ridge_residual(
    training: Cohort, *, ridge: float = 1.0, shrink: float = 3.0, memo: MutableMapping[Any, Any] | None = None
) -> Predictor:
    """Predicts f(x) + sum_support (y - f(x)) / (n + shrink), f the ridge regression over all training examples.

    f(x) = mu + w z, z the float inputs with mean 0 and deviation 1, w minimises |y - mu - Z w|^2 + ridge |w|^2.

    Args:
      training: examples of the training users; inputs with float leaves, targets float [total].
      ridge: pseudo-examples at w = 0, >= 0; at 0 the shortest w of those that fit best.
      shrink: pseudo-examples of no residual, >= 0.
      memo: shared by fits on the same training examples: it keeps Z'Z and Z'(y - mu). None: nothing is kept.

    Raises:
      ValueError: a strength out of bounds, targets that are not scalar floats, or no training example.

    Source: Hoerl, Kennard 1970, "Ridge regression: biased estimation for nonorthogonal problems".
    """
    if not ridge >= 0:
        raise ValueError(f"ridge must be >= 0, got {ridge}")
    if not shrink >= 0:
        raise ValueError(f"shrink must be >= 0, got {shrink}")
    memo = {} if memo is None else memo
    if "moments" not in memo:
        memo["moments"] = _moments(training)
    level, known, gram, cross = memo["moments"]
    weights = np.linalg.pinv(gram + ridge * np.eye(len(gram)), hermitian=True) @ cross

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        pooled = level + known.scaled(cohort) @ weights
        residual = ratings("ridge_residual", cohort) - pooled
        offset = support_mean(cohort, residual, shots, horizon, shrink)
        return (pooled + spread(cohort, offset)).astype(cohort.targets.dtype)

    return Predictor(predict, {"mean": float(level), "weights": weights, "ridge": ridge, "shrink": shrink})


def _moments(training: Cohort) -> tuple[float, Scale, np.ndarray, np.ndarray]:
    """(mu, the scale of Z, Z'Z [width, width], Z'(y - mu) [width])."""
    rated, known = training_ratings("ridge_residual", training), scale(training)
    level = float(rated.mean())
    width, first = known.mean.size, 0
    gram, cross = np.zeros((width, width)), np.zeros(width)
    for part in parts(training):
        rows = known.scaled(part)
        gram += rows.T @ rows
        cross += rows.T @ (rated[first : first + len(rows)] - level)
        first += len(rows)
    return level, known, gram, cross


RIDGE_RESIDUAL = Member(
    ridge_residual,
    options={
        "ridge": Option(1.0, least=0.0, grid=(0.0, 10.0, 1000.0, 1e5), doc="pseudo-examples at zero weights"),
        "shrink": Option(
            3.0, least=0.0, grid=(0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0), doc="pseudo-examples of no residual"
        ),
    },
    needs=("training", "memo"),
    facts=has_features,
    paper="Hoerl, Kennard 1970, Technometrics 12(1)",
    doc="a ridge regression over all users, and the user's mean residual, shrunk",
)
