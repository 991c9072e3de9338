"""A last layer for classes that is solved, not descended: ridge regression on one-hot targets."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import nnx

from metapers.base import Array
from metapers.members import Member
from metapers.models import sums
from metapers.models.bayes_head import check
from metapers.models.facts import HeadFacts
from metapers.models.kinds import Written


class RidgeHead(nnx.Module):
    """logits = ``scale`` · phi W + ``shift`` with W = (sum phi phi' + exp(``log_ridge``) I)^-1 sum phi onehot'.

    Shared and learned: ``log_ridge``, ``scale`` and ``shift``, all []. Personal: ``gram``, ``moment``, ``count``
    (``sums.Sums``), zero at a user's start, where all classes are as likely. No constant feature, as in the paper's
    equations (its authors' code appends one).

    Bertinetto et al. 2019 (R2-D2, arXiv:1805.08136, equations 4 to 8).
    """

    def __init__(self, features: int, ways: int, *, ridge: float, scale: float):
        self.ways = ways
        self.log_ridge = nnx.Param(jnp.log(jnp.full((), ridge)))
        self.scale, self.shift = nnx.Param(jnp.full((), scale)), nnx.Param(jnp.zeros(()))
        gram, moment, count = sums.nothing(features, ways)
        self.gram, self.moment, self.count = Written(gram), Written(moment), Written(count)

    def __call__(self, phi: Array, mask: Array | None = None) -> Array:
        deviation = jnp.exp(-0.5 * self.log_ridge[...])  # ridge regression is the prior N(0, I / ridge) with noise 1
        zero, unit = jnp.zeros_like(self.moment[...]), jnp.ones_like(deviation)
        prior = sums.Prior(zero, jnp.full(phi.shape[-1], deviation), unit)
        return self.scale[...] * sums.predict(self.seen(), prior, phi)[0] + self.shift[...]

    def write(self, phi: Array, targets: Array, mask: Array) -> None:
        """Add the examples phi [n, features], classes [n] where ``mask`` [n] to the user's sums."""
        gram, moment, count = sums.absorb(self.seen(), phi, one_hot(targets, self.ways, phi), mask)
        self.gram[...], self.moment[...], self.count[...] = gram, moment, count

    def seen(self) -> sums.Sums:
        """The sums over the user's examples so far."""
        return sums.Sums(self.gram[...], self.moment[...], self.count[...])


def one_hot(targets: Array, ways: int, like: Array) -> Array:
    """[n, ways], 1 at each example's class, in the dtype of ``like``; a class outside [0, ways) has no 1."""
    return (targets[:, None] == jnp.arange(ways).astype(targets.dtype)[None]).astype(like.dtype)


def ridge_head(ways: int, *, ridge: float = 1.0, scale: float = 10.0) -> Callable[[int, nnx.Rngs], nnx.Module]:
    """The head of ``embedded`` for classes: ``RidgeHead``; ``ridge`` and ``scale`` are first values of learned ones.

    Raises:
      ValueError: ways < 1, or ridge or scale not above 0 or not finite.
    """
    check(ridge=ridge, scale=scale)
    if ways < 1:
        raise ValueError(f"ways must be >= 1, got {ways}")
    return lambda features, rngs: RidgeHead(features, ways, ridge=ridge, scale=scale)


def _from_sizes(sizes: Mapping[str, int]) -> Callable[[int, nnx.Rngs], nnx.Module]:
    return ridge_head(sizes["classes"])


RIDGE_HEAD_MEMBER = Member(
    _from_sizes,
    needs=("sizes",),
    paper="Bertinetto et al. 2019, arXiv:1805.08136",
    traits=("closed_form",),
    facts=HeadFacts(),
    doc="ridge regression on one-hot classes",
)
