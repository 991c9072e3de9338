"""One set of contracts for every member of the table."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys
from tests.contracts import life, table, world

KEY = keys.root(11)
CASES = list(table.cases())


def shapes(tree):
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_kept_everything_is_finite_and_nothing_compiles_twice(name):
    one = life.of(name)
    start, end = one.start(), life.lived(name)
    assert shapes(start) == shapes(end)
    state, info = one.update(end, *world.tasks(50), KEY)
    assert shapes(state) == shapes(end)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in floats((state, info)))
    assert one.traced == {"update": 1, "consolidate": 1, "forget": 1}
    assert info["losses"].shape[0] >= world.USERS and info["losses"].ndim == 1
    assert info["penalty"].shape == info["grad_norm"].shape == ()
    assert world.distance(one.learner.params(state).personal, one.learner.params(start).personal) > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_jit_is_no_jit(name):
    one, state = life.of(name), life.lived(name)
    tasks, mask = world.tasks(51)
    assert world.distance(one.update(state, tasks, mask, KEY), one.learner.update(state, tasks, mask, KEY)) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_vmap_over_seeds_is_the_loop(name):
    one = life.of(name)
    states = [life.lived(name, seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    roots = jnp.stack([keys.root(seed) for seed in range(2)])
    tasks, mask = world.tasks(52)
    together = jax.jit(jax.vmap(one.learner.update, in_axes=(0, None, None, 0)))(stacked, tasks, mask, roots)
    for seed, state in enumerate(states):
        alone = one.update(state, tasks, mask, roots[seed])
        assert world.distance(jax.tree.map(lambda x, seed=seed: x[seed], together), alone) < 1e-12


def through_the_host(state):
    leaves, structure = jax.tree.flatten(state)
    return jax.tree.unflatten(structure, [jnp.asarray(np.array(leaf)) for leaf in leaves])


@pytest.mark.parametrize("name", CASES)
def test_a_state_through_the_host_resumes_bit_for_bit(name):
    one = life.of(name)
    first = one.live(one.start(), stages=range(1))
    restored = one.place(through_the_host(first))
    assert shapes(restored) == shapes(first) and world.distance(restored, first) == 0.0
    assert world.distance(one.live(restored, stages=range(1, 2)), life.lived(name)) == 0.0


@pytest.mark.parametrize("name", CASES)
def test_what_is_masked_changes_nothing(name):
    one = life.of(name)

    poisoned = partial(world.tasks, poisoned=True)
    end = one.live(one.start(), tasks=poisoned)
    clean, dirty = life.lived(name), one.update(end, *poisoned(53), KEY)
    state, info = one.update(clean, *world.tasks(53), KEY)
    assert world.distance(one.learner.params(end), one.learner.params(clean)) < 1e-12
    assert world.distance((one.learner.params(state), info), (one.learner.params(dirty[0]), dirty[1])) < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_users_changes_nothing_but_rounding(name):
    one, state = life.of(name), life.lived(name)
    order = jnp.array([4, 2, 0, 3, 1])
    tasks, mask = world.tasks(54)
    after, info = one.update(state, tasks, mask, KEY)
    again, told = one.update(state, *jax.tree.map(lambda x: x[order], (tasks, mask)), KEY)
    if name in table.ORDERED:
        assert world.distance(after, again) > 1e-6
        return
    assert world.distance(after, again) < 1e-12
    np.testing.assert_allclose(info["losses"][: world.USERS][order], told["losses"][: world.USERS], atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_user_never_seen_is_forgotten_without_a_trace(name):
    one, state = life.of(name), life.lived(name)
    assert world.distance(one.forget(state, jnp.int32(4321)), state) == 0.0


@pytest.mark.parametrize("name", CASES)
def test_float32_is_the_same_life(name):
    double = life.lived(name)
    with jax.enable_x64(False):
        one = life.Life(name)
        start = one.start()
        middle = one.live(start, stages=range(1))
        end = one.live(middle, stages=range(1, 2))
        assert shapes(end) == shapes(start) and one.traced["update"] == 1
        assert all(leaf.dtype == jnp.float32 and bool(jnp.isfinite(leaf).all()) for leaf in floats(end))
        assert world.distance(one.live(one.place(through_the_host(middle)), stages=range(1, 2)), end) == 0.0
        single = [np.asarray(leaf) for leaf in jax.tree.leaves(one.learner.params(end))]
    if "sampled" in name:
        return  # other labels are drawn in float32
    for small, large in zip(single, jax.tree.leaves(life.of(name).learner.params(double))):
        np.testing.assert_allclose(small, large, atol=1e-3)


MODELS, OBJECTIVES, FAMILIES = dict(table.MODELS), dict(table.OBJECTIVES), dict(table.FAMILIES)


@pytest.mark.parametrize("name", MODELS)
def test_a_models_shapes_seeds_and_masks(name):
    model, inputs = table.model(MODELS[name])
    params, mask = model.init(KEY), jnp.ones((4,), bool)
    assert jax.tree.structure(model.groups(params)) == jax.tree.structure(params) and params.inner == {}
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params))
    outputs = model.apply(params, inputs, mask, None)
    assert all(leaf.shape[0] == 4 for leaf in jax.tree.leaves(outputs))
    assert world.distance(jax.jit(model.apply)(params, inputs, mask, None), outputs) < 1e-12
    starts = jax.vmap(model.init)(jnp.stack([KEY, keys.root(1)]))
    many = jax.vmap(lambda one: model.apply(one, inputs, mask, None))(starts)
    assert world.distance(jax.tree.map(lambda x: x[0], many), outputs) < 1e-12
    batch = table.base.Batch(inputs, jnp.zeros(4), mask)
    assert shapes(model.write(params, batch, None)) == shapes(params.personal)
    other, again = (
        model.apply(params, jax.tree.map(lambda x, to=to: x.at[3].set(to), inputs), mask.at[3].set(False), None)
        for to in (0, 1)
    )
    assert world.distance(jax.tree.map(lambda x: x[:3], other), jax.tree.map(lambda x: x[:3], again)) < 1e-12
    alone = jax.tree.map(lambda x: x[:3], outputs)
    assert (world.distance(jax.tree.map(lambda x: x[:3], other), alone) > 1e-6) == ("mixed" in name)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objectives_shapes_and_labels(name):
    objective, outputs, targets = table.objective(OBJECTIVES[name])
    losses = objective.loss(outputs, targets)
    assert losses.shape == (4,) and bool(jnp.isfinite(losses).all())
    assert world.distance(jax.jit(objective.loss)(outputs, targets), losses) < 1e-12
    drawn = objective.sample(outputs, KEY)
    assert drawn.shape == targets.shape and objective.loss(outputs, drawn).shape == (4,)
    told = objective.scores(outputs, targets, jnp.array([True, True, False, False]))
    assert all(value.shape == () and bool(jnp.isfinite(value)) for value in told.values())
    if objective.labels is None:
        return
    labels, weights = objective.labels(outputs)
    np.testing.assert_allclose(weights.sum(0), 1.0, atol=1e-12)
    assert labels.shape == (weights.shape[0], *targets.shape)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_keeps_its_shapes_over_stages_and_draws_by_its_key(name):
    stream = table.stream(FAMILIES[name])
    traced = []

    def draw(data, step, key):
        traced.append(step)
        return stream.family.sample(data, step, 6, key)

    compiled = jax.jit(draw)
    last = stream.stages - 1
    windows = [(0, 0), (last, last), (0, last)]
    fed = [stream.family.data(window, 3, 5) for window in windows]
    drawn = [compiled(data, jnp.int32(3), KEY) for data in fed]
    assert len({str(shapes(one)) for one in drawn}) == 1 and len(traced) == 1
    for data, (tasks, mask) in zip(fed, drawn):
        assert world.distance(stream.family.sample(data, jnp.int32(3), 6, KEY), (tasks, mask)) < 1e-12
        assert mask.shape == (6,) and mask.dtype == bool and bool(mask.any())
        assert tasks.user.dtype == jnp.int32 and bool((tasks.user >= 0).all())
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in floats(tasks))
        assert bool(tasks.support.mask.any(1)[mask].all() and tasks.query.mask.any(1)[mask].all())
    assert world.distance(compiled(fed[2], jnp.int32(3), keys.root(1)), drawn[2]) > 0
    assert world.distance(compiled(fed[2], jnp.int32(4), KEY), drawn[2]) > 0
    many = jax.vmap(lambda key: draw(fed[2], jnp.int32(3), key))(jnp.stack([KEY, keys.root(1)]))
    assert world.distance(jax.tree.map(lambda x: x[0], many), drawn[2]) < 1e-12
