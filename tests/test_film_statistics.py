"""Statistics of films against hand-worked fits: nothing of a rater's own rating, of held-out users, of later stages."""

import numpy as np
import pytest

from metapers.tasks.film_statistics import film_statistics

USER = np.array([0, 0, 1, 1, 2, 2])  # user 2 is held out
FILM = np.array([0, 1, 0, 1, 0, 2])
STAGE = np.array([0, 1, 0, 1, 0, 1])
RATINGS = np.array([4.0, 2.0, 5.0, 3.0, 1.0, 1.0])
TRAINING = USER < 2


def found(ratings=RATINGS, stage=STAGE, **options):
    return film_statistics(ratings, USER, FILM, stage, TRAINING, **options)


def at_once(ratings=RATINGS, **options):
    """The same ratings as a single stage."""
    result = found(ratings, np.zeros_like(STAGE), **options)
    return result._replace(bias=result.bias[:, 0], count=result.count[:, 0])


def test_hand_worked_biases_without_user_biases():
    # users held at zero by a huge strength: mean 3.5, residuals film 0: .5, 1.5; film 1: -1.5, -.5
    result = at_once(user_strength=1e12, film_strength=1.0)
    np.testing.assert_allclose(result.bias, [1.5 / 2, -0.5 / 2, 0.5 / 2, -1.5 / 2, 2.0 / 3, 0.0], atol=1e-6)
    assert result.count.tolist() == [1, 1, 1, 1, 2, 0]
    assert result.mean == 3.5


def test_hand_worked_biases_after_each_stage():
    # stage 0: mean 4.5, residuals -.5, .5; stage 1: as above, above the first mean by 3.5 - 4.5
    result = found(user_strength=1e12, film_strength=1.0)
    np.testing.assert_allclose(result.bias[:, 0], [0.5 / 2, 0, -0.5 / 2, 0, 0, 0], atol=1e-6)
    after = np.array([1.5 / 2, -0.5 / 2, 0.5 / 2, -1.5 / 2, 2.0 / 3, 0.0])
    np.testing.assert_allclose(result.bias[:, 1], after - 1, atol=1e-6)
    assert result.count.tolist() == [[1, 1], [0, 1], [1, 1], [0, 1], [2, 2], [0, 0]]
    assert result.mean == 4.5


def test_user_biases_are_fitted_jointly():
    # unshrunk and complete: rating = 3.5 + film (1, -1) + user (-.5, .5), so every residual equals its film's bias
    result = at_once(user_strength=0.0, film_strength=0.0)
    np.testing.assert_allclose(result.bias, [1, -1, 1, -1, 1, 0], atol=1e-6)


def test_a_harsh_user_does_not_make_a_film_worse():
    # user 0 gives films 0 and 1 five and four stars, user 1 only film 0, one star: film 0 is still one star better
    user, film = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 0, 0, 1])
    stars, stage = np.array([5.0, 4.0, 1.0, 3.0, 3.0]), np.zeros(5, int)
    result = film_statistics(stars, user, film, stage, user < 2, film_strength=0.0, user_strength=0.0)
    np.testing.assert_allclose(result.bias[3, 0] - result.bias[4, 0], 1.0, atol=1e-5)


def test_a_held_out_users_ratings_change_nothing():
    other = np.where(TRAINING, RATINGS, 5.0)
    for one, two in zip(found(), found(other), strict=True):
        np.testing.assert_array_equal(one, two)


def test_later_ratings_change_nothing_of_what_was_known():
    one, two = found(), found(np.where(STAGE == 1, 0.5, RATINGS))
    np.testing.assert_array_equal(one.bias[:, 0], two.bias[:, 0])
    assert (one.bias != two.bias)[STAGE == 0, 1].any()  # and do afterwards


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"film_strength must be >= 0, got -1"):
        found(film_strength=-1)
    with pytest.raises(ValueError, match=r"stage 0 and those before it hold no rating of a training user"):
        film_statistics(RATINGS, USER, FILM, STAGE, TRAINING & (STAGE > 0))
