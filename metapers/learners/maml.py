"""MAML: move the start so that a few inner steps from it serve a user well."""

import optax

from metapers import base, keys
from metapers.base import Aggregator, Array, InnerLoop, Key, Learner, LossFn, Params, Penalty, Task
from metapers.learners.descent import descent


def maml(
    loss_fn: LossFn,
    inner_loop: InnerLoop,
    optimizer: optax.GradientTransformation,
    *,
    aggregator: Aggregator,
    penalty: Penalty | None = None,
) -> Learner:
    """Descend the query loss after adaptation, L(params) = mean_u loss(adapt(params, support_u), query_u).

    The gradient reaches shared, personal and inner parameters through the inner steps; whether to second order
    is the inner loop's choice. State: ``DescentState``. Finn et al. 2017 (arXiv:1703.03400, algorithm 1); with
    learned rates, Li et al. 2017 (arXiv:1707.09835).
    """

    def user_loss(params: Params, task: Task, key: Key) -> tuple[Array, Array, Params]:
        adapted, _ = inner_loop.adapt(params, task.support, keys.named(key, "adapt"))
        losses = loss_fn(adapted, task.query, keys.named(key, "query"))
        loss = base.masked_mean(losses, task.query.mask)
        return loss, loss, adapted

    return descent(user_loss, optimizer, aggregator=aggregator, penalty=penalty, inner=inner_loop.init)
