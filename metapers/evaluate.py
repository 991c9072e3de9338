"""Adaptation curves of held-out users: few compiled shapes, whatever the lengths of their lives.

The query of a user is the same for every number of shots, so that the points of a curve can be compared: all rows
from ``query_starts`` on. Users are gathered by the length of their query into blocks of fixed shape
[users, width], width 32, 128, 512, ... with users * width at most about ``rows``; a block shape compiles once and
parameters and tasks are arguments, so versions, strategies, stages and folds of one model share a handful of programs.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metapers.base import Array, Batch, Cohort, InnerLoop, Model, Objective, Params, Tree, hide
from metapers.inner.path import entry
from metapers.records import DIVERGED, Curves

_NARROWEST, _GROWTH = 32, 4  # widths of query blocks: 32, 128, 512, 2048, ...; narrower where no query has 32 rows


class NotFinite(ValueError):
    """A score is NaN or infinite."""


def query_starts(sizes: np.ndarray, horizon: int) -> np.ndarray:
    """How many of a user's first examples may be support: ``horizon`` if there are more, else half, at least one.

    >>> query_starts(np.array([2, 7, 16, 17]), 16).tolist()
    [1, 3, 8, 16]
    """
    return np.where(sizes > horizon, horizon, np.maximum(1, sizes // 2))


def curves(
    model: Model,
    objective: Objective,
    inner_loop: InnerLoop,
    *,
    shots: tuple[int, ...],
    steps: tuple[int, ...],
    horizon: int,
    rows: int = 8192,
    users: int = 0,
    mesh: Mesh | None = None,
) -> Callable[..., Curves]:
    """Scores after each number of inner ``steps`` on each number of ``shots``, for every user and seed.

    The result is called as (params [seeds, ...], cohort, start=None) -> Curves; ``start``: personal [seeds, users,
    ...] from the bank in place of ``params.personal``. A user's support for k shots is the first min(k, s) rows,
    the query all rows from s = ``query_starts`` on; ``Curves.short`` counts users with s < k. ``inner_loop`` runs
    once per k and its path is read at ``steps``, 0 being the start. Where an entry ran away the user is judged at
    the start, as ``inner.path.entry`` has it, and the scores hold ``diverged``, 1 there and 0 elsewhere; without any
    such user they do not. ``users``: at most so many at a time, 0: as many as ``rows`` takes; where the working set of
    many outgrows the cache, few are faster. ``mesh``: users are sharded over its one axis.
    Raises ValueError for steps beyond the path, shots beyond ``horizon``, a user with fewer than two examples, or a
    score that is not finite.
    """
    _check("shots", shots, 0)
    _check("steps", steps, 0)
    _check("rows", (rows,), 1)
    _check("users", (users,), 0)
    if max(shots) > horizon:
        raise ValueError(f"shots must be <= horizon = {horizon}, got {max(shots)}")
    of_user = _user_scores(model, objective, inner_loop, steps)
    block = jax.jit(jax.vmap(jax.vmap(of_user, in_axes=(None, 0, 0, 0, 0)), in_axes=(0, 0, None, None, None)))

    def run(params: Params, cohort: Cohort, start: Tree | None = None) -> Curves:
        _cut(cohort, horizon)  # refuses a cohort that cannot be judged
        if start is None:  # a life of one stage is that stage's task
            members, same = distinct(cohort)
            return _repeated(from_starts(params, take(cohort, members), None), same)
        return from_starts(params, cohort, start)

    def from_starts(params: Params, cohort: Cohort, start: Tree | None) -> Curves:
        starts, n_query = _cut(cohort, horizon)
        n_support = np.minimum(np.asarray(shots, np.int32), starts[:, None]).astype(np.int32)
        params, start = _placed(mesh, params, PartitionSpec()), _of_users(start, params, cohort)
        pending = []
        for part in _parts(n_query, rows, 1 if mesh is None else mesh.size, users):
            support = _batch(cohort, part.members, np.zeros_like(starts), starts, max(1, *shots))
            query = _batch(cohort, part.members, starts, n_query, part.width)
            counts = n_support[part.members]
            tasks = _placed(mesh, (support, query, counts), _users(mesh, 0))
            mine = _placed(mesh, jax.tree.map(lambda leaf, at=part: leaf[:, at.members], start), _users(mesh, 1))
            pending.append((part, block(params, mine, *tasks)))
        return _curves(_gathered(pending, cohort, shots, steps), n_support, n_query, shots, steps)

    return run


def adapted(
    model: Model, inner_loop: InnerLoop, *, shots: int, steps: int, users: int = 256, mesh: Mesh | None = None
) -> Callable[..., Tree]:
    """Personal parameters after ``steps`` inner steps on each user's support, of ``query_starts``: for the bank.

    A user whose adaptation ran away keeps the start (``inner.path.entry``).
    The result is called as (params [seeds, ...], cohort, start=None) -> personal, numpy [seeds, users, ...]. One
    compilation for all cohorts: blocks of ``users``. Raises ValueError for steps beyond the inner loop's path.
    """
    _check("shots", (shots,), 1)
    _check("steps", (steps,), 0)
    _check("users", (users,), 1)

    def of_user(params: Params, start: Tree, support: Batch) -> Tree:
        params, seen, path = _adapt(inner_loop, params, start, support, support.mask)
        return entry(model, params, seen, path, _within(path, (steps,))[0])[0]

    block = jax.jit(jax.vmap(jax.vmap(of_user, in_axes=(None, 0, 0)), in_axes=(0, 0, None)))

    def run(params: Params, cohort: Cohort, start: Tree | None = None) -> Tree:
        sizes = np.diff(cohort.offsets)
        params, start = _placed(mesh, params, PartitionSpec()), _of_users(start, params, cohort)
        multiple = 1 if mesh is None else mesh.size
        pending = []
        for part in _parts(np.full_like(sizes, _NARROWEST), users * _NARROWEST, multiple):
            support = _batch(cohort, part.members, np.zeros_like(sizes), query_starts(sizes, shots), shots)
            mine = _placed(mesh, jax.tree.map(lambda leaf, at=part: leaf[:, at.members], start), _users(mesh, 1))
            done = block(params, mine, _placed(mesh, support, _users(mesh, 0)))
            pending.append((part, done))
        kept = [jax.tree.map(lambda leaf, at=part: leaf[:, : at.count], jax.device_get(done)) for part, done in pending]
        return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *kept)

    return run


def predicted(
    objective: Objective, *, shots: tuple[int, ...], horizon: int, rows: int = 8192
) -> Callable[[Callable[[Cohort, int, int], Tree], Cohort], Curves]:
    """Scores of a baseline's ``predict`` or a stream's ``oracle`` on the very rows that ``curves`` judges.

    The result is called as (predict, cohort) -> Curves with one seed and steps (0,). Users with the same number of
    support rows c are predicted together, predict(their cohort, c, c), so nobody's query is ever seen.
    """
    _check("shots", shots, 0)
    _check("rows", (rows,), 1)
    if max(shots) > horizon:
        raise ValueError(f"shots must be <= horizon = {horizon}, got {max(shots)}")
    block = jax.jit(jax.vmap(objective.scores))

    def run(predict: Callable[[Cohort, int, int], Tree], cohort: Cohort) -> Curves:
        starts, n_query = _cut(cohort, horizon)
        n_support = np.minimum(np.asarray(shots, np.int32), starts[:, None]).astype(np.int32)
        found = []
        for column in range(len(shots)):
            guess = cohort._replace(inputs=_outputs(predict, cohort, n_support[:, column]))
            pending = []
            for part in _parts(n_query, rows, 1):
                query = _batch(guess, part.members, starts, n_query, part.width)
                scores = block(query.inputs, query.targets, query.mask)
                pending.append((part, jax.tree.map(lambda leaf: leaf[None, :, None, None], jax.device_get(scores))))
            found.append(_gathered(pending, cohort, shots[column : column + 1], (0,)))
        scores = {name: np.concatenate([one[name] for one in found], axis=2) for name in found[0]}
        return _curves(scores, n_support, n_query, shots, (0,))

    return run


def take(cohort: Cohort, members: np.ndarray) -> Cohort:
    """The cohort of some users, ``members`` their places in it."""
    sizes = np.diff(cohort.offsets)[members]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    rows = _rows(cohort, members)
    inputs, targets = (jax.tree.map(lambda leaf: leaf[rows], tree) for tree in (cohort.inputs, cohort.targets))
    return Cohort(inputs, targets, offsets, cohort.users[members], cohort.stages[members], cohort.returning[members])


def distinct(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """(members [m], same [users]): places of the first of each set of equal examples, and which of them an entry has.

    Scores from a fresh start depend on the examples alone, so ``take(cohort, members)`` is all that need be judged.
    """
    leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves((cohort.inputs, cohort.targets))]
    first: dict[bytes, int] = {}
    members, same = [], np.empty(len(cohort.users), np.int64)
    for place, (begin, end) in enumerate(zip(cohort.offsets[:-1], cohort.offsets[1:])):
        digest = hashlib.blake2b(int(end - begin).to_bytes(8, "little"))
        for leaf in leaves:
            digest.update(leaf[begin:end])
        same[place] = first.setdefault(digest.digest(), len(members))
        if same[place] == len(members):
            members.append(place)
    return np.asarray(members, np.int64), same


def merged(cohorts: Sequence[Cohort]) -> Cohort:
    """Several cohorts one after the other: a user may have an entry in each. ValueError for none."""
    if not cohorts:
        raise ValueError("cohorts must be at least one, got none")
    parts = [one._replace(offsets=np.diff(one.offsets)) for one in cohorts]
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return whole._replace(offsets=np.concatenate([[0], np.cumsum(whole.offsets)]))


def _user_scores(model: Model, objective: Objective, inner_loop: InnerLoop, steps: tuple[int, ...]) -> Callable:
    def of_user(params: Params, start: Tree, support: Batch, query: Batch, counts: Array) -> dict[str, Array]:
        inputs, targets = hide(query.inputs, query.mask), hide(query.targets, query.mask)

        def at_shots(count: Array) -> dict[str, Array]:
            mask = jnp.arange(support.mask.shape[0], dtype=count.dtype) < count
            own, seen, path = _adapt(inner_loop, params, start, support, mask)

            def at_step(step: Array) -> dict[str, Array]:
                personal, lost = entry(model, own, seen, path, step)
                outputs = model.apply(own._replace(personal=personal), inputs, query.mask, None)
                return objective.scores(outputs, targets, query.mask) | {DIVERGED: lost}

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


class _Part(NamedTuple):
    """A block of users: places in the cohort, the last one repeated beyond ``count``."""

    members: np.ndarray
    count: int
    width: int


def _parts(n_query: np.ndarray, rows: int, multiple: int, most: int = 0) -> Iterator[_Part]:
    width, left = min(_NARROWEST, 1 << (int(n_query.max()) - 1).bit_length()), np.arange(n_query.size)
    most = most or rows // _NARROWEST
    while left.size:
        fits = n_query[left] <= width
        size = max(1, min(most, rows // width) // multiple) * multiple
        here, left = left[fits], left[~fits]
        for first in range(0, here.size, size):
            some = here[first : first + size]
            yield _Part(np.pad(some, (0, size - some.size), mode="edge"), some.size, width)
        width *= _GROWTH


def _batch(cohort: Cohort, members: np.ndarray, first: np.ndarray, count: np.ndarray, width: int) -> Batch:
    place = np.arange(width)
    rows = (cohort.offsets[:-1] + first)[members, None] + place
    mask: Any = place < count[members, None]
    rows = np.where(mask, rows, cohort.offsets[:-1][members, None])
    inputs, targets = (jax.tree.map(lambda leaf: leaf[rows], tree) for tree in (cohort.inputs, cohort.targets))
    return Batch(inputs, targets, mask)


def _cut(cohort: Cohort, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.diff(cohort.offsets)
    starts = query_starts(sizes, horizon)
    if sizes.size == 0:
        raise ValueError("cohort must hold at least one user, got none")
    if (sizes <= starts).any():
        worst = int(np.argmin(sizes - starts))
        raise ValueError(f"a user needs >= 2 examples, got {sizes[worst]} for user row {cohort.users[worst]}")
    return starts, sizes - starts


def _rows(cohort: Cohort, members: np.ndarray) -> np.ndarray:
    sizes = np.diff(cohort.offsets)[members]
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(cohort.offsets[:-1][members] - before, sizes)


def _outputs(predict: Callable[[Cohort, int, int], Tree], cohort: Cohort, counts: np.ndarray) -> Tree:
    total, groups = int(cohort.offsets[-1]), np.unique(counts)
    outputs: Any = None
    for count in groups:
        members = np.flatnonzero(counts == count)
        part = jax.tree.map(np.asarray, predict(take(cohort, members), int(count), int(count)))
        if outputs is None:
            outputs = jax.tree.map(lambda leaf: np.empty((total, *leaf.shape[1:]), leaf.dtype), part)
        rows = _rows(cohort, members)
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
                f"(stage {cohort.stages[user]}, seed {seed}, {shots[shot]} shots, {steps[step]} steps)"
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


def _users(mesh: Mesh | None, axis: int) -> PartitionSpec:
    return PartitionSpec() if mesh is None else PartitionSpec(*(None,) * axis, mesh.axis_names[0])


def _placed(mesh: Mesh | None, tree: Tree, spec: PartitionSpec) -> Tree:
    return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, spec))


def _check(name: str, values: tuple[int, ...], least: int) -> None:
    if not values or min(values) < least:
        raise ValueError(f"{name} must be >= {least}, got {min(values) if values else 'none'}")
