"""Dense layers with relu between them; all of it adapts, or only what a layer set names."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Key, Model
from metapers.members import Member
from metapers.models import seam
from metapers.models.facts import ModelFacts
from metapers.models.kinds import ADAPTS_OPTION, ADDED_OPTIONS, Body, Context, Head, adapted
from metapers.models.layers import Dense, FilmLayer
from metapers.options import Option


class MLP(nnx.Module):
    """``dense_0`` ... of the given sizes, relu between; the last layer is of type ``head``, the others ``body``.

    With ``context`` there is a vector ``context`` beside the inputs, with ``film`` a ``film_<i>`` before each relu.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rngs: nnx.Rngs,
        *,
        body: type[nnx.Param] = Body,
        head: type[nnx.Param] = Head,
        scalar: bool = False,
        context: int = 0,
        film: bool = False,
        low_rank: int = 0,
    ):
        self.depth, self.scalar, self.film, self.beside = len(sizes) - 1, scalar, film, context > 0
        for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
            kind, extra = head if i + 1 == self.depth else body, context if i == 0 else 0
            setattr(self, f"dense_{i}", Dense(inputs + extra, outputs, rngs, kind=kind, low_rank=low_rank))
            if film and i + 1 < self.depth:
                setattr(self, f"film_{i}", FilmLayer(outputs))
        if context:
            self.context = Context(jnp.zeros(context))

    def __call__(self, x: Array, *, mask: Array | None = None, key: Key | None = None) -> Array:
        return self.tapped(x, {}, mask=mask, key=key)[0]

    def tapped(
        self, x: Array, offsets: Mapping[str, Array], *, mask: Array | None = None, key: Key | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Outputs, and the inputs [n, in] of each dense layer; ``offsets`` [n, out] are added to outputs of layers."""
        seen = {}
        for i in range(self.depth):
            name, beside = f"dense_{i}", self.context[...] if self.beside and i == 0 else None
            wide = None if beside is None else jnp.broadcast_to(beside, (*x.shape[:-1], beside.shape[-1]))
            seen[name] = x if wide is None else jnp.concatenate([x, wide], axis=-1)
            x = getattr(self, name)(x, beside)
            x = x + offsets[name] if name in offsets else x
            if i + 1 < self.depth:
                x = jax.nn.relu(getattr(self, f"film_{i}")(x) if self.film else x)
        return (x[..., 0] if self.scalar else x), seen


def mlp(
    sizes: Sequence[int],
    *,
    adapts: tuple[type[nnx.Variable], ...] = seam.EVERYTHING,
    scalar: bool = False,
    context: int = 0,
    film: bool = False,
    low_rank: int = 0,
) -> Model:
    """inputs [n, sizes[0]] -> outputs [n, sizes[-1]] through dense layers with relu between them.

    By default every layer is personal; with ``adapts=(Personal,)`` only the last one is (the head) and the body is
    shared. Parameters: ``dense_<i>`` / ``kernel`` [in, out], ``bias`` [out]. ``scalar``: outputs [n], for targets
    that are plain numbers; sizes[-1] must be 1.

    What may be added for a user to adapt, each of which changes nothing at first and has a type of its own:
    ``context`` numbers beside the inputs, zero at first, whose rows of ``dense_0/kernel`` belong to the body (with
    ``adapts=ADAPTS["context"]``: CAVIA, Zintgraf et al. 2019, arXiv:1810.03642); ``film``, a scale and a shift before
    each relu (Perez et al. 2018, arXiv:1709.07871); ``low_rank``, products of that rank on top of every kernel (LoRA,
    Hu et al. 2022, arXiv:2106.09685).

    Raises:
      ValueError: fewer than two sizes, a size < 1, scalar with sizes[-1] other than 1, context or low_rank < 0, or
        film without a hidden layer.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least two numbers >= 1, got {list(sizes)}")
    if scalar and sizes[-1] != 1:
        raise ValueError(f"sizes must end in 1 for scalar outputs, got {list(sizes)}")
    if film and len(sizes) < 3:
        raise ValueError(f"sizes must have a hidden layer for film, got {list(sizes)}")
    for name, value in (("context", context), ("low_rank", low_rank)):
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    options = {"scalar": scalar, "context": context, "film": film, "low_rank": low_rank}
    return seam.model(lambda rngs: MLP(tuple(sizes), rngs, **options), adapts)


def _from_sizes(sizes: Mapping[str, int], *, hidden: tuple[int, ...], film: bool, adapts: str, **options: Any) -> Model:
    if film and not hidden:
        raise ValueError(f"film must be False without a hidden layer, got {film}")
    layers = (sizes["width"], *hidden, sizes.get("classes", 1))
    return mlp(layers, scalar="classes" not in sizes, film=film, adapts=adapted(adapts), **options)


MLP_MEMBER = Member(
    _from_sizes,
    options={
        "hidden": Option((40, 40), least=1, doc="units of each hidden layer"),
        "context": Option(0, least=0, doc="personal numbers beside the inputs (CAVIA); 0 for none"),
        **ADDED_OPTIONS,
        "adapts": ADAPTS_OPTION,
    },
    needs=("sizes",),
    example={"hidden": (5,)},
    variants=(
        {"adapts": "all"},
        {"context": 2, "adapts": "context"},
        {"film": True, "adapts": "film"},
        {"low_rank": 2, "adapts": "low_rank"},
    ),
    facts=ModelFacts(targets=("numbers", "classes")),
    doc="dense layers with relu between them",
)
