"""Aggregators: one result whatever the road, hand-worked clipping, masks, and the ways that could double a gradient."""

import functools

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


@functools.cache
def start():
    return jax.jit(MODEL.init)(KEY)


def run(aggregator, tasks, mask, loss, params, expected=None):
    state = aggregator.init(params)
    sums, (losses, aux) = aggregator.total(state, loss, params, tasks, mask, KEY)
    _, grads, info = aggregator.finish(state, sums, KEY, expected=expected or mask.shape[0])
    return grads, losses, aux, info


def compiled(aggregator, loss=task_loss, expected=None):
    """``run`` as one program of the users and their mask."""
    program = jax.jit(lambda tasks, mask, params: run(aggregator, tasks, mask, loss, params, expected))
    return lambda tasks, mask, params=None: program(tasks, mask, start() if params is None else params)


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


@functools.cache
def plain(users):
    """Loss and gradient of the mean over the users that are there, one after the other."""
    tasks, mask = world.tasks(1, users)
    each = [jax.tree.map(lambda x, u=u: x[u], jax.tree.map(np.asarray, tasks)) for u in np.flatnonzero(mask)]

    def value(params):
        return sum(task_loss(params, task, keys.of_task(KEY, task))[0] for task in each) / len(each)

    return jax.jit(jax.value_and_grad(value))(start())


@pytest.mark.parametrize(
    ("road", "users"), [*((road, 7) for road in ROADS), *((road, 4) for road in ("blocks of 2", "sharded"))]
)
def test_every_road_is_the_plain_mean(road, users):
    tasks, mask = world.tasks(1, users)
    value, slope = plain(users)
    grads, losses, aux, _ = compiled(ROADS[road](mean()))(tasks, mask)
    assert world.distance(grads, slope) < 1e-12
    np.testing.assert_allclose(np.asarray(losses).sum() / (users - 1), value, atol=1e-12)
    assert losses.shape == mask.shape and float(np.asarray(losses)[-1]) == 0.0
    np.testing.assert_array_equal(aux["user"], np.where(mask, tasks.user, 0))
    assert aux["twice"].shape == mask.shape


def test_blocks_trace_a_users_loss_once():
    traced = []

    def counted(params, task, key):
        traced.append(task.user)
        return task_loss(params, task, key)

    compiled(blocks(mean(), 2), counted)(*world.tasks(1, 7))
    assert len(traced) == 1


CROWDS = {
    "within and across blocks": ([3, 1, 3, 3, 2, 3, 1], [1, 1, 0, 1, 1, 1, 1]),
    "one user in all blocks": ([4, 4, 4, 4, 4, 4, 4], [1, 1, 1, 0, 1, 1, 1]),
    "everyone once": ([6, 0, 5, 1, 4, 2, 3], [1, 1, 1, 1, 1, 1, 0]),
    "nobodies": ([-1, -1, 2, -1, 2, -1, -1], [1, 1, 1, 1, 1, 0, 1]),
    "nobodies alone": ([-1, -1, -1, -1, -1, -1, -1], [1, 1, 1, 1, 1, 1, 1]),
    "a block without a task": ([0, 0, 1, 1, 2, 2, 0], [1, 1, 0, 0, 1, 1, 1]),
    "ends without a task": ([0, 1, 5, 2, 2, 5, 0], [0, 1, 0, 1, 1, 0, 0]),
    "a user between masked ones": ([1, 1, 1, 2, 2, 2, 2], [0, 1, 0, 0, 1, 0, 1]),
}


def crowd(users, mask):
    """Seven tasks of these users, numbered as in a batch."""
    tasks, _ = world.tasks(2, 7)
    return keys.numbered(tasks._replace(user=jnp.array(users, jnp.int32))), jnp.array(mask, bool)


@functools.cache
def slopes():
    """The loss and gradient of one task."""
    return jax.jit(jax.value_and_grad(lambda params, task, key: task_loss(params, task, key)[0]))


