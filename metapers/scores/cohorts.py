"""Which way a metric is good, and how the worst users fare."""

import math

import numpy as np

# Metrics by the direction in which they are good; records carry names, and a wrong sign would pass unseen.
HIGHER = frozenset({"accuracy", "top5_accuracy", "log_likelihood", "auc", "ndcg", "hit_rate", "r2"})
LOWER = frozenset({"rmse", "mse", "mae", "loss", "log_loss", "nll", "cross_entropy", "squared_error", "brier", "ece"})


def sign(metric: str) -> int:
    """+1 where a larger ``metric`` is better, -1 for a loss; ValueError where the name says neither.

    >>> sign("accuracy"), sign("rmse")
    (1, -1)
    """
    if metric in HIGHER:
        return 1
    if metric in LOWER:
        return -1
    raise ValueError(f"metric must be one of {sorted(HIGHER | LOWER)}, got {metric!r}")


def worst_decile(values: np.ndarray, *, larger_is_better: bool = False) -> float:
    """Mean of the worst tenth of the users, ceil(n / 10) of them; ``values`` [n], one per user.

    >>> worst_decile(np.arange(20.0)), worst_decile(np.arange(20.0), larger_is_better=True)
    (18.5, 0.5)
    """
    users = _finite("values", values)
    ordered = np.sort(users if larger_is_better else -users)
    worst = ordered[: math.ceil(users.size / 10)].mean()
    return float(worst if larger_is_better else -worst)


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be [users] with at least one user, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array
