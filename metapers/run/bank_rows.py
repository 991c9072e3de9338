"""The bank of a version: a row for every training user. Held-out users are adapted by evaluation alone."""

import jax
import numpy as np

from metapers import users
from metapers.base import Params
from metapers.scoring.scorer import Scorer
from metapers.users import Bank


def after(scorer: Scorer, name: str, params: Params, bank: Bank, now: int) -> Bank:
    """The bank after a period: a row for every training user so far.

    With ``config.bank`` off it has one row, of no user.

    Args:
      scorer: of the run.
      name: of the arm.
      params: of the version that the period left.
      bank: before the period.
      now: the period.
    """
    stream = scorer.components.stream
    cohort = stream.training(now)
    known = cohort.users >= 0
    if not scorer.components.config.bank or not known.any():
        return bank
    rows = len(stream.users)
    personal = scorer.adapted(params, name, cohort)
    mask = np.zeros(rows, bool)
    mask[cohort.users[known]] = True

    def spread(leaf: np.ndarray) -> np.ndarray:
        full = np.zeros((leaf.shape[0], rows, *leaf.shape[2:]), leaf.dtype)
        full[:, cohort.users[known]] = np.asarray(leaf)[:, known]
        return full

    everyone = np.arange(rows, dtype=np.int32)
    return _put(bank, everyone, jax.tree.map(spread, personal), np.int32(now), mask)


_put = jax.jit(jax.vmap(users.write, in_axes=(0, None, 0, None, None)))
