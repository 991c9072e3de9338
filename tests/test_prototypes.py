"""Heads for classes: prototypes and ridge regression against numpy, absent classes, masks, streams, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import base, inner, models, scores
from metapers.models.layers import conv_patches
from tests.contracts import world

KEY = jax.random.key(0)
WAYS = 3
CLASSES = jnp.array([0, 2, 2, 0, 2, 1, 1], jnp.int32)
MASK = jnp.array([True, True, True, True, True, False, False])  # class 1 has no example


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def made(head, sizes=(2, 4)):
    model = models.embedded(models.dense_body(sizes, activation=jnp.tanh), head)
    return model, model.init(KEY)


def phi(params, x):
    first = params.shared["body"]["dense_0"]
    return np.tanh(np.asarray(x @ first["kernel"] + first["bias"][None]))


def support(poison=False):
    x = drawn(7, 2, seed=1)
    return base.Batch(jnp.where(MASK[:, None], x, jnp.nan) if poison else x, CLASSES, MASK)


HEADS = {
    "prototypes": models.prototypes(WAYS),
    "ridge": models.ridge_head(WAYS, ridge=0.5, scale=4.0),
}


def test_prototypes_are_the_means_of_classes():
    model, params = made(HEADS["prototypes"])
    personal = model.write(params, support(poison=True), None)["head"]
    known = phi(params, drawn(7, 2, seed=1))
    expected = np.stack([known[[0, 3]].mean(0), np.zeros(4), known[[1, 2, 4]].mean(0)])
    np.testing.assert_allclose(personal["means"], expected, atol=1e-14)
    np.testing.assert_array_equal(personal["counts"], [2, 0, 3])
    new = drawn(5, 2, seed=2)
    logits = model.apply(params._replace(personal={"head": personal}), new, jnp.ones(5, bool), None)
    far = -np.square(phi(params, new)[:, None] - expected[None]).sum(-1)
    np.testing.assert_allclose(logits[:, ::2], far[:, ::2], atol=1e-13)
    np.testing.assert_allclose(logits[:, 1], far[:, ::2].min(1) - 30, atol=1e-13)  # a class without examples


def test_ridge_is_the_regularised_least_squares_of_numpy():
    model, params = made(HEADS["ridge"])
    params.shared["head"]["shift"] = jnp.asarray(0.7)
    written = params._replace(personal=model.write(params, support(poison=True), None))
    known, new = phi(params, drawn(7, 2, seed=1))[:5], drawn(6, 2, seed=2)
    one_hot = np.eye(WAYS)[np.asarray(CLASSES)[:5]]
    weights = np.linalg.solve(known.T @ known + 0.5 * np.eye(4), known.T @ one_hot)
    dual = known.T @ np.linalg.solve(known @ known.T + 0.5 * np.eye(5), one_hot)
    np.testing.assert_allclose(weights, dual, atol=1e-12)  # the form of the source
    logits = model.apply(written, new, jnp.ones(6, bool), None)
    np.testing.assert_allclose(logits, 4.0 * phi(params, new) @ weights + 0.7, atol=1e-11)


@pytest.mark.parametrize("name", HEADS)
def test_without_examples_all_classes_are_alike(name):
    model, params = made(HEADS[name])
    nobody = support(poison=True)._replace(mask=jnp.zeros(7, bool), inputs=jnp.full((7, 2), jnp.nan))
    for personal in (params.personal, model.write(params, nobody, None)):
        logits = model.apply(params._replace(personal=personal), drawn(4, 2), jnp.ones(4, bool), None)
        np.testing.assert_array_equal(logits, jnp.zeros((4, WAYS)))


@pytest.mark.parametrize("name", HEADS)
def test_writing_twice_is_writing_both_and_vmap_is_the_loop(name):
    model, params = made(HEADS[name])
    one = lambda i: support()._replace(mask=jnp.arange(7) == i)
    stream = params
    for i in (4, 0, 2, 6):
        stream = stream._replace(personal=model.write(stream, one(i), None))
    together = support()._replace(mask=jnp.isin(jnp.arange(7), jnp.array([0, 2, 4, 6])))
    assert world.distance(stream.personal, model.write(params, together, None)) < 1e-13
    masks = jnp.stack([MASK, ~MASK, jnp.arange(7) < 2])
    adapt = lambda mask: inner.written(model.write).adapt(params, support()._replace(mask=mask), None)[0].personal
    many = jax.jit(jax.vmap(adapt))(masks)
    for i in range(3):
        assert world.distance(jax.tree.map(lambda x, i=i: x[i], many), adapt(masks[i])) < 1e-13


@pytest.mark.parametrize("name", HEADS)
def test_meta_gradient_is_the_finite_difference(name):
    model, params = made(HEADS[name])
    loss_fn = base.example_loss(model, scores.cross_entropy())
    query = base.Batch(drawn(6, 2, seed=3), jnp.array([0, 0, 2, 1, 2, 0], jnp.int32), jnp.arange(6) < 5)

    def value(params):
        adapted, _ = inner.written(model.write).adapt(params, support(poison=True), None)
        return base.masked_mean(loss_fn(adapted, query, None), query.mask)

    slopes = jax.grad(value)(params)
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(slopes.personal))
    leaves, structure = jax.tree.flatten(params.shared)
    to = [drawn(*leaf.shape, seed=10 + i) for i, leaf in enumerate(leaves)]

    def moved(size):
        shared = jax.tree.unflatten(structure, [x + size * d for x, d in zip(leaves, to, strict=True)])
        return value(params._replace(shared=shared))

    along = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(slopes.shared), to, strict=True))
    assert abs(float(along)) > 1e-3
    np.testing.assert_allclose(along, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("norm", [models.batch_norm, models.support_norm, models.no_norm])
def test_images_under_each_norm(name, norm):
    model = models.embedded(models.conv_body(4, norm=norm()), HEADS[name])
    params, images = model.init(KEY), 2 * drawn(WAYS, 9, 9, 1, seed=4)[CLASSES] + 0.1 * drawn(7, 9, 9, 1, seed=5)
    mine = base.Batch(images, CLASSES, MASK)
    written = params._replace(personal=model.write(params, mine, None))
    bad = mine._replace(inputs=jnp.where(MASK[:, None, None, None], images, jnp.nan))
    assert world.distance(model.write(params, bad, None), written.personal) < 1e-12
    if norm().keeps:  # measured on the support, layer after layer
        seen = conv_patches(images[:5], params.shared["body"]["conv_0"]["kernel"], 2)
        np.testing.assert_allclose(written.personal["body"]["norm_0"]["mean"], jnp.mean(seen, (0, 1, 2)), atol=1e-12)
        assert float(jnp.abs(written.personal["body"]["norm_3"]["mean"]).min()) > 0
    logits = model.apply(written, images, MASK, None)
    np.testing.assert_array_equal(np.asarray(logits).argmax(1)[:5], CLASSES[:5])  # the very examples it has seen
    other = model.apply(written, images.at[4].multiply(3.0), MASK, None)
    assert (world.distance(other[:4], logits[:4]) > 1e-6) == norm().transductive


def test_what_is_out_of_bounds_is_refused():
    for make, message in (
        (lambda: models.prototypes(0), "ways must be >= 1, got 0"),
        (lambda: models.ridge_head(0), "ways must be >= 1, got 0"),
        (lambda: models.ridge_head(2, ridge=0.0), "ridge must be finite and > 0, got 0.0"),
        (lambda: models.conv_body(0), "filters must be >= 1, got 0"),
        (lambda: models.dense_body((2, 0)), r"sizes must be at least one number >= 1, got \[2, 0\]"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
