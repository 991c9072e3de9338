"""Continual metrics of R[i, t], the score on period t after training period i, with intervals over users.

R is always larger-is-better: a loss enters as its negative (``cohorts.sign``). Periods count from 1 in the
formulas; i is the row, t the column, T their number. Every function takes leading axes ([..., T, T] -> [...]).
"""

from typing import NamedTuple

import numpy as np

from metapers.scores.bootstrap import Interval, interval, weights

DEFINITIONS = {
    "average": "mean_t R[T,t]",
    "past": "mean_i mean_{t<=i} R[i,t]",
    "next": "mean_{i<T} R[i,i+1]",
    "learning": "mean_t R[t,t]",
    "bwt": "mean_{t<T} (R[T,t] - R[t,t])",
    "bti": "sum_{t<T} (R[T,t] - R[t,t]) / T",
    "forgetting_max": "mean_{t<T} (max_{i<T} R[i,t] - R[T,t])",
    "forgetting_first": "mean_{t<T} (R[t,t] - R[T,t])",
    "fwt": "mean_{t>1} (R[t-1,t] - b_t), b_t = the score on period t at initialisation",
}


class Scored(NamedTuple):
    """Signed scores of users, from which the matrix is a mean; a user may have an entry in several periods."""

    values: np.ndarray  # [seeds, T, entries], after training each period
    start: np.ndarray | None  # [seeds, entries], at initialisation; None where it was not evaluated
    users: np.ndarray  # [entries], whose entry: what is resampled together
    periods: np.ndarray  # int [entries], 0 ... T - 1


def average(r: np.ndarray) -> np.ndarray:
    """mean_t R[T,t]: the retained score (RA, ACC)."""
    return _square(r)[..., -1, :].mean(axis=-1)


def past(r: np.ndarray) -> np.ndarray:
    """mean_i mean_{t<=i} R[i,t]: each version on the periods that it has seen; is anything forgotten?

    >>> float(past(np.array([[0.5, 0.0], [0.2, 0.4]])))
    0.4
    """
    r = _square(r)
    seen = np.tril(np.ones(r.shape[-2:], bool))
    return (np.where(seen, r, 0.0).sum(axis=-1) / seen.sum(axis=-1)).mean(axis=-1)


def next_period(r: np.ndarray) -> np.ndarray:
    """mean_{i<T} R[i,i+1]: each version on the period after it; does it serve tomorrow? Needs T >= 2."""
    r = _square(r, least=2)
    return np.diagonal(r, offset=1, axis1=-2, axis2=-1).mean(axis=-1)


def learning(r: np.ndarray) -> np.ndarray:
    """mean_t R[t,t]: the score just after a period was learned (LA)."""
    return _diagonal(_square(r)).mean(axis=-1)


def bwt(r: np.ndarray) -> np.ndarray:
    """mean_{t<T} (R[T,t] - R[t,t]): backward transfer (Diaz-Rodriguez et al. 2018); needs T >= 2.

    >>> float(bwt(np.array([[0.9, 0.2], [0.6, 0.8]]))) + 0.3 < 1e-12
    True
    """
    return -forgetting_first(r)


def bti(r: np.ndarray) -> np.ndarray:
    """sum_{t<T} (R[T,t] - R[t,t]) / T: backward transfer and interference (MER, La-MAML)."""
    r = _square(r)
    return (r[..., -1, :] - _diagonal(r)).mean(axis=-1)  # the term t = T is zero


def forgetting_max(r: np.ndarray) -> np.ndarray:
    """mean_{t<T} (max_{i<T} R[i,t] - R[T,t]) (Chaudhry et al. 2018); > 0 means worse; needs T >= 2."""
    r = _square(r, least=2)
    return (r[..., :-1, :-1].max(axis=-2) - r[..., -1, :-1]).mean(axis=-1)


def forgetting_first(r: np.ndarray) -> np.ndarray:
    """mean_{t<T} (R[t,t] - R[T,t]): lost since the period was learned; > 0 means worse; needs T >= 2."""
    r = _square(r, least=2)
    return (_diagonal(r) - r[..., -1, :])[..., :-1].mean(axis=-1)


def fwt(r: np.ndarray, start: np.ndarray) -> np.ndarray:
    """mean_{t>1} (R[t-1,t] - b_t): forward transfer; ``start`` [..., T] holds b; needs T >= 2."""
    r, b = _square(r, least=2), np.asarray(start, float)
    if b.shape != r.shape[:-1]:
        raise ValueError(f"start must have shape {r.shape[:-1]}, got {b.shape}")
    if not np.isfinite(b).all():
        raise ValueError(f"start must be finite, got {b[~np.isfinite(b)][0]}")
    return (np.diagonal(r, offset=1, axis1=-2, axis2=-1) - b[..., 1:]).mean(axis=-1)


