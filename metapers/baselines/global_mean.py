"""The mean of all training targets, for everybody."""

import numpy as np

from metapers.base import Cohort
from metapers.baselines.predictor import Predictor, has_numbers, ratings, training_ratings
from metapers.members import Member


def global_mean(training: Cohort) -> Predictor:
    """Predicts mu = mean of the training users' targets; the support is not used.

    Raises ValueError for targets that are not scalar floats (a classification stream) or an empty cohort.
    """
    mean = training_ratings("global_mean", training).mean()

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        del shots, horizon
        return np.full(ratings("global_mean", cohort).size, mean, dtype=cohort.targets.dtype)

    return Predictor(predict, {"mean": float(mean)})


GLOBAL_MEAN = Member(global_mean, needs=("training",), facts=has_numbers, doc="the mean target of all training users")
