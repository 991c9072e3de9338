"""Layers whose weights may be shared or personal, and that stay fast when every user has weights of his own.

``kind`` is the Variable type of a layer's parameters, so ``Dense(2, 3, rngs, kind=Personal)`` is a personal layer.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from metapers.base import Array
from metapers.models.kinds import BIASES


class Dense(nnx.Module):
    """y = x W + b over the last axis; W ~ normal of variance 1 / inputs (truncated), b = 0.

    ``kernel`` [inputs, outputs] is a Variable of type ``kind``, ``bias`` [outputs] of the type of its offsets
    (``kinds.BIASES``); ``scale`` multiplies the first weights.
    """

    def __init__(
        self, inputs: int, outputs: int, rngs: nnx.Rngs, *, kind: type[nnx.Param] = nnx.Param, scale: float = 1.0
    ):
        self.kernel = kind(scale * nnx.initializers.lecun_normal()(rngs.params(), (inputs, outputs)))
        self.bias = BIASES.get(kind, kind)(jnp.zeros(outputs))

    def __call__(self, x: Array) -> Array:
        return x @ self.kernel[...] + along_last(self.bias[...], x.ndim)


class Embed(nnx.Module):
    """Rows of a table by id; row 0 serves every id that is not in the table, so it is what unseen ids share.

    ``table`` [rows, features] ~ ``scale`` · N(0, 1), of type ``kind``. Ids are integers of any shape.
    """

    def __init__(
        self, rows: int, features: int, rngs: nnx.Rngs, *, kind: type[nnx.Param] = nnx.Param, scale: float = 1.0
    ):
        self.table = kind(scale * jax.random.normal(rngs.params(), (rows, features)))

    def __call__(self, ids: Array) -> Array:
        table = self.table[...]
        known = jnp.where((ids >= 0) & (ids < table.shape[0]), ids, 0)
        return table.at[known].get(mode="promise_in_bounds")


class Conv3x3(nnx.Module):
    """3x3 convolution, padding 1, NHWC, as patches x weights; ``kernel`` [3, 3, channels, filters] is He-normal."""

    def __init__(
        self, channels: int, filters: int, rngs: nnx.Rngs, *, stride: int = 1, kind: type[nnx.Param] = nnx.Param
    ):
        deviation = (2 / (9 * channels)) ** 0.5
        self.kernel = kind(deviation * jax.random.normal(rngs.params(), (3, 3, channels, filters)))
        self.bias = BIASES.get(kind, kind)(jnp.zeros(filters))
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        return conv_patches(x, self.kernel[...], self.stride) + along_last(self.bias[...], x.ndim)


class BatchNorm(nnx.Module):
    """(x - mean) / sqrt(variance + 1e-5) · scale + shift, with the statistics of the unmasked rows at hand.

    Nothing is remembered between calls. x [n, height, width, channels], mask [n]. A row's output depends on the
    other rows (transduction); masked rows change none of them.
    """

    def __init__(self, channels: int, *, kind: type[nnx.Param] = nnx.Param):
        self.scale = kind(jnp.ones(channels))
        self.shift = BIASES.get(kind, kind)(jnp.zeros(channels))

    def __call__(self, x: Array, mask: Array) -> Array:
        mean = over_rows(jnp.mean(x, (1, 2)), mask)
        centred = x - along_last(mean, x.ndim)
        variance = over_rows(jnp.mean(jnp.square(centred), (1, 2)), mask)
        gain = jax.lax.rsqrt(variance + 1e-5) * self.scale[...]
        return centred * along_last(gain, x.ndim) + along_last(self.shift[...], x.ndim)


def along_last(vector: Array, ndim: int) -> Array:
    """A vector [c] with axes of size one before it, to stand beside an array of ``ndim`` axes."""
    return jnp.reshape(vector, (1,) * (ndim - 1) + vector.shape)


def over_rows(rows: Array, mask: Array) -> Array:
    """Mean [c] over the unmasked rows of ``rows`` [n, c]; mask [n]."""
    kept = jnp.where(mask[:, None], rows, jnp.zeros_like(rows))
    return jnp.sum(kept, 0) / jnp.maximum(jnp.sum(mask, dtype=rows.dtype), 1)


def conv_patches(x: Array, kernel: Array, stride: int = 1) -> Array:
    """3x3 convolution with padding 1 as one matrix product; equals ``jax.lax.conv_general_dilated``.

    x [n, height, width, channels], kernel [3, 3, channels, filters] -> [n, ceil(height / stride), ceil(width /
    stride), filters]. Under ``vmap`` over users who each have a kernel this stays a batched product, where a
    convolution becomes a grouped one, whose gradient is many times slower on a CPU.

    Raises:
      ValueError: stride < 1, or a kernel that is not [3, 3, channels of x, filters].
    """
    if stride < 1:
        raise ValueError(f"stride must be >= 1, got {stride}")
    n, height, width, channels = x.shape
    if kernel.ndim != 4 or kernel.shape[:3] != (3, 3, channels):
        raise ValueError(f"kernel must be [3, 3, {channels}, filters], got {list(kernel.shape)}")
    rows, columns = -(-height // stride), -(-width // stride)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def shifted(down: int, right: int) -> Array:
        last = (n, down + (rows - 1) * stride + 1, right + (columns - 1) * stride + 1, channels)
        return jax.lax.slice(padded, (0, down, right, 0), last, (1, stride, stride, 1))

    patches = jnp.concatenate([shifted(down, right) for down in range(3) for right in range(3)], -1)
    flat = jnp.reshape(patches, (n * rows * columns, 9 * channels)) @ jnp.reshape(kernel, (9 * channels, -1))
    return jnp.reshape(flat, (n, rows, columns, kernel.shape[3]))
