"""What a user did just before an example: told by row number and looked up when a task is drawn, not stored again."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class History(NamedTuple):
    """Each example also carries ``length`` earlier ones of its user: their inputs of these names, and their targets."""

    length: int
    inputs: tuple[str, ...]  # names in ``Examples.inputs``
    targets: str  # what an earlier target is called


class Past(NamedTuple):
    """Columns of m examples and a last row of zeros, which stands for an example that is not there.

    ``before`` int32 [n, length], rows of the columns, the most recent last; ``columns`` {"past_<name>": [m + 1, ...]},
    among them ``past_there``, one in every row but the last.
    """

    before: Any
    columns: Mapping[str, Any]


def past_of(history: History, user: np.ndarray, inputs: Mapping[str, np.ndarray], targets: np.ndarray) -> Past:
    """The past of every example, from examples that stand in order of time within each user (``user`` int [n]).

    Raises ValueError for a length < 1, a name that is not among the inputs, or targets that are not numbers.
    """
    if history.length < 1:
        raise ValueError(f"history.length must be >= 1, got {history.length}")
    missing = [name for name in history.inputs if name not in inputs]
    if missing:
        raise ValueError(f"history.inputs must be among {sorted(inputs)}, got {missing[0]!r}")
    if not np.issubdtype(np.asarray(targets).dtype, np.floating):
        raise ValueError(f"targets must be numbers where a history is asked for, got {np.asarray(targets).dtype}")
    columns = {name: inputs[name] for name in history.inputs}
    columns |= {history.targets: targets, "there": np.ones_like(targets)}
    ending = {f"past_{name}": np.concatenate([leaf, np.zeros_like(leaf[:1])]) for name, leaf in columns.items()}
    return Past(_before(user, history.length), ending)


def of_rows(past: Past, rows: np.ndarray, columns: np.ndarray) -> Past:
    """The past of the examples ``rows`` alone, with the columns of the examples ``columns`` alone.

    Raises ValueError for an example whose past is not among these columns.
    """
    last = len(past.columns["past_there"]) - 1
    place = np.full(last + 1, -1)
    place[columns], place[last] = np.arange(len(columns)), len(columns)
    before = place[past.before[rows]].astype(np.int32)
    if (before < 0).any():
        raise ValueError(f"columns must hold the past of every row, {int((before < 0).sum())} examples are missing")
    kept = np.append(columns, last)
    return Past(before, {name: leaf[kept] for name, leaf in past.columns.items()})


def past_at(past: Past, rows: Any) -> dict[str, Any]:
    """{"past_<name>": [..., length, ...]} of the examples ``rows`` int [...]."""
    return {name: leaf[past.before[rows]] for name, leaf in past.columns.items()}


def _before(user: np.ndarray, length: int) -> np.ndarray:
    life = np.argsort(user, kind="stable")  # users one after another, each in order of time
    first = np.searchsorted(user[life], user[life])  # where each one's life begins
    back = np.arange(len(user))[:, None] - np.arange(length, 0, -1)[None]
    before = np.empty((len(user), length), np.int32)
    before[life] = np.where(back >= first[:, None], life[np.maximum(back, 0)], len(user))
    return before
