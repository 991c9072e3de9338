"""What a user's adaptation is worth, from the support alone: each example is predicted after adapting to others."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metapers import base, keys
from metapers.base import Array, Batch, InnerLoop, Key, LossFn, Params, Tree
from metapers.inner.path import length


def held_back(
    inner_loop: InnerLoop,
    loss_fn: LossFn,
    params: Params,
    support: Batch,
    key: Key | None,
    *,
    folds: int,
    scales: Array,
) -> tuple[Array, Array]:
    """K-fold losses of start + scale (adapted - start), example i held back in fold ``dealt(support, folds)[i]``:
    (after the last step [scales, n], and for each entry of the path in place of adapted [steps + 1, scales, n]).

    What adapting by k steps is worth depends on k alone, not on how many follow: an entry's losses are those of that
    many steps, so that one path answers for every number of them. Who reads the last alone pays for no other. Examples
    are counted without the padding, so a user with no more than ``folds`` of them is left one out at a time; masked
    ones have loss 0. The start is the first entry of each fold's own path. All folds are adapted at once, which costs
    as much as ``folds`` users; the result is a constant: nothing here is differentiated.
    """
    params, place = jax.lax.stop_gradient(params), dealt(support, folds)

    def one(fold: Array) -> tuple[Array, Array]:
        held = support.mask & (place == fold)
        rest, out = support._replace(mask=support.mask & ~held), support._replace(mask=held)
        adapted, path = inner_loop.adapt(params, rest, None if key is None else keys.named(key, "held back", fold))
        start = jax.tree.map(lambda x: x[0], path)

        def losses(personal: Tree) -> Array:
            def at(scale: Array) -> Array:
                there = params._replace(personal=toward(start, personal, scale))
                return jnp.where(held, loss_fn(there, out, None), 0)

            return jax.vmap(at)(scales)

        return losses(adapted.personal), each(losses, path)

    found = jax.vmap(one)(jnp.arange(folds))
    return jax.lax.stop_gradient(jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), found))


def dealt(support: Batch, folds: int) -> Array:
    """int [n]: the fold of each example of a support, as even as can be: examples are dealt to the folds in turn.

    Classes (targets that are integers [n]) are dealt one after the other, as in stratified cross-validation: else,
    where they come in turn, a fold could hold all that a user showed of one. What is masked stands last and counts for
    nothing.

    >>> dealt(Batch({}, jnp.array([0, 1, 0, 1]), jnp.ones(4, bool)), 2).tolist()
    [0, 0, 1, 1]
    """
    leaves = jax.tree.leaves(support.targets)
    classes = len(leaves) == 1 and leaves[0].ndim == 1 and jnp.issubdtype(leaves[0].dtype, jnp.integer)
    group = leaves[0] if classes else jnp.zeros(support.mask.shape, jnp.int32)
    order = jnp.argsort(jnp.where(support.mask, group, jnp.iinfo(group.dtype).max), stable=True)
    return jnp.argsort(order) % folds


def each(function: Callable[[Tree], Array], path: Tree) -> Array:
    """``function`` of every entry of a path [steps + 1, ...], one after the other: [steps + 1, ...]."""
    return jax.lax.map(lambda part: function(part[0]), (path, jnp.arange(length(path))))


def hidden(support: Batch) -> Batch:
    """The support with zeros behind its mask: a fold's mask hides less than what was never there needs."""
    return base.hide_rows(support, support.mask)


def part_way(params: Params, path: Tree, scale: Array, scales: Array) -> tuple[Params, Tree]:
    """Adapted parameters at ``scale`` of the way from the path's first entry, and the entries of their path
    [steps + 1, ...] at ``scales`` [steps + 1] of it."""
    start = jax.tree.map(lambda x: x[0], path)
    personal = toward(start, params.personal, scale)
    return params._replace(personal=personal), jax.vmap(toward, (None, 0, 0))(start, path, scales)


def toward(start: Tree, end: Tree, scale: Array) -> Tree:
    """start + scale (end - start): to the last bit the start at 0, whatever the end is, and the end at 1."""

    def one(a: Array, b: Array) -> Array:
        s = scale.astype(b.dtype)
        return jnp.where(s == 0, a, jnp.where(s == 1, b, a + s * (b - a)))

    return jax.tree.map(one, start, end)
