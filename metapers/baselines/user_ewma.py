"""The exponentially weighted mean of the user's own support: recent examples count more."""

import numpy as np

from metapers.base import Cohort
from metapers.baselines.predictor import Predictor, has_numbers, ratings, spread, support_mean, training_ratings
from metapers.members import Member
from metapers.options import Option


def user_ewma(training: Cohort, *, rate: float = 0.3, shrink: float = 0.0) -> Predictor:
    """Predicts mu + sum_i w_i (y_i - mu) / (sum_i w_i + shrink), w_i = (1 - rate)^(examples of the support after i).

    mu is the mean of the training targets. With ``rate`` 1 it is the last value of the support, and towards 0 the
    mean of the support (``user_mean``).

    Args:
      training: examples of the training users; targets float [total].
      rate: weight that an example loses when the next one comes, in (0, 1].
      shrink: pseudo-counts at mu, >= 0.

    Raises:
      ValueError: a rate or shrink out of bounds, targets that are not scalar floats, or no training example.

    Source: Brown 1959, "Statistical Forecasting for Inventory Control".
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate must be in (0, 1], got {rate}")
    if not shrink >= 0:
        raise ValueError(f"shrink must be >= 0, got {shrink}")
    mean = training_ratings("user_ewma", training).mean()

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        residual = ratings("user_ewma", cohort) - mean
        offset = support_ewma(cohort, residual, shots, horizon, rate=rate, shrink=shrink)
        return (mean + spread(cohort, offset)).astype(cohort.targets.dtype)

    return Predictor(predict, {"mean": float(mean), "rate": rate, "shrink": shrink})


def support_ewma(
    cohort: Cohort, residual: np.ndarray, shots: int, horizon: int, *, rate: float, shrink: float
) -> np.ndarray:
    """sum(w residual) / (sum(w) + shrink) over each user's first min(shots, n) examples; 0 without any; [users].

    w is (1 - rate) to the power of the number of support examples after this one.
    """
    sizes = np.diff(cohort.offsets)
    last = spread(cohort, cohort.offsets[:-1] + np.minimum(shots, sizes) - 1)
    after = np.maximum(last - np.arange(residual.size), 0)
    weights = np.power(1.0 - rate, after)
    # sum(w residual) / (sum(w) + shrink) from two means over the support
    total, weight = (support_mean(cohort, values, shots, horizon, 0.0) for values in (weights * residual, weights))
    count = np.minimum(shots, sizes)
    return np.where(count > 0, count * total / np.maximum(count * weight + shrink, np.finfo(float).tiny), 0.0)


USER_EWMA = Member(
    user_ewma,
    options={
        "rate": Option(
            0.3, above=0.0, most=1.0, grid=(0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 0.95), doc="weight lost per example"
        ),
        "shrink": Option(
            0.0, least=0.0, grid=(0.0, 1.0, 4.0, 10.0, 25.0, 100.0, 1000.0), doc="pseudo-counts at the mean"
        ),
    },
    needs=("training",),
    facts=has_numbers,
    paper="Brown 1959, Statistical Forecasting for Inventory Control",
    doc="the exponentially weighted mean of the support, shrunk",
)
