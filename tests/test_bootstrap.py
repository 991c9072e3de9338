"""Intervals: hand-worked values, the resampling unit, and what is refused."""

import numpy as np
import pytest

from metapers.scores import bootstrap
from metapers.scores.bootstrap import FEW, ends, interval, mean_interval, paired, seed_interval, weights


def test_of_many_units_the_ends_are_the_quantiles():
    found = interval(7.0, np.arange(101.0), units=FEW, level=0.9)
    assert found.mean == 7.0
    np.testing.assert_allclose(found[1:], (5.0, 95.0), rtol=1e-12)
    low, high = ends(np.array([7.0, 8.0]), np.stack([np.arange(101.0), np.arange(101.0) + 1], 1), units=FEW, level=0.9)
    np.testing.assert_allclose([low, high], [[5.0, 6.0], [95.0, 96.0]], rtol=1e-12)


def test_of_few_users_the_interval_is_students_t():
    # 0 and 1: s = 0.7071, t(0.975, 1) = 12.706, half = 12.706 * 0.7071 / sqrt(2) = 6.353
    np.testing.assert_allclose(mean_interval(np.array([0.0, 1.0]), draws=100_000), (0.5, -5.853, 6.853), rtol=0.02)
    values = np.random.default_rng(1).normal(size=(3, 20))
    expected = seed_interval(values.mean(axis=0))  # the t interval of 20 numbers
    np.testing.assert_allclose(mean_interval(values, draws=100_000), expected, rtol=0.02, atol=0.005)


def test_one_user_says_nothing_of_others():
    assert mean_interval(np.array([0.5])) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("units", [4, 5, 12])
def test_intervals_of_few_users_cover_the_mean_as_often_as_they_say(units):
    # percentile intervals of 4 and 5 normal numbers cover 80 and 84 %
    samples = np.random.default_rng(0).normal(size=(400, units))
    found = np.array([mean_interval(sample, draws=300) for sample in samples])
    covered = ((found[:, 1] <= 0) & (0 <= found[:, 2])).mean()
    assert 0.925 < covered < 0.975


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


def test_weights_are_counts_of_draws(monkeypatch):
    (drawn,) = weights(5, 1000, 0)
    monkeypatch.setattr(bootstrap, "_CELLS", 64)  # of many units few draws come at a time, and they are the same
    parts = list(weights(5, 1000, 0))
    assert max(map(len, parts)) == 12
    np.testing.assert_array_equal(np.concatenate(parts), drawn)
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
