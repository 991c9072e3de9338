"""Adaptation by optax optimizers: plain descent to the bit, Adam and clips by hand, derivatives by differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapers import base, inner
from metapers.inner.optimized import clip
from metapers.inner.support_loss import turn
from tests import inner_problems as problems
from tests.contracts import world
from tests.inner_problems import adapt, padded, slope_after

pytestmark = pytest.mark.xdist_group("optimized")  # tests of minibatches share programs

KEY = jax.random.key(0)


def rmsprop(rate=0.2, eps_root=1e-8):
    """Adam as Reptile uses it inside."""
    return optax.adam(rate, b1=0.0, eps_root=eps_root)


def mean_then_zero(params, support, key):
    return jax.tree.map(lambda x: x + base.masked_mean(support.targets, support.mask), params.personal)


def found(loop, loss_fn, support, query, params, key=None):
    """What the loop makes of the support, and the gradient of the query loss after it: one program."""

    def value(params):
        adapted, path = loop.adapt(params, support, key)
        return base.masked_mean(loss_fn(adapted, query, None), query.mask), (adapted, path)

    slope, made = jax.jit(jax.grad(value, has_aux=True))(params)
    return made, slope


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, KEY),
        ({"first_order": True}, None),
        ({"proximal_weight": 1.5, "pseudo_count": 1.0}, KEY),
        ({"write": mean_then_zero}, KEY),
    ],
)
def test_plain_descent_is_the_gradient_loop_to_the_bit(options, key):
    plain = inner.gradient(problems.rough, 3, 0.2, **options)
    loop = inner.optimized(problems.rough, 3, optax.sgd(0.2), **options)
    params, support, query = problems.rough_params(plain), problems.rough_task(), problems.rough_task(4, 7)
    (ours, our_slope), (theirs, slope) = (
        found(one, problems.rough, support, query, params, key) for one in (loop, plain)
    )
    assert world.distance(ours, theirs) == 0.0
    assert world.distance(our_slope, slope) < 1e-15
    assert loop.init(params) == {}


def test_two_steps_of_adam_by_hand():
    loop = inner.optimized(problems.bowl, 2, optax.adam(0.1, b1=0.0, b2=0.9, eps=0.0, eps_root=0.01))
    _, path = adapt(loop, problems.bowl_params(loop), problems.bowl_task())
    first = np.array([2.0, -1.0]) - np.array([0.75, 1.0])
    one = np.array([2.0, -1.0]) - 0.1 * first / np.sqrt(first**2 + 0.01)
    second = one - np.array([0.75, 1.0])
    moment = (0.9 * 0.1 * first**2 + 0.1 * second**2) / (1 - 0.9**2)
    two = one - 0.1 * second / np.sqrt(moment + 0.01)
    np.testing.assert_allclose(path["theta"], np.stack([[2.0, -1.0], one, two]), rtol=1e-12)


def test_a_clip_is_of_a_users_whole_gradient():
    loop = inner.optimized(problems.bowl, 1, optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0)))
    adapted, _ = adapt(loop, problems.bowl_params(loop), problems.bowl_task())
    slope = np.array([1.25, -2.0])
    expected = np.array([2.0, -1.0]) - 0.5 * slope / np.linalg.norm(slope)
    np.testing.assert_allclose(adapted.personal["theta"], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "minibatch", "key"),
    [(rmsprop(), 2, KEY), (optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.5, momentum=0.5)), 0, None)],
)
def test_meta_gradient_equals_finite_differences(optimizer, minibatch, key):
    loop = inner.optimized(problems.rough, 3, optimizer, pseudo_count=1.0, proximal_weight=0.3, minibatch=minibatch)
    value = problems.after(loop, problems.rough, problems.rough_task(), problems.rough_task(4, 7), key)
    params = problems.rough_params(loop)
    slope = jax.jit(jax.grad(value))(params)
    assert world.distance(slope, problems.finite_differences(value, params)) < 1e-7
    assert all(np.all(np.abs(leaf) > 1e-7) for leaf in jax.tree.leaves(slope))


def dead(params, batch, key):
    """The second number of theta meets inputs of 0: its gradient is exactly 0."""
    theta = params.personal["theta"]
    return 0.5 * jnp.square(theta[0] + theta[1] * batch.inputs[:, 0] - batch.targets[:, 0])


def test_an_exactly_zero_gradient_needs_eps_root_at_second_order():
    def value(theta, eps_root, first_order=False):
        loop = inner.optimized(dead, 2, rmsprop(0.1, eps_root), first_order=first_order)
        adapted, _ = loop.adapt(base.Params({}, {"theta": theta}, {}), problems.bowl_task(), None)
        return jnp.mean(problems.bowl(adapted, problems.bowl_task(), None)), adapted.personal["theta"]

    theta = np.asarray(problems.START)
    slope = jax.jit(jax.grad(value, has_aux=True), static_argnums=2)
    assert not np.isfinite(slope(theta, 0.0)[0]).all()
    expected = problems.finite_differences(lambda theta: value(theta, 1e-8)[0], theta)
    np.testing.assert_allclose(slope(theta, 1e-8)[0], expected, rtol=1e-5)
    # first order: the moved start, no derivative of the steps
    finite, _ = slope(theta, 0.0, True)
    np.testing.assert_allclose(finite, slope(theta, 1e-8)[1] - problems.MEAN, rtol=1e-6)


def test_a_clip_has_a_derivative_where_the_gradient_is_exactly_zero():
    at_rest = problems.bowl_task()
    at_rest = at_rest._replace(targets=jnp.array([problems.START] * 4))  # nothing to descend

    def slope(link):
        loop = inner.optimized(problems.bowl, 2, optax.chain(link, optax.sgd(0.5)))
        params = problems.bowl_params(loop)
        return slope_after(loop, problems.bowl, at_rest, problems.bowl_task(), params)[1].personal["theta"]

    assert np.isnan(slope(optax.clip_by_global_norm(10.0))).all()
    np.testing.assert_allclose(slope(clip(10.0)), slope(optax.identity()), rtol=1e-12)


def test_a_clip_is_optax_clip_elsewhere_its_derivative_too():
    query = problems.rough_task(4, 7)

    def value(params, size, link):
        loop = inner.optimized(problems.rough, 3, optax.chain(link(size), optax.sgd(0.5)))
        return problems.after(loop, problems.rough, problems.rough_task(), query)(params)

    @jax.jit
    def both(params, size):
        return [jax.value_and_grad(value)(params, size, link) for link in (clip, optax.clip_by_global_norm)]

    params = problems.rough_params(inner.none())
    ours = {size: both(params, size) for size in (0.5, 100.0)}  # one that clips and one that does not
    for one, other in ours.values():
        assert world.distance(one, other) < 1e-13
    assert world.distance(ours[0.5][0], ours[100.0][0]) > 1e-6


@pytest.mark.parametrize("optimizer", [rmsprop(), optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.5)),
                                       optax.adamw(0.1, eps_root=1e-8, weight_decay=0.1)])  # fmt: skip
def test_a_user_without_support_keeps_the_start_and_its_derivative(optimizer):
    loop = inner.optimized(problems.bowl, 3, optimizer)
    empty = problems.bowl_task((False,) * 4)
    (adapted, path), slope = found(loop, problems.bowl, empty, problems.bowl_task(), problems.bowl_params(loop))
    assert (path["theta"] == problems.START[None]).all() and (adapted.personal["theta"] == problems.START).all()
    np.testing.assert_allclose(slope.personal["theta"], problems.START - problems.MEAN, rtol=1e-12)


def test_padding_changes_nothing():
    loop = inner.optimized(problems.rough, 3, rmsprop())
    params, support = problems.rough_params(loop), problems.rough_task(3)
    assert world.distance(adapt(loop, params, padded(support, 2)), adapt(loop, params, support)) < 1e-15


@pytest.mark.parametrize("key", [None, KEY])
def test_a_minibatch_is_the_next_of_the_support_and_all_come_before_one_comes_again(key):
    loop = inner.optimized(problems.bowl, 8, optax.sgd(1.0), minibatch=1)  # a step of 1 lands on the example
    _, path = adapt(loop, problems.bowl_params(loop), problems.bowl_task((True, False, True, True)), key)
    centres = np.asarray(problems.CENTRES)[[0, 2, 3]]
    seen = [int(np.flatnonzero(np.abs(centres - at).max(-1) < 1e-12)[0]) for at in np.asarray(path["theta"])[1:]]
    assert sorted(seen[:3]) == [0, 1, 2] and seen == (seen[:3] * 3)[:8]
    if key is None:
        assert seen[:3] == [0, 1, 2]
    order_of = lambda seed: turn(problems.bowl_task(), 3, jnp.asarray(0), jax.random.key(seed)).targets
    orders = np.asarray(jax.jit(jax.vmap(order_of))(np.arange(20)))
    assert all(len(np.unique(order, axis=0)) == 3 for order in orders)
    assert len({order.tobytes() for order in orders}) > 5


def test_a_step_is_the_mean_of_its_minibatch_for_the_whole_support():
    loop = inner.optimized(problems.bowl, 2, optax.sgd(0.5), minibatch=3, pseudo_count=1.0)
    _, path = adapt(loop, problems.bowl_params(loop), problems.bowl_task())
    share = 0.5 * 4 / (4 + 1)  # of the way to a minibatch's mean: four examples and one of no loss
    start, centres = np.asarray(problems.START), np.asarray(problems.CENTRES)
    first = start + share * (centres[:3].mean(0) - start)
    second = first + share * (centres[[3, 0, 1]].mean(0) - first)
    np.testing.assert_allclose(path["theta"], np.stack([start, first, second]), rtol=1e-12)


@pytest.mark.parametrize(
    ("minibatch", "weights"),
    [
        (0, {"pseudo_count": 2.0, "proximal_weight": 0.5}),
        (1, {"proximal_weight": 1.0}),
        (3, {"pseudo_count": 2.0, "proximal_weight": 0.5}),
    ],
)
def test_the_prior_fades_with_the_examples_a_user_has_and_not_with_those_of_a_step(minibatch, weights):
    loop = inner.optimized(problems.bowl, 200, optax.sgd(0.2), minibatch=minibatch, **weights)
    support = problems.bowl_task()
    same = support._replace(targets=jnp.array([problems.MEAN] * 4))  # whatever a step draws
    adapted, _ = adapt(loop, problems.bowl_params(loop), same)
    n, pull = len(support.targets), 2 * weights["proximal_weight"]
    expected = (n * problems.MEAN + pull * problems.START) / (n + pull)
    np.testing.assert_allclose(adapted.personal["theta"], expected, rtol=1e-10)


@functools.cache
def by_minibatches(size):
    """Three steps of Adam on minibatches of the bowl."""
    return inner.optimized(problems.bowl, 3, rmsprop(), minibatch=size)


def of_minibatches(size, task, key=KEY):
    return adapt(by_minibatches(size), problems.bowl_params(inner.none()), task, key)


@pytest.mark.parametrize("minibatch", [4, 9])
def test_a_minibatch_of_all_is_the_whole_support(minibatch):
    assert world.distance(*(of_minibatches(size, problems.bowl_task()) for size in (0, minibatch))) == 0.0
    few = problems.bowl_task((True, True, False, True))
    assert world.distance(*(of_minibatches(size, few) for size in (0, minibatch))) < 1e-15


def test_of_fewer_than_a_minibatch_each_counts_once():
    two = problems.bowl_task((True, False, False, True))  # of three rows, one would be the first of them again
    assert world.distance(*(of_minibatches(size, two) for size in (0, 3))) < 1e-15


@pytest.mark.parametrize(("minibatch", "key"), [(2, None), (2, KEY), (4, KEY)])
def test_padding_changes_no_minibatch(minibatch, key):
    both = (problems.bowl_task(), padded(problems.bowl_task(), 3))
    assert world.distance(*(of_minibatches(minibatch, task, key) for task in both)) < 1e-14


def by_seen_norms(rate):
    """Divides by the norms seen so far: a state that is one number, alike for all users only at first."""

    def update(updates, state, params=None):
        state = state + optax.tree.norm(updates)
        return jax.tree.map(lambda g: -rate * g / state, updates), state

    return optax.GradientTransformation(lambda params: jnp.ones(()), update)


def test_users_mapped_are_users_in_a_loop_and_over_two_devices():
    problems.assert_users_are_apart(inner.optimized(problems.rough, 3, by_seen_norms(0.5), minibatch=2), KEY)


def test_no_steps_give_the_start():
    loop = inner.optimized(problems.bowl, 0, rmsprop())
    adapted, path = adapt(loop, problems.bowl_params(loop), problems.bowl_task())
    assert (path["theta"] == problems.START[None]).all() and (adapted.personal["theta"] == problems.START).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"minibatch": -3}, "minibatch must be >= 0, got -3"),
        ({"pseudo_count": -0.5}, "pseudo_count must be finite and >= 0, got -0.5"),
        ({"proximal_weight": float("inf")}, "proximal_weight must be finite and >= 0, got inf"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        inner.optimized(problems.bowl, **{"steps": 1, "optimizer": rmsprop(), **arguments})
