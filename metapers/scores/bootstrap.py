"""Intervals: bootstrap over users (Student's t for few), paired differences, and Student's t over seeds."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import special

FEW = 50
"""Users below which an interval is Student's t: percentile intervals of 5 users cover 80 to 85 % in place of 95 %."""
_CELLS = 4_000_000  # resampling weights held at once, so that many users do not need much memory


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    mean: float
    low: float
    high: float


def weights(units: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Bootstrap weights, some draws [n, units] at a time: how often each unit is drawn, rows sum to ``units``.

    The same arguments give the same draws, so two things resampled with them are paired. Of many units few draws come
    at a time: memory does not grow with the number of units.

    Raises:
      ValueError: if there is no unit or no draw.

    >>> drawn = np.concatenate(list(weights(3, 5, seed=0)))
    >>> drawn.shape, drawn.sum(axis=1).tolist()
    ((5, 3), [3, 3, 3, 3, 3])
    """
    if units < 1:
        raise ValueError(f"units must be >= 1, got {units}")
    if draws < 1:
        raise ValueError(f"draws must be >= 1, got {draws}")
    rng, most = np.random.default_rng(seed), max(1, _CELLS // units)
    sizes = (min(most, draws - first) for first in range(0, draws, most))
    return (rng.multinomial(units, np.full(units, 1 / units), size=size) for size in sizes)


def ends(
    estimate: np.ndarray | float, resampled: np.ndarray, *, units: int, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper end of intervals from bootstrap resamples.

    From ``FEW`` units on: the (1 ± level) / 2 quantiles of the resamples. Below: estimate ± t s, with Student's t of
    units - 1 degrees of freedom, and s the standard deviation of the resamples times sqrt(units / (units - 1)). For a
    mean that is the t interval, up to the noise of the draws. One unit says nothing of the others: the ends of its
    interval are the estimate.

    Args:
      estimate: the statistic of all units, [...].
      resampled: the statistic of each resample, [draws, ...].
      units: how many units were resampled, >= 1.
      level: coverage, in (0, 1).

    Raises:
      ValueError: a level outside (0, 1).

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife"; Student 1908, "The probable error of a
    mean".

    >>> [round(float(end), 2) for end in ends(1.0, np.array([0.0, 1.0, 2.0]), units=3)]
    [-3.3, 5.3]
    """
    _check_level(level)
    if units >= FEW:
        low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high
    if units < 2:
        return np.asarray(estimate, float), np.asarray(estimate, float)
    spread = np.std(resampled, axis=0) * np.sqrt(units / (units - 1))
    half = special.stdtrit(units - 1, (1 + level) / 2) * spread
    return np.asarray(estimate - half), np.asarray(estimate + half)


def interval(estimate: float, resampled: np.ndarray, *, units: int, level: float = 0.95) -> Interval:
    """``ends`` of one statistic, ``resampled`` [draws], with its estimate."""
    low, high = ends(estimate, resampled, units=units, level=level)
    return Interval(float(estimate), float(low), float(high))


def mean_interval(
    values: np.ndarray, *, units: np.ndarray | None = None, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean over users with a bootstrap interval (``ends``); users are the units that are resampled.

    ``values`` [n], one per user, or [seeds, n]: seeds are averaged first. ``units`` [n]: whose value each one is;
    those of one unit are averaged first. Raises ValueError on NaN, nothing, or a level outside (0, 1).

    >>> mean_interval(np.array([2.0, 2.0, 2.0]))
    Interval(mean=2.0, low=2.0, high=2.0)
    """
    users = _per_unit(values, units)
    _check_level(level)
    means = [drawn @ users / users.size for drawn in weights(users.size, draws, seed)]
    return interval(float(users.mean()), np.concatenate(means), units=users.size, level=level)


def paired(
    a: np.ndarray,
    b: np.ndarray,
    *,
    units: np.ndarray | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of a - b over the same users in the same order, with its interval; shapes as in ``mean_interval``."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape[-1:] != b.shape[-1:]:
        raise ValueError(f"a and b must hold the same users, got shapes {a.shape} and {b.shape}")
    difference = _over_seeds("a", a) - _over_seeds("b", b)
    return mean_interval(difference, units=units, draws=draws, seed=seed, level=level)


def seed_interval(values: np.ndarray, *, level: float = 0.95) -> Interval:
    """Mean ± t · s / √n over n >= 2 seeds, s with n - 1 in the denominator and t of n - 1 degrees of freedom.

    Raises ValueError for fewer than two seeds, NaN, or a level outside (0, 1).
    """
    seeds = _checked("values", values)
    _check_level(level)
    if seeds.ndim != 1 or seeds.size < 2:
        raise ValueError(f"values must be one number for each of >= 2 seeds, got shape {seeds.shape}")
    half = special.stdtrit(seeds.size - 1, (1 + level) / 2) * seeds.std(ddof=1) / np.sqrt(seeds.size)
    return Interval(float(seeds.mean()), float(seeds.mean() - half), float(seeds.mean() + half))


def _per_unit(values: np.ndarray, units: np.ndarray | None) -> np.ndarray:
    users = _over_seeds("values", values)
    if units is None:
        return users
    if np.shape(units) != users.shape:
        raise ValueError(f"units must have shape {users.shape}, got {np.shape(units)}")
    _, of = np.unique(np.asarray(units), return_inverse=True)
    return np.bincount(of, users) / np.bincount(of)


def _over_seeds(name: str, values: np.ndarray) -> np.ndarray:
    array = _checked(name, values)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} must be [users] or [seeds, users], got shape {array.shape}")
    return array if array.ndim == 1 else array.mean(axis=0)


def _checked(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, float)
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
