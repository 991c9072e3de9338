"""MAML: move the start so that a few inner steps from it serve a user well."""

import jax.numpy as jnp
import optax

from metapers import base, keys
from metapers.base import Aggregator, Array, InnerLoop, Key, Learner, LossFn, Params, Penalty, Task, Update
from metapers.learners.descent import RMSE_EPSILON, descent
from metapers.members import Member


def maml(
    loss_fn: LossFn,
    inner_loop: InnerLoop,
    optimizer: optax.GradientTransformation,
    *,
    aggregator: Aggregator,
    penalty: Penalty | None = None,
    rule: Update | None = None,
    root: float | None = None,
) -> Learner:
    """Descend the query loss after adaptation, L(params) = mean_u loss(adapt(params, support_u), query_u).

    The gradient reaches shared, personal and inner parameters through the inner steps; whether to second order
    is the inner loop's choice. ``root``: a user's loss is sqrt(loss + root) instead, so that with squared errors the
    mean over users is that of their RMSE, the metric of ratings, and no user with large errors outweighs the rest;
    the loss told stays the plain one. State: ``DescentState``. Finn et al. 2017 (arXiv:1703.03400, algorithm 1); with
    learned rates, Li et al. 2017 (arXiv:1707.09835).

    Raises ValueError if ``root`` is not above 0.
    """
    if root is not None and not root > 0:
        raise ValueError(f"root must be > 0, got {root}")

    def user_loss(params: Params, task: Task, step: Array, key: Key) -> tuple[Array, Array, Params]:
        adapted, _ = inner_loop.adapt(params, task.support, keys.named(key, "adapt"))
        losses = loss_fn(adapted, task.query, keys.named(key, "query"))
        loss = base.masked_mean(losses, task.query.mask)
        return loss if root is None else jnp.sqrt(loss + root), loss, adapted

    return descent(user_loss, optimizer, aggregator=aggregator, penalty=penalty, rule=rule, inner=inner_loop.init)


def _member(
    loss_fn: LossFn,
    inner_loop: InnerLoop,
    optimizer: optax.GradientTransformation,
    aggregator: Aggregator,
    penalty: Penalty | None,
    rule: Update | None,
    rmse_epsilon: float | None,
) -> Learner:
    return maml(loss_fn, inner_loop, optimizer, aggregator=aggregator, penalty=penalty, rule=rule, root=rmse_epsilon)


MAML = Member(
    _member,
    options={"rmse_epsilon": RMSE_EPSILON},
    needs=("loss_fn", "inner_loop", "optimizer", "aggregator", "penalty", "rule"),
    paper="Finn, Abbeel, Levine 2017, arXiv:1703.03400",
    variants=({"rmse_epsilon": 0.1},),
    doc="descend the query loss after adaptation (MAML)",
)
