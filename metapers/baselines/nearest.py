"""The mean target of the nearest examples, those of all users and the user's own."""

import hashlib
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import numpy as np

from metapers.base import Cohort
from metapers.baselines.features import Scale, has_features, parts, scale
from metapers.baselines.predictor import Predictor, ratings, training_ratings
from metapers.members import Member
from metapers.options import Option

MOST = 2000
"""Training examples among which neighbours are looked for, evenly spaced over all of them."""
GRID: dict[str, tuple[Any, ...]] = {"k": (3, 10, 30, 100, 300, 1000), "own": (1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)}
"""The values among which validation users choose."""
ROWS = 128
"""Examples in one search for neighbours."""
KEPT = 2**26
"""Bytes of answers that a memo keeps, at most, and one answer more."""


def nearest(
    training: Cohort, *, k: int = 10, own: float = 1.0, memo: MutableMapping[Any, Any] | None = None
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
    shared = {} if memo is None else memo
    if "pool" not in shared:
        shared["pool"] = _pool(training)
    known, pool, answers = shared["pool"]

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        if not 0 <= shots <= horizon:
            raise ValueError(f"shots must be in [0, horizon = {horizon}], got {shots}")
        targets = ratings("nearest", cohort)
        z = known.scaled(cohort).astype(np.float32)
        if memo is None or k not in GRID["k"] or own not in GRID["own"]:
            return _means(cohort, z, targets, shots, pool, answers, (k,), (own,))[0, 0].astype(cohort.targets.dtype)
        asked, known_answers = (shots, _digest(z, targets, cohort.offsets)), memo.setdefault("answers", {})
        if asked not in known_answers:
            if sum(one.nbytes for one in known_answers.values()) > KEPT:
                known_answers.clear()
            found = _means(cohort, z, targets, shots, pool, answers, GRID["k"], GRID["own"])
            known_answers[asked] = found.astype(cohort.targets.dtype)
        return known_answers[asked][GRID["k"].index(k), GRID["own"].index(own)]

    return Predictor(predict, {"examples": len(pool), "k": k, "own": own})


def _pool(training: Cohort) -> tuple[Scale, np.ndarray, np.ndarray]:
    """(the scale of the inputs, the scaled examples that are kept, their targets)."""
    rated, known = training_ratings("nearest", training), scale(training)
    kept = np.unique(np.linspace(0, len(rated) - 1, MOST).astype(int))
    rows, first = [], 0
    for part in parts(training):
        size = int(part.offsets[-1])
        low, high = np.searchsorted(kept, [first, first + size])
        rows.append(known.scaled(part)[kept[low:high] - first])
        first += size
    # single precision finds the same neighbours, faster
    return known, np.concatenate(rows).astype(np.float32), rated[kept]


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
    found, k = np.empty((len(ks), len(owns), len(targets))), np.asarray(ks)
    for here, seen in _blocks(cohort, shots):
        near, values = _neighbours(z[here], pool, answers, max(ks))
        mine = _squared(z[here], z[seen])
        order = np.argsort(mine, axis=1, kind="stable")
        mine, own_values = np.take_along_axis(mine, order, 1), targets[seen][order]
        # where each of the user's own stands among all neighbours; one of another user at the same distance comes first
        before = [np.searchsorted(*pair, side="right") for pair in zip(near, mine, strict=True)]
        ranks = np.stack(before) + np.arange(mine.shape[1])
        own_count = (ranks[:, None] < k[:, None]).sum(axis=2)  # [examples, ks]
        count = np.minimum(k - own_count, near.shape[1])
        total, own_total = _sum_of_first(values, count), _sum_of_first(own_values, own_count)
        for place, own in enumerate(owns):
            weight = max(own, 1e-9)
            found[:, place, here] = ((total + weight * own_total) / (count + weight * own_count)).T
    return found


def _digest(*arrays: np.ndarray) -> bytes:
    found = hashlib.blake2b()
    for array in arrays:
        found.update(array.tobytes())
    return found.digest()


def _blocks(cohort: Cohort, shots: int) -> Iterator[tuple[slice, slice]]:
    """(some examples of a user, the user's support), few enough that what is computed of them stays in the cache."""
    for low, high in zip(cohort.offsets[:-1].tolist(), cohort.offsets[1:].tolist(), strict=True):
        for first in range(low, high, ROWS):
            yield slice(first, min(first + ROWS, high)), slice(low, min(low + shots, high))


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0.0)


def _neighbours(rows: np.ndarray, pool: np.ndarray, answers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances [n, k] to the k nearest of the pool in rising order, and their targets."""
    k = min(k, len(pool))
    # the bits of floats >= 0 rise as the floats do; with the place in the lower bits, one sort gives both
    keys = _squared(rows, pool).view(np.uint32).astype(np.uint64)
    keys <<= 32
    keys |= np.arange(len(pool), dtype=np.uint64)
    keys = np.sort(np.partition(keys, k - 1, axis=1)[:, :k], axis=1)
    return (keys >> 32).astype(np.uint32).view(np.float32), answers[keys & 0xFFFFFFFF]


def _sum_of_first(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The sums of the first ``counts`` [n, ks] of ``values`` [n, width], [n, ks]."""
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    return np.take_along_axis(sums, counts, 1)


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
