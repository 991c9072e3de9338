"""Each user's gradient clipped: no user moves the sum by more than a bound."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from metapers import base, trees
from metapers.aggregate.sums import by_user, divide, in_order
from metapers.base import Aggregator, Array, Key, Params, Task, TaskLoss, Tree
from metapers.members import Member
from metapers.options import Option


def clipped(norm: float) -> Aggregator:
    """The sum of g_u · min(1, norm / ‖g_u‖) over users, divided by the batch size.

    g_u is the sum of the gradients of all tasks of user u in the batch, fresh and replayed, shared and personal
    parameters together. So one user more or less moves the sum by at most ``norm``, for any number of the user's tasks.
    The divisor is constant. A task without a user (``user`` < 0) counts as a user of its own.

    It holds the gradient of every task at once: wrap it in ``blocks`` to bound the memory. A user whose tasks lie in
    several blocks, or on several devices, is still clipped as one: sums hold the ``ends``, the first and the last user
    of a part, unclipped until the next part is known (``merge``). Info: ``clipped``, the fraction of users that were
    cut. No state. Under ``learners.serial`` the bound holds for each of a step's moves, not for the step. Per-example
    clipping of Abadi et al. 2016 (arXiv:1607.00133, algorithm 1), by user.

    Args:
      norm: bound on the norm of one user's gradient, > 0.

    Raises:
      ValueError: if ``norm`` is not above 0.
    """
    if not norm > 0:
        raise ValueError(f"norm must be > 0, got {norm}")

    def init(params: Params) -> Tree:
        return {}

    def total(
        state: Tree, task_loss: TaskLoss, params: Params, tasks: Task, mask: Array, key: Key
    ) -> tuple[Tree, tuple[Array, Tree]]:
        one, order, back = by_user(task_loss, key), *in_order(tasks.user)
        tasks, mask = jax.tree.map(lambda leaf: leaf[order], (tasks, mask))

        def task(task: Task) -> tuple[Params, tuple[Array, Tree]]:
            (loss, aux), grads = jax.value_and_grad(one, has_aux=True)(params, task)
            return grads, (loss, aux)

        grads, (losses, aux) = base.hide(jax.vmap(task)(tasks), mask)
        sums = _closed(norm, tasks.user, grads, mask.astype(losses.dtype))
        return sums, jax.tree.map(lambda leaf: leaf[back], (losses, aux))

    def finish(state: Tree, sums: Tree, key: Key, *, expected: int) -> tuple[Tree, Params, dict]:
        ends = sums["ends"]
        each, cut = _cut(norm, ends["grads"])
        grads = trees.add(sums["grads"], jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), each))
        there = jnp.sum(jnp.minimum(ends["tasks"], 1))
        share = divide(sums["clipped"] + jnp.sum(cut.astype(there.dtype)), sums["users"] + there)
        return state, jax.tree.map(lambda leaf: leaf / expected, grads), {"clipped": share}

    return Aggregator(init, total, finish, lambda: norm, True, partial(_merged, norm))


def _cut(norm: float, grads: Params) -> tuple[Params, Array]:
    """Gradients [n, ...] at a norm of at most ``norm`` each, and which were longer, bool [n]."""
    lengths = jax.vmap(optax.tree.norm)(grads)
    factor = norm / jnp.maximum(lengths, norm)  # 1 below the bound, without a division by zero

    def one(leaf: Array) -> Array:
        return leaf * jnp.reshape(factor, (-1,) + (1,) * (leaf.ndim - 1)).astype(leaf.dtype)

    return jax.tree.map(one, grads), lengths > norm


def _closed(norm: float, users: Array, grads: Params, tasks: Array) -> Tree:
    """The sums of rows in order of users: all users but the first and the last one are complete, and clipped.

    ``users`` int [n]; ``grads`` [n, ...], zeros where nothing is there; ``tasks`` float [n], how many tasks a row is.
    """
    begins = jnp.concatenate([jnp.ones(1, bool), (users[1:] != users[:-1]) | (users[1:] < 0)])
    of = jnp.cumsum(begins) - 1
    count = users.shape[0]
    summed, held = jax.tree.map(lambda leaf: jax.ops.segment_sum(leaf, of, count, True), (grads, tasks))
    inside = (jnp.arange(count) > 0) & (jnp.arange(count) < of[-1])
    each, cut = _cut(norm, base.hide(summed, inside))
    pair = jnp.stack([jnp.zeros_like(of[-1]), of[-1]])
    there = jnp.stack([jnp.array(True), of[-1] > 0])  # a part of one user has it as its first, and no last
    ends, held_at = base.hide(jax.tree.map(lambda leaf: leaf[pair], (summed, held)), there)
    return {
        "grads": jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), each),
        "users": jnp.sum(jnp.where(inside, jnp.minimum(held, 1), 0)),
        "clipped": jnp.sum(cut, dtype=tasks.dtype),
        "tasks": jnp.sum(tasks),
        "ends": {"users": jnp.stack([users[0], users[-1]]), "grads": ends, "tasks": held_at},
    }


def _merged(norm: float, first: Tree, then: Tree) -> Tree:
    """The sums of two parts, of which ``then`` follows in order of users; a part without a task is left out."""
    rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first["ends"], then["ends"])
    found = _closed(norm, rows["users"], rows["grads"], rows["tasks"])
    for name in ("grads", "users", "clipped", "tasks"):
        more = jax.tree.map(jnp.zeros_like, found[name]) if name == "tasks" else found[name]
        found[name] = trees.add(trees.add(first[name], then[name]), more)
    found = trees.select(first["tasks"] > 0, found, then)
    return trees.select(then["tasks"] > 0, found, first)


CLIPPED = Member(
    clipped,
    options={"norm": Option(above=0.0, doc="bound on the norm of one user's gradient")},
    paper="Abadi et al. 2016, arXiv:1607.00133, by user",
    example={"norm": 0.5},
    doc="gradients clipped by user: all of a user's tasks together, fresh and replayed",
)
