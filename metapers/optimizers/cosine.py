"""Rates that rise linearly and fall along a cosine, anew in each period."""

import jax.numpy as jnp
import optax

from metapers.members import Member
from metapers.options import Option


def cosine(outer_steps: int, warmup: int = 0) -> optax.Schedule:
    """The share of the rate by outer step: up over ``warmup`` steps, down a cosine to 2 %, anew in each period.

    Args:
      outer_steps: outer steps in a period.
      warmup: outer steps of the rise; fewer than ``outer_steps``.

    Source: Loshchilov, Hutter 2017 (arXiv:1608.03983).
    """
    warmup = min(warmup, outer_steps - 1)
    within = optax.warmup_cosine_decay_schedule(0.0 if warmup else 1.0, 1.0, warmup, outer_steps, 0.02)
    return lambda count: within(jnp.asarray(count) % outer_steps)


COSINE = Member(
    cosine,
    options={"warmup": Option(0, least=0, doc="outer steps of the linear rise at the beginning of a period")},
    needs=("outer_steps",),
    paper="Loshchilov, Hutter 2017, arXiv:1608.03983",
    variants=({"warmup": 2},),
    traits=("cosine",),
    doc="rates rise linearly and fall along a cosine to 2 %, anew in each period",
)
