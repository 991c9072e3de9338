"""Adaptation curves of held-out users: few compiled shapes, whatever the lengths of their lives.

The query of a user is the same for every number of shots, so that the points of a curve can be compared: all rows
from ``held_out.query_starts`` on. Users come in blocks of few shapes (``held_out.blocks``); a shape compiles once, and
parameters and tasks are arguments, so versions, arms, periods and folds of one model share a handful of programs.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from metapers import held_out
from metapers.base import Array, Batch, Cohort, Model, Objective, Params, Tree, hide
from metapers.scoring.adapting import Adaptation, by_user, check, devices, of_users, placed
from metapers.scoring.records import DIVERGED, HALVES, Curves

HELD = 2**28
"""Bytes of users' own parameters that are held at one time."""


class NotFinite(ValueError):
    """A score is NaN or infinite."""


def curves(
    adaptation: Adaptation,
    scores: Callable[..., dict[str, Array]],
    *,
    shots: tuple[int, ...],
    horizon: int,
    steps: tuple[int, ...] = (),
    rows: int = 2048,
    users: int = 0,
) -> Callable[..., Curves]:
    """Scores after each of the adaptation's steps on each number of ``shots``, for every user and seed.

    A user's support for k shots is the first min(k, s) rows, the query all rows from s = ``held_out.query_starts`` on.
    Adapting is one program for every cohort; the scores of a query are one small program for each width of a block.
    Where a user's adaptation ran away the start is scored (``inner.path.entry``), and the scores hold ``diverged``, 1
    there and 0 elsewhere; without any such user they do not.

    Args:
      adaptation: the users' own, at least ``max(shots)`` wide.
      scores: what ``query_scores`` makes of the same model.
      shots: examples to adapt on, each in [0, ``horizon``].
      horizon: where queries begin at the latest.
      steps: those of the adaptation's that count; whether others are finite does not matter. (): all.
      rows: of a block of queries at most (``held_out.blocks``).
      users: of a block at most; 0: as many as ``rows`` allows. Where the working set of many users outgrows the cache,
        few are faster.

    Returns:
      A function (params [seeds, ...], cohort, start=None) -> Curves; ``start``: personal parameters [seeds, users, ...]
      from the bank in place of ``params.personal``. It raises ValueError for steps beyond the path, a user with fewer
      than two examples, or a score that is not finite (``NotFinite``).

    Raises:
      ValueError: numbers out of bounds.
    """
    check("shots", shots, 0)
    check("rows", (rows,), 1)
    check("users", (users,), 0)
    if max(shots) > min(horizon, adaptation.width):
        raise ValueError(f"shots must be <= horizon = {min(horizon, adaptation.width)}, got {max(shots)}")
    mesh, taken = adaptation.mesh, adaptation.steps
    steps = steps or taken
    columns = [taken.index(step) for step in steps]

    def run(params: Params, cohort: Cohort, start: Tree | None = None) -> Curves:
        held_out.cut(cohort, horizon)  # refuses a cohort that cannot be scored
        if start is None:  # a whole history of one period is that period's task
            members, same = held_out.distinct(cohort)
            return _repeated(from_starts(params, held_out.take(cohort, members), None), same)
        return from_starts(params, cohort, start)

    def from_starts(params: Params, cohort: Cohort, start: Tree | None) -> Curves:
        starts, n_query = held_out.cut(cohort, horizon)
        n_support = np.minimum(np.asarray(shots, np.int32), starts[:, None]).astype(np.int32)
        start = of_users(start, params, cohort)
        found: list[tuple[np.ndarray, int, dict[str, Array]]] = []
        for members in _groups(n_query, params.personal, len(shots) * len(taken)):
            each = [adaptation.entries(params, cohort, counts, members, start) for counts in n_support.T]
            parts = held_out.blocks(n_query[members], rows=rows, users=users, multiple=devices(mesh))
            found += _of_queries(scores, mesh, params, each, cohort, members, parts, (starts, n_query))
        whole = {name: values[..., columns] for name, values in _gathered(found, cohort, shots, taken).items()}
        return _curves(_finite(whole, cohort, shots, steps), n_support, n_query, shots, steps)

    return run


