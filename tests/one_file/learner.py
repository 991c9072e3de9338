"""Straight-through MAML: the derivative of a user's adaptation is taken to be the identity."""

import jax
import jax.numpy as jnp
import optax

from metapers import base, keys
from metapers.base import Aggregator, Array, InnerLoop, Key, Learner, LossFn, Params, Penalty, Task
from metapers.learners.descent import descent
from metapers.members import Member, register
from metapers.options import Option


def straight_through(
    loss_fn: LossFn,
    inner_loop: InnerLoop,
    optimizer: optax.GradientTransformation,
    *,
    aggregator: Aggregator,
    penalty: Penalty | None = None,
    start_weight: float = 0.0,
) -> Learner:
    """The gradient of the query loss at the adapted parameters, applied to the start as it is.

    Inner steps are never differentiated, so any inner loop will do, and parameters of the inner loop get no gradient.

    Args:
      start_weight: weight of the query loss before adaptation, so that the start serves as it stands too.
    """

    def user_loss(params: Params, task: Task, step: Array, key: Key) -> tuple[Array, Array, Params]:
        still = jax.lax.stop_gradient(params)
        end = inner_loop.adapt(still, task.support, keys.named(key, "adapt"))[0].personal
        # start - still is zero, with the derivative of the start
        personal = jax.tree.map(lambda x, start, same: x + (start - same), end, params.personal, still.personal)
        adapted = params._replace(personal=personal)

        def loss(one: Params) -> Array:
            return base.masked_mean(loss_fn(one, task.query, keys.named(key, "query")), task.query.mask)

        after = loss(adapted)
        before = loss(params) if start_weight else jnp.zeros_like(after)
        return after + start_weight * before, after, adapted  # what is differentiated, what is logged, the parameters

    return descent(user_loss, optimizer, aggregator=aggregator, penalty=penalty, inner=inner_loop.init)


register(
    "learner",
    "straight_through",
    Member(
        straight_through,
        options={"start_weight": Option(0.0, least=0.0, doc="weight of the query loss before adaptation")},
        needs=("loss_fn", "inner_loop", "optimizer", "aggregator", "penalty"),
        paper="first-order MAML, Finn, Abbeel, Levine 2017, arXiv:1703.03400, section 5.2",
        variants=({"start_weight": 0.5},),
        traits=("undifferentiated",),
        doc="the query gradient after adaptation, applied to the start as it is",
        conflicts={
            "closed_form_loop": "features learn through the solution, and this learner does not differentiate it"
        },
    ),
)