def by_person(tasks, mask):
    """The sum of each one's gradients, of those who are there, and the losses; nobodies stand alone."""
    tasks = jax.tree.map(np.asarray, tasks)
    found, losses = {}, np.zeros(len(mask))
    for place in np.flatnonzero(mask):
        task = jax.tree.map(lambda leaf, place=place: leaf[place], tasks)
        losses[place], grads = slopes()(start(), task, keys.of_task(KEY, task))
        who = int(task.user) if task.user >= 0 else ("nobody", int(place))
        found[who] = jax.tree.map(np.add, found[who], grads) if who in found else jax.tree.map(np.asarray, grads)
    return found, losses


def length(tree):
    return float(np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(tree))))


@functools.cache
def clipped_by_person(name):
    """Gradient, losses and the fraction that was cut in a crowd, one user after the other."""
    tasks, mask = crowd(*CROWDS[name])
    found, losses = by_person(tasks, mask)
    cut = [jax.tree.map(lambda leaf, g=g: leaf * min(1.0, NORM / length(g)), g) for g in found.values()]
    grads = jax.tree.map(lambda *leaves: sum(leaves) / len(mask), *cut)
    return grads, losses, sum(length(g) > NORM for g in found.values()) / len(found)


@functools.cache
def clipping(road):
    return compiled(ROADS[road](clipped(NORM)))


@pytest.mark.parametrize("road", ROADS)
def test_every_road_clips_each_user_once_however_the_tasks_lie(road):
    shares = []
    for name, who in CROWDS.items():
        tasks, mask = crowd(*who)
        grads, losses, aux, info = clipping(road)(tasks, mask)
        wanted, each, share = clipped_by_person(name)
        assert world.distance(grads, wanted) < 1e-12, name
        np.testing.assert_allclose(losses, each, atol=1e-12, err_msg=name)
        np.testing.assert_array_equal(aux["user"], np.where(mask, tasks.user, 0), err_msg=name)
        assert abs(float(info["clipped"]) - share) < 1e-12, name
        shares.append(share)
    assert any(0 < share < 1 for share in shares)  # some are cut, some are not


@pytest.mark.parametrize("who", ["within and across blocks", "one user in all blocks", "a block without a task"])
def test_a_user_of_several_tasks_moves_the_sum_by_at_most_the_norm(who):
    tasks, mask = crowd(*CROWDS[who])
    program, count = clipping("mean"), len(mask)
    alone = by_person(tasks, mask)[0]
    for user in set(tasks.user.tolist()):
        more, less = program(tasks, mask)[0], program(tasks, mask & (tasks.user != user))[0]
        moved = length(trees.subtract(more, less)) * count
        assert moved <= NORM + 1e-12
        assert abs(moved - min(NORM, length(alone.get(user, 0.0)))) < 1e-12
    each = {i: by_person(*crowd(range(7), np.arange(7) == i))[0][i] for i in np.flatnonzero(mask)}
    most = max(sum(tasks.user.tolist()[i] == user for i in each) for user in set(tasks.user.tolist()))
    assert most >= 3 and max(length(one) for one in alone.values()) > NORM  # tasks by themselves would move it further


@pytest.mark.parametrize("road", ["mean", "blocks of 2", "sharded blocks"])
def test_the_divisor_is_what_a_step_has_room_for_whoever_is_drawn(road):
    tasks, mask = crowd(*CROWDS["everyone once"])
    found = by_person(tasks, mask)[0]
    less = mask & (tasks.user != 4)
    wide = compiled(ROADS[road](clipped(1e6)), expected=20)
    for there in (mask, less):
        total = functools.reduce(trees.add, by_person(tasks, there)[0].values())
        assert world.distance(jax.tree.map(lambda leaf: 20 * leaf, wide(tasks, there)[0]), total) < 1e-12
    moved = trees.subtract(wide(tasks, mask)[0], wide(tasks, less)[0])
    assert world.distance(jax.tree.map(lambda leaf: 20 * leaf, moved), found[4]) < 1e-12


def test_how_far_a_user_moves_the_gradient_is_told_on_every_road():
    for road in ROADS.values():
        assert road(clipped(0.3)).sensitivity() == 0.3
        assert road(mean()).sensitivity() == np.inf


