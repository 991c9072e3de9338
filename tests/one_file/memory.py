"""A ring buffer: the newest user-tasks, each new one in place of the oldest."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metapers import keys
from metapers.base import Array, Key, Memory, Tree, hide
from metapers.members import Member, register
from metapers.options import Option


class RingState(NamedTuple):
    """What the buffer holds."""

    items: Tree  # leaves [capacity, ...], zeros where a slot is empty
    users: Array  # int32 [capacity], -1 where a slot is empty
    place: Array  # int32, the slot that is written next


def ring(capacity: int) -> Memory:
    """The last ``capacity`` items that were inserted. A masked item, or one without a user, is not inserted.

    ``sample`` draws filled slots without replacement; where fewer than n are filled, the rest is masked.
    ``forget`` overwrites a user's items by zeros; their slots stay empty until their turn comes. Scores are not read.
    """

    def init(item_spec: Tree) -> RingState:
        items = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), item_spec)
        return RingState(items, jnp.full((capacity,), -1, jnp.int32), jnp.zeros((), jnp.int32))

    def insert(
        state: RingState, items: Tree, users: Array, scores: Mapping[str, Array], mask: Array, key: Key
    ) -> RingState:
        kept = mask & (users >= 0)
        rank, count = jnp.cumsum(kept, dtype=jnp.int32) - 1, jnp.sum(kept, dtype=jnp.int32)
        newest = kept & (rank >= count - capacity)  # no slot is written twice in one call
        slot = jnp.where(newest, (state.place + rank) % capacity, capacity)  # beyond the last slot: dropped
        write = lambda old, new: old.at[slot].set(new, mode="drop")
        users = write(state.users, users.astype(jnp.int32))
        return RingState(jax.tree.map(write, state.items, items), users, (state.place + count) % capacity)

    def sample(state: RingState, n: int, key: Key) -> tuple[Tree, Array, Array]:
        drawn = jax.random.uniform(keys.named(key, "ring"), (capacity,), jnp.float32)
        order = jnp.argsort(jnp.where(state.users >= 0, drawn, 2.0))  # empty slots last
        slot = jnp.pad(order, (0, max(n - capacity, 0)))[:n]
        mask = jnp.arange(n) < jnp.sum(state.users >= 0)
        return hide(jax.tree.map(lambda leaf: leaf[slot], state.items), mask), jnp.where(mask, slot, -1), mask

    def forget(state: RingState, user: Array) -> RingState:
        gone = state.users == user
        return state._replace(items=hide(state.items, ~gone), users=jnp.where(gone, -1, state.users))

    return Memory(init, insert, sample, lambda state, slots, scores: state, forget)


register(
    "memory",
    "ring",
    Member(
        ring,
        options={"capacity": Option(256, least=1, doc="user-tasks that it holds")},
        example={"capacity": 16, "replay_batch": 3, "consolidation_batches": 2},
        variants=({"capacity": 4},),
        doc="the newest user-tasks",
    ),
)
