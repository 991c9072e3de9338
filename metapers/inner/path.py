"""Reading a user's path: the one place that says what becomes of an adaptation that ran away."""

import jax
import jax.numpy as jnp

from metapers import trees
from metapers.base import Array, Tree


def entry(path: Tree, step: Array | int) -> tuple[Tree, Array]:
    """(personal, diverged): entry ``step`` of a path [steps + 1, ...], or the start where the entry ran away.

    ``diverged``: scalar bool, whether a parameter is NaN or so large that outputs overflow (``trees.bounded``). A user
    whose steps grew without bound keeps the start, which no example has touched: so in an evaluation, in the bank and
    in serving, and never in training, where divergence stops the run. A start that is not finite itself is returned.

    >>> path = {"w": jnp.array([1.0, -40.0, jnp.inf])}
    >>> [(float(personal["w"]), bool(lost)) for personal, lost in (entry(path, step) for step in range(3))]
    [(1.0, False), (-40.0, False), (1.0, True)]
    """
    found, start = (jax.tree.map(lambda leaf, at=at: leaf[at], path) for at in (step, 0))
    kept = trees.bounded(found)
    return trees.select(kept, found, start), ~kept


def entries(path: Tree) -> tuple[Tree, Array]:
    """(path, diverged [steps + 1]): every entry as ``entry`` reads it; leaves [steps + 1, ...]."""
    length = min((leaf.shape[0] for leaf in jax.tree.leaves(path)), default=1)
    return jax.vmap(lambda step: entry(path, step))(jnp.arange(length))