def query_scores(model: Model, objective: Objective, *, halves: str | None = None) -> Callable[..., dict[str, Array]]:
    """Compiles the scores of users' queries under many entries of their own.

    Args:
      model: what predicts.
      objective: whose scores count.
      halves: a metric whose scores on every other row of a query are ``HALVES`` in the scores too, for the noise of a
        finite query.

    Returns:
      A function (params [seeds, ...], personal [seeds, users, points, ...], diverged [seeds, users, points], queries
      [users, width]) -> metric -> [seeds, users, points], ``DIVERGED`` among them.
    """

    def of_user(params: Params, personal: Tree, diverged: Array, query: Batch) -> dict[str, Array]:
        inputs, targets = hide(query.inputs, query.mask), hide(query.targets, query.mask)

        def of_point(point: tuple[Tree, Array]) -> dict[str, Array]:
            outputs = model.apply(params._replace(personal=point[0]), inputs, query.mask, None)
            return _scores(objective, outputs, targets, query.mask, halves) | {DIVERGED: point[1]}

        return jax.lax.map(of_point, (personal, diverged))  # one after the other: memory is one, whatever the grid

    return jax.jit(jax.vmap(jax.vmap(of_user, in_axes=(None, 0, 0, 0)), in_axes=(0, 0, 0, None)))


def _of_queries(
    scores: Callable[..., dict[str, Array]],
    mesh: Mesh | None,
    params: Params,
    each: list[tuple[Tree, np.ndarray]],
    cohort: Cohort,
    members: np.ndarray,
    parts: Iterable[held_out.Block],
    query_rows: tuple[np.ndarray, np.ndarray],
) -> Iterator[tuple[np.ndarray, int, dict[str, Array]]]:
    """(places of the users in the cohort, place of the shots, scores) for each block of queries and number of shots.

    ``each``: the users' parameters for each number of shots; ``query_rows``: the first and the number of each user's.
    """
    without = placed(mesh, params._replace(inner=()), PartitionSpec())  # inner parameters play no part in predicting
    for part in parts:
        mine = members[part.members]
        query = placed(mesh, held_out.batch(cohort, mine, *query_rows, part.width), by_user(mesh, 0))
        for place, own in enumerate(each):
            of_part = jax.tree.map(lambda leaf, at=part: leaf[:, at.members], own)
            yield mine[: part.count], place, scores(without, *placed(mesh, of_part, by_user(mesh, 1)), query)


def predicted(
    objective: Objective, *, shots: tuple[int, ...], horizon: int, rows: int = 2048, halves: str | None = None
) -> Callable[[Callable[[Cohort, int, int], Tree], Cohort], Curves]:
    """Scores of a baseline's ``predict`` or a stream's ``oracle`` on the very rows that ``curves`` scores.

    The result is called as (predict, cohort) -> Curves with one seed and steps (0,). Users with the same number of
    support rows c are predicted together, predict(their cohort, c, c), so nobody's query is ever seen.
    """
    check("shots", shots, 0)
    check("rows", (rows,), 1)
    if max(shots) > horizon:
        raise ValueError(f"shots must be <= horizon = {horizon}, got {max(shots)}")
    block = _compiled(objective, halves)

    def run(predict: Callable[[Cohort, int, int], Tree], cohort: Cohort) -> Curves:
        starts, n_query = held_out.cut(cohort, horizon)
        n_support = np.minimum(np.asarray(shots, np.int32), starts[:, None]).astype(np.int32)
        found = []
        for column in range(len(shots)):
            guess = cohort._replace(inputs=_outputs(predict, cohort, n_support[:, column]))
            for part in held_out.blocks(n_query, rows=rows):
                query = held_out.batch(guess, part.members, starts, n_query, part.width)
                told = jax.device_get(block(query.inputs, query.targets, query.mask))
                one = jax.tree.map(lambda leaf: leaf[None, :, None], told)
                found.append((part.members[: part.count], column, one))
        whole = _finite(_gathered(found, cohort, shots, (0,)), cohort, shots, (0,))
        return _curves(whole, n_support, n_query, shots, (0,))

    return run


