"""Bayesian heads: closed forms, the oracle of a known world, calibration, meta-gradients, ratings."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import base, inner, models, scores, tasks
from metapers.models import sums
from metapers.tasks import synthetic
from tests.contracts import world
from tests.test_models import drawn as numbers_of
from tests.test_models import outputs_of, started
from tests.test_sums import dense, drawn

KEY = jax.random.key(0)


@cache
def regression(full=False):
    model = models.bayes_mlp((3, 4), full=full, variance=True)
    params = started(model)
    leaves, structure = jax.tree.flatten(params.shared)
    moved = [jnp.asarray(np.asarray(x) + 0.3 * np.asarray(drawn(*x.shape, seed=i))) for i, x in enumerate(leaves)]
    return model, params._replace(shared=jax.tree.unflatten(structure, moved))


def batch(n=6, seed=1, keep=None):
    return base.Batch(drawn(n, 3, seed=seed), drawn(n, seed=seed + 50), jnp.asarray(np.arange(n) < (keep or n)))


def written(model, params, support):
    """The parameters with those of a user with this support."""
    return params._replace(personal=jax.jit(model.write)(params, support, None))


def test_a_model_by_hand():
    model, params = regression(full=True)
    support, new = batch(), drawn(4, 3, seed=9)
    numbers = jax.tree.map(np.asarray, params.shared)
    head, first, support, new = numbers["head"], numbers["body"]["dense_0"], *jax.tree.map(np.asarray, (support, new))
    phi = lambda x: np.concatenate([np.ones((len(x), 1)), np.maximum(x @ first["kernel"] + first["bias"], 0)], 1)
    factor = np.diag(np.exp(head["log_deviation"])) + np.tril(head["lower"], -1)
    noise = np.exp(head["log_noise"]) ** 2
    mean, covariance = dense(sums.Prior(head["mean"], factor, noise), phi(support.inputs), support.targets[:, None])
    adapted = written(model, params, support)
    outputs = outputs_of(model, adapted, new)
    np.testing.assert_allclose(outputs["mean"], (phi(new) @ mean)[:, 0], atol=1e-11)
    np.testing.assert_allclose(
        outputs["variance"], noise + np.einsum("nd,de,ne->n", phi(new), covariance, phi(new)), atol=1e-11
    )
    plain = models.bayes_mlp((3, 4), full=True, variance=False)
    np.testing.assert_allclose(outputs_of(plain, adapted, new), outputs["mean"], rtol=1e-14)


def test_several_outputs_are_so_many_regressions_with_one_prior():
    model, support, new = models.bayes_mlp((3,), outputs=2, noise=0.5), batch(), drawn(4, 3, seed=9)
    both = np.stack([support.targets, np.cos(support.targets)], 1)
    outputs = outputs_of(model, written(model, started(model), support._replace(targets=both)), new)
    alone = models.bayes_mlp((3,), noise=0.5)
    params = started(alone)
    predict = jax.jit(
        lambda support: alone.apply(
            params._replace(personal=alone.write(params, support, None)), new, jnp.ones(4, bool), None
        )
    )
    for i in range(2):
        found = predict(support._replace(targets=both[:, i]))
        assert world.distance(jax.tree.map(lambda x, i=i: np.asarray(x)[:, i], outputs), found) < 1e-13
    with pytest.raises(ValueError, match=r"targets must have shape \(6,\), got \(6, 2\)"):
        alone.write(params, support._replace(targets=both), None)


def test_writing_twice_is_writing_both():
    model, params = regression()
    a, b = batch(4, 1, 3), batch(5, 2, 4)
    both = jax.tree.map(lambda *parts: np.concatenate(parts), a, b)
    together = written(model, params, both).personal
    assert world.distance(written(model, written(model, params, a), b).personal, together) < 1e-12
    assert float(together["head"]["count"]) == 7.0


def test_vmap_over_users_is_the_loop():
    model, params = regression()
    users = [batch(5, seed, keep) for seed, keep in ((1, 5), (2, 3), (3, 1))]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *users)
    adapt = inner.written(model.write).adapt

    def predict(support):
        return model.apply(adapt(params, support, None)[0], support.inputs, support.mask, None)

    together, alone = jax.device_get(jax.jit(jax.vmap(predict))(stacked)), jax.jit(predict)
    for i, user in enumerate(users):
        assert world.distance(jax.tree.map(lambda x, i=i: x[i], together), alone(user)) < 1e-12


def test_meta_gradient_of_the_likelihood_is_the_finite_difference():
    model, params = regression(full=True)
    loss_fn, support, query = base.example_loss(model, scores.gaussian()), batch(4, 1, 3), batch(5, 2)

    @jax.jit
    @jax.value_and_grad
    def value(shared):
        adapted, _ = inner.written(model.write).adapt(params._replace(shared=shared), support, None)
        return base.masked_mean(loss_fn(adapted, query, None), query.mask)

    slopes = jax.device_get(value(params.shared)[1])
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, params.shared))
    for i, slope in enumerate(jax.tree.leaves(slopes)):
        direction = np.asarray(drawn(*slope.shape, seed=70 + i))
        moved = lambda size, i=i, to=direction: value(
            jax.tree.unflatten(structure, [x + size * to if j == i else x for j, x in enumerate(leaves)])
        )
        expected = (moved(1e-5)[0] - moved(-1e-5)[0]) / 2e-5
        assert abs(float(expected)) > 1e-6
        np.testing.assert_allclose(np.sum(slope * direction), expected, rtol=1e-6, atol=1e-9)


@cache
def known_world():
    """A stream with an oracle, its test users, and the predictions of a model that has the true prior and noise."""
    taste, noise, overlap, dim = 0.7, 0.4, 0.3, 2
    stream = tasks.linear_gaussian(
        drift=synthetic.recurring(),
        periods=2,
        users_per_period=40,
        examples=12,
        dim=dim,
        taste=taste,
        noise=noise,
        overlap=overlap,
        support=6,
        query=6,
    )
    cohort = stream.held_out("test", None)
    assert stream.oracle is not None
    x = np.asarray(cohort.inputs)
    mean = np.linalg.lstsq(x, stream.oracle(cohort, 0, 12), rcond=None)[0]  # the population's weights
    near = np.arange(x.shape[1] + 1) - 1
    deviation = np.where((near >= 0) & (near < dim), taste / np.sqrt(overlap), 0.0)  # singular, as it is
    model = models.bayes_mlp((x.shape[1],))
    head = {
        "mean": np.concatenate([[0.0], mean])[:, None],
        "log_deviation": np.log(deviation, out=np.full(len(deviation), -np.inf), where=deviation > 0),
        "log_noise": np.log(noise),
    }
    params = base.Params({"head": jax.tree.map(jnp.asarray, head)}, started(model).personal, {})

    @jax.jit
    def predict(support):
        adapted, _ = inner.written(model.write).adapt(params, support, None)
        return model.apply(adapted, support.inputs, support.mask, None)

    return stream, cohort, predict


@pytest.mark.parametrize("shots", [0, 1, 3, 8])
def test_with_the_true_prior_and_noise_it_is_the_oracle(shots):
    stream, cohort, predict = known_world()
    oracle = stream.oracle(cohort, shots, 12)
    for low, high in zip(cohort.offsets[:-1][:6], cohort.offsets[1:][:6], strict=True):
        support = base.Batch(cohort.inputs[low:high], cohort.targets[low:high], np.arange(high - low) < shots)
        np.testing.assert_allclose(predict(support)["mean"], oracle[low:high], rtol=1e-6, atol=1e-6)


def test_the_predictive_variance_is_calibrated():
    users, d, noise, deviation, most = 4000, 3, 0.5, 0.8, 10
    numbers = lambda *shape, seed: np.asarray(drawn(*shape, seed=seed))
    w = deviation * numbers(users, d, seed=1)
    phi = numbers(users, most + 1, d, seed=2)
    y = np.einsum("und,ud->un", phi, w) + noise * numbers(users, most + 1, seed=3)
    model = models.bayes_mlp((d,), deviation=deviation, noise=noise)
    params = started(model)
    params.shared["head"]["log_deviation"] = params.shared["head"]["log_deviation"].at[0].set(-jnp.inf)

    def last(phi, y, shots):
        support = base.Batch(phi[:-1], y[:-1], jnp.arange(most) < shots)
        adapted = params._replace(personal=model.write(params, support, None))
        return model.apply(adapted, phi[-1:], jnp.ones(1, bool), None)

    predict = jax.jit(jax.vmap(last, in_axes=(0, 0, None)))
    for shots in (0, 2, 10):
        outputs = jax.device_get(predict(phi, y, shots))
        error = (y[:, -1:] - outputs["mean"]) / np.sqrt(outputs["variance"])
        assert abs(np.mean(np.square(error)) - 1) < 4 * (2 / users) ** 0.5
        assert abs(np.mean(np.abs(error) < 1.959964) - 0.95) < 4 * (0.95 * 0.05 / users) ** 0.5


def test_a_start_that_is_empty_gets_no_gradient_and_cannot_matter():
    model, params = regression()
    loss_fn, query = base.example_loss(model, scores.gaussian()), batch()
    told = jax.jit(jax.value_and_grad(lambda params: jnp.mean(loss_fn(params, query, None))))
    value, slopes = told(params)
    slopes = slopes.personal
    assert all(float(np.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(slopes))
    noisy = {**params.personal["head"], "gram": -drawn(5, 5), "count": jnp.asarray(-0.1)}
    np.testing.assert_allclose(told(params._replace(personal={"head": noisy}))[0], value, rtol=1e-14)


def items(n, seed=0):
    found = {
        "item": np.arange(n) % 5,
        "genres": np.where(np.asarray(drawn(n, 3, seed=seed)) > 0, 1.0, 0.0),
        "year": drawn(n, seed=seed + 1),
        "year_missing": np.zeros(n),
        "bias": 0.3 * np.asarray(drawn(n, seed=seed + 2)),
    }
    return jax.tree.map(jnp.asarray, found)


@pytest.mark.parametrize("full", [False, True])
def test_the_width_of_the_prior_and_the_noise_are_a_group_of_their_own(full):
    model, params = regression(full=full)
    groups = model.groups(params).shared
    widths = {"log_deviation": "prior", "log_noise": "prior"} | ({"lower": "prior"} if full else {})
    assert groups["head"] == {"mean": "param", **widths}
    assert set(jax.tree.leaves(groups["body"])) == {"param"}


@pytest.mark.parametrize("tables", [False, True])
def test_the_recommender_with_the_solved_weights_is_the_recommender(tables):
    options = {"features": 2, "hidden": 3, "offset": 3.4, "tables": tables}
    plain, solved = models.recommender(4, 3, **options), models.bayes_recommender(4, 3, variance=True, **options)
    moved = lambda x: jnp.asarray(np.asarray(x) + 0.2 * np.asarray(drawn(*x.shape, seed=x.size)))
    net = numbers_of(plain).shared
    params = started(solved)
    head = jax.tree.map(moved, params.shared["head"])
    params = params._replace(shared={**net, "head": head})
    size = head["log_deviation"].size
    targets, there = 3.4 + np.asarray(drawn(7, seed=8)), np.arange(7) < 6
    # phi by columns: what a unit weight adds to the rating
    apply = jax.jit(lambda w, of: plain.apply(base.Params(net, {"weights": w}, {}), of, jnp.ones(7, bool), None))
    rate = lambda w, of: np.asarray(apply(w, of))
    level = rate(np.zeros(size), items(7))
    phi = np.stack([rate(one, items(7)) - level for one in np.eye(size)], 1)
    known = jax.tree.map(np.asarray, head)
    given = sums.Prior(known["mean"], np.exp(known["log_deviation"]), np.exp(known["log_noise"]) ** 2)
    weights, _ = dense(given, phi[:6], (targets - level)[:6, None])
    ratings = base.Batch(items(7), np.where(there, targets, np.nan), there)
    found = outputs_of(solved, written(solved, params, ratings), items(7, 40))
    np.testing.assert_allclose(found["mean"], rate(weights[:, 0], items(7, 40)), atol=1e-10)
    start = outputs_of(models.bayes_recommender(4, 3, **options), params, items(7, 40))
    np.testing.assert_allclose(start, rate(known["mean"][:, 0], items(7, 40)), atol=1e-12)
    assert set(jax.tree.leaves(solved.groups(params).shared)) == {"param", "prior"} | ({"table"} if tables else set())
    assert set(jax.tree.leaves(solved.groups(params).personal)) == {"written"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.bayes_mlp(()), r"sizes must be at least one number >= 1, got \[\]"),
        (lambda: models.bayes_mlp((3,), outputs=0), "outputs must be >= 1 or None, got 0"),
        (lambda: models.bayes_mlp((3,), noise=0.0), "noise must be finite and > 0, got 0.0"),
        (lambda: models.bayes_recommender(3, 3, deviation=float("nan")), "deviation must be finite and > 0, got nan"),
        (lambda: models.bayes_recommender(0, 3), "items must be >= 1, got 0"),
    ],
)
def test_what_is_out_of_bounds_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
