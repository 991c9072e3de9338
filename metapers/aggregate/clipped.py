"""The mean over users of gradients clipped one user at a time."""

import jax
import jax.numpy as jnp
import optax

from metapers import base
from metapers.aggregate.sums import by_user, divide, users_in
from metapers.base import Aggregator, Array, Key, Params, Task, TaskLoss, Tree
from metapers.members import Member
from metapers.options import Option


def clipped(norm: float) -> Aggregator:
    """The mean of g_u · min(1, norm / ‖g_u‖), ‖·‖ over all of a user's gradient, shared and personal together.

    No user moves the sum by more than ``norm``. It holds every user's gradient at once: wrap it in ``blocks`` to
    bound the memory. Sums: ``grads``, ``count``, ``clipped`` (how many users were cut); info: ``clipped``, their
    fraction. No state. Per-example clipping of Abadi et al. 2016 (arXiv:1607.00133, algorithm 1), by user.

    Raises ValueError if ``norm`` is not above 0.
    """
    if not norm > 0:
        raise ValueError(f"norm must be > 0, got {norm}")

    def init(params: Params) -> Tree:
        return {}

    def total(
        state: Tree, task_loss: TaskLoss, params: Params, tasks: Task, mask: Array, key: Key
    ) -> tuple[Tree, tuple[Array, Tree]]:
        one = by_user(task_loss, key)

        def user(task: Task) -> tuple[Params, Array, tuple[Array, Tree]]:
            (loss, aux), grads = jax.value_and_grad(one, has_aux=True)(params, task)
            length = optax.tree.norm(grads)
            # norm / max(length, norm) is 1 below the bound and has no division by zero
            factor = norm / jnp.maximum(length, norm)
            return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), length > norm, (loss, aux)

        grads, cut, (losses, aux) = base.hide(jax.vmap(user)(tasks), mask)
        sums = {
            "grads": jax.tree.map(lambda g: jnp.sum(g, axis=0), grads),
            "count": users_in(mask, losses),
            "clipped": jnp.sum(cut, dtype=losses.dtype),
        }
        return sums, (losses, aux)

    def finish(state: Tree, sums: Tree, key: Key) -> tuple[Tree, Params, dict]:
        count = sums["count"]
        return state, divide(sums["grads"], count), {"clipped": divide(sums["clipped"], count)}

    return Aggregator(init, total, finish)


CLIPPED = Member(
    clipped,
    options={"norm": Option(above=0.0, doc="bound on the norm of one task's gradient")},
    paper="Abadi et al. 2016, arXiv:1607.00133, by task",
    example={"norm": 0.5},
    doc="the mean over users of gradients clipped one task at a time",
)
