"""Training until validation users stop improving: the upper bound, whose cost is counted up to its best point."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from metapers import store
from metapers.base import Tree

PATIENCE = 5
"""Cycles without an improvement after which training ends."""
MOST = 10
"""Cycles at most, in multiples of the least number."""


def converge(
    folder: Path,
    cycles: int,
    state: Tree,
    scores: list[float],
    train: Callable[[int, Tree, list[float]], Tree],
    score: Callable[[Tree], float],
) -> tuple[Tree, int]:
    """The best state over cycles of training, and how many cycles it took.

    Training ends after ``PATIENCE`` cycles without an improvement, but not before ``cycles``, and after ``MOST`` times
    as many at the latest. The best state so far lies in ``folder``, so that a killed run goes on where it was.

    Args:
      folder: of the best states.
      cycles: the least number.
      state: after the cycles whose scores are given.
      scores: of the cycles that are done; larger is better.
      train: (cycle, state, scores so far) -> state after the cycle.
      score: state -> its score on validation users.
    """
    scores = list(scores)
    while not _ended(scores, cycles):
        state = train(len(scores), state, scores)
        scores.append(score(state))
        if scores[-1] == max(scores) and scores.index(scores[-1]) == len(scores) - 1:
            store.save_checkpoint(folder, len(scores), state, {"scores": scores})
    best = scores.index(max(scores)) + 1
    found, _ = store.load_checkpoint(folder, best, like=state)
    return found, best


def _ended(scores: list[float], cycles: int) -> bool:
    if len(scores) < cycles:
        return False
    best: Any = scores.index(max(scores))
    return len(scores) - 1 - best >= PATIENCE or len(scores) >= MOST * cycles
