"""MAML++'s outer loop: every inner step is judged at first, later only the last; the second order may set in later."""

import jax
import jax.numpy as jnp
import optax

from metapers import base, keys
from metapers.base import Aggregator, Array, InnerLoop, Key, Learner, LossFn, Params, Penalty, Task, Tree
from metapers.learners.descent import descent


def multi_step(
    loss_fn: LossFn,
    inner_loop: InnerLoop,
    optimizer: optax.GradientTransformation,
    *,
    anneal: int,
    aggregator: Aggregator,
    penalty: Penalty | None = None,
    first_order: InnerLoop | None = None,
    second_from: int = 0,
) -> Learner:
    """Descend Σ_k w_k(t) loss(params after k inner steps, query), k = 1..K, at outer step t.

    With a = max(0, 1 - t / ``anneal``): w_k = a / K before the last step, w_K = 1 - a (K - 1) / K, so at t = 0 every
    step weighs the same and from t = ``anneal`` on this is MAML (``anneal`` 0: from the first step on). The loss told
    is that of the last step. ``first_order``: the inner loop that takes the other's place before outer step
    ``second_from``, the same with gradients that count as constants (derivative-order annealing); where seeds are
    vmapped both are computed at every step. State: ``DescentState``. Antoniou, Edwards, Storkey 2019
    (arXiv:1810.09502, section 4: MSL and DA; the authors' code keeps a floor of 0.03 / K until ``anneal``, here the
    weights go to zero). Per-layer per-step rates are ``inner.per_step``, the cosine is optax's.

    Raises:
      ValueError: anneal or second_from < 0; second_from > 0 without ``first_order``.
    """
    for name, value in (("anneal", anneal), ("second_from", second_from)):
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    if second_from and first_order is None:
        raise ValueError(f"first_order must be an inner loop where second_from is > 0, got None with {second_from}")

    def adapt(params: Params, task: Task, step: Array, key: Key) -> tuple[Params, Tree]:
        if first_order is None:
            return inner_loop.adapt(params, task.support, key)
        loops = [one.adapt for one in (first_order, inner_loop)]
        return jax.lax.cond(step < second_from, *loops, params, task.support, key)

    def user_loss(params: Params, task: Task, step: Array, key: Key) -> tuple[Array, Array, Params]:
        adapted, path = adapt(params, task, step, keys.named(key, "adapt"))

        def after(personal: Tree) -> Array:
            losses = loss_fn(params._replace(personal=personal), task.query, keys.named(key, "query"))
            return base.masked_mean(losses, task.query.mask)

        losses = jax.vmap(after)(jax.tree.map(lambda leaf: leaf[1:], path))
        return jnp.sum(_weights(step, losses, anneal) * losses), losses[-1], adapted

    return descent(user_loss, optimizer, aggregator=aggregator, penalty=penalty, inner=inner_loop.init)


def _weights(step: Array, losses: Array, anneal: int) -> Array:
    last = (jnp.arange(losses.shape[0]) == losses.shape[0] - 1).astype(losses.dtype)
    share = jnp.maximum(0, 1 - step.astype(losses.dtype) / max(anneal, 1)) if anneal else jnp.zeros_like(losses[0])
    return share / losses.shape[0] + (1 - share) * last
