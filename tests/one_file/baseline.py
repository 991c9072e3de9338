"""The median of the user's support, shrunk towards the median of all: few outliers do not move it."""

import numpy as np

from metapers.base import Cohort
from metapers.baselines import Predictor
from metapers.baselines.predictor import has_numbers, ratings, spread, training_ratings
from metapers.members import Member, register
from metapers.options import Option


def user_median(training: Cohort, *, shrink: float) -> Predictor:
    """Predicts m + n / (n + shrink) * (median of the n support targets - m), with m the median of all targets.

    Args:
      training: the examples of the training users.
      shrink: examples at the global median that join the support, > 0.
    """
    centre = float(np.median(training_ratings("user_median", training)))

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        targets, found = ratings("user_median", cohort), []
        for low, high in zip(cohort.offsets[:-1], cohort.offsets[1:]):
            support = targets[low : min(low + shots, high)]
            offset = np.median(support) - centre if support.size else 0.0
            found.append(centre + support.size / (support.size + shrink) * offset)
        return spread(cohort, np.asarray(found)).astype(cohort.targets.dtype)

    return Predictor(predict, {"median": centre, "shrink": shrink})


register(
    "baseline",
    "user_median",
    Member(
        user_median,
        options={
            "shrink": Option(1.0, above=0.0, grid=(0.5, 1.0, 2.0, 4.0), doc="examples at the median of all users")
        },
        needs=("training",),
        facts=has_numbers,
        doc="the median of the support, shrunk",
    ),
)
