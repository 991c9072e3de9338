"""Adaptation by optax optimizers: plain descent to the bit, Adam and clips by hand, derivatives by differences."""

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

KEY = jax.random.key(0)


def rmsprop(rate=0.2, eps_root=1e-8):
    """Adam as Reptile uses it inside."""
    return optax.adam(rate, b1=0.0, eps_root=eps_root)


def mean_then_zero(params, support, key):
    return jax.tree.map(lambda x: x + base.masked_mean(support.targets, support.mask), params.personal)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"first_order": True},
        {"pseudo_count": 2.0},
        {"proximal_weight": 1.5, "pseudo_count": 1.0},
        {"write": mean_then_zero},
    ],
)
@pytest.mark.parametrize("key", [None, KEY])
def test_plain_descent_is_the_gradient_loop_to_the_bit(options, key):
    plain = inner.gradient(problems.rough, 3, 0.2, **options)
    loop = inner.optimized(problems.rough, 3, optax.sgd(0.2), **options)
    params, support, query = problems.rough_params(plain), problems.rough_task(), problems.rough_task(4, 7)
    assert world.distance(adapt(loop, params, support, key), adapt(plain, params, support, key)) == 0.0
    slopes = [slope_after(one, problems.rough, support, query, params, key)[1] for one in (loop, plain)]
    assert world.distance(*slopes) < 1e-15
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
    "optimizer", [rmsprop(), optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.5, momentum=0.5))]
)
@pytest.mark.parametrize("key", [None, KEY])
def test_meta_gradient_equals_finite_differences(optimizer, key):
    loop = inner.optimized(problems.rough, 3, optimizer, pseudo_count=1.0, proximal_weight=0.3)
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
    def slope(**options):
        eps_root = options.pop("eps_root")
        loop = inner.optimized(dead, 2, rmsprop(0.1, eps_root), **options)
        whole = problems.after(loop, problems.bowl, problems.bowl_task(), problems.bowl_task())
        return whole, jax.jit(jax.grad(whole))(problems.bowl_params(loop)).personal["theta"]

    assert not np.isfinite(slope(eps_root=0.0)[1]).all()
    value, finite = slope(eps_root=1e-8)
    loop = inner.optimized(dead, 2, rmsprop(0.1))
    expected = problems.finite_differences(value, problems.bowl_params(loop)).personal["theta"]
    np.testing.assert_allclose(finite, expected, rtol=1e-5)
    # first order: the moved start, no derivative of the steps
    adapted, _ = adapt(loop, problems.bowl_params(loop), problems.bowl_task())
    np.testing.assert_allclose(
        slope(eps_root=0.0, first_order=True)[1], adapted.personal["theta"] - problems.MEAN, rtol=1e-6
    )


def test_a_clip_has_a_derivative_where_the_gradient_is_exactly_zero():
    at_rest = problems.bowl_task()
    at_rest = at_rest._replace(targets=jnp.array([problems.START] * 4))  # nothing to descend

    def slope(link):
        loop = inner.optimized(problems.bowl, 2, optax.chain(link, optax.sgd(0.5)))
        params = problems.bowl_params(loop)
        return slope_after(loop, problems.bowl, at_rest, problems.bowl_task(), params)[1].personal["theta"]

    assert np.isnan(slope(optax.clip_by_global_norm(10.0))).all()
    np.testing.assert_allclose(slope(clip(10.0)), slope(optax.identity()), rtol=1e-12)


@pytest.mark.parametrize("size", [0.5, 100.0])
def test_a_clip_is_optax_clip_elsewhere_its_derivative_too(size):
    def value(link):
        loop = inner.optimized(problems.rough, 3, optax.chain(link, optax.sgd(0.5)))
        params, query = problems.rough_params(loop), problems.rough_task(4, 7)
        return slope_after(loop, problems.rough, problems.rough_task(), query, params)

    assert world.distance(value(clip(size)), value(optax.clip_by_global_norm(size))) < 1e-13


@pytest.mark.parametrize("optimizer", [rmsprop(), optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.5)),
                                       optax.adamw(0.1, eps_root=1e-8, weight_decay=0.1)])  # fmt: skip
