"""A shared table of item embeddings under a network of each user's own."""

from collections.abc import Sequence

from flax import nnx

from metapers.base import Array, Key, Model
from metapers.models import seam
from metapers.models.layers import Embed
from metapers.models.mlp import MLP


class EmbeddingMLP(nnx.Module):
    """``embed/table`` [items, features] shared; ``mlp/dense_<i>`` personal."""

    def __init__(self, items: int, sizes: Sequence[int], rngs: nnx.Rngs):
        self.embed = Embed(items, sizes[0], rngs)
        self.mlp = MLP(sizes, rngs, body=seam.Personal, head=seam.Personal)

    def __call__(self, ids: Array, *, mask: Array, key: Key | None = None) -> Array:
        return self.mlp(self.embed(ids))


def embedding_mlp(items: int = 2000, sizes: Sequence[int] = (32, 64, 64, 1)) -> Model:
    """inputs: item ids int [n] (0 and ids outside the table share row 0) -> outputs [n, sizes[-1]].

    Raises:
      ValueError: items < 1, fewer than two sizes, or a size < 1.
    """
    if items < 1:
        raise ValueError(f"items must be >= 1, got {items}")
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least two numbers >= 1, got {list(sizes)}")
    return seam.model(lambda rngs: EmbeddingMLP(items, tuple(sizes), rngs))
