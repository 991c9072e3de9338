"""Objectives against their densities: closed forms, hand-worked arrays, sampling bounds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys
from metapers.scores import cross_entropy, squared_error

SHAPES = [(4,), (4, 1), (4, 3), (4, 2, 3)]


def numbers(name, shape):
    return jax.random.normal(keys.named(keys.root(0), name), shape)


def squared_scores(objective, outputs):
    """Sum over labels of weight * (d loss_i / d outputs_i)^2, entry by entry: [n, ...]."""
    targets, weights = objective.labels(outputs)

    def of_label(targets, weight):
        grad = jax.grad(lambda outputs: jnp.sum(objective.loss(outputs, targets)))(outputs)
        return jnp.reshape(weight, weight.shape + (1,) * (grad.ndim - 1)) * grad**2

    return jnp.sum(jax.vmap(of_label)(targets, weights), axis=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_squared_error_is_a_gaussian_of_variance_one_half_up_to_a_constant(shape):
    f, y = numbers("f", shape), numbers("y", shape)
    density = jax.scipy.stats.norm.logpdf(y, f, math.sqrt(0.5)).reshape(4, -1).sum(axis=1)
    constant = 0.5 * math.log(math.pi) * math.prod(shape[1:])
    np.testing.assert_allclose(squared_error().loss(f, y), -density - constant, atol=1e-12)


def test_cross_entropy_is_the_categorical_likelihood():
    logits, y = numbers("logits", (5, 3)), jnp.array([0, 2, 1, 1, 0])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(cross_entropy().loss(logits, y), -np.log(p[np.arange(5), y]), atol=1e-12)


def test_cross_entropy_survives_large_logits():
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    np.testing.assert_allclose(cross_entropy().loss(logits, jnp.array([0, 0])), [0.0, 2e4])


@pytest.mark.parametrize("shape", SHAPES)
def test_sigma_points_give_the_exact_fisher_of_each_output(shape):
    # E (d log p / d f)^2 = 1 / variance = 2, in every entry and whatever f is
    np.testing.assert_allclose(squared_scores(squared_error(), numbers("f", shape)), np.full(shape, 2.0), atol=1e-12)


def test_sigma_points_add_no_cross_terms_between_entries():
    # the score of a parameter that moves both entries, f = (a w, b w), is 2 (a^2 + b^2), not 2 (a + b)^2
    objective, f = squared_error(), jnp.array([[0.3, -0.7]])
    a = jnp.array([[2.0, 5.0]])
    targets, weights = objective.labels(f)
    scores = jax.vmap(lambda t: jax.grad(lambda w: objective.loss(f + a * w, t)[0])(0.0))(targets)
    np.testing.assert_allclose(jnp.sum(weights[:, 0] * scores**2), 2 * (4 + 25))


def test_class_labels_give_the_exact_fisher_of_each_logit():
    logits = numbers("logits", (5, 4))
    p = np.asarray(jax.nn.softmax(logits, axis=1))
    np.testing.assert_allclose(squared_scores(cross_entropy(), logits), p * (1 - p), atol=1e-12)


@pytest.mark.parametrize("objective, outputs", [(squared_error(), (4, 3)), (cross_entropy(), (4, 3))])
def test_weights_are_a_probability_for_each_example(objective, outputs):
    _, weights = objective.labels(numbers("outputs", outputs))
    assert weights.shape == (3, 4)
    np.testing.assert_allclose(jnp.sum(weights, axis=0), np.ones(4), atol=1e-12)


def test_squared_error_samples_have_the_mean_and_variance_of_the_likelihood():
    n = 20000
    f = jnp.broadcast_to(jnp.array([[3.0, -1.0]]), (n, 2))
    draws = np.asarray(squared_error().sample(f, keys.root(1)))
    assert np.all(np.abs(draws.mean(axis=0) - [3.0, -1.0]) < 4.5 * math.sqrt(0.5 / n))
    assert np.all(np.abs(draws.var(axis=0) - 0.5) < 4.5 * 0.5 * math.sqrt(2 / n))
    assert abs(np.corrcoef(draws.T)[0, 1]) < 4.5 / math.sqrt(n)


def test_cross_entropy_samples_have_the_frequencies_of_the_likelihood():
    n, p = 20000, np.array([0.1, 0.2, 0.7])
    draws = np.asarray(cross_entropy().sample(jnp.broadcast_to(jnp.log(jnp.asarray(p)), (n, 3)), keys.root(2)))
    assert np.all(np.abs(np.bincount(draws, minlength=3) / n - p) < 4.5 * np.sqrt(p * (1 - p) / n))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_squared_error_scores_by_hand(shape):
    outputs = jnp.array([1.0, 2.0, 3.0, math.nan]).reshape(shape)
    targets = jnp.array([1.0, 5.0, -1.0, math.inf]).reshape(shape)
    scores = squared_error().scores(outputs, targets, jnp.array([True, True, True, False]))
    assert set(scores) == {"rmse", "mae", "mse"}
    np.testing.assert_allclose([scores["mse"], scores["mae"]], [25 / 3, 7 / 3])
    np.testing.assert_allclose(scores["rmse"], math.sqrt(25 / 3))


def test_squared_error_scores_are_means_over_trailing_axes():
    scores = squared_error().scores(jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2)), jnp.array([True]))
    np.testing.assert_allclose([scores["mse"], scores["mae"]], [5.0, 2.0])


def test_cross_entropy_scores_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [math.nan] * 3]))
    scores = cross_entropy().scores(logits, jnp.array([0, 2, 9]), jnp.array([True, True, False]))
    assert set(scores) == {"accuracy", "nll"}
    np.testing.assert_allclose([scores["accuracy"], scores["nll"]], [0.5, (math.log(2) + math.log(4)) / 2])


def test_an_empty_mask_scores_zero():
    empty = jnp.zeros(2, bool)
    for scores in (
        squared_error().scores(jnp.ones(2), jnp.zeros(2), empty),
        cross_entropy().scores(jnp.ones((2, 3)), jnp.array([0, 1]), empty),
    ):
        assert all(float(x) == 0 for x in scores.values())


@pytest.mark.parametrize(
    "outputs, targets", [((4,), (4, 1)), ((4, 1), (4,)), ((4, 1), (4, 4)), ((4,), (1,)), ((4,), ())]
)
def test_shapes_that_numpy_would_broadcast_are_refused(outputs, targets):
    objective, f, y = squared_error(), jnp.zeros(outputs), jnp.zeros(targets)
    with pytest.raises(ValueError, match="targets must have the shape of outputs"):
        objective.loss(f, y)
    with pytest.raises(ValueError, match="targets must have the shape of outputs"):
        objective.scores(f, y, jnp.ones(4, bool))


@pytest.mark.parametrize(
    "outputs, targets, message",
    [
        (jnp.zeros(4), jnp.zeros(4, int), "outputs must be logits"),
        (jnp.zeros((4, 3)), jnp.zeros((4, 1), int), "targets must have shape"),
        (jnp.zeros((4, 3)), jnp.zeros(3, int), "targets must have shape"),
        (jnp.zeros((4, 3)), jnp.zeros(4), "targets must be integers"),
    ],
)
def test_cross_entropy_refuses_what_it_cannot_mean(outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        cross_entropy().loss(outputs, targets)


@pytest.mark.parametrize("target", [-1, 3])
def test_a_class_that_does_not_exist_is_loud(target):
    losses = cross_entropy().loss(jnp.zeros((2, 3)), jnp.array([target, 2]))
    assert np.isnan(losses[0]) and np.isfinite(losses[1])


def test_float32_stays_float32():
    f = jnp.zeros((2, 3), jnp.float32)
    for objective, y in ((squared_error(), f), (cross_entropy(), jnp.zeros(2, jnp.int32))):
        targets, weights = objective.labels(f)
        scores = objective.scores(f, y, jnp.ones(2, bool))
        assert {x.dtype for x in (objective.loss(f, y), weights, *scores.values())} == {jnp.dtype("float32")}
        assert targets.dtype == y.dtype
