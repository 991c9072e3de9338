"""When not to adapt: a user whose predictions would hardly move keeps the start."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metapers import base
from metapers.base import Array, Batch, InnerLoop, Key, Params, Tree
from metapers.inner.held_back import hidden, part_way


def keep_if_it_moves(inner_loop: InnerLoop, outputs_fn: Callable[[Params, Batch], Array], least: float) -> InnerLoop:
    """The wrapped loop's result where move >= ``least``, else the start: move = mean_i ‖f_i(adapted) - f_i(start)‖².

    f_i = outputs_fn(params, support)[i] is the prediction for the i-th example of the support; its target is not
    read. It is one array [n, ...] in one unit, as squares of different units do not add up: of a model that gives
    a mean and a variance, the mean.

    For a posterior mean the expected gain of adapting, in squared error, is the expected square of the move (the
    start is the prior mean: Bishop 2006, Pattern Recognition and Machine Learning, section 3.2). So those who move
    least gain least, and of them nearly half are made worse by chance: to leave them as they are costs the mean
    little. A user without any example keeps the start where ``least`` > 0. ``least`` is in squared units of the
    outputs, summed over trailing axes, and is to be chosen on validation users; 0 is the wrapped loop.

    The decision is a constant in the derivative; the wrapped loop keeps its own, and its inner parameters. Every
    entry of the path is the start where it is kept. Costs two predictions of the support.

    Raises:
      ValueError: least not finite or < 0; from ``adapt``, outputs_fn giving more than one array.
    """
    if not (math.isfinite(least) and least >= 0):
        raise ValueError(f"least must be finite and >= 0, got {least}")

    def adapt(params: Params, support: Batch, key: Key | None = None) -> tuple[Params, Tree]:
        support = hidden(support)
        adapted, path = inner_loop.adapt(params, support, key)
        start = adapted._replace(personal=jax.tree.map(lambda x: x[0], path))
        after, before = (_one_array(outputs_fn(one, support)) for one in (adapted, start))
        squares = jnp.sum(jnp.reshape(jnp.square(after - before), (support.mask.shape[0], -1)), axis=1)
        move = jax.lax.stop_gradient(base.masked_mean(squares, support.mask))
        return part_way(adapted, path, _share(move, least))

    return InnerLoop(inner_loop.init, adapt)


def _one_array(outputs: Tree) -> Array:
    leaves = jax.tree.leaves(outputs)
    if len(leaves) != 1:
        raise ValueError(f"outputs_fn must give one array, as units do not add up, got {len(leaves)}")
    return leaves[0]


def _share(move: Array, least: float) -> Array:
    return (move >= least).astype(move.dtype)  # not where the move is no number
