"""A user's evidence weighed: the path by hand, and the posterior of another noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import base, inner, keys, models
from tests.contracts import world

KEY = keys.root(0)


def regression(noise):
    model = models.embedded(models.dense_body((2,)), models.bayes_head(variance=False, deviation=0.7, noise=noise))
    return model, model.init(KEY)


def support():
    x = np.random.default_rng(0).normal(size=(5, 2))
    return base.Batch(jnp.asarray(x), jnp.asarray(x @ [1.0, -2.0] + 0.5), jnp.array([True] * 4 + [False]))


@pytest.mark.parametrize("weight", [0.25, 1.0, 4.0])
def test_weighing_the_sums_is_the_posterior_under_another_noise(weight):
    model, params = regression(0.8)
    loop = inner.tempered(inner.written(model.write), weight)
    adapted, _ = jax.jit(loop.adapt)(params._replace(inner=loop.init(params)), support(), None)
    other, start = regression(0.8 / weight**0.5)
    whole, _ = inner.written(other.write).adapt(start, support(), None)
    x, rows = jnp.asarray(np.random.default_rng(1).normal(size=(6, 2))), jnp.ones(6, bool)
    ours, theirs = model.apply(adapted, x, rows, None), other.apply(whole, x, rows, None)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert np.abs(np.asarray(ours)).max() > 0.1


def test_the_whole_path_is_scaled_from_its_start_and_a_given_weight_is_read():
    start = base.Params({}, {"theta": jnp.array([1.0, 0.0])}, {})
    loop = inner.tempered(inner.gradient(world.point_loss, 2, 0.5), 0.5)
    batch = base.Batch(jnp.zeros((1, 1)), jnp.array([[3.0, 4.0]]), jnp.array([True]))
    params = start._replace(inner=loop.init(start))
    adapted, path = loop.adapt(params, batch, None)
    np.testing.assert_allclose(path["theta"], [[1.0, 0.0], [1.5, 1.0], [1.75, 1.5]], atol=1e-14)
    np.testing.assert_array_equal(adapted.personal["theta"], path["theta"][-1])
    assert adapted.inner is params.inner
    _, twice = loop.adapt(params._replace(inner=params.inner | {"weight": jnp.asarray(2.0)}), batch, None)
    np.testing.assert_allclose(twice["theta"][-1], [4.0, 6.0], atol=1e-14)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_it_refuses(weight):
    with pytest.raises(ValueError, match=f"weight must be finite and > 0, got {weight}"):
        inner.tempered(inner.none(), weight)
