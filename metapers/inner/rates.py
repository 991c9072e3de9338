"""How far an inner step goes: one rate for all, or rates that the outer loop learns."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metapers.base import Array, Tree
from metapers.members import Member
from metapers.options import Option


class Rates(NamedTuple):
    """The rates of inner steps, as a choice that is passed to ``gradient``."""

    init: Callable[[Tree], Tree]  # personal -> inner: what the outer loop learns
    at: Callable[[Tree, Tree, Array], Tree]  # (inner, personal, step) -> a rate for each leaf, scalar or of its shape


def fixed(rate: float) -> Rates:
    """One constant rate; nothing is learned. ValueError if it is not finite and > 0, as for all below."""
    _check(rate)
    return Rates(lambda personal: {}, lambda inner, personal, step: jax.tree.map(lambda _: rate, personal))


def per_parameter(rate: float) -> Rates:
    """One rate per personal number, ``inner = {"rates": like personal}``, all ``rate`` at first.

    A rate may become negative. Meta-SGD: Li, Zhou, Chen, Li 2017 (arXiv:1707.09835, equation 2).
    """
    _check(rate)

    def init(personal: Tree) -> Tree:
        return {"rates": jax.tree.map(lambda x: jnp.full_like(x, rate), personal)}

    return Rates(init, lambda inner, personal, step: inner["rates"])


def log_per_parameter(rate: float) -> Rates:
    """The same with ``inner = {"log_rates": log of it}``: rates stay positive, and one optimizer step is a change in
    per cent at every size."""
    _check(rate)

    def init(personal: Tree) -> Tree:
        return {"log_rates": jax.tree.map(lambda x: jnp.full_like(x, math.log(rate)), personal)}

    return Rates(init, lambda inner, personal, step: jax.tree.map(jnp.exp, inner["log_rates"]))


def per_step(rate: float, steps: int) -> Rates:
    """One rate per leaf and step, ``inner = {"step_rates": [steps] for each leaf}``, all ``rate`` at first.

    A step beyond ``steps`` (more of them at test than in training) takes the last rate. MAML++'s per-layer per-step
    rates: Antoniou, Edwards, Storkey 2019 (arXiv:1810.09502, section 4, LSLR). ValueError for steps < 1.
    """
    _check(rate)
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}")

    def init(personal: Tree) -> Tree:
        return {"step_rates": jax.tree.map(lambda x: jnp.full((steps,), rate, x.dtype), personal)}

    def at(inner: Tree, personal: Tree, step: Array) -> Tree:
        return jax.tree.map(lambda rates: rates[jnp.minimum(step, steps - 1)], inner["step_rates"])

    return Rates(init, at)


def _check(rate: float) -> None:
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"rate must be finite and > 0, got {rate}")


RATE = "size of an inner step"
UNTRAINED = {"undifferentiated": "no derivative reaches the rates there, so nothing would train them"}
EXAMPLE = {"rate": 0.05}
RATES = {
    "constant": Member(
        fixed,
        {"rate": Option(0.1, above=0.0, doc=RATE)},
        example=EXAMPLE,
        doc="one rate that is not trained",
    ),
    "meta_sgd": Member(
        per_parameter,
        {"rate": Option(0.1, above=0.0, traced=True, doc=f"{RATE} at first")},
        paper="Li, Zhou, Chen, Li 2017, arXiv:1707.09835",
        example=EXAMPLE,
        traits=("trained_rates",),
        conflicts=UNTRAINED,
        doc="one trained rate for each personal parameter",
    ),
    "log_meta_sgd": Member(
        log_per_parameter,
        {"rate": Option(0.1, above=0.0, traced=True, doc=f"{RATE} at first")},
        example=EXAMPLE,
        traits=("trained_rates",),
        conflicts=UNTRAINED,
        doc="one trained rate for each personal parameter, kept positive",
    ),
    "lslr": Member(
        per_step,
        {"rate": Option(0.1, above=0.0, traced=True, doc=f"{RATE} at first")},
        needs=("steps",),
        paper="Antoniou, Edwards, Storkey 2019, arXiv:1810.09502",
        example=EXAMPLE,
        traits=("trained_rates", "lslr"),
        conflicts=UNTRAINED,
        doc="one trained rate for each layer and inner step",
    ),
}
