"""Aggregators: one result whatever the road, hand-worked clipping, masks, and the ways that could double a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from metapers import base, keys, trees
from metapers.aggregate import blocks, clipped, mean, sharded
from metapers.base import Params
from tests.contracts import world

MODEL = world.bilinear()
LOSS = world.squared(MODEL)
KEY = keys.root(3)
NORM = 2.0


def mesh(axis="users"):
    return jax.make_mesh((2,), (axis,), axis_types=(AxisType.Auto,))


def task_loss(params, task, key):
    """A loss that also looks at the user's key, so that a key by place would be seen."""
    losses = LOSS(params, task.query, key) * (1 + 0.1 * jax.random.normal(key))
    return base.masked_mean(losses, task.query.mask), {"twice": 2 * losses.sum(), "user": task.user}


def run(aggregator, tasks, mask, loss=task_loss, params=None):
    params = MODEL.init(KEY) if params is None else params
    state = aggregator.init(params)
    sums, (losses, aux) = aggregator.total(state, loss, params, tasks, mask, KEY)
    _, grads, info = aggregator.finish(state, sums, KEY)
    return grads, losses, aux, info


ROADS = {
    "mean": lambda inner: inner,
    "blocks of 1": lambda inner: blocks(inner, 1),
    "blocks of 2": lambda inner: blocks(inner, 2),
    "blocks of 3": lambda inner: blocks(inner, 3),
    "one block": lambda inner: blocks(inner, 64),
    "sharded": lambda inner: sharded(inner, mesh()),
    "sharded blocks": lambda inner: sharded(blocks(inner, 2), mesh()),
    "blocks sharded": lambda inner: blocks(sharded(inner, mesh()), 4),
    "sharded by another name": lambda inner: sharded(inner, mesh("cohort"), axis="cohort"),
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("users", [4, 7])
def test_every_road_is_the_plain_mean(road, users):
    tasks, mask = world.tasks(1, users)
    params = MODEL.init(KEY)

    def plain(params):
        each = [jax.tree.map(lambda x, u=u: x[u], tasks) for u in range(users) if bool(mask[u])]
        return sum(task_loss(params, task, keys.of_task(KEY, task))[0] for task in each) / len(each)

    grads, losses, aux, _ = jax.jit(lambda: run(ROADS[road](mean()), tasks, mask))()
    assert world.distance(grads, jax.grad(plain)(params)) < 1e-12
    np.testing.assert_allclose(losses.sum() / (users - 1), plain(params), atol=1e-12)
    assert losses.shape == mask.shape and float(losses[-1]) == 0.0
    np.testing.assert_array_equal(aux["user"], np.where(mask, tasks.user, 0))
    assert aux["twice"].shape == mask.shape


@pytest.mark.parametrize("road", ROADS)
def test_every_road_clips_alike(road):
    tasks, mask = world.tasks(2, 5)
    grads, losses, _, info = run(clipped(NORM), tasks, mask)
    other = jax.jit(lambda: run(ROADS[road](clipped(NORM)), tasks, mask))()
    assert 0 < float(info["clipped"]) < 1
    assert world.distance((grads, losses, info), (other[0], other[1], other[3])) < 1e-12


def test_clipped_by_hand():
    params = Params({}, {"theta": jnp.zeros(2)}, {})
    tasks, _ = world.tasks(0, 3)
    targets = jnp.array([[3.0, 4.0], [0.3, 0.4], [jnp.nan, 7.0]])
    tasks = tasks._replace(notes={"target": targets})

    def loss(params, task, key):
        return 0.5 * jnp.sum(jnp.square(params.personal["theta"] - task.notes["target"])), {}

    mask = jnp.array([True, True, False])
    grads, losses, _, info = run(clipped(1.0), tasks, mask, loss, params)
    np.testing.assert_allclose(grads.personal["theta"], [-(0.6 + 0.3) / 2, -(0.8 + 0.4) / 2], atol=1e-15)
    np.testing.assert_allclose(losses, [12.5, 0.125, 0.0], atol=1e-15)
    assert float(info["clipped"]) == 0.5


def test_clipped_above_every_norm_is_the_mean_and_survives_a_zero_gradient():
    tasks, mask = world.tasks(3, 4)
    assert world.distance(run(clipped(1e6), tasks, mask)[:2], run(mean(), tasks, mask)[:2]) < 1e-12
    flat = run(clipped(1.0), tasks, mask, lambda params, task, key: (jnp.zeros(()), {}))
    assert world.distance(flat[0], trees.zeros(flat[0])) == 0.0


@pytest.mark.parametrize("make", [mean, lambda: clipped(0.2), lambda: sharded(mean(), mesh())])
def test_no_user_left_is_a_zero_gradient(make):
    tasks, mask = world.tasks(3, 4)
    grads, losses, _, _ = run(make(), tasks, jnp.zeros_like(mask))
    assert world.distance((grads, losses), (trees.zeros(grads), trees.zeros(losses))) == 0.0


@pytest.mark.parametrize("road", ["mean", "blocks of 2", "sharded"])
@pytest.mark.parametrize("inner", [mean, lambda: clipped(0.2)])
def test_order_of_users_changes_nothing(road, inner):
    tasks, mask = world.tasks(4, 6)
    order = jnp.array([5, 2, 0, 4, 1, 3])
    shuffled = jax.tree.map(lambda x: x[order], (tasks, mask))
    aggregator = ROADS[road](inner())
    grads, losses, _, _ = run(aggregator, tasks, mask)
    other, again, _, _ = run(aggregator, *shuffled)
    assert world.distance((grads, losses[order]), (other, again)) < 1e-12


@pytest.mark.parametrize("road", ["sharded", "sharded blocks"])
def test_sharded_closes_over_traced_values_under_vmapped_seeds(road):
    tasks, mask = world.tasks(5, 5)
    anchors = jnp.array([0.5, 2.0, -1.0])
    starts = jax.vmap(MODEL.init)(jax.random.split(KEY, 3))

    def one(aggregator, params, anchor):
        def loss(params, task, key):
            value, aux = task_loss(params, task, key)
            return value + anchor * jnp.sum(jnp.square(params.personal["w"])), aux

        return run(aggregator, tasks, mask, loss, params)

    spread = jax.jit(jax.vmap(lambda *args: one(ROADS[road](mean()), *args)))(starts, anchors)
    for seed in range(3):
        alone = one(mean(), jax.tree.map(lambda x, seed=seed: x[seed], starts), anchors[seed])
        assert world.distance(jax.tree.map(lambda x, seed=seed: x[seed], spread), alone) < 1e-12


def test_the_sharded_gradient_would_be_doubled_without_the_cast(monkeypatch):
    tasks, mask = world.tasks(6, 4)
    right = run(mean(), tasks, mask)[0]
    monkeypatch.setattr(jax.lax, "pcast", lambda x, axis, to: x)
    wrong = run(sharded(mean(), mesh()), tasks, mask)[0]
    assert world.distance(wrong, right) > 1e-3


def test_blocks_hold_less_memory():
    tasks, mask = world.tasks(7, 64)
    wide = jax.tree.map(lambda x: jnp.concatenate([x] * 8), (tasks, mask))

    def temporary(aggregator):
        compiled = jax.jit(lambda *args: run(aggregator, *args)[0]).lower(*wide).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(blocks(clipped(0.2), 16)) < 0.5 * temporary(clipped(0.2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: clipped(0.0), r"norm must be > 0, got 0\.0"),
        (lambda: clipped(float("nan")), "norm must be > 0, got nan"),
        (lambda: blocks(mean(), 0), "size must be >= 1, got 0"),
        (lambda: sharded(mean(), mesh(), axis="rows"), r"axis must be one of the mesh's axes \('users',\), got 'rows'"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
