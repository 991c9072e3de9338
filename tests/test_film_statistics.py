"""Statistics of films against hand-worked fits: nothing of a rater itself, of held-out users, of what is not known."""

import numpy as np
import pytest

from metapers.tasks.film_statistics import film_statistics

USER = np.array([0, 0, 1, 1, 2, 2])  # user 2 is held out
FILM = np.array([0, 1, 0, 1, 0, 2])
PERIOD = np.array([0, 1, 0, 1, 0, 1])
RATINGS = np.array([4.0, 2.0, 5.0, 3.0, 1.0, 1.0])
TRAINING = USER < 2


def found(ratings=RATINGS, period=PERIOD, **options):
    return film_statistics(ratings, USER, FILM, period, TRAINING, **options)


def at_once(ratings=RATINGS, **options):
    """The same ratings as a single period, known at its end."""
    return found(ratings, np.zeros_like(PERIOD), as_of="end", **options)


def test_hand_worked_biases_without_user_biases():
    # users held at zero by a huge strength: mean 3.5, residuals film 0: .5, 1.5; film 1: -1.5, -.5
    result = at_once(user_strength=1e12, film_strength=1.0)
    np.testing.assert_allclose(result.bias, [1.5 / 2, -0.5 / 2, 0.5 / 2, -1.5 / 2, 2.0 / 3, 0.0], atol=1e-6)
    assert result.count.tolist() == [1, 1, 1, 1, 2, 0]
    assert result.mean == 3.5


# user, film, period, stars; user 2 is held out
LIFE = np.array([
    (0, 0, 0, 4), (1, 1, 0, 2), (2, 0, 0, 1),
    (0, 1, 1, 5), (1, 0, 1, 2), (2, 0, 1, 1),
    (2, 1, 2, 1), (3, 0, 2, 4),
])  # fmt: skip
# By the end of period 0: mean 3, residuals of film 0: 1; of film 1: -1.
# Of period 1: mean 3.25; film 0: .75, -1.25; film 1: -1.25, 1.75. Of period 2: 3.4; .6, -1.4, .6; -1.4, 1.6.
BY_HAND = {
    "before": (
        [0, 0, 0, -1 / 2, 1 / 2, 1 / 2, 0.25 + 0.5 / 3, 0.25 - 0.5 / 3],
        [0, 0, 0, 1, 1, 1, 2, 2],
    ),
    "end": (
        [0, 0, 1 / 2, 0.25 - 1.25 / 2, 0.25 + 0.75 / 2, 0.25 - 0.5 / 3, 0.4 + 0.2 / 3, 0.4 - 0.8 / 3],
        [0, 0, 1, 1, 1, 2, 2, 2],
    ),
    "retrospective": (
        [0.4 - 0.8 / 3, 0.4 + 1.6 / 2, 0.4 - 0.2 / 4, 0.4 - 1.4 / 2]
        + [0.4 + 1.2 / 3, 0.4 - 0.2 / 4, 0.4 + 0.2 / 3, 0.4 - 0.8 / 3],
        [2, 1, 3, 1, 2, 3, 2, 2],
    ),
}


def of_life(stars=LIFE[:, 3], **options):
    user, film, period, _ = LIFE.T
    return film_statistics(stars.astype(float), user, film, period, user != 2, **options)


@pytest.mark.parametrize("as_of", BY_HAND)
def test_hand_worked_biases_as_known_under_each_policy(as_of):
    result, (bias, count) = of_life(as_of=as_of, user_strength=1e12, film_strength=1.0), BY_HAND[as_of]
    np.testing.assert_allclose(result.bias, bias, atol=1e-6)
    assert result.count.tolist() == count
    assert result.mean == 3.0  # of the first period, whatever is known


def test_before_is_the_default():
    for one, two in zip(of_life(), of_life(as_of="before"), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("as_of", "reach"), [("before", 0), ("end", 1), ("retrospective", 3)])
def test_each_rating_enters_those_that_may_know_it_and_no_other(as_of, reach):
    """A training rating of period t reaches the other ratings of its film in all periods after t - ``reach``."""
    period, before = LIFE[:, 2], of_life(as_of=as_of)
    for row in np.flatnonzero(LIFE[:, 0] != 2):
        stars = LIFE[:, 3].astype(float)
        stars[row] += 0.5
        after = of_life(stars, as_of=as_of)
        moved, known = after.bias != before.bias, period > period[row] - reach
        assert not moved[~known].any()
        assert moved[known & (LIFE[:, 1] == LIFE[row, 1]) & (np.arange(len(LIFE)) != row)].all()
        np.testing.assert_array_equal(after.count, before.count)


def test_user_biases_are_fitted_jointly():
    # unshrunk and complete: rating = 3.5 + film (1, -1) + user (-.5, .5), so every residual equals its film's bias
    result = at_once(user_strength=0.0, film_strength=0.0)
    np.testing.assert_allclose(result.bias, [1, -1, 1, -1, 1, 0], atol=1e-6)


def test_a_harsh_user_does_not_make_a_film_worse():
    # user 0 gives films 0 and 1 five and four stars, user 1 only film 0, one star: film 0 is still one star better
    user, film = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 0, 0, 1])
    stars, period = np.array([5.0, 4.0, 1.0, 3.0, 3.0]), np.zeros(5, int)
    result = film_statistics(stars, user, film, period, user < 2, as_of="end", film_strength=0.0, user_strength=0.0)
    np.testing.assert_allclose(result.bias[3] - result.bias[4], 1.0, atol=1e-5)


@pytest.mark.parametrize("as_of", BY_HAND)
def test_a_held_out_users_ratings_change_nothing(as_of):
    other = np.where(LIFE[:, 0] == 2, 5.0, LIFE[:, 3])
    for one, two in zip(of_life(as_of=as_of), of_life(other, as_of=as_of), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("as_of", ["before", "end"])
def test_later_ratings_change_nothing_of_what_was_known(as_of):
    period = LIFE[:, 2]
    for now in (1, 2):
        one, two = of_life(as_of=as_of), of_life(np.where(period >= now, 0.5, LIFE[:, 3]), as_of=as_of)
        known = period <= now if as_of == "before" else period < now
        np.testing.assert_array_equal(one.bias[known], two.bias[known])
        assert (one.bias != two.bias)[~known].any() or known.all()  # and do afterwards


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"film_strength must be >= 0, got -1"):
        found(film_strength=-1)
    with pytest.raises(ValueError, match=r"as_of must be before, end or retrospective, got 'now'"):
        found(as_of="now")
    with pytest.raises(ValueError, match=r"period 0 holds no rating of a training user"):
        film_statistics(RATINGS, USER, FILM, PERIOD, TRAINING & (PERIOD > 0))
