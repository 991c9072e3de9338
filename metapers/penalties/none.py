"""No penalty: the member that adds nothing, and the rest of a penalty that needs only some of its functions."""

import jax.numpy as jnp

from metapers.base import Array, Draw, Key, Params, Penalty, Task, Tree


def none() -> Penalty:
    """The penalty 0 with the empty state {}.

    >>> float(none().value({}, Params({}, {}, {})))
    0.0
    """

    def init(params: Params) -> Tree:
        return {}

    def value(state: Tree, params: Params) -> Array:
        return jnp.asarray(0.0)

    def on_task(state: Tree, params: Params, adapted: Params, task: Task, key: Key) -> Array:
        return jnp.asarray(0.0)

    def observe(state: Tree, before: Params, after: Params, grads: Params) -> Tree:
        return state

    def consolidate(state: Tree, params: Params, draw: Draw, key: Key) -> Tree:
        return state

    return Penalty(init, value, on_task, observe, consolidate)
