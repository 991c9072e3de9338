"""Reading a user's path: the one place that says what becomes of an adaptation that ran away."""

import jax
import jax.numpy as jnp

from metapers import trees
from metapers.base import Array, Batch, Model, Params, Tree, hide


def entry(model: Model, params: Params, support: Batch, path: Tree, step: Array | int) -> tuple[Tree, Array]:
    """(personal, diverged): entry ``step`` of a path [steps + 1, ...], or the start where the entry ran away.

    ``diverged``: scalar bool, whether a parameter, or the square of what the model makes of the ``support`` (its
    padding hidden) with it, is NaN or infinite. A user whose steps grew without bound keeps the start, which no example
    has touched: so in an evaluation, in the bank and in serving, and never in training, where divergence stops the run.
    The start itself never diverged.
    """
    found, start = (jax.tree.map(lambda leaf, at=at: leaf[at], path) for at in (step, 0))
    outputs = model.apply(params._replace(personal=found), support.inputs, support.mask, None)
    squares = jax.tree.map(jnp.square, hide(outputs, support.mask))  # what any loss of numbers takes of them
    kept = trees.finite((found, squares)) | (jnp.asarray(step) == 0)
    return trees.select(kept, found, start), ~kept


def entries(model: Model, params: Params, support: Batch, path: Tree) -> tuple[Tree, Array]:
    """(path, diverged [steps + 1]): every entry as ``entry`` reads it; leaves [steps + 1, ...]."""
    return jax.vmap(lambda step: entry(model, params, support, path, step))(jnp.arange(length(path)))


def length(path: Tree) -> int:
    """How many entries a path [steps + 1, ...] has: 1, the start, where nothing is personal."""
    return min((leaf.shape[0] for leaf in jax.tree.leaves(path)), default=1)
