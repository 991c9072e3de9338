"""The training users of a window as a list, for samplers that choose users instead of segments."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from metapers.base import Array, Tree


def roll(user: np.ndarray, period: np.ndarray, periods: int) -> Callable[[tuple[int, int]], Tree]:
    """window -> data of the users with a segment in it, of the same shapes for every window.

    ``present`` int32 [users]: rows of ``segment_of``, of which the first ``count`` (int32 []) are meant. ``segment_of``
    int32 [users, periods]: the segment of a user in a period, or -1.

    Args:
      user: int [segments], at most one segment of a user in a period.
      period: int [segments], each below ``periods``.
      periods: of the stream.
    """

    @functools.cache
    def table() -> tuple[np.ndarray, Array]:
        _, row = np.unique(user, return_inverse=True)
        found = np.full((row.max(initial=-1) + 1, periods), -1, np.int32)
        found[row, period] = np.arange(len(row))
        return found, jax.device_put(found)

    @functools.cache
    def of(window: tuple[int, int]) -> Tree:
        found, held = table()
        (there,) = np.nonzero((found[:, window[0] : window[1] + 1] >= 0).any(axis=1))
        present = np.zeros(len(found), np.int32)
        present[: len(there)] = there
        return {"segment_of": held} | jax.device_put({"present": present, "count": np.int32(len(there))})

    return of


def segment_of(data: Tree, place: Array, uniform: Array, *, power: float) -> Array:
    """A segment of the user at ``place`` of the list, within the window of ``data``.

    Each is drawn with probability proportional to its length ** ``power``, by one ``uniform`` number in [0, 1).
    """
    segments = data["segment_of"][data["present"][place]]
    inside = (segments >= data["lo"]) & (segments < data["hi"])
    length = jnp.where(inside, data["length"][segments], 0).astype(uniform.dtype)
    share = jnp.where(inside, (length / jnp.max(length)) ** power, 0)
    reached = jnp.cumsum(share)
    after = jnp.sum(reached <= uniform * reached[-1])  # how many segments end at or before the point
    last = segments.shape[0] - 1 - jnp.argmax(inside[::-1])
    return segments[jnp.minimum(after, last)]  # rounding may reach the end
