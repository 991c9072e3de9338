"""Regression from sums: the dense closed form in numpy, recursion, masks, float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers.models import sums
from tests.contracts import world

D = 4


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def prior(full, outputs=1, d=D):
    factor = np.tril(drawn(d, d, seed=1)) if full else np.exp(drawn(d, seed=2))
    return sums.Prior(drawn(d, outputs, seed=3), jnp.asarray(factor), jnp.asarray(0.3))


absorb, posterior, predict = (jax.jit(function) for function in (sums.absorb, sums.posterior, sums.predict))


@jax.jit
def seen(phi, y, mask=None):
    empty = sums.nothing(phi.shape[1], y.shape[1])
    return sums.absorb(empty, phi, y, jnp.ones(len(y), bool) if mask is None else mask)


def dense(prior, phi, y):
    """Mean and covariance of the weights by the joint Gaussian of weights and targets, in numpy."""
    factor = np.diag(prior.factor) if prior.factor.ndim == 1 else np.asarray(prior.factor)
    phi, y, covariance = np.asarray(phi), np.asarray(y), factor @ factor.T
    gain = covariance @ phi.T @ np.linalg.inv(phi @ covariance @ phi.T + float(prior.noise) * np.eye(len(y)))
    start = np.asarray(prior.mean)
    return start + gain @ (y - phi @ start), covariance - gain @ phi @ covariance


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("n", [1, 3, 9])
def test_posterior_and_prediction_are_the_dense_closed_form(full, n):
    given, phi, y, new = prior(full, 2), drawn(n, D, seed=n), drawn(n, 2, seed=20 + n), drawn(5, D, seed=7)
    mean, covariance = dense(given, phi, y)
    found = posterior(seen(phi, y), given)
    np.testing.assert_allclose(found[0], mean, atol=1e-11)
    np.testing.assert_allclose(found[1], covariance, atol=1e-11)
    value, variance = predict(seen(phi, y), given, new)
    np.testing.assert_allclose(value, np.asarray(new) @ mean, atol=1e-11)
    np.testing.assert_allclose(variance, 0.3 + np.einsum("nd,de,ne->n", new, covariance, new), atol=1e-11)


def test_no_examples_leave_the_prior():
    given, new = prior(True), drawn(5, D, seed=7)
    for empty in (sums.nothing(D), seen(drawn(2, D), drawn(2, 1), jnp.zeros(2, bool))):
        value, variance = predict(empty, given, new)
        mean, factor, rows = jax.tree.map(np.asarray, (given.mean, given.factor, new))
        np.testing.assert_allclose(value, rows @ mean, atol=1e-13)
        np.testing.assert_allclose(variance, 0.3 + np.square(rows @ factor).sum(1), rtol=1e-13)


def test_one_example_at_a_time_is_all_at_once_and_the_recursion_of_the_posterior():
    given, phi, y = prior(True), drawn(12, D, seed=4), drawn(12, 1, seed=5)
    one = sums.nothing(D)
    phi, y, factor = (np.asarray(leaf) for leaf in (phi, y, given.factor))
    mean, covariance = np.asarray(given.mean), factor @ factor.T
    for i in range(12):
        one = absorb(one, phi[i : i + 1], y[i : i + 1], np.ones(1, bool))
        x = phi[i : i + 1]  # recursive least squares: a rank-one change of the covariance
        gain = covariance @ x.T / (x @ covariance @ x.T + 0.3)
        mean, covariance = mean + gain @ (y[i : i + 1] - x @ mean), covariance - gain @ x @ covariance
        found = posterior(one, given)
        np.testing.assert_allclose(found[0], mean, atol=1e-10)
        np.testing.assert_allclose(found[1], covariance, atol=1e-10)
    assert world.distance(one, seen(phi, y)) < 1e-10


def test_masked_examples_change_nothing_forwards_or_backwards():
    phi, y, mask = np.asarray(drawn(5, D)), np.asarray(drawn(5, 1)), np.array([True, False, True, True, False])
    bad_phi, bad_y = np.where(mask[:, None], phi, np.nan), np.where(mask[:, None], y, np.nan)
    assert world.distance(seen(bad_phi, bad_y, mask), seen(phi[mask], y[mask])) < 1e-14
    given, new = prior(True), drawn(3, D)
    value = lambda phi, y: jnp.sum(jnp.square(sums.predict(seen(phi, y, mask), given, new)[0]))
    slope = jax.jit(jax.grad(value, (0, 1)))
    slopes = jax.device_get(slope(bad_phi, bad_y))
    assert world.distance(slopes, slope(phi, y)) < 1e-14
    assert float(np.abs(slopes[0][1]).max()) == 0.0 < float(np.abs(slopes[0][0]).max())


@partial(jax.jit, static_argnums=0)
def solved(dtype, phi, y, noise):
    """(mean, variance) at the rows of phi behind those that have a y."""
    features, rows = phi.shape[1], len(y)
    given = sums.Prior(jnp.zeros((features, 1), dtype), jnp.ones(features, dtype), noise.astype(dtype))
    empty = jax.tree.map(lambda x: x.astype(dtype), sums.nothing(features))
    mine = sums.absorb(empty, phi[:rows].astype(dtype), y.astype(dtype), jnp.ones(rows, bool))
    return sums.predict(mine, given, phi[rows:].astype(dtype))


def problem(features, rows, spread, noise):
    """Rows with ten new ones behind them, whose features are alike but for ``spread``, the targets, the noise."""
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(rows + 10, 1)) + spread * rng.normal(size=(rows + 10, features))
    y = phi[:rows] @ np.linspace(-1, 1, features)[:, None] + np.sqrt(noise) * rng.normal(size=(rows, 1))
    return phi, y, np.array(noise)


@pytest.mark.parametrize(
    ("features", "rows", "spread", "noise"), [(12, 390, 1.0, 1e-2), (12, 390, 0.01, 1.0), (64, 20, 1.0, 1e-2)]
)
def test_float32_is_near_float64(features, rows, spread, noise):
    given = problem(features, rows, spread, noise)
    (mean, variance), (exact, width) = solved(jnp.float32, *given), solved(jnp.float64, *given)
    assert mean.dtype == variance.dtype == jnp.float32
    np.testing.assert_allclose(variance, width, rtol=1e-3)
    np.testing.assert_allclose(mean, exact, atol=5e-3 * float(np.sqrt(np.min(width))))


@pytest.mark.parametrize("rows", [20, 400])
def test_float32_is_finite_however_little_the_noise(rows):
    for value in solved(jnp.float32, *problem(64, rows, 0.01, 1e-6)):
        assert bool(np.isfinite(value).all())
