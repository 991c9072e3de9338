"""Kernels on inputs that never change, moved through their outputs: the same numbers as the plain steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from benchmarks import leads
from metapers import base, inner, keys
from metapers.base import Batch, Params
from metapers.inner import dual
from tests.contracts import world

pytestmark = pytest.mark.xdist_group("dual")  # the tests share programs

STEPS, ROWS, INSIDE, WIDTH = 4, 5, 12, 8


def net(params, batch, key):
    """Shared features, a wide kernel on them in dual form, a second kernel and biases that are not."""
    features = jnp.tanh(batch.inputs @ params.shared["map"])
    hidden = jnp.tanh(features @ params.personal["wide"] + params.personal["bias"][None])
    return jnp.sum(jnp.square(hidden @ params.personal["last"] - batch.targets), -1)


@jax.jit
def drawn(seed):
    k = jax.random.split(keys.root(seed))
    return jax.random.normal(k[0], (ROWS, 3)), jax.random.normal(k[1], (ROWS, 2))


def task(seed=0, mask=(True,) * ROWS):
    return Batch(*drawn(seed), jnp.array(mask))


@functools.cache
def beginning():
    def begin():
        k = jax.random.split(keys.root(7), 4)
        personal = {
            "wide": 0.5 * jax.random.normal(k[0], (INSIDE, WIDTH)),
            "bias": 0.1 * jax.random.normal(k[1], (WIDTH,)),
            "last": 0.5 * jax.random.normal(k[2], (WIDTH, 2)),
        }
        return Params({"map": jax.random.normal(k[3], (3, INSIDE))}, personal, {})

    return jax.jit(begin)()


def start(rates=None):
    params = beginning()
    return params if rates is None else params._replace(inner=rates.init(params.personal))


def by_hand(params, support, *, first_order=False):
    """The steps as they are written in any textbook: every kernel moved by its own gradient."""

    def mean(personal):
        return base.masked_mean(net(params._replace(personal=personal), support, None), support.mask)

    personal, path = params.personal, [params.personal]
    for step in range(STEPS):
        slope = jax.grad(mean)(personal)
        slope = jax.lax.stop_gradient(slope) if first_order else slope
        rates = params.inner["step_rates"] if params.inner else dict.fromkeys(personal, [0.1] * STEPS)
        personal = {name: personal[name] - rates[name][step] * slope[name] for name in personal}
        path.append(personal)
    return personal, jax.tree.map(lambda *x: jnp.stack(x), *path)


def outer(adapt):
    """(params, support) -> the query loss after adaptation, the path, and the gradient by all parameters, compiled."""

    def value(params, support, query):
        personal, path = adapt(params, support)
        return jnp.mean(net(params._replace(personal=personal), query, None)), path

    program = jax.jit(jax.value_and_grad(value, has_aux=True))
    return lambda params, support: program(params, support, task(9))


def dual_leaves(params, support, steps=STEPS, **options):
    """How many kernels the loop takes in dual form: the sums of errors that its scan carries."""
    loop = inner.gradient(net, steps, **{"rate": 0.1, **options})
    seen, whole = [], dual.descent

    def watched(*arguments, **named):
        seen.append(whole(*arguments, **named))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dual, "descent", watched)
        jax.eval_shape(loop.adapt, params, support, None)
    return len(seen[-1].begin.errors)


RATES = inner.per_step(0.1, STEPS)


@functools.cache
def outer_by_hand(first_order):
    return outer(functools.partial(by_hand, first_order=first_order))


@functools.cache
def outer_of(first_order, **choice):
    loop = inner.gradient(net, STEPS, RATES, first_order=first_order, **choice)

    def adapt(params, support):
        adapted, path = loop.adapt(params, support, None)
        return adapted.personal, path

    return outer(adapt)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("choice", [{}, {"unroll": STEPS}, {"remat": True}, {"mixed": True}])
def test_path_and_meta_gradient_are_those_of_the_plain_steps(choice, first_order):
    params = start(RATES)
    for mask in ((True,) * ROWS, (True, True, False, True, False)):
        support = task(mask=mask)
        assert dual_leaves(params, support, rate=RATES) == 1
        ours, plain = (of(params, support) for of in (outer_of(first_order, **choice), outer_by_hand(first_order)))
        assert world.distance(ours, plain) < 1e-12


def test_first_order_differs_from_second_in_dual_form_too():
    slopes = [outer_of(first_order)(start(RATES), task())[1].personal["wide"] for first_order in (False, True)]
    assert world.distance(*slopes) > 1e-3


def test_padded_examples_change_nothing():
    keep = np.array([True, True, False, True, False])
    padded, params = task(mask=keep), start(RATES)
    padded = padded._replace(inputs=jnp.asarray(np.where(keep[:, None], padded.inputs, 50.0)))
    known = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[keep]), padded)
    assert dual_leaves(params, padded, rate=RATES) == dual_leaves(params, known, rate=RATES) == 1
    assert world.distance(outer_of(False)(params, padded), outer_of(False)(params, known)) < 1e-12


def test_users_mapped_and_over_two_devices_are_users_alone():
    users = jax.tree.map(lambda *x: np.stack(x), *[task(seed) for seed in range(4)])
    loop = inner.gradient(net, STEPS, 0.1)

    def total(params, users):
        adapted = jax.vmap(lambda user: loop.adapt(params, user, None)[0])(users)
        return jnp.sum(
            jax.vmap(lambda personal: net(params._replace(personal=personal), task(9), None))(adapted.personal)
        )

    mesh = jax.make_mesh((2,), ("users",), axis_types=(AxisType.Auto,))
    parts = jax.shard_map(
        lambda params, users: jax.lax.psum(total(params, users), "users"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("users")),
        out_specs=PartitionSpec(),
    )
    steps = jax.jit(by_hand)
    alone = [steps(start(), task(seed))[0] for seed in range(4)]
    mapped = jax.jit(jax.vmap(lambda user: loop.adapt(start(), user, None)[0].personal))(users)
    assert world.distance(mapped, jax.tree.map(lambda *x: np.stack(x), *alone)) < 1e-12
    here, there = (jax.jit(jax.value_and_grad(fn))(start(), users) for fn in (total, parts))
    assert world.distance(here, there) < 1e-12


def test_no_step_touches_the_kernel_forwards_or_backwards():
    def loops(rate):
        params = start(rate)
        value = lambda params: jnp.sum(
            net(inner.gradient(net, STEPS, rate).adapt(params, task(), None)[0], task(9), None)
        )
        program = jax.make_jaxpr(jax.grad(value))(params)
        return [str(each) for each in program.eqns if each.primitive.name == "scan"]

    kernel, taken, left = f"[{INSIDE},{WIDTH}]", loops(inner.per_step(0.1, STEPS)), loops(inner.per_parameter(0.1))
    assert len(taken) == len(left) == 2  # there and back
    assert not any(kernel in text for text in taken) and all(kernel in text for text in left)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"rate": inner.per_parameter(0.1)}, STEPS),  # a rate of its own for each number
        ({"rate": inner.log_per_parameter(0.1)}, STEPS),
        ({"proximal_weight": 0.5}, STEPS),  # the pull reads the kernel as well
        ({}, 1),  # one step costs more so
    ],
)
def test_left_as_it_is_where_impossible_or_dearer(options, steps):
    rates = options.get("rate")
    params = start(rates)
    assert dual_leaves(params, task(), steps, **options) == 0


def test_left_as_it_is_with_more_rows_than_the_kernel_has():
    many = jax.tree.map(lambda x: np.concatenate([x] * 6), task())
    assert dual_leaves(start(), task()) == 1 and dual_leaves(start(), many) == 0


def test_the_lead_of_the_benchmark_switches_it_off(monkeypatch):
    monkeypatch.setattr(dual, "cheaper", lambda equation, steps: False)  # as ours.py --primal does
    assert dual_leaves(start(), task()) == 0
    assert "--primal" in leads.command("W3-adapt", leads.PRIMAL)


def found(loss, personal, others, steps=50):
    rates = jax.tree.map(lambda _: 0.1, personal)
    return len(dual.descent(loss, personal, others, rates, steps).begin.errors)


def test_a_kernel_read_twice_or_by_a_moving_input_is_none():
    wide, x = jnp.ones((20, 20)), jnp.ones((2, 20))
    assert found(lambda w, x: jnp.sum(x @ w), wide, x) == 1
    assert found(lambda w, x: jnp.sum(x @ w) + jnp.sum(w), wide, x) == 0
    assert found(lambda w, x: jnp.sum(x @ w @ w), wide, x) == 0
    assert found(lambda w, x: jnp.sum((x @ w["a"]) @ w["b"]), {"a": wide, "b": wide}, x) == 1  # b's input moves
    assert found(lambda w, x: jnp.sum(w @ x.T), wide, x) == 0  # on the other side
    assert found(lambda w, x: jnp.sum(jnp.einsum("ni,oi->no", x, w)), wide, x) == 0  # transposed
    assert found(lambda w, x: jnp.sum(x @ w), jnp.ones((3, 20, 20)), jnp.ones((3, 2, 20))) == 0  # one for each batch
    assert found(lambda w, x: jnp.sum(jnp.square(x @ w)), wide, jnp.ones((2, 1, 20))) == 1


def test_inputs_of_several_axes_are_rows():
    def windows(params, batch, key):
        return jnp.sum(jnp.square(jnp.tanh(batch.inputs @ params.personal["w"]) - batch.targets[..., None]), (1, 2))

    rng = np.random.default_rng(3)
    inputs, targets, w = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 3, 32), (2, 3), (32, 9)))
    support, params = Batch(inputs, targets, jnp.array([True, True])), Params({}, {"w": 0.2 * w}, {})
    assert found(lambda p, x: jnp.sum(jnp.tanh(x @ p["w"])), params.personal, support.inputs, 3) == 1
    adapted = jax.jit(inner.gradient(windows, 3, 0.05).adapt)(params, support, None)[0].personal["w"]
    slope = jax.jit(jax.grad(lambda w: jnp.mean(windows(params._replace(personal={"w": w}), support, None))))
    w = params.personal["w"]
    for _ in range(3):
        w = w - 0.05 * slope(w)
    assert world.distance(adapted, w) < 1e-12
