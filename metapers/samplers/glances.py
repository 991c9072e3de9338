"""The same batch in several steps."""

import jax.numpy as jnp

from metapers.base import Array, Key, Sampler, Task, Tree


def glances(sampler: Sampler, count: int) -> Sampler:
    """``sampler`` with each batch given in ``count`` outer steps in a row (Gupta, Yadav, Paull 2020, arXiv:2007.13904).

    The note ``glance`` int32 [n] of a task says how often its batch was given before; a memory takes it in at 0 alone.

    Args:
      sampler: draws the batches.
      count: outer steps, >= 1; 1 returns the sampler as it is.

    Raises:
      ValueError: if ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    if count == 1:
        return sampler

    def sample(data: Tree, step: Array, since: Array, order: Key, key: Key) -> tuple[Task, Array]:
        glance = since % count
        tasks, mask = sampler.sample(data, step - glance, since // count, order, key)
        glance = jnp.full(mask.shape, glance, jnp.int32)
        return tasks._replace(notes={**tasks.notes, "glance": glance}), mask

    def passes(window: tuple[int, int]) -> int | None:
        found = sampler.passes(window)
        return None if found is None else found * count

    return sampler._replace(sample=sample, passes=passes, repeats=sampler.repeats * count)
