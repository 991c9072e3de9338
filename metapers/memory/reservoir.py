"""Reservoir: a uniform sample, of fixed size, of everything that was ever inserted."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metapers import keys, trees
from metapers.base import Array, Key, Memory, Tree, hide
from metapers.members import Member
from metapers.options import Option


class ReservoirState(NamedTuple):
    """``items``: leaves [capacity, ...], zeros where empty; ``users``: int32 [capacity], -1 where empty.

    ``seen``: int32, how many insertions the content stands for (below 2^31).
    """

    items: Tree
    users: Array
    seen: Array


def reservoir(capacity: int) -> Memory:
    """Algorithm R: of the ``seen`` items inserted so far each is held with probability min(1, capacity / seen).

    The s-th item ever takes an empty slot while there is one; then it draws j uniformly from 0 ... s - 1 and replaces
    slot j if j < capacity. Masked items and items without a user (``users`` < 0) change nothing and are not counted.
    The draws are folded with ``seen``, so they do not depend on where padding stands in a batch.

    ``sample`` draws n filled slots without replacement, all of them (and masked zeros) where fewer are filled. Scores
    are not read, and ``touch`` changes nothing.

    ``forget`` overwrites the user's items by zeros. If r of f filled slots were the user's, ``seen`` falls by
    floor(seen * r / f): an estimate of how many of the insertions were the user's, exact (as if the user had never
    come) as long as the memory never overflowed. The others keep their odds of capacity / seen; the next r items find
    an empty slot and are held for certain, after which Algorithm R goes on as before.

    Raises ValueError for ``capacity`` < 1 and for items that do not have the shapes and dtypes of ``init``.
    Source: Vitter, 1985, Random sampling with a reservoir, ACM TOMS 11(1), Algorithm R.

    >>> memory = reservoir(2)
    >>> state = memory.init(jnp.zeros(()))
    >>> there = jnp.array([True, False])
    >>> state = memory.insert(state, jnp.array([7.0, 8.0]), jnp.array([0, 1]), {}, there, keys.root(0))
    >>> state.items.tolist(), state.users.tolist(), int(state.seen)
    ([7.0, 0.0], [0, -1], 1)
    """
    if capacity < 1:
        raise ValueError(f"capacity must be >= 1, got {capacity}")

    def init(item_spec: Tree) -> ReservoirState:
        items = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), item_spec)
        return ReservoirState(items, jnp.full((capacity,), -1, jnp.int32), jnp.zeros((), jnp.int32))

    def insert(
        state: ReservoirState, items: Tree, users: Array, scores: Mapping[str, Array], mask: Array, key: Key
    ) -> ReservoirState:
        _check_items(state.items, items, users.shape[0])
        users = users.astype(jnp.int32)
        keep = mask & (users >= 0)
        number = state.seen + jnp.cumsum(keep, dtype=jnp.int32)  # each kept item's place in all that was ever seen
        draws = jax.vmap(lambda s: jax.random.randint(keys.named(key, "reservoir", s), (), 0, s, jnp.int32))(
            jnp.maximum(number, 1)
        )
        slot = _last_writers(_slots(state.users, keep, draws), capacity)
        return ReservoirState(
            jax.tree.map(lambda old, new: old.at[slot].set(new, mode="drop"), state.items, items),
            state.users.at[slot].set(users, mode="drop"),
            state.seen + jnp.sum(keep, dtype=jnp.int32),
        )

    def sample(state: ReservoirState, n: int, key: Key) -> tuple[Tree, Array, Array]:
        # 31 random bits order the filled slots; empty ones come last. O(capacity) on integers, then n items gathered.
        priority = (jax.random.bits(keys.named(key, "sample"), (capacity,), jnp.uint32) >> 1).astype(jnp.int32)
        priority, index = jax.lax.top_k(jnp.where(state.users >= 0, priority, -1), min(n, capacity))
        surplus = (0, max(n - capacity, 0))
        mask = jnp.pad(priority >= 0, surplus)
        index = jnp.pad(index, surplus)
        items = hide(jax.tree.map(lambda leaf: leaf[index], state.items), mask)
        return items, jnp.where(mask, index.astype(jnp.int32), -1), mask

    def forget(state: ReservoirState, user: Array) -> ReservoirState:
        filled = state.users >= 0
        gone = filled & (state.users == user)
        count, removed = jnp.sum(filled, dtype=jnp.int32), jnp.sum(gone, dtype=jnp.int32)
        whole, rest = jnp.divmod(state.seen, jnp.maximum(count, 1))
        seen = state.seen - (whole * removed + _share(rest, removed, jnp.maximum(count, 1)))
        return ReservoirState(hide(state.items, ~gone), jnp.where(gone, -1, state.users), seen)

    return Memory(init, insert, sample, lambda state, slots, scores: state, forget)


def _share(rest: Array, removed: Array, count: Array) -> Array:
    """floor(rest * removed / count) for rest < count, bit by bit: the product would not fit into 32 bits."""

    def bit(i: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        quotient, left = carried
        left = 2 * left + jnp.where((removed >> (30 - i)) & 1 == 1, rest, 0)
        return 2 * quotient + left // count, left % count

    return jax.lax.fori_loop(0, 31, bit, (jnp.zeros_like(rest), jnp.zeros_like(rest)))[0]


def _slots(held: Array, keep: Array, draws: Array) -> Array:
    """The slot each of n items writes to, ``capacity`` for none; ``held`` [capacity] users, ``keep``, ``draws`` [n].

    No choice of Algorithm R depends on what was written before, only on how many: so all n are made at once.
    """
    capacity, n = held.shape[0], keep.shape[0]
    (holes,) = jnp.nonzero(held < 0, size=n, fill_value=capacity)
    rank = jnp.cumsum(keep, dtype=jnp.int32) - 1  # the how-manieth kept item of this batch
    into_hole = rank < jnp.sum(held < 0, dtype=jnp.int32)
    drawn = jnp.where(draws < capacity, draws, capacity)
    slot = jnp.where(into_hole, holes.astype(jnp.int32)[jnp.maximum(rank, 0)], drawn)
    return jnp.where(keep, slot, capacity)


def _last_writers(slot: Array, capacity: int) -> Array:
    """``slot`` [n] with ``capacity`` in place of every write that a later one covers: no slot is written twice."""
    order = jnp.arange(slot.shape[0], dtype=jnp.int32)
    last = jnp.full((capacity + 1,), -1, jnp.int32).at[slot].max(order)
    return jnp.where(last[slot] == order, slot, capacity)


def _check_items(stored: Tree, items: Tree, n: int) -> None:
    if jax.tree.structure(stored) != jax.tree.structure(items):
        raise ValueError(f"items must have the structure {jax.tree.structure(stored)}, got {jax.tree.structure(items)}")
    for name, old, new in zip(trees.names(stored), jax.tree.leaves(stored), jax.tree.leaves(items)):
        if (new.shape, new.dtype) != ((n, *old.shape[1:]), old.dtype):
            expected, got = f"{old.dtype}{[n, *old.shape[1:]]}", f"{new.dtype}{list(new.shape)}"
            raise ValueError(f"items: leaf {name!r} must be {expected}, got {got}")


RESERVOIR = Member(
    reservoir,
    options={"capacity": Option(256, least=1, doc="user-tasks that it holds")},
    paper="Vitter 1985, ACM TOMS 11(1), Algorithm R",
    example={"capacity": 64, "replay_batch": 3, "consolidation_batches": 2},
    variants=({"capacity": 4, "insertion": "step"},),
    doc="a uniform sample of everything that was ever inserted",
)
