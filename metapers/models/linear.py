"""A linear user: his own weights on features that a shared matrix maps first."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Key, Model
from metapers.members import Member
from metapers.models import seam
from metapers.models.facts import ModelFacts
from metapers.models.kinds import ADAPTS_OPTION, adapted


class Linear(nnx.Module):
    """y = (x A^T) w with ``map`` A [dim, dim] shared and ``weights`` w [dim] personal."""

    def __init__(self, dim: int):
        self.map = nnx.Param(jnp.eye(dim))
        self.weights = seam.Personal(jnp.zeros(dim))

    def __call__(self, x: Array, *, mask: Array, key: Key | None = None) -> Array:
        return (x @ self.map[...].T) @ self.weights[...]


def linear(dim: int, *, adapts: tuple[type[nnx.Variable], ...] = (seam.Personal,)) -> Model:
    """inputs x [n, dim] -> outputs [n]: y = w · (A x), A shared (the identity at first), w personal (zero at first).

    With the true map in A and w ~ N(m, S) this is the linear-Gaussian population, for which the best prediction
    after k examples is known.

    Raises:
      ValueError: dim < 1.
    """
    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    return seam.model(lambda rngs: Linear(dim), adapts)


def _from_sizes(sizes: Mapping[str, int], *, adapts: str) -> Model:
    return linear(sizes["width"], adapts=adapted(adapts))


LINEAR_MEMBER = Member(
    _from_sizes,
    options={"adapts": ADAPTS_OPTION},
    needs=("sizes",),
    facts=ModelFacts(),
    doc="personal linear weights after a shared linear map",
)
