"""Bayesian linear regression from sums over a user's examples: what is kept of them does not grow with them.

y = phi . w + noise with w ~ N(mean, F F') and noise ~ N(0, v). With w = mean + F z the posterior of z ~ N(0, I) has
the precision K = I + F' (sum phi phi') F / v, whose eigenvalues are at least one: the prior may be singular and the
solution does not come near a singular matrix, in float32 neither.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from metapers.base import Array


class Sums(NamedTuple):
    """What is kept of a user's examples: sums of phi phi' [d, d], of phi y' [d, outputs], and their number []."""

    gram: Array
    moment: Array
    count: Array


class Prior(NamedTuple):
    """w ~ N(mean, F F') for each output, and the variance of the noise around phi . w."""

    mean: Array  # [d, outputs]
    factor: Array  # F: [d, d], or [d] for a diagonal one
    noise: Array  # [], > 0


def nothing(features: int, outputs: int = 1) -> Sums:
    """The sums of no examples."""
    return Sums(jnp.zeros((features, features)), jnp.zeros((features, outputs)), jnp.zeros(()))


def absorb(sums: Sums, phi: Array, targets: Array, mask: Array) -> Sums:
    """``sums`` and the examples where ``mask`` [n]; phi [n, d], targets [n, outputs]; what is masked may be NaN.

    One example at a time, in any order and any portions, gives what all at once give: a user's stream needs no
    replay. Sums whose count is 0 stand for no examples, whatever their entries: so a learner's gradient with
    respect to a user's empty start is zero, and the start stays empty.

    >>> sums = absorb(nothing(1), jnp.array([[2.0], [9.0]]), jnp.array([[3.0], [9.0]]), jnp.array([True, False]))
    >>> sums.gram.tolist(), sums.moment.tolist(), float(sums.count)
    ([[4.0]], [[6.0]], 1.0)
    """
    sums, wide = _counted(sums), mask[:, None]
    phi, targets = jnp.where(wide, phi, jnp.zeros_like(phi)), jnp.where(wide, targets, jnp.zeros_like(targets))
    count = jnp.sum(mask, dtype=sums.count.dtype)
    return Sums(sums.gram + phi.T @ phi, sums.moment + phi.T @ targets, sums.count + count)


def predict(sums: Sums, prior: Prior, phi: Array) -> tuple[Array, Array]:
    """(mean [n, outputs], variance [n]) of y at phi [n, d], given the examples in ``sums``; the noise is included.

    mean = phi (m + F K^-1 F' (moment - gram m) / v), variance = v + phi F K^-1 F' phi'.
    Where eps trace(K) > 0.1, the trace being the sum over examples of the prior's variance over the noise's (8e5 in
    float32, as 40 examples of 140 times the noise's deviation; 4e14 in float64), the excess is added to K's diagonal:
    the solution is then a little nearer the prior, and never NaN.
    Bishop 2006, Pattern Recognition and Machine Learning, equations 3.49 to 3.59, for a prior of any mean.
    """
    precision, right = _normal(sums, prior)
    seen = _times(phi, prior.factor)
    width = jnp.sum(seen.T * _solve(precision, seen.T), axis=0)
    return phi @ prior.mean + seen @ _solve(precision, right), prior.noise + width


def posterior(sums: Sums, prior: Prior) -> tuple[Array, Array]:
    """(mean [d, outputs], covariance [d, d]) of the weights w given the examples in ``sums``."""
    precision, right = _normal(sums, prior)
    factor = jnp.diag(prior.factor) if prior.factor.ndim == 1 else prior.factor
    return prior.mean + factor @ _solve(precision, right), factor @ _solve(precision, factor.T)


def _normal(sums: Sums, prior: Prior) -> tuple[Array, Array]:
    # K and F' (moment - gram m) / v
    gram, moment, _ = _counted(sums)
    inner = _times(_times(gram, prior.factor).T, prior.factor) / prior.noise
    size = inner.shape[0]
    precision = inner + jnp.eye(size, dtype=inner.dtype)
    # Rounding takes up to eps trace(K) off the least eigenvalue, which is one. While that is little nothing is done.
    rounding = jnp.finfo(inner.dtype).eps * lax.stop_gradient(jnp.trace(precision))
    jitter = jnp.maximum(rounding - 0.1, 0)
    residual = _times((moment - gram @ prior.mean).T, prior.factor).T / prior.noise
    return precision + jitter * jnp.eye(size, dtype=inner.dtype), residual


def _solve(matrix: Array, right: Array) -> Array:
    """matrix^-1 right for a symmetric positive definite matrix [d, d], right [d, m]; differentiable in both.

    Gauss-Jordan elimination, whose pivots need no search here, as a loop of rank-one updates: batched over users it is
    plain arithmetic, where a LAPACK call is one matrix at a time (several such calls on several host devices at once
    have been seen never to return).
    """

    def eliminated(_: Callable[[Array], Array], right: Array) -> Array:
        def column(both: Array, i: Array) -> tuple[Array, None]:
            row = both[i] / both[i, i]
            return (both - both[:, i, None] * row[None]).at[i].set(row), None

        both = jnp.concatenate([lax.stop_gradient(matrix), right], axis=1)
        return lax.scan(column, both, jnp.arange(matrix.shape[0]))[0][:, matrix.shape[0] :]

    return lax.custom_linear_solve(lambda x: matrix @ x, right, eliminated, symmetric=True)


def _times(rows: Array, factor: Array) -> Array:
    return rows * factor[None] if factor.ndim == 1 else rows @ factor


def _counted(sums: Sums) -> Sums:
    some = sums.count > 0
    gram, moment, count = (jnp.where(some, leaf, jnp.zeros_like(leaf)) for leaf in sums)
    return Sums(gram, moment, count)
