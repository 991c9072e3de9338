"""The Bayes-optimal prediction where the truth is known: users' weights from a mixture of Gaussians, linear targets."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from metapers.base import Cohort, Tree


class Population(NamedTuple):
    """Users' weights w: group c with probability ``shares``[c], then w ~ N(``means``[c], ``covariance``)."""

    shares: np.ndarray  # [groups], positive, summing to 1
    means: np.ndarray  # [groups, width]
    covariance: np.ndarray  # [width, width], may be singular


def posterior_mean(
    population: Population, x: np.ndarray, y: np.ndarray, variance: np.ndarray, new: np.ndarray
) -> np.ndarray:
    """E[w . new | x, y] [n] for y = w . x + N(0, variance): the prediction with the least expected squared error.

    With S the covariance, K = x S x' + diag(variance) and m_c the means: group c predicts
    new m_c + new S x' K^-1 (y - x m_c), and weighs shares_c N(y; x m_c, K). Shapes: x [k, width], y and variance
    [k] (positive), new [n, width].
    """
    spread = population.covariance @ x.T  # [width, k]
    inverse = np.linalg.inv(x @ spread + np.diag(variance))
    residual = y - population.means @ x.T  # [groups, k]
    solved = residual @ inverse
    logs = np.log(population.shares) - 0.5 * np.sum(residual * solved, axis=1)  # K, so its determinant, is shared
    weights = np.exp(logs - logs.max())
    mean = (weights / weights.sum()) @ (population.means + solved @ spread.T)
    return new @ mean


def linear(
    population: Population,
    features: Callable[[Tree], np.ndarray],
    variance: Callable[[Tree], np.ndarray],
) -> Callable[[Cohort, int, int], np.ndarray]:
    """A stream's oracle: each user's first ``shots`` examples in the cohort are all that is known of the user.

    ``features``: inputs -> [total, width]; ``variance``: inputs -> noise variance [total]. A returning user starts
    afresh: what earlier periods told is not used, so a bank may beat this oracle, a fresh start cannot. Rows before
    ``horizon`` are predicted too, those before ``shots`` from themselves: not to be judged on.

    Raises:
      ValueError: unless 0 <= shots <= horizon.
    """

    def oracle(cohort: Cohort, shots: int, horizon: int) -> np.ndarray:
        if not 0 <= shots <= horizon:
            raise ValueError(f"shots must be between 0 and horizon = {horizon}, got {shots}")
        x, noise = features(cohort.inputs).astype(np.float64), variance(cohort.inputs)
        outputs = np.zeros(len(x))
        for low, high in zip(cohort.offsets[:-1], cohort.offsets[1:], strict=True):
            seen = slice(low, min(low + shots, high))
            y = np.asarray(cohort.targets[seen], np.float64)
            outputs[low:high] = posterior_mean(population, x[seen], y, noise[seen], x[low:high])
        return outputs.astype(cohort.targets.dtype)

    return oracle
