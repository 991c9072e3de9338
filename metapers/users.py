"""The bank: the personal parameters that adapting each user left, by row, for a user who returns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metapers.base import Array, Params, Tree


class Bank(NamedTuple):
    """Personal parameters of every user: plain arrays, so jit, vmap over seeds and the store take it as it is."""

    personal: Tree  # leaves [rows, ...]
    period: Array  # int32 [rows], the period a row was last written in; -1: never


def empty(params: Params, rows: int) -> Bank:
    """A bank in which nobody has a row yet; ValueError if ``rows`` < 1."""
    if rows < 1:
        raise ValueError(f"rows must be >= 1, got {rows}")
    personal = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), params.personal)
    return Bank(personal, jnp.full(rows, -1, jnp.int32))


def read(bank: Bank, params: Params, users: Array) -> tuple[Tree, Array]:
    """(personal [n, ...], banked bool [n]) of ``users`` int [n]; who has no row, or row -1, gets params.personal."""
    rows = bank.period.shape[0]
    known = (users >= 0) & (users < rows)
    place = jnp.where(known, users, jnp.zeros_like(users))
    banked = known & (bank.period[place] >= 0)

    def one(kept: Array, start: Array) -> Array:
        wide = jnp.reshape(banked, banked.shape + (1,) * start.ndim)
        return jnp.where(wide, kept[place], jnp.broadcast_to(start, (*users.shape, *start.shape)))

    return jax.tree.map(one, bank.personal, params.personal), banked


def write(bank: Bank, users: Array, personal: Tree, period: Array | int, mask: Array) -> Bank:
    """``bank`` with ``personal`` [n, ...] in the rows ``users`` int [n], marked with ``period`` (scalar or [n]).

    Entries whose ``mask`` [n] is False, or whose row is -1 or beyond the bank, change nothing. Of a user who stands
    twice in one batch the last unmasked entry is kept.
    """
    rows, count = bank.period.shape[0], users.shape[0]
    order = jnp.arange(count, dtype=jnp.int32)
    place = jnp.where(mask & (users >= 0), users, jnp.full_like(users, rows))  # beyond the last row: dropped
    last = jnp.full(rows, -1, jnp.int32).at[place].max(order, mode="drop")
    wins = last.at[place].get(mode="fill", fill_value=-1) == order
    place = jnp.where(wins, place, jnp.full_like(place, rows))  # one writer per row: the order of a scatter is open
    periods = jnp.broadcast_to(jnp.asarray(period).astype(jnp.int32), users.shape)
    kept = jax.tree.map(lambda old, new: old.at[place].set(new, mode="drop"), bank.personal, personal)
    return Bank(kept, bank.period.at[place].set(periods, mode="drop"))


def forget(bank: Bank, user: Array | int) -> Bank:
    """``bank`` with zeros in the user's row and no period: the next read starts them afresh; row -1 changes nothing."""
    rows = bank.period.shape[0]
    user = jnp.asarray(user).astype(jnp.int32)
    place = jnp.where(user >= 0, user, jnp.full_like(user, rows))
    kept = jax.tree.map(lambda old: old.at[place].set(jnp.zeros_like(old[0]), mode="drop"), bank.personal)
    return Bank(kept, bank.period.at[place].set(-1, mode="drop"))


def check(bank: Bank, users: np.ndarray) -> None:
    """On the host, before rows go into a compiled step: ValueError if any is outside -1 (nobody) .. rows - 1."""
    rows = bank.period.shape[-1]
    users = np.asarray(users)
    wrong = users[(users < -1) | (users >= rows)]
    if wrong.size:
        raise ValueError(f"users must lie in -1 .. {rows - 1}, got {wrong.flat[0]}")
