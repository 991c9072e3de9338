"""Many users' own adaptations on the host: what an inner loop leaves of each, from programs of one shape."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metapers import held_out
from metapers.base import Array, Batch, Cohort, InnerLoop, Model, Params, Tree, hide_rows
from metapers.inner.path import entry

USERS = 64
"""Users at each call of the program; a cohort of fewer is padded."""


class Adaptation(NamedTuple):
    """A compiled inner loop. It serves every number of shots, every version and every cohort."""

    program: Callable[..., tuple[Tree, Array]]
    """(params, start [seeds, users, ...], support) -> (personal [seeds, users, steps, ...], diverged [seeds, users,
    steps])."""
    steps: tuple[int, ...]  # the entries of the path that are kept
    width: int  # rows of a support, padding among them
    users: int  # at each call, those of padding among them
    mesh: Mesh | None  # users are sharded over its one axis

    def entries(
        self, params: Params, cohort: Cohort, counts: np.ndarray, members: np.ndarray, start: Tree | None = None
    ) -> tuple[Tree, np.ndarray]:
        """What adapting leaves of some users after each of ``steps``.

        Args:
          params: leaves [seeds, ...].
          cohort: of the users.
          counts: int [users of the cohort], rows of each user's support, at most ``width``.
          members: int [n], the places of the users in the cohort.
          start: personal parameters [seeds, users of the cohort, ...]; None: ``params.personal`` for all.

        Returns:
          Personal parameters, numpy [seeds, n, steps, ...]; diverged, bool [seeds, n, steps].
        """
        own = jax.tree.map(np.asarray, params.personal)
        params, pending = placed(self.mesh, params, PartitionSpec()), []
        size = -(-self.users // devices(self.mesh)) * devices(self.mesh)
        for first in range(0, len(members), size):
            some = members[first : first + size]
            mine = np.pad(some, (0, size - some.size), mode="edge")  # of one size, so compiled once
            support = held_out.batch(cohort, mine, np.zeros_like(counts), counts, self.width)
            tasks = placed(self.mesh, support, by_user(self.mesh, 0))
            begun = placed(self.mesh, _begun(own, start, mine), by_user(self.mesh, 1))
            pending.append((some.size, self.program(params, begun, tasks)))
        kept = [jax.tree.map(lambda leaf, n=count: leaf[:, :n], jax.device_get(done)) for count, done in pending]
        return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *kept)

    def after(self, params: Params, cohort: Cohort, *, shots: int, steps: int, start: Tree | None = None) -> Tree:
        """Personal parameters of every user, as the bank stores them: numpy [seeds, users, ...].

        A user's support is the first ``shots`` examples, or as many of them as an evaluation would take of a user who
        has few (``held_out.query_starts``). A user whose adaptation ran away keeps the start (``inner.path.entry``).

        Args:
          params: leaves [seeds, ...].
          cohort: of the users.
          shots: examples to adapt on, at most ``width``.
          steps: one of ``self.steps``.
          start: personal parameters [seeds, users, ...]; None: ``params.personal`` for all.
        """
        sizes = np.diff(cohort.offsets)
        counts, members = held_out.query_starts(sizes, shots), np.arange(sizes.size)
        personal, _ = self.entries(params, cohort, counts, members, of_users(start, params, cohort))
        place = self.steps.index(steps)
        return jax.tree.map(lambda leaf: leaf[:, :, place], personal)


def adaptation(
    model: Model,
    inner_loop: InnerLoop,
    *,
    steps: tuple[int, ...],
    width: int,
    users: int = USERS,
    block: int = 0,
    mesh: Mesh | None = None,
) -> Adaptation:
    """Compiles an inner loop for many users; ``Adaptation`` says how to call the result.

    Args:
      model: whose users adapt.
      inner_loop: how they adapt.
      steps: the entries of the path to keep, each >= 0; 0 is the start.
      width: rows of a support, >= 1.
      users: so many at each call of the program, >= 1; a mesh takes the next multiple of its devices.
      block: so many of them at a time in one compiled loop (``each``); 0: all.
      mesh: users are sharded over its one axis; None: one device.

    Raises:
      ValueError: a number out of bounds; when called, steps beyond the inner loop's path.
    """
    check("steps", steps, 0)
    check("width", (width,), 1)
    check("users", (users,), 1)

    def of_user(params: Params, start: Tree, support: Batch) -> tuple[Tree, Array]:
        begun = params._replace(personal=start)
        seen = hide_rows(support, support.mask)
        _, path = inner_loop.adapt(begun, seen, None)
        return jax.lax.map(lambda step: entry(model, begun, seen, path, step), jnp.asarray(_within(path, steps)))

    run = jax.jit(jax.vmap(each(of_user, block=block, mesh=mesh), in_axes=(0, 0, None)))
    return Adaptation(run, steps, width, users, mesh)


def each(of_user: Callable[..., Tree], *, block: int = 0, mesh: Mesh | None = None) -> Callable[..., Tree]:
    """``of_user(params, *own)`` for many: called as (params, *own [users, ...]) -> [users, ...].

    Users are independent, so they may be vectorised together (``block`` 0), or ``block`` at a time in one compiled
    loop: where what all of them hold at once outgrows a core's cache, a few are faster. ``mesh``: users are split over
    its one axis, and each device takes ``block`` of its own at a time. Only rounding depends on either.

    >>> each(lambda scale, x: scale * x, block=2)(10.0, jnp.arange(5.0)).tolist()
    [0.0, 10.0, 20.0, 30.0, 40.0]

    Raises:
      ValueError: block < 0; when called, a number of users that the size of the mesh does not divide.
    """
    check("block", (block,), 0)

    def local(params: Tree, *own: Tree) -> Tree:
        if not block:
            return jax.vmap(of_user, (None, *(0 for _ in own)))(params, *own)
        return jax.lax.map(lambda mine: of_user(params, *mine), own, batch_size=block)

    if mesh is None:
        return local
    axis = mesh.axis_names[0]
    alike, users = PartitionSpec(), PartitionSpec(axis)

    def here(params: Tree, *own: Tree) -> Tree:
        # A user's gradient with respect to what all devices hold alike would be summed over them.
        return local(jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis, to="varying"), params), *own)

    def spread(params: Tree, *own: Tree) -> Tree:
        split = jax.shard_map(here, mesh=mesh, in_specs=(alike, *(users for _ in own)), out_specs=users)
        return split(params, *own)

    return spread


def of_users(start: Tree | None, params: Params, cohort: Cohort) -> Tree | None:
    """``start`` as numpy; ValueError unless its leaves are [seeds, users, ...]."""
    if start is None:
        return None
    shape = (jax.tree.leaves(params)[0].shape[0], len(cohort.users))
    for leaf in jax.tree.leaves(start):
        if leaf.shape[:2] != shape:
            raise ValueError(f"start must have leading axes [seeds, users] = {shape}, got {leaf.shape[:2]}")
    return jax.tree.map(np.asarray, start)


def devices(mesh: Mesh | None) -> int:
    """How many devices share the users."""
    return 1 if mesh is None else mesh.size


def by_user(mesh: Mesh | None, axis: int) -> PartitionSpec:
    """Leaves whose ``axis`` is that of users, split over the mesh."""
    return PartitionSpec() if mesh is None else PartitionSpec(*(None,) * axis, mesh.axis_names[0])


def placed(mesh: Mesh | None, tree: Tree, spec: PartitionSpec) -> Tree:
    """A tree on the devices of the mesh."""
    return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, spec))


def check(name: str, values: tuple[int, ...], least: int) -> None:
    """ValueError unless there is a value and all are at least ``least``."""
    if not values or min(values) < least:
        raise ValueError(f"{name} must be >= {least}, got {min(values) if values else 'none'}")


def _begun(own: Tree, start: Tree | None, members: np.ndarray) -> Tree:
    """Where each of the members begins: leaves [seeds, members, ...]."""
    if start is not None:
        return jax.tree.map(lambda leaf: leaf[:, members], start)
    return jax.tree.map(
        lambda leaf: np.broadcast_to(leaf[:, None], (leaf.shape[0], members.size, *leaf.shape[1:])),
        own,
    )


def _within(path: Tree, steps: tuple[int, ...]) -> tuple[int, ...]:
    longest = min((leaf.shape[0] for leaf in jax.tree.leaves(path)), default=1) - 1
    if max(steps) > longest:
        raise ValueError(f"steps must be <= {longest}, the length of the inner loop's path, got {max(steps)}")
    return steps
