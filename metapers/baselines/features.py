"""Inputs of a cohort as one table of numbers, for baselines that use them."""

import jax
import numpy as np

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


def scaled(training: Cohort) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features with mean 0 and deviation 1 [total, width], their means [width], their deviations [width])."""
    rows = features(training)
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    return (rows - mean) / spread, mean, spread
