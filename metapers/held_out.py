"""Held-out users as arrays on the host: joined, cut into support and query, and laid into blocks of few shapes.

Lives have very different lengths. Users are gathered by the length of their query into blocks of fixed shape [users,
width], so that what judges them compiles once for each width.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metapers.base import Batch, Cohort

OF_EXAMPLES = ("inputs", "targets", "example_periods", "time", "available")
"""The fields of a ``Cohort`` that have a row for each example."""

_FEWEST = 16  # users of a block at least, where ``rows`` allows it: padding costs less than one more compilation
_NARROWEST, _GROWTH = 32, 4  # widths of query blocks: 32, 128, 512, 2048, ...; narrower where no query has 32 rows


def query_starts(sizes: np.ndarray, horizon: int) -> np.ndarray:
    """How many of a user's first examples may be support: ``horizon`` if there are more, else half, at least one.

    >>> query_starts(np.array([2, 7, 16, 17]), 16).tolist()
    [1, 3, 8, 16]
    """
    return np.where(sizes > horizon, horizon, np.maximum(1, sizes // 2))


def take(cohort: Cohort, members: np.ndarray) -> Cohort:
    """The cohort of some users, ``members`` their places in it."""
    sizes = np.diff(cohort.offsets)[members]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    rows = rows_of(cohort, members)
    of_users = {name: getattr(cohort, name)[members] for name in ("users", "periods", "returning")}
    of_rows = jax.tree.map(lambda leaf: leaf[rows], {name: getattr(cohort, name) for name in OF_EXAMPLES})
    return cohort._replace(**of_rows, **of_users, offsets=offsets)


def span(cohort: Cohort, users: slice) -> Cohort:
    """The cohort of users who stand side by side; its arrays are views of the cohort's, so nothing is copied.

    ``users``: a slice with both ends.
    """
    rows = slice(int(cohort.offsets[users.start]), int(cohort.offsets[users.stop]))
    of_users = {name: getattr(cohort, name)[users] for name in ("users", "periods", "returning")}
    of_rows = jax.tree.map(lambda leaf: leaf[rows], {name: getattr(cohort, name) for name in OF_EXAMPLES})
    return cohort._replace(
        **of_rows, **of_users, offsets=cohort.offsets[users.start : users.stop + 1] - cohort.offsets[users.start]
    )


def parts(offsets: np.ndarray, rows: int) -> Iterator[slice]:
    """All users in order, some at a time: at most ``rows`` examples together, or one user who has more.

    >>> [(one.start, one.stop) for one in parts(np.array([0, 3, 5, 15, 16, 17]), 6)]
    [(0, 2), (2, 3), (3, 5)]
    """
    first, users = 0, len(offsets) - 1
    while first < users:
        stop = max(first + 1, int(np.searchsorted(offsets, offsets[first] + rows, side="right")) - 1)
        yield slice(first, stop)
        first = stop


def rows_of(cohort: Cohort, members: np.ndarray) -> np.ndarray:
    """The rows of ``OF_EXAMPLES`` that belong to ``members``, one user after the other."""
    sizes = np.diff(cohort.offsets)[members]
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(cohort.offsets[:-1][members] - before, sizes)


def distinct(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """(members [m], same [users]): places of the first of each set of equal examples, and which of them an entry has.

    Scores from a fresh start depend on the examples alone, so ``take(cohort, members)`` is all that need be judged.
    """
    leaves = jax.tree.leaves((cohort.inputs, cohort.targets, cohort.time, cohort.available))

    def digest(begin: int, end: int) -> bytes:
        found = hashlib.blake2b(int(end - begin).to_bytes(8, "little"))
        for leaf in leaves:
            found.update(leaf[begin:end].tobytes())
        return found.digest()

    seen: dict[bytes, int] = {}
    pairs = zip(cohort.offsets[:-1], cohort.offsets[1:])
    same = np.asarray([seen.setdefault(digest(*pair), len(seen)) for pair in pairs], np.int64)
    return np.unique(same, return_index=True)[1], same


def merged(cohorts: Sequence[Cohort]) -> Cohort:
    """Several cohorts one after the other: a user may have an entry in each. ValueError for none."""
    if not cohorts:
        raise ValueError("cohorts must be at least one, got none")
    parts = [one._replace(offsets=np.diff(one.offsets)) for one in cohorts]
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return whole._replace(offsets=np.concatenate([[0], np.cumsum(whole.offsets)]))


def cut(cohort: Cohort, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts [users], n_query [users]): where each user's query begins, and how many rows it has.

    Raises ValueError for a cohort of nobody, or naming a user with fewer than two examples.
    """
    sizes = np.diff(cohort.offsets)
    starts = query_starts(sizes, horizon)
    if sizes.size == 0:
        raise ValueError("cohort must hold at least one user, got none")
    if (sizes <= starts).any():
        worst = int(np.argmin(sizes - starts))
        raise ValueError(f"a user needs >= 2 examples, got {sizes[worst]} for user row {cohort.users[worst]}")
    return starts, sizes - starts


class Block(NamedTuple):
    """Users that are judged together."""

    members: np.ndarray  # int [users]: places in the cohort, the last one repeated beyond ``count``
    count: int
    width: int  # rows of each query, padding among them


def blocks(n_query: np.ndarray, *, rows: int, users: int = 0, multiple: int = 1) -> Iterator[Block]:
    """Every user in one block: of ``n_query`` [users] rows at most ``width``, with users * width at most ``rows``.

    ``users``: at most so many to a block, 0: as many as take ``rows`` at a width of 32. Blocks of one width are of one
    size, where a block would hold all of them the next power of four, 16 at least. It is a multiple of ``multiple``
    (devices).
    """
    width, left = min(_NARROWEST, 1 << (int(n_query.max()) - 1).bit_length()), np.arange(n_query.size)
    most = users or rows // _NARROWEST
    while left.size:
        fits = n_query[left] <= width
        here, left = left[fits], left[~fits]
        few = max(_FEWEST, _GROWTH ** -(-max(0, here.size - 1).bit_length() // 2))  # of its own power
        size = max(1, min(most, rows // width, few) // multiple) * multiple
        for first in range(0, here.size, size):
            some = here[first : first + size]
            yield Block(np.pad(some, (0, size - some.size), mode="edge"), some.size, width)
        width *= _GROWTH


def batch(cohort: Cohort, members: np.ndarray, first: np.ndarray, count: np.ndarray, width: int) -> Batch:
    """Rows first .. first + count of each member's examples, padded to ``width``: numpy leaves [members, width, ...].

    ``first`` and ``count`` are of every user of the cohort. Padding repeats the member's first example. Times are of
    JAX's default float, as in training tasks.
    """
    place, float_ = np.arange(width), jnp.zeros(()).dtype
    rows = (cohort.offsets[:-1] + first)[members, None] + place
    mask: Any = place < count[members, None]
    rows = np.where(mask, rows, cohort.offsets[:-1][members, None])
    inputs, targets = (jax.tree.map(lambda leaf: leaf[rows], tree) for tree in (cohort.inputs, cohort.targets))
    time, available = jax.tree.map(lambda leaf: leaf[rows].astype(float_), (cohort.time, cohort.available))
    return Batch(inputs, targets, mask, time, available)
