"""Tasks of several sources as one batch, and what was computed for them back by source."""

import jax
import jax.numpy as jnp

from metapers import keys
from metapers.base import Array, Scores, Sources, Task


def joined(sources: Sources) -> tuple[Task, Array]:
    """All tasks as one batch (tasks, mask [n]), sources in their order.

    Tasks of several sources are numbered by user over all of them (``keys.numbered``); those of one stay as they are.
    """
    if len(sources) == 1:
        return next(iter(sources.values()))
    parts = [(keys.numbered(tasks), mask) for tasks, mask in sources.values()]
    tasks, mask = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return keys.numbered(tasks), mask


def split(values: Array, sources: Sources) -> dict[str, Array]:
    """Entries [n, ...] of the tasks of ``joined``, by source.

    >>> two = split(jnp.arange(3), {"fresh": (None, jnp.ones(2, bool)), "memory": (None, jnp.ones(1, bool))})
    >>> two["fresh"].tolist(), two["memory"].tolist()
    ([0, 1], [2])
    """
    found, begin = {}, 0
    for name, (_, mask) in sources.items():
        found[name] = values[begin : begin + mask.shape[0]]
        begin += mask.shape[0]
    return found


def apart(tasks: Task, mask: Array, sources: Sources) -> dict[str, tuple[Task, Array]]:
    """The batch of ``joined`` by source again, with the numbers of repeats over all."""
    rows = split(jnp.arange(mask.shape[0]), sources)
    return {name: jax.tree.map(lambda leaf, at=at: leaf[at], (tasks, mask)) for name, at in rows.items()}


def scores(losses: Array, sources: Sources) -> Scores:
    """The losses [n] of the tasks of ``joined`` as scores by source."""
    return {name: {"losses": part} for name, part in split(losses, sources).items()}
