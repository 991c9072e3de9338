"""Ratings: the recommender whose weights of a user are solved from the user's ratings, under a learned prior."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Batch, Key, Model, hide
from metapers.members import Member
from metapers.models import seam
from metapers.models.bayes_head import BAYES_FACTS, BAYES_PAPER, FULL, VARIANCE, BayesHead, check, likelihood
from metapers.models.facts import ModelFacts
from metapers.models.recommender import ITEM_OPTIONS, add_item_layers, check_sizes, item_features
from metapers.options import Option


class BayesRecommender(nnx.Module):
    """The shared layers of ``Recommender`` and a ``BayesHead`` in place of its ``weights``."""

    def __init__(
        self,
        rows: int,
        genres: int,
        features: int,
        hidden: int,
        offset: float,
        rngs: nnx.Rngs,
        *,
        variance: bool,
        full: bool,
        deviation: float,
        noise: float,
    ):
        self.offset, self.rows, self.variance = offset, rows, variance
        size = add_item_layers(self, rows, genres, features, hidden, rngs)
        self.head = BayesHead(size, variance=variance, full=full, constant=False, deviation=deviation, noise=noise)

    def __call__(self, inputs: dict[str, Array], *, mask: Array, key: Key | None = None) -> Array | dict[str, Array]:
        level, phi = item_features(self, inputs)
        outputs = self.head(phi)
        if isinstance(outputs, dict):
            return {**outputs, "mean": self.offset + level + outputs["mean"]}
        return self.offset + level + outputs

    def write(self, support: Batch, *, key: Key | None = None) -> None:
        level, phi = item_features(self, hide(support.inputs, support.mask))
        targets = jnp.where(support.mask, support.targets, jnp.zeros_like(support.targets))
        self.head.write(phi, targets - self.offset - level, support.mask)


def bayes_recommender(
    items: int,
    genres: int,
    *,
    features: int = 8,
    hidden: int = 16,
    offset: float = 3.5,
    tables: bool = False,
    variance: bool = False,
    full: bool = False,
    deviation: float = 0.3,
    noise: float = 0.9,
) -> Model:
    """rating [n] = offset + level + w · phi + noise, phi = [1, features, description (, level with tables)].

    Inputs, level, features and description are those of ``recommender``. A user's w has a learned prior, of mean zero
    and standard deviation ``deviation`` at first, and comes from the user's ratings in closed form; ``noise`` is the
    first standard deviation of a rating around its mean. ``variance``: outputs {"mean", "variance"}, for
    ``scores.gaussian``, else the mean alone. ``full``: the prior's covariance has correlations.

    ``write`` adds ratings to a user's sums, so a returning user goes on where he was (see ``embedded``). Groups:
    "param" (net, mean of the prior), "prior" (its deviation, the noise), "table", "written".

    Raises:
      ValueError: items, genres, features or hidden < 1, or deviation or noise not above 0 or not finite.
    """
    check_sizes(items=items, genres=genres, features=features, hidden=hidden)
    check(deviation=deviation, noise=noise)
    rows = items + 1 if tables else 0
    head = {"variance": variance, "full": full, "deviation": deviation, "noise": noise}
    return seam.model(lambda rngs: BayesRecommender(rows, genres, features, hidden, offset, rngs, **head))


def _from_sizes(sizes: Mapping[str, int], **options: Any) -> Model:
    return bayes_recommender(sizes["items"], sizes["genres"], **options)


BAYES_RECOMMENDER_MEMBER = Member(
    _from_sizes,
    options={
        **ITEM_OPTIONS,
        "variance": VARIANCE,
        "full": FULL,
        "deviation": Option(0.3, above=0, doc="first standard deviation of a user's weights"),
        "noise": Option(0.9, above=0, doc="first standard deviation of a rating around its mean"),
    },
    needs=("sizes",),
    paper=BAYES_PAPER,
    example={"features": 2, "hidden": 4},
    variants=({"tables": False, "variance": True, "full": True},),
    traits=("closed_form",),
    facts=ModelFacts(inputs=("films",), objective=likelihood, head=BAYES_FACTS),
    doc="the recommender with weights in closed form under a learned prior",
)
