"""The next rating of a user from the films rated just before it: a GRU or a decoder over them and the present film."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from metapers.base import Array, Key, Model
from metapers.members import Member
from metapers.models import seam
from metapers.models.facts import ModelFacts
from metapers.models.gru import add_recurrence, recurrence
from metapers.models.kinds import ADAPTS_OPTION, ADDED_OPTIONS, Body, Head, adapted
from metapers.models.layers import Dense
from metapers.models.recommender import OFFSET, check_sizes, describe
from metapers.models.transformer import add_decoder, check_decoder, decoder, decoder_options
from metapers.options import Option

Inputs = dict[str, Array]

OF_A_FILM = ("genres", "year", "year_missing", "count", "bias")  # the last two if given


class RatingGRU(nnx.Module):
    """``input``, ``recurrent``, ``head``; with ``film`` also ``film_input`` and ``film_hidden``."""

    def __init__(self, genres: int, hidden: int, film: bool, low_rank: int, offset: float, rngs: nnx.Rngs):
        self.offset = offset
        add_recurrence(self, _described(genres) + 2, hidden, film, low_rank, rngs)
        self.head = _head(hidden, genres, low_rank, rngs)

    def __call__(self, inputs: Inputs, *, mask: Array, key: Key | None = None) -> Array:
        x, there = places(inputs, self.offset)
        return _rating(self, inputs, recurrence(self, x, there))


class RatingTransformer(nnx.Module):
    """``enter``, ``positions``, ``block_<i>``, ``norm``, ``head``."""

    def __init__(
        self,
        genres: int,
        history: int,
        width: int,
        heads: int,
        layers: int,
        film: bool,
        low_rank: int,
        offset: float,
        rngs: nnx.Rngs,
    ):
        self.offset, self.history = offset, history
        self.enter = Dense(_described(genres) + 2, width, rngs, kind=Body)
        add_decoder(self, history + 1, width, heads, layers, low_rank, film, rngs)
        self.head = _head(width, genres, 0, rngs)

    def __call__(self, inputs: Inputs, *, mask: Array, key: Key | None = None) -> Array:
        x, there = places(inputs, self.offset)
        if x.shape[1] != self.history + 1:
            raise ValueError(f"past_there must have {self.history} places, got {x.shape[1] - 1}")
        return _rating(self, inputs, decoder(self, self.enter(x), there, first=self.history))


def places(inputs: Inputs, offset: float) -> tuple[Array, Array]:
    """(x [n, length + 1, genres + 7], there bool [n, length + 1]): the films rated before, and last the present one.

    x is ``recommender.describe`` of the film, then rating - offset - bias and 1 for a film rated before, 0 and 0 for
    the present one; all zeros where there is none.
    """
    flag = inputs["past_there"]
    told = {name: inputs[f"past_{name}"] for name in OF_A_FILM if f"past_{name}" in inputs}
    surprise = inputs["past_rating"] - offset - told.get("bias", jnp.zeros_like(flag))
    before = jnp.concatenate([describe(told), surprise[..., None], flag[..., None]], -1)
    before = jnp.where(flag[..., None] > 0, before, jnp.zeros_like(before))
    now = jnp.pad(describe(inputs), ((0, 0), (0, 2)))[:, None]
    return jnp.concatenate([before, now], 1), jnp.pad(flag > 0, ((0, 0), (0, 1)), constant_values=True)


def rating_gru(
    genres: int,
    *,
    hidden: int = 32,
    film: bool = False,
    low_rank: int = 0,
    offset: float = 3.5,
    adapts: tuple[type[nnx.Variable], ...] = (seam.Personal,),
) -> Model:
    """rating [n] = offset + bias + head · (h, description), h the state of a GRU over the films rated before and this.

    inputs: of the film those of ``recommender`` (``item`` is not read); of the L films rated just before, the most
    recent last, ``past_genres`` [n, L, genres], ``past_year``, ``past_year_missing``, ``past_rating`` (stars),
    ``past_there`` (0 where there is none, else 1), optionally ``past_count`` and ``past_bias``, float [n, L]. A place
    is what ``places`` says of it; one that is not there passes the state on. The description and ``bias`` are those
    of ``recommender.describe``, the recurrence is that of ``gru``.

    Personal by default are the head and what is added for a user: ``film``, a scale and a shift of the gates' inputs
    and of the states; ``low_rank``, products of that rank on top of ``recurrent`` and ``head``. Groups "param" and
    "personal".

    Source: Hidasi et al. 2016 (arXiv:1511.06939), a GRU over what a user did, here with ratings instead of ranks.

    Raises:
      ValueError: genres or hidden < 1, or low_rank < 0.
    """
    check_sizes(genres=genres, hidden=hidden)
    if low_rank < 0:
        raise ValueError(f"low_rank must be >= 0, got {low_rank}")
    return seam.model(lambda rngs: RatingGRU(genres, hidden, film, low_rank, offset, rngs), adapts)


def rating_transformer(
    genres: int,
    *,
    history: int,
    width: int = 32,
    heads: int = 4,
    layers: int = 2,
    film: bool = False,
    low_rank: int = 0,
    offset: float = 3.5,
    adapts: tuple[type[nnx.Variable], ...] = (seam.Personal,),
) -> Model:
    """As ``rating_gru`` with a decoder of ``history`` + 1 places, whose last block's output at the present film is h.

    Blocks, positions and what may be seen are those of ``transformer``; nobody attends to a place that is not there.
    A position is counted from the present film backwards, so it means the same for short pasts.

    Personal by default are the head and what is added for a user: ``film``, a scale and a shift after each norm of a
    block; ``low_rank``, products of that rank on top of the kernels of ``query`` and ``value``.

    Source: Kang, McAuley 2018 (arXiv:1808.09781), attention over what a user did, here with ratings.

    Raises:
      ValueError: genres, history, width, heads or layers < 1, heads that do not divide width, or low_rank < 0; at the
        call, another number of past places than ``history``.
    """
    check_decoder(width, heads, low_rank, genres=genres, history=history, layers=layers)
    build = lambda rngs: RatingTransformer(genres, history, width, heads, layers, film, low_rank, offset, rngs)
    return seam.model(build, adapts)


def _described(genres: int) -> int:
    return genres + 5


def _head(state: int, genres: int, low_rank: int, rngs: nnx.Rngs) -> Dense:
    # Small at first: a rating begins near offset + bias, and an inner step of fixed size does not overshoot.
    return Dense(state + _described(genres), 1, rngs, kind=Head, scale=0.1, low_rank=low_rank)


def _rating(module: Any, inputs: Inputs, states: Array) -> Array:
    described = describe(inputs)  # its last entry is the film's bias
    read = jnp.concatenate([states[:, -1], described], -1)
    return module.offset + described[:, -1] + module.head(read)[:, 0]


def _gru_from_sizes(sizes: Mapping[str, int], *, adapts: str, **options: Any) -> Model:
    return rating_gru(sizes["genres"], adapts=adapted(adapts), **options)


def _transformer_from_sizes(sizes: Mapping[str, int], *, adapts: str, **options: Any) -> Model:
    return rating_transformer(sizes["genres"], history=sizes["history"], adapts=adapted(adapts), **options)


_FACTS = ModelFacts(inputs=("films",), history=1)

RATING_GRU_MEMBER = Member(
    _gru_from_sizes,
    options={
        "hidden": Option(32, least=1, doc="size of the state"),
        "offset": OFFSET,
        **ADDED_OPTIONS,
        "adapts": ADAPTS_OPTION,
    },
    needs=("sizes",),
    paper="Hidasi et al. 2016, arXiv:1511.06939",
    example={"hidden": 4},
    variants=({"film": True, "low_rank": 1},),
    facts=_FACTS,
    doc="a gated recurrent network over the films rated before",
)
RATING_TRANSFORMER_MEMBER = Member(
    _transformer_from_sizes,
    options={**decoder_options(32), "offset": OFFSET, **ADDED_OPTIONS, "adapts": ADAPTS_OPTION},
    needs=("sizes",),
    paper="Kang, McAuley 2018, arXiv:1808.09781",
    example={"width": 4, "heads": 2, "layers": 1},
    variants=({"film": True, "low_rank": 2, "adapts": "film"},),
    facts=_FACTS,
    doc="a decoder with attention over the films rated before",
)
