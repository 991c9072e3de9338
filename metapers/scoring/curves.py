"""Adaptation curves of held-out users: few compiled shapes, whatever the lengths of their lives.

The query of a user is the same for every number of shots, so that the points of a curve can be compared: all rows
from ``held_out.query_starts`` on. Users come in blocks of few shapes (``held_out.blocks``); a shape compiles once, and
parameters and tasks are arguments, so versions, arms, periods and folds of one model share a handful of programs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metapers import held_out
from metapers.base import Array, Batch, Cohort, InnerLoop, Model, Objective, Params, Tree, hide
from metapers.inner.path import entry
from metapers.scoring.records import DIVERGED, HALVES, Curves


class NotFinite(ValueError):
    """A score is NaN or infinite."""


def curves(
    model: Model,
    objective: Objective,
    inner_loop: InnerLoop,
    *,
    shots: tuple[int, ...],
    steps: tuple[int, ...],
    horizon: int,
    rows: int = 2048,
    users: int = 0,
    mesh: Mesh | None = None,
    halves: str | None = None,
) -> Callable[..., Curves]:
    """Scores after each number of inner ``steps`` on each number of ``shots``, for every user and seed.

    The result is called as (params [seeds, ...], cohort, start=None) -> Curves; ``start``: personal [seeds, users,
    ...] from the bank in place of ``params.personal``. A user's support for k shots is the first min(k, s) rows,
    the query all rows from s = ``held_out.query_starts`` on; ``Curves.short`` counts users with s < k. ``inner_loop``
    runs once per k and its path is read at ``steps``, 0 being the start. Where an entry ran away the user is judged
    at the start, as ``inner.path.entry`` has it, and the scores hold ``diverged``, 1 there and 0 elsewhere; without
    any such user they do not. ``rows`` and ``users`` bound what is computed at a time (``held_out.blocks``): where the
    working set of many users outgrows the cache, few are faster. ``mesh``: users are sharded over its one axis.
    ``halves``: a metric whose scores on every other row of a query are ``HALVES`` in the scores too, for the noise of a
    finite query.
    Raises ValueError for steps beyond the path, shots beyond ``horizon``, a user with fewer than two examples, or a
    score that is not finite.
    """
    _check("shots", shots, 0)
    _check("steps", steps, 0)
    _check("rows", (rows,), 1)
    _check("users", (users,), 0)
    if max(shots) > horizon:
        raise ValueError(f"shots must be <= horizon = {horizon}, got {max(shots)}")
    of_user = _user_scores(model, objective, inner_loop, steps, halves)
    block = jax.jit(jax.vmap(jax.vmap(of_user, in_axes=(None, 0, 0, 0, 0)), in_axes=(0, 0, None, None, None)))

    def run(params: Params, cohort: Cohort, start: Tree | None = None) -> Curves:
        held_out.cut(cohort, horizon)  # refuses a cohort that cannot be judged
        if start is None:  # a life of one period is that period's task
            members, same = held_out.distinct(cohort)
            return _repeated(from_starts(params, held_out.take(cohort, members), None), same)
        return from_starts(params, cohort, start)

    def from_starts(params: Params, cohort: Cohort, start: Tree | None) -> Curves:
        starts, n_query = held_out.cut(cohort, horizon)
        n_support = np.minimum(np.asarray(shots, np.int32), starts[:, None]).astype(np.int32)
        params, start = _placed(mesh, params, PartitionSpec()), _of_users(start, params, cohort)
        pending = []
        for part in held_out.blocks(n_query, rows=rows, users=users, multiple=_devices(mesh)):
            support = held_out.batch(cohort, part.members, np.zeros_like(starts), starts, max(1, *shots))
            query = held_out.batch(cohort, part.members, starts, n_query, part.width)
            counts = n_support[part.members]
            tasks = _placed(mesh, (support, query, counts), _users(mesh, 0))
            mine = _placed(mesh, jax.tree.map(lambda leaf, at=part: leaf[:, at.members], start), _users(mesh, 1))
            pending.append((part, block(params, mine, *tasks)))
        return _curves(_gathered(pending, cohort, shots, steps), n_support, n_query, shots, steps)

    return run


def adapted(
    model: Model,
    inner_loop: InnerLoop,
    *,
    shots: int,
    steps: int,
    users: int = 256,
    block: int = 0,
    mesh: Mesh | None = None,
) -> Callable[..., Tree]:
    """Personal parameters after ``steps`` inner steps on each user's support, for the bank.

    The result is called as (params [seeds, ...], cohort, start=None) -> personal, numpy [seeds, users, ...]. A user's
    support is as in ``curves`` with a horizon of ``shots``; one whose adaptation ran away keeps the start
    (``inner.path.entry``). One compilation for all cohorts: so many ``users`` at each call of the program, of whom it
    takes ``block`` at a time (``each``). Raises ValueError for steps beyond the inner loop's path.
    """
    _check("shots", (shots,), 1)
    _check("steps", (steps,), 0)
    _check("users", (users,), 1)

    def of_user(params: Params, start: Tree, support: Batch) -> Tree:
        params, seen, path = _adapt(inner_loop, params, start, support, support.mask)
        return entry(model, params, seen, path, _within(path, (steps,))[0])[0]

    of_users = jax.jit(jax.vmap(each(of_user, block=block, mesh=mesh), in_axes=(0, 0, None)))

    def run(params: Params, cohort: Cohort, start: Tree | None = None) -> Tree:
        sizes = np.diff(cohort.offsets)
        params, start = _placed(mesh, params, PartitionSpec()), _of_users(start, params, cohort)
        first, count = np.zeros_like(sizes), held_out.query_starts(sizes, shots)
        pending = []
        for part in held_out.blocks(np.ones_like(sizes), rows=users, users=users, multiple=_devices(mesh)):
            support = held_out.batch(cohort, part.members, first, count, shots)
            mine = _placed(mesh, jax.tree.map(lambda leaf, at=part: leaf[:, at.members], start), _users(mesh, 1))
            done = of_users(params, mine, _placed(mesh, support, _users(mesh, 0)))
            pending.append((part, done))
        kept = [jax.tree.map(lambda leaf, at=part: leaf[:, : at.count], jax.device_get(done)) for part, done in pending]
        return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *kept)

    return run


def each(of_user: Callable[..., Tree], *, block: int = 0, mesh: Mesh | None = None) -> Callable[..., Tree]:
    """``of_user(params, *own)`` for many: called as (params, *own [users, ...]) -> [users, ...].

    Users are independent, so they may be vectorised together (``block`` 0), or ``block`` at a time in one compiled
    loop: where what all of them hold at once outgrows a core's cache, a few are faster. ``mesh``: users are split over
    its one axis, and each device takes ``block`` of its own at a time. Only rounding depends on either.

    >>> each(lambda scale, x: scale * x, block=2)(10.0, jnp.arange(5.0)).tolist()
    [0.0, 10.0, 20.0, 30.0, 40.0]

    Raises:
      ValueError: block < 0; when called, a number of users that the size of the mesh does not divide.
    """
    _check("block", (block,), 0)

    def local(params: Tree, *own: Tree) -> Tree:
        if not block:
            return jax.vmap(of_user, (None, *(0 for _ in own)))(params, *own)
        return jax.lax.map(lambda mine: of_user(params, *mine), own, batch_size=block)

    if mesh is None:
        return local
    axis = mesh.axis_names[0]
    alike, users = PartitionSpec(), PartitionSpec(axis)

    def here(params: Tree, *own: Tree) -> Tree:
        # A user's gradient with respect to what all devices hold alike would be summed over them.
        return local(jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis, to="varying"), params), *own)

    def spread(params: Tree, *own: Tree) -> Tree:
        split = jax.shard_map(here, mesh=mesh, in_specs=(alike, *(users for _ in own)), out_specs=users)
        return split(params, *own)

    return spread


def predicted(
    objective: Objective, *, shots: tuple[int, ...], horizon: int, rows: int = 2048, halves: str | None = None
) -> Callable[[Callable[[Cohort, int, int], Tree], Cohort], Curves]:
    """Scores of a baseline's ``predict`` or a stream's ``oracle`` on the very rows that ``curves`` judges.

    The result is called as (predict, cohort) -> Curves with one seed and steps (0,). Users with the same number of
    support rows c are predicted together, predict(their cohort, c, c), so nobody's query is ever seen.
    """
    _check("shots", shots, 0)
    _check("rows", (rows,), 1)
    if max(shots) > horizon:
        raise ValueError(f"shots must be <= horizon = {horizon}, got {max(shots)}")
    block = jax.jit(jax.vmap(partial(_scores, objective, halves=halves)))

    def run(predict: Callable[[Cohort, int, int], Tree], cohort: Cohort) -> Curves:
        starts, n_query = held_out.cut(cohort, horizon)
        n_support = np.minimum(np.asarray(shots, np.int32), starts[:, None]).astype(np.int32)
        found = []
        for column in range(len(shots)):
            guess = cohort._replace(inputs=_outputs(predict, cohort, n_support[:, column]))
            pending = []
            for part in held_out.blocks(n_query, rows=rows):
                query = held_out.batch(guess, part.members, starts, n_query, part.width)
                scores = block(query.inputs, query.targets, query.mask)
                pending.append((part, jax.tree.map(lambda leaf: leaf[None, :, None, None], jax.device_get(scores))))
            found.append(_gathered(pending, cohort, shots[column : column + 1], (0,)))
        scores = {name: np.concatenate([one[name] for one in found], axis=2) for name in found[0]}
        return _curves(scores, n_support, n_query, shots, (0,))

    return run


def _scores(objective: Objective, outputs: Tree, targets: Tree, mask: Array, halves: str | None) -> dict[str, Array]:
    """One user's metrics, and the score of one of them on each half of the query."""
    found = objective.scores(outputs, targets, mask)
    if halves is None:
        return found
    odd = jnp.arange(mask.shape[0]) % 2 == 1
    parts = zip(HALVES, (mask & ~odd, mask & odd), strict=True)
    return found | {name: objective.scores(outputs, targets, part)[halves] for name, part in parts}


