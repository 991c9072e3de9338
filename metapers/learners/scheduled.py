"""Rates that change with the outer step, however many times the optimizer was called in it."""

import jax
import jax.numpy as jnp
import optax

from metapers.base import Array, Tree


def scheduled(share: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """updates <- share(t) · updates with t the outer step, int32 [], which ``descent`` tells its optimizer.

    ``optax.scale_by_schedule`` counts calls instead. The two agree where an outer step is one call; under ``serial``
    it is one call for each user that is there, in number not even the same in every step. Last in an
    ``optax.chain``, as the optimizer of a learner; it carries no state.

    >>> updates, _ = scheduled(lambda t: 1 / (1 + t)).update(jnp.array(6.0), optax.EmptyState(), step=jnp.array(2))
    >>> float(updates)
    2.0

    Raises:
      ValueError: from ``update``, without a step.
    """

    def init(params: Tree) -> Tree:
        return optax.EmptyState()

    def update(
        updates: Tree, state: Tree, params: Tree = None, *, step: Array | None = None, **others: Tree
    ) -> tuple[Tree, Tree]:
        if step is None:
            raise ValueError("step must be given to update, the outer step, got None")
        now = share(step)
        return jax.tree.map(lambda x: jnp.asarray(now, x.dtype) * x, updates), state

    return optax.GradientTransformationExtraArgs(init, update)
