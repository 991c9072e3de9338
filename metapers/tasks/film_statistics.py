"""What training users' ratings say of a film: its regularised bias and its count, a rater's own rating left out."""

from typing import NamedTuple

import numpy as np

ROUNDS = 30  # of alternating ridge fits; far past convergence


class FilmStatistics(NamedTuple):
    """Per rating and stage: ``bias`` float32 [n, stages], stars above ``mean``; ``count`` int64 [n, stages]."""

    bias: np.ndarray
    count: np.ndarray
    mean: float  # of the training ratings of the first stage


def film_statistics(
    ratings: np.ndarray,
    user: np.ndarray,
    film: np.ndarray,
    stage: np.ndarray,
    training: np.ndarray,
    *,
    film_strength: float = 4.0,
    user_strength: float = 10.0,
) -> FilmStatistics:
    """Leave-one-out statistics of each rating's film after each stage, from the ratings where ``training`` (bool [n]).

    After stage t, on ratings of stages up to and with t: rating ~ mean + b_film + b_user, by alternating ridge fits;
    then with residuals r = rating - mean - b_user, S the sum of r over a film and n its count, a rating gets
    S / (n + film_strength) and n; one that is itself among those counted is left out, (S - r) / (n - 1 +
    film_strength) and n - 1: else the bias would tell a training user's own answer. Raises ValueError for negative
    strengths or if the first stage holds no training rating.
    """
    for name, strength in (("film_strength", film_strength), ("user_strength", user_strength)):
        if strength < 0:
            raise ValueError(f"{name} must be >= 0, got {strength}")
    stages, first = int(stage.max()) + 1, None
    bias, count = np.zeros((len(ratings), stages)), np.zeros((len(ratings), stages), np.int64)
    for last in range(stages):
        seen = training & (stage <= last)
        if not seen.any():
            raise ValueError(f"stage {last} and those before it hold no rating of a training user")
        mean, residual = _fit(ratings, user, film, seen, film_strength, user_strength)
        first = mean if first is None else first
        sums, counts = (np.bincount(film[seen], weights, film.max() + 1) for weights in (residual[seen], None))
        count[:, last] = counts[film] - seen
        total = sums[film] - np.where(seen, residual, 0.0)
        bias[:, last] = (mean - first) + total / np.maximum(count[:, last] + film_strength, 1e-12)
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
