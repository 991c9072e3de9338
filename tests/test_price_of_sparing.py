"""What fewer worse users cost: the belief is a posterior's, and the cheapest choice is the cheapest."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import price_of_sparing as price
from metapers import keys, models
from metapers.base import Batch, Cohort
from metapers.models import sums

pytestmark = pytest.mark.benchmarks


def histories(count, seed=0, *, later=20):
    """Users whose weights come from the prior that the belief begins with."""
    random, deviation, noise = np.random.default_rng(seed), np.array([0.7, 0.3, 0.2]), 0.8
    prior = sums.Prior(jnp.zeros((3, 1)), jnp.asarray(deviation), jnp.asarray(noise**2))
    for _ in range(count):
        known = int(random.integers(2, 17))
        phi = random.normal(size=(known + later, 3))
        errors = phi @ (deviation * random.normal(size=3)) + noise * random.normal(size=known + later)
        yield price.User(phi[:known], errors[:known], phi[known:], errors[known:], prior)


def found_of(users, draws):
    random = np.random.default_rng(1)
    rows = [[price.believed(user, 1.0, random, draws)] for user in users]
    return price.joined(rows)


@pytest.mark.parametrize("way", [1, 4])
def test_a_right_belief_is_borne_out(way):
    users = list(histories(1200))
    found = found_of(users, 200)
    chance, believed = found.chance[:, 0, way], found.gain[:, 0, way]
    means = [price.belief(user)[0] for user in users]
    shifts = (price.WAYS[way] * user.query @ mean for user, mean in zip(users, means, strict=True))
    after = np.array([price.rmse(user.query_error - shift) for user, shift in zip(users, shifts, strict=True)])
    gain, hurt = found.start[:, 0] - after, after > found.start[:, 0]
    assert 0.1 < hurt.mean() < 0.4 and gain.mean() > 0.02
    for part in (chance < np.median(chance), chance >= np.median(chance)):
        assert abs(hurt[part].mean() - chance[part].mean()) < 4 * hurt[part].std() / part.sum() ** 0.5
        assert abs(gain[part].mean() - believed[part].mean()) < 4 * gain[part].std() / part.sum() ** 0.5
    assert np.ptp(chance) > 0.1  # users differ


def test_a_user_is_adapted_by_the_posterior_mean():
    user = next(histories(1, seed=3))
    found = price.believed(user, 1.0, np.random.default_rng(0), 10)
    deviation, noise = np.asarray(user.prior.factor), float(user.prior.noise)
    precision = np.diag(1 / deviation**2) + user.support.T @ user.support / noise
    mean = np.linalg.solve(precision, user.support.T @ user.support_error / noise)
    np.testing.assert_allclose(found.start, np.sqrt(np.mean(user.query_error**2)), rtol=1e-12)
    np.testing.assert_allclose(found.adapted, np.sqrt(np.mean((user.query_error - user.query @ mean) ** 2)), rtol=1e-9)
    np.testing.assert_allclose(found.move, np.mean((user.support @ mean) ** 2), rtol=1e-9)


def test_variances_are_scaled_to_the_errors_that_came():
    users = list(histories(1000, later=40))
    assert abs(price.scale_of(users) - 1) < 0.05
    wider = [
        user._replace(prior=user.prior._replace(factor=user.prior.factor / 3, noise=user.prior.noise / 9))
        for user in users
    ]
    np.testing.assert_allclose(price.scale_of(wider), 9 * price.scale_of(users), rtol=1e-9)
    one, same = (price.believed(u, s, np.random.default_rng(0), 50) for u, s in ((users[0], 1.0), (wider[0], 9.0)))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)  # as if nothing had been scaled


def test_no_choice_of_ways_is_cheaper():
    random, users = np.random.default_rng(2), 7
    gain, chance = (np.sort(random.uniform(0, most, (users, 3)), 1) for most in (1.0, 0.5))
    gain[:, 0] = chance[:, 0] = 0
    for share in (0.3, 0.5, 0.8):
        cheapest = np.inf
        for ways in itertools.product(range(3), repeat=users):
            of = np.arange(users), np.array(ways)
            if chance[of].sum() <= share * chance[:, -1].sum():
                cheapest = min(cheapest, np.mean(gain[:, -1] - gain[of]))
        least = price.least_price(gain, chance, share)
        assert cheapest - gain.max() / users < least <= cheapest + 1e-12
    assert price.least_price(gain, chance, 1.0) == pytest.approx(np.mean(gain[:, -1] - gain.max(1)), abs=1e-6)
    assert price.least_price(gain, chance, 0.0) == pytest.approx(gain[:, -1].mean(), rel=1e-6)


def test_users_with_the_lowest_score_stay_at_the_start():
    start, adapted = np.array([[1.0], [1.0], [1.0], [1.0]]), np.array([[1.1], [0.9], [1.2], [0.4]])
    found = price.Found(start, adapted, *(np.zeros((4, 1)) for _ in range(3)))
    score = np.array([[1.0], [2.0], [3.0], [4.0]])
    assert price.gated(found, score, 0.0) == pytest.approx((0.9, 0.5))
    assert price.gated(found, score, 0.5) == pytest.approx((0.9, 0.25))
    assert price.price(found, score, 0.5) == pytest.approx(-0.025)  # the first of them alone
    assert price.price(found, -score, 0.5) == pytest.approx((1.0 + 0.9 + 1.0 + 1.1) / 4 - 0.9)


def test_residuals_and_features_are_those_of_the_model():
    model = models.bayes_recommender(5, 2, tables=True)
    params = model.init(keys.root(0))
    inputs = {
        "genres": np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]),
        "year": np.array([0.1, -0.4, 1.0]),
        "year_missing": np.zeros(3),
        "item": np.array([1, 5, 2]),
    }
    head = params.shared["head"] | {"mean": jax.random.normal(jax.random.key(1), params.shared["head"]["mean"].shape)}
    params = params._replace(shared=params.shared | {"head": head})
    sizes = (1, 1, 1, 3)
    cohort = Cohort(inputs, np.array([3.0, 4.0, 5.0]), np.array([0, 3]), *(np.zeros(size, int) for size in sizes))
    phi, errors, prior = price.seen(model.apply, jax.tree.map(np.asarray, params), cohort)
    # a user whose weights are known: the features say how the prediction moves
    support = jnp.ones(3, bool)
    known = sums.absorb(sums.nothing(phi.shape[1]), jnp.asarray(phi), jnp.asarray(errors)[:, None], support)
    moved, _ = sums.posterior(known, prior)
    batch = Batch(jax.tree.map(jnp.asarray, inputs), jnp.asarray(cohort.targets), support)
    written = params._replace(personal=model.write(params, batch, None))
    told = model.apply(written, inputs, support, None)
    np.testing.assert_allclose(cohort.targets - np.asarray(told), errors - phi @ np.asarray(moved)[:, 0], atol=1e-9)


def test_the_table_says_what_halving_costs():
    text = price.table(found_of(histories(60), 50))
    assert (
        text.count("\n| ") == len(price.SHARES) and "60 validation users" in text and "if the belief is right" in text
    )
