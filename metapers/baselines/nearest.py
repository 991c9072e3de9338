"""The mean target of the nearest examples, those of all users and the user's own."""

from collections.abc import Iterator

import numpy as np

from metapers.base import Cohort
from metapers.baselines.features import features, has_features, scaled
from metapers.baselines.predictor import Predictor, ratings, training_ratings
from metapers.members import Member
from metapers.options import Option

MOST = 2000
"""Training examples among which neighbours are looked for, evenly spaced over all of them."""


def nearest(training: Cohort, *, k: int = 10, own: float = 1.0) -> Predictor:
    """Predicts the weighted mean target of the k nearest examples, among training examples and the user's own support.

    Distances are Euclidean between float inputs with mean 0 and deviation 1. An example of the user's own weighs
    ``own``, one of another user 1. Of many training examples ``MOST`` are kept.

    Args:
      training: examples of the training users; inputs with float leaves, targets float [total].
      k: neighbours, >= 1.
      own: weight of an example of the user's own, >= 0.

    Raises:
      ValueError: a number out of bounds, targets that are not scalar floats, or no training example.

    Source: Fix, Hodges 1951, "Discriminatory analysis: nonparametric discrimination".
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    if not own >= 0:
        raise ValueError(f"own must be >= 0, got {own}")
    rated = training_ratings("nearest", training)
    rows, mean, deviation = scaled(training)
    kept = np.unique(np.linspace(0, len(rated) - 1, MOST).astype(int))
    pool, answers = rows[kept], rated[kept]

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        if not 0 <= shots <= horizon:
            raise ValueError(f"shots must be in [0, horizon = {horizon}], got {shots}")
        targets = ratings("nearest", cohort)
        z = (features(cohort) - mean) / deviation
        found = np.empty(len(targets))
        for here in _users(cohort):
            seen = slice(here.start, min(here.start + shots, here.stop))
            near, values = _neighbours(z[here], pool, answers, k)
            mine = _squared(z[here], z[seen])
            near = np.concatenate([near, mine], axis=1)
            values = np.concatenate([values, np.broadcast_to(targets[seen], mine.shape)], axis=1)
            weights = np.append(np.ones(near.shape[1] - mine.shape[1]), np.full(mine.shape[1], max(own, 1e-9)))
            order = np.argsort(near, axis=1, kind="stable")[:, :k]
            chosen = weights[order]
            found[here] = (chosen * np.take_along_axis(values, order, 1)).sum(1) / chosen.sum(1)
        return found.astype(cohort.targets.dtype)

    return Predictor(predict, {"examples": len(kept), "k": k, "own": own})


def _users(cohort: Cohort) -> Iterator[slice]:
    return (slice(int(low), int(high)) for low, high in zip(cohort.offsets[:-1], cohort.offsets[1:], strict=True))


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0.0)


def _neighbours(rows: np.ndarray, pool: np.ndarray, answers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances [n, k] to the k nearest of the pool, and their targets."""
    distances = _squared(rows, pool)
    k = min(k, len(pool))
    place = np.argpartition(distances, k - 1, axis=1)[:, :k]
    return np.take_along_axis(distances, place, 1), answers[place]


NEAREST = Member(
    nearest,
    options={
        "k": Option(10, least=1, grid=(10, 30, 100, 300), doc="neighbours"),
        "own": Option(1.0, least=0.0, grid=(1.0, 10.0, 100.0), doc="weight of an example of the user's own"),
    },
    needs=("training",),
    facts=has_features,
    paper="Fix, Hodges 1951, USAF School of Aviation Medicine",
    doc="the mean of the nearest examples, of all users and the user's own",
)
