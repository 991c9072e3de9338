"""Which devices a run uses, and where its arrays lie on them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from metapers.base import Tree
from metapers.options import ConfigError

Device = Any  # a jax.Device, which type checkers take for a variable


def devices(count: int | None) -> tuple[Device, ...]:
    """The first ``count`` devices, or all for None.

    Raises:
      ConfigError: if there are fewer.
    """
    there = jax.devices()
    if count is not None and count > len(there):
        raise ConfigError("devices", count, f"<= {len(there)}, the number there are")
    return tuple(there[:count])


def training_mesh(seeds: int, there: tuple[Device, ...]) -> Mesh | None:
    """The mesh of a training step: devices share the seeds where they divide evenly, else the users of a step."""
    if len(there) < 2:
        return None
    return _mesh(there, "seeds" if seeds % len(there) == 0 else "users")


def users_mesh(there: tuple[Device, ...]) -> Mesh | None:
    """The mesh of an evaluation: devices share the users, whatever training shares."""
    return _mesh(there, "users") if len(there) > 1 else None


def _mesh(there: tuple[Device, ...], axis: str) -> Mesh:
    return Mesh(np.array(there), (axis,), axis_types=(AxisType.Auto,))


def place(tree: Tree, mesh: Mesh | None, *, by_seed: bool) -> Tree:
    """Puts a tree where a program expects it.

    Args:
      tree: arrays; with ``by_seed`` each has a leading seed axis.
      mesh: of the program; None: one device.
      by_seed: split along the seed axis where the mesh has one, else a copy on every device.
    """
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    spec = PartitionSpec("seeds") if by_seed and "seeds" in mesh.axis_names else PartitionSpec()
    return jax.device_put(tree, NamedSharding(mesh, spec))


def host(tree: Tree) -> Tree:
    """Arrays on the host, free of a mesh."""
    return jax.tree.map(np.asarray, tree)
