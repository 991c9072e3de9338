"""Users in random order, none twice before all have had a turn."""

import jax.numpy as jnp

from metapers import keys
from metapers.base import Array, Key, Sampler, Task, TaskFamily, Tree
from metapers.members import Member
from metapers.samplers.listed import count_of, data_of, permuted, tasks_of


def each_user_once(family: TaskFamily, users: int) -> Sampler:
    """Passes over the users of a period's window: each pass has every user once, in an order of its own.

    A pass may begin inside a batch. So a batch has a user twice only where one pass ends and the next begins, or where
    it is larger than the number of users. Each period begins a new pass.

    Args:
      family: the tasks to train on, with a list of users.
      users: tasks in a batch, >= 1.

    Raises:
      ValueError: if ``users`` is below 1, and for a family without a list of users.
    """
    return _passes(family, users, forever=True)


def single_pass(family: TaskFamily, users: int) -> Sampler:
    """One pass over the users of a period's window: every user once, the last batch filled up with masked tasks.

    The outer steps of a period end with the pass, or after the ``outer_steps`` of the config, which is also what a
    schedule lasts. Arguments and errors as ``each_user_once``.
    """
    return _passes(family, users, forever=False)


def _passes(family: TaskFamily, users: int, forever: bool) -> Sampler:
    if users < 1:
        raise ValueError(f"users must be >= 1, got {users}")
    tasks = tasks_of(family)

    def sample(data: Tree, step: Array, since: Array, order: Key, key: Key) -> tuple[Task, Array]:
        turn = since * users + jnp.arange(users, dtype=jnp.int32)
        through, place = jnp.divmod(turn, data["count"])
        first = through[0]
        # a batch larger than a pass meets more than two of them: the second and all later ones have one order
        orders = [permuted(place, data["count"], keys.named(order, "users", first + later)) for later in (0, 1)]
        places = jnp.where(through == first, *orders)
        there = jnp.ones(users, bool) if forever else through == 0
        return tasks(data, places, key), there

    def passes(window: tuple[int, int]) -> int | None:
        return None if forever else -(-count_of(family, window) // users)

    return Sampler(data_of(family), sample, users, passes)


NEEDS = ("family", "users")
EACH_USER_ONCE = Member(
    each_user_once, needs=NEEDS, traits=("listed",), doc="passes over the users, each pass in an order of its own"
)
SINGLE_PASS = Member(
    single_pass,
    needs=NEEDS,
    traits=("listed", "ends"),
    doc="one pass over the users of a period; its outer steps end there",
)
