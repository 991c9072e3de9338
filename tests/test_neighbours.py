"""Predictions mixed with a user's neighbours: numpy by hand, what is stored, the shared model at share 0."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapers import aggregate, base, inner, keys, learners, models, scores
from tests.contracts import world
from tests.test_models import drawn as numbers
from tests.test_models import outputs_of, started

KEY = jax.random.key(0)
CLASSES = jnp.array([0, 2, 1, 0, 2, 1], jnp.int32)


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@cache
def made(capacity=4, **options):
    """A model, its parameters, and ``write`` compiled."""
    model = models.embedded(models.dense_body((2, 3), activation=jnp.tanh), models.neighbours(capacity, **options))
    model = model._replace(write=jax.jit(model.write))
    if options.get("learned"):
        return model, started(model)
    params = numbers(model)  # which compile sooner than draws
    return model, params._replace(personal=jax.tree.map(jnp.zeros_like, params.personal))


def parts(params, x):
    """phi and the shared layer's outputs, in numpy."""
    first, own = params.shared["body"]["dense_0"], params.shared["head"]["own"]
    phi = np.tanh(np.asarray(x) @ np.asarray(first["kernel"]) + np.asarray(first["bias"]))
    return phi, phi @ np.asarray(own["kernel"]) + np.asarray(own["bias"])


def support(mask=(True, True, True, False, False, False), targets=CLASSES):
    return base.Batch(drawn(6, 2, seed=1), targets, jnp.array(mask))


def by_hand(params, known, answers, new, k, scale):
    phi, others = parts(params, new)[0], parts(params, known)[0]
    found = []
    for row in phi:
        distance = np.sqrt(np.square(row - others).sum(1))
        nearest = np.argsort(distance)[:k]
        weights = np.exp(-distance[nearest] / scale)
        found.append(weights @ answers[nearest] / weights.sum())
    return np.stack(found)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize("learned", [False, True])
def test_classes_by_hand(learned):
    model, params = made(classes=3, k=2, share=0.4, scale=0.7, learned=learned)
    personal = model.write(params, support(), None)
    new = drawn(5, 2, seed=2)
    outputs = outputs_of(model, params._replace(personal=personal), new)
    near = by_hand(params, drawn(6, 2, seed=1)[:3], np.eye(3)[np.asarray(CLASSES)[:3]], new, 2, 0.7)
    expected = 0.4 * near + 0.6 * softmax(parts(params, new)[1])
    np.testing.assert_allclose(np.exp(outputs), expected, atol=1e-13)


def test_numbers_by_hand_with_fewer_stored_than_neighbours_asked_for():
    model, params = made(k=4, share=0.3, scale=2.0)
    targets = drawn(6, seed=4)
    personal = model.write(params, support(targets=targets), None)
    new = drawn(5, 2, seed=2)
    outputs = outputs_of(model, params._replace(personal=personal), new)
    near = by_hand(params, drawn(6, 2, seed=1)[:3], np.asarray(targets)[:3, None], new, 4, 2.0)
    np.testing.assert_allclose(outputs, (0.3 * near + 0.7 * parts(params, new)[1])[:, 0], atol=1e-13)


@pytest.mark.parametrize("classes", [3, None])
def test_share_zero_or_nothing_stored_is_the_shared_model(classes):
    targets = CLASSES if classes else drawn(6)
    new = drawn(5, 2, seed=2)
    for share, mask in ((0.0, (True,) * 6), (0.9, (False,) * 6)):
        model, params = made(classes=classes, share=share)
        adapted = params._replace(personal=model.write(params, support(mask, targets), None))
        outputs = outputs_of(model, adapted, new)
        own = parts(params, new)[1]
        np.testing.assert_allclose(outputs, np.log(softmax(own)) if classes else own[:, 0], atol=1e-13)


def test_share_one_is_the_neighbours_alone_and_finite():
    model, params = made(classes=3, k=1, share=1.0)
    adapted = params._replace(personal=model.write(params, support(), None))
    outputs = np.asarray(outputs_of(model, adapted, support().inputs))
    np.testing.assert_allclose(np.exp(outputs[:3]), np.eye(3)[np.asarray(CLASSES)[:3]], atol=1e-13)
    assert np.isfinite(outputs).all()


