"""Numbers with a width: a Gaussian whose mean and variance are both the model's."""

import math

import jax
import jax.numpy as jnp

from metapers.base import Array, Key, Objective, masked_mean

NODES = (0.0, math.sqrt(3.0), -math.sqrt(3.0))  # Gauss-Hermite: exact for polynomials up to degree five
WEIGHTS = (2 / 3, 1 / 6, 1 / 6)


def gaussian() -> Objective:
    """Numbers: loss ½ log(2 pi v) + (y - m)² / (2 v), summed over trailing axes, in nats.

    ``outputs`` are {"mean": m, "variance": v}, both of the shape of ``targets``, [n] or [n, ...]; v > 0. ``sample``
    draws m + sqrt(v) * normal. ``labels``, for one number per example, are the three points m + sqrt(v) z with z in
    {0, sqrt 3, -sqrt 3} and weights 2/3, 1/6, 1/6: the score is quadratic in z, so its square is a polynomial of
    degree four, whose expectation these points give exactly, dm² / v + dv² / (2 v²). ``scores``: rmse, mae and mse
    of the mean, and nll (the loss) with the trailing axes averaged; all are 0 for a user without examples.

    >>> outputs = {"mean": jnp.array([1.0]), "variance": jnp.array([1 / (2 * math.pi)])}
    >>> float(gaussian().loss(outputs, jnp.array([1.0]))[0])
    0.0

    Raises:
      ValueError: mean, variance and targets differ in shape, or labels of more than one number per example.
    """

    def loss(outputs: dict[str, Array], targets: Array) -> Array:
        return jnp.sum(_nll(outputs, targets), axis=1)

    def sample(outputs: dict[str, Array], key: Key) -> Array:
        mean, variance = outputs["mean"], outputs["variance"]
        return mean + jnp.sqrt(variance) * jax.random.normal(key, mean.shape, mean.dtype)

    def scores(outputs: dict[str, Array], targets: Array, mask: Array) -> dict[str, Array]:
        nll = masked_mean(jnp.mean(_nll(outputs, targets), axis=1), mask)
        error = _rows(outputs["mean"] - targets)
        mse = masked_mean(jnp.mean(jnp.square(error), axis=1), mask)
        mae = masked_mean(jnp.mean(jnp.abs(error), axis=1), mask)
        return {"rmse": jnp.sqrt(mse), "mae": mae, "mse": mse, "nll": nll}

    def labels(outputs: dict[str, Array]) -> tuple[Array, Array]:
        mean, deviation = outputs["mean"], jnp.sqrt(outputs["variance"])
        if _rows(mean).shape[1] != 1:
            raise ValueError(f"labels need one number per example, got outputs of shape {mean.shape}")
        points = jnp.stack([mean + node * deviation for node in NODES])
        weights = jnp.asarray(WEIGHTS, mean.dtype)
        return points, jnp.broadcast_to(weights[:, None], (len(NODES), mean.shape[0]))

    return Objective(loss, sample, scores, labels)


def _nll(outputs: dict[str, Array], targets: Array) -> Array:
    mean, variance = outputs["mean"], outputs["variance"]
    for name, shape in (("variance", jnp.shape(variance)), ("targets", jnp.shape(targets))):
        if shape != jnp.shape(mean):
            raise ValueError(f"{name} must have the shape of the mean, {jnp.shape(mean)}, got {shape}")
    return _rows(0.5 * jnp.log(2 * math.pi * variance) + jnp.square(targets - mean) / (2 * variance))


def _rows(x: Array) -> Array:
    return jnp.reshape(x, (x.shape[0], math.prod(x.shape[1:])))
