"""Keys of training tasks: no two of one arm and seed are alike, whatever period, step, repeat or memory; arms share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapers import keys, learners, memory, samplers
from metapers.aggregate import clipped, mean
from metapers.base import Params
from metapers.learners.descent import descent
from metapers.run import loop
from metapers.tasks import ragged, splits

PERIODS, STEPS, CHUNK, USERS, REPLAYED, SEEDS = 3, 5, 2, 6, 4, 2
ROOTS = jnp.stack([keys.root(seed) for seed in range(SEEDS)])


@functools.cache
def family():
    """Three training users who come in every period, fewer than a step draws."""
    names = [str(i) for i in range(1000) if splits.split_of(str(i), 0) == "train"][:3]
    user, period, time = (axis.ravel() for axis in np.meshgrid(range(3), range(PERIODS), range(6), indexing="ij"))
    targets = np.arange(user.size, dtype=float)
    examples = ragged.Examples(tuple(names), user, period, time, targets[:, None], targets)
    return ragged.stream(examples, periods=PERIODS, fold=0, support=3, query=2, about={}).family


def noise(params, task, step, key):
    """A loss that is 48 bits of the task's key, and moves nothing."""
    high, low = jax.random.bits(key, (2,), jnp.uint32).astype(jnp.float64) + 1
    loss = high + low / 2.0**33 + 0.0 * params.personal["w"]
    return loss, loss, params


def recorded(learner):
    """``learner`` whose state also holds, of every step that was taken, the losses and the fresh tasks' users."""

    def init(params, tasks):
        total = PERIODS * STEPS
        return {
            "of": learner.init(params, tasks),
            "at": jnp.int32(0),
            "losses": jnp.zeros((total, USERS + REPLAYED)),
            "fresh": jnp.zeros((total, USERS, 2)),
        }

    def update(state, sources, key):
        after, scores, info = learner.update(state["of"], sources, key)
        tasks, told = sources["fresh"][0], jnp.concatenate([one["losses"] for one in scores.values()])
        losses = jnp.zeros(USERS + REPLAYED).at[: told.shape[0]].set(told)
        fresh = jnp.stack([tasks.user.astype(losses.dtype), tasks.query.targets.sum(axis=1)], axis=1)
        at = state["at"]
        kept = {"losses": state["losses"].at[at].set(losses), "fresh": state["fresh"].at[at].set(fresh)}
        return {"of": after, "at": at + 1, **kept}, scores, info

    def consolidate(state, draw, key):
        return {**state, "of": learner.consolidate(state["of"], draw, key)}

    return learner._replace(
        init=init, update=update, consolidate=consolidate, params=lambda state: learner.params(state["of"])
    )


ARMS = {
    "plain": lambda: descent(noise, optax.sgd(0.1), aggregator=mean()),
    "clipped": lambda: descent(noise, optax.sgd(0.1), aggregator=clipped(1.0)),
    "memory": lambda: learners.replay(ARMS["plain"](), memory.reservoir(8), REPLAYED, draws=2),
    "memory of few": lambda: learners.replay(ARMS["plain"](), memory.reservoir(3), REPLAYED, draws=2),
}


@functools.cache
def lived(arm):
    """The losses, the fresh tasks and the memory's users by period, of an arm that lived through all periods."""
    compiled = loop.program(recorded(ARMS[arm]()), samplers.with_replacement(family(), USERS), chunk=CHUNK)
    params = Params({}, {"w": jnp.zeros(SEEDS)}, {})
    state, held = compiled.init(params, family().data((0, 0), 0, 0)), []
    for now in range(PERIODS):
        data, before = jax.device_put(family().data((now, now), 0, 0)), now * STEPS
        kept = state["of"].memory.users if "memory" in arm else np.zeros((SEEDS, 0))
        held.append(np.asarray(kept))
        steps = loop.run(compiled, state, ROOTS, lambda _, d=data: d, period=now, start=0, stop=STEPS, before=before)
        *_, last = steps
        state = compiled.consolidate(last.state, ROOTS, data, jnp.int32((now + 1) * STEPS))
    return np.asarray(state["losses"]), np.asarray(state["fresh"]), held


@pytest.mark.parametrize("arm", ARMS)
def test_no_two_tasks_of_an_arm_share_a_key(arm):
    losses, fresh, held = lived(arm)
    users = fresh[..., 0]
    assert all(len(set(step)) < USERS for seed in users for step in seed)  # someone is drawn twice in every step
    beside = 0
    if "memory" in arm:
        beside = sum(np.minimum(REPLAYED, (one >= 0).sum()) for period in held for one in period) * STEPS
        assert beside > 0 and set(users.ravel()) == {0, 1, 2}  # all are fresh everywhere, so also beside replayed ones
    told = losses[losses != 0]
    assert told.size == SEEDS * PERIODS * STEPS * USERS + beside
    assert len(set(told.tolist())) == told.size


def test_a_batch_that_is_repeated_has_the_same_tasks_and_other_keys():
    sampler = samplers.glances(samplers.with_replacement(family(), USERS), 2)
    compiled = loop.program(recorded(ARMS["plain"]()), sampler, chunk=CHUNK)
    data = compiled.data((0, 0))
    state = compiled.init(Params({}, {"w": jnp.zeros(SEEDS)}, {}), data)
    *_, last = loop.run(compiled, state, ROOTS, lambda _: data, period=0, start=0, stop=2)
    first, second = (np.asarray(last.state["fresh"])[:, step] for step in (0, 1))
    np.testing.assert_array_equal(first, second)
    losses = np.asarray(last.state["losses"])[:, :2, :USERS]
    assert len(set(losses.ravel().tolist())) == losses.size


def test_arms_draw_the_same_tasks_at_the_same_step():
    _, fresh, _ = lived("plain")
    for arm in ARMS:
        np.testing.assert_array_equal(lived(arm)[1], fresh)
    by_step = {tuple(step.ravel()) for step in fresh.reshape(SEEDS * PERIODS * STEPS, -1)}
    assert len(by_step) == SEEDS * PERIODS * STEPS  # and others at another


def test_fresh_tasks_keep_their_keys_whatever_is_remembered():
    plain, with_memory = lived("plain")[0], lived("memory")[0]
    np.testing.assert_array_equal(with_memory[..., :USERS], plain[..., :USERS])


def test_repeats_count_each_user_by_itself():
    users = jnp.array([4, -1, 4, 2, -1, 4, 2], jnp.int32)
    assert keys.repeats(users).tolist() == [0, 0, 1, 0, 1, 2, 1]
    assert keys.repeats(users[:1]).tolist() == [0]
    order = np.array([6, 2, 0, 5, 1, 4, 3])
    assert sorted(zip(users[order].tolist(), keys.repeats(users[order]).tolist(), strict=True)) == sorted(
        zip(users.tolist(), keys.repeats(users).tolist(), strict=True)
    )
