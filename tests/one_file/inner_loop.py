"""Normalised gradient steps: every inner step of a user is equally long."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metapers import trees
from metapers.base import InnerLoop, LossFn
from metapers.inner import optimized
from metapers.inner.support_loss import Write
from metapers.members import Member, register
from metapers.options import Option


def unit_length() -> optax.GradientTransformation:
    """The gradient divided by its norm over all parameters; a gradient of zeros stays zero, as does its derivative."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        square = trees.squared_norm(updates)
        norm = jnp.sqrt(jnp.where(square > 0, square, jnp.ones_like(square)))  # no root at 0: it has no derivative
        return jax.tree.map(lambda leaf: leaf / norm.astype(leaf.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def normalised(loss_fn: LossFn, write: Write, *, steps: int, rate: float, first_order: bool = False) -> InnerLoop:
    """``steps`` times personal <- personal - rate * gradient / norm(gradient), of the mean loss on the support.

    Args:
      loss_fn: (params, batch, key) -> losses [n].
      write: where the steps of a user begin.
      steps: inner steps, >= 0.
      rate: the length of a step, > 0.
      first_order: gradients of inner steps count as constants in the outer derivative.
    """
    moves = optax.chain(unit_length(), optax.sgd(rate))
    return optimized(loss_fn, steps, moves, first_order=first_order, write=write)


register(
    "inner_loop",
    "normalised",
    Member(
        normalised,
        options={
            "steps": Option(5, least=1, doc="inner steps in training"),
            "rate": Option(0.1, above=0.0, doc="length of an inner step"),
            "first_order": Option(False, doc="gradients of inner steps count as constants"),
        },
        needs=("loss_fn", "write"),
        example={"steps": 2, "rate": 0.05},
        variants=({"first_order": True},),
        traits=("path",),  # an entry after each step, which learners with a loss at each step need
        doc="gradient steps of equal length",
    ),
)
