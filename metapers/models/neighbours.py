"""The shared model's prediction mixed with what the user's own examples say nearby."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from metapers.base import Array
from metapers.members import Member
from metapers.models.bayes_head import check
from metapers.models.facts import HeadFacts
from metapers.models.kinds import Body, Written
from metapers.models.layers import Dense
from metapers.models.ridge_head import one_hot
from metapers.options import Option


class Neighbours(nnx.Module):
    """share · nearest + (1 - share) · own: ``own`` a shared linear layer on phi, ``nearest`` a mean over neighbours.

    A user's ``k`` nearest stored examples weigh exp(-‖phi - phi_i‖ / scale), normalised; fewer where fewer are
    stored, and with none the prediction is the shared model's. Classes (``classes`` a number): probabilities are
    mixed, outputs are their logarithms [n, classes]. Numbers (``classes`` None): outputs [n].

    Shared: ``own`` and, if ``learned``, ``share_logit`` and ``log_scale`` []; they are constants otherwise. A learner
    that does not adapt (joint) trains ``own`` and the features only. Personal: ``kept`` [capacity, features],
    ``answers`` [capacity, classes or 1], ``stored`` [capacity], 1 where a row is in use. When there are more, the
    latest stay.

    Marfoq et al. 2022 (kNN-Per, arXiv:2111.09360, equations 6 to 8).
    """

    def __init__(
        self,
        features: int,
        rngs: nnx.Rngs,
        *,
        classes: int | None,
        capacity: int,
        k: int,
        share: float,
        scale: float,
        learned: bool,
    ):
        self.classes, self.k, self.fixed = classes, k, (share, scale)
        self.own = Dense(features, classes or 1, rngs, kind=Body)
        self.share_logit = nnx.Param(jnp.full((), math.log(share / (1 - share)))) if learned else None
        self.log_scale = nnx.Param(jnp.full((), math.log(scale))) if learned else None
        self.kept = Written(jnp.zeros((capacity, features)))
        self.answers = Written(jnp.zeros((capacity, classes or 1)))
        self.stored = Written(jnp.zeros(capacity))

    def __call__(self, phi: Array, mask: Array | None = None) -> Array:
        share, scale = self._mix(phi)
        nearest, some = self._nearest(phi, scale)
        share = jnp.where(some, share, jnp.zeros_like(share))
        own = self.own(phi)
        if self.classes is None:
            return (share * nearest + (1 - share) * own)[:, 0]
        mixed = share * nearest + (1 - share) * jax.nn.softmax(own, -1)
        return jnp.log(jnp.maximum(mixed, jnp.finfo(mixed.dtype).tiny))

    def write(self, phi: Array, targets: Array, mask: Array) -> None:
        """Store the examples phi [n, features], targets [n] where ``mask`` [n], the latest if there are too many."""
        answers = targets[:, None] if self.classes is None else one_hot(targets, self.classes, phi)
        used = jnp.concatenate([self.stored[...] > 0, mask])
        latest = jnp.argsort(used, stable=True)[-self.stored[...].size :]  # unused rows first, then in order of time
        used = used[latest]

        def of(before: Array, new: Array) -> Array:
            rows = jnp.concatenate([before, new])[latest]
            return jnp.where(used[:, None], rows, jnp.zeros_like(rows))

        self.kept[...], self.answers[...] = of(self.kept[...], phi), of(self.answers[...], answers)
        self.stored[...] = used.astype(self.stored[...].dtype)

    def _mix(self, phi: Array) -> tuple[Array, Array]:
        if self.share_logit is None or self.log_scale is None:
            return jnp.asarray(self.fixed[0], phi.dtype), jnp.asarray(self.fixed[1], phi.dtype)
        return jax.nn.sigmoid(self.share_logit[...]), jnp.exp(self.log_scale[...])

    def _nearest(self, phi: Array, scale: Array) -> tuple[Array, Array]:
        used = self.stored[...] > 0
        kept = jnp.where(used[:, None], self.kept[...], jnp.zeros_like(self.kept[...]))
        answers = jnp.where(used[:, None], self.answers[...], jnp.zeros_like(self.answers[...]))
        square = jnp.sum(jnp.square(phi[:, None] - kept[None]), -1)
        apart = square > 0  # the root has no slope at 0
        nearness = -jnp.where(apart, jnp.sqrt(jnp.where(apart, square, jnp.ones_like(square))), 0.0) / scale
        nearness = jnp.where(used[None], nearness, jnp.full_like(nearness, -jnp.inf))
        top, which = jax.lax.top_k(nearness, self.k)
        there = jnp.isfinite(top)
        weights = jax.nn.softmax(jnp.where(there, top, jnp.full_like(top, -1e30)), -1)
        weights = jnp.where(there, weights, jnp.zeros_like(weights))
        return jnp.einsum("nk,nkc->nc", weights, answers[which]), jnp.any(used)


def neighbours(
    capacity: int,
    *,
    classes: int | None = None,
    k: int = 10,
    share: float = 0.5,
    scale: float = 1.0,
    learned: bool = False,
) -> Callable[[int, nnx.Rngs], nnx.Module]:
    """The head of ``embedded`` that mixes in a user's nearest examples: ``Neighbours``.

    ``share`` (lambda of the source) and ``scale`` are to be chosen on validation users; with ``learned`` they are
    first values. ``k`` is cut to ``capacity``. With share 0 it is the shared model.

    Raises:
      ValueError: capacity, k or classes < 1, share outside [0, 1] (learned: 0 or 1), or scale not above 0.
    """
    for name, value in (("capacity", capacity), ("k", k), ("classes", 1 if classes is None else classes)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    check(scale=scale)
    if not 0 <= share <= 1 or (learned and share in (0, 1)):
        bounds = "strictly between 0 and 1 to be learned" if learned else "between 0 and 1"
        raise ValueError(f"share must be {bounds}, got {share}")
    chosen = {"classes": classes, "capacity": capacity, "k": min(k, capacity)}
    mixing = {"share": share, "scale": scale, "learned": learned}
    return lambda features, rngs: Neighbours(features, rngs, **chosen, **mixing)


def _from_sizes(
    sizes: Mapping[str, int], *, capacity: int, nearest: int, share: float, scale: float
) -> Callable[[int, nnx.Rngs], nnx.Module]:
    return neighbours(capacity, classes=sizes.get("classes"), k=nearest, share=share, scale=scale)


NEIGHBOURS_MEMBER = Member(
    _from_sizes,
    options={
        "capacity": Option(64, least=1, doc="examples of a user that are stored, the latest"),
        "nearest": Option(10, least=1, doc="stored examples that a prediction reads"),
        "share": Option(0.5, least=0, most=1, doc="weight of the neighbours beside the shared model"),
        "scale": Option(1.0, above=0, doc="distance at which the weight of a neighbour falls to 1/e"),
    },
    needs=("sizes",),
    paper="Marfoq et al. 2022, arXiv:2111.09360",
    example={"capacity": 3},
    traits=("stores_examples", "closed_form"),
    facts=HeadFacts(targets=("numbers", "classes"), learns_alone=True),
    doc="a shared linear layer mixed with the user's nearest examples",
)