def test_a_user_without_support_keeps_the_start_and_its_derivative(optimizer):
    loop = inner.optimized(problems.bowl, 3, optimizer)
    empty = problems.bowl_task((False,) * 4)
    adapted, path = adapt(loop, problems.bowl_params(loop), empty)
    assert (path["theta"] == problems.START[None]).all() and (adapted.personal["theta"] == problems.START).all()
    _, slope = slope_after(loop, problems.bowl, empty, problems.bowl_task(), problems.bowl_params(loop))
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


@pytest.mark.parametrize("minibatch", [0, 1, 3])
@pytest.mark.parametrize("weights", [{"proximal_weight": 1.0}, {"pseudo_count": 2.0, "proximal_weight": 0.5}])
def test_the_prior_fades_with_the_examples_a_user_has_and_not_with_those_of_a_step(minibatch, weights):
    loop = inner.optimized(problems.bowl, 200, optax.sgd(0.2), minibatch=minibatch, **weights)
    support = problems.bowl_task()
    same = support._replace(targets=jnp.array([problems.MEAN] * 4))  # whatever a step draws
    adapted, _ = adapt(loop, problems.bowl_params(loop), same)
    n, pull = len(support.targets), 2 * weights["proximal_weight"]
    expected = (n * problems.MEAN + pull * problems.START) / (n + pull)
    np.testing.assert_allclose(adapted.personal["theta"], expected, rtol=1e-10)


@pytest.mark.parametrize("minibatch", [4, 9])
def test_a_minibatch_of_all_is_the_whole_support(minibatch):
    loops = [inner.optimized(problems.bowl, 3, rmsprop(), minibatch=size) for size in (0, minibatch)]
    whole, same = (adapt(loop, problems.bowl_params(loop), problems.bowl_task(), KEY) for loop in loops)
    assert world.distance(whole, same) == 0.0
    few = problems.bowl_task((True, True, False, True))
    whole, same = (adapt(loop, problems.bowl_params(loop), few, KEY) for loop in loops)
    assert world.distance(whole, same) < 1e-15


def test_of_fewer_than_a_minibatch_each_counts_once():
    loops = [inner.optimized(problems.bowl, 3, rmsprop(), minibatch=size) for size in (0, 3)]
    two = problems.bowl_task((True, False, False, True))  # of three rows, one would be the first of them again
    whole, same = (adapt(loop, problems.bowl_params(loop), two, KEY) for loop in loops)
    assert world.distance(whole, same) < 1e-15


@pytest.mark.parametrize("minibatch", [2, 4])
@pytest.mark.parametrize("key", [None, KEY])
def test_padding_changes_no_minibatch(minibatch, key):
    loop = inner.optimized(problems.bowl, 5, rmsprop(), minibatch=minibatch)
    both = (problems.bowl_task(), padded(problems.bowl_task(), 3))
    adapted = [adapt(loop, problems.bowl_params(loop), task, key) for task in both]
    assert world.distance(*adapted) < 1e-14


def test_the_meta_gradient_through_minibatches_equals_finite_differences():
    loop = inner.optimized(problems.rough, 3, rmsprop(), minibatch=2, proximal_weight=0.3)
    value = problems.after(loop, problems.rough, problems.rough_task(), problems.rough_task(4, 7), KEY)
    params = problems.rough_params(loop)
    assert world.distance(jax.jit(jax.grad(value))(params), problems.finite_differences(value, params)) < 1e-7


def by_seen_norms(rate):
    """Divides by the norms seen so far: a state that is one number, alike for all users only at first."""

    def update(updates, state, params=None):
        state = state + optax.tree.norm(updates)
        return jax.tree.map(lambda g: -rate * g / state, updates), state

    return optax.GradientTransformation(lambda params: jnp.ones(()), update)


@pytest.mark.parametrize(("optimizer", "minibatch"), [(rmsprop(), 0), (by_seen_norms(0.5), 0), (optax.sgd(0.1), 2)])
def test_users_mapped_are_users_in_a_loop_and_over_two_devices(optimizer, minibatch):
    problems.assert_users_are_apart(inner.optimized(problems.rough, 3, optimizer, minibatch=minibatch), KEY)


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
