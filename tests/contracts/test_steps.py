"""Contracts of what a step is made of beside the learner: samplers, update rules, boundaries, compositions, taps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from metapers import aggregate, keys, learners, memory, samplers, spec, tasks, trees, updates
from metapers.base import Update
from metapers.learners import sources as of
from metapers.members import Context, build, registry, sections
from metapers.options import ConfigError
from metapers.samplers import listed
from metapers.spec import building, check
from tests.contracts import parts, table, world

KEY = keys.root(3)
USERS, PERIODS = 4, 3
CLIPPED = {"name": "clipped", "norm": 100.0}
STREAM = tasks.linear_gaussian(
    drift=tasks.synthetic.recurring(), periods=PERIODS, users_per_period=16, examples=6, dim=1, support=3, query=3
)
FAMILY = STREAM.family
WINDOW = (0, 1)


@functools.cache
def batches(name, window=WINDOW, glances=1):
    """(users, mask, tasks) of the first 12 batches of a sampler in a window, and the sampler."""
    context = Context(family=lambda: FAMILY, users=lambda: USERS)
    made = build("sampler", {"name": name}, context)
    made = samplers.glances(made, glances)
    data = made.data(window)
    step = lambda i: keys.named(
        KEY, "step", i - i % made.repeats
    )  # a batch that is repeated has one key, as in training
    draw = lambda i: made.sample(data, i, i, keys.named(KEY, "order"), step(i))
    drawn, mask = jax.jit(jax.vmap(draw))(jnp.arange(12, dtype=jnp.int32))
    return np.asarray(drawn.user), np.asarray(mask), drawn, made


def listed_users(window=WINDOW):
    """The users of the training segments of a window."""
    found = set()
    for period in range(window[0], window[1] + 1):
        cohort = STREAM.training(period)
        found |= set(cohort.users.tolist())
    return found


@pytest.mark.parametrize("name", list(registry("sampler")))
def test_a_sampler_gives_tasks_of_the_windows_users_alone(name):
    users, mask, drawn, made = batches(name)
    assert users.shape == mask.shape == (12, made.slots) and made.slots >= USERS
    assert set(users[mask].tolist()) <= listed_users()
    assert np.isin(np.asarray(drawn.notes["period"])[mask], (0, 1)).all()
    assert np.asarray(drawn.support.mask).any(-1)[mask].all() and np.asarray(drawn.query.mask).any(-1)[mask].all()
    assert made.passes(WINDOW) is None or (made.passes(WINDOW) - 1) * USERS < mask.sum() <= made.passes(WINDOW) * USERS


def test_a_pass_has_every_user_once_and_the_next_in_another_order():
    users, mask, _, _ = batches("each_user_once")
    count = len(listed_users())
    assert mask.all() and 2 * count <= users.size
    flat = users.ravel()
    first, second = flat[:count], flat[count : 2 * count]
    assert set(first.tolist()) == set(second.tolist()) == listed_users() and first.tolist() != second.tolist()


def test_a_single_pass_has_every_user_once_and_then_nothing():
    users, mask, _, made = batches("single_pass")
    count = len(listed_users())
    assert sorted(users[mask].tolist()) == sorted(listed_users()) and made.passes(WINDOW) == -(-count // USERS)
    assert not mask[made.passes(WINDOW) :].any()


def test_poisson_batches_have_the_size_of_independent_draws():
    context = Context(family=lambda: FAMILY, users=lambda: USERS)
    made = build("sampler", {"name": "poisson"}, context)
    data, count = made.data(WINDOW), len(listed_users())
    draw = lambda i: made.sample(data, i, i, KEY, keys.named(KEY, "step", i))
    drawn, mask = jax.jit(jax.vmap(draw))(jnp.arange(2000, dtype=jnp.int32))
    sizes, share = np.asarray(mask).sum(1), USERS / count
    assert abs(sizes.mean() - USERS) < 5 * np.sqrt(USERS / 2000)
    assert abs(sizes.var() / (count * share * (1 - share)) - 1) < 0.2
    users = np.asarray(drawn.user)
    assert all(len(set(row[there])) == there.sum() for row, there in zip(users, np.asarray(mask), strict=True))


def test_glances_repeat_a_batch_and_number_it():
    users, _, drawn, made = batches("with_replacement", glances=3)
    plain = batches("with_replacement")[0]
    assert made.repeats == 3 and np.asarray(drawn.notes["glance"])[:, 0].tolist() == [0, 1, 2] * 4
    assert users.shape == plain.shape
    by_batch = users.reshape(4, 3, USERS)
    assert (by_batch == by_batch[:, :1]).all() and len({tuple(batch) for batch in by_batch[:, 0].tolist()}) == 4
    once = batches("single_pass")[3]
    assert samplers.glances(once, 3).passes(WINDOW) == 3 * once.passes(WINDOW)


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 100, 1025])
def test_the_permutation_is_one(count):
    found = np.asarray(jax.jit(listed.permuted)(jnp.arange(count), jnp.int32(count), KEY))
    assert sorted(found.tolist()) == list(range(count))
    other = np.asarray(listed.permuted(jnp.arange(count), jnp.int32(count), keys.root(4)))
    assert count < 4 or found.tolist() != other.tolist()


def test_the_permutation_has_no_favourites():
    many = jax.jit(jax.vmap(lambda i: listed.permuted(jnp.arange(5), jnp.int32(5), keys.named(KEY, "users", i))))
    found = np.asarray(many(jnp.arange(4000)))
    for place in range(5):
        counts = np.bincount(found[:, place], minlength=5)
        assert ((counts - 800) ** 2 / 800).sum() < 25  # chi-square of 4 degrees: beyond 25 one in 20,000


def test_a_source_without_a_list_of_users_and_an_endless_arm_refuse_passes():
    config = spec.merged(spec.config_for("sinusoid", "mlp"), {"sampler": "each_user_once"})
    with pytest.raises(ConfigError, match="sampler must be one of .*with_replacement.*no list of users"):
        building.components(check(config))
    arms = {"mine": {"trains_on": "so_far", "budget": "matched", "sampler": "single_pass"}, "fine_tune": {}}
    with pytest.raises(ConfigError, match="arms.mine.sampler must be a sampler that goes on"):
        check(spec.merged(spec.config_for("linear_gaussian", "linear"), {"arms": arms}))


def test_batches_that_vary_in_size_are_divided_by_the_expected_number():
    changes = {"sampler": "poisson", "memory.replay_batch": 5, "meta_batch": 7}
    config = check(spec.merged(spec.config_for("linear_gaussian", "linear"), changes))
    made, (some, mask) = building.aggregator(ConfigDict({**config, "aggregator": CLIPPED}), None), world.tasks(1)
    loss = lambda params, task, key: (jnp.sum(params.personal["w"]), {})
    params = table.MODEL.init(KEY)
    sums, _ = made.total({}, loss, params, some, mask, KEY)
    _, grads, _ = made.finish({}, sums, KEY, expected=99)
    np.testing.assert_allclose(grads.personal["w"], int(mask.sum()) / 12, rtol=1e-12)
    with pytest.raises(ConfigError, match="sampler must be a sampler with a fixed number of tasks"):
        check(spec.merged(config, {"learner.sequential": True}))


# Update rules


def weighted() -> Update:
    """The mean over all tasks, made of the gradients of the sources, at two points of which the first counts."""

    def combine(state, grads, params, key):
        fresh, old = grads["fresh", "here"], grads["memory", "here"]
        return (
            state,
            jax.tree.map(lambda a, b: ((world.USERS - 1) * a + 3 * b) / (world.USERS + 2), fresh, old),
            {"sources": jnp.float64(len(grads))},
        )

    points = lambda state, params: {"here": params, "beyond": jax.tree.map(lambda x: x + 1, params)}
    return Update(lambda params: {}, points, combine, apart=True)


def replayed(rule):
    loop = table.loop(first_order=True)
    made = learners.maml(table.LOSS, loop, optax.sgd(1.0), aggregator=aggregate.mean(), rule=rule)
    return learners.replay(made, memory.reservoir(6), 3, draws=2)


def test_gradients_by_source_add_up_to_that_of_all_tasks_and_losses_come_back_by_source():
    old, new = world.tasks(1), world.tasks(2)
    found = {}
    for name, rule in (("sum", updates.sum_all()), ("by", weighted())):
        learner = replayed(rule)
        state = learner.init(table.MODEL.init(KEY), keys.numbered(new[0]))
        state = jax.jit(lambda state, one=learner: one.consolidate(state, lambda i: old, KEY))(state)
        state, scores, info = jax.jit(learner.update)(state, {"fresh": new}, KEY)
        found[name] = learner.params(state), scores
    assert int(info["sources"]) == 4 and int(info["replayed"]) == 3
    assert world.distance(found["sum"], found["by"]) < 1e-12
    scores = found["by"][1]
    assert {name: one["losses"].shape for name, one in scores.items()} == {"fresh": (world.USERS,), "memory": (3,)}


def test_a_rule_by_source_and_bounded_users_exclude_each_other():
    with pytest.raises(ValueError, match="update_rule must take all sources as one batch"):
        learners.maml(table.LOSS, table.loop(), optax.sgd(1.0), aggregator=aggregate.clipped(1.0), rule=weighted())


# Memories and forgetting


def test_a_memory_of_steps_takes_the_scores_and_each_batch_once():
    calls = []
    kept = memory.reservoir(6)

    def insert(state, items, users, scores, mask, key):
        calls.append(scores["losses"].shape)
        return kept.insert(state, items, users, scores, mask, key)

    touched = lambda state, slots, scores: state._replace(seen=state.seen + 100 * jnp.sum(slots >= 0, dtype=jnp.int32))
    spied = kept._replace(insert=insert, touch=touched)
    learner = learners.replay(table.maml(), spied, 3, draws=2, insertion="step")
    new, mask = world.tasks(2)
    noted = lambda glance: new._replace(notes={**new.notes, "glance": jnp.full(mask.shape, glance, jnp.int32)})
    state = learner.init(table.MODEL.init(KEY), noted(0))
    update = jax.jit(learner.update)
    seen = []
    for glance in (0, 1, 0):
        state, _, info = update(state, {"fresh": (noted(glance), mask)}, KEY)
        seen.append((int(state.memory.seen), int(info["replayed"])))
    there = int(mask.sum())
    assert calls == [(world.USERS,)] and seen == [(there, 0), (there + 300, 3), (2 * there + 600, 3)]
    assert learner.consolidate(state, lambda i: pytest.fail("drawn"), KEY).memory is state.memory


@pytest.mark.parametrize(("label", "section"), sections("memory"))
def test_forgetting_leaves_no_byte_of_a_user(label, section):
    made = build("memory", section, {})
    learner = table.replayed(made, options=section)
    mine, mask = world.tasks(7)
    mark = 0.123456789012345678
    mine = mine._replace(
        query=mine.query._replace(targets=jnp.where((mine.user == 1)[:, None], mark, mine.query.targets)),
        user=jnp.where(mine.user == 1, 987654321, mine.user),
    )
    state = learner.init(table.MODEL.init(KEY), keys.numbered(mine))
    for step in range(2):
        state, _, _ = jax.jit(learner.update)(state, {"fresh": (mine, mask)}, keys.named(KEY, "step", step))
    state = jax.jit(lambda state: learner.consolidate(state, lambda i: (mine, mask), KEY))(state)
    wanted = np.float64(mark).tobytes(), np.int32(987654321).tobytes()
    held = lambda state: [any(one in np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)) for one in wanted]
    after = jax.jit(learner.forget)(state, jnp.int32(987654321))
    assert held(state) == [True, True] and held(after) == [False, False]
    assert "parameters" in learner.influence


# Boundaries, compositions, taps


@pytest.mark.parametrize("name", list(registry("boundary")))
def test_a_boundary_keeps_the_shape_of_its_state_and_answers(name):
    made = build("boundary", {"name": name}, {})
    begun, losses = made.init(), np.ones((3, 4))
    state, here = made.update(begun, losses, losses > 0, False)
    assert jax.tree.structure(state) == jax.tree.structure(begun) and isinstance(here, bool)
    assert made.update(state, losses, losses > 0, True)[1] in (True, False)
    assert name != "calendar" or (here, made.update(state, losses, losses > 0, True)[1]) == (False, True)


@pytest.mark.parametrize("name", list(registry("composition")))
def test_a_composition_gives_tasks_of_fixed_shapes_and_keeps_the_fresh_ones(name):
    made = build("composition", {"name": name}, {})
    given = {"fresh": world.tasks(1), "memory": world.tasks(2)}
    found = jax.eval_shape(made, given)
    assert found["fresh"][1].shape == given["fresh"][1].shape
    assert name != "separate" or made(given) is given


def test_batches_split_and_join_without_loss():
    given = {"fresh": world.tasks(1), "memory": world.tasks(1)}
    whole, mask = of.joined(given)
    assert np.asarray(whole.notes["repeat"]).tolist() == [0] * world.USERS + [1] * world.USERS
    back = of.apart(whole, mask, given)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(back["memory"][0].query), jax.tree.leaves(given["memory"][0].query))
    )


def kernels_of(params):
    found = [part for tree in (params.shared, params.personal) for part in tree.items()]
    return {name: part["kernel"] for name, part in found if isinstance(part, dict) and "kernel" in part}


@pytest.mark.parametrize(("label", "section"), [one for one in sections("model") if one[1]["name"] == "mlp"])
def test_taps_are_the_inputs_of_layers_and_the_gradients_of_their_outputs(label, section):
    made = build("model", section, {"sizes": {"width": 3}})
    params = jax.tree.map(lambda x: x + 0.1, made.init(KEY))
    inputs, mask = parts.numbers(parts.ROWS, 3), jnp.ones(parts.ROWS, bool)
    loss = lambda outputs: jnp.sum(jnp.sin(outputs))

    @jax.jit
    def both(params):
        outputs, seen = made.taps(params, inputs, {}, mask, None)
        kernels = kernels_of(params)
        zeros = {name: jnp.zeros((parts.ROWS, kernel.shape[1])) for name, kernel in kernels.items()}
        slopes = jax.grad(lambda offsets: loss(made.taps(params, inputs, offsets, mask, None)[0]))(zeros)
        plain = jax.grad(lambda params: loss(made.apply(params, inputs, mask, None)))(params)
        own = {name: seen[name].T @ slopes[name] for name in kernels}
        return outputs - made.apply(params, inputs, mask, None), own, kernels_of(plain)

    gap, own, want = both(params)
    assert own and float(jnp.abs(gap).max()) == 0.0
    assert trees.squared_norm(trees.subtract(own, want)) < 1e-20 < trees.squared_norm(want)
