"""The mean target of the nearest examples, those of all users and the user's own."""

import hashlib
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import numpy as np

from metapers.base import Cohort
from metapers.baselines.features import features, has_features, scaled
from metapers.baselines.predictor import Predictor, ratings, training_ratings
from metapers.members import Member
from metapers.options import Option

MOST = 2000
"""Training examples among which neighbours are looked for, evenly spaced over all of them."""
GRID: dict[str, tuple[Any, ...]] = {"k": (3, 10, 30, 100, 300, 1000), "own": (1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)}
"""The values among which validation users choose."""
KEPT = 32
"""Answers at most that a memo keeps."""


def nearest(
    training: Cohort, *, k: int = 10, own: float = 1.0, memo: MutableMapping[Any, np.ndarray] | None = None
) -> Predictor:
    """Predicts the weighted mean target of the k nearest examples, among training examples and the user's own support.

    Distances are Euclidean between float inputs with mean 0 and deviation 1. An example of the user's own weighs
    ``own``, one of another user 1. Of many training examples ``MOST`` are kept.

    Args:
      training: examples of the training users; inputs with float leaves, targets float [total].
      k: neighbours, >= 1.
      own: weight of an example of the user's own, >= 0.
      memo: shared by fits on the same training examples: the search does not depend on ``k`` or ``own``, so its
        answers for the values of the grid are kept here. None: nothing is kept.

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
    pool, answers = rows[kept].astype(np.float32), rated[kept]  # single precision finds the same neighbours, faster

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        if not 0 <= shots <= horizon:
            raise ValueError(f"shots must be in [0, horizon = {horizon}], got {shots}")
        targets = ratings("nearest", cohort)
        z = ((features(cohort) - mean) / deviation).astype(np.float32)
        if memo is None or k not in GRID["k"] or own not in GRID["own"]:
            return _means(cohort, z, targets, shots, pool, answers, (k,), (own,))[0, 0].astype(cohort.targets.dtype)
        asked = shots, _digest(z, targets, cohort.offsets)
        if asked not in memo:
            if len(memo) >= KEPT:
                memo.clear()
            found = _means(cohort, z, targets, shots, pool, answers, GRID["k"], GRID["own"])
            memo[asked] = found.astype(cohort.targets.dtype)
        return memo[asked][GRID["k"].index(k), GRID["own"].index(own)]

    return Predictor(predict, {"examples": len(kept), "k": k, "own": own})


def _means(
    cohort: Cohort,
    z: np.ndarray,
    targets: np.ndarray,
    shots: int,
    pool: np.ndarray,
    answers: np.ndarray,
    ks: Sequence[int],
    owns: Sequence[float],
) -> np.ndarray:
    """The weighted mean targets of the nearest, [ks, owns, total], from one search for each example."""
    found = np.empty((len(ks), len(owns), len(targets)))
    for here in _users(cohort):
        seen = slice(here.start, min(here.start + shots, here.stop))
        near, values = _neighbours(z[here], pool, answers, max(ks))
        mine = _squared(z[here], z[seen])
        near = np.concatenate([near, mine], axis=1)
        values = np.concatenate([values, np.broadcast_to(targets[seen], mine.shape)], axis=1)
        order = np.argsort(near, axis=1, kind="stable")[:, : max(ks)]
        last = np.minimum(ks, order.shape[1]) - 1
        for place, own in enumerate(owns):
            weights = np.append(np.ones(near.shape[1] - mine.shape[1]), np.full(mine.shape[1], max(own, 1e-9)))[order]
            sums = np.cumsum(weights * np.take_along_axis(values, order, 1), axis=1)[:, last]
            found[:, place, here] = (sums / np.cumsum(weights, axis=1)[:, last]).T
    return found


def _digest(*arrays: np.ndarray) -> bytes:
    found = hashlib.blake2b()
    for array in arrays:
        found.update(array.tobytes())
    return found.digest()


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
        "k": Option(10, least=1, grid=GRID["k"], doc="neighbours"),
        "own": Option(1.0, least=0.0, grid=GRID["own"], doc="weight of an example of the user's own"),
    },
    needs=("training", "memo"),
    facts=has_features,
    paper="Fix, Hodges 1951, USAF School of Aviation Medicine",
    doc="the mean of the nearest examples, of all users and the user's own",
)
