"""A recurrent network over a user's sequence: what comes next, at every place."""

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
from metapers.models.layers import Dense, Embed, FilmLayer
from metapers.options import Option


class GRU(nnx.Module):
    """``embed``, ``input``, ``recurrent``, ``head``; with ``film`` also ``film_input`` and ``film_hidden``."""

    def __init__(self, vocabulary: int, embed: int, hidden: int, film: bool, low_rank: int, rngs: nnx.Rngs):
        self.embed = Embed(vocabulary, embed, rngs, kind=Body)
        add_recurrence(self, embed, hidden, film, low_rank, rngs)
        self.head = Dense(hidden, vocabulary, rngs, kind=Head, low_rank=low_rank)

    def __call__(self, ids: Array, *, mask: Array, key: Key | None = None) -> Array:
        return self.head(recurrence(self, self.embed(ids), ids != 0))


def add_recurrence(module: Any, inputs: int, hidden: int, film: bool, low_rank: int, rngs: nnx.Rngs) -> None:
    """Give a module the layers of a GRU: ``input``, ``recurrent``; with ``film`` ``film_input``, ``film_hidden``."""
    module.film, module.hidden = film, hidden
    module.input = Dense(inputs, 3 * hidden, rngs, kind=Body)
    module.recurrent = Dense(hidden, 3 * hidden, rngs, kind=Body, low_rank=low_rank)
    if film:
        module.film_input, module.film_hidden = FilmLayer(3 * hidden), FilmLayer(hidden)


def recurrence(module: Any, x: Array, there: Array) -> Array:
    """The states [n, length, hidden] after each place of x [n, length, inputs], by the layers of ``add_recurrence``.

    A place where ``there`` bool [n, length] is False passes the state on.
    """
    gates = module.input(x)  # the whole sequence at once; only the recurrence is one place at a time
    gates = jnp.swapaxes(module.film_input(gates) if module.film else gates, 0, 1)

    def step(state: Array, place: tuple[Array, Array]) -> tuple[Array, Array]:
        gate, known = place
        reset, update, new = jnp.split(gate, 3, -1)
        own_reset, own_update, own_new = jnp.split(module.recurrent(state), 3, -1)
        update = jax.nn.sigmoid(update + own_update)
        new = jnp.tanh(new + jax.nn.sigmoid(reset + own_reset) * own_new)
        state = jnp.where(known, (1 - update) * new + update * state, state)
        return state, state

    # Zeros like the gates, not of their shape: under shard_map they are each device's own, as the states will be.
    start = jnp.zeros_like(gates[0, :, : module.hidden])
    _, states = jax.lax.scan(step, start, (gates, jnp.swapaxes(there, 0, 1)[:, :, None]))
    states = jnp.swapaxes(states, 0, 1)
    return module.film_hidden(states) if module.film else states


def gru(
    vocabulary: int,
    *,
    embed: int = 16,
    hidden: int = 64,
    film: bool = False,
    low_rank: int = 0,
    adapts: tuple[type[nnx.Variable], ...] = (seam.Personal,),
) -> Model:
    """ids int [n, length] -> logits [n, length, vocabulary] of what follows each place, from the places up to it.

    With x the embedding of a place and h the state, zero at first:
    r = σ(W_r x + U_r h), u = σ(W_u x + U_u h), c = tanh(W_c x + r ∘ (U_c h)), h <- (1 - u) ∘ c + u ∘ h; logits = V h,
    each product with an offset of its own. ``input/kernel`` [embed, 3 hidden] is (W_r, W_u, W_c), ``recurrent/kernel``
    [hidden, 3 hidden] is (U_r, U_u, U_c). Id 0 is padding: it passes the state on; other ids lie in 1..vocabulary - 1,
    any outside share the embedding of 0.

    Personal by default are the head and what is added for a user: ``film``, a scale and a shift of W x and of the
    states that the head reads; ``low_rank``, products of that rank on top of ``recurrent`` and ``head``.

    Source: Cho et al. 2014 (arXiv:1406.1078), with the reset gate after the product U_c h instead of before it.

    Raises:
      ValueError: vocabulary, embed or hidden < 1, or low_rank < 0.
    """
    for name, value in (("vocabulary", vocabulary), ("embed", embed), ("hidden", hidden)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if low_rank < 0:
        raise ValueError(f"low_rank must be >= 0, got {low_rank}")
    return seam.model(lambda rngs: GRU(vocabulary, embed, hidden, film, low_rank, rngs), adapts)


def _from_sizes(sizes: Mapping[str, int], *, adapts: str, **options: Any) -> Model:
    return gru(sizes["vocabulary"], adapts=adapted(adapts), **options)


GRU_MEMBER = Member(
    _from_sizes,
    options={
        "embed": Option(16, least=1, doc="size of an embedding"),
        "hidden": Option(64, least=1, doc="size of the state"),
        **ADDED_OPTIONS,
        "adapts": ADAPTS_OPTION,
    },
    needs=("sizes",),
    paper="Cho et al. 2014, arXiv:1406.1078",
    example={"embed": 3, "hidden": 4},
    variants=({"film": True, "low_rank": 1},),
    facts=ModelFacts(inputs=("characters",), targets=("characters",)),
    doc="a gated recurrent network over characters",
)
