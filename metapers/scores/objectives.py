"""Objectives: what a model's outputs mean, as a likelihood with labels of its own and one user's metrics."""

import math

import jax
import jax.numpy as jnp

from metapers.base import Array, Key, Objective, masked_mean

VARIANCE = 0.5  # of the Gaussian whose negative log-likelihood is (f - y)^2, without a factor


def squared_error() -> Objective:
    """Numbers: loss (f - y)^2 summed over trailing axes, a Gaussian of variance 1/2 around the output.

    ``outputs`` and ``targets`` have one shape, [n] or [n, ...]; another raises ValueError instead of being
    broadcast. ``sample`` draws f + sqrt(1/2) * normal. ``labels`` are D sigma points f + sqrt(D / 2) e_d of weight
    1/D, one entry of the output at a time: the weighted squares of their scores sum to 2 * sum_d (df_d)^2, which is
    the expectation under the Gaussian, exactly. ``scores``: mse and mae are means over a user's examples and
    trailing axes, rmse = sqrt(mse); all three are 0 for a user without examples.

    >>> squared_error().loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).tolist()
    [0.0, 4.0]
    """

    def loss(outputs: Array, targets: Array) -> Array:
        _same_shape(outputs, targets)
        return jnp.sum(jnp.square(_rows(outputs - targets)), axis=1)

    def sample(outputs: Array, key: Key) -> Array:
        return outputs + math.sqrt(VARIANCE) * jax.random.normal(key, outputs.shape, outputs.dtype)

    def scores(outputs: Array, targets: Array, mask: Array) -> dict[str, Array]:
        _same_shape(outputs, targets)
        error = _rows(outputs - targets)
        mse = masked_mean(jnp.mean(jnp.square(error), axis=1), mask)
        mae = masked_mean(jnp.mean(jnp.abs(error), axis=1), mask)
        return {"rmse": jnp.sqrt(mse), "mae": mae, "mse": mse}

    def labels(outputs: Array) -> tuple[Array, Array]:
        n, size = _rows(outputs).shape
        steps = math.sqrt(VARIANCE * size) * jnp.eye(size, dtype=outputs.dtype)
        steps = jnp.reshape(steps, (size, 1, *outputs.shape[1:]))
        return outputs[None] + steps, jnp.full((size, n), 1 / size, outputs.dtype)

    return Objective(loss, sample, scores, labels)


def cross_entropy() -> Objective:
    """Classes: loss -log softmax(outputs)[target]; ``outputs`` are logits [n, C], ``targets`` integers [n].

    ``labels`` are all C classes, weighted by their probabilities. ``scores``: accuracy (of the largest logit) and
    nll in nats, means over one user's examples, 0 without any. Logits and targets of other shapes and targets that
    are no integers raise ValueError. A class outside [0, C) has loss NaN: what stops a run, where an index that
    wraps or is clipped would train on a wrong class.

    >>> float(cross_entropy().loss(jnp.zeros((1, 4)), jnp.array([3]))[0]) == math.log(4)
    True
    """

    def loss(outputs: Array, targets: Array) -> Array:
        _classes(outputs, targets)
        # A negative index would count from the end; C is outside, and outside is NaN.
        index = jnp.where(targets < 0, outputs.shape[1], targets)
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs, axis=1), index[:, None], axis=1, mode="fill")[:, 0]

    def sample(outputs: Array, key: Key) -> Array:
        return jax.random.categorical(key, outputs, axis=1)

    def scores(outputs: Array, targets: Array, mask: Array) -> dict[str, Array]:
        hit = jnp.argmax(outputs, axis=1).astype(targets.dtype) == targets
        return {
            "accuracy": masked_mean(hit.astype(outputs.dtype), mask),
            "nll": masked_mean(loss(outputs, targets), mask),
        }

    def labels(outputs: Array) -> tuple[Array, Array]:
        n, classes = outputs.shape
        targets = jnp.broadcast_to(jnp.arange(classes, dtype=jnp.int32)[:, None], (classes, n))
        return targets, jax.nn.softmax(outputs, axis=1).T

    return Objective(loss, sample, scores, labels)


def _rows(x: Array) -> Array:
    return jnp.reshape(x, (x.shape[0], math.prod(x.shape[1:])))


def _same_shape(outputs: Array, targets: Array) -> None:
    if jnp.shape(outputs) != jnp.shape(targets):
        raise ValueError(f"targets must have the shape of outputs, {jnp.shape(outputs)}, got {jnp.shape(targets)}")


def _classes(outputs: Array, targets: Array) -> None:
    if jnp.ndim(outputs) != 2:
        raise ValueError(f"outputs must be logits [n, C], got shape {jnp.shape(outputs)}")
    if jnp.shape(targets) != jnp.shape(outputs)[:1]:
        raise ValueError(f"targets must have shape {jnp.shape(outputs)[:1]}, got {jnp.shape(targets)}")
    if not jnp.issubdtype(jnp.result_type(targets), jnp.integer):
        raise ValueError(f"targets must be integers in [0, {jnp.shape(outputs)[1]}), got {jnp.result_type(targets)}")
