"""What training users' ratings say of a film: its regularised bias and its count, as known when a rating is made."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

ROUNDS = 30  # of alternating ridge fits; far past convergence


class FilmStatistics(NamedTuple):
    """Per rating: ``bias`` float32 [n], stars above ``mean``; ``count`` int64 [n]."""

    bias: np.ndarray
    count: np.ndarray
    mean: float  # of the training ratings of the first period


def film_statistics(
    ratings: np.ndarray,
    user: np.ndarray,
    film: np.ndarray,
    period: np.ndarray,
    training: np.ndarray,
    *,
    as_of: str = "before",
    film_strength: float = 4.0,
    user_strength: float = 10.0,
) -> FilmStatistics:
    """Statistics of each rating's film from the ratings where ``training`` (bool [n]), as known under ``as_of``.

    "before": from the periods before the rating's own; in the first period bias and count are 0. "end": with its own
    period too. "retrospective": from all periods, so with knowledge of the rating's future.

    On the ratings that count: rating ~ mean + b_film + b_user, by alternating ridge fits; then with residuals
    r = rating - mean - b_user, S the sum of r over a film and n its count, a rating gets S / (n + film_strength) and
    n. One that is itself among those counted is left out, (S - r) / (n - 1 + film_strength) and n - 1: else the bias
    would tell a training user's own answer.

    Args:
      ratings: stars, float [n].
      user: int [n].
      film: int [n].
      period: int [n].
      training: bool [n], the ratings of training users.
      as_of: the policy.
      film_strength: pseudo-counts of a film's bias.
      user_strength: pseudo-counts of a user's bias.

    Raises:
      ValueError: for another policy, negative strengths, or if the first period holds no training rating.
    """
    if as_of not in ("before", "end", "retrospective"):
        raise ValueError(f"as_of must be before, end or retrospective, got {as_of!r}")
    for name, strength in (("film_strength", film_strength), ("user_strength", user_strength)):
        if strength < 0:
            raise ValueError(f"{name} must be >= 0, got {strength}")
    first = training & (period == 0)
    if not first.any():
        raise ValueError("period 0 holds no rating of a training user")
    start = float(ratings[first].mean())
    bias, count = np.zeros(len(ratings)), np.zeros(len(ratings), np.int64)
    for last, here in _known(period, as_of):
        seen = training & (period <= last)
        mean, residual = _fit(ratings, user, film, seen, film_strength, user_strength)
        sums, counts = (np.bincount(film[seen], weights, film.max() + 1) for weights in (residual[seen], None))
        left = counts[film] - seen
        total = sums[film] - np.where(seen, residual, 0.0)
        found = (mean - start) + total / np.maximum(left + film_strength, 1e-12)
        bias[here], count[here] = found[here], left[here]
    return FilmStatistics(bias.astype(np.float32), count, start)


def _known(period: np.ndarray, as_of: str) -> Iterator[tuple[int, np.ndarray]]:
    """(the last period that counts, the ratings bool [n] for which it does); no pair where nothing counts yet."""
    last = int(period.max())
    if as_of == "retrospective":
        yield last, np.ones(len(period), bool)
        return
    for now in range(last + 1):
        if as_of == "end":
            yield now, period == now
        elif now > 0:
            yield now - 1, period == now


def _fit(
    ratings: np.ndarray,
    user: np.ndarray,
    film: np.ndarray,
    seen: np.ndarray,
    film_strength: float,
    user_strength: float,
) -> tuple[float, np.ndarray]:
    rated, by, of = ratings[seen], user[seen], film[seen]
    mean = float(rated.mean())
    films, users = film.max() + 1, user.max() + 1
    per_film = np.maximum(np.bincount(of, minlength=films) + film_strength, 1e-12)
    per_user = np.maximum(np.bincount(by, minlength=users) + user_strength, 1e-12)
    of_user = np.zeros(users)
    for _ in range(ROUNDS):
        of_film = np.bincount(of, rated - mean - of_user[by], films) / per_film
        of_user = np.bincount(by, rated - mean - of_film[of], users) / per_user
    return mean, ratings - mean - of_user[user]
