"""Learners: closed-form meta-gradients, finite differences, what Reptile's step is, what replay may change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapers import base, keys, trees
from metapers.aggregate import mean
from metapers.base import Batch, InnerLoop, Memory, Params, Penalty, Task
from metapers.learners import joint, maml, replay, reptile
from metapers.learners.descent import descent
from tests.contracts import world
from tests.inner_problems import finite_differences

KEY = keys.root(7)
MODEL = world.bilinear()
LOSS = world.squared(MODEL)
RATE = 0.25


@functools.cache
def begin():
    return jax.jit(MODEL.init)(KEY)


def centres(support, query):
    """Users of the quadratic family, one example each: ½‖theta − c‖² with c from ``support`` and ``query`` [n, d]."""
    users, seen = len(support), np.ones((len(support), 1), bool)

    def batch(c):
        return Batch(np.zeros((users, 1, 1)), np.asarray(c)[:, None, :], seen)

    task = Task(batch(support), batch(query), np.arange(users, dtype=np.int32), {})
    return jax.tree.map(jnp.asarray, (task, np.ones(users, bool)))


def step(learner, params, tasks, mask, key=KEY):
    """One update under plain SGD of rate 1: (gradient, state, info)."""
    before = learner.init(params, tasks)
    after, info = jax.jit(world.on_batch(learner))(before, tasks, mask, key)
    return trees.subtract(before.params, after.params), after, info


POINT = Params({}, {"theta": jnp.array([1.0, -2.0])}, {})
SUPPORT, QUERY = np.array([[3.0, 0.0], [1.0, 1.0], [0.0, -4.0]]), np.array([[2.0, 1.0], [0.0, 0.0], [1.0, -3.0]])


@pytest.mark.parametrize(("first_order", "power"), [(False, 2), (True, 1)])
def test_maml_on_the_quadratic_is_the_closed_form(first_order, power):
    # after one step theta' = theta - r (theta - c_s); d/dtheta ½‖theta' - c_q‖² = (1 - r) (theta' - c_q),
    # first order without the factor of the chain through the step
    loop = world.one_step(world.point_loss, RATE, first_order=first_order)
    learner = maml(world.point_loss, loop, optax.sgd(1.0), aggregator=mean())
    tasks, mask = centres(SUPPORT, QUERY)
    grads, state, info = step(learner, POINT, tasks, mask)
    adapted = (1 - RATE) * np.array([[1.0, -2.0]]) + RATE * SUPPORT
    want = (1 - RATE) ** (power - 1) * (adapted - QUERY).mean(0)
    np.testing.assert_allclose(grads.personal["theta"], want, atol=1e-14)
    np.testing.assert_allclose(info["losses"], 0.5 * np.square(adapted - QUERY).sum(1), atol=1e-14)
    np.testing.assert_allclose(info["grad_norm"], np.linalg.norm(want), atol=1e-14)
    assert float(info["penalty"]) == 0.0 and int(state.step) == 1


def test_first_order_differs_from_second():
    tasks, mask = world.tasks(1)
    params = begin()
    first, second = (
        step(
            maml(LOSS, world.one_step(LOSS, 0.3, first_order=order), optax.sgd(1.0), aggregator=mean()),
            params,
            tasks,
            mask,
        )[0]
        for order in (True, False)
    )
    assert world.distance(first, second) > 1e-3


def test_maml_is_the_finite_difference():
    tasks, mask = world.tasks(2)
    params = begin()
    loop = world.one_step(LOSS, 0.3)
    grads, _, _ = step(maml(LOSS, loop, optax.sgd(1.0), aggregator=mean()), params, tasks, mask)

    def value(params):
        total = jnp.zeros(())
        for u in range(world.USERS - 1):
            task = jax.tree.map(lambda x, u=u: x[u], tasks)
            adapted, _ = loop.adapt(params, task.support, KEY)
            total += base.masked_mean(LOSS(adapted, task.query, KEY), task.query.mask)
        return total / (world.USERS - 1)

    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-8), grads, finite_differences(value, params))


def test_maml_learns_what_the_inner_loop_holds():
    plain = world.one_step(LOSS, 1.0)

    def adapt(params, support, key):
        moved, path = plain.adapt(params, support, key)
        gap = trees.subtract(moved.personal, params.personal)
        end = jax.tree.map(lambda p, r, g: p + r * g, params.personal, params.inner, gap)
        return params._replace(personal=end), path

    loop = InnerLoop(lambda params: jax.tree.map(lambda x: jnp.full_like(x, 0.3), params.personal), adapt)
    tasks, mask = world.tasks(3)
    learner = maml(LOSS, loop, optax.sgd(1.0), aggregator=mean())
    grads, state, _ = step(learner, begin(), tasks, mask)
    assert state.params.inner.keys() == {"b", "w"} and trees.squared_norm(grads.inner) > 1e-8
    given = begin()._replace(inner={"b": jnp.asarray(0.7), "w": jnp.array([0.7] * world.DIM)})
    assert world.distance(learner.init(given, tasks).params, given) == 0.0


def test_reptile_moves_to_the_mean_of_the_adapted_and_shared_by_the_query_there():
    tasks, mask = world.tasks(4)
    params = begin()
    loop = world.one_step(LOSS, 0.3)
    grads, _, info = step(reptile(LOSS, loop, optax.sgd(1.0), aggregator=mean()), params, tasks, mask)

    @jax.jit
    def alone(task):
        both = Batch(*(jnp.concatenate([a, b]) for a, b in zip(task.support, task.query)))
        adapted, _ = loop.adapt(params, both, KEY)

        def query(shared):
            own = Params(shared, adapted.personal, {})
            return base.masked_mean(LOSS(own, task.query, KEY), task.query.mask)

        return adapted.personal, *jax.value_and_grad(query)(params.shared)

    users = range(world.USERS - 1)
    ends, losses, shared = zip(*(alone(jax.tree.map(lambda x, u=u: np.asarray(x)[u], tasks)) for u in users))
    move = jax.tree.map(lambda start, *end: start - sum(end) / len(end), params.personal, *ends)
    assert world.distance(grads.personal, move) < 1e-12
    assert world.distance(grads.shared, jax.tree.map(lambda *g: sum(g) / len(g), *shared)) < 1e-12
    np.testing.assert_allclose(info["losses"], [*losses, 0.0], atol=1e-12)


def test_joint_is_the_mean_of_users_means_over_all_their_examples():
    tasks, mask = world.tasks(5)
    params = begin()
    grads, _, _ = step(joint(LOSS, optax.sgd(1.0), aggregator=mean()), params, tasks, mask)

    def plain(params):
        total = 0.0
        for u in range(world.USERS - 1):
            task = jax.tree.map(lambda x, u=u: np.asarray(x)[u], tasks)
            values = [v for part in (task.support, task.query) for v in LOSS(params, part, KEY)[part.mask]]
            total += sum(values) / len(values)
        return total / (world.USERS - 1)

    assert world.distance(grads, jax.jit(jax.grad(plain))(params)) < 1e-12


def test_joint_descends_the_root_of_a_users_loss_as_maml_does():
    tasks, mask = world.tasks(5)
    params = begin()
    grads, _, info = step(joint(LOSS, optax.sgd(1.0), aggregator=mean(), root=0.1), params, tasks, mask)

    def rooted(params):
        total = 0.0
        for u in range(world.USERS - 1):
            task = jax.tree.map(lambda x, u=u: np.asarray(x)[u], tasks)
            values = [v for part in (task.support, task.query) for v in LOSS(params, part, KEY)[part.mask]]
            total += jnp.sqrt(sum(values) / len(values) + 0.1)
        return total / (world.USERS - 1)

    assert world.distance(grads, jax.jit(jax.grad(rooted))(params)) < 1e-12
    plain = step(joint(LOSS, optax.sgd(1.0), aggregator=mean()), params, tasks, mask)[2]
    np.testing.assert_allclose(info["losses"], plain["losses"], rtol=1e-12)  # the loss that is logged is the plain one
    with pytest.raises(ValueError, match="root must be > 0, got 0.0"):
        joint(LOSS, optax.sgd(1.0), aggregator=mean(), root=0.0)


def parabola(weight):
    """A penalty of every kind of term: a parabola in theta, a term by task, and a count of what it observed."""
    zero = jnp.asarray(0.0)

    def observe(state, before, after, grads):
        return {"seen": state["seen"] + 1, "gap": trees.squared_norm(trees.subtract(before, after)), "grads": grads}

    return Penalty(
        lambda params: {"seen": jnp.zeros((), jnp.int32), "gap": zero, "grads": trees.zeros(params)},
        lambda state, params: 0.5 * weight * trees.squared_norm(params),
        lambda state, params, adapted, task, key: trees.dot(params.personal, adapted.personal),
        observe,
        lambda state, params, draw, key: {**state, "seen": draw(jnp.int32(2))[0]},
    )


def test_a_penalty_adds_its_gradient_after_and_its_task_term_before_the_mean():
    tasks, mask = centres(SUPPORT, QUERY)
    loop = world.one_step(world.point_loss, RATE)
    alone, _, _ = step(maml(world.point_loss, loop, optax.sgd(1.0), aggregator=mean()), POINT, tasks, mask)
    learner = maml(world.point_loss, loop, optax.sgd(1.0), aggregator=mean(), penalty=parabola(2.0))
    grads, state, info = step(learner, POINT, tasks, mask)
    theta = np.array([1.0, -2.0])
    ends = (1 - RATE) * theta + RATE * SUPPORT
    on_task = (ends + (1 - RATE) * theta).mean(0)  # d/dtheta of theta · ((1 - r) theta + r c)
    np.testing.assert_allclose(grads.personal["theta"], alone.personal["theta"] + 2 * theta + on_task, atol=1e-13)
    np.testing.assert_allclose(info["penalty"], theta @ theta + (ends @ theta).mean(), atol=1e-13)
    np.testing.assert_allclose(state.penalty["grads"].personal["theta"], alone.personal["theta"] + on_task, atol=1e-13)
    np.testing.assert_allclose(state.penalty["gap"], trees.squared_norm(grads), atol=1e-12)
    assert int(state.penalty["seen"]) == 1
    ended = learner.consolidate(state, lambda i: (i * 10, None), KEY)
    assert int(ended.penalty["seen"]) == 20 and ended.params is state.params


def test_without_a_penalty_nothing_is_computed_for_one():
    tasks, mask = centres(SUPPORT, QUERY)
    loop = world.one_step(world.point_loss, RATE)
    learner = maml(world.point_loss, loop, optax.sgd(1.0), aggregator=mean())
    state = learner.init(POINT, tasks)
    assert state.penalty == {} and learner.consolidate(state, None, KEY) is state
    assert learner.forget(state, jnp.int32(0)) is state


def test_the_outer_step_costs_what_the_bare_one_costs():
    tasks, mask = world.tasks(6)
    loop, optimizer = world.one_step(LOSS, 0.3), optax.sgd(0.1, momentum=0.9)
    learner = maml(LOSS, loop, optimizer, aggregator=mean())
    state = learner.init(begin(), tasks)

    def bare(params, opt_state, tasks):
        def user(params, task):
            adapted, _ = loop.adapt(params, task.support, None)
            return base.masked_mean(LOSS(adapted, task.query, None), task.query.mask)

        def outer(params):
            return jnp.mean(jax.vmap(user, in_axes=(None, 0))(params, tasks))

        value, grads = jax.value_and_grad(outer)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    def products(function, *args):
        return str(jax.make_jaxpr(function)(*args)).count("dot_general")

    mine = products(world.on_batch(learner), state, tasks, mask, KEY)
    assert mine == products(bare, state.params, state.opt_state, tasks) > 0


def test_adapted_parameters_reach_the_penalty_and_keys_are_the_users_own():
    seen = {}

    def user_loss(params, task, step, key):
        loss = jax.random.normal(key) + 0.0 * params.personal["theta"][0]
        return loss, loss, params

    tasks, mask = centres(SUPPORT, QUERY)
    learner = descent(user_loss, optax.sgd(1.0), aggregator=mean())
    for order in ([0, 1, 2], [2, 0, 1]):
        shuffled = jax.tree.map(lambda x, order=order: jnp.asarray(np.asarray(x)[order]), tasks)
        _, _, info = step(learner, POINT, shuffled, mask)
        for row, loss in zip(order, info["losses"].tolist()):
            assert seen.setdefault(row, loss) == loss
    assert len(set(seen.values())) == 3


def shelf(capacity):
    """A memory that keeps the first ``capacity`` items in order and gives the first n."""

    def init(spec):
        items = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), spec)
        return {"items": items, "users": jnp.full((capacity,), -1, jnp.int32), "count": jnp.zeros((), jnp.int32)}

    def insert(state, items, users, scores, mask, key):
        for i in range(mask.shape[0]):
            place = jnp.where(mask[i] & (state["count"] < capacity), state["count"], capacity)
            state = {
                "items": jax.tree.map(
                    lambda old, x, i=i, p=place: old.at[p].set(x[i], mode="drop"), state["items"], items
                ),
                "users": state["users"].at[place].set(users[i], mode="drop"),
                "count": state["count"] + (place < capacity).astype(jnp.int32),
            }
        return state

    def sample(state, n, key):
        slots = jnp.arange(n, dtype=jnp.int32)
        return jax.tree.map(lambda x: x[:n], state["items"]), slots, slots < state["count"]

    def forget(state, user):
        return {**state, "users": jnp.where(state["users"] == user, -1, state["users"])}

    return Memory(init, insert, sample, lambda state, slots, scores: state, forget)


def meta(optimizer=None):
    return maml(LOSS, world.one_step(LOSS, 0.3), optimizer or optax.adam(0.1), aggregator=mean())


def consolidated(learner, state, draw):
    """The state after a period, as one program."""
    return jax.jit(lambda state: learner.consolidate(state, draw, KEY))(state)


@pytest.mark.parametrize("n", [0, 3])
def test_replay_of_nothing_is_the_plain_learner(n):
    tasks, mask = world.tasks(8)
    tasks, params = keys.numbered(tasks), begin()
    plain, again = meta(), replay(meta(), shelf(4), n, draws=1)
    one, two = plain.init(params, tasks), again.init(params, tasks)
    for i in range(3):
        one, said = jax.jit(world.on_batch(plain))(one, tasks, mask, keys.named(KEY, "step", i))
        two, info = jax.jit(world.on_batch(again))(two, tasks, mask, keys.named(KEY, "step", i))
        np.testing.assert_allclose(np.asarray(info["losses"])[: world.USERS], said["losses"], atol=1e-12)
        assert int(info["replayed"]) == 0
    assert world.distance(one, two.learner) <= (0.0 if n == 0 else 1e-12)


def test_replay_fills_after_the_learner_consolidated_and_then_trains_on_both():
    calls = []
    watched = meta(optax.sgd(1.0))._replace(consolidate=lambda state, draw, key: calls.append("learner") or state)
    kept = shelf(6)
    memory = kept._replace(insert=lambda *args: calls.append("memory") or kept.insert(*args))
    learner = replay(watched, memory, 3, draws=2)
    old, mask = world.tasks(9, first=100)
    new, _ = world.tasks(10)
    params = begin()
    state = learner.init(params, new)
    state = consolidated(learner, state, lambda i: (old._replace(user=old.user + 10 * i), mask))
    assert calls[0] == "learner" and "memory" in calls
    assert state.memory["users"].tolist() == [100, 101, 102, 103, 110, 111]
    after, info = jax.jit(world.on_batch(learner))(state, new, mask, KEY)
    both = jax.tree.map(
        lambda a, b: jnp.asarray(np.concatenate([a, b[:3]])), *jax.tree.map(np.asarray, ((new, mask), (old, mask)))
    )
    want, _, said = step(meta(optax.sgd(1.0)), params, *both)
    assert world.distance(trees.subtract(params, after.learner.params), want) < 1e-12
    np.testing.assert_allclose(info["losses"], said["losses"], atol=1e-12)
    assert info["losses"].shape == (world.USERS + 3,) and int(info["replayed"]) == 3
    assert learner.forget(state, jnp.int32(101)).memory["users"].tolist() == [100, -1, 102, 103, 110, 111]
    assert learner.params(after) is after.learner.params


def test_copies_of_a_user_have_keys_of_their_own():
    def user_loss(params, task, step, key):
        loss = jax.random.normal(key) + 0.0 * params.personal["w"][0]
        return loss, loss, params

    learner = replay(descent(user_loss, optax.sgd(1.0), aggregator=mean()), shelf(4), 2, draws=1)
    tasks, mask = world.tasks(11)
    tasks = tasks._replace(user=jnp.zeros_like(tasks.user))
    state = learner.init(begin(), tasks)
    state = consolidated(learner, state, lambda i: (tasks, mask))
    _, info = jax.jit(world.on_batch(learner))(state, tasks, mask, KEY)
    losses = info["losses"].tolist()
    assert losses[4] == 0.0 and len(set(losses)) == 7  # four fresh ones, one masked, two replayed


def test_the_state_shares_no_buffer_with_the_callers_parameters():
    tasks, mask = world.tasks(12)
    params = begin()
    learner = meta()
    jax.jit(world.on_batch(learner), donate_argnums=0)(learner.init(params, tasks), tasks, mask, KEY)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("n", "draws", "message"), [(-1, 1, "n must be >= 0, got -1"), (1, 0, "draws must be >= 1, got 0")]
)
def test_bad_arguments_are_named(n, draws, message):
    with pytest.raises(ValueError, match=message):
        replay(meta(), shelf(2), n, draws=draws)
