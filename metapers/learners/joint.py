"""Joint training: one model for all users, no adaptation; what fine-tuning starts from."""

import jax.numpy as jnp
import optax

from metapers import base, keys
from metapers.base import Aggregator, Array, Key, Learner, LossFn, Params, Penalty, Task, Update
from metapers.learners.descent import RMSE_EPSILON, descent, joined
from metapers.members import Member


def joint(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    aggregator: Aggregator,
    penalty: Penalty | None = None,
    rule: Update | None = None,
    root: float | None = None,
) -> Learner:
    """Descend mean_u loss(params, support_u and query_u in one batch): the start is trained as it stands.

    A user weighs the same whatever the number of examples. ``root``: a user's loss is sqrt(loss + root) instead, as in
    ``maml``, so that both descend the same loss. State: ``DescentState``.

    Raises ValueError if ``root`` is not above 0.
    """
    if root is not None and not root > 0:
        raise ValueError(f"root must be > 0, got {root}")

    def user_loss(params: Params, task: Task, step: Array, key: Key) -> tuple[Array, Array, Params]:
        batch = joined(task)
        loss = base.masked_mean(loss_fn(params, batch, keys.named(key, "query")), batch.mask)
        return loss if root is None else jnp.sqrt(loss + root), loss, params

    return descent(user_loss, optimizer, aggregator=aggregator, penalty=penalty, rule=rule)


def _member(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    aggregator: Aggregator,
    penalty: Penalty | None,
    rule: Update | None,
    rmse_epsilon: float | None,
) -> Learner:
    return joint(loss_fn, optimizer, aggregator=aggregator, penalty=penalty, rule=rule, root=rmse_epsilon)


JOINT = Member(
    _member,
    options={"rmse_epsilon": RMSE_EPSILON},
    needs=("loss_fn", "optimizer", "aggregator", "penalty", "rule"),
    traits=("no_inner_loop",),
    doc="one model for all users, no inner loop in training",
)
