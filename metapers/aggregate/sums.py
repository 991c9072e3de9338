"""What aggregators share: one user's key, the division by the number of users, padding to whole blocks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metapers import keys
from metapers.base import Array, Key, Params, Task, TaskLoss, Tree


def by_user(task_loss: TaskLoss, key: Key) -> Callable[[Params, Task], tuple[Array, Tree]]:
    """``task_loss`` (params, task) -> (scalar, aux) under the user's own key, ``keys.of_task(key, task)``."""

    def one(params: Params, task: Task) -> tuple[Array, Tree]:
        return task_loss(params, task, keys.of_task(key, task))

    return one


def in_order(users: Array) -> tuple[Array, Array]:
    """(order, back) int [n] each: places of ``users`` int [n] in ascending order, equal ones as they stand, and back.

    >>> [places.tolist() for places in in_order(jnp.array([7, 3, 7]))]
    [[1, 0, 2], [1, 0, 2]]
    """
    order = jnp.argsort(users, stable=True)
    return order, jnp.argsort(order)


def divide(total: Tree, count: Array) -> Tree:
    """Leaf-wise total / max(count, 1): a mean over users, 0 where no user is left."""
    return jax.tree.map(lambda x: x / jnp.maximum(count, 1).astype(x.dtype), total)


def users_in(mask: Array, like: Array) -> Array:
    """Number of users in ``mask`` [n], as a scalar of the dtype of ``like``."""
    return jnp.sum(mask, dtype=like.dtype)


def pad(tasks: Task, mask: Array, multiple: int) -> tuple[Task, Array]:
    """Tasks and mask [n] filled up to a multiple of ``multiple`` with masked copies of the last user.

    Copies, not zeros: what is computed for them is thrown away, but should be as finite as the rest.
    """
    short = -mask.shape[0] % multiple
    if not short:
        return tasks, mask

    def one(leaf: Array) -> Array:
        return jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (short, *leaf.shape[1:]))])

    return jax.tree.map(one, tasks), jnp.concatenate([mask, jnp.zeros((short,), mask.dtype)])
