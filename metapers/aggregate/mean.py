"""The mean over users: one backward pass over all of them together."""

import jax
import jax.numpy as jnp

from metapers import base
from metapers.aggregate.sums import by_user, divide, users_in
from metapers.base import Aggregator, Array, Key, Params, Task, TaskLoss, Tree
from metapers.members import Member


def mean() -> Aggregator:
    """The gradient of the mean of the users' losses, g = (1 / n) sum_u grad loss_u over the n users in the mask.

    One ``value_and_grad`` of the sum: no gradient of a single user is ever held. Sums: ``grads`` (Params) and
    ``count`` (scalar). No state.
    """

    def init(params: Params) -> Tree:
        return {}

    def total(
        state: Tree, task_loss: TaskLoss, params: Params, tasks: Task, mask: Array, key: Key
    ) -> tuple[Tree, tuple[Array, Tree]]:
        one = by_user(task_loss, key)

        def summed(params: Params) -> tuple[Array, tuple[Array, Tree]]:
            losses, aux = jax.vmap(one, in_axes=(None, 0))(params, tasks)
            losses = base.hide(losses, mask)
            return jnp.sum(losses), (losses, base.hide(aux, mask))

        grads, (losses, aux) = jax.grad(summed, has_aux=True)(params)
        return {"grads": grads, "count": users_in(mask, losses)}, (losses, aux)

    def finish(state: Tree, sums: Tree, key: Key, *, expected: int) -> tuple[Tree, Params, dict]:
        return state, divide(sums["grads"], sums["count"]), {}

    return Aggregator(init, total, finish)


MEAN = Member(mean, doc="the mean over users")
