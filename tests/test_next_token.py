"""The objective of sequences against hand-worked likelihoods; padding that changes nothing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys
from metapers.scores import cross_entropy, next_token

OBJECTIVE = next_token()
OUTPUTS = jax.random.normal(keys.named(keys.root(0), "outputs"), (4, 3, 5))
TARGETS = jnp.array([[1, 4, 2], [3, 0, 0], [0, 0, 0], [2, 0, 1]], jnp.int32)


def surprises():
    """-log p by hand, [n, length], NaN at padding."""
    weights = np.exp(np.asarray(OUTPUTS))
    shares = weights[..., 1:] / weights[..., 1:].sum(axis=-1, keepdims=True)
    found = np.full(TARGETS.shape, np.nan)
    for row, place in np.argwhere(np.asarray(TARGETS) > 0):
        found[row, place] = -np.log(shares[row, place, TARGETS[row, place] - 1])
    return found


def test_the_loss_is_the_mean_over_an_examples_own_tokens():
    by_hand = surprises()
    expected = [by_hand[0].mean(), by_hand[1, 0], 0.0, (by_hand[3, 0] + by_hand[3, 2]) / 2]
    np.testing.assert_allclose(OBJECTIVE.loss(OUTPUTS, TARGETS), expected, atol=1e-12)


def test_sequences_of_one_token_are_classes():
    logits, classes = OUTPUTS[:, 0, 1:], jnp.array([0, 3, 1, 1], jnp.int32)
    loss = OBJECTIVE.loss(OUTPUTS[:, :1], 1 + classes[:, None])
    np.testing.assert_allclose(loss, cross_entropy().loss(logits, classes), atol=1e-12)


def test_scores_are_per_token_not_per_example():
    mask = jnp.array([True, True, True, False])
    by_hand, best = surprises(), 1 + np.argmax(OUTPUTS[..., 1:], axis=-1)
    found = OBJECTIVE.scores(OUTPUTS, TARGETS, mask)
    np.testing.assert_allclose(found["nll"], (by_hand[0].sum() + by_hand[1, 0]) / 4, atol=1e-12)
    hits = [best[0, 0] == 1, best[0, 1] == 4, best[0, 2] == 2, best[1, 0] == 3]
    np.testing.assert_allclose(found["accuracy"], np.mean(hits), atol=1e-12)
    perfect = OBJECTIVE.scores(9 * jax.nn.one_hot(TARGETS, 5, dtype=OUTPUTS.dtype), TARGETS, mask)
    assert float(perfect["accuracy"]) == 1.0
    none = OBJECTIVE.scores(OUTPUTS, TARGETS, jnp.zeros(4, bool))
    assert {name: float(value) for name, value in none.items()} == {"accuracy": 0.0, "nll": 0.0}


def test_the_logit_of_padding_and_what_is_said_at_padding_change_nothing():
    wild = OUTPUTS.at[..., 0].set(jnp.nan)
    wild = jnp.where((TARGETS == 0)[..., None], jnp.nan, wild)
    np.testing.assert_allclose(OBJECTIVE.loss(wild, TARGETS), OBJECTIVE.loss(OUTPUTS, TARGETS), atol=1e-12)
    mask = jnp.array([True, True, True, True])
    for name, value in OBJECTIVE.scores(wild, TARGETS, mask).items():
        np.testing.assert_allclose(value, OBJECTIVE.scores(OUTPUTS, TARGETS, mask)[name], atol=1e-12)


def test_a_masked_example_changes_nothing_even_a_nan():
    mask = jnp.array([True, True, False, False])
    wild = OUTPUTS.at[3].set(jnp.nan)
    for name, value in OBJECTIVE.scores(wild, TARGETS, mask).items():
        np.testing.assert_allclose(value, OBJECTIVE.scores(OUTPUTS, TARGETS, mask)[name], atol=1e-12)


def test_the_gradient_is_share_minus_hit_over_the_tokens_and_nothing_at_padding():
    grad = np.asarray(jax.jit(jax.grad(lambda outputs: jnp.sum(OBJECTIVE.loss(outputs, TARGETS))))(OUTPUTS))
    weights = np.exp(np.asarray(OUTPUTS)[..., 1:])
    shares = weights / weights.sum(axis=-1, keepdims=True)
    there = np.asarray(TARGETS) > 0
    count = np.maximum(there.sum(axis=1), 1)
    hits = np.asarray(TARGETS)[..., None] == np.arange(1, 5)
    expected = (shares - hits) * (there / count[:, None])[..., None]
    np.testing.assert_allclose(grad[..., 1:], expected, atol=1e-12)
    assert not grad[..., 0].any()


@pytest.mark.parametrize("token", [-1, 5])
def test_a_token_outside_is_nan_not_another_one(token):
    loss = OBJECTIVE.loss(OUTPUTS, TARGETS.at[0, 1].set(token))
    assert math.isnan(loss[0]) and bool(jnp.isfinite(loss[1:]).all())


def test_samples_are_tokens_in_their_shares_and_never_padding():
    logits = jnp.broadcast_to(jnp.log(jnp.array([9.0, 1.0, 2.0, 1.0])), (3000, 2, 4))
    drawn = np.asarray(OBJECTIVE.sample(logits, keys.root(1)))
    assert drawn.shape == (3000, 2) and drawn.min() == 1
    np.testing.assert_allclose(np.bincount(drawn.ravel())[1:] / 6000, [0.25, 0.5, 0.25], atol=0.03)  # > 4 sigma
    assert OBJECTIVE.labels is None


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (OUTPUTS[0], TARGETS, r"outputs must be logits \[n, length, C\], got shape \(3, 5\)"),
        (OUTPUTS, TARGETS[:, :2], r"targets must have shape \(4, 3\), got \(4, 2\)"),
        (OUTPUTS, OUTPUTS[..., 0], r"targets must be integers in \[0, 5\), got float64"),
    ],
)
def test_wrong_shapes_are_refused(outputs, targets, message):
    for call in (
        lambda: OBJECTIVE.loss(outputs, targets),
        lambda: OBJECTIVE.scores(outputs, targets, jnp.ones(4, bool)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
