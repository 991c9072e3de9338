"""Objectives against their densities: closed forms, hand-worked arrays, sampling bounds."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from metapers import keys
from metapers.scores import cross_entropy, squared_error

SHAPES = [(4,), (4, 1), (4, 3), (4, 2, 3)]


def numbers(name, shape):
    return jax.jit(jax.random.normal, static_argnums=1)(keys.named(keys.root(0), name), shape)


@partial(jax.jit, static_argnums=0)
def squared_scores(objective, outputs):
    """Sum over labels of weight * (d loss_i / d outputs_i)^2, entry by entry: [n, ...]."""
    targets, weights = objective.labels(outputs)

    def of_label(targets, weight):
        grad = jax.grad(lambda outputs: jnp.sum(objective.loss(outputs, targets)))(outputs)
        return jnp.reshape(weight, weight.shape + (1,) * (grad.ndim - 1)) * grad**2

    return jnp.sum(jax.vmap(of_label)(targets, weights), axis=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_squared_error_is_a_gaussian_of_variance_one_half_up_to_a_constant(shape):
    f, y = np.asarray(numbers("f", shape)), np.asarray(numbers("y", shape))
    density = scipy.stats.norm.logpdf(y, f, math.sqrt(0.5)).reshape(4, -1).sum(axis=1)
    constant = 0.5 * math.log(math.pi) * math.prod(shape[1:])
    np.testing.assert_allclose(jax.jit(squared_error().loss)(f, y), -density - constant, atol=1e-12)


def test_cross_entropy_is_the_categorical_likelihood():
    logits, y = numbers("logits", (5, 3)), jnp.array([0, 2, 1, 1, 0])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(jax.jit(cross_entropy().loss)(logits, y), -np.log(p[np.arange(5), y]), atol=1e-12)


def test_cross_entropy_survives_large_logits():
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    np.testing.assert_allclose(jax.jit(cross_entropy().loss)(logits, jnp.array([0, 0])), [0.0, 2e4])


@pytest.mark.parametrize("shape", SHAPES)
def test_sigma_points_give_the_exact_fisher_of_each_output(shape):
    # E (d log p / d f)^2 = 1 / variance = 2, in every entry and whatever f is
    np.testing.assert_allclose(squared_scores(squared_error(), numbers("f", shape)), np.full(shape, 2.0), atol=1e-12)


def test_sigma_points_add_no_cross_terms_between_entries():
    # the score of a parameter that moves both entries, f = (a w, b w), is 2 (a^2 + b^2), not 2 (a + b)^2
    objective, f = squared_error(), jnp.array([[0.3, -0.7]])
    a = jnp.array([[2.0, 5.0]])

    @jax.jit
    def total():
        targets, weights = objective.labels(f)
        scores = jax.vmap(lambda t: jax.grad(lambda w: objective.loss(f + a * w, t)[0])(0.0))(targets)
        return jnp.sum(weights[:, 0] * scores**2)

    np.testing.assert_allclose(total(), 2 * (4 + 25))


def test_class_labels_give_the_exact_fisher_of_each_logit():
    logits = numbers("logits", (5, 4))
    p = scipy.special.softmax(logits, axis=1)
    np.testing.assert_allclose(squared_scores(cross_entropy(), logits), p * (1 - p), atol=1e-12)


@pytest.mark.parametrize("objective, outputs", [(squared_error(), (4, 3)), (cross_entropy(), (4, 3))])
def test_weights_are_a_probability_for_each_example(objective, outputs):
    _, weights = jax.jit(objective.labels)(numbers("outputs", outputs))
    assert weights.shape == (3, 4)
    np.testing.assert_allclose(np.sum(weights, axis=0), np.ones(4), atol=1e-12)


def test_squared_error_samples_have_the_mean_and_variance_of_the_likelihood():
    n = 20000
    f = np.broadcast_to([[3.0, -1.0]], (n, 2))
    draws = np.asarray(jax.jit(squared_error().sample)(f, keys.root(1)))
    assert np.all(np.abs(draws.mean(axis=0) - [3.0, -1.0]) < 4.5 * math.sqrt(0.5 / n))
    assert np.all(np.abs(draws.var(axis=0) - 0.5) < 4.5 * 0.5 * math.sqrt(2 / n))
    assert abs(np.corrcoef(draws.T)[0, 1]) < 4.5 / math.sqrt(n)


def test_cross_entropy_samples_have_the_frequencies_of_the_likelihood():
    n, p = 20000, np.array([0.1, 0.2, 0.7])
    draws = np.asarray(jax.jit(cross_entropy().sample)(np.broadcast_to(np.log(p), (n, 3)), keys.root(2)))
    assert np.all(np.abs(np.bincount(draws, minlength=3) / n - p) < 4.5 * np.sqrt(p * (1 - p) / n))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_squared_error_scores_by_hand(shape):
    outputs = np.array([1.0, 2.0, 3.0, math.nan]).reshape(shape)
    targets = np.array([1.0, 5.0, -1.0, math.inf]).reshape(shape)
    scores = jax.jit(squared_error().scores)(outputs, targets, jnp.array([True, True, True, False]))
    assert set(scores) == {"rmse", "mae", "mse"}
    np.testing.assert_allclose([scores["mse"], scores["mae"]], [25 / 3, 7 / 3])
    np.testing.assert_allclose(scores["rmse"], math.sqrt(25 / 3))


def test_squared_error_scores_are_means_over_trailing_axes():
    scores = jax.jit(squared_error().scores)(jnp.array([[1.0, 3.0]]), np.zeros((1, 2)), jnp.array([True]))
    np.testing.assert_allclose([scores["mse"], scores["mae"]], [5.0, 2.0])


def test_cross_entropy_scores_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [math.nan] * 3])
    scores = jax.jit(cross_entropy().scores)(logits, jnp.array([0, 2, 9]), jnp.array([True, True, False]))
    assert set(scores) == {"accuracy", "nll"}
    np.testing.assert_allclose([scores["accuracy"], scores["nll"]], [0.5, (math.log(2) + math.log(4)) / 2])


def test_an_empty_mask_scores_zero():
    empty = np.zeros(2, bool)
    for scores in (
        jax.jit(squared_error().scores)(np.ones(2), np.zeros(2), empty),
        jax.jit(cross_entropy().scores)(np.ones((2, 3)), np.array([0, 1]), empty),
    ):
        assert all(float(x) == 0 for x in scores.values())


@pytest.mark.parametrize(
    "outputs, targets", [((4,), (4, 1)), ((4, 1), (4,)), ((4, 1), (4, 4)), ((4,), (1,)), ((4,), ())]
)
def test_shapes_that_numpy_would_broadcast_are_refused(outputs, targets):
    objective, f, y = squared_error(), jnp.asarray(np.zeros(outputs)), jnp.asarray(np.zeros(targets))
    with pytest.raises(ValueError, match="targets must have the shape of outputs"):
        objective.loss(f, y)
    with pytest.raises(ValueError, match="targets must have the shape of outputs"):
        objective.scores(f, y, jnp.ones(4, bool))


@pytest.mark.parametrize(
    "outputs, targets, message",
    [
        (np.zeros(4), np.zeros(4, int), "outputs must be logits"),
        (np.zeros((4, 3)), np.zeros((4, 1), int), "targets must have shape"),
        (np.zeros((4, 3)), np.zeros(3, int), "targets must have shape"),
        (np.zeros((4, 3)), np.zeros(4), "targets must be integers"),
    ],
)
def test_cross_entropy_refuses_what_it_cannot_mean(outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        cross_entropy().loss(jnp.asarray(outputs), jnp.asarray(targets))


@pytest.mark.parametrize("target", [-1, 3])
def test_a_class_that_does_not_exist_is_loud(target):
    losses = np.asarray(jax.jit(cross_entropy().loss)(np.zeros((2, 3)), np.array([target, 2])))
    assert np.isnan(losses[0]) and np.isfinite(losses[1])


def test_float32_stays_float32():
    def all_of(objective, f, y):
        return objective.labels(f), objective.scores(f, y, jnp.ones(2, bool)), objective.loss(f, y)

    f = np.zeros((2, 3), np.float32)
    for objective, y in ((squared_error(), f), (cross_entropy(), np.zeros(2, np.int32))):
        (targets, weights), scores, loss = jax.eval_shape(partial(all_of, objective), f, y)
        assert {x.dtype for x in (loss, weights, *scores.values())} == {jnp.dtype("float32")}
        assert targets.dtype == y.dtype
