"""What samplers of a fixed list of users share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metapers import keys
from metapers.base import Array, Key, Task, TaskFamily, Tree


def tasks_of(family: TaskFamily) -> Callable[[Tree, Array, Key], Task]:
    """(data, places int32 [n], key) -> a task of each listed user, drawn by ``keys.named(key, "tasks")``.

    Raises:
      ValueError: for a family without a list of users.
    """
    if family.roll is None or family.of_users is None:
        raise ValueError("family must have a list of its training users, got one whose every task has a new user")
    draw = family.of_users
    return lambda data, places, key: draw(data, places, keys.named(key, "tasks"))


def data_of(family: TaskFamily) -> Callable[[tuple[int, int]], Tree]:
    """window -> the family's data with the list of its users in the window."""
    return lambda window: family.data(window, 0, 0) | (family.roll(window) if family.roll else {})


def count_of(family: TaskFamily, window: tuple[int, int]) -> int:
    """The training users of a window."""
    return int(family.roll(window)["count"]) if family.roll else 0


ROUNDS = 6
"""Rounds of the permutation."""


def permuted(places: Array, count: Array, key: Key) -> Array:
    """A pseudo-random permutation of 0 ... ``count`` - 1, at some places; nothing of the size of ``count`` is held.

    A Feistel network of ``ROUNDS`` rounds permutes the numbers below the next power of 4; a place that it sends to
    ``count`` or above is sent on, until it falls below (cycle walking; Black, Rogaway 2002, "Ciphers with arbitrary
    finite domains"). It is not cryptographic.

    Args:
      places: int32 [n], each in 0 ... count - 1.
      count: int32 [], between 1 and 2^30.
      key: of the permutation.

    >>> sorted(permuted(jnp.arange(5), jnp.int32(5), keys.root(0)).tolist())
    [0, 1, 2, 3, 4]
    """
    salts = jax.random.bits(keys.named(key, "order"), (ROUNDS,), jnp.uint32)
    size = count.astype(jnp.uint32)
    half = sum((size > 4**power).astype(jnp.uint32) for power in range(16))  # bits of a half: 4^half >= count
    low = (jnp.uint32(1) << half) - 1

    def once(value: Array) -> Array:
        left, right = value >> half, value & low
        for salt in salts:
            left, right = right, left ^ (_mixed(right ^ salt) & low)
        return (left << half) | right

    def walk(value: Array) -> Array:
        return jax.lax.while_loop(lambda now: now >= size, once, once(value))

    return jax.vmap(walk)(places.astype(jnp.uint32)).astype(jnp.int32)


def _mixed(value: Array) -> Array:
    # the finaliser of MurmurHash3: every bit of the input moves every bit of the output
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)
