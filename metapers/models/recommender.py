"""Ratings: what items have in common with each other, learned by all users, under each user's own weights."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Key, Model
from metapers.members import Member
from metapers.models import seam
from metapers.models.facts import ModelFacts
from metapers.models.kinds import ADAPTS_OPTION, adapted
from metapers.models.layers import Dense, Embed
from metapers.options import Option


class Table(nnx.Param):
    """Shared rows by item: sparse evidence per row, so an optimizer may treat the group ("table") by itself."""


class Recommender(nnx.Module):
    """``hidden``, ``output`` and, with rows, ``bias`` and ``embed`` shared; ``weights`` personal."""

    def __init__(self, rows: int, genres: int, features: int, hidden: int, offset: float, rngs: nnx.Rngs):
        self.offset, self.rows = offset, rows
        self.weights = seam.Personal(jnp.zeros(add_item_layers(self, rows, genres, features, hidden, rngs)))

    def __call__(self, inputs: dict[str, Array], *, mask: Array, key: Key | None = None) -> Array:
        level, phi = item_features(self, inputs)
        return self.offset + level + phi @ self.weights[...]


def add_item_layers(module: Any, rows: int, genres: int, features: int, hidden: int, rngs: nnx.Rngs) -> int:
    """Give a module what all users know of items, ``hidden``, ``output``, ``bias`` and ``embed``; the size of phi."""
    described = genres + 5
    # A film has few genres, so most entries of a description are zero: weights as for eight inputs.
    module.hidden = Dense(described, hidden, rngs, scale=(described / 8) ** 0.5)
    module.output = Dense(hidden, 1 + features, rngs, scale=0.1 * hidden**0.5)
    if rows:
        module.bias = Embed(rows, 1, rngs, kind=Table, scale=0.0)
        module.embed = Embed(rows, features, rngs, kind=Table, scale=0.0)
    return 1 + features + described + (rows > 0)


def item_features(module: Any, inputs: dict[str, Array]) -> tuple[Array, Array]:
    """(level [n], phi [n, size]) of the items, by the layers of ``add_item_layers`` and the module's ``rows``."""
    described = describe(inputs)
    learned = module.output(jnp.tanh(module.hidden(described)))
    level, features = learned[:, :1] + described[:, -1:], learned[:, 1:]
    phi = [jnp.ones_like(level), features, described]
    if module.rows:
        level = level + module.bias(inputs["item"])
        phi = [jnp.ones_like(level), features + module.embed(inputs["item"]), described, level]
    return level[:, 0], jnp.concatenate(phi, -1)


def describe(inputs: dict[str, Array]) -> Array:
    """What is known of an item before learning, each entry of size about one: [..., genres + 5] for inputs
    of the shape [...], ``genres`` [..., genres].

    Genres over the root of their number; tanh(year), its square (0 where the year is missing) and the flag for that;
    count / 3 - 0.7 and bias, each 0 if not given. The year is bounded on purpose: with an unbounded one an inner
    step of fixed size diverges.
    """
    genres, missing = inputs["genres"], inputs["year_missing"]
    share = genres / jnp.sqrt(jnp.maximum(jnp.sum(genres, -1, keepdims=True), 1))
    year = jnp.where(missing > 0, jnp.zeros_like(missing), jnp.tanh(inputs["year"]))
    count = inputs["count"] / 3 - 0.7 if "count" in inputs else jnp.zeros_like(missing)
    bias = inputs.get("bias", jnp.zeros_like(missing))
    return jnp.concatenate([share, jnp.stack([year, jnp.square(year), missing, count, bias], -1)], -1)


def recommender(
    items: int,
    genres: int,
    *,
    features: int = 8,
    hidden: int = 16,
    offset: float = 3.5,
    tables: bool = False,
    adapts: tuple[type[nnx.Variable], ...] = (seam.Personal,),
) -> Model:
    """rating [n] = offset + level + weights · [1, features, description (, level with tables)] of the item.

    inputs: ``genres`` float [n, genres] of 0 and 1, ``year`` float [n] standardised, ``year_missing`` float [n] 0 or
    1; optionally ``count`` float [n], log(1 + ratings of the item), and ``bias`` float [n], the item's shrunken mean
    residual, both without the user's own rating (else the bias gives the answer away in training); with ``tables``
    also ``item`` int [n] in 1..items, any other id taking row 0, which unseen items share.

    (level, features) = net(description), one tanh layer of ``hidden`` units, and level adds ``bias``; ``tables`` of
    items + 1 rows add a learned bias and learned features of each item. Personal is ``weights`` alone, zero at
    first. ``offset`` is a constant. Groups: "param" (net), "table", "personal".

    Raises:
      ValueError: items, genres, features or hidden < 1.
    """
    check_sizes(items=items, genres=genres, features=features, hidden=hidden)
    rows = items + 1 if tables else 0
    return seam.model(lambda rngs: Recommender(rows, genres, features, hidden, offset, rngs), adapts)


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for a size, named by its keyword, that is < 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")


def _from_sizes(sizes: Mapping[str, int], *, adapts: str, **options: Any) -> Model:
    return recommender(sizes["items"], sizes["genres"], adapts=adapted(adapts), **options)


OFFSET = Option(3.5, doc="constant that is added to every rating")

ITEM_OPTIONS = {
    "features": Option(8, least=1, doc="learned features of an item"),
    "hidden": Option(16, least=1, doc="units of the layer over an item's description"),
    "offset": OFFSET,
    "tables": Option(True, doc="a learned bias and learned features of each item"),
}
"""The options of a model with the layers of ``add_item_layers``."""

RECOMMENDER_MEMBER = Member(
    _from_sizes,
    options={**ITEM_OPTIONS, "adapts": ADAPTS_OPTION},
    needs=("sizes",),
    example={"features": 2, "hidden": 4},
    variants=({"tables": False},),
    facts=ModelFacts(inputs=("films",)),
    doc="personal linear weights on shared features of items",
)
