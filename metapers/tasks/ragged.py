"""Ragged histories of users turned into a stream: training tasks drawn on the device, cohorts kept on the host."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metapers.base import Cohort, Stream, Tree
from metapers.tasks import splits
from metapers.tasks.past import History, Past, of_rows, past_at, past_of
from metapers.tasks.segments import Segments, family
from metapers.tasks.times import in_days


class Examples(NamedTuple):
    """A source's examples on the host, in any order; ties in ``time`` keep the order they are given in."""

    users: tuple[str, ...]  # outside ids by row
    user: np.ndarray  # int [N], rows
    period: np.ndarray  # int [N]
    time: np.ndarray  # int or float [N], any unit
    inputs: Tree  # numpy [N, ...], or ``Computed``
    targets: Tree  # numpy [N, ...]
    available: np.ndarray | None = None  # int or float [N], in the unit of ``time``; None: at ``time``


class Computed(NamedTuple):
    """An array that is never whole in memory: its rows are computed when they are asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype
    rows: Callable[[np.ndarray], np.ndarray]  # places int [n] -> [n, ...]


def stream(
    examples: Examples,
    *,
    periods: int,
    fold: int,
    support: int,
    query: int,
    p_full_support: float = 0.5,
    p_from_first: float = 0.0,
    length_power: float = 0.0,
    history: History | None = None,
    days: float | None = None,
    about: Mapping[str, Any],
    oracle: Callable[[Cohort, int, int], Tree] | None = None,
) -> Stream:
    """A stream from dated examples: sorted by (period, user, time), users split by ``splits.split_of`` in ``fold``.

    A (period, user) segment of one example can hold no task: it is left out of training and of that period's cohorts,
    and counted; whole histories (of two examples or more) and ``training`` keep its example. ``returning``: the user
    has a segment that was kept in an earlier period. Floats become JAX's default float, integers int32.
    With ``history`` the inputs also hold ``past_<name>`` [length, ...] of the user's examples just before, of all
    periods, the most recent last, and ``past_there``, 1 or, where there were fewer, 0, as all the others are there.
    ``days``: the length of one unit of ``Examples.time`` in days, so that tasks and cohorts have ``time`` and
    ``available``, counted from the first example of all. None: ``time`` is only an order, and both are zeros.
    ``about``: source, version, boundaries of periods, first in the provenance. The rest as ``segments.family``.

    Raises:
      ValueError: for examples that do not fit together, are not finite or out of range; a period without training; and
        as ``times.in_days``.
    """
    _check_examples(examples, periods)
    split = np.array([splits.split_of(name, fold) for name in examples.users])
    ordered, digest = _ordered(examples)
    del examples  # a source may hold them no longer than this
    time, available = in_days(ordered.time, ordered.available, user=ordered.user, days=days)
    time, available = jax.tree.map(_canonical, (time, available))
    ordered = ordered._replace(time=time, available=available)
    table = _table(ordered, split)
    _check_periods(table, periods)
    past = past_of(history, ordered.user, ordered.inputs, ordered.targets) if history else None
    drawn = family(
        _segments(ordered, table, past, examples=False),
        filled=lambda: _segments(ordered, table, past),
        periods=periods,
        support=support,
        query=query,
        p_full_support=p_full_support,
        p_from_first=p_from_first,
        length_power=length_power,
    )

    held_out, training = _cohorts(ordered, table, split, past, periods)
    provenance = {**about, "sha256": digest, "fold": fold, "periods": periods, **_counts(ordered, table, periods)}
    return Stream(drawn, held_out, periods, ordered.users, provenance, training, oracle)


def _cohorts(
    ordered: Examples, table: "_Table", split: np.ndarray, past: Past | None, periods: int
) -> tuple[Callable[..., Cohort], Callable[[int | None], Cohort]]:
    """``held_out`` and ``training`` of a stream."""
    at = functools.partial(_with_past, ordered, past)

    def held_out(wanted: str, period: int | None) -> Cohort:
        if wanted not in splits.SPLITS[1:]:
            raise ValueError(f"split must be one of {splits.SPLITS[1:]}, got {wanted!r}")
        if period is None:
            return _life(at, ordered.user, np.arange(len(ordered.user)), split == wanted, 2)
        return _cohort(at, table, wanted, period, periods)

    def training(period: int | None) -> Cohort:
        last = periods - 1 if period is None else _period(period, periods)
        return _life(at, ordered.user, np.flatnonzero(ordered.period <= last), split == "train", 1)

    return held_out, training


class _Table(NamedTuple):
    start: np.ndarray  # one row for each (period, user), in order
    length: np.ndarray
    user: np.ndarray
    period: np.ndarray
    split: np.ndarray
    kept: np.ndarray  # bool, at least two examples
    returning: np.ndarray


def _period(period: int, periods: int) -> int:
    if not 0 <= period < periods:
        raise ValueError(f"period must be between 0 and {periods - 1}, got {period}")
    return period


def _check_examples(examples: Examples, periods: int) -> None:
    total = len(examples.user)
    for name, tree in examples._asdict().items():
        if name != "users" and any(leaf.shape[0] != total for leaf in _leaves(tree)):
            raise ValueError(f"{name} must hold {total} examples in every leaf, as user does")
    if len(set(examples.users)) != len(examples.users):
        raise ValueError("users must be distinct ids")
    for name, values, bound in (("user", examples.user, len(examples.users)), ("period", examples.period, periods)):
        if total and not (0 <= values.min() and values.max() < bound):
            raise ValueError(f"{name} must be between 0 and {bound - 1}, got {values.min()} to {values.max()}")
    for name in ("time", "available", "inputs", "targets"):
        for leaf in _leaves(getattr(examples, name)):
            if np.issubdtype(leaf.dtype, np.floating) and not all(np.isfinite(part).all() for _, part in _blocks(leaf)):
                raise ValueError(f"{name} must be finite, got a nan or an infinity")


def _check_periods(table: _Table, periods: int) -> None:
    for period in range(periods):
        if not (table.kept & (table.split == "train") & (table.period == period)).any():
            raise ValueError(f"period {period} is empty: it has no training user with two examples or more")


def _with_past(ordered: Examples, past: Past | None, rows: np.ndarray) -> Examples:
    part = _take(ordered, rows)
    return part if past is None else part._replace(inputs=dict(part.inputs) | past_at(past, rows))


def _take(examples: Examples, rows: np.ndarray) -> Examples:
    return Examples(examples.users, *jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tuple(examples[1:])))


ROWS = 2**16
"""Rows that are ordered at a time: no second copy of a source's examples is made in double precision."""


