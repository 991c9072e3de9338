"""What a fitted baseline is, the choice of its strengths, and the sums over a user's support they all need."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metapers.base import Cohort


class Predictor(NamedTuple):
    """A fitted baseline."""

    predict: Callable[[Cohort, int, int], np.ndarray]
    """(cohort, shots, horizon) -> outputs [total] in the dtype of the targets; of each user only the first
    min(shots, n) examples are looked at. ``horizon`` >= shots: what comes before it may be support."""
    fitted: Mapping[str, Any]  # what was learned and with which strengths


class Chosen(NamedTuple):
    """The best of a grid; without a grid, no settings and no score (NaN)."""

    predictor: Predictor
    settings: dict[str, float]
    score: float


def choose(
    fit: Callable[..., Predictor],
    grid: Mapping[str, Sequence[float]],
    score: Callable[[Sequence[Predictor]], Sequence[float]],
) -> Chosen:
    """Fits every combination of ``grid`` and keeps the one with the smallest ``score`` (the first of equals).

    Args:
      fit: called with a value for each key of the grid.
      grid: the values to try.
      score: the loss of each of some predictors, as the mean per-user RMSE over the validation users.

    Raises:
      ValueError: for an empty grid or a score that is not finite.
    """
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not combinations:
        raise ValueError(f"grid must hold at least one value for each key, got {dict(grid)}")
    best, predictors = None, [fit(**settings) for settings in combinations]
    for settings, predictor, value in zip(combinations, predictors, map(float, score(predictors)), strict=True):
        if not math.isfinite(value):
            raise ValueError(f"score must be finite, got {value} for {settings}")
        if best is None or value < best.score:
            best = Chosen(predictor, settings, value)
    assert best is not None
    return best


def ratings(name: str, cohort: Cohort) -> np.ndarray:
    """The scalar regression targets of a cohort as float64 [total]; ValueError where they are anything else."""
    targets = cohort.targets
    plain = isinstance(targets, np.ndarray) and targets.ndim == 1 and np.issubdtype(targets.dtype, np.floating)
    if not plain:
        found = f"{targets.dtype} {list(targets.shape)}" if isinstance(targets, np.ndarray) else type(targets).__name__
        raise ValueError(f"{name} predicts numbers: targets must be a float array [total], got {found}")
    if targets.size and not np.isfinite(targets).all():
        raise ValueError(f"{name} needs finite targets, got {targets[~np.isfinite(targets)][0]}")
    return targets.astype(np.float64)


def training_ratings(name: str, training: Cohort) -> np.ndarray:
    """``ratings`` of a cohort to fit on, which must hold at least one example."""
    found = ratings(name, training)
    if found.size == 0:
        raise ValueError(f"{name} needs at least one training example, got none")
    return found


def spread(cohort: Cohort, values: np.ndarray) -> np.ndarray:
    """A value per user [users] repeated for each of the user's examples [total]."""
    return np.repeat(values, np.diff(cohort.offsets))


def support_mean(cohort: Cohort, residual: np.ndarray, shots: int, horizon: int, strength: float) -> np.ndarray:
    """sum(residual) / (count + strength) over each user's first min(shots, n) examples; 0 without any; [users]."""
    if not 0 <= shots <= horizon:
        raise ValueError(f"shots must be in [0, horizon = {horizon}], got {shots}")
    sizes = np.diff(cohort.offsets)
    count = np.minimum(shots, sizes)
    place = np.arange(residual.size) - spread(cohort, cohort.offsets[:-1])
    seen = place < shots
    sums = np.bincount(np.repeat(np.arange(sizes.size), sizes)[seen], residual[seen], minlength=sizes.size)
    return np.where(count > 0, sums / np.maximum(count + strength, np.finfo(float).tiny), 0.0)


def has_numbers(training: Cohort) -> bool:
    """Whether the targets are single numbers."""
    targets = training.targets
    return isinstance(targets, np.ndarray) and targets.ndim == 1 and np.issubdtype(targets.dtype, np.floating)


def has_classes(training: Cohort) -> bool:
    """Whether the targets are integers: classes, or sequences of tokens."""
    targets = training.targets
    return isinstance(targets, np.ndarray) and np.issubdtype(targets.dtype, np.integer)


def has_input(training: Cohort, name: str) -> bool:
    """Whether the inputs hold a leaf of this name."""
    return isinstance(training.inputs, dict) and name in training.inputs
