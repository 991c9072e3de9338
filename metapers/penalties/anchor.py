"""Anchor: stay near the parameters with which the last period ended."""

import math
from typing import NamedTuple

import jax.numpy as jnp

from metapers import trees
from metapers.base import Array, Draw, Key, Params, Penalty
from metapers.members import Member
from metapers.options import Option, is_carried
from metapers.penalties.none import none


class AnchorState(NamedTuple):
    """``anchor``: the parameters when the last period ended; ``active``: bool, False until one has ended."""

    anchor: Params
    active: Array


def anchor(strength: float) -> Penalty:
    """Ridge around the last period's end: strength / 2 * sum (theta - anchor)^2 over shared, personal and inner.

    0 before the first ``consolidate``, which moves the anchor to the parameters it is given. Raises ValueError for
    a ``strength`` that is negative or not finite. Source: the L2 baseline of Kirkpatrick et al., 2017
    (arXiv:1612.00796).

    >>> penalty = anchor(2.0)
    >>> state = penalty.init(Params({"w": jnp.array([1.0])}, {}, {}))
    >>> state = penalty.consolidate(state, Params({"w": jnp.array([1.0])}, {}, {}), None, None)
    >>> float(penalty.value(state, Params({"w": jnp.array([4.0])}, {}, {})))
    9.0
    """
    if not is_carried(strength) and not 0 <= strength < math.inf:
        raise ValueError(f"strength must be finite and >= 0, got {strength}")

    def init(params: Params) -> AnchorState:
        return AnchorState(trees.copy(params), jnp.zeros((), bool))

    def value(state: AnchorState, params: Params) -> Array:
        distance = trees.squared_norm(trees.subtract(params, state.anchor))
        return jnp.where(state.active, 0.5 * strength * distance, jnp.zeros_like(distance))

    def consolidate(state: AnchorState, params: Params, draw: Draw, key: Key) -> AnchorState:
        return AnchorState(trees.copy(params), jnp.ones_like(state.active))

    return none()._replace(init=init, value=value, consolidate=consolidate)


ANCHOR = Member(
    anchor,
    options={"strength": Option(above=0.0, traced=True, doc="weight of half the squared distance from the anchor")},
    paper="the L2 baseline of Kirkpatrick et al. 2017, arXiv:1612.00796",
    example={"strength": 2.0},
    doc="stay near the parameters at the end of the last period",
)
