"""Intervals: hand-worked values, the resampling unit, and what is refused."""

import numpy as np
import pytest

from metapers.scores.bootstrap import mean_interval, paired, percentiles, seed_interval, weights


def test_percentiles_are_the_quantiles():
    interval = percentiles(7.0, np.arange(101.0), level=0.9)
    assert interval.mean == 7.0
    np.testing.assert_allclose(interval[1:], (5.0, 95.0), rtol=1e-12)


def test_two_values_have_the_binomial_interval():
    # The mean of two draws from {0, 1} is 0 with probability 1/4: a 40 % interval lies at 1/2, a 60 % one at 0 and 1.
    values = np.array([0.0, 1.0])
    assert mean_interval(values, level=0.4) == (0.5, 0.5, 0.5)
    assert mean_interval(values, level=0.6) == (0.5, 0.0, 1.0)


def test_interval_has_the_width_of_the_normal_approximation():
    values = np.random.default_rng(3).normal(size=400)
    mean, low, high = mean_interval(values, draws=8000)
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose(
        (mean, low, high), (values.mean(), values.mean() - half, values.mean() + half), atol=6e-3
    )


def test_same_seed_same_interval_and_chunks_do_not_matter(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = mean_interval(values, seed=4)
    monkeypatch.setattr("metapers.scores.bootstrap._CELLS", 170)
    np.testing.assert_allclose(mean_interval(values, seed=4), whole, rtol=1e-14)
    assert mean_interval(values, seed=5) != whole


def test_rows_of_a_unit_are_resampled_together():
    units = np.repeat(np.arange(20), 50)
    values = np.repeat(np.random.default_rng(0).normal(size=20), 50)
    by_unit = mean_interval(values, units=units)
    np.testing.assert_allclose(by_unit, mean_interval(values[::50]), rtol=1e-12)
    by_row = mean_interval(values)
    assert by_unit.high - by_unit.low > 5 * (by_row.high - by_row.low)


def test_a_unit_counts_once_however_many_rows_it_has():
    assert mean_interval(np.array([0.0, 0.0, 0.0, 1.0]), units=np.array(["a", "a", "a", "b"])).mean == 0.5


def test_seeds_are_averaged_before_users_are_resampled():
    users = np.random.default_rng(0).normal(size=30)
    noise = np.random.default_rng(1).normal(size=30) * 100
    np.testing.assert_allclose(mean_interval(np.stack([users + noise, users - noise])), mean_interval(users), rtol=1e-9)


def test_paired_difference_does_not_see_what_users_share():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=100) * 50
    gain = rng.normal(size=100) * 0.1 - 0.2
    interval = paired(hard + gain, np.stack([hard, hard]))
    np.testing.assert_allclose(interval, mean_interval(gain), atol=1e-12)
    assert interval.high < 0


def test_seed_interval_is_students_t():
    # n = 3, s = 1: t(0.975, 2) = 4.30265, so the half width is 4.30265 / sqrt(3) = 2.48414.
    np.testing.assert_allclose(seed_interval(np.array([1.0, 2.0, 3.0])), (2.0, -0.48414, 4.48414), atol=1e-5)


def test_weights_are_counts_of_draws():
    drawn = weights(5, 1000, 0)
    assert drawn.shape == (1000, 5)
    assert (drawn.sum(axis=1) == 5).all()
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval(np.array([1.0, np.nan])), "values must be finite, got nan"),
        (lambda: mean_interval(np.array([])), "values must not be empty"),
        (lambda: mean_interval(np.ones(3), level=1.0), r"level must be in \(0, 1\), got 1.0"),
        (lambda: mean_interval(np.ones(3), draws=0), "draws must be >= 1, got 0"),
        (lambda: mean_interval(np.ones(3), units=np.ones(2)), r"units must have shape \(3,\), got \(2,\)"),
        (lambda: mean_interval(np.ones((2, 2, 2))), "values must be"),
        (lambda: paired(np.ones(3), np.ones(4)), "a and b must hold the same users"),
        (lambda: paired(np.ones(2), np.array([1.0, np.inf])), "b must be finite, got inf"),
        (lambda: seed_interval(np.ones(1)), ">= 2 seeds"),
        (lambda: seed_interval(np.ones(2), level=0.0), "level must be in"),
        (lambda: weights(0, 1, 0), "units must be >= 1, got 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
