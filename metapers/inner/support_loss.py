"""What every inner loop that descends needs: where to begin, the loss on the support, and the path put together."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metapers import keys, trees
from metapers.base import Array, Batch, Key, LossFn, Params, Tree, masked_mean
from metapers.inner.once import cut

Write = Callable[[Params, Batch, Key | None], Tree]
"""(params, support, key) -> personal: where the steps begin."""


def check_weights(pseudo_count: float, proximal_weight: float) -> None:
    """Raise ValueError for a ``pseudo_count`` or ``proximal_weight`` that is not finite or < 0."""
    for name, value in (("pseudo_count", pseudo_count), ("proximal_weight", proximal_weight)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and >= 0, got {value}")


def begin(params: Params, support: Batch, key: Key | None, write: Write | None = None) -> tuple[Tree, Tree]:
    """(start, first): a user's personal parameters as they came, and where the steps begin.

    ``start`` has not seen the support; it is entry 0 of a path. ``first`` is what ``write`` computes from the support,
    without one the start.
    """
    start = trees.varying_like(params.personal, (params, support, key))
    if write is None:
        return start, start
    first = write(params._replace(personal=start), support, None if key is None else keys.named(key, "write"))
    return start, trees.varying_like(first, (params, support, key))


def support_loss(
    loss_fn: LossFn,
    params: Params,
    support: Batch,
    key: Key | None,
    *,
    pseudo_count: float = 0.0,
    proximal_weight: float = 0.0,
    minibatch: int = 0,
) -> tuple[Callable[[Tree, tuple[Array, Tree]], Array], Tree]:
    """(loss, ready): loss(personal, (step, ready)) = (Σ loss + c ‖personal - first‖²) / (max(n, 1) + m).

    c is ``proximal_weight``, m is ``pseudo_count``.

    ``params.personal`` is ``first``, where the steps begin; n, of the whole support, is how many examples a user has.
    Step i of the descent draws from its own key. Where ``minibatch`` > 0 it has the examples that ``turn`` gives it,
    and n times their mean loss stands for the sum: all steps together solve the same problem. What depends on neither
    the personal parameters nor the step has been computed already and is ``ready`` (``inner.once``); ``loss`` closes
    over nothing else that could be differentiated.
    """

    def objective(moving: tuple[Tree, Array], fixed: tuple[Params, Batch, Key | None]) -> Array:
        (personal, step), (params, support, key) = moving, fixed
        count = jnp.maximum(jnp.sum(support.mask, dtype=jnp.int32), 1)  # a minibatch stands for the whole support
        support = turn(support, minibatch, step, key) if minibatch else support
        key = None if key is None else keys.named(key, "inner", step)
        losses = loss_fn(params._replace(personal=personal), support, key)
        weight = count.astype(losses.dtype) + pseudo_count
        mean = masked_mean(losses, support.mask, shrink=0.0 if minibatch else pseudo_count)
        if minibatch and pseudo_count:
            mean = mean * count.astype(losses.dtype) / weight
        if proximal_weight == 0:
            return mean
        return mean + proximal_weight * trees.squared_norm(trees.subtract(personal, params.personal)) / weight

    rest, ready = cut(objective, (params.personal, jnp.asarray(0)), (params, support, key))
    return lambda personal, others: rest((personal, others[0]), others[1]), ready


def turn(support: Batch, size: int, step: Array, key: Key | None) -> Batch:
    """The ``size`` examples of a step: the support in an order drawn once from ``key``, gone through over and over.

    Leaves [n, ...] to [size, ...], or as they are where n <= size. Only unmasked examples come, each at most once in a
    step: of fewer than ``size`` all come, and the other rows are masked. Without a key the order is their own.
    """
    n = support.mask.shape[0]
    if n <= size:
        return support
    # float32 whatever the precision of the parameters: another width draws other numbers, and so another order
    drawn = jnp.arange(n) / n if key is None else jax.random.uniform(keys.named(key, "order"), (n,), jnp.float32)
    order, known = jnp.argsort(jnp.where(support.mask, drawn, 2.0)), jnp.sum(support.mask)
    rows = order[(step * size + jnp.arange(size)) % jnp.maximum(known, 1)]
    part = jax.tree.map(lambda leaf: leaf[rows], support)
    return part._replace(mask=part.mask & (jnp.arange(size) < known))


def path_of(start: Tree, moved: Tree) -> Tree:
    """The start before the positions after each step: leaves [...] and [steps, ...] to [steps + 1, ...]."""
    return jax.tree.map(lambda x, rest: jnp.concatenate([x[None], rest]), start, moved)