def _user_scores(
    model: Model, objective: Objective, inner_loop: InnerLoop, steps: tuple[int, ...], halves: str | None
) -> Callable:
    def of_user(params: Params, start: Tree, support: Batch, query: Batch, counts: Array) -> dict[str, Array]:
        inputs, targets = hide(query.inputs, query.mask), hide(query.targets, query.mask)

        def at_shots(count: Array) -> dict[str, Array]:
            mask = jnp.arange(support.mask.shape[0], dtype=count.dtype) < count
            own, seen, path = _adapt(inner_loop, params, start, support, mask)

            def at_step(step: Array) -> dict[str, Array]:
                personal, lost = entry(model, own, seen, path, step)
                outputs = model.apply(own._replace(personal=personal), inputs, query.mask, None)
                return _scores(objective, outputs, targets, query.mask, halves) | {DIVERGED: lost}

            return jax.lax.map(at_step, jnp.asarray(_within(path, steps)))

        return jax.lax.map(at_shots, counts)  # one after the other: memory is one path, whatever the grid

    return of_user


def _adapt(
    inner_loop: InnerLoop, params: Params, start: Tree | None, support: Batch, mask: Array
) -> tuple[Params, Batch, Tree]:
    """Where the user began, the support that was seen, and the path."""
    fresh = params if start is None else params._replace(personal=start)
    seen = Batch(hide(support.inputs, mask), hide(support.targets, mask), mask)
    return fresh, seen, inner_loop.adapt(fresh, seen, None)[1]


