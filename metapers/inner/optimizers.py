"""Optimizers for the inner loop, by name."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metapers.base import Array
from metapers.members import Member
from metapers.options import Option


def momentum(rate: float) -> optax.GradientTransformation:
    """Gradient descent with Nesterov momentum 0.9."""
    return optax.sgd(rate, momentum=0.9, nesterov=True)


class Moments(NamedTuple):
    """The state of Adam."""

    count: Array  # int32 [], steps taken
    first: Any  # running mean of the gradients
    second: Any  # running mean of their squares


def adam(rate: float) -> optax.GradientTransformation:
    """Adam that can be differentiated where every gradient so far was exactly zero.

    The step is rate * m / (sqrt(v) + eps) with bias-corrected moments m and v. The square root has no derivative at
    v = 0. Two cases have v = 0: an input that is always zero, and one low-rank factor while the other is zero. Then
    the step is zero, and so is its derivative. ``optax.adam`` adds ``eps_root`` to v instead, which makes the steps
    of small gradients too short: a tenth at |g| = 1e-5 with ``eps_root`` 1e-8.

    Args:
      rate: step size, > 0. The other constants are the paper's: b1 = 0.9, b2 = 0.999, eps = 1e-8.

    Source: Kingma, Ba 2015 (arXiv:1412.6980, algorithm 1).

    >>> optimizer, slope = adam(0.1), {"w": jnp.array([2.0, 1e-5, 0.0])}
    >>> updates, _ = optimizer.update(slope, optimizer.init(slope))
    >>> [round(step, 4) for step in updates["w"].tolist()]
    [-0.1, -0.0999, 0.0]
    """
    return _adam(rate, b1=0.9)


def adam_no_momentum(rate: float) -> optax.GradientTransformation:
    """Adam with b1 = 0: the inner optimizer of Reptile (Nichol, Achiam, Schulman 2018, arXiv:1803.02999)."""
    return _adam(rate, b1=0.0)


def _adam(rate: float, b1: float, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    def init(params: Any) -> Moments:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Moments(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Moments]:
        count = state.count + 1
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, updates)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.second, updates)

        def step(m: Array, v: Array) -> Array:
            m, v = (x / _one_less_power(b, count.astype(x.dtype)) for x, b in ((m, b1), (v, b2)))
            there = v > 0
            return jnp.where(there, -rate * m / (jnp.sqrt(jnp.where(there, v, jnp.ones_like(v))) + eps), 0)

        return jax.tree.map(step, first, second), Moments(count, first, second)

    return optax.GradientTransformation(init, update)


def _one_less_power(base: float, count: Array) -> Array:
    # 1 - base ** count without loss of digits where base is near 1
    return -jnp.expm1(count * math.log(base)) if base else jnp.ones_like(count)


def sgd(rate: float) -> optax.GradientTransformation:
    """Plain gradient descent."""
    return optax.sgd(rate)


OPTIONS = {"rate": Option(0.1, above=0.0, doc="size of an inner step")}
INNER_OPTIMIZERS = {
    "sgd": Member(sgd, OPTIONS, doc="plain gradient descent"),
    "momentum": Member(momentum, OPTIONS, doc="gradient descent with Nesterov momentum 0.9"),
    "adam": Member(adam, OPTIONS, paper="Kingma, Ba 2015, arXiv:1412.6980", doc="Adam"),
    "adam_no_momentum": Member(
        adam_no_momentum,
        OPTIONS,
        paper="Nichol, Achiam, Schulman 2018, arXiv:1803.02999",
        example={"rate": 0.05},
        doc="Adam with b1 = 0",
    ),
}
