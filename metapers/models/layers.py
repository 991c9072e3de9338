"""Layers whose weights may be shared or personal, and that stay fast when every user has weights of his own.

``kind`` is the Variable type of a layer's parameters, so ``Dense(2, 3, rngs, kind=Personal)`` is a personal layer.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from metapers.base import Array
from metapers.models.kinds import BIASES, Film, LowRank


class Dense(nnx.Module):
    """y = x (W + A B) + b over the last axis; W ~ normal of variance 1 / inputs (truncated), b = 0.

    ``kernel`` W [inputs, outputs] is a Variable of type ``kind``, ``bias`` [outputs] of the type of its offsets
    (``kinds.BIASES``); ``scale`` multiplies the first weights. With ``low_rank`` r > 0 there are ``down`` A
    [inputs, r] ~ N(0, 1 / inputs) and ``up`` B [r, outputs] = 0, both of type ``kinds.LowRank`` (Hu et al. 2022,
    arXiv:2106.09685): no change at first. A B is never formed, so r stands for what a user costs.

    ``beside`` [k], a vector that is the same for every row: the last k rows of W are for it, x has inputs - k.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rngs: nnx.Rngs,
        *,
        kind: type[nnx.Param] = nnx.Param,
        scale: float = 1.0,
        low_rank: int = 0,
    ):
        self.kernel = kind(scale * nnx.initializers.lecun_normal()(rngs.params(), (inputs, outputs)))
        self.bias = BIASES.get(kind, kind)(jnp.zeros(outputs))
        self.low_rank = low_rank
        if low_rank:
            self.down = LowRank(inputs**-0.5 * jax.random.normal(rngs.params(), (inputs, low_rank)))
            self.up = LowRank(jnp.zeros((low_rank, outputs)))

    def __call__(self, x: Array, beside: Array | None = None) -> Array:
        y = _through(x, self.kernel[...], beside) + along_last(self.bias[...], x.ndim)
        return y + _through(x, self.down[...], beside) @ self.up[...] if self.low_rank else y


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


class FilmLayer(nnx.Module):
    """x · scale + shift over the last axis, both [features] of type ``kinds.Film``; 1 and 0 at first: no change.

    Source: Perez et al. 2018 (arXiv:1709.07871).
    """

    def __init__(self, features: int):
        self.scale, self.shift = Film(jnp.ones(features)), Film(jnp.zeros(features))

    def __call__(self, x: Array) -> Array:
        return x * along_last(self.scale[...], x.ndim) + along_last(self.shift[...], x.ndim)


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + 1e-5) · scale + shift, mean and variance over the last axis of each row.

    Source: Ba, Kiros, Hinton 2016 (arXiv:1607.06450).
    """

    def __init__(self, features: int, *, kind: type[nnx.Param] = nnx.Param):
        self.scale = kind(jnp.ones(features))
        self.shift = BIASES.get(kind, kind)(jnp.zeros(features))

    def __call__(self, x: Array) -> Array:
        centred = x - jnp.mean(x, -1, keepdims=True)
        unit = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + 1e-5)
        return unit * along_last(self.scale[...], x.ndim) + along_last(self.shift[...], x.ndim)


def along_last(vector: Array, ndim: int) -> Array:
    """A vector [c] with axes of size one before it, to stand beside an array of ``ndim`` axes."""
    return jnp.reshape(vector, (1,) * (ndim - 1) + vector.shape)


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


def max_pool(x: Array) -> Array:
    """The largest of each 2x2 square: [n, height, width, channels] -> [n, height // 2, width // 2, channels].

    An odd last row or column is left out. A reshape and a maximum, so that it stays one reduction under ``vmap`` and in
    second derivatives. Equal largest values share the gradient.

    Raises:
      ValueError: height or width < 2.
    """
    height, width = x.shape[1] // 2, x.shape[2] // 2
    if not (height and width):
        raise ValueError(f"x must be at least 2 x 2 to be pooled, got {x.shape[1]} x {x.shape[2]}")
    squares = jnp.reshape(x[:, : 2 * height, : 2 * width], (len(x), height, 2, width, 2, x.shape[3]))
    return jnp.max(squares, (2, 4))


def _through(x: Array, kernel: Array, beside: Array | None) -> Array:
    # In two products: what x contributes does not change while a user's vector does, and is computed once.
    if beside is None:
        return x @ kernel
    return x @ kernel[: -beside.size] + along_last(beside @ kernel[-beside.size :], x.ndim)
