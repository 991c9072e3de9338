"""Users a few at a time: the memory of one block, the result of all."""

from functools import partial

import jax
import jax.numpy as jnp

from metapers import trees
from metapers.aggregate.sums import in_order, pad
from metapers.base import Aggregator, Array, Key, Params, Task, TaskLoss, Tree


def blocks(aggregator: Aggregator, size: int) -> Aggregator:
    """``aggregator`` run on ``size`` users after another in a scan, its sums added: less memory, same result.

    The users are padded with masked ones to a multiple of ``size``; losses and aux come back for the n given. Where the
    aggregator needs the tasks of a user together, they stand in order of users.

    Raises ValueError if ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"size must be >= 1, got {size}")

    def total(
        state: Tree, task_loss: TaskLoss, params: Params, tasks: Task, mask: Array, key: Key
    ) -> tuple[Tree, tuple[Array, Tree]]:
        users = mask.shape[0]
        if users <= size:
            return aggregator.total(state, task_loss, params, tasks, mask, key)
        order, back = in_order(tasks.user) if aggregator.whole_users else (None, None)
        if order is not None:
            tasks, mask = jax.tree.map(lambda x: x[order], (tasks, mask))
        tasks, mask = pad(tasks, mask, size)
        stacked = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), (tasks, mask))

        @partial(jax.jit, inline=True)  # traced once: for its shapes, then from the cache
        def one(block: tuple[Task, Array]) -> tuple[Tree, tuple[Array, Tree]]:
            return aggregator.total(state, task_loss, params, *block, key)

        def step(carry: Tree, block: tuple[Task, Array]) -> tuple[Tree, tuple[Array, Tree]]:
            sums, out = one(block)
            return trees.add(carry, sums) if aggregator.merge is None else aggregator.merge(carry, sums), out

        shapes, _ = jax.eval_shape(one, jax.tree.map(lambda x: x[0], stacked))
        # under shard_map a carry must start as "varying over devices" as the sums it meets: the mask is
        start = jax.tree.map(lambda s: jnp.where(mask[0], jnp.zeros(s.shape, s.dtype), 0), shapes)
        sums, out = jax.lax.scan(step, start, stacked)
        out = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:users], out)
        return sums, out if back is None else jax.tree.map(lambda x: x[back], out)

    return aggregator._replace(total=total)
