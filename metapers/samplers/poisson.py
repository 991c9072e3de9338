"""Poisson sampling: each user is in a batch or not, independently of all others."""

import math

import jax
import jax.numpy as jnp

from metapers import keys
from metapers.base import Array, Key, Sampler, Task, TaskFamily, Tree
from metapers.members import Member
from metapers.samplers.listed import data_of, tasks_of


def poisson(family: TaskFamily, users: int) -> Sampler:
    """Each user of the window has a task with probability ``users`` / count, 1 where there are fewer users.

    A batch has places for users + 6 sqrt(users) + 6 tasks. The probability that more users are chosen is below 1e-7;
    then those last in the list are left out. A gradient whose scale must be the same for every batch is divided by
    ``users`` (``aggregate.expecting``). Abadi et al. 2016 (arXiv:1607.00133).

    Args:
      family: the tasks to train on, with a list of users.
      users: expected tasks in a batch, >= 1.

    Raises:
      ValueError: if ``users`` is below 1, and for a family without a list of users.
    """
    if users < 1:
        raise ValueError(f"users must be >= 1, got {users}")
    tasks, slots = tasks_of(family), users + math.ceil(6 * math.sqrt(users)) + 6

    def sample(data: Tree, step: Array, since: Array, order: Key, key: Key) -> tuple[Task, Array]:
        listed = jnp.arange(data["present"].shape[0], dtype=jnp.int32)
        share = users / data["count"].astype(jnp.zeros(()).dtype)
        drawn = jax.random.uniform(keys.named(key, "users"), listed.shape) < share
        (places,) = jnp.nonzero(drawn & (listed < data["count"]), size=slots, fill_value=-1)
        return tasks(data, jnp.maximum(places, 0).astype(jnp.int32), key), places >= 0

    return Sampler(data_of(family), sample, slots)


POISSON = Member(
    poisson,
    needs=("family", "users"),
    traits=("listed", "varying"),
    doc="each user has a task or not, independently of all others",
)
