"""Heads for classes: prototypes and ridge regression against numpy, absent classes, masks, streams, gradients."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import base, inner, models, scores
from metapers.models.layers import conv_patches
from tests.contracts import world
from tests.test_models import outputs_of, started

KEY = jax.random.key(0)
WAYS = 3
CLASSES = jnp.array([0, 2, 2, 0, 2, 1, 1], jnp.int32)
MASK = jnp.array([True, True, True, True, True, False, False])  # class 1 has no example


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def compiled(model):
    """The model with ``write`` compiled, and its parameters."""
    model = model._replace(write=jax.jit(model.write))
    return model, started(model)


@cache
def made(name):
    return compiled(models.embedded(models.dense_body((2, 4), activation=jnp.tanh), HEADS[name]))


def phi(params, x):
    first = params.shared["body"]["dense_0"]
    return np.tanh(np.asarray(x) @ np.asarray(first["kernel"]) + np.asarray(first["bias"]))


def support(poison=False):
    x = drawn(7, 2, seed=1)
    return base.Batch(jnp.asarray(np.where(np.asarray(MASK)[:, None], x, np.nan)) if poison else x, CLASSES, MASK)


HEADS = {
    "prototypes": models.prototypes(WAYS),
    "ridge": models.ridge_head(WAYS, ridge=0.5, scale=4.0),
}


def test_prototypes_are_the_means_of_classes():
    model, params = made("prototypes")
    personal = model.write(params, support(poison=True), None)["head"]
    known = phi(params, drawn(7, 2, seed=1))
    expected = np.stack([known[[0, 3]].mean(0), np.zeros(4), known[[1, 2, 4]].mean(0)])
    np.testing.assert_allclose(personal["means"], expected, atol=1e-14)
    np.testing.assert_array_equal(personal["counts"], [2, 0, 3])
    new = drawn(5, 2, seed=2)
    logits = np.asarray(outputs_of(model, params._replace(personal={"head": personal}), new))
    far = -np.square(phi(params, new)[:, None] - expected[None]).sum(-1)
    np.testing.assert_allclose(logits[:, ::2], far[:, ::2], atol=1e-13)
    np.testing.assert_allclose(logits[:, 1], far[:, ::2].min(1) - 30, atol=1e-13)  # a class without examples


def test_ridge_is_the_regularised_least_squares_of_numpy():
    model, params = made("ridge")
    head = params.shared["head"] | {"shift": jnp.asarray(0.7)}
    params = params._replace(shared=params.shared | {"head": head})
    written = params._replace(personal=model.write(params, support(poison=True), None))
    known, new = phi(params, drawn(7, 2, seed=1))[:5], drawn(6, 2, seed=2)
    one_hot = np.eye(WAYS)[np.asarray(CLASSES)[:5]]
    weights = np.linalg.solve(known.T @ known + 0.5 * np.eye(4), known.T @ one_hot)
    dual = known.T @ np.linalg.solve(known @ known.T + 0.5 * np.eye(5), one_hot)
    np.testing.assert_allclose(weights, dual, atol=1e-12)  # the form of the source
    logits = outputs_of(model, written, new)
    np.testing.assert_allclose(logits, 4.0 * phi(params, new) @ weights + 0.7, atol=1e-11)


@pytest.mark.parametrize("name", HEADS)
def test_without_examples_all_classes_are_alike(name):
    model, params = made(name)
    nobody = support(poison=True)._replace(mask=jnp.zeros(7, bool), inputs=jnp.full((7, 2), jnp.nan))
    for personal in (params.personal, model.write(params, nobody, None)):
        logits = outputs_of(model, params._replace(personal=personal), drawn(4, 2))
        np.testing.assert_array_equal(logits, np.zeros((4, WAYS)))


@pytest.mark.parametrize("name", HEADS)
def test_writing_twice_is_writing_both_and_vmap_is_the_loop(name):
    model, params = made(name)
    one = lambda i: support()._replace(mask=np.arange(7) == i)
    stream = params
    for i in (4, 0, 2, 6):
        stream = stream._replace(personal=model.write(stream, one(i), None))
    together = support()._replace(mask=np.isin(np.arange(7), [0, 2, 4, 6]))
    assert world.distance(stream.personal, model.write(params, together, None)) < 1e-13
    masks = np.stack([MASK, ~np.asarray(MASK), np.arange(7) < 2])
    adapt = lambda mask: inner.written(model.write).adapt(params, support()._replace(mask=mask), None)[0].personal
    many, alone = jax.device_get(jax.jit(jax.vmap(adapt))(masks)), jax.jit(adapt)
    for i in range(3):
        assert world.distance(jax.tree.map(lambda x, i=i: x[i], many), alone(masks[i])) < 1e-13


@pytest.mark.parametrize("name", HEADS)
def test_meta_gradient_is_the_finite_difference(name):
    model, params = made(name)
    loss_fn = base.example_loss(model, scores.cross_entropy())
    query = base.Batch(drawn(6, 2, seed=3), np.array([0, 0, 2, 1, 2, 0], np.int32), np.arange(6) < 5)
    mine = support(poison=True)

    @jax.jit
    @jax.value_and_grad
    def value(params):
        adapted, _ = inner.written(model.write).adapt(params, mine, None)
        return base.masked_mean(loss_fn(adapted, query, None), query.mask)

    slopes = jax.device_get(value(params)[1])
    assert all(float(np.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(slopes.personal))
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, params.shared))
    to = [np.asarray(drawn(*leaf.shape, seed=10 + i)) for i, leaf in enumerate(leaves)]

    def moved(size):
        shared = jax.tree.unflatten(structure, [x + size * d for x, d in zip(leaves, to, strict=True)])
        return value(params._replace(shared=shared))

    along = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(slopes.shared), to, strict=True))
    assert abs(float(along)) > 1e-3
    np.testing.assert_allclose(along, (moved(1e-5)[0] - moved(-1e-5)[0]) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("prototypes", models.batch_norm),
        ("prototypes", models.support_norm),
        ("ridge", models.support_norm),
        ("ridge", models.no_norm),
    ],
)
def test_images_under_each_norm(name, norm):
    model, params = compiled(models.embedded(models.conv_body(4, norm=norm()), HEADS[name]))
    each, noise = (np.asarray(drawn(n, 9, 9, 1, seed=seed)) for n, seed in ((WAYS, 4), (7, 5)))
    images, mask = 2 * each[np.asarray(CLASSES)] + 0.1 * noise, np.asarray(MASK)
    mine, apply = base.Batch(images, CLASSES, MASK), jax.jit(model.apply)
    written = params._replace(personal=model.write(params, mine, None))
    bad = mine._replace(inputs=np.where(mask[:, None, None, None], images, np.nan))
    assert world.distance(model.write(params, bad, None), written.personal) < 1e-12
    if norm().keeps:  # measured on the support, layer after layer
        seen = np.asarray(conv_patches(jnp.asarray(images[:5]), params.shared["body"]["conv_0"]["kernel"], 2))
        np.testing.assert_allclose(written.personal["body"]["norm_0"]["mean"], seen.mean((0, 1, 2)), atol=1e-12)
        assert float(np.abs(written.personal["body"]["norm_3"]["mean"]).min()) > 0
    logits = np.asarray(apply(written, images, MASK, None))
    np.testing.assert_array_equal(logits.argmax(1)[:5], np.asarray(CLASSES)[:5])  # the very examples it has seen
    tripled = images * np.where(np.arange(7) == 4, 3.0, 1.0)[:, None, None, None]
    other = np.asarray(apply(written, tripled, MASK, None))
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