@cache  # an evaluation needs it for the choice of strengths and for the records
def _compiled(objective: Objective, halves: str | None) -> Callable[..., dict[str, Array]]:
    return jax.jit(jax.vmap(partial(_scores, objective, halves=halves)))


def _scores(objective: Objective, outputs: Tree, targets: Tree, mask: Array, halves: str | None) -> dict[str, Array]:
    """One user's metrics, and the score of one of them on each half of the query."""
    found = objective.scores(outputs, targets, mask)
    if halves is None:
        return found
    odd = jnp.arange(mask.shape[0]) % 2 == 1
    parts = zip(HALVES, (mask & ~odd, mask & odd), strict=True)
    return found | {name: objective.scores(outputs, targets, part)[halves] for name, part in parts}


def _outputs(predict: Callable[[Cohort, int, int], Tree], cohort: Cohort, counts: np.ndarray) -> Tree:
    total, groups = int(cohort.offsets[-1]), np.unique(counts)
    outputs: Any = None
    for count in groups:
        members = np.flatnonzero(counts == count)
        part = jax.tree.map(np.asarray, predict(held_out.take(cohort, members), int(count), int(count)))
        if outputs is None:
            outputs = jax.tree.map(lambda leaf: np.empty((total, *leaf.shape[1:]), leaf.dtype), part)
        rows = held_out.rows_of(cohort, members)
        jax.tree.map(lambda whole, leaf, at=rows: whole.__setitem__(at, leaf), outputs, part)
    return outputs


def _groups(n_query: np.ndarray, personal: Tree, points: int) -> Iterator[np.ndarray]:
    """Places of users whose entries of their own are held at one time, at most ``HELD`` bytes; short queries first."""
    each = max(1, points * sum(leaf.nbytes for leaf in jax.tree.leaves(personal)))
    count, order = max(1, HELD // each), np.argsort(n_query, kind="stable")
    return (order[first : first + count] for first in range(0, order.size, count))


def _gathered(
    found: list[tuple[np.ndarray, int, dict[str, Array]]],
    cohort: Cohort,
    shots: tuple[int, ...],
    steps: tuple[int, ...],
) -> dict[str, np.ndarray]:
    """Metric -> [seeds, users, shots, steps] of (places of users in the cohort, place of the shots, scores)."""
    scores: dict[str, np.ndarray] = {}
    for members, place, result in found:
        for name, values in jax.device_get(result).items():
            shape = (values.shape[0], len(cohort.users), len(shots), len(steps))
            whole = scores.setdefault(name, np.empty(shape, values.dtype))
            whole[:, members, place] = values[:, : members.size]
    return scores


def _finite(
    scores: dict[str, np.ndarray], cohort: Cohort, shots: tuple[int, ...], steps: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """The scores, without ``DIVERGED`` where nobody did; ``NotFinite`` where one is not finite."""
    if not np.any(scores.get(DIVERGED, False)):
        scores.pop(DIVERGED, None)
    for name, values in scores.items():
        if not np.isfinite(values).all():
            seed, user, shot, step = np.argwhere(~np.isfinite(values))[0]
            raise NotFinite(
                f"{name} must be finite, got {values[seed, user, shot, step]} for user row {cohort.users[user]} "
                f"(period {cohort.periods[user]}, seed {seed}, {shots[shot]} shots, {steps[step]} steps)"
            )
    return scores


def _curves(
    scores: dict[str, np.ndarray],
    n_support: np.ndarray,
    n_query: np.ndarray,
    shots: tuple[int, ...],
    steps: tuple[int, ...],
) -> Curves:
    short = (n_support < np.asarray(shots)).sum(axis=0)
    return Curves(scores, n_support, n_query, short, tuple(shots), tuple(steps))


def _repeated(found: Curves, same: np.ndarray) -> Curves:
    scores = {name: values[:, same] for name, values in found.scores.items()}
    return _curves(scores, found.n_support[same], found.n_query[same], found.shots, found.steps)
