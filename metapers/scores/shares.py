"""Three shares of users: clearly better, no difference that matters, clearly worse."""

import itertools
from typing import NamedTuple

import numpy as np

from metapers.scores.bootstrap import Interval, interval, weights


class Shares(NamedTuple):
    """Shares of users by the size of a difference, each with its interval."""

    better: Interval  # by more than the tolerance
    same: Interval
    worse: Interval  # by more than the tolerance
    tolerance: float  # in the unit of the metric
    noise: float  # the standard deviation of a user's difference that comes from the finite query alone
    users: int


def shares(
    gains: np.ndarray,
    halves: np.ndarray | None = None,
    *,
    tolerance: float,
    draws: int = 2000,
    seed: int = 0,
) -> Shares:
    """The shares of users whose true gain is above ``tolerance``, below -``tolerance``, and between.

    A user's gain is measured on a finite query, so gains vary more than true gains do, and too many users would look
    clearly better or worse. The gains on the two halves of each query give the variance of that noise, s^2 = the mean
    of (first - second)^2 / 4. The gains are shrunk towards their mean by sqrt(1 - s^2 / v), v their variance, so that
    their variance is that of the true gains (Louis 1984, "Estimating a population of parameter values using Bayes and
    empirical Bayes methods"). Intervals come from resampled users, with the noise estimated anew in each resample.

    Args:
      gains: [users], larger is better.
      halves: the gains on each half of the query, [2, users]; NaN for a user without two halves. None: no correction.
      tolerance: a difference that does not matter, in the unit of the metric, >= 0.
      draws: resamples.
      seed: of the resamples.

    Raises:
      ValueError: for a tolerance below 0, gains that are not finite, or halves of other users.

    >>> found = shares(np.array([0.2, 0.01, -0.3, 0.0]), tolerance=0.05, draws=10)
    >>> found.better.mean, found.same.mean, found.worse.mean, found.noise
    (0.25, 0.5, 0.25, 0.0)
    """
    gains = np.asarray(gains, float)
    if gains.ndim != 1 or not gains.size or not np.isfinite(gains).all():
        raise ValueError(f"gains must be finite numbers [users], at least one, got shape {gains.shape}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be >= 0, got {tolerance}")
    apart = np.zeros_like(gains) if halves is None else _apart(gains, np.asarray(halves, float))
    drawn = itertools.chain([np.ones((1, gains.size))], weights(gains.size, draws, seed))
    table = np.stack([_shares(gains, apart, weight, tolerance) for part in drawn for weight in part])
    each = [interval(float(table[0, i]), table[1:, i], units=gains.size) for i in range(3)]
    better, same, worse = (Interval(one.mean, max(0.0, one.low), min(1.0, one.high)) for one in each)
    return Shares(better, same, worse, tolerance, float(np.sqrt(_variance(apart, np.ones_like(gains)))), gains.size)


def _apart(gains: np.ndarray, halves: np.ndarray) -> np.ndarray:
    if halves.shape != (2, gains.size):
        raise ValueError(f"halves must be [2, {gains.size}], got shape {halves.shape}")
    return (halves[0] - halves[1]) ** 2 / 4


def _variance(apart: np.ndarray, weight: np.ndarray) -> float:
    there = np.isfinite(apart)
    total = weight[there].sum()
    return float((weight[there] * apart[there]).sum() / total) if total else 0.0


def _shares(gains: np.ndarray, apart: np.ndarray, weight: np.ndarray, tolerance: float) -> np.ndarray:
    total = weight.sum()
    mean = (weight * gains).sum() / total
    spread = (weight * (gains - mean) ** 2).sum() / total
    factor = np.sqrt(max(0.0, 1 - _variance(apart, weight) / spread)) if spread > 0 else 1.0
    true = mean + factor * (gains - mean)
    parts = (true > tolerance, abs(true) <= tolerance, true < -tolerance)
    return np.array([(weight * part).sum() / total for part in parts])
