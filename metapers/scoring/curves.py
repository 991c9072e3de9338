"""Adaptation curves of held-out users: few compiled shapes, whatever the lengths of their lives.

The query of a user is the same for every number of shots, so that the points of a curve can be compared: all rows
from ``held_out.query_starts`` on. Users come in blocks of few shapes (``held_out.blocks``); a shape compiles once, and
parameters and tasks are arguments, so versions, arms, periods and folds of one model share a handful of programs.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
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

PART = 2**16
"""Examples of a cohort that are predicted at one time."""
HELD = 2**28
"""The most bytes of personal parameters that are in memory together."""
USERS = 2**13
"""The most users whose personal parameters are in memory together."""


Predict = Callable[[Cohort, int, int], Tree]
"""(cohort, shots, horizon) -> outputs, leaves [total, ...]: as ``baselines.Predictor.predict``."""


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
        members = same = np.arange(len(cohort.users))
        if start is None:  # a whole history of one period is that period's task
            members, same = held_out.distinct(cohort)
        starts, n_query = held_out.cut(cohort, horizon)
        n_support = np.minimum(np.asarray(shots, np.int32), starts[:, None]).astype(np.int32)
        start = of_users(start, params, cohort)
        whole: dict[str, np.ndarray] = {}
        for places in _groups(n_query[members], params.personal, len(shots) * len(taken)):
            here = members[places]
            each = [adaptation.entries(params, cohort, counts, here, start) for counts in n_support.T]
            points = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=2), *each)
            parts = held_out.blocks(n_query[here], rows=rows, users=users, multiple=devices(mesh))
            found = list(_of_queries(scores, mesh, params, points, cohort, here, parts, (starts, n_query)))
            _gather(whole, found, cohort, shots, taken)
        whole = {name: values[:, members[same]][..., columns] for name, values in whole.items()}
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
    points: tuple[Tree, np.ndarray],
    cohort: Cohort,
    members: np.ndarray,
    parts: Iterable[held_out.Block],
    query_rows: tuple[np.ndarray, np.ndarray],
) -> Iterator[tuple[np.ndarray, slice, dict[str, Array]]]:
    """(places of the users in the cohort, all shots, scores) for each block of queries, as ``_gather`` takes them.

    Args:
      scores: what ``query_scores`` made.
      mesh: users are sharded over its one axis.
      params: leaves [seeds, ...].
      points: the users' own parameters and whether they diverged, leaves [seeds, members, shots * steps, ...].
      cohort: of the users.
      members: int [members], the places of the users in the cohort.
      parts: the blocks.
      query_rows: the first row and the number of rows of each user's query, int [users of the cohort].
    """
    without = placed(mesh, params._replace(inner=()), PartitionSpec())  # inner parameters play no part in predicting
    for part in parts:
        mine = members[part.members]
        query = placed(mesh, held_out.batch(cohort, mine, *query_rows, part.width), by_user(mesh, 0))
        own = jax.tree.map(lambda leaf, at=part: leaf[:, at.members], points)
        yield mine[: part.count], slice(None), scores(without, *placed(mesh, own, by_user(mesh, 1)), query)


def predicted(
    objective: Objective, *, shots: tuple[int, ...], horizon: int, rows: int = 0, halves: str | None = None
) -> Callable[[Sequence[Predict], Cohort], list[Curves]]:
    """Scores of what baselines or a stream's ``oracle`` predict, on the very rows that ``curves`` scores.

    The result is called as (predicts, cohort) -> a Curves for each of ``predicts``, with one seed and steps (0,). Users
    with the same number of support rows c are predicted together, predict(their cohort, c, c), so nobody's query is
    ever seen. A cohort is predicted ``PART`` examples at a time, by all of ``predicts`` before the next ones: memory
    does not grow with the number of users, and what they share for the same examples is asked for in turn.
    ``rows``: of a block of queries at most (``held_out.blocks``); 0: 2,048, or more where outputs are small.
    """
    check("shots", shots, 0)
    check("rows", (rows,), 0)
    if max(shots) > horizon:
        raise ValueError(f"shots must be <= horizon = {horizon}, got {max(shots)}")
    block = _compiled(objective, halves)

    def of_part(predict: Predict, cohort: Cohort, first: int) -> Iterator[tuple[np.ndarray, int, dict[str, Array]]]:
        starts, n_query = held_out.cut(cohort, horizon)
        for column, count in enumerate(shots):
            guess = cohort._replace(inputs=_outputs(predict, cohort, np.minimum(count, starts)))
            size = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(guess.inputs))
            for part in held_out.blocks(n_query, rows=rows or max(2**11, min(2**14, 2**18 // max(size, 1)))):
                query = held_out.batch(guess, part.members, starts, n_query, part.width)
                told = jax.device_get(block(query.inputs, query.targets, query.mask))
                yield first + part.members[: part.count], column, {name: x[None, :, None] for name, x in told.items()}

    def run(predicts: Sequence[Predict], cohort: Cohort) -> list[Curves]:
        starts, n_query = held_out.cut(cohort, horizon)
        n_support = np.minimum(np.asarray(shots, np.int32), starts[:, None]).astype(np.int32)
        whole: list[dict[str, np.ndarray]] = [{} for _ in predicts]
        for users in held_out.parts(cohort.offsets, PART):
            here = held_out.span(cohort, users)
            for predict, scores in zip(predicts, whole, strict=True):
                _gather(scores, of_part(predict, here, users.start), cohort, shots, (0,))
        return [_curves(_finite(one, cohort, shots, (0,)), n_support, n_query, shots, (0,)) for one in whole]

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
    """Places of users, some at a time (``HELD``, ``USERS``); users with short queries first."""
    each = max(1, points * sum(leaf.nbytes for leaf in jax.tree.leaves(personal)))
    count, order = min(max(1, HELD // each), USERS), np.argsort(n_query, kind="stable")
    return (order[first : first + count] for first in range(0, order.size, count))


def _gather(
    scores: dict[str, np.ndarray],
    found: Iterable[tuple[np.ndarray, int | slice, dict[str, Array]]],
    cohort: Cohort,
    shots: tuple[int, ...],
    steps: tuple[int, ...],
) -> None:
    """Fills metric -> [seeds, users, shots, steps] from (places of users in the cohort, place of the shots, scores).

    Scores are [seeds, users, shots * steps], the last users those of padding.
    """
    for members, place, result in found:
        for name, values in jax.device_get(result).items():
            if name not in scores:
                shape = (values.shape[0], len(cohort.users), len(shots), len(steps))
                scores[name] = np.empty(shape, values.dtype)
            values = values[:, : members.size].reshape(values.shape[0], members.size, -1, len(steps))
            scores[name][:, members, place] = values if isinstance(place, slice) else values[:, :, 0]


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
