"""Training tasks drawn on the device: a user's segment of history cut into a support window and later queries."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metapers import keys
from metapers.base import Array, Batch, Key, Task, TaskFamily, Tree, hide_rows
from metapers.tasks import user_list
from metapers.tasks.past import Past, past_at


class Segments(NamedTuple):
    """Training users' examples, flat, with one segment for each (period, user); segments sorted by period."""

    inputs: Tree  # numpy [rows, ...]
    targets: Tree  # numpy [rows, ...]
    start: np.ndarray  # int32 [segments], first row
    length: np.ndarray  # int32 [segments], at least 2
    user: np.ndarray  # int32 [segments]
    period: np.ndarray  # int32 [segments], ascending
    past: Past | tuple[()] = ()  # what stands before each row, or nothing
    time: np.ndarray | None = None  # float [rows], in days; None: zeros
    available: np.ndarray | None = None  # float [rows], in days; None: at ``time``


def family(
    segments: Segments,
    *,
    periods: int,
    support: int,
    query: int,
    p_full_support: float = 0.5,
    p_from_first: float = 0.0,
    length_power: float = 0.0,
    filled: Callable[[], Segments] | None = None,
) -> TaskFamily:
    """Tasks cut from segments: a window of consecutive examples to adapt on, later ones to evaluate on.

    A task is a segment of the window's, drawn with replacement with probability proportional to l ** ``length_power``
    (0: every user alike, 1: every example alike), l its length. With m = min(support, l - 1): the support has s = m
    examples with probability ``p_full_support``, else uniformly 1..m; they begin at o = 0 with probability
    ``p_from_first``, else uniformly 0..l-s-1, and are rows o..o+s-1. The query is all a = l - o - s later rows if
    a <= ``query``, else ``query`` distinct ones, o + s + floor((j a + r) / query) for j = 0, 1, ... with one r uniform
    in 0..a-1 (systematic sampling: every later row is as likely as any other, and they keep their order).
    Shapes are [n, support, ...] and [n, query, ...]; padding is zero. A task depends on (key, step, its place
    in the batch), not on n. ``filled`` makes the segments with their examples when they are first asked for, where
    ``segments`` has none.

    Raises:
      ValueError: for sizes below 1, probabilities outside 0..1, ``length_power`` below 0 or so large that a weight
        overflows; in ``data``, for a window outside the periods or without users.
    """
    _check_sizes(segments, support=support, query=query)
    _check_shares(p_full_support=p_full_support, p_from_first=p_from_first)
    _check_power(segments, length_power)

    @functools.cache
    def arrays() -> Tree:  # on the device once, when first asked for; the same buffers ever after
        weight = np.float64(segments.length) ** length_power
        reached = np.concatenate([[0.0], np.cumsum(weight / weight.mean())])  # of order 1 a segment, for float32
        whole = segments if filled is None else filled()
        return jax.device_put(whole._asdict() | {"reached": reached.astype(jnp.zeros(()).dtype)})

    def data(window: tuple[int, int], step: int, num: int) -> Tree:
        first, last = window
        if not 0 <= first <= last < periods:
            raise ValueError(f"window must satisfy 0 <= first <= last < {periods}, got {window}")
        low, high = np.searchsorted(segments.period, [first, last + 1])
        if low == high:
            raise ValueError(f"window has no training user with two examples in periods {first} to {last}")
        return arrays() | jax.device_put({"lo": np.int32(low), "hi": np.int32(high)})

    one = functools.partial(
        _task, support=support, query=query, p_full_support=p_full_support, p_from_first=p_from_first
    )

    def sample(data: Tree, step: Array, n: int, key: Key) -> tuple[Task, Array]:
        drawn = keys.named(key, "tasks", step)
        each = jax.vmap(lambda i: jax.random.fold_in(drawn, i))(jnp.arange(n))
        task = lambda key: one(data, key, functools.partial(_segment, data))
        return jax.vmap(task)(each), jnp.ones(n, bool)

    def of_users(data: Tree, places: Array, key: Key) -> Task:
        def task(place: Array, i: Array) -> Task:
            choose = functools.partial(user_list.segment_of, data, place, power=length_power)
            return one(data, jax.random.fold_in(key, i), choose)

        return jax.vmap(task)(places, jnp.arange(places.shape[0]))

    roll = user_list.roll(segments.user, segments.period, periods)
    return TaskFamily(data, sample, roll, of_users)


