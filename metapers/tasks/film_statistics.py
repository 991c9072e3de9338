"""What training users' ratings say of a film: its regularised bias and its count, a rater's own rating left out."""

from typing import NamedTuple

import numpy as np

ROUNDS = 30  # of alternating ridge fits; far past convergence


class FilmStatistics(NamedTuple):
    """Per rating: ``bias`` float32 [n], stars above ``mean``; ``count`` int64 [n]; ``mean`` of the first fit."""

    bias: np.ndarray
    count: np.ndarray
    mean: float


def film_statistics(
    ratings: np.ndarray,
    user: np.ndarray,
    film: np.ndarray,
    stage: np.ndarray,
    training: np.ndarray,
    *,
    so_far: bool,
    film_strength: float = 4.0,
    user_strength: float = 10.0,
) -> FilmStatistics:
    """Leave-one-out statistics of each rating's film from the ratings where ``training`` (bool [n]).

    rating ~ mean + b_film + b_user, by alternating ridge fits; then with residuals r = rating - mean - b_user, S the
    sum of r over a film and n its count, a held-out user's rating gets S / (n + film_strength) and n, a training
    user's own is left out: (S - r) / (n - 1 + film_strength) and n - 1. With ``so_far`` the fit for a rating sees
    stages up to and with its own, else all. Raises ValueError for negative strengths or if the first fit is empty.
    """
    for name, strength in (("film_strength", film_strength), ("user_strength", user_strength)):
        if strength < 0:
            raise ValueError(f"{name} must be >= 0, got {strength}")
    bias, count, first = np.zeros(len(ratings)), np.zeros(len(ratings), np.int64), None
    for last in range(int(stage.max()) + 1) if so_far else [int(stage.max())]:
        seen = training & (stage <= last)
        if not seen.any():
            raise ValueError(f"stage {last} and those before it hold no rating of a training user")
        mean, residual = _fit(ratings, user, film, seen, film_strength, user_strength)
        first = mean if first is None else first
        sums, counts = (np.bincount(film[seen], weights, film.max() + 1) for weights in (residual[seen], None))
        rows = stage == last if so_far else np.full(len(stage), True)
        own = rows & seen
        count[rows] = counts[film[rows]]
        count[own] -= 1
        total = sums[film] - np.where(own, residual, 0.0)
        bias[rows] = (mean - first) + total[rows] / np.maximum(count[rows] + film_strength, 1e-12)
    return FilmStatistics(bias.astype(np.float32), count, float(first or 0.0))


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