def _leaves(tree: Tree) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_computed)


def _is_computed(leaf: Any) -> bool:
    return isinstance(leaf, Computed)


def _blocks(leaf: Any, order: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """(place, rows) of an array a few rows at a time, in an order or as they stand."""
    for low in range(0, leaf.shape[0], ROWS):
        place = slice(low, min(low + ROWS, leaf.shape[0]))
        rows = np.arange(place.start, place.stop) if order is None else order[place]
        yield place, leaf.rows(rows) if _is_computed(leaf) else leaf[rows]


def _ordered(examples: Examples) -> tuple[Examples, str]:
    """Examples sorted by (period, user, time), and the SHA-256 of all of them as the source gave them.

    Inputs and targets have the types of JAX, users and periods are int32, times are as the source has them.
    """
    digest = hashlib.sha256(json.dumps(examples.users).encode())
    order = np.lexsort((examples.time, examples.user, examples.period))

    def one(path: Any, leaf: Any) -> np.ndarray:
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.dtype.str}{leaf.shape}".encode())
        shown = path[0].key in ("inputs", "targets", "user", "period")
        kept = np.empty(leaf.shape, _canonical(np.empty(0, leaf.dtype)).dtype if shown else leaf.dtype)
        for place, part in _blocks(leaf, order):
            digest.update(np.ascontiguousarray(part).tobytes())
            kept[place] = _canonical(part) if shown else part
        return kept

    named = {name: tree for name, tree in examples._asdict().items() if name != "users"}
    given = jax.tree.map(lambda leaf: leaf if _is_computed(leaf) else np.asarray(leaf), named, is_leaf=_is_computed)
    found = jax.tree.map_with_path(one, given, is_leaf=_is_computed)
    return Examples(examples.users, **found), digest.hexdigest()


