"""Adaptation by a few steps of gradient descent on the personal parameters."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metapers import keys, trees
from metapers.base import Array, Batch, InnerLoop, Key, LossFn, Params, Tree, masked_mean
from metapers.inner.once import once


def gradient(
    loss_fn: LossFn,
    steps: int,
    rate: float,
    *,
    learn_rates: bool = False,
    log_rates: bool = False,
    first_order: bool = False,
    shrink: float = 0.0,
    pull: float = 0.0,
    write: Callable[[Params, Batch, Key | None], Tree] | None = None,
    unroll: int = 1,
) -> InnerLoop:
    """personal <- personal - rate ∘ ∇ (Σ loss + pull ‖personal - start‖²) / (max(n, 1) + shrink), ``steps`` times.

    ``learn_rates``: one rate per personal number, ``inner = {"rates": like personal}``, all ``rate`` at first, raw:
    it may become negative (Meta-SGD: Li, Zhou, Chen, Li 2017, arXiv:1707.09835, equation 2). ``log_rates``: the
    same with ``inner = {"log_rates": log of it}``: rates stay positive, and one optimizer step is a change in
    per cent at every size. ``first_order``: the gradient is a constant when the result is differentiated (Finn,
    Abbeel, Levine 2017, arXiv:1703.03400, section 5.2). ``shrink``: that many examples of no loss join the mean,
    so that few examples move a user less. ``pull``: the weight of the squared distance from the start, which does
    not grow with the support: a Gaussian prior around the start, whose weight fades as a user's examples come in
    (the inner problem of Rajeswaran et al. 2019, arXiv:1909.04630, equation 3, for any number of steps).
    ``write``: (params, support, key) -> where the steps begin, default the personal parameters. ``unroll``: steps
    per turn of the compiled loop; the numbers stay the same.

    Learned rates belong to no step, so parameters trained with one number of steps adapt with any other. What the
    loss computes from shared parameters alone is computed once for all steps (``inner.once``).

    >>> loss_fn = lambda params, batch, key: 0.5 * jnp.square(params.personal["w"] - batch.targets)
    >>> support = Batch({}, jnp.array([1.0, 3.0]), jnp.array([True, True]))
    >>> adapted, path = gradient(loss_fn, 2, 0.5).adapt(Params({}, {"w": jnp.zeros(())}, {}), support, None)
    >>> path["w"].tolist()
    [0.0, 1.0, 1.5]

    Raises:
      ValueError: steps < 0, rate not finite or <= 0, shrink or pull not finite or < 0, unroll < 1, both rates.
    """
    _check(steps, rate, shrink, pull, unroll, learn_rates and log_rates)

    def init(params: Params) -> Tree:
        if log_rates:
            return {"log_rates": jax.tree.map(lambda x: jnp.full_like(x, math.log(rate)), params.personal)}
        return {"rates": jax.tree.map(lambda x: jnp.full_like(x, rate), params.personal)} if learn_rates else {}

    def rates(params: Params) -> Tree:
        if log_rates:
            return jax.tree.map(jnp.exp, params.inner["log_rates"])
        return params.inner["rates"] if learn_rates else jax.tree.map(lambda _: rate, params.personal)

    def objective(moving: tuple[Tree, Array], fixed: tuple[Params, Batch, Key | None]) -> Array:
        (personal, step), (params, support, key) = moving, fixed  # params.personal: the start
        key = None if key is None else keys.named(key, "inner", step)
        losses = loss_fn(params._replace(personal=personal), support, key)
        mean = masked_mean(losses, support.mask, shrink=shrink)
        if pull == 0:
            return mean
        count = jnp.maximum(jnp.sum(support.mask, dtype=losses.dtype), 1) + shrink
        return mean + pull * trees.squared_norm(trees.subtract(personal, params.personal)) / count

    def adapt(params: Params, support: Batch, key: Key | None = None) -> tuple[Params, Tree]:
        start = params.personal
        if write is not None:
            start = write(params, support, None if key is None else keys.named(key, "write"))
        if steps == 0:
            return params._replace(personal=start), jax.tree.map(lambda x: x[None], start)
        start = _varying_like(start, (params, support, key))
        fixed = params._replace(personal=start), support, key
        loss, speed = once(objective, (start, jnp.asarray(0)), fixed), rates(params)

        def step_fn(personal: Tree, step: Array) -> tuple[Tree, Tree]:
            slope = jax.grad(lambda personal: loss((personal, step)))(personal)
            slope = jax.lax.stop_gradient(slope) if first_order else slope
            moved = jax.tree.map(lambda x, r, g: x - r * g, personal, speed, slope)
            return moved, moved

        adapted, path = jax.lax.scan(step_fn, start, jnp.arange(steps), unroll=min(unroll, steps))
        path = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, path)
        return params._replace(personal=adapted), path

    return InnerLoop(init, adapt)


def _check(steps: int, rate: float, shrink: float, pull: float, unroll: int, both: bool) -> None:
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"rate must be finite and > 0, got {rate}")
    for name, value in (("shrink", shrink), ("pull", pull)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and >= 0, got {value}")
    if unroll < 1:
        raise ValueError(f"unroll must be >= 1, got {unroll}")
    if both:
        raise ValueError("learn_rates and log_rates are two forms of one choice, got both True")


def _varying_like(start: Tree, others: Tree) -> Tree:
    # Inside shard_map, the gradient with respect to something all devices hold alike is summed over the devices:
    # one user's step would use everybody's gradient. So the start becomes each device's own before the first step.
    axes = frozenset().union(*(_axes(leaf) for leaf in jax.tree.leaves(others)))

    def one(leaf: Array) -> Array:
        missing = tuple(sorted(axes - _axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, start)


def _axes(leaf: Array) -> frozenset:
    return jax.typeof(leaf).manual_axis_type.varying
