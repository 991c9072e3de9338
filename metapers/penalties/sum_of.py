"""Several penalties as one."""

import jax.numpy as jnp

from metapers import keys
from metapers.base import Array, Draw, Key, Params, Penalty, Task, Tree


def sum_of(*penalties: Penalty) -> Penalty:
    """The sum of penalties; the state is the tuple of their states. Raises ValueError for none at all.

    Each member draws its own random numbers: its key is folded with its place.

    >>> from metapers.penalties.none import none
    >>> sum_of(none(), none()).init(Params({}, {}, {}))
    ({}, {})
    """
    if not penalties:
        raise ValueError("penalties must hold >= 1 penalty, got 0")

    def init(params: Params) -> Tree:
        return tuple(penalty.init(params) for penalty in penalties)

    def value(state: Tree, params: Params) -> Array:
        return _sum([penalty.value(own, params) for penalty, own in zip(penalties, state)])

    def on_task(state: Tree, params: Params, adapted: Params, task: Task, key: Key) -> Array:
        members = enumerate(zip(penalties, state))
        return _sum([p.on_task(own, params, adapted, task, keys.named(key, "sum_of", i)) for i, (p, own) in members])

    def observe(state: Tree, before: Params, after: Params, grads: Params) -> Tree:
        return tuple(penalty.observe(own, before, after, grads) for penalty, own in zip(penalties, state))

    def consolidate(state: Tree, params: Params, draw: Draw, key: Key) -> Tree:
        members = enumerate(zip(penalties, state))
        return tuple(p.consolidate(own, params, draw, keys.named(key, "sum_of", i)) for i, (p, own) in members)

    return Penalty(init, value, on_task, observe, consolidate)


def _sum(values: list[Array]) -> Array:
    return sum(values, start=jnp.asarray(0.0))
