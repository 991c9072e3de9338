"""A small decoder over a user's sequence: what comes next, at every place, with attention to the places before."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Key, Model
from metapers.members import Member
from metapers.models import seam
from metapers.models.facts import ModelFacts
from metapers.models.kinds import ADAPTS_OPTION, ADDED_OPTIONS, Body, Head, adapted
from metapers.models.layers import Dense, Embed, FilmLayer, LayerNorm
from metapers.options import Option


class Block(nnx.Module):
    """Attention and a network of one hidden layer, each on normalised input and added to what came in.

    ``norm_0``, ``query``, ``key``, ``value``, ``out``, ``norm_1``, ``up``, ``down``; with ``film`` a ``film_<i>``
    after each norm; with ``low_rank`` products on top of ``query`` and ``value``.
    """

    def __init__(self, width: int, heads: int, small: float, low_rank: int, film: bool, rngs: nnx.Rngs):
        self.heads, self.film = heads, film
        self.query = Dense(width, width, rngs, kind=Body, low_rank=low_rank)
        self.key = Dense(width, width, rngs, kind=Body)
        self.value = Dense(width, width, rngs, kind=Body, low_rank=low_rank)
        self.out = Dense(width, width, rngs, kind=Body, scale=small)
        self.up = Dense(width, 4 * width, rngs, kind=Body)
        self.down = Dense(4 * width, width, rngs, kind=Body, scale=small)
        self.norm_0, self.norm_1 = LayerNorm(width, kind=Body), LayerNorm(width, kind=Body)
        if film:
            self.film_0, self.film_1 = FilmLayer(width), FilmLayer(width)

    def __call__(self, x: Array, seen: Array, first: int = 0) -> Array:
        """What comes out at the places from ``first`` on; x [n, length, width], seen bool [n, length, length]."""
        x = x[:, first:] + self.out(self._attended(self._normed(0, x), seen[:, first:], first))
        return x + self.down(jax.nn.gelu(self.up(self._normed(1, x))))

    def _normed(self, i: int, x: Array) -> Array:
        x = getattr(self, f"norm_{i}")(x)
        return getattr(self, f"film_{i}")(x) if self.film else x

    def _attended(self, x: Array, seen: Array, first: int) -> Array:
        apart = lambda y: jnp.reshape(y, (*y.shape[:2], self.heads, -1))
        asking = x[:, first:]
        found = attention(apart(self.query(asking)), apart(self.key(x)), apart(self.value(x)), seen)
        return jnp.reshape(found, asking.shape)


class Transformer(nnx.Module):
    """``embed``, ``positions``, ``block_<i>``, ``norm``, ``head``."""

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        heads: int,
        layers: int,
        low_rank: int,
        film: bool,
        rngs: nnx.Rngs,
    ):
        self.length = length
        self.embed = Embed(vocabulary, width, rngs, kind=Body, scale=0.02)
        add_decoder(self, length, width, heads, layers, low_rank, film, rngs)
        self.head = Dense(width, vocabulary, rngs, kind=Head)

    def __call__(self, ids: Array, *, mask: Array, key: Key | None = None) -> Array:
        length, most = ids.shape[1], self.length
        if length > most:
            raise ValueError(f"inputs must have at most {most} places, the model's length, got {length}")
        return self.head(decoder(self, self.embed(ids), ids != 0))


def add_decoder(
    module: Any, length: int, width: int, heads: int, layers: int, low_rank: int, film: bool, rngs: nnx.Rngs
) -> None:
    """Give a module the layers of a decoder: ``positions`` [length, width], ``block_<i>``, ``norm``."""
    module.layers = layers
    module.positions = Body(0.02 * jax.random.normal(rngs.params(), (length, width)))
    for i in range(layers):
        setattr(module, f"block_{i}", Block(width, heads, (2 * layers) ** -0.5, low_rank, film, rngs))
    module.norm = LayerNorm(width, kind=Body)


def decoder(module: Any, x: Array, there: Array, first: int = 0) -> Array:
    """What the head reads [n, length - first, width] at each place of x from ``first`` on, by the layers of
    ``add_decoder``; the last block computes these places alone.

    A place sees itself and what came before, but not places where ``there`` bool [n, length] is False.
    """
    length = x.shape[1]
    itself = jnp.eye(length, dtype=bool)[None]  # so that padding attends to something
    seen = jnp.tril(jnp.ones((1, length, length), bool)) & (there[:, None, :] | itself)
    x = x + module.positions[...][None, :length]
    for i in range(module.layers):
        x = getattr(module, f"block_{i}")(x, seen, first if i == module.layers - 1 else 0)
    return module.norm(x)


def attention(query: Array, key: Array, value: Array, seen: Array) -> Array:
    """softmax(query · key / sqrt(d)) value over the places that may be seen.

    query [n, asking, heads, d], key, value [n, length, heads, d], seen bool [n, asking, length] (by whom, what), at
    least one for each place that asks -> [n, asking, heads, d].

    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1.
    """
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key) * query.shape[-1] ** -0.5
    scores = jnp.where(seen[:, None], scores, jnp.full_like(scores, jnp.finfo(scores.dtype).min))
    return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores, -1), value)


def transformer(
    vocabulary: int,
    *,
    length: int,
    width: int = 64,
    heads: int = 4,
    layers: int = 2,
    low_rank: int = 0,
    film: bool = False,
    adapts: tuple[type[nnx.Variable], ...] = (seam.Personal,),
) -> Model:
    """ids int [n, at most ``length``] -> logits [n, length, vocabulary] of what follows each place, from the places up
    to it.

    ``layers`` blocks of attention (``heads`` heads) and a GELU network of 4 · ``width`` units, each on normalised
    input; learned positions. Id 0 is padding, which no other place attends to; other ids lie in 1..vocabulary - 1,
    any outside share the embedding of 0.

    Personal by default are the head and what is added for a user: ``low_rank``, products of that rank on top of the
    kernels of ``query`` and ``value`` (Hu et al. 2022, arXiv:2106.09685, section 4.2; ``adapts=ADAPTS["low_rank"]``
    leaves the head shared); ``film``, a scale and a shift after each norm of a block.

    Source: Radford et al. 2019, the GPT-2 report: norms first, last products of a block scaled by 1 / sqrt(2 layers).

    Raises:
      ValueError: vocabulary, length, width, heads or layers < 1, heads that do not divide width, or low_rank < 0; at
        the call, more places than ``length``.
    """
    check_decoder(width, heads, low_rank, vocabulary=vocabulary, length=length, layers=layers)
    build = lambda rngs: Transformer(vocabulary, length, width, heads, layers, low_rank, film, rngs)
    return seam.model(build, adapts)


def check_decoder(width: int, heads: int, low_rank: int, **sizes: int) -> None:
    """Raise ValueError for a size < 1, heads that do not divide width, or low_rank < 0."""
    for name, value in {**sizes, "width": width, "heads": heads}.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if width % heads:
        raise ValueError(f"heads must be a divisor of width = {width}, got {heads}")
    if low_rank < 0:
        raise ValueError(f"low_rank must be >= 0, got {low_rank}")


def _from_sizes(sizes: Mapping[str, int], *, adapts: str, **options: Any) -> Model:
    return transformer(sizes["vocabulary"], length=sizes["length"], adapts=adapted(adapts), **options)


def decoder_options(width: int) -> dict[str, Option]:
    """The options of a model with the layers of ``add_decoder``.

    Args:
      width: the default.
    """
    return {
        "width": Option(width, least=1, doc="size of the state at each place"),
        "heads": Option(4, least=1, doc="attention heads of a block, a divisor of the width"),
        "layers": Option(2, least=1, doc="blocks of attention"),
    }


TRANSFORMER_MEMBER = Member(
    _from_sizes,
    options={**decoder_options(64), **ADDED_OPTIONS, "adapts": ADAPTS_OPTION},
    needs=("sizes",),
    paper="Radford et al. 2019, the GPT-2 report",
    example={"width": 4, "heads": 2, "layers": 1},
    variants=({"film": True, "low_rank": 2, "adapts": "low_rank"},),
    facts=ModelFacts(inputs=("characters",), targets=("characters",)),
    doc="a decoder with attention over characters",
)
