"""Dense layers with relu between them; all of it adapts, or only the last layer."""

from collections.abc import Sequence

import jax
from flax import nnx

from metapers.base import Array, Key, Model
from metapers.models import seam
from metapers.models.kinds import Body, Head
from metapers.models.layers import Dense


class MLP(nnx.Module):
    """``dense_0`` ... of the given sizes, relu between; the last layer is of type ``head``, the others ``body``."""

    def __init__(
        self,
        sizes: Sequence[int],
        rngs: nnx.Rngs,
        *,
        body: type[nnx.Param] = Body,
        head: type[nnx.Param] = Head,
        scalar: bool = False,
    ):
        self.depth, self.scalar = len(sizes) - 1, scalar
        for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
            kind = head if i + 1 == self.depth else body
            setattr(self, f"dense_{i}", Dense(inputs, outputs, rngs, kind=kind))

    def __call__(self, x: Array, *, mask: Array | None = None, key: Key | None = None) -> Array:
        for i in range(self.depth):
            x = getattr(self, f"dense_{i}")(x)
            if i + 1 < self.depth:
                x = jax.nn.relu(x)
        return x[..., 0] if self.scalar else x


def mlp(
    sizes: Sequence[int], *, adapts: tuple[type[nnx.Variable], ...] = seam.EVERYTHING, scalar: bool = False
) -> Model:
    """inputs [n, sizes[0]] -> outputs [n, sizes[-1]] through dense layers with relu between them.

    By default every layer is personal; with ``adapts=(Personal,)`` only the last one is (the head) and the body is
    shared. Parameters: ``dense_<i>`` / ``kernel`` [in, out], ``bias`` [out]. ``scalar``: outputs [n], for targets
    that are plain numbers; sizes[-1] must be 1.

    Raises:
      ValueError: fewer than two sizes, a size < 1, or scalar with sizes[-1] other than 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least two numbers >= 1, got {list(sizes)}")
    if scalar and sizes[-1] != 1:
        raise ValueError(f"sizes must end in 1 for scalar outputs, got {list(sizes)}")
    return seam.model(lambda rngs: MLP(tuple(sizes), rngs, scalar=scalar), adapts)
