"""A last layer for numbers that is solved, not descended: Bayesian linear regression under a learned prior."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from metapers.base import Array
from metapers.members import Member
from metapers.models import sums
from metapers.models.facts import HeadFacts
from metapers.models.kinds import Written
from metapers.options import Option


class Prior(nnx.Param):
    """How wide a prior is and how strong the noise. Of a logarithm weight decay is a pull to the size 1, so an
    optimizer may treat the group ("prior") by itself."""


class BayesHead(nnx.Module):
    """y = w . phi + noise, the weights w of a user in closed form from the sums over his examples.

    Shared and learned: ``mean`` [d, outputs], ``log_deviation`` [d] and, if ``full``, ``lower`` [d, d] of the prior
    w ~ N(mean, F F') with F = diag(exp log_deviation) + strict lower triangle of ``lower``; ``log_noise`` [], of the
    noise's standard deviation; all but ``mean`` are of the type ``Prior``. Personal: ``gram``, ``moment``, ``count``
    (``sums.Sums``), zero at a user's start, where the prediction is the prior's. ``constant`` joins a feature 1 to
    phi, so d = features + 1. As the sums hold neither prior nor noise, they stay right while these are learned; they
    are sums over the features of their time.

    Called with phi [n, features]: {"mean": [n], "variance": [n]}, the predictive variance with the noise; without
    ``variance`` the mean alone. With ``outputs`` a number both are [n, outputs]; their weights are independent, with
    one F and one noise.

    Harrison, Sharma, Pavone 2018 (ALPaCA, arXiv:1807.08912, section 3), whose prior variance is in units of the noise.
    """

    def __init__(
        self,
        features: int,
        *,
        outputs: int | None = None,
        variance: bool = True,
        full: bool = False,
        constant: bool = True,
        deviation: float = 1.0,
        noise: float = 1.0,
    ):
        size, count = features + constant, outputs or 1
        self.scalar, self.variance, self.constant = outputs is None, variance, constant
        self.mean = nnx.Param(jnp.zeros((size, count)))
        self.log_deviation = Prior(jnp.full(size, math.log(deviation)))
        self.lower = Prior(jnp.zeros((size, size))) if full else None
        self.log_noise = Prior(jnp.full((), math.log(noise)))
        gram, moment, number = sums.nothing(size, count)
        self.gram, self.moment, self.count = Written(gram), Written(moment), Written(number)

    def __call__(self, phi: Array, mask: Array | None = None) -> Array | dict[str, Array]:
        mean, variance = sums.predict(self.seen(), self.prior(), self._with_constant(phi))
        wide = jnp.broadcast_to(variance[:, None], mean.shape)
        mean, wide = (mean[:, 0], wide[:, 0]) if self.scalar else (mean, wide)
        return {"mean": mean, "variance": wide} if self.variance else mean

    def write(self, phi: Array, targets: Array, mask: Array) -> None:
        """Add the examples phi [n, features], targets [n] or [n, outputs] where ``mask`` [n] to the user's sums.

        Raises:
          ValueError: targets of another shape.
        """
        wanted = (len(phi),) if self.scalar else (len(phi), self.moment[...].shape[1])
        if targets.shape != wanted:
            raise ValueError(f"targets must have shape {wanted}, got {targets.shape}")
        targets = targets[:, None] if self.scalar else targets
        gram, moment, count = sums.absorb(self.seen(), self._with_constant(phi), targets, mask)
        self.gram[...], self.moment[...], self.count[...] = gram, moment, count

    def seen(self) -> sums.Sums:
        """The sums over the user's examples so far."""
        return sums.Sums(self.gram[...], self.moment[...], self.count[...])

    def prior(self) -> sums.Prior:
        """The prior of the weights and the variance of the noise."""
        factor = jnp.exp(self.log_deviation[...])
        if self.lower is not None:
            factor = jnp.diag(factor) + jnp.tril(self.lower[...], -1)
        return sums.Prior(self.mean[...], factor, jnp.exp(2 * self.log_noise[...]))

    def _with_constant(self, phi: Array) -> Array:
        return jnp.concatenate([jnp.ones_like(phi[:, :1]), phi], -1) if self.constant else phi


def bayes_head(
    *,
    outputs: int | None = None,
    variance: bool = True,
    full: bool = False,
    deviation: float = 1.0,
    noise: float = 1.0,
) -> Callable[[int, nnx.Rngs], nnx.Module]:
    """The head of ``embedded`` for numbers: ``BayesHead`` with a constant feature.

    ``full``: a prior covariance with correlations, else a diagonal one; ``deviation`` and ``noise``: the first
    standard deviations of each weight and of the noise; outputs None: targets [n].

    Raises:
      ValueError: outputs < 1, or deviation or noise not above 0 or not finite.
    """
    check(deviation=deviation, noise=noise)
    if outputs is not None and outputs < 1:
        raise ValueError(f"outputs must be >= 1 or None, got {outputs}")

    def build(features: int, rngs: nnx.Rngs) -> nnx.Module:
        return BayesHead(features, outputs=outputs, variance=variance, full=full, deviation=deviation, noise=noise)

    return build


def check(**positive: float) -> None:
    """Raise ValueError for a number, named by its keyword, that is not above 0 and finite."""
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and > 0, got {value}")


def likelihood(section: Mapping[str, Any]) -> str | None:
    """The objective of outputs with a predicted variance; None, that of the source, without.

    Args:
      section: of a config, with the options of the head.
    """
    return "gaussian" if section.get("variance") else None


BAYES_FACTS = HeadFacts(targets=("numbers",), learns_alone=True, sums=True)

VARIANCE = Option(False, doc="predict a variance too; the loss is then the likelihood")
FULL = Option(False, doc="a prior covariance with correlations, else a diagonal one")
BAYES_PAPER = "Harrison, Sharma, Pavone 2018, arXiv:1807.08912"

BAYES_HEAD_MEMBER = Member(
    bayes_head,
    options={"variance": VARIANCE, "full": FULL},
    paper=BAYES_PAPER,
    variants=({"variance": True, "full": True},),
    traits=("closed_form",),
    facts=BAYES_FACTS,
    doc="Bayesian linear regression under a learned prior",
)
