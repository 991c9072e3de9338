"""Normalisation as a choice: closed forms, and which choices let one query's prediction move another's."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metapers import base, inner, keys, models, scores, trees
from metapers.models import layers, norms, seam
from tests.test_models import assert_close, drawn, outputs_of, rows, started

KEY = jax.random.key(0)
CHOICES = {
    "none": models.no_norm(),
    "group": models.group_norm(2),
    "layer": models.layer_norm(),
    "support": models.support_norm(),
    "batch": models.batch_norm(),
}


def images(n, size=9, seed=1):
    return jnp.asarray(2.0 * np.asarray(rows(n, size, size, 1, seed=seed)) + 0.5)


def batch(n, size=9, seed=1, ways=2):
    return base.Batch(images(n, size, seed), jnp.asarray(np.arange(n) % ways), jnp.ones(n, bool))


def quick(model):
    """The model with its start and its writing compiled, for callers that call them as they are."""
    return model._replace(init=jax.jit(model.init), write=jax.jit(model.write))


def scaled(norm):
    norm.scale[...] = jnp.asarray(np.linspace(0.5, 2.0, norm.scale.shape[0]))
    norm.shift[...] = jnp.asarray(np.linspace(-1.0, 3.0, norm.shift.shape[0]))
    return np.asarray(norm.scale[...]), np.asarray(norm.shift[...])


def test_batch_norm_uses_the_statistics_of_the_unmasked_rows():
    x, mask = rows(4, 3, 5, 2), jnp.array([True, True, False, True])
    norm = models.batch_norm().build(2)
    scale, shift = scaled(norm)
    kept = np.asarray(x)[np.asarray(mask)]
    assert_close(
        norm(x, mask), (np.asarray(x) - kept.mean((0, 1, 2))) / np.sqrt(kept.var((0, 1, 2)) + 1e-5) * scale + shift
    )


@pytest.mark.parametrize(("choice", "groups"), [(models.layer_norm(), 1), (models.group_norm(3), 3)])
def test_group_norm_measures_each_row_and_group_by_itself(choice, groups):
    x, norm = jnp.asarray(np.asarray(rows(2, 3, 5, 6)) + 1.0), choice.build(6)
    scale, shift = scaled(norm)
    expected = np.empty(x.shape)
    for row in range(2):
        for part in np.split(np.arange(6), groups):
            mine = np.asarray(x)[row, :, :, part]
            expected[row, :, :, part] = (mine - mine.mean()) / np.sqrt(mine.var() + 1e-5)
    assert_close(norm(x, jnp.ones(2, bool)), expected * scale + shift)


def test_no_norm_is_the_identity_without_parameters():
    x = rows(2, 3, 3, 4)
    assert_close(models.no_norm().build(4)(x, jnp.ones(2, bool)), x, 0)
    params = jax.eval_shape(models.conv4(2, 4, norm=models.no_norm()).init, KEY)
    assert set(params.personal) == {"conv_0", "conv_1", "conv_2", "conv_3", "head"}


def test_support_norm_measures_what_it_is_written_with():
    support, query, mask = rows(4, 3, 5, 2) * 3.0 + 1.0, rows(3, 3, 5, 2, seed=2), jnp.array([True, True, False, True])
    norm = models.support_norm().build(2)
    scale, shift = scaled(norm)
    everyone = jnp.ones(3, bool)
    assert_close(norm(query, everyone), np.asarray(query) * scale + shift)  # nothing written yet: mean 0, variance 1
    norm.write(support, mask)
    kept = np.asarray(support)[np.asarray(mask)]
    unit = (np.asarray(query) - kept.mean((0, 1, 2))) / np.sqrt(kept.var((0, 1, 2)) + 1e-5)
    assert_close(norm(query, everyone), unit * scale + shift)


def test_without_a_row_support_norm_keeps_the_statistics_it_has():
    norm, nobody = models.support_norm().build(2), jnp.zeros(4, bool)
    norm.write(rows(4, 3, 5, 2), nobody)
    assert_close((norm.mean[...], norm.log_variance[...]), (np.zeros(2), np.zeros(2)), 0)
    norm.write(rows(4, 3, 5, 2), ~nobody)
    before = norm.mean[...], norm.log_variance[...]
    norm.write(rows(4, 3, 5, 2, seed=3), nobody)
    assert_close((norm.mean[...], norm.log_variance[...]), before, 0)
    assert not np.allclose(before[0], 0, atol=1e-3)


@pytest.mark.parametrize("steps", [0, 1])
def test_before_the_first_step_no_statistics_of_the_support_are_known(steps):
    model = models.conv4(2, 3, norm=models.support_norm())
    loss_fn, params = base.example_loss(model, scores.cross_entropy()), drawn(model)
    adapt = jax.jit(inner.gradient(loss_fn, steps, 0.1, write=model.write).adapt)
    paths = [jax.device_get(adapt(params, batch(4, seed=seed), None)[1]) for seed in (1, 2)]
    for path in paths:
        assert_close(jax.tree.map(lambda x: x[0], path), params.personal, 0)
    assert np.allclose(paths[0]["norm_0"]["mean"], paths[1]["norm_0"]["mean"]) == (steps == 0)
    nobody = batch(4)._replace(mask=jnp.zeros(4, bool))
    assert_close(adapt(params, nobody, None)[0].personal, params.personal, 0)


def test_support_norm_of_the_support_itself_is_batch_norm():
    ours, theirs = models.conv4(2, 4, norm=models.support_norm()), models.conv4(2, 4)
    params, mask = drawn(ours), np.array([True, True, False, True, True])
    support = batch(5)._replace(mask=jnp.asarray(mask))
    kept = {"scale", "shift"}
    usual = {
        name: {leaf: x for leaf, x in part.items() if leaf in kept} if "norm" in name else part
        for name, part in params.personal.items()
    }
    written = params._replace(personal=jax.jit(ours.write)(params, support, None))
    assert_close(
        np.asarray(outputs_of(ours, written, support.inputs, support.mask))[mask],
        np.asarray(outputs_of(theirs, base.Params({}, usual, {}), support.inputs, support.mask))[mask],
        1e-10,
    )
    pairs = zip(trees.names(params.personal), *map(jax.tree.leaves, (params.personal, written.personal)), strict=True)
    changed = {name for name, one, other in pairs if not np.allclose(one, other)}
    assert changed == {f"norm_{i}/{leaf}" for i in range(4) for leaf in ("mean", "log_variance")}


@pytest.mark.parametrize(("name", "pool"), [*((name, False) for name in CHOICES), ("group", True)])
def test_one_query_moves_another_only_where_it_is_declared(name, pool):
    choice = CHOICES[name]
    model, size = models.conv4(2, 4, norm=choice, pool=pool), 16 if pool else 9
    params, query, mask = drawn(model), images(4, size, seed=2), jnp.ones(4, bool)
    params = params._replace(personal=jax.jit(model.write)(params, batch(3, size), None))
    predict = jax.jit(lambda inputs, mask: model.apply(params, inputs, mask, None)[0])
    times = lambda *factors: np.asarray(query) * np.array(factors)[:, None, None, None]
    first = predict(query, mask)
    others = (predict(times(1.0, 1.0, 3.0, 1.0), mask), predict(query, np.arange(4) < 3))
    for other in others:
        assert np.allclose(first, other, rtol=0, atol=1e-12) != choice.transductive
    assert not np.allclose(first, predict(times(-1.0, 1.0, 1.0, 1.0), mask), atol=1e-6)
    assert models.is_transductive(model, drawn(model), query) == choice.transductive == (name == "batch")


@pytest.mark.parametrize("name", sorted(set(CHOICES) - {"support"}))
def test_nothing_is_written_where_nothing_is_kept(name):
    model = models.conv4(2, 4, norm=CHOICES[name])
    params = drawn(model)
    assert_close(jax.jit(model.write)(params, batch(3), None), params.personal, 0)


def test_support_statistics_are_personal_whatever_adapts():
    model = models.conv4(2, 4, norm=models.support_norm(), adapts=models.ADAPTS["head"])
    params = drawn(model)
    statistics = {f"norm_{i}": {"mean": (4,), "log_variance": (4,)} for i in range(4)}
    assert jax.tree.map(jnp.shape, params.personal) == statistics | {"head": {"kernel": (4, 2), "bias": (2,)}}
    supports = jax.tree.map(lambda *leaves: np.stack(leaves), batch(3), batch(3, seed=7))
    write = lambda support: model.write(params, support, None)
    together = jax.device_get(jax.jit(jax.vmap(write))(supports))
    assert_close(jax.tree.map(lambda x: x[1], together), jax.jit(write)(batch(3, seed=7)))


def test_support_norm_has_an_exact_meta_gradient():
    model = models.conv4(2, 3, norm=models.support_norm(), adapts=models.ADAPTS["head"])
    loss_fn = base.example_loss(model, scores.cross_entropy())
    support, query = batch(4), batch(4, seed=3)

    @jax.jit
    @jax.value_and_grad
    def outer(params, hold):
        def write(params, support, key):
            measured = model.write(params, support, key)
            return jax.tree.map(lambda x: jnp.where(hold, jax.lax.stop_gradient(x), x), measured)

        loop = inner.gradient(loss_fn, 1, 0.2, write=write)
        return jnp.mean(loss_fn(loop.adapt(params, support, None)[0], query, None))

    params, direction, size = drawn(model), drawn(model, 9), 1e-5
    full = outer(params, False)[1]
    moved = lambda size: outer(
        jax.tree.map(lambda p, d: np.asarray(p) + size * np.asarray(d), params, direction), False
    )
    along = jax.tree.map(lambda slope, d: np.sum(np.asarray(slope) * np.asarray(d)), full, direction)
    difference = (moved(size)[0] - moved(-size)[0]) / (2 * size)
    np.testing.assert_allclose(sum(jax.tree.leaves(along)), difference, rtol=1e-6)
    # through the measuring too: with the statistics held constant the slope is another
    short = outer(params, True)[1]
    assert not np.allclose(short.shared["conv_0"]["kernel"], full.shared["conv_0"]["kernel"], rtol=1e-2)


def test_support_statistics_written_at_every_step_have_no_slope_and_give_that_of_batch_norm():
    ours, theirs = models.conv4(2, 4, norm=models.support_norm()), models.conv4(2, 4)
    params, support = drawn(ours), batch(5)
    objective = scores.cross_entropy()

    def written(personal):
        now = params._replace(personal=personal)
        now = now._replace(personal=ours.write(now, support, None))
        return jnp.mean(objective.loss(ours.apply(now, support.inputs, support.mask, None), support.targets))

    def usual(personal):
        outputs = theirs.apply(base.Params({}, personal, {}), support.inputs, support.mask, None)
        return jnp.mean(objective.loss(outputs, support.targets))

    keep = lambda part: {leaf: x for leaf, x in part.items() if leaf not in ("mean", "log_variance")}
    slope = jax.jit(jax.grad(written))(params.personal)
    for i in range(4):
        assert_close(slope[f"norm_{i}"]["mean"], np.zeros(4), 0)
        assert_close(slope[f"norm_{i}"]["log_variance"], np.zeros(4), 0)
    strip = lambda personal: {name: keep(part) for name, part in personal.items()}
    assert_close(strip(slope), jax.jit(jax.grad(usual))(strip(params.personal)), 1e-10)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3)])
def test_max_pool_by_hand(size):
    x = rows(2, *size, 3)
    numbers, (height, width) = np.asarray(x), (size[0] // 2, size[1] // 2)
    expected = np.empty((2, height, width, 3))
    for i in range(height):
        for j in range(width):
            expected[:, i, j] = numbers[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
    assert_close(layers.max_pool(x), expected, 0)


def test_conv4_pooled_is_the_published_network():
    model = models.conv4(3, 4, pool=True)
    params, x = drawn(model), images(3, 28)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, jax.eval_shape(models.conv4(3, 4).init, KEY))
    y, sizes = np.asarray(x), []
    for i in range(4):
        conv, norm = jax.tree.map(np.asarray, (params.personal[f"conv_{i}"], params.personal[f"norm_{i}"]))
        around, side, half = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0))), y.shape[1], y.shape[1] // 2
        seen = lambda a, b, around=around, side=side: around[:, a : a + side, b : b + side]
        y = sum(seen(a, b) @ conv["kernel"][a, b] for a in range(3) for b in range(3)) + conv["bias"]
        y = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5) * norm["scale"]
        y = np.maximum(y + norm["shift"], 0.0)
        y = y[:, : 2 * half, : 2 * half].reshape(3, half, 2, half, 2, 4).max((2, 4))
        sizes.append(y.shape[1])
    assert sizes == [14, 7, 3, 1]
    head = params.personal["head"]
    expected = y[:, 0, 0] @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    assert_close(outputs_of(model, params, x), expected, 1e-10)


def test_conv4_film_changes_nothing_at_first_and_stands_after_the_norm():
    adapts = models.ADAPTS["film"]
    plain, film = models.conv4(2, 4), models.conv4(2, 4, film=True, adapts=adapts)
    params, query = started(film), images(3)
    before = base.Params({}, params.shared, {})
    of_film, of_plain = jax.jit(film.apply), jax.jit(plain.apply)
    mask = jnp.ones(3, bool)
    assert set(params.personal) == {f"film_{i}" for i in range(4)}
    assert_close(of_film(params, query, mask, None), of_plain(before, query, mask, None), 1e-13)
    numbers = lambda seed: np.asarray(rows(4, seed=seed))
    user = {f"film_{i}": {"scale": 2.0 + numbers(i), "shift": numbers(i + 9)} for i in range(4)}
    # an affine map after another is one: scale into the norm's scale, shift beside it
    folded = dict(before.personal)
    for i in range(4):
        norm, own = jax.tree.map(np.asarray, folded[f"norm_{i}"]), user[f"film_{i}"]
        shift = norm["shift"] * own["scale"] + own["shift"]
        folded[f"norm_{i}"] = {"scale": norm["scale"] * own["scale"], "shift": shift}
    assert_close(
        of_film(params._replace(personal=user), query, mask, None),
        of_plain(before._replace(personal=folded), query, mask, None),
        1e-10,
    )


def test_is_transductive_sees_past_a_head_that_is_zero():
    class Centred(nnx.Module):
        def __init__(self, mixes):
            self.weights, self.mixes = seam.Personal(jnp.zeros(2)), mixes

        def __call__(self, x, *, mask, key=None):
            return {"y": (x - jnp.mean(x, 0, keepdims=True) if self.mixes else x) @ self.weights[...]}

    for mixes in (True, False):
        model = models.model(lambda rngs, mixes=mixes: Centred(mixes))
        assert models.is_transductive(model, model.init(KEY), rows(3, 2)) is mixes


def test_normalisation_refuses():
    with pytest.raises(ValueError, match="groups must be >= 1, got 0"):
        models.group_norm(0)
    with pytest.raises(ValueError, match="groups must divide the 4 channels, got 3"):
        models.conv4(2, 4, norm=models.group_norm(3))
    with pytest.raises(ValueError, match="x must be at least 2 x 2 to be pooled, got 1 x 4"):
        layers.max_pool(rows(1, 1, 4, 2))
    with pytest.raises(ValueError, match="inputs must have >= 2 rows, got 1"):
        models.is_transductive(models.linear(2), drawn(models.linear(2)), rows(1, 2))


def test_a_step_cannot_make_a_written_variance_negative():
    norm = norms.SupportNorm(2)
    norm.log_variance[...] = jnp.array([-30.0, 5.0])
    assert bool(jnp.isfinite(norm(rows(2, 2, 2, 2), jnp.ones(2, bool))).all())


@cache
def solved(norm):
    """A model with a solved head under one of CHOICES."""
    return quick(models.embedded(models.conv_body(4, norm=CHOICES[norm]), models.ridge_head(3)))


@pytest.mark.parametrize("seed", range(2))
def test_a_head_that_is_solved_hides_no_transduction(seed):
    inputs = jax.random.uniform(keys.named(KEY, "images", seed), (6, 16, 16, 1))
    targets = jnp.array([0, 1, 2, 0, 1, 2])
    for norm, mixes in (("batch", True), ("group", False)):
        model = solved(norm)
        assert models.is_transductive(model, model.init(keys.root(seed)), inputs, targets) is mixes
