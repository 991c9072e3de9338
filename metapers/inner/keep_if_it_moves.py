"""When not to adapt: a user whose predictions would hardly move keeps the start."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metapers import base
from metapers.base import Array, Batch, InnerLoop, Key, Params, Tree
from metapers.inner.held_back import each, hidden, part_way
from metapers.members import Member
from metapers.options import Option


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
    entry of the path has its own, by how far that many steps move. Costs a prediction of the support for each entry
    that is read, and one for the start.

    Raises:
      ValueError: least not finite or < 0; from ``adapt``, outputs_fn giving more than one array.
    """
    if not (math.isfinite(least) and least >= 0):
        raise ValueError(f"least must be finite and >= 0, got {least}")

    def adapt(params: Params, support: Batch, key: Key | None = None) -> tuple[Params, Tree]:
        support = hidden(support)
        adapted, path = inner_loop.adapt(params, support, key)

        def outputs(personal: Tree) -> Array:
            return _one_array(outputs_fn(adapted._replace(personal=personal), support))

        before = outputs(jax.tree.map(lambda x: x[0], path))

        def share(personal: Tree) -> Array:
            squares = jnp.square(outputs(personal) - before)
            squares = jnp.sum(jnp.reshape(squares, (support.mask.shape[0], -1)), axis=1)
            return _share(jax.lax.stop_gradient(base.masked_mean(squares, support.mask)), least)

        return part_way(adapted, path, share(adapted.personal), each(share, path))

    return InnerLoop(inner_loop.init, adapt)


def _one_array(outputs: Tree) -> Array:
    leaves = jax.tree.leaves(outputs)
    if len(leaves) != 1:
        raise ValueError(f"outputs_fn must give one array, as units do not add up, got {len(leaves)}")
    return leaves[0]


def _share(move: Array, least: float) -> Array:
    return (move >= least).astype(move.dtype)  # not where the move is no number


MIN_SHIFT = Member(
    keep_if_it_moves,
    options={
        "least": Option(above=0.0, doc="mean squared shift of the predictions on the support that is needed to adapt")
    },
    needs=("inner_loop", "outputs_fn"),
    example={"least": 1e-3},
    doc="adapt where the predictions on the support move enough",
)
