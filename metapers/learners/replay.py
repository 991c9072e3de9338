"""Rehearsal: tasks of earlier periods beside the new ones, whatever the learner."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metapers import keys
from metapers.base import Array, Draw, Key, Learner, Memory, Params, Task, Tree


class ReplayState(NamedTuple):
    """The wrapped learner's state and the memory's."""

    learner: Tree
    memory: Tree


def replay(learner: Learner, memory: Memory, n: int, *, draws: int) -> Learner:
    """``learner`` on each batch of new tasks and ``n`` more from ``memory``; filled when a period ends.

    All are numbered anew by user (``keys.numbered``), so that no two tasks of a user share a key. ``consolidate`` first
    consolidates the learner, then inserts ``draws`` batches of the period that ended: a period is never rehearsed while
    it lasts. Info: the learner's, whose ``losses`` [new + n] begin with the new
    tasks', and ``replayed``, how many tasks the memory gave. Chaudhry et al. 2019 (arXiv:1902.10486).

    Raises ValueError if ``n`` is below 0 or ``draws`` below 1.
    """
    if n < 0:
        raise ValueError(f"n must be >= 0, got {n}")
    if draws < 1:
        raise ValueError(f"draws must be >= 1, got {draws}")

    def init(params: Params, tasks: Task) -> ReplayState:
        spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), jax.eval_shape(keys.numbered, tasks))
        return ReplayState(learner.init(params, tasks), memory.init(spec))

    def update(state: ReplayState, tasks: Task, mask: Array, key: Key) -> tuple[ReplayState, dict]:
        if n == 0:
            inner, info = learner.update(state.learner, tasks, mask, key)
            return state._replace(learner=inner), {**info, "replayed": jnp.zeros((), jnp.int32)}
        old, live = memory.sample(state.memory, n, keys.named(key, "replay"))
        old = old._replace(user=jnp.where(live, old.user, -1))  # an empty slot belongs to no user
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), keys.numbered(tasks), old)
        inner, info = learner.update(state.learner, keys.numbered(both), jnp.concatenate([mask, live]), key)
        return state._replace(learner=inner), {**info, "replayed": jnp.sum(live, dtype=jnp.int32)}

    def consolidate(state: ReplayState, draw: Draw, key: Key) -> ReplayState:
        inner = learner.consolidate(state.learner, draw, keys.named(key, "learner"))

        def insert(i: Array, kept: Tree) -> Tree:
            tasks, mask = draw(i)
            return memory.insert(kept, keys.numbered(tasks), tasks.user, mask, keys.named(key, "insert", i))

        return ReplayState(inner, jax.lax.fori_loop(0, draws, insert, state.memory))

    def forget(state: ReplayState, user: Array) -> ReplayState:
        return ReplayState(learner.forget(state.learner, user), memory.forget(state.memory, user))

    return Learner(init, update, consolidate, forget, lambda state: learner.params(state.learner))
