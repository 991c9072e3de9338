"""Continual metrics: a matrix worked by hand, the signs, and the bootstrap over users."""

import numpy as np
import pytest

from metapers.scores import matrix
from metapers.scores.bootstrap import weights
from metapers.scores.matrix import Scored, cells, continual_metrics, difference_metrics, metrics, resampled

# Rows: after training period 1, 2, 3; columns: periods. Accuracies in tenths, so that each metric is worked by hand.
R = np.array([[9.0, 2.0, 1.0], [7.0, 8.0, 3.0], [8.0, 5.0, 7.0]])
START = np.array([1.0, 1.5, 0.0])
HAND = {
    "average": (8 + 5 + 7) / 3,
    "past": (9 + (7 + 8) / 2 + (8 + 5 + 7) / 3) / 3,
    "next": (2 + 3) / 2,
    "learning": (9 + 8 + 7) / 3,
    "bwt": ((8 - 9) + (5 - 8)) / 2,
    "bti": ((8 - 9) + (5 - 8)) / 3,
    "forgetting_max": ((9 - 8) + (8 - 5)) / 2,
    "forgetting_first": ((9 - 8) + (8 - 5)) / 2,
    "fwt": ((2 - 1.5) + (3 - 0)) / 2,
}


def test_metrics_by_hand():
    found = metrics(R, START)
    assert list(found) == list(matrix.DEFINITIONS) == list(HAND)
    np.testing.assert_allclose([found[name] for name in HAND], list(HAND.values()), rtol=1e-14)


def test_forgetting_max_looks_at_every_earlier_row_and_first_only_at_the_diagonal():
    better = R.copy()
    better[1, 0] = 10.0  # period 1 was best after training period 2
    assert matrix.forgetting_max(better) == ((10 - 8) + (8 - 5)) / 2
    assert matrix.forgetting_first(better) == HAND["forgetting_first"]
    better[0, 1] = 9.0  # above the diagonal: better before it was trained
    assert matrix.forgetting_max(better) == ((10 - 8) + (9 - 5)) / 2
    better[2, 0] = 99.0  # the last row is not among the earlier ones
    assert matrix.forgetting_max(better) == ((10 - 99) + (9 - 5)) / 2


def test_a_loss_that_grows_is_forgetting_once_it_is_negated():
    loss = np.array([[0.5, 1.0], [0.8, 0.4]])
    assert matrix.forgetting_first(-loss) == pytest.approx(0.3)
    assert matrix.bwt(-loss) == pytest.approx(-0.3)
    assert matrix.average(-loss) == pytest.approx(-0.6)


def test_leading_axes():
    many = np.stack([[R, R + 1], [2 * R, -R]])
    for name, value in metrics(many, np.broadcast_to(START, (2, 2, 3))).items():
        assert value.shape == (2, 2)
        for i, j in np.ndindex(2, 2):
            np.testing.assert_allclose(value[i, j], metrics(many[i, j], START)[name], rtol=1e-14)


def test_one_period_has_only_what_is_defined():
    assert {name: float(value) for name, value in metrics(np.array([[3.0]]), np.array([1.0])).items()} == {
        "average": 3.0,
        "past": 3.0,
        "learning": 3.0,
        "bti": 0.0,
    }
    for undefined in (matrix.bwt, matrix.next_period):
        with pytest.raises(ValueError, match="T >= 2"):
            undefined(np.array([[3.0]]))


def scored(seeds=2, users=(0, 1, 2, 3, 0, 1, 4, 5, 0, 6, 7), periods=(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2), seed=0):
    rng = np.random.default_rng(seed)
    shape = (seeds, len(set(periods)), len(users))
    return Scored(rng.normal(size=shape), rng.normal(size=(seeds, shape[2])), np.array(users), np.array(periods))


