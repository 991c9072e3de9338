"""What every inner loop that descends needs: where to begin, the loss on the support, and the path put together."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metapers import keys, trees
from metapers.base import Array, Batch, Key, LossFn, Params, Tree, masked_mean
from metapers.inner.once import cut

Write = Callable[[Params, Batch, Key | None], Tree]
"""(params, support, key) -> personal: where the steps begin."""


def begin(params: Params, support: Batch, key: Key | None, write: Write | None = None) -> Tree:
    """The start of one user's steps: what ``write`` computes from the support, else the personal parameters."""
    start = params.personal
    if write is not None:
        start = write(params, support, None if key is None else keys.named(key, "write"))
    return varying_like(start, (params, support, key))


def support_loss(
    loss_fn: LossFn,
    params: Params,
    support: Batch,
    key: Key | None,
    *,
    shrink: float = 0.0,
    pull: float = 0.0,
) -> tuple[Callable[[Tree, tuple[Array, Tree]], Array], Tree]:
    """(loss, ready): loss(personal, (step, ready)) = (Σ loss + pull ‖personal - start‖²) / (max(n, 1) + shrink).

    ``params.personal`` is the start. Step i of the descent draws from its own key. What depends on neither the
    personal parameters nor the step has been computed already and is ``ready`` (``inner.once``); ``loss`` closes over
    nothing else that could be differentiated.
    """

    def objective(moving: tuple[Tree, Array], fixed: tuple[Params, Batch, Key | None]) -> Array:
        (personal, step), (params, support, key) = moving, fixed
        key = None if key is None else keys.named(key, "inner", step)
        losses = loss_fn(params._replace(personal=personal), support, key)
        mean = masked_mean(losses, support.mask, shrink=shrink)
        if pull == 0:
            return mean
        count = jnp.maximum(jnp.sum(support.mask, dtype=losses.dtype), 1) + shrink
        return mean + pull * trees.squared_norm(trees.subtract(personal, params.personal)) / count

    rest, ready = cut(objective, (params.personal, jnp.asarray(0)), (params, support, key))
    return lambda personal, others: rest((personal, others[0]), others[1]), ready


def path_of(start: Tree, moved: Tree) -> Tree:
    """The start before the positions after each step: leaves [...] and [steps, ...] to [steps + 1, ...]."""
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, moved)


def varying_like(tree: Tree, others: Tree) -> Tree:
    """``tree`` as every device's own, over all the mesh axes that ``others`` differ along.

    Inside shard_map the gradient with respect to something that all devices hold alike is summed over the devices:
    one user's step would use everybody's gradient. And what a scan carries must vary before the first step as after.
    """
    axes = frozenset().union(*(_axes(leaf) for leaf in jax.tree.leaves(others)))

    def one(leaf: Array) -> Array:
        missing = tuple(sorted(axes - _axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, tree)


def _axes(leaf: Array) -> frozenset:
    return jax.typeof(leaf).manual_axis_type.varying