def _within(path: Tree, steps: tuple[int, ...]) -> tuple[int, ...]:
    longest = min((leaf.shape[0] for leaf in jax.tree.leaves(path)), default=1) - 1
    if max(steps) > longest:
        raise ValueError(f"steps must be <= {longest}, the length of the inner loop's path, got {max(steps)}")
    return steps


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


def _of_users(start: Tree | None, params: Params, cohort: Cohort) -> Tree | None:
    if start is None:
        return None
    shape = (jax.tree.leaves(params)[0].shape[0], len(cohort.users))
    for leaf in jax.tree.leaves(start):
        if leaf.shape[:2] != shape:
            raise ValueError(f"start must have leading axes [seeds, users] = {shape}, got {leaf.shape[:2]}")
    return jax.tree.map(np.asarray, start)


def _gathered(pending: list, cohort: Cohort, shots: tuple[int, ...], steps: tuple[int, ...]) -> dict[str, np.ndarray]:
    scores: dict[str, np.ndarray] = {}
    for part, result in pending:
        for name, values in jax.device_get(result).items():
            shape = (values.shape[0], len(cohort.users), *values.shape[2:])
            whole = scores.setdefault(name, np.empty(shape, values.dtype))
            whole[:, part.members[: part.count]] = values[:, : part.count]
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


def _devices(mesh: Mesh | None) -> int:
    return 1 if mesh is None else mesh.size


def _users(mesh: Mesh | None, axis: int) -> PartitionSpec:
    return PartitionSpec() if mesh is None else PartitionSpec(*(None,) * axis, mesh.axis_names[0])


def _placed(mesh: Mesh | None, tree: Tree, spec: PartitionSpec) -> Tree:
    return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, spec))


def _check(name: str, values: tuple[int, ...], least: int) -> None:
    if not values or min(values) < least:
        raise ValueError(f"{name} must be >= {least}, got {min(values) if values else 'none'}")
