"""The smallest model there is: a point in space, the same for every row; its meta-gradients are formulas."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Key, Model
from metapers.members import Member
from metapers.models import seam
from metapers.models.facts import ModelFacts
from metapers.models.kinds import ADAPTS_OPTION, adapted


class Point(nnx.Module):
    """The personal vector ``weights`` [dim], repeated for every row."""

    def __init__(self, dim: int):
        self.weights = seam.Personal(jnp.zeros(dim))

    def __call__(self, inputs: Array, *, mask: Array, key: Key | None = None) -> Array:
        weights = self.weights[...]
        return jnp.broadcast_to(weights[None], (*mask.shape, *weights.shape))


def point(dim: int, *, adapts: tuple[type[nnx.Variable], ...] = (seam.Personal,)) -> Model:
    """outputs [n, dim]: the personal vector itself in every row, whatever the inputs.

    With the loss 1/2 ||outputs - targets||^2 each user is a quadratic bowl, so adaptation and its gradient have
    closed forms.

    Raises:
      ValueError: dim < 1.
    """
    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    return seam.model(lambda rngs: Point(dim), adapts)


def _from_sizes(sizes: Mapping[str, int], *, adapts: str) -> Model:
    return point(sizes["width"], adapts=adapted(adapts))


POINT_MEMBER = Member(
    _from_sizes,
    options={"adapts": ADAPTS_OPTION},
    needs=("sizes",),
    facts=ModelFacts(inputs=("points",), targets=("points",)),
    doc="one personal vector, whatever the inputs",
)
