"""The mean of the user's own support, shrunk towards the mean of all."""

import numpy as np

from metapers.base import Cohort
from metapers.baselines.predictor import Predictor, has_numbers, ratings, spread, support_mean, training_ratings
from metapers.members import Member
from metapers.options import Option


def user_mean(training: Cohort, *, shrink: float = 3.0) -> Predictor:
    """Predicts mu + sum_support (y - mu) / (n + shrink): ``shrink`` >= 0 pseudo-counts at the global mean mu.

    Raises ValueError for a negative ``shrink``, targets that are not scalar floats, or an empty cohort.
    """
    if not shrink >= 0:
        raise ValueError(f"shrink must be >= 0, got {shrink}")
    mean = training_ratings("user_mean", training).mean()

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        residual = ratings("user_mean", cohort) - mean
        offset = support_mean(cohort, residual, shots, horizon, shrink)
        return (mean + spread(cohort, offset)).astype(cohort.targets.dtype)

    return Predictor(predict, {"mean": float(mean), "shrink": shrink})


USER_MEAN = Member(
    user_mean,
    options={
        "shrink": Option(
            3.0,
            least=0.0,
            grid=(0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 200.0, 1000.0),
            doc="pseudo-counts at the mean",
        )
    },
    needs=("training",),
    facts=has_numbers,
    doc="the mean of the support, shrunk",
)
