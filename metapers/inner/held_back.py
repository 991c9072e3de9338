"""What a user's adaptation is worth, from the support alone: each example is predicted after adapting to others."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

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
    """K-fold losses of start + scale (adapted - start), example i held back in fold ``places(n, folds)[i]``: (after the
    last step [scales, n], and for each entry of the path in place of adapted [steps + 1, scales, n]).

    What adapting by k steps is worth depends on k alone, not on how many follow: an entry's losses are those of that
    many steps, so that one path answers for every number of them. Who reads the last alone pays for no other. Examples
    are counted without the padding, so a user with no more than ``folds`` of them is left one out at a time; masked
    ones have loss 0. The start is the first entry of each fold's own path. All folds are adapted at once, which costs
    as much as ``folds`` users; the result is a constant: nothing here is differentiated.
    """
    params, rank = jax.lax.stop_gradient(params), jnp.cumsum(support.mask) - 1
    place = jnp.asarray(places(support.mask.shape[0], folds))[rank]

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


def places(count: int, folds: int) -> np.ndarray:
    """The fold of each of ``count`` examples: of every ``folds`` in a row each fold has one, in an order drawn anew.

    Folds are as even as can be, and keep no step with an order of the examples: where classes come in turn, every
    fourth in one fold would hold back all that a user showed of a class. The same for everybody, at all times.

    >>> places(8, 4).tolist(), np.bincount(places(10, 3)).tolist()
    ([2, 0, 1, 3, 3, 2, 1, 0], [3, 4, 3])
    """
    rng = np.random.default_rng(0)
    return np.concatenate([rng.permutation(folds) for _ in range(-(-count // folds))])[:count]


def each(function: Callable[[Tree], Array], path: Tree) -> Array:
    """``function`` of every entry of a path [steps + 1, ...], one after the other: [steps + 1, ...]."""
    return jax.lax.map(lambda part: function(part[0]), (path, jnp.arange(length(path))))


def hidden(support: Batch) -> Batch:
    """The support with zeros behind its mask: a fold's mask hides less than what was never there needs."""
    inputs, targets = base.hide((support.inputs, support.targets), support.mask)
    return Batch(inputs, targets, support.mask)


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
