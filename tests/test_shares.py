"""Shares of users who are clearly better and worse: by hand, and against true gains that are known."""

import numpy as np
import pytest
from scipy.stats import norm

from metapers.scores import shares

MEAN, SPREAD, NOISE, LEAST = 0.02, 0.05, 0.08, 0.05
TRUE = {"better": 1 - norm.cdf((LEAST - MEAN) / SPREAD), "worse": norm.cdf((-LEAST - MEAN) / SPREAD)}


def measured(users, seed, noise=NOISE):
    """Gains on whole queries and on their halves; the noise of a whole one has a standard deviation of ``noise``."""
    rng = np.random.default_rng(seed)
    halves = rng.normal(MEAN, SPREAD, users) + rng.normal(0, noise * 2**0.5, (2, users))
    return halves.mean(axis=0), halves


def means(found):
    return [found.better.mean, found.same.mean, found.worse.mean]


def test_shares_by_hand():
    gains = np.array([0.2, 0.05, 0.051, -0.05, -0.051, 0.0, -0.3, 0.04])
    found = shares(gains, tolerance=0.05, draws=50)
    assert means(found) == [0.25, 0.5, 0.25]  # what is just the tolerance is no difference
    assert (found.tolerance, found.noise, found.users) == (0.05, 0.0, 8)
    assert means(shares(gains, tolerance=0.0, draws=50)) == [0.5, 0.125, 0.375]
    assert means(shares(gains, tolerance=1.0, draws=50)) == [0.0, 1.0, 0.0]


def test_gains_are_drawn_to_their_mean_by_hand():
    gains, halves = np.array([0.3, -0.1]), np.array([[0.4, 0.0], [0.2, -0.2]])
    # the variance is 0.04, that of the noise 0.2^2 / 4 = 0.01: 0.1 +- 0.2 sqrt(0.75) = 0.273 and -0.073
    for least, want in ((0.27, [0.5, 0.5, 0.0]), (0.28, [0.0, 1.0, 0.0]), (0.07, [0.5, 0.0, 0.5])):
        found = shares(gains, halves, tolerance=least, draws=10)
        assert means(found) == want and found.noise == pytest.approx(0.1)
    assert means(shares(gains, tolerance=0.28, draws=10)) == [0.5, 0.5, 0.0]


def test_a_user_without_two_halves_counts_but_tells_no_noise():
    gains = np.array([0.3, -0.1, 0.1])
    halves = np.array([[0.4, 0.0, np.nan], [0.2, -0.2, np.nan]])
    found = shares(gains, halves, tolerance=0.05, draws=10)
    assert found.noise == pytest.approx(0.1) and found.users == 3
    assert means(found) == pytest.approx([2 / 3, 0.0, 1 / 3])
    nobody = shares(gains, np.full((2, 3), np.nan), tolerance=0.05, draws=10)
    assert nobody == shares(gains, tolerance=0.05, draws=10) and nobody.noise == 0


def test_where_all_is_noise_nobody_differs_from_the_mean():
    gains = np.array([0.3, -0.1, 0.1])
    found = shares(gains, gains + np.array([[0.5], [-0.5]]), tolerance=0.05, draws=10)
    assert means(found) == [1.0, 0.0, 0.0] and found.noise == pytest.approx(0.5)  # the mean is 0.1
    assert means(shares(np.full(4, 0.2), tolerance=0.05, draws=10)) == [1.0, 0.0, 0.0]


def test_with_the_correction_the_shares_are_near_the_true_ones_and_nearer_than_without():
    gains, halves = measured(20_000, 0)
    found, plain = (shares(gains, both, tolerance=LEAST, draws=2) for both in (halves, None))
    assert found.noise == pytest.approx(NOISE, rel=0.02) and plain.noise == 0
    for name, true in TRUE.items():
        ours, theirs = (getattr(one, name).mean for one in (found, plain))
        assert abs(ours - true) < 0.015 and theirs > true + 0.08
    assert sum(means(found)) == pytest.approx(1.0)


def test_intervals_hold_the_true_share_about_as_often_as_they_say():
    held = dict.fromkeys(TRUE, 0)
    for seed in range(300):
        found = shares(*measured(150, seed, noise=0.04), tolerance=LEAST, draws=200)
        for name, true in TRUE.items():
            row = getattr(found, name)
            assert 0 <= row.low <= row.mean <= row.high <= 1
            held[name] += row.low <= true <= row.high
    assert all(0.9 <= count / 300 <= 0.99 for count in held.values()), held


def test_intervals_resample_users_and_stay_between_0_and_1():
    gains, halves = measured(12, 0)  # so few that the interval is Student's t
    few = shares(gains, halves, tolerance=LEAST, draws=200)
    assert few.better.low == 0.0 and few.better.high > few.better.mean  # t alone would end below 0
    again = shares(gains, halves, tolerance=LEAST, draws=200)
    assert few == again != shares(gains, halves, tolerance=LEAST, draws=200, seed=1)
    one = shares(np.array([0.2]), tolerance=LEAST, draws=10)
    assert one.better == (1.0, 1.0, 1.0) and one.worse == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("gains", "options", "message"),
    [
        ([], {}, r"gains must be finite numbers \[users\], at least one, got shape \(0,\)"),
        ([[0.1, 0.2]], {}, r"got shape \(1, 2\)"),
        ([0.1, np.nan], {}, "gains must be finite"),
        ([0.1, 0.2], {"tolerance": -0.1}, "tolerance must be >= 0, got -0.1"),
        ([0.1, 0.2], {"tolerance": np.nan}, "tolerance must be >= 0, got nan"),
        ([0.1, 0.2], {"halves": np.zeros((2, 3))}, r"halves must be \[2, 2\], got shape \(2, 3\)"),
        ([0.1, 0.2], {"halves": np.zeros(2)}, r"halves must be \[2, 2\], got shape \(2,\)"),
        ([0.1, 0.2], {"draws": 0}, "draws must be >= 1, got 0"),
    ],
)
def test_bad_input_is_refused(gains, options, message):
    with pytest.raises(ValueError, match=message):
        shares(np.array(gains), **{"tolerance": 0.05, "draws": 10} | options)
