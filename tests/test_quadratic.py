"""Users who want a point: the population, the documented formulas, and the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys
from metapers.tasks.quadratic import quadratic

SIZES = {"support": 3, "query": 4}


def test_population():
    means = np.array([[5.0, 0.0], [0.0, -5.0]])
    stream = quadratic(periods=2, users_per_period=800, means=means, spread=0.5, noise=0.2, **SIZES)
    assert stream.held_out("test", 0).targets.shape[1:] == (2,) and not stream.held_out("test", 0).inputs.any()
    for period in range(2):
        part = stream.held_out("test", period)
        users = part.targets.reshape(-1, 12, 2)
        assert len(users) > 100
        centres = users.mean(axis=1)
        np.testing.assert_allclose(centres.mean(axis=0), means[period], atol=5 * 0.5 / np.sqrt(len(users)))
        np.testing.assert_allclose(centres.std(axis=0), 0.5, rtol=0.25)
        np.testing.assert_allclose((users - centres[:, None]).std(), 0.2 * np.sqrt(11 / 12), rtol=0.05)


def test_documented_formulas_hold_on_a_drawn_task():
    stream = quadratic(dim=3, **SIZES)
    tasks, _ = jax.jit(stream.family.sample, static_argnums=2)(stream.family.data((0, 0), 0, 1), 0, 1, keys.root(0))
    support, query = tasks.support.targets[0][tasks.support.mask[0]], tasks.query.targets[0][tasks.query.mask[0]]
    rate, steps, theta = 0.3, 4, jnp.array([1.0, -2.0, 0.5])

    s, q, b = support.mean(axis=0), query.mean(axis=0), (1 - rate) ** steps

    def loss(theta, targets):
        return 0.5 * jnp.mean(jnp.sum((theta[None] - targets) ** 2, axis=1))

    def adapt(theta):
        for _ in range(steps):
            theta = theta - rate * jax.grad(loss)(theta, support)
        return theta

    adapted = adapt(theta)
    np.testing.assert_allclose(adapted, s + b * (theta - s), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda t: loss(adapt(t), query))(theta), b * (adapted - q), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(loss)(adapted, query), adapted - q, rtol=1e-12)
    np.testing.assert_allclose(theta - adapted, (1 - b) * (theta - s), rtol=1e-12)


def test_oracle_is_the_posterior_mean_by_integration():
    means = [[2.0], [-1.0]]
    stream = quadratic(dim=1, periods=2, users_per_period=40, means=np.array(means), spread=0.7, noise=0.4, **SIZES)
    assert stream.oracle is not None
    grid = np.linspace(-8, 8, 4001)
    for period in (0, 1):
        cohort = stream.held_out("test", period)
        for shots in (0, 1, 3):
            got = stream.oracle(cohort, shots, 3)
            for low in cohort.offsets[:-1]:
                misfit = np.sum((grid - cohort.targets[low : low + shots]) ** 2, axis=0) / 0.4**2
                density = np.exp(-0.5 * ((grid - means[period][0]) ** 2 / 0.7**2 + misfit))
                np.testing.assert_allclose(got[low : low + 12, 0], density @ grid / density.sum(), atol=1e-9)
    life = stream.held_out("test", None)
    np.testing.assert_array_equal(
        stream.oracle(life, 2, 2), np.concatenate([stream.oracle(stream.held_out("test", s), 2, 2) for s in (0, 1)])
    )
    with pytest.raises(ValueError, match="shots must be between 0 and horizon = 1, got 2"):
        stream.oracle(life, 2, 1)


def test_bad_arguments_are_named():
    for wrong, message in [
        ({"dim": 0}, "dim must be >= 1, got 0"),
        ({"examples": 1}, "examples must be >= 2, got 1"),
        ({"spread": -1.0}, "spread must be >= 0, got -1.0"),
        ({"noise": 0.0}, "noise must be > 0, got 0.0"),
        ({"means": np.zeros((2, 2))}, r"means must have shape \(1, 2\), got \(2, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            quadratic(**wrong, **SIZES)
