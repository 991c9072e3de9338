"""Rehearsal: tasks of earlier periods beside the new ones, whatever the learner."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metapers import keys
from metapers.base import Array, Compose, Draw, Key, Learner, Memory, Params, Scores, Sources, Task, Tree


class ReplayState(NamedTuple):
    """The wrapped learner's state and the memory's."""

    learner: Tree
    memory: Tree


def replay(
    learner: Learner,
    memory: Memory,
    n: int,
    *,
    draws: int,
    insertion: str = "boundary",
    compose: Compose | None = None,
) -> Learner:
    """``learner`` on the new tasks, the source ``fresh``, and on ``n`` more of ``memory``, the source ``memory``.

    A learner numbers the tasks by user over both (``sources.joined``), so that no two tasks of a user share a key. The
    scores of remembered tasks go back to the memory (``touch``). Info: the learner's, and ``replayed``, how many tasks
    the memory gave. Chaudhry et al. 2019 (arXiv:1902.10486).

    Args:
      learner: the outer loop.
      memory: what keeps tasks.
      n: remembered tasks of a step, >= 0.
      draws: batches that are offered to the memory at a boundary, >= 1.
      insertion: ``boundary``: ``consolidate`` first consolidates the learner, then offers ``draws`` batches since the
        last boundary, which are not rehearsed before. ``step``: each step offers its new tasks with their scores; a
        batch that is repeated is offered once.
      compose: what is support and what is query; None: sources stay as they are.

    Raises:
      ValueError: if ``n`` is below 0, ``draws`` below 1 or ``insertion`` another word.
    """
    _check(n, draws, insertion)

    def init(params: Params, tasks: Task) -> ReplayState:
        spec = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), jax.eval_shape(keys.numbered, tasks))
        return ReplayState(learner.init(params, tasks), memory.init(spec))

    def update(state: ReplayState, sources: Sources, key: Key) -> tuple[ReplayState, Scores, dict]:
        fresh, mask = sources["fresh"]
        fresh, slots, live = keys.numbered(fresh), None, jnp.zeros(0, bool)
        given = {**sources, "fresh": (fresh, mask)}
        if n:
            old, slots, live = memory.sample(state.memory, n, keys.named(key, "replay"))
            old = old._replace(user=jnp.where(live, old.user, -1))  # an empty slot belongs to no user
            given["memory"] = (old, live)
        inner, scores, info = learner.update(state.learner, given if compose is None else compose(given), key)
        kept = state.memory if slots is None else memory.touch(state.memory, slots, scores.get("memory", {}))
        if insertion == "step":
            first = mask & (fresh.notes["glance"] == 0) if "glance" in fresh.notes else mask
            kept = memory.insert(kept, fresh, fresh.user, scores.get("fresh", {}), first, keys.named(key, "insert"))
        return ReplayState(inner, kept), scores, {**info, "replayed": jnp.sum(live, dtype=jnp.int32)}

    def consolidate(state: ReplayState, draw: Draw, key: Key) -> ReplayState:
        inner = learner.consolidate(state.learner, draw, keys.named(key, "learner"))
        if insertion == "step":
            return state._replace(learner=inner)

        def insert(i: Array, kept: Tree) -> Tree:
            tasks, mask = draw(i)
            return memory.insert(kept, keys.numbered(tasks), tasks.user, {}, mask, keys.named(key, "insert", i))

        return ReplayState(inner, jax.lax.fori_loop(0, draws, insert, state.memory))

    def forget(state: ReplayState, user: Array) -> ReplayState:
        return ReplayState(learner.forget(state.learner, user), memory.forget(state.memory, user))

    influence = tuple(dict.fromkeys(learner.influence + memory.influence))
    return Learner(init, update, consolidate, forget, lambda state: learner.params(state.learner), influence)


def _check(n: int, draws: int, insertion: str) -> None:
    if n < 0:
        raise ValueError(f"n must be >= 0, got {n}")
    if draws < 1:
        raise ValueError(f"draws must be >= 1, got {draws}")
    if insertion not in ("boundary", "step"):
        raise ValueError(f"insertion must be 'boundary' or 'step', got {insertion!r}")