def _canonical(leaf: np.ndarray) -> np.ndarray:
    if np.issubdtype(leaf.dtype, np.floating):
        return leaf.astype(jnp.zeros(()).dtype)
    if not np.issubdtype(leaf.dtype, np.integer):
        return leaf
    if leaf.size and not (-(2**31) <= leaf.min() and leaf.max() < 2**31):
        raise ValueError(f"integers must fit int32, got {leaf.min()} to {leaf.max()}")
    return leaf.astype(np.int32)


def _table(ordered: Examples, split: np.ndarray) -> _Table:
    changes = (np.diff(ordered.period) != 0) | (np.diff(ordered.user) != 0)
    start = np.concatenate([[0], np.flatnonzero(changes) + 1])[: max(len(ordered.user), 0)]
    length = np.diff(np.append(start, len(ordered.user)))
    user, period, kept = ordered.user[start], ordered.period[start], length >= 2
    first = np.full(len(ordered.users), np.iinfo(np.int32).max)
    np.minimum.at(first, user[kept], period[kept])
    return _Table(start, length, user, period, split[user], kept, first[user] < period)


def _rows(table: _Table, chosen: np.ndarray) -> np.ndarray:
    pairs = zip(table.start[chosen], table.length[chosen], strict=True)
    return np.concatenate([np.arange(0), *(np.arange(s, s + n) for s, n in pairs)])


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _segments(ordered: Examples, table: _Table, past: Past | None, *, examples: bool = True) -> Segments:
    trained = table.split == "train"
    chosen = table.kept & trained
    lengths = table.length[chosen]
    numbers = (_offsets(lengths)[:-1], lengths, table.user[chosen], table.period[chosen])
    start, length, user, period = (x.astype(np.int32) for x in numbers)
    if not examples:
        return Segments((), (), start, length, user, period)
    rows = _rows(table, chosen)
    part = _take(ordered, rows)
    before = of_rows(past, rows, _rows(table, trained)) if past is not None else ()
    return Segments(part.inputs, part.targets, start, length, user, period, before, part.time, part.available)


def _cohort(at: Callable[[np.ndarray], Examples], table: _Table, wanted: str, period: int, periods: int) -> Cohort:
    chosen = table.kept & (table.split == wanted) & (table.period == _period(period, periods))
    part = at(_rows(table, chosen))
    users = table.user[chosen].astype(np.int32)
    offsets = _offsets(table.length[chosen])
    evaluated, each = np.full_like(users, period), part.period.astype(np.int32)
    return Cohort(part.inputs, part.targets, offsets, users, evaluated, table.returning[chosen], each, *_times(part))


def _life(
    at: Callable[[np.ndarray], Examples], user: np.ndarray, rows: np.ndarray, chosen: np.ndarray, least: int
) -> Cohort:
    counts = np.bincount(user[rows], minlength=len(chosen))
    wanted = chosen & (counts >= least)
    rows = rows[np.argsort(user[rows], kind="stable")]
    part = at(rows[wanted[user[rows]]])
    users = np.flatnonzero(wanted).astype(np.int32)
    none = np.zeros(len(users), bool)
    evaluated, each = np.full_like(users, -1), part.period.astype(np.int32)
    return Cohort(part.inputs, part.targets, _offsets(counts[wanted]), users, evaluated, none, each, *_times(part))


def _times(part: Examples) -> tuple[np.ndarray, np.ndarray]:
    time = part.time.astype(np.float32)
    return time, time if part.available is None else part.available.astype(np.float32)


def _counts(ordered: Examples, table: _Table, periods: int) -> dict[str, Any]:
    def of(split: str, period: int) -> dict[str, int]:
        chosen = table.kept & (table.split == split) & (table.period == period)
        return {"users": int(chosen.sum()), "examples": int(table.length[chosen].sum())}

    return {
        "users": len(ordered.users),
        "examples": len(ordered.user),
        "dropped_segments": int((~table.kept).sum()),
        "splits": {split: [of(split, period) for period in range(periods)] for split in splits.SPLITS},
    }
