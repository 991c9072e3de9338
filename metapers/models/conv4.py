"""Four convolutions and a linear layer: the usual network for few-shot images, all of it personal."""

import jax
import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Key, Model
from metapers.models import seam
from metapers.models.kinds import Body, Head
from metapers.models.layers import BatchNorm, Conv3x3, Dense


class Conv4(nnx.Module):
    """``conv_<i>``, ``norm_<i>`` for i in 0..3, then ``head``."""

    def __init__(self, ways: int, filters: int, channels: int, rngs: nnx.Rngs):
        for i in range(4):
            setattr(self, f"conv_{i}", Conv3x3(channels if i == 0 else filters, filters, rngs, stride=2, kind=Body))
            setattr(self, f"norm_{i}", BatchNorm(filters, kind=Body))
        self.head = Dense(filters, ways, rngs, kind=Head)

    def __call__(self, x: Array, *, mask: Array, key: Key | None = None) -> Array:
        for i in range(4):
            x = jax.nn.relu(getattr(self, f"norm_{i}")(getattr(self, f"conv_{i}")(x), mask))
        return self.head(jnp.mean(x, (1, 2)))


def conv4(ways: int, filters: int = 64, *, channels: int = 1) -> Model:
    """images [n, height, width, channels] -> logits [n, ways]: 4 x (3x3 convolution of stride 2, norm, relu), mean
    over space, linear; every parameter is personal.

    The predictions are *transductive*: the norm uses the mean and variance of the rows it is called with, so the
    answer for one query depends on the other unmasked queries beside it. A report on this model must say so.

    Source: Finn, Abbeel, Levine 2017 (arXiv:1703.03400), appendix on Omniglot (strided, no pooling).

    Raises:
      ValueError: ways, filters or channels < 1.
    """
    for name, value in (("ways", ways), ("filters", filters), ("channels", channels)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    return seam.model(lambda rngs: Conv4(ways, filters, channels, rngs), seam.EVERYTHING)
