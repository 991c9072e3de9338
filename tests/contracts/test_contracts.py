"""One set of contracts for every learner of the table.

The contracts of a case are functions that run on one worker (``--dist loadgroup``), for they share compiled
programs. The message of each assertion names the contract.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys
from tests.contracts import short_run, table, world

KEY = keys.root(11)
ORDER = np.array([4, 2, 0, 3, 1])


def grouped(names):
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]


CASES = grouped(table.named())
CARRYING = grouped(name for name, case in table.named().items() if table.revalued(case))


def shapes(tree):
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def finite(tree):
    return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in floats(tree))


def through_the_host(state):
    leaves, structure = jax.tree.flatten(state)
    return jax.tree.unflatten(structure, [jnp.asarray(np.array(leaf)) for leaf in leaves])


@pytest.mark.parametrize("name", CASES)
def test_shapes_masks_order_forgetting_and_a_resumed_run(name):
    one, end = short_run.of(name), short_run.after_two_periods(name)
    check_shapes(one, one.start(), end)
    check_masks(one, end)
    check_order(one, end, name in table.ORDERED, "insertion step" in name)
    gap = world.distance(one.forget(end, jnp.int32(4321)), end)
    assert gap == 0.0, "forgetting: a user who never came leaves the state as it is"
    check_resumed(one, end)
    assert one.traced == {"update": 1, "consolidate": 1, "forget": 1}, "compilation: nothing is traced twice"


def check_shapes(one, start, end):
    assert shapes(start) == shapes(end), "shapes: a state keeps its shapes and types over periods"
    state, info = one.update(end, *world.tasks(50), KEY)
    assert shapes(state) == shapes(end), "shapes: an update keeps those of the state"
    assert finite((state, info)), "values: everything is finite"
    losses = info["losses"]
    assert losses.shape[0] >= world.USERS and losses.ndim == 1, "shapes: one loss for each user"
    assert info["penalty"].shape == info["grad_norm"].shape == (), "shapes: penalty and grad_norm are scalars"
    moved = world.distance(one.learner.params(state).personal, one.learner.params(start).personal)
    assert moved > 1e-3, "values: the start of every user is learned"


def check_masks(one, clean):
    poisoned = partial(world.tasks, poisoned=True)
    end = one.through(one.start(), tasks=poisoned)
    dirty, said = one.update(end, *poisoned(53), KEY)
    state, info = one.update(clean, *world.tasks(53), KEY)
    params = one.learner.params
    assert world.distance(params(end), params(clean)) < 1e-12, "masks: what is masked changes nothing in two periods"
    gap = world.distance((params(state), info), (params(dirty), said))
    assert gap < 1e-12, "masks: what is masked changes neither an update nor what it reports"


def check_order(one, state, ordered, filled):
    tasks, mask = world.tasks(54)
    after, info = one.update(state, tasks, mask, KEY)
    again, said = one.update(state, *jax.tree.map(lambda x: x[ORDER], (tasks, mask)), KEY)
    if ordered:
        assert world.distance(after, again) > 1e-6, "order: users that come one after the other come in an order"
        return
    if filled:  # what a memory takes in depends on the order, what a step learns does not
        after, again = one.learner.params(after), one.learner.params(again)
    assert world.distance(after, again) < 1e-12, "order: another order of users changes rounding alone"
    losses, others = info["losses"][: world.USERS][ORDER], said["losses"][: world.USERS]
    np.testing.assert_allclose(losses, others, atol=1e-12, err_msg="order: losses follow their users")


@pytest.mark.parametrize("name", grouped(["learner: maml"]))
def test_a_compiled_update_is_the_plain_one(name):
    # for one learner alone: the seeds below trace the update of every case a second time, by another transformation
    one, end = short_run.of(name), short_run.after_two_periods(name)
    tasks, mask = world.tasks(51)
    assert world.distance(one.update(end, tasks, mask, KEY), world.on_batch(one.learner)(end, tasks, mask, KEY)) < 1e-12


def check_resumed(one, end):
    first = one.through(one.start(), periods=range(1))
    restored = one.place(through_the_host(first))
    assert shapes(restored) == shapes(first), "resume: a state through the host keeps its shapes and types"
    assert world.distance(restored, first) == 0.0, "resume: a state through the host keeps every bit"
    gap = world.distance(one.through(restored, periods=range(1, 2)), end)
    assert gap == 0.0, "resume: a resumed run ends bit for bit as the whole one"


@pytest.mark.parametrize("name", CASES)
def test_seeds_trained_together_in_float32_are_each_alone_in_float64(name):
    alone = [jax.tree.leaves(short_run.of(name).learner.params(short_run.after_two_periods(name, i))) for i in range(2)]
    with jax.enable_x64(False):  # as training runs
        one = short_run.fresh(name, many=jax.vmap)
        start = one.start()
        middle = one.through(start, periods=range(1))
        end = one.through(middle, periods=range(1, 2))
        assert shapes(end) == shapes(start), "float32: a state keeps its shapes and types over periods"
        assert one.traced["update"] == 1, "float32: the update is traced once"
        assert all(leaf.dtype == jnp.float32 for leaf in floats(end)), "float32: every float of the state is one"
        assert finite(end), "float32: everything is finite"
        gap = world.distance(one.through(one.place(through_the_host(middle)), periods=range(1, 2)), end)
        assert gap == 0.0, "float32: a resumed run ends bit for bit as the whole one"
        together = [np.asarray(leaf) for leaf in jax.tree.leaves(one.learner.params(end))]
    if "exact False" in name:
        return  # other labels are drawn in float32
    for many, *seeds in zip(together, *alone, strict=True):
        text = "seeds: each of those trained together is itself alone"
        np.testing.assert_allclose(many, np.stack(seeds), atol=1e-3, err_msg=text)
    assert max(np.abs(many[0] - many[1]).max(initial=0) for many in together) > 0.1, "seeds: they are not alike"


@pytest.mark.parametrize("name", CARRYING)
def test_other_values_of_carried_options_run_the_same_program(name):
    one = short_run.of(name)
    start, three = one.start(), range(3)
    end, lowered = one.through(start, periods=three), lowered_update(one.learner, start)
    for key, make in table.revalued(table.named()[name]).items():
        other = short_run.Run(make(), on_mesh=one.on_mesh, program=one.program)
        begun = other.start()
        assert shapes(begun) == shapes(start), f"carried: another {key} leaves the shapes of the state"
        assert world.distance(begun, start) > 0, f"carried: the state holds {key}"
        assert lowered_update(other.learner, begun) == lowered, f"carried: another {key} is the same program"
        params = one.learner.params(other.through(begun, periods=three))
        assert world.distance(params, one.learner.params(end)) > 1e-9, f"carried: another {key} has an effect"
    assert one.traced == {"update": 1, "consolidate": 1, "forget": 1}, "carried: other values are not traced anew"


def lowered_update(learner, state):
    return jax.jit(world.on_batch(learner)).lower(state, *world.tasks(0), KEY).as_text()
