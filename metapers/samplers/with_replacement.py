"""Users drawn with replacement: one user may have several tasks in a batch."""

from metapers import keys
from metapers.base import Array, Key, Sampler, Task, TaskFamily, Tree
from metapers.members import Member


def with_replacement(family: TaskFamily, users: int) -> Sampler:
    """``users`` tasks as the family draws them: independent of each other, and of other steps.

    Args:
      family: the tasks to train on.
      users: tasks in a batch, >= 1.

    Raises:
      ValueError: if ``users`` is below 1.
    """
    if users < 1:
        raise ValueError(f"users must be >= 1, got {users}")

    def sample(data: Tree, step: Array, since: Array, order: Key, key: Key) -> tuple[Task, Array]:
        return family.sample(data, step, users, keys.named(key, "tasks"))

    return Sampler(lambda window: family.data(window, 0, 0), sample, users)


WITH_REPLACEMENT = Member(
    with_replacement, needs=("family", "users"), doc="each step draws its tasks independently of all other steps"
)
