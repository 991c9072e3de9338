"""Item and user offsets by regularised least squares: the baseline to beat on cold-start ratings."""

import numpy as np

from metapers.base import Cohort
from metapers.baselines.predictor import (
    Predictor,
    has_input,
    has_numbers,
    ratings,
    spread,
    support_mean,
    training_ratings,
)
from metapers.members import Member
from metapers.options import Option


def item_user_bias(
    training: Cohort, *, item: float = 4.0, user: float = 10.0, tolerance: float = 1e-9, sweeps: int = 10_000
) -> Predictor:
    """Predicts mu + b_item + b_user, where mu is the training mean and the offsets minimise

        sum (y - mu - b_i - b_u)^2 + item * sum_i b_i^2 + user * sum_u b_u^2

    over all training examples (alternating exact solutions until no offset moves by more than ``tolerance``). A
    new user's offset is the same penalised solution on the user's support, given b_i (Koren 2010, section 2.1).
    Items are rows of ``inputs["item"]``; row 0 means unseen, and what training never saw has b_i = 0. ``item`` and
    ``user`` > 0 are strengths in pseudo-counts. Raises ValueError for others, for targets that are not scalar
    floats, for inputs without items, or where ``sweeps`` do not reach the tolerance.
    """
    for name, strength in (("item", item), ("user", user)):
        if not strength > 0:
            raise ValueError(f"{name} must be > 0, got {strength}")
    rated = training_ratings("item_user_bias", training)
    mean = rated.mean()
    of_item = _solve(rated - mean, _items(training), _owners(training), item, user, tolerance, sweeps)

    def predict(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        rows = _items(cohort)
        known = np.where(rows < of_item.size, of_item[np.minimum(rows, of_item.size - 1)], 0.0)
        residual = ratings("item_user_bias", cohort) - mean - known
        of_user = support_mean(cohort, residual, shots, horizon, user)
        return (mean + known + spread(cohort, of_user)).astype(cohort.targets.dtype)

    return Predictor(predict, {"mean": float(mean), "items": of_item, "item": item, "user": user})


def _solve(
    residual: np.ndarray,
    items: np.ndarray,
    owners: np.ndarray,
    item: float,
    user: float,
    tolerance: float,
    sweeps: int,
) -> np.ndarray:
    item_count, user_count = np.bincount(items), np.bincount(owners)
    of_user = np.zeros(user_count.size)
    of_item = np.zeros(item_count.size)
    for _ in range(sweeps):
        before_item, before_user = of_item, of_user
        of_item = np.bincount(items, residual - of_user[owners]) / (item_count + item)
        of_item[0] = 0.0  # the row of what is unseen stays neutral, also where training examples share it
        of_user = np.bincount(owners, residual - of_item[items]) / (user_count + user)
        moved = max(np.abs(of_item - before_item).max(), np.abs(of_user - before_user).max())
        if moved <= tolerance:
            return of_item
    raise ValueError(
        f"sweeps must be enough to reach tolerance {tolerance}, got {sweeps}: an offset still moves by {moved}"
    )


def _items(cohort: Cohort) -> np.ndarray:
    if not (isinstance(cohort.inputs, dict) and "item" in cohort.inputs):
        raise ValueError("item_user_bias needs inputs['item'], the row of each item")
    rows = np.asarray(cohort.inputs["item"])
    if not np.issubdtype(rows.dtype, np.integer) or rows.ndim != 1 or (rows.size and rows.min() < 0):
        raise ValueError(f"inputs['item'] must be integer rows >= 0 [total], got {rows.dtype} {list(rows.shape)}")
    return rows


def _owners(cohort: Cohort) -> np.ndarray:
    sizes = np.diff(cohort.offsets)
    _, person = np.unique(cohort.users, return_inverse=True)  # a user of several periods has one offset
    return np.repeat(person, sizes)


def _applies(training: Cohort) -> bool:
    return has_numbers(training) and has_input(training, "item")


ITEM_USER_BIAS = Member(
    item_user_bias,
    options={
        "item": Option(4.0, above=0.0, grid=(1.0, 2.0, 3.0, 5.0, 8.0, 12.0), doc="pseudo-counts of an item's offset"),
        "user": Option(
            10.0, above=0.0, grid=(0.1, 2.0, 5.0, 8.0, 10.0, 12.0, 15.0, 25.0), doc="pseudo-counts of a user's offset"
        ),
    },
    needs=("training",),
    paper="Koren 2010, section 2.1",
    facts=_applies,
    doc="item and user offsets, shrunk",
)
