"""One period as a scan: compiled once, seeds and devices change nothing, any member resumes to the bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from metapers import inner, keys, samplers, store, tasks
from metapers.base import Learner
from metapers.placement import place
from metapers.run import loop
from tests.contracts import short_run, table, world

pytestmark = pytest.mark.xdist_group("period")  # the tests share programs

STEPS, CHUNK, USERS, SEEDS = 7, 3, 5, 2
STREAM = tasks.linear_gaussian(
    drift=tasks.synthetic.recurring(), periods=3, users_per_period=30, examples=6, dim=1, support=3, query=3
)
FAMILY = STREAM.family
ROOTS = jnp.stack([keys.root(seed) for seed in range(SEEDS)])
SOUND = jnp.stack([keys.root(seed) for seed in (2, 3)])  # seeds whose losses stay numbers in ``failing``
LOOP = inner.gradient(table.LOSS, 1, inner.per_parameter(0.05))
SMALLER = inner.gradient(table.LOSS, 1, inner.per_parameter(0.05), first_order=True)
"""For programs whose derivatives do not matter: less to compile."""
starts = jax.jit(jax.vmap(table.MODEL.init))


def seeds_mesh():
    return Mesh(np.array(jax.devices()[:2]), ("seeds",), axis_types=(AxisType.Auto,))


def made(learner: Learner, mesh=None, chunk=CHUNK):
    return loop.program(learner, samplers.with_replacement(FAMILY, USERS), chunk=chunk, mesh=mesh)


def failing(after: int) -> Learner:
    """MAML whose losses become NaN once it has taken ``after`` steps, for the second seed of ``ROOTS`` alone."""
    learner = table.learners.maml(table.LOSS, SMALLER, optax.sgd(0.02), aggregator=table.aggregate.mean())

    second = starts(ROOTS).shared["map"][1, 0, 0]

    def init(params, examples):
        doomed = params.shared["map"][0, 0] == second
        return {"of": learner.init(params, examples), "count": jnp.int32(0), "doomed": doomed}

    def update(state, sources, key):
        after_it, scores, info = learner.update(state["of"], sources, key)
        bad = state["doomed"] & (state["count"] >= after)
        scores = {"fresh": {"losses": jnp.where(bad, jnp.nan, scores["fresh"]["losses"])}}
        return {"of": after_it, "count": state["count"] + 1, "doomed": state["doomed"]}, scores, info

    return learner._replace(init=init, update=update, params=lambda state: learner.params(state["of"]))


@functools.cache
def maml(chunk=CHUNK):
    """The program of MAML, compiled once for all tests of this file; from ``ROOTS`` it fails after 4 steps."""
    return made(failing(after=4), chunk=chunk)


def whole_learner():
    """MAML with a memory and a penalty that draws random numbers and has a state."""
    penalty = table.penalties.ewc(table.OBJECTIVE, table.MODEL.apply, SMALLER, 5.0, decay=0.5, draws=2, exact=False)
    return table.replayed(table.memory.reservoir(6), table.maml(SMALLER, penalty=penalty))


@functools.cache
def whole():
    """The program of MAML with all parts, compiled once, and how often each of its functions was traced."""
    learner, traced = counted(whole_learner())
    return made(learner), traced


@functools.cache
def on_two_devices():
    """The program of MAML with its users on two devices."""
    spread = table.aggregate.sharded(table.aggregate.clipped(0.5), table.mesh())
    return made(table.maml(LOOP, aggregator=spread), table.mesh())


def loss_by_the_step():
    return made(table.cases()["learner: maml_plus_plus"]())


def one_after_the_other():
    return made(table.cases()["learner: serial"]())


def begun(compiled, roots=ROOTS, window=(0, 0)):
    """State and keys where the program expects them."""
    state = compiled.init(starts(roots), FAMILY.data(window, 0, 0))
    return place(state, compiled.mesh, by_seed=True), place(roots, compiled.mesh, by_seed=True)


def fed(compiled, window):
    return place(FAMILY.data(window, 0, 0), compiled.mesh, by_seed=False)


def number(compiled, value):
    return place(np.int32(value), compiled.mesh, by_seed=False)


def through(compiled, state, roots, *, at=0, start=0, stop=STEPS, window=None, until=None):
    """The state after outer steps of period ``at``, or after the first chunk that reaches ``until``."""
    data = fed(compiled, window or (at, at))
    before = at * STEPS
    for told in loop.run(compiled, state, roots, lambda _: data, period=at, start=start, stop=stop, before=before):
        state = told.state
        if told.step == until:
            break
    return state


def ended(compiled, state, roots, at):
    return compiled.consolidate(state, roots, fed(compiled, (at, at)), number(compiled, (at + 1) * STEPS))


def two_periods(compiled, roots=ROOTS):
    state, roots = begun(compiled, roots)
    for at in range(2):
        state = ended(compiled, through(compiled, state, roots, at=at), roots, at)
    return state


def on_host(tree):
    return jax.tree.map(np.asarray, tree)


def distance(a, b):
    return world.distance(on_host(a), on_host(b))


def counted(learner: Learner) -> tuple[Learner, dict[str, int]]:
    """The learner with a count of how often each of its functions is traced."""
    traced = {"update": 0, "consolidate": 0}

    def wrap(name):
        def function(*arguments):
            traced[name] += 1
            return getattr(learner, name)(*arguments)

        return function

    return learner._replace(**{name: wrap(name) for name in traced}), traced


def test_all_windows_all_periods_and_a_masked_last_chunk_are_one_compilation():
    compiled, traced = whole()
    state, roots = begun(compiled)
    for at, window in ((0, (0, 0)), (1, (1, 1)), (2, (0, 2))):  # frozen, fine_tune, cumulative
        state = through(compiled, state, roots, at=at, window=window)
        state = ended(compiled, state, roots, at)
    assert compiled.chunk._cache_size() == compiled.consolidate._cache_size() == compiled.init._cache_size() == 1
    assert traced["consolidate"] == 1
    once = traced["update"]
    through(compiled, state, roots, at=1, start=3, stop=5)
    assert traced["update"] == once and compiled.chunk._cache_size() == 1


@pytest.mark.parametrize("stop", [1, 3, 7, 8])
def test_a_period_is_as_many_dispatches_as_chunks(stop):
    compiled, calls = maml(), []
    watched = compiled._replace(chunk=lambda *arguments: calls.append(1) or compiled.chunk(*arguments))
    state, roots = begun(compiled, SOUND)
    through(watched, state, roots, stop=stop)
    assert len(calls) == -(-stop // CHUNK)


def test_a_masked_last_chunk_stops_exactly_where_it_should():
    state, roots = begun(maml(), SOUND)
    cut = through(maml(), state, roots, stop=STEPS)
    at_once = through(maml(chunk=STEPS), state, roots, stop=STEPS)
    assert distance(cut, at_once) < 1e-12
    one_less = through(maml(), state, roots, stop=STEPS - 1)
    assert distance(cut, one_less) > 1e-6


def test_what_is_reported_has_one_row_a_seed_and_one_column_a_step():
    compiled = maml()
    state, roots = begun(compiled, SOUND)
    data = fed(compiled, (0, 0))
    told = list(loop.run(compiled, state, roots, lambda _: data, period=0, start=0, stop=STEPS))
    assert [one.step for one in told] == [3, 6, 7]
    assert [one.infos["loss"].shape for one in told] == [(SEEDS, 3), (SEEDS, 3), (SEEDS, 1)]
    assert {"loss", "grad_norm", "penalty"} <= told[0].infos.keys() and "finite" not in told[0].infos


def test_seeds_together_on_two_devices_or_one_are_seeds_alone():
    spread = two_periods(made(whole_learner(), seeds_mesh()))
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(spread)} == {2}
    together = two_periods(whole()[0])
    assert distance(spread, together) < 1e-10
    single = whole.__wrapped__()[0]
    alone = [two_periods(single, ROOTS[seed : seed + 1]) for seed in range(SEEDS)]
    assert distance(together, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *alone)) < 1e-10
    assert distance(*alone) > 1e-3


def test_users_on_two_devices_are_users_on_one():
    alone = made(table.maml(LOOP, aggregator=table.aggregate.clipped(0.5)))
    assert distance(two_periods(on_two_devices()), two_periods(alone)) < 1e-10


# Every member's state resumes at the end of a period in the next test, these learners in the middle of one.
@pytest.mark.parametrize(
    ("program", "again", "stop_in", "until"),
    [
        pytest.param(lambda: whole()[0], lambda: whole.__wrapped__()[0], 1, 3, id="all parts"),
        pytest.param(on_two_devices, on_two_devices, 0, 6, id="users on two devices"),
        pytest.param(loss_by_the_step, loss_by_the_step, 0, 3, id="loss by the step"),
        pytest.param(one_after_the_other, one_after_the_other, 1, 6, id="users one after the other"),
    ],
)
def test_a_period_resumes_from_the_disk_bit_for_bit(program, again, stop_in, until, tmp_path):
    compiled = program()
    uncut = on_host(two_periods(compiled))

    state, roots = begun(compiled)
    if stop_in == 1:
        state = ended(compiled, through(compiled, state, roots, at=0), roots, 0)
    state = through(compiled, state, roots, at=stop_in, until=until)
    store.save_checkpoint(tmp_path, until, (state, roots), {})
    del compiled, state, roots

    fresh = again()
    like = begun(fresh)
    (state, roots), _ = store.load_checkpoint(tmp_path, until, like=like)
    assert distance(state, like[0]) > 0  # or the test would pass on a checkpoint of nothing
    for at in range(stop_in, 2):
        start = until if at == stop_in else 0
        state = ended(fresh, through(fresh, state, roots, at=at, start=start), roots, at)
    assert distance(state, uncut) == 0.0


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.xdist_group(one)) for one in table.named()])
def test_the_state_of_every_member_resumes_from_the_disk_bit_for_bit(name, tmp_path):
    run, uncut = short_run.of(name), short_run.after_two_periods(name)  # compiled for the contracts, on the same worker
    like, saved = run.start(), run.through(run.start(), periods=range(1))
    store.save_checkpoint(tmp_path, 1, saved, {})
    state, _ = store.load_checkpoint(tmp_path, 1, like=like)
    assert distance(state, saved) == 0.0 < distance(state, like)
    assert distance(run.through(run.place(state), periods=range(1, 2)), uncut) == 0.0
    assert run.traced["update"] == 1


def test_a_loss_that_is_no_number_stops_with_period_step_seed_and_the_last_good_state():
    compiled = maml()
    state, roots = begun(compiled)
    with pytest.raises(
        loop.Diverged, match="step 4 of period 1, seed 1; the last good state is that of step 3"
    ) as error:
        through(compiled, state, roots, at=1)
    good = through(compiled, state, roots, at=1, until=3)
    assert error.value.step == 3 and distance(error.value.state, good) == 0.0


def test_a_loss_that_is_no_number_behind_the_mask_of_the_last_chunk_stops_nothing():
    compiled = maml()
    state, roots = begun(compiled)
    assert int(through(compiled, state, roots, stop=4)["count"][0]) == 4


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="chunk must be >= 1, got -2"):
        loop.program(table.maml(), samplers.with_replacement(FAMILY, 2), chunk=-2)
    with pytest.raises(ValueError, match="users must be >= 1, got 0"):
        samplers.with_replacement(FAMILY, 0)
