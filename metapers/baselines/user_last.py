"""The last value of the user's own support."""

import numpy as np

from metapers.base import Cohort
from metapers.baselines.predictor import Predictor, has_numbers, ratings, spread, training_ratings
from metapers.baselines.user_ewma import support_ewma
from metapers.members import Member


def user_last(training: Cohort) -> Predictor:
    """Predicts the last target of the support; the mean of the training targets where the support is empty.

    Args:
      training: examples of the training users; targets float [total].

    Raises:
      ValueError: targets that are not scalar floats, or no training example.
    """
    mean = training_ratings("user_last", training).mean()

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        residual = ratings("user_last", cohort) - mean
        last = support_ewma(cohort, residual, shots, horizon, rate=1.0, shrink=0.0)
        return (mean + spread(cohort, last)).astype(cohort.targets.dtype)

    return Predictor(predict, {"mean": float(mean)})


USER_LAST = Member(user_last, needs=("training",), facts=has_numbers, doc="the last value of the support")
