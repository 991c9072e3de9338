"""Classes by their nearest mean: what a user's examples of a class look like on average."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import nnx

from metapers.base import Array
from metapers.members import Member
from metapers.models.facts import HeadFacts
from metapers.models.kinds import Written
from metapers.models.ridge_head import one_hot

ABSENT = 30.0  # how far below the least likely class of a user a class without examples is, in nats


class Prototypes(nnx.Module):
    """logits [n, ways] = -‖phi - c‖², c a class's mean of the support's features.

    Personal: ``means`` c [ways, features] and ``counts`` [ways], of examples. A class without examples has the least
    logit of the row minus ABSENT; without any example all logits are 0. Nothing here is learned.

    Snell, Swersky, Zemel 2017 (arXiv:1703.05175, equations 1 and 2).
    """

    def __init__(self, features: int, ways: int):
        self.means, self.counts = Written(jnp.zeros((ways, features))), Written(jnp.zeros(ways))

    def __call__(self, phi: Array, mask: Array | None = None) -> Array:
        means, counts = self._seen()
        logits = -jnp.sum(jnp.square(phi[:, None] - means[None]), -1)
        there = (counts > 0)[None]
        least = jnp.min(jnp.where(there, logits, jnp.full_like(logits, jnp.inf)), -1, keepdims=True)
        far = jnp.broadcast_to(least - ABSENT, logits.shape)
        return jnp.where(jnp.any(there), jnp.where(there, logits, far), jnp.zeros_like(logits))

    def write(self, phi: Array, targets: Array, mask: Array) -> None:
        """Take the examples phi [n, features], classes [n] where ``mask`` [n] into the means of their classes."""
        means, before = self._seen()
        total, more = _sums(phi, targets, mask, len(before))
        counts = before + more
        self.means[...] = (before[:, None] * means + total) / jnp.maximum(counts, 1)[:, None]
        self.counts[...] = counts

    def _seen(self) -> tuple[Array, Array]:
        # A mean of no examples is nothing, whatever stands there: no learner's gradient reaches an empty start.
        means, counts = self.means[...], self.counts[...]
        some = counts > 0
        return jnp.where(some[:, None], means, jnp.zeros_like(means)), jnp.where(some, counts, jnp.zeros_like(counts))


def as_linear(phi: Array, targets: Array, mask: Array, kernel: Array, bias: Array) -> tuple[Array, Array]:
    """(kernel [features, ways], bias [ways]) whose logits are those of ``Prototypes`` for the examples, but for a
    constant of each row: w_k = 2 c_k and b_k = -‖c_k‖², where gradient steps on a linear head may begin (Proto-MAML).

    phi [n, features], of which none is negative, classes targets [n] where ``mask`` [n]; ``kernel`` and ``bias`` come
    back as they are where there is no example. A class without one is at least ABSENT below every other.

    Triantafillou et al. 2020 (arXiv:1903.03096, section 3.3).
    """
    total, counts = _sums(phi, targets, mask, len(bias))
    means = total / jnp.maximum(counts, 1)[:, None]
    squares = jnp.sum(jnp.square(means), -1)
    far = -jnp.max(squares) - ABSENT  # no logit of features >= 0 is below -max ‖c‖²
    some = jnp.any(mask)
    return jnp.where(some, 2 * means.T, kernel), jnp.where(some, jnp.where(counts > 0, -squares, far), bias)


def _sums(phi: Array, targets: Array, mask: Array, ways: int) -> tuple[Array, Array]:
    # (sum of the features, number of examples) of each class, [ways, features] and [ways]
    wide = mask[:, None]
    member = jnp.where(wide, one_hot(targets, ways, phi), jnp.zeros_like(phi, shape=(len(phi), ways)))
    return member.T @ jnp.where(wide, phi, jnp.zeros_like(phi)), jnp.sum(member, 0)


def prototypes(ways: int) -> Callable[[int, nnx.Rngs], nnx.Module]:
    """The head of ``embedded`` for classes: ``Prototypes``.

    Raises:
      ValueError: ways < 1.
    """
    if ways < 1:
        raise ValueError(f"ways must be >= 1, got {ways}")
    return lambda features, rngs: Prototypes(features, ways)


def _from_sizes(sizes: Mapping[str, int]) -> Callable[[int, nnx.Rngs], nnx.Module]:
    return prototypes(sizes["classes"])


PROTOTYPES_MEMBER = Member(
    _from_sizes,
    needs=("sizes",),
    paper="Snell, Swersky, Zemel 2017, arXiv:1703.05175",
    traits=("stores_examples", "closed_form"),
    facts=HeadFacts(),
    doc="nearest class mean: the distance is between feature vectors",
)