def test_the_latest_stay_in_order_and_portions_do_not_matter():
    model, params = made(capacity=4, classes=3)
    six = model.write(params, support((True, False, True, True, True, True)), None)["head"]
    np.testing.assert_allclose(six["kept"], parts(params, drawn(6, 2, seed=1))[0][2:], atol=1e-14)
    np.testing.assert_array_equal(six["answers"], np.eye(3)[np.asarray(CLASSES)[2:]])
    stream = params
    for mask in ((True, False, True, False, False, False), (False, False, False, True, True, True)):
        stream = stream._replace(personal=model.write(stream, support(mask), None))
    assert world.distance(stream.personal["head"], six) == 0.0
    few = model.write(params, support(), None)["head"]
    np.testing.assert_array_equal(few["stored"], [0, 1, 1, 1])


def test_masked_rows_and_vmap():
    model, params = made(classes=3)
    clean = support()
    bad = clean._replace(inputs=np.where(np.asarray(clean.mask)[:, None], clean.inputs, np.nan))
    assert world.distance(model.write(params, bad, None), model.write(params, clean, None)) == 0.0
    masks = np.stack([clean.mask, ~np.asarray(clean.mask), np.zeros(6, bool)])

    def predict(mask):
        adapted, _ = inner.written(model.write).adapt(params, clean._replace(mask=mask), None)
        return model.apply(adapted, clean.inputs, mask, None)

    many, alone = np.asarray(jax.jit(jax.vmap(predict))(masks)), jax.jit(predict)
    for i in range(3):
        np.testing.assert_allclose(many[i], alone(masks[i]), atol=1e-13)


def test_gradients_are_finite_differences_and_finite_on_a_stored_row():
    model, params = made(classes=3, k=2, share=0.4, learned=True)
    loss_fn = base.example_loss(model, scores.cross_entropy())
    bad = support()._replace(inputs=np.where(np.asarray(support().mask)[:, None], support().inputs, np.nan))

    @jax.jit
    @jax.value_and_grad
    def value(params, x):
        adapted = params._replace(personal=model.write(params, bad, None))
        return jnp.mean(loss_fn(adapted, base.Batch(x, CLASSES[:4], jnp.ones(4, bool)), None))

    slopes = jax.device_get(value(params, drawn(4, 2, seed=2))[1])
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, params.shared))
    to = [np.asarray(drawn(*leaf.shape, seed=10 + i)) for i, leaf in enumerate(leaves)]

    def moved(size):
        shared = jax.tree.unflatten(structure, [x + size * d for x, d in zip(leaves, to, strict=True)])
        return value(params._replace(shared=shared), drawn(4, 2, seed=2))[0]

    along = sum(np.sum(g * d) for g, d in zip(jax.tree.leaves(slopes.shared), to, strict=True))
    np.testing.assert_allclose(along, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-6)
    assert all(float(np.abs(leaf).max()) > 1e-6 for leaf in jax.tree.leaves(slopes.shared))
    same = value(params, support().inputs[:4])[1]  # distance 0, where the root has no slope
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(same))


def test_joint_training_moves_what_is_shared_and_stores_nothing():
    model, params = made(classes=3)
    learner = learners.joint(
        base.example_loss(model, scores.cross_entropy()), optax.adam(0.05), aggregator=aggregate.mean()
    )
    task = base.Task(support((True,) * 6), support((True,) * 6), jnp.int32(0), {})
    batch = jax.tree.map(lambda x: np.asarray(x)[None], task)
    state, update = jax.jit(learner.init)(params, batch), jax.jit(world.on_batch(learner))
    for step in range(3):
        state, info = update(state, batch, jnp.ones(1, bool), keys.named(KEY, "step", step))
    after = learner.params(state)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(after.personal))
    assert 0.0 < world.distance(after.shared, params.shared)


def test_what_is_out_of_bounds_is_refused():
    for options, message in (
        ({"capacity": 0}, "capacity must be >= 1, got 0"),
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"classes": 0}, "classes must be >= 1, got 0"),
        ({"share": 1.5}, "share must be between 0 and 1, got 1.5"),
        ({"share": 0.0, "learned": True}, "share must be strictly between 0 and 1 to be learned, got 0.0"),
        ({"scale": -1.0}, "scale must be finite and > 0, got -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            models.neighbours(**{"capacity": 3, **options})
