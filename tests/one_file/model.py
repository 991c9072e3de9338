"""A linear model of scaled features: a scale that all users share, and weights that each user adapts."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Key, Model
from metapers.members import Member, register
from metapers.models import Personal
from metapers.models import model as from_module
from metapers.models.facts import ModelFacts
from metapers.options import Option


class ScaledLinear(nnx.Module):
    """y = w · (scale * x) + b. The type of a parameter says whether it is shared or personal."""

    def __init__(self, width: int, scale: float):
        self.scale = nnx.Param(jnp.full((width,), scale))
        self.weights = Personal(jnp.zeros((width,)))
        self.bias = Personal(jnp.zeros(()))

    def __call__(self, x: Array, *, mask: Array, key: Key | None = None) -> Array:
        return (x * self.scale[...][None]) @ self.weights[...] + self.bias[...]


def scaled_linear(sizes: Mapping[str, int], *, scale: float) -> Model:
    """inputs x [n, width] -> outputs [n]. A larger scale of a feature makes the inner steps of its weight larger.

    Args:
      sizes: what the source says of its inputs; here "width", the number of features.
      scale: the scale of every feature at first, > 0.
    """
    return from_module(lambda rngs: ScaledLinear(sizes["width"], scale))


register(
    "model",
    "scaled_linear",
    Member(
        scaled_linear,
        options={"scale": Option(1.0, above=0.0, doc="the scale of every feature at first")},
        needs=("sizes",),
        facts=ModelFacts(inputs=("vectors",), targets=("numbers",)),
        doc="personal linear weights of features that a shared vector scales",
    ),
)
