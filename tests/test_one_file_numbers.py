"""The members of tests/one_file against closed forms and numbers worked by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapers import aggregate, inner, keys, learners
from metapers.base import Batch, Cohort, Params, Task
from metapers.penalties import carried
from tests.contracts import world
from tests.plug_ins import FILES, KINDS, registered


def test_there_is_one_file_for_each_kind_and_each_registers_a_member_of_its_kind():
    assert sorted(path.stem for path in FILES.glob("*.py")) == sorted(KINDS)
    assert [registered(kind).kind for kind in KINDS] == list(KINDS)


def params(*values: float) -> Params:
    return Params({}, {"w": jnp.array(values)}, {})


def test_the_l1_penalty_is_strength_times_the_absolute_distance_and_its_gradient_a_sign():
    penalty = registered("penalty").module.l1(0.1)
    state, end = penalty.init(params(0.0, 0.0, 0.0)), params(4.0, -2.5, 1.0)
    assert float(penalty.value(state, end)) == 0.0  # no period has ended
    state = penalty.consolidate(state, params(1.0, -2.0, 1.0), None, None)
    assert float(penalty.value(state, end)) == pytest.approx(0.1 * (3.0 + 0.5))
    slope = jax.jit(jax.grad(penalty.value, argnums=1))(state, end).personal["w"]
    np.testing.assert_allclose(slope, [0.1, -0.1, 0.0])
    penalty = carried(registered("penalty").module.l1, {"strength": 0.1})  # as a traced option arrives
    state = penalty.consolidate(penalty.init(end), params(1.0, -2.0, 1.0), None, None)
    assert float(penalty.value(state, end)) == pytest.approx(0.35)


def test_the_ring_holds_the_newest_items_and_forgets_a_user():
    memory = registered("memory").module.ring(3)
    insert, sample = jax.jit(memory.insert), jax.jit(memory.sample, static_argnums=1)

    def inserted(state, items, mask=None):
        items = np.array(items)
        there = np.ones(len(items), bool) if mask is None else np.array(mask)
        return insert(state, items, items.astype(np.int32), {}, there, keys.root(0))

    state = inserted(memory.init(jnp.zeros(())), [10.0, 11.0, 12.0], [True, False, True])
    assert state.items.tolist() == [10.0, 12.0, 0.0] and state.users.tolist() == [10, 12, -1]
    state = inserted(state, [13.0, 14.0])
    assert state.items.tolist() == [14.0, 12.0, 13.0]
    state = inserted(state, [20.0, 21.0, 22.0, 23.0, 24.0])  # more than it holds: 22, 23 and 24 stay
    assert state.items.tolist() == [22.0, 23.0, 24.0]
    assert inserted(state, [30.0]).items.tolist() == [30.0, 23.0, 24.0]  # 22 was the oldest
    items, slots, mask = sample(state, 5, keys.root(1))
    assert mask.tolist() == [True] * 3 + [False] * 2 and sorted(items.tolist()) == [0.0, 0.0, 22.0, 23.0, 24.0]
    assert {tuple(sorted(sample(state, 2, keys.root(i))[0].tolist())) for i in range(9)} == {
        (22.0, 23.0),
        (22.0, 24.0),
        (23.0, 24.0),
    }
    state = jax.jit(memory.forget)(state, jnp.int32(22))
    assert state.items.tolist() == [0.0, 23.0, 24.0] and state.users.tolist() == [-1, 23, 24]
    assert sorted(sample(state, 3, keys.root(2))[0].tolist()) == [0.0, 23.0, 24.0]


def distance(params: Params, batch: Batch, key: Any) -> jax.Array:
    return 0.5 * jnp.sum(jnp.square(params.personal["w"][None] - batch.targets), axis=1)


def targets(*rows: tuple[float, ...], known: bool = True) -> Batch:
    return Batch({}, jnp.array(rows), jnp.array([known] * len(rows)))


def test_a_normalised_step_has_the_length_of_the_rate():
    loop = registered("inner_loop").module.normalised(distance, None, steps=2, rate=0.5)
    end, path = jax.jit(loop.adapt)(params(0.0, 0.0), targets((3.0, 4.0)), None)
    np.testing.assert_allclose(path["w"], [[0.0, 0.0], [0.3, 0.4], [0.6, 0.8]])
    np.testing.assert_array_equal(end.personal["w"], np.asarray(path["w"])[-1])


@pytest.mark.parametrize(("start", "known"), [((3.0, 4.0), True), ((1.0, 2.0), False)])
def test_without_a_gradient_or_a_support_a_normalised_step_stays(start, known):
    loop, support = registered("inner_loop").module.normalised(distance, None, steps=2, rate=0.5), (3.0, 4.0)
    end = lambda start: loop.adapt(Params({}, {"w": start}, {}), targets(support, known=known), None)[0].personal["w"]
    np.testing.assert_array_equal(jax.jit(end)(jnp.array(start)), start)
    assert np.isfinite(jax.jit(jax.jacobian(end))(jnp.array(start))).all()


def test_the_straight_through_learner_applies_the_gradient_at_the_end_to_the_start():
    make, user = registered("learner").module.straight_through, jnp.array([0], jnp.int32)
    task = Task(targets((2.0,)), targets((5.0,)), user, {})
    tasks = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[None]), task)._replace(user=user)
    loop = inner.gradient(distance, 1, 0.5)

    def moved(made) -> float:
        state = made.init(params(0.0), tasks)
        state, _ = jax.jit(world.on_batch(made))(state, tasks, jnp.array([True]), keys.root(0))
        return float(np.asarray(made.params(state).personal["w"])[0])

    given = {"aggregator": aggregate.mean()}
    assert moved(make(distance, loop, optax.sgd(0.1), **given)) == pytest.approx(0.1 * (5.0 - 1.0))  # adapted: 1
    both = make(distance, loop, optax.sgd(0.1), start_weight=0.5, **given)
    assert moved(both) == pytest.approx(0.1 * (5.0 - 1.0 + 0.5 * 5.0))
    first = inner.gradient(distance, 1, 0.5, first_order=True)
    assert moved(learners.maml(distance, first, optax.sgd(0.1), **given)) == pytest.approx(0.4)
    assert moved(learners.maml(distance, loop, optax.sgd(0.1), **given)) == pytest.approx(0.2)  # of second order


def test_the_model_scales_features_for_all_users_and_weighs_them_for_one():
    model = registered("model").module.scaled_linear({"width": 2}, scale=2.0)
    start = model.init(keys.root(0))
    assert start.shared["scale"].tolist() == [2.0, 2.0] and start.personal["weights"].tolist() == [0.0, 0.0]
    own = start._replace(personal={"weights": jnp.array([1.0, 3.0]), "bias": jnp.array(0.5)})
    inputs, mask = jnp.array([[1.0, 10.0], [0.0, -1.0]]), jnp.array([True, True])
    assert jax.jit(model.apply)(own, inputs, mask, None).tolist() == [62.5, -5.5]
    slope = jax.grad(lambda personal: model.apply(own._replace(personal=personal), inputs, mask, None)[0])
    assert jax.jit(slope)(own.personal)["weights"].tolist() == [2.0, 20.0]
    assert model.groups(start)[:2] == ({"scale": "param"}, {"weights": "personal", "bias": "personal"})


def test_a_square_wave_is_on_for_half_of_the_day_and_moves_by_the_drift():
    make = registered("source").module.square_wave
    stream = make(periods=2, users=200, examples=40, drift=0.25, noise=0.0, seed=3, fold=0, support=4, query=4)
    for period in (0, 1):
        cohort = stream.held_out("test", period)
        assert set(np.unique(cohort.targets)) == {-1.0, 1.0}
        turn = np.arctan2(cohort.inputs[:, 0], cohort.inputs[:, 1])
        for low, high in zip(cohort.offsets[:-1], cohort.offsets[1:]):
            signs = cohort.targets[low:high][np.argsort(turn[low:high])]
            assert np.sum(signs != np.roll(signs, 1)) <= 2  # on once, off once
        middle = np.angle(np.sum(cohort.targets * np.exp(1j * turn))) / (2 * np.pi)
        assert middle - 0.25 == pytest.approx(
            0.25 * period, abs=0.06
        )  # a wave is on from its start to half a day later


def test_the_median_of_the_support_is_shrunk_to_that_of_all():
    def cohort(values, offsets) -> Cohort:
        users = np.arange(len(offsets) - 1, dtype=np.int32)
        each = np.zeros(len(values), np.int32)
        return Cohort(np.zeros((len(values), 1)), np.array(values), np.array(offsets), users, users, users > 0, each)

    fitted = registered("baseline").module.user_median(cohort([0.0, 2.0, 10.0], [0, 3]), shrink=1.0)
    new = cohort([1.0, 3.0, 100.0, 7.0, 8.0], [0, 4, 5])
    assert fitted.predict(new, 3, 3).tolist() == [2.75] * 4 + [5.0]  # 2 + 3/4 (3 - 2), 2 + 1/2 (8 - 2)
    assert fitted.predict(new, 1, 3).tolist() == [1.5] * 4 + [5.0]
    assert fitted.predict(new, 0, 3).tolist() == [2.0] * 5
