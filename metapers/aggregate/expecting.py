"""A divisor that is the same for every batch, whatever users it has."""

from metapers.base import Aggregator, Key, Params, Tree


def expecting(aggregator: Aggregator, users: int) -> Aggregator:
    """``aggregator`` with ``users`` as the expected number of tasks in ``finish``, whatever the size of the batch.

    Args:
      aggregator: any.
      users: expected tasks of a batch, remembered ones among them, >= 1.

    Raises:
      ValueError: if ``users`` is below 1.
    """
    if users < 1:
        raise ValueError(f"users must be >= 1, got {users}")

    def finish(state: Tree, sums: Tree, key: Key, *, expected: int) -> tuple[Tree, Params, dict]:
        return aggregator.finish(state, sums, key, expected=users)

    return aggregator._replace(finish=finish)
