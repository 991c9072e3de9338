"""The Gaussian objective: values by hand, quadrature against a fine grid, masks, shapes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import scores

OBJECTIVE = scores.gaussian()
MEAN, VARIANCE = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.25, 4.0, 1.0])
TARGETS = jnp.array([2.0, -2.0, 3.5])
OUTPUTS = {"mean": MEAN, "variance": VARIANCE}


def test_loss_by_hand():
    half_log = 0.5 * math.log(2 * math.pi)
    expected = [half_log + math.log(0.5) + 2.0, half_log + math.log(2.0), half_log + 4.5]
    np.testing.assert_allclose(OBJECTIVE.loss(OUTPUTS, TARGETS), expected, rtol=1e-14)


def test_density_integrates_to_one():
    grid = jnp.linspace(-40.0, 40.0, 8001)
    same = {name: jnp.full_like(grid, value[1]) for name, value in OUTPUTS.items()}
    assert jnp.sum(jnp.exp(-OBJECTIVE.loss(same, grid))) * 0.01 == pytest.approx(1.0, abs=1e-12)


def test_trailing_axes_are_summed_in_the_loss_and_averaged_in_the_scores():
    wide = {name: jnp.stack([value, 2 * value], 1) for name, value in OUTPUTS.items()}
    both = OBJECTIVE.loss(wide, jnp.stack([TARGETS, TARGETS], 1))
    second = OBJECTIVE.loss({name: 2 * value for name, value in OUTPUTS.items()}, TARGETS)
    np.testing.assert_allclose(both, OBJECTIVE.loss(OUTPUTS, TARGETS) + second, rtol=1e-14)
    found = OBJECTIVE.scores(wide, jnp.stack([TARGETS, TARGETS], 1), jnp.ones(3, bool))
    assert float(found["nll"]) == pytest.approx(float(jnp.mean(both)) / 2, rel=1e-14)


def test_scores_by_hand_and_masks():
    targets = TARGETS.at[1].set(jnp.nan)
    found = OBJECTIVE.scores(OUTPUTS, targets, jnp.array([True, False, True]))
    losses = OBJECTIVE.loss(OUTPUTS, TARGETS)
    expected = {"rmse": math.sqrt(5.0), "mae": 2.0, "mse": 5.0, "nll": (losses[0] + losses[2]) / 2}
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-14)
    assert all(float(v) == 0 for v in OBJECTIVE.scores(OUTPUTS, targets, jnp.zeros(3, bool)).values())


@jax.jit
def samples(seed):
    """40,000 draws of the targets."""
    keys = jax.random.split(jax.random.key(seed), 40_000)
    return jax.vmap(lambda key: OBJECTIVE.sample(OUTPUTS, key))(keys)


def test_labels_give_the_expected_square_of_the_score_exactly():
    rate = jnp.array([[0.7, -1.1], [0.2, 0.9], [1.3, 0.4]])  # how mean and log-variance move with one parameter

    def loss(theta, targets):
        moved = {"mean": MEAN + rate[:, 0] * theta, "variance": VARIANCE * jnp.exp(rate[:, 1] * theta)}
        return OBJECTIVE.loss(moved, targets)

    compiled = jax.jit(jax.vmap(lambda targets: jax.jacobian(loss)(0.0, targets)))
    scores_of = lambda targets: np.asarray(compiled(targets))
    assert OBJECTIVE.labels is not None
    points, weights = jax.device_get(jax.jit(OBJECTIVE.labels)(OUTPUTS))
    found = np.sum(weights * np.square(scores_of(points)), 0)
    np.testing.assert_allclose(np.sum(weights * scores_of(points), 0), 0.0, atol=1e-14)
    rate = np.asarray(rate)
    np.testing.assert_allclose(found, rate[:, 0] ** 2 / np.asarray(VARIANCE) + rate[:, 1] ** 2 / 2, rtol=1e-12)
    np.testing.assert_allclose(np.square(scores_of(samples(0))).mean(0), found, rtol=0.05)


def test_samples_have_mean_and_variance():
    drawn = np.asarray(samples(1))
    np.testing.assert_allclose(drawn.mean(0), MEAN, atol=0.05)
    np.testing.assert_allclose(drawn.var(0), VARIANCE, rtol=0.04)


def test_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"targets must have the shape of the mean, \(3,\), got \(3, 1\)"):
        OBJECTIVE.loss(OUTPUTS, TARGETS[:, None])
    with pytest.raises(ValueError, match=r"variance must have the shape of the mean, \(3,\), got \(2,\)"):
        OBJECTIVE.loss({"mean": MEAN, "variance": VARIANCE[:2]}, TARGETS)
    assert OBJECTIVE.labels is not None
    with pytest.raises(ValueError, match="labels need one number per example"):
        OBJECTIVE.labels({"mean": jnp.zeros((3, 2)), "variance": jnp.ones((3, 2))})
