"""Item offsets and the mean surprise of the ratings just before: what a model that sees a user's past has to beat."""

import numpy as np

from metapers.base import Cohort
from metapers.baselines.predictor import Predictor, has_input, has_numbers, ratings, training_ratings
from metapers.members import Member
from metapers.options import Option

NEEDED = ("bias", "past_there", "past_rating", "past_bias")


def item_recent_bias(training: Cohort, *, shrink: float = 3.0) -> Predictor:
    """Predicts mu + b + sum_past (y - mu - b_past) / (n + shrink), from the example's own n past ratings.

    mu is the training mean of y - b, ``shrink`` >= 0 pseudo-counts. Inputs: ``bias`` [total], the item's offset b;
    ``past_rating``, ``past_bias`` and ``past_there`` (0 or 1) [total, length]. The support is not used: an example's
    past may hold it, and later ratings too, as a model sees them that is given the same inputs. Raises ValueError for
    a negative ``shrink``, inputs without a past, targets that are not scalar floats, or an empty cohort.
    """
    if not shrink >= 0:
        raise ValueError(f"shrink must be >= 0, got {shrink}")
    mean = float((training_ratings("item_recent_bias", training) - _inputs(training)["bias"]).mean())

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        del shots, horizon
        ratings("item_recent_bias", cohort)
        seen = _inputs(cohort)
        there = seen["past_there"]
        surprise = np.where(there > 0, seen["past_rating"] - mean - seen["past_bias"], 0.0).sum(-1)
        usual = surprise / np.maximum(there.sum(-1) + shrink, np.finfo(float).tiny)
        return (mean + seen["bias"] + usual).astype(cohort.targets.dtype)

    return Predictor(predict, {"mean": mean, "shrink": shrink})


def _inputs(cohort: Cohort) -> dict[str, np.ndarray]:
    inputs = cohort.inputs
    missing = [name for name in NEEDED if not isinstance(inputs, dict) or name not in inputs]
    if missing:
        raise ValueError(f"item_recent_bias needs inputs[{missing[0]!r}]: films with their past (data.history)")
    return {name: np.asarray(inputs[name], np.float64) for name in NEEDED}


def _applies(training: Cohort) -> bool:
    return has_numbers(training) and has_input(training, "past_rating")


ITEM_RECENT_BIAS = Member(
    item_recent_bias,
    options={"shrink": Option(3.0, least=0.0, grid=(0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0), doc="pseudo-counts at zero")},
    needs=("training",),
    facts=_applies,
    doc="item offsets and the mean residual of the user's last ratings",
)
