"""Random keys with names: every draw is a pure function of (root key, name, counters)."""

import zlib

import jax

from metapers.base import Key, Task

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
    """``key`` folded with the CRC-32 of ``name``, then with each integer counter (step, stage, row) in turn.

    >>> bool(named(root(0), "tasks", 1) == named(root(0), "tasks", 1))
    True
    >>> bool(named(root(0), "tasks", 1) == named(root(0), "tasks", 2))
    False
    """
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    for counter in counters:
        key = jax.random.fold_in(key, counter)
    return key


def of_task(key: Key, task: Task) -> Key:
    """One user's key: folded with the user's row, never with a place in a batch, and with the number of the copy.

    A replayed copy of a user beside a fresh one (``notes["replayed"]`` > 0) gets another key.
    """
    key = jax.random.fold_in(key, task.user)
    return jax.random.fold_in(key, task.notes["replayed"]) if "replayed" in task.notes else key
