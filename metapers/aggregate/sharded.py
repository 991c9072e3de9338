"""Users split over the devices of a mesh: each device sums its own, only the sums travel."""

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from metapers.aggregate.sums import pad
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
        tasks, mask = pad(tasks, mask, mesh.shape[axis])

        def local(state: Tree, params: Params, tasks: Task, mask: Array, key: Key) -> tuple[Tree, tuple[Array, Tree]]:
            # A gradient with respect to replicated params is summed over devices on its own, and the psum below
            # would double it; with respect to params that vary by device it stays local.
            params = jax.tree.map(lambda x: jax.lax.pcast(x, axis, to="varying"), params)
            sums, out = aggregator.total(state, task_loss, params, tasks, mask, key)
            return jax.lax.psum(sums, axis), out

        spread = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(), P(axis), P(axis), P()), out_specs=(P(), P(axis)))
        sums, out = spread(state, params, tasks, mask, key)
        return sums, jax.tree.map(lambda x: x[:users], out)

    return Aggregator(aggregator.init, total, aggregator.finish)
