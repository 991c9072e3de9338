"""Inputs of a cohort as one table of numbers, for baselines that use them."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from metapers import held_out
from metapers.base import Cohort
from metapers.baselines.predictor import has_numbers


def features(cohort: Cohort) -> np.ndarray:
    """The inputs that are floats, side by side: float64 [total, width]. Integers name things, so they are left out."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(cohort.inputs)]
    total = int(cohort.offsets[-1])
    floats = [leaf.reshape(total, -1) for leaf in leaves if np.issubdtype(leaf.dtype, np.floating)]
    return np.concatenate(floats, axis=1).astype(np.float64) if floats else np.zeros((total, 0))


def has_features(training: Cohort) -> bool:
    """Whether the targets are single numbers and some inputs are floats, of at most ``WIDEST`` numbers together."""
    if not has_numbers(training):
        return False
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(training.inputs)]
    width = sum(leaf[:1].size for leaf in leaves if np.issubdtype(leaf.dtype, np.floating))
    return 0 < width <= WIDEST


WIDEST = 512
"""Numbers of an example beyond which a pooled fit is no simple baseline any more."""


class Scale(NamedTuple):
    """What gives features a mean of 0 and a deviation of 1."""

    mean: np.ndarray  # [width]
    deviation: np.ndarray  # [width]; 1 where all are equal

    def scaled(self, cohort: Cohort) -> np.ndarray:
        """The features of a cohort, scaled: float64 [total, width]."""
        return (features(cohort) - self.mean) / self.deviation


def scale(training: Cohort) -> Scale:
    """The scale of the features of a cohort, which is read some users at a time."""
    total = int(training.offsets[-1])
    mean = sum(features(part).sum(axis=0) for part in parts(training)) / total
    squares = sum(np.square(features(part) - mean).sum(axis=0) for part in parts(training))
    deviation = np.sqrt(squares / total)
    return Scale(np.asarray(mean), np.where(deviation > 0, deviation, 1.0))


def parts(training: Cohort) -> Iterator[Cohort]:
    """A cohort some users at a time: a large one is never whole in double precision."""
    return (held_out.span(training, users) for users in held_out.parts(training.offsets, ROWS))


ROWS = 2**16
"""Examples that are read at one time."""