def test_clipped_by_hand():
    params = Params({}, {"theta": jnp.array([0.0, 0.0])}, {})
    tasks, _ = world.tasks(0, 3)
    targets = jnp.array([[3.0, 4.0], [0.3, 0.4], [jnp.nan, 7.0]])
    tasks = tasks._replace(notes={"target": targets})

    def loss(params, task, key):
        return 0.5 * jnp.sum(jnp.square(params.personal["theta"] - task.notes["target"])), {}

    mask = jnp.array([True, True, False])
    grads, losses, _, info = compiled(clipped(1.0), loss)(tasks, mask, params)
    np.testing.assert_allclose(grads.personal["theta"], [-(0.6 + 0.3) / 3, -(0.8 + 0.4) / 3], atol=1e-15)
    np.testing.assert_allclose(losses, [12.5, 0.125, 0.0], atol=1e-15)
    assert float(info["clipped"]) == 0.5


def test_clipped_above_every_norm_is_the_mean_and_survives_a_zero_gradient():
    tasks, mask = world.tasks(3, 4)
    there = int(mask.sum())  # the mean divides by those who are there, clipping by what a step has room for
    wide = compiled(clipped(1e6), expected=there)
    assert world.distance(wide(tasks, mask)[:2], compiled(mean())(tasks, mask)[:2]) < 1e-12
    flat = compiled(clipped(1.0), lambda params, task, key: (jnp.zeros(()), {}))(tasks, mask)
    assert world.distance(flat[0], trees.zeros(flat[0])) == 0.0


@pytest.mark.parametrize("make", [mean, lambda: clipped(0.2), lambda: sharded(mean(), mesh())])
def test_no_user_left_is_a_zero_gradient(make):
    tasks, mask = world.tasks(3, 4)
    grads, losses, _, _ = compiled(make())(tasks, jnp.array([False] * 4))
    assert world.distance((grads, losses), (trees.zeros(grads), trees.zeros(losses))) == 0.0


@pytest.mark.parametrize(("road", "inner"), [("mean", mean), ("blocks of 2", lambda: clipped(0.2)), ("sharded", mean)])
def test_order_of_users_changes_nothing(road, inner):
    tasks, mask = world.tasks(4, 6)
    order = np.array([5, 2, 0, 4, 1, 3])
    shuffled = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[order]), (tasks, mask))
    total = compiled(ROADS[road](inner()))
    grads, losses, _, _ = total(tasks, mask)
    other, again, _, _ = total(*shuffled)
    assert world.distance((grads, np.asarray(losses)[order]), (other, again)) < 1e-12


def test_sharded_closes_over_traced_values_under_vmapped_seeds():
    tasks, mask = world.tasks(5, 5)
    anchors = jnp.array([0.5, 2.0, -1.0])
    starts = jax.jit(lambda key: jax.vmap(MODEL.init)(jax.random.split(key, 3)))(KEY)

    def one(aggregator, params, anchor):
        def loss(params, task, key):
            value, aux = task_loss(params, task, key)
            return value + anchor * jnp.sum(jnp.square(params.personal["w"])), aux

        return run(aggregator, tasks, mask, loss, params)

    spread = jax.jit(jax.vmap(lambda *args: one(ROADS["sharded blocks"](mean()), *args)))(starts, anchors)
    alone = jax.jit(lambda *args: one(mean(), *args))
    for seed in range(3):
        own = jax.tree.map(lambda x, seed=seed: np.asarray(x)[seed], (starts, anchors, spread))
        assert world.distance(own[2], alone(*own[:2])) < 1e-12


def test_the_sharded_gradient_would_be_doubled_without_the_cast(monkeypatch):
    tasks, mask = world.tasks(6, 4)
    right = compiled(mean())(tasks, mask)[0]
    monkeypatch.setattr(jax.lax, "pcast", lambda x, axis, to: x)
    wrong = compiled(sharded(mean(), mesh()))(tasks, mask)[0]
    assert world.distance(wrong, right) > 1e-3


def test_blocks_hold_less_memory():
    tasks, mask = world.tasks(7, 64)
    wide = jax.tree.map(lambda x: np.concatenate([x] * 8), (tasks, mask))

    def temporary(aggregator):
        slope = jax.jit(lambda *args: run(aggregator, *args, task_loss, start())[0])
        return slope.lower(*wide).compile().memory_analysis().temp_size_in_bytes

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
