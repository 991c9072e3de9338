"""A penalty whose strengths are values in its state, so that another strength runs the same compiled program."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metapers.base import Array, Draw, Key, Params, Penalty, Task, Tree


class CarriedState(NamedTuple):
    """``values``: the options that are carried, scalars by name; ``state``: the penalty's own state."""

    values: dict[str, Array]
    state: Tree


def carried(make: Callable[..., Penalty], values: Mapping[str, float]) -> Penalty:
    """``make(**values)`` with ``values`` read from the state.

    Args:
      make: options by name -> penalty; it accepts numbers and scalar arrays.
      values: the options to carry, by name.

    Returns:
      A penalty that computes the same. Its state is a ``CarriedState``.

    Raises:
      ValueError: for what ``make`` refuses.

    >>> from metapers.penalties.anchor import anchor
    >>> carried(anchor, {"strength": 2.0}).init(Params({"w": jnp.array(1.0)}, {}, {})).values["strength"].tolist()
    2.0
    """
    first = make(**values)  # refuses bad values here, where they are plain numbers

    def own(state: CarriedState) -> Penalty:
        return make(**state.values)

    def init(params: Params) -> CarriedState:
        dtype = jnp.result_type(*jax.tree.leaves(params), float)
        return CarriedState({name: jnp.asarray(value, dtype) for name, value in values.items()}, first.init(params))

    def value(state: CarriedState, params: Params) -> Array:
        return own(state).value(state.state, params)

    def on_task(state: CarriedState, params: Params, adapted: Params, task: Task, key: Key) -> Array:
        return own(state).on_task(state.state, params, adapted, task, key)

    def observe(state: CarriedState, before: Params, after: Params, grads: Params) -> CarriedState:
        return state._replace(state=own(state).observe(state.state, before, after, grads))

    def consolidate(state: CarriedState, params: Params, draw: Draw, key: Key) -> CarriedState:
        return state._replace(state=own(state).consolidate(state.state, params, draw, key))

    return Penalty(init, value, on_task, observe, consolidate)
