"""How far one user moves a step's gradient: what an aggregator says, against the same step without the user."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapers import aggregate, keys, learners, trees
from metapers.members import build, registry, sections
from tests.contracts import table, world

KEY = keys.root(11)
DRAWN = np.array([1, 0, 1, 2, 1, 3], np.int32)  # the fresh tasks' users, the last one masked
REMEMBERED = 10  # tasks of the memory beside them: as many as are inserted
LEARNERS = {
    "maml": lambda aggregator: learners.maml(table.LOSS, table.loop(), optax.sgd(1.0), aggregator=aggregator),
    "reptile": lambda aggregator: learners.reptile(table.LOSS, table.loop(), optax.sgd(1.0), aggregator=aggregator),
    "joint": lambda aggregator: learners.joint(table.LOSS, optax.sgd(1.0), aggregator=aggregator),
}
AGGREGATORS = dict(sections("aggregator"))
MEMORIES = {"none": {"name": "none"}, **dict(sections("memory"))}


def batch(seed):
    """Six tasks of four users with gradients far above every bound."""
    tasks, mask = world.tasks(seed, len(DRAWN))
    far = lambda part: part._replace(targets=10.0 * part.targets)
    return tasks._replace(support=far(tasks.support), query=far(tasks.query), user=jnp.array(DRAWN)), mask


def telling(aggregator):
    """``aggregator`` that tells the gradient times the number of tasks that a step has room for."""

    def finish(state, sums, key, *, expected):
        state, grads, info = aggregator.finish(state, sums, key, expected=expected)
        return state, grads, info | {"moved": jax.tree.map(lambda leaf: expected * leaf, grads)}

    return aggregator._replace(finish=finish)


@functools.cache
def both(kept):
    """The fresh tasks and those that a memory of other tasks of the same users gives, numbered together."""
    memory, (tasks, mask) = build("memory", MEMORIES[kept], {}), batch(0)
    spare = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * 2)[:REMEMBERED], tasks)
    old, live = keys.numbered(spare), jnp.zeros(REMEMBERED, bool)  # where nothing is remembered
    if memory is not None:
        old, live = jax.jit(functools.partial(remembered, memory))(old)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), keys.numbered(tasks), old)
    return keys.numbered(joined), jnp.concatenate([mask, live])


def remembered(memory, like):
    """What a memory gives after two batches of a period."""
    state = memory.init(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), like))
    for seed in (1, 2):
        tasks, mask = batch(seed)
        state = memory.insert(state, keys.numbered(tasks), tasks.user, {}, mask, keys.named(KEY, "insert", seed))
    items, _, there = memory.sample(state, REMEMBERED, KEY)
    return items, there


@functools.cache
def step(learner, label, size):
    """One outer step as one program: (tasks, mask) -> its gradient times the tasks that it has room for."""
    made = build("aggregator", AGGREGATORS[label], {})
    made = LEARNERS[learner](telling(made if size is None else aggregate.blocks(made, size)))
    return jax.jit(
        lambda tasks, mask: world.on_batch(made)(made.init(table.MODEL.init(KEY), tasks), tasks, mask, KEY)[1]
    )


CASES = [(learner, label, None) for learner in LEARNERS for label in AGGREGATORS]
CASES += [("joint", label, 3) for label in AGGREGATORS]


@pytest.mark.parametrize(("learner", "label", "size"), CASES)
def test_no_user_moves_a_step_further_than_its_aggregator_says(learner, label, size):
    bound, update = build("aggregator", AGGREGATORS[label], {}).sensitivity(), step(learner, label, size)
    for kept in MEMORIES:
        tasks, mask = both(kept)
        whole, there = update(tasks, mask)["moved"], np.asarray(mask)
        moved = []
        for user in (0, 1, 2):
            own = there & (np.asarray(tasks.user) == user)
            assert own[: len(DRAWN)].any() and (own[len(DRAWN) :].any() or "capacity" in kept or kept == "none")
            without = update(tasks, mask & (tasks.user != user))["moved"]
            moved.append(float(optax.tree.norm(trees.subtract(whole, without))))
        assert all(length > 0 for length in moved)
        assert max(moved) <= bound + 1e-12
        if math.isfinite(bound):
            assert max(moved) > 0.99 * bound  # the bound is reached: users are cut


def test_replay_bounds_a_user_who_was_drawn_and_remembered():
    made = LEARNERS["joint"](telling(aggregate.clipped(0.5)))
    made = learners.replay(made, build("memory", MEMORIES["reservoir"], {}), REMEMBERED, draws=2)
    tasks, mask = batch(0)
    older = jax.tree.map(lambda *leaves: jnp.stack(leaves), batch(1), batch(2))

    @jax.jit
    def update(user):
        state = made.init(table.MODEL.init(KEY), tasks)
        state = made.consolidate(state, lambda i: jax.tree.map(lambda leaf: leaf[i], older), KEY)
        return world.on_batch(made)(made.forget(state, user), tasks, mask & (tasks.user != user), KEY)[1]

    whole, without = update(jnp.int32(-1)), update(jnp.int32(1))
    assert (int(whole["replayed"]), int(without["replayed"])) == (10, 4)
    assert 0.495 < float(optax.tree.norm(trees.subtract(whole["moved"], without["moved"]))) <= 0.5 + 1e-12


def test_the_mean_bounds_nobody_and_every_other_aggregator_says_something():
    assert math.isinf(aggregate.mean().sensitivity())
    for name in registry("aggregator"):
        bound = build("aggregator", {"name": name, **registry("aggregator")[name].example}, {}).sensitivity()
        assert bound > 0
