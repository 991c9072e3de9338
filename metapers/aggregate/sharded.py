"""Users split over the devices of a mesh: each device sums its own, only the sums travel."""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from metapers.aggregate.sums import in_order, pad
from metapers.base import Aggregator, Array, Key, Params, Task, TaskLoss, Tree


def sharded(aggregator: Aggregator, mesh: Mesh, axis: str = "users") -> Aggregator:
    """``aggregator`` run on each device's share of the users, its sums added over the mesh: same result, less time.

    Users are padded with masked ones to a multiple of the axis; losses and aux come back complete, sharded over
    ``axis``. The mesh must be made with ``axis_types=(AxisType.Auto,)``. ``task_loss`` may close over traced values.
    Put the learner's state on the whole mesh before the first step, where that step leaves it; else the second step
    compiles once more.

    Raises ValueError if ``axis`` is not an axis of ``mesh``.
    """
    if axis not in mesh.axis_names:
        raise ValueError(f"axis must be one of the mesh's axes {mesh.axis_names}, got {axis!r}")

    def total(
        state: Tree, task_loss: TaskLoss, params: Params, tasks: Task, mask: Array, key: Key
    ) -> tuple[Tree, tuple[Array, Tree]]:
        users = mask.shape[0]
        order, back = in_order(tasks.user) if aggregator.whole_users else (None, None)
        if order is not None:
            tasks, mask = jax.tree.map(lambda x: x[order], (tasks, mask))
        tasks, mask = pad(tasks, mask, mesh.shape[axis])

        def local(state: Tree, params: Params, tasks: Task, mask: Array, key: Key) -> tuple[Tree, tuple[Array, Tree]]:
            # A gradient with respect to replicated params is summed over devices on its own, and the psum below
            # would double it; with respect to params that vary by device it stays local.
            params = jax.tree.map(lambda x: jax.lax.pcast(x, axis, to="varying"), params)
            sums, out = aggregator.total(state, task_loss, params, tasks, mask, key)
            return (jax.lax.psum(sums, axis) if aggregator.merge is None else merged(sums)), out

        def merged(sums: Tree) -> Tree:
            place, parts = jax.lax.axis_index(axis), mesh.shape[axis]
            # a sum of one-hot rows, which is the same on all devices
            apart = jax.tree.map(lambda x: jnp.zeros((parts, *x.shape), x.dtype).at[place].set(x), sums)
            rows = jax.lax.psum(apart, axis)
            each = [jax.tree.map(lambda x, part=part: x[part], rows) for part in range(parts)]
            return functools.reduce(cast(Any, aggregator.merge), each)

        spread = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(), P(axis), P(axis), P()), out_specs=(P(), P(axis)))
        sums, out = spread(state, params, tasks, mask, key)
        out = jax.tree.map(lambda x: x[:users], out)
        return sums, out if back is None else jax.tree.map(lambda x: x[back], out)

    return aggregator._replace(total=total)