def test_cells_are_means_over_the_users_of_a_period():
    data = scored()
    r, b = cells(data)
    assert r.shape == (1, 2, 3, 3)
    for seed, i, t in np.ndindex(2, 3, 3):
        np.testing.assert_allclose(r[0, seed, i, t], data.values[seed, i, data.periods == t].mean(), rtol=1e-13)
    np.testing.assert_allclose(b[0, 1, 2], data.start[1, data.periods == 2].mean(), rtol=1e-13)


def test_resampling_draws_whole_persons():
    data, draws = scored(), 300
    found = resampled(data, draws=draws, seed=7)
    drawn = np.concatenate(list(weights(8, draws, 7)))  # persons 0 ... 7
    for draw in (0, 1, 2, 50):
        entries = np.concatenate([np.repeat(np.flatnonzero(data.users == u), drawn[draw, u]) for u in range(8)])
        each = []
        for seed in range(2):
            r = np.full((3, 3), np.nan)
            b = np.full(3, np.nan)
            for t in range(3):
                here = entries[data.periods[entries] == t]
                if here.size:
                    r[:, t], b[t] = data.values[seed][:, here].mean(axis=1), data.start[seed, here].mean()
            each.append(r)
        each = np.stack(each)
        expected = metrics(each)["forgetting_max"].mean() if np.isfinite(each).all() else np.nan
        np.testing.assert_allclose(found["forgetting_max"][1 + draw], expected, rtol=1e-12)


def test_the_estimate_is_the_mean_over_seeds_of_each_seeds_metric():
    data = scored()
    r, b = cells(data)
    expected = {name: value.mean() for name, value in metrics(r[0], b[0]).items()}
    found = continual_metrics(data, draws=200)
    assert list(found) == list(matrix.DEFINITIONS)
    np.testing.assert_allclose([found[name].mean for name in expected], list(expected.values()), rtol=1e-12)
    assert all(interval.low < interval.mean < interval.high for interval in found.values())


def test_a_person_in_every_period_moves_all_of_them_together():
    # Scores depend on the person alone. Where the same persons are in both periods nothing is ever forgotten, in any
    # draw; with other persons in each period the difference between periods is noise.
    person = np.random.default_rng(0).normal(size=10)
    periods = np.repeat([0, 1], 10)
    same = Scored(np.broadcast_to(np.tile(person, 2), (1, 2, 20)), None, np.tile(np.arange(10), 2), periods)
    other = same._replace(users=np.arange(20))
    ends = {}
    for name, data in {"same": same, "other": other}.items():
        r = resampled(data, draws=100)
        ends[name] = r["average"].std()
        np.testing.assert_allclose(r["bwt"][np.isfinite(r["bwt"])], 0, atol=1e-12)
    assert ends["same"] > 1.2 * ends["other"]  # sqrt(2) in expectation


def test_difference_is_paired():
    a = scored()
    b = a._replace(values=a.values - 0.25)
    found = difference_metrics(a, b, draws=100)
    np.testing.assert_allclose(found["average"], (0.25, 0.25, 0.25), rtol=1e-9)
    np.testing.assert_allclose(found["bwt"], (0, 0, 0), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: matrix.average(np.ones((2, 3))), r"r must be \[..., T, T\]"),
        (lambda: matrix.average(np.array([[1.0, np.nan], [1.0, 1.0]])), "r must be finite, got nan"),
        (lambda: matrix.fwt(R, np.ones(2)), r"start must have shape \(3,\), got \(2,\)"),
        (lambda: cells(scored()._replace(users=np.arange(3))), r"users must have shape \(11,\), got \(3,\)"),
        (lambda: cells(scored(periods=(0,) * 10 + (2,))), "none in period 1"),
        (lambda: cells(scored()._replace(values=np.full((2, 3, 11), np.nan))), "must be finite"),
        (lambda: difference_metrics(scored(), scored(users=tuple(range(11)))), "same users and periods"),
        (
            lambda: continual_metrics(Scored(np.ones((1, 4, 4)), None, np.arange(4), np.arange(4))),
            "users must be enough",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
