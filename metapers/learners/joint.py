"""Joint training: one model for all users, no adaptation; what fine-tuning starts from."""

import optax

from metapers import base, keys
from metapers.base import Aggregator, Array, Key, Learner, LossFn, Params, Penalty, Task
from metapers.learners.descent import descent, joined
from metapers.members import Member


def joint(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    aggregator: Aggregator,
    penalty: Penalty | None = None,
) -> Learner:
    """Descend mean_u loss(params, support_u and query_u in one batch): the start is trained as it stands.

    A user weighs the same whatever the number of examples. State: ``DescentState``.
    """

    def user_loss(params: Params, task: Task, step: Array, key: Key) -> tuple[Array, Array, Params]:
        batch = joined(task)
        loss = base.masked_mean(loss_fn(params, batch, keys.named(key, "query")), batch.mask)
        return loss, loss, params

    return descent(user_loss, optimizer, aggregator=aggregator, penalty=penalty)


JOINT = Member(
    joint,
    needs=("loss_fn", "optimizer", "aggregator", "penalty"),
    traits=("no_inner_loop",),
    doc="one model for all users, no inner loop in training",
)
