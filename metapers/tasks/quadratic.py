"""Users who want a point: every step of learning on them is a formula, so tests can hold it to one."""

from typing import Any

import numpy as np

from metapers.base import Cohort, Stream
from metapers.members import Member
from metapers.options import Option
from metapers.tasks import ragged
from metapers.tasks.facts import CUT_OPTIONS, FOLD, SourceFacts


def quadratic(
    *,
    dim: int = 2,
    periods: int = 1,
    users_per_period: int = 50,
    examples: int = 12,
    means: np.ndarray | None = None,
    spread: float = 1.0,
    noise: float = 0.1,
    seed: int = 0,
    fold: int = 0,
    **sizes: Any,
) -> Stream:
    """Targets [N, dim] = c_u + N(0, noise^2 I) around the user's centre c_u ~ N(means[period], spread^2 I).

    Inputs are zeros [N, 1]: the model is a point theta [dim] that it says for every example. ``means`` [periods, dim]
    are zeros if not given; a user lives in one period. With the loss 1/2 |theta - y|^2, s and q the means of support
    and query, r the inner rate and b = (1 - r)^K for K inner steps:

    - adapted: theta_K = s + b (theta - s); query loss: 1/2 |theta_K - q|^2 + a constant;
    - its gradient in theta: b (theta_K - q), of second order; theta_K - q, of first order;
    - Reptile's move: theta - theta_K = (1 - b) (theta - s); the best start of a period: means[period];
    - the oracle after k examples with mean y: (spread^2 y + noise^2 means[period] / k) / (spread^2 + noise^2 / k).

    ``sizes``: support, query and what else ``ragged.stream`` takes.

    Raises:
      ValueError: for a number out of its range, naming it, or means of another shape.
    """
    _check(dim=dim, periods=periods, users_per_period=users_per_period, examples=examples, spread=spread, noise=noise)
    centres_of = np.zeros((periods, dim)) if means is None else np.asarray(means, np.float64)
    if centres_of.shape != (periods, dim):
        raise ValueError(f"means must have shape {(periods, dim)}, got {centres_of.shape}")
    rng = np.random.default_rng(seed)
    home = np.repeat(np.arange(periods), users_per_period)
    centres = centres_of[home] + spread * rng.standard_normal((len(home), dim))
    user = np.repeat(np.arange(len(home)), examples)
    targets = centres[user] + noise * rng.standard_normal((len(user), dim))

    def oracle(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        if not 0 <= shots <= horizon:
            raise ValueError(f"shots must be between 0 and horizon = {horizon}, got {shots}")
        outputs = np.zeros(cohort.targets.shape)
        for row, low, high in zip(cohort.users, cohort.offsets[:-1], cohort.offsets[1:], strict=True):
            seen = np.asarray(cohort.targets[low : min(low + shots, high)], np.float64)
            total = spread**2 * seen.sum(axis=0) + noise**2 * centres_of[home[row]]
            outputs[low:high] = total / (spread**2 * len(seen) + noise**2)
        return outputs.astype(cohort.targets.dtype)

    names = tuple(f"quadratic-{row}" for row in range(len(home)))
    time = np.tile(np.arange(examples), len(home))
    given = {"dim": dim, "means": centres_of.tolist(), "spread": spread, "noise": noise, "seed": seed}
    return ragged.stream(
        ragged.Examples(names, user, home[user], time, np.zeros((len(user), 1)), targets),
        periods=periods,
        fold=fold,
        about={"source": "quadratic", "version": "1", **given},
        oracle=oracle,
        **sizes,
    )


def _check(*, spread: float, noise: float, **sizes: int) -> None:
    for name, size in sizes.items():
        least = 2 if name == "examples" else 1
        if size < least:
            raise ValueError(f"{name} must be >= {least}, got {size}")
    if not spread >= 0:
        raise ValueError(f"spread must be >= 0, got {spread}")
    if not noise > 0:
        raise ValueError(f"noise must be > 0, got {noise}")


QUADRATIC_MEMBER = Member(
    quadratic,
    options={
        "dim": Option(2, least=1, doc="coordinates of a point"),
        "periods": Option(1, least=1, doc="number of periods"),
        "users_per_period": Option(50, least=1, doc="users in a period, of all splits together"),
        "examples": Option(12, least=2, doc="examples of a user"),
        "spread": Option(1.0, least=0, doc="standard deviation of the users' centres"),
        "noise": Option(0.1, above=0, doc="standard deviation of a target around the user's centre"),
        "seed": Option(0, least=0, doc="seed of the users and their examples"),
        "fold": FOLD,
        **CUT_OPTIONS,
    },
    example={"users_per_period": 40},
    facts=SourceFacts(
        sizes=lambda stream: {"width": int(stream.training(0).targets.shape[-1])}, inputs="points", targets="points"
    ),
    doc="synthetic users with a point each, for closed-form tests",
)
