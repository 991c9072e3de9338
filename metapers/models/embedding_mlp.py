"""A shared table of item embeddings under a network of each user's own."""

from collections.abc import Mapping, Sequence

from flax import nnx

from metapers.base import Array, Key, Model
from metapers.members import Member
from metapers.models import seam
from metapers.models.facts import ModelFacts
from metapers.models.layers import Embed
from metapers.models.mlp import MLP
from metapers.options import Option


class EmbeddingMLP(nnx.Module):
    """``embed/table`` [items, features] shared; ``mlp/dense_<i>`` personal."""

    def __init__(self, items: int, sizes: Sequence[int], rngs: nnx.Rngs, *, scalar: bool = False):
        self.embed = Embed(items, sizes[0], rngs)
        self.mlp = MLP(sizes, rngs, body=seam.Personal, head=seam.Personal, scalar=scalar)

    def __call__(self, ids: Array, *, mask: Array, key: Key | None = None) -> Array:
        return self.mlp(self.embed(ids))


def embedding_mlp(items: int = 2000, sizes: Sequence[int] = (32, 64, 64, 1), *, scalar: bool = False) -> Model:
    """inputs: item ids int [n] (0 and ids outside the table share row 0) -> outputs [n, sizes[-1]].

    ``scalar``: outputs [n], for targets that are plain numbers; sizes[-1] must be 1.

    Raises:
      ValueError: items < 1, fewer than two sizes, a size < 1, or scalar with sizes[-1] other than 1.
    """
    if items < 1:
        raise ValueError(f"items must be >= 1, got {items}")
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least two numbers >= 1, got {list(sizes)}")
    if scalar and sizes[-1] != 1:
        raise ValueError(f"sizes must end in 1 for scalar outputs, got {list(sizes)}")
    return seam.model(lambda rngs: EmbeddingMLP(items, tuple(sizes), rngs, scalar=scalar))


def _from_sizes(sizes: Mapping[str, int], *, features: int, hidden: tuple[int, ...]) -> Model:
    rows = sizes["items"] + 1  # row 0: an item that training never met
    return embedding_mlp(rows, (features, *hidden, sizes.get("classes", 1)), scalar="classes" not in sizes)


EMBEDDING_MLP_MEMBER = Member(
    _from_sizes,
    options={
        "features": Option(32, least=1, doc="size of an item's embedding"),
        "hidden": Option((64, 64), least=1, doc="units of each hidden layer"),
    },
    needs=("sizes",),
    example={"features": 4, "hidden": (5,)},
    facts=ModelFacts(inputs=("rows",), targets=("numbers", "classes")),
    doc="a shared table of item embeddings under personal dense layers",
)
