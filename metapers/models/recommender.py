"""Ratings: an item's own bias and features, learned by all users, under each user's own weights."""

import jax
import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Key, Model
from metapers.models import seam
from metapers.models.layers import Dense, Embed


class Table(nnx.Param):
    """Shared rows by item: sparse evidence per row, so an optimizer may treat the group ("table") by itself."""


class Recommender(nnx.Module):
    """``offset``, ``bias``, ``embed``, ``hidden``, ``output`` shared; ``weights`` personal. See ``recommender``."""

    def __init__(self, items: int, genres: int, features: int, hidden: int, offset: float, rngs: nnx.Rngs):
        described = genres + 4  # year, its square, missing, count
        self.offset = nnx.Param(jnp.full((), offset))
        self.bias = Embed(items + 1, 1, rngs, kind=Table, scale=0.0)
        self.embed = Embed(items + 1, features, rngs, kind=Table, scale=0.1)
        # A film has few genres, so most entries of a description are zero: weights as for eight inputs.
        self.hidden = Dense(described, hidden, rngs, scale=(described / 8) ** 0.5)
        self.output = Dense(hidden, 1 + features, rngs, scale=0.1 * hidden**0.5)
        self.weights = seam.Personal(jnp.zeros(2 + features + described))

    def __call__(self, inputs: dict[str, Array], *, mask: Array, key: Key | None = None) -> Array:
        described = describe(inputs)
        learned = self.output(jnp.tanh(self.hidden(described)))
        level = self.bias(inputs["item"]) + learned[:, :1]
        features = self.embed(inputs["item"]) + learned[:, 1:]
        phi = jnp.concatenate([jnp.ones_like(level), level, features, described], -1)
        return self.offset[...] + level[:, 0] + phi @ self.weights[...]


def describe(inputs: dict[str, Array]) -> Array:
    """What is known of an item without its ratings, each entry of size about one: [n, genres + 4].

    Genres over the root of their number, tanh(year) and its square (0 where the year is missing), the flag for
    that, and count / 3 - 0.7, where ``count`` is log(1 + ratings) of the item (0 if not given). Bounded on
    purpose: an unbounded year makes an inner step of fixed size diverge.
    """
    genres = inputs["genres"]
    share = genres / jnp.sqrt(jnp.maximum(jnp.sum(genres, -1), 1))[:, None]
    missing = inputs["year_missing"]
    year = jnp.where(missing > 0, jnp.zeros_like(missing), jnp.tanh(inputs["year"]))
    count = inputs["count"] / 3 - 0.7 if "count" in inputs else jnp.zeros_like(missing)
    return jnp.concatenate([share, jnp.stack([year, jnp.square(year), missing, count], -1)], -1)


def recommender(items: int, genres: int, *, features: int = 8, hidden: int = 16, offset: float = 3.5) -> Model:
    """rating [n] = offset + level + weights · phi, with phi = [1, level, features, description] of the item.

    inputs: ``item`` int [n] in 1..items (0, or any other: the row that unseen items share), ``genres`` float
    [n, genres] of 0 and 1, ``year`` float [n] standardised, ``year_missing`` float [n] 0 or 1, optionally ``count``
    float [n], log(1 + ratings of the item). level = bias[item] + net(description)_0 and features = embed[item] +
    net(description)_1.., where net is one tanh layer of ``hidden`` units, so an unseen item still has both. Personal
    is ``weights`` alone, zero at first: a new user's prediction is the item's level. The groups are "table" (bias
    and embed), "param" (offset and net) and "personal".

    Raises:
      ValueError: items, genres, features or hidden < 1.
    """
    for name, value in (("items", items), ("genres", genres), ("features", features), ("hidden", hidden)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    return seam.model(lambda rngs: Recommender(items, genres, features, hidden, offset, rngs))