def metrics(r: np.ndarray, start: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every metric that is defined: with one period only those without t < T, and ``fwt`` only with ``start``."""
    found = {"average": average(r), "past": past(r), "learning": learning(r), "bti": bti(r)}
    if np.shape(r)[-1] > 1:
        found |= {"next": next_period(r)}
        found |= {"bwt": bwt(r), "forgetting_max": forgetting_max(r), "forgetting_first": forgetting_first(r)}
        if start is not None:
            found["fwt"] = fwt(r, start)
    return {name: found[name] for name in DEFINITIONS if name in found}


def cells(scored: Scored, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """R [draws, seeds, T, T] and b [draws, seeds, T] (or None): weighted means over each period's entries.

    ``weight`` [draws, entries]; None: one draw in which every entry counts once. A period that a draw leaves
    without users has NaN there.
    """
    _check(scored)
    seeds, count, entries = scored.values.shape
    weight = np.ones((1, entries)) if weight is None else np.asarray(weight, float)
    rows = scored.values if scored.start is None else np.append(scored.values, scored.start[:, None], axis=1)
    table = np.empty((len(weight), seeds, rows.shape[1], count))
    for period in range(count):
        here = scored.periods == period
        total = weight[:, here].sum(axis=1)
        sums = np.tensordot(weight[:, here], rows[..., here], axes=(1, 2))
        divisor = np.where(total > 0, total, np.nan)
        table[..., period] = sums / divisor[:, None, None]
    return table[:, :, :count], None if scored.start is None else table[:, :, count]


def resampled(scored: Scored, *, draws: int = 2000, seed: int = 0) -> dict[str, np.ndarray]:
    """Each metric [1 + draws], mean over seeds: the estimate, then users resampled as whole persons.

    Two arms on the same users and the same ``seed`` are resampled alike: the difference of two results is
    paired (``difference_metrics``). A draw that leaves a period without users is NaN.
    """
    names, of = np.unique(scored.users, return_inverse=True)
    parts = [cells(scored), *(cells(scored, drawn[:, of]) for drawn in weights(names.size, draws, seed))]
    r = np.concatenate([one for one, _ in parts])
    b = None if scored.start is None else np.concatenate([one for _, one in parts if one is not None])
    complete = np.isfinite(r).all(axis=(1, 2, 3))
    found = {}
    for name, value in metrics(r[complete], None if b is None else b[complete]).items():
        found[name] = np.full(1 + draws, np.nan)
        found[name][complete] = value.mean(axis=1)
    return found


def continual_metrics(scored: Scored, *, draws: int = 2000, seed: int = 0, level: float = 0.95) -> dict[str, Interval]:
    """Each metric with its interval over users (``scores.bootstrap.ends``).

    A user of several periods is resampled as one unit. Metrics are made for each seed and then averaged. Raises
    ValueError where more than half of the draws leave a period without users: too few users to say anything.
    """
    found, units = resampled(scored, draws=draws, seed=seed), np.unique(scored.users).size
    return {name: _interval(name, value, units, level) for name, value in found.items()}


def difference_metrics(
    a: Scored, b: Scored, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Each metric of ``a`` minus that of ``b``, users resampled alike in both; both hold the same entries."""
    if not (np.array_equal(a.users, b.users) and np.array_equal(a.periods, b.periods)):
        raise ValueError(f"a and b must hold the same users and periods, got {a.users.size} and {b.users.size} entries")
    first, second = resampled(a, draws=draws, seed=seed), resampled(b, draws=draws, seed=seed)
    units = np.unique(a.users).size
    return {name: _interval(name, first[name] - second[name], units, level) for name in first if name in second}


def _interval(name: str, values: np.ndarray, units: int, level: float) -> Interval:
    drawn = values[1:][np.isfinite(values[1:])]
    if 2 * drawn.size < values.size - 1:
        raise ValueError(
            f"users must be enough for every period: {name} exists in {drawn.size} of {values.size - 1} draws"
        )
    return interval(float(values[0]), drawn, units=units, level=level)


def _diagonal(r: np.ndarray) -> np.ndarray:
    return np.diagonal(r, axis1=-2, axis2=-1)


def _square(r: np.ndarray, least: int = 1) -> np.ndarray:
    r = np.asarray(r, float)
    if r.ndim < 2 or r.shape[-1] != r.shape[-2] or r.shape[-1] < least:
        raise ValueError(f"r must be [..., T, T] with T >= {least}, got shape {r.shape}")
    if not np.isfinite(r).all():
        raise ValueError(f"r must be finite, got {r[~np.isfinite(r)][0]}")
    return r


def _check(scored: Scored) -> None:
    if scored.values.ndim != 3 or scored.values.size == 0:
        raise ValueError(f"values must be [seeds, T, entries] and not empty, got shape {scored.values.shape}")
    seeds, count, entries = scored.values.shape
    shapes = {"users": scored.users.shape, "periods": scored.periods.shape}
    for name, shape in shapes.items():
        if shape != (entries,):
            raise ValueError(f"{name} must have shape {(entries,)}, got {shape}")
    if scored.start is not None and scored.start.shape != (seeds, entries):
        raise ValueError(f"start must have shape {(seeds, entries)}, got {scored.start.shape}")
    missing = sorted(set(range(count)) - set(scored.periods.tolist()))
    if missing:
        raise ValueError(f"periods must cover 0 ... {count - 1}, got none in period {missing[0]}")
    if not (np.isfinite(scored.values).all() and (scored.start is None or np.isfinite(scored.start).all())):
        raise ValueError("values and start must be finite")
