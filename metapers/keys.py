"""Random keys with names: every draw is a pure function of (root key, name, counters)."""

import zlib

import jax
import jax.numpy as jnp

from metapers.base import Array, Key, Task

NAMES = (
    "adapt",
    "consolidate",
    "draw",
    "finish",
    "fisher",
    "held back",
    "init",
    "inner",
    "insert",
    "labels",
    "learner",
    "noise",
    "order",
    "penalty",
    "query",
    "replay",
    "reservoir",
    "sample",
    "serial",
    "step",
    "sum_of",
    "tasks",
    "update",
    "user",
    "users",
    "wave",
    "write",
)
"""Every name by which this package folds a key. They are a format: another name gives other random numbers, so renaming
code never changes one of these (tests/test_golden_draws.py)."""


def root(seed: int) -> Key:
    """The one key of a seed, from which every other is folded."""
    return jax.random.key(seed)


def named(key: Key, name: str, *counters) -> Key:
    """``key`` folded with the CRC-32 of ``name``, then with each integer counter (step, period, row) in turn.

    >>> bool(named(root(0), "tasks", 1) == named(root(0), "tasks", 1))
    True
    >>> bool(named(root(0), "tasks", 1) == named(root(0), "tasks", 2))
    False
    """
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    for counter in counters:
        key = jax.random.fold_in(key, counter)
    return key


def repeats(users: Array) -> Array:
    """How many earlier entries of ``users`` int [n] are equal: int32 [n]. Entries below 0 are compared like the others.

    >>> repeats(jnp.array([3, 5, 3, -1, 3, -1])).tolist()
    [0, 0, 1, 0, 2, 1]
    """
    order = jnp.argsort(users, stable=True)
    place = jnp.arange(users.shape[0], dtype=jnp.int32)
    begins = jnp.concatenate([jnp.ones(1, bool), jnp.diff(users[order]) != 0])
    first = jax.lax.cummax(jnp.where(begins, place, 0))
    return jnp.zeros_like(place).at[order].set(place - first)


def numbered(tasks: Task) -> Task:
    """Stacked tasks with the note ``repeat`` int32 [n], the number of a task among those of its user."""
    return tasks._replace(notes={**tasks.notes, "repeat": repeats(tasks.user)})


def of_task(key: Key, task: Task) -> Key:
    """The key of one task: folded with the user's row, never with a place in a batch, and with ``notes["repeat"]``.

    So the tasks of a batch that ``numbered`` has seen have different keys, also those of one user.
    """
    key = jax.random.fold_in(key, task.user)
    return jax.random.fold_in(key, task.notes["repeat"]) if "repeat" in task.notes else key