def _task(
    data: Tree,
    key: Key,
    choose: Callable[[Array], Array],
    *,
    support: int,
    query: int,
    p_full_support: float,
    p_from_first: float,
) -> Task:
    """A task of the segment ``choose(uniform)``."""
    # a single draw for all that is chosen: one threefry call a task in the hot path
    segment, size, fully, offset, early, shift = jax.random.uniform(key, (6,))
    chosen = choose(segment)
    length = data["length"][chosen]
    most = jnp.minimum(support, length - 1)
    count = jnp.where(fully < p_full_support, most, 1 + _below(most, size))
    begin = jnp.where(early < p_from_first, 0, _below(length - count, offset))
    position, later = _query_positions(length, begin + count, query, shift)
    index = jnp.arange(support, dtype=jnp.int32)
    start = data["start"][chosen]
    first, then = start + begin + index, start + position
    notes = {"period": data["period"][chosen]}
    return Task(_gather(data, first, index < count), _gather(data, then, later), data["user"][chosen], notes)


def _check_sizes(segments: Segments, *, support: int, query: int) -> None:
    for name, size in (("support", support), ("query", query)):
        if size < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")
    longest = int(segments.length.max(initial=0))
    if longest * query >= 2**31:
        raise ValueError(f"query must be < 2**31 / {longest} (the longest history), got {query}")


def _check_shares(**probabilities: float) -> None:
    for name, probability in probabilities.items():
        if not 0 <= probability <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {probability}")


def _check_power(segments: Segments, length_power: float) -> None:
    if not 0 <= length_power < np.inf:
        raise ValueError(f"length_power must be >= 0 and finite, got {length_power}")
    most = 600 / np.log(segments.length.max(initial=2))  # e ** 600 users of that length are still a float64
    if length_power > most:
        longest = "with the longest history of these users"
        raise ValueError(f"length_power must be <= {most:.1f} {longest}, got {length_power}")


def _below(bound: Array, uniform: Array) -> Array:
    whole = (uniform * bound.astype(uniform.dtype)).astype(jnp.int32)
    return jnp.minimum(whole, bound - 1)  # rounding may reach the bound


def _segment(data: Tree, uniform: Array) -> Array:
    low, high, reached = data["lo"], data["hi"], data["reached"]
    point = reached[low] + uniform.astype(reached.dtype) * (reached[high] - reached[low])
    chosen = jnp.searchsorted(reached, point, side="right").astype(jnp.int32) - 1
    return jnp.clip(chosen, low, high - 1)  # as above


def _query_positions(length: Array, begin: Array, query: int, uniform: Array) -> tuple[Array, Array]:
    left = length - begin  # at least 1
    index = jnp.arange(query, dtype=jnp.int32)
    position = jnp.where(left >= query, (index * left + _below(left, uniform)) // query, index)
    return begin + position, (left >= query) | (index < left)


def _gather(data: Tree, rows: Array, mask: Array) -> Batch:
    rows = jnp.where(mask, rows, 0)
    inputs, targets = jax.tree.map(lambda leaf: leaf[rows], (data["inputs"], data["targets"]))
    if data["past"]:
        inputs = inputs | past_at(data["past"], rows)
    time = jnp.zeros(mask.shape) if data["time"] is None else data["time"][rows]
    available = time if data["available"] is None else data["available"][rows]
    return hide_rows(Batch(inputs, targets, mask, time, available), mask)
