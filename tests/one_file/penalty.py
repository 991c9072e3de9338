"""An L1 penalty: most parameters stay exactly where the last period left them, and a few move far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metapers import trees
from metapers.base import Array, Draw, Key, Params, Penalty
from metapers.members import Member, register
from metapers.options import Option
from metapers.penalties import none


class L1State(NamedTuple):
    """What the penalty carries from step to step."""

    anchor: Params  # the parameters at the end of the last period
    active: Array  # bool, whether a period has ended


def l1(strength: float | Array) -> Penalty:
    """strength * sum |theta - anchor| over all parameters; 0 until the first period has ended.

    Args:
      strength: a number > 0, or a scalar array: the option is traced, so the state carries it.
    """

    def init(params: Params) -> L1State:
        return L1State(trees.copy(params), jnp.zeros((), bool))  # a copy: the buffers of params may be donated

    def value(state: L1State, params: Params) -> Array:
        moved = jax.tree.leaves(trees.subtract(params, state.anchor))
        # x sign(x) is |x| with slope 0 at 0, where jnp.abs has slope 1 and would push every parameter off the anchor
        distance = sum((jnp.sum(leaf * jnp.sign(leaf)) for leaf in moved), start=jnp.asarray(0.0))
        return jnp.where(state.active, strength * distance, jnp.zeros_like(distance))

    def consolidate(state: L1State, params: Params, draw: Draw, key: Key) -> L1State:
        return L1State(trees.copy(params), jnp.ones_like(state.active))

    return none()._replace(init=init, value=value, consolidate=consolidate)


register(
    "penalty",
    "l1",
    Member(
        l1,
        options={"strength": Option(above=0.0, traced=True, doc="weight of the absolute distance from the anchor")},
        paper="the L1 penalty of the lasso, Tibshirani 1996, around the last parameters",
        example={"strength": 0.1},
        doc="most parameters stay where the last period ended, a few move far",
    ),
)
