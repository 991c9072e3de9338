"""The proximal inner problem: closed forms on the bowl, dense solves, agreement with unrolled steps, flat memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from metapers import base, inner
from tests import inner_problems as problems
from tests.contracts import world
from tests.inner_problems import adapt, slope_after

KEY = jax.random.key(0)
STRENGTH, RATE = 0.5, 0.3
START, MEAN = np.asarray(problems.START), np.asarray(problems.MEAN)
QUERY = base.Batch(jnp.array([[0.0]]), jnp.array([[5.0, 7.0]]), jnp.array([True]))


def loop_of(loss_fn=problems.bowl, steps=4, rate=RATE, strength=STRENGTH, **options):
    return inner.implicit(loss_fn, steps, optax.sgd(rate), strength=strength, **options)


def found(loop, loss_fn, support, query, params):
    """What the loop makes of the support, and the gradient of the query loss after it: one program."""

    def value(params):
        adapted, path = loop.adapt(params, support, None)
        return base.masked_mean(loss_fn(adapted, query, None), query.mask), (adapted, path)

    slope, made = jax.jit(jax.grad(value, has_aux=True))(params)
    return made, slope


@pytest.mark.parametrize("steps", [1, 4])
def test_path_and_meta_gradient_on_the_bowl_are_the_closed_form(steps):
    # argmin = (mean + strength start) / (1 + strength); the error falls by 1 - rate (1 + strength) a step.
    loop = loop_of(steps=steps, learn_strength=True)
    params = problems.bowl_params(loop)
    limit = (MEAN + STRENGTH * START) / (1 + STRENGTH)
    shrinking = (1 - RATE * (1 + STRENGTH)) ** np.arange(steps + 1.0)[:, None]
    expected = limit + shrinking * (START - limit)
    (adapted, path), slope = found(loop, problems.bowl, problems.bowl_task(), QUERY, params)
    np.testing.assert_allclose(path["theta"], expected, rtol=1e-12)
    np.testing.assert_allclose(adapted.personal["theta"], expected[-1], rtol=1e-12)
    # d argmin / d start = strength / (1 + strength), / d strength = -(argmin - start) / (1 + strength)
    gap = expected[-1] - np.array([5.0, 7.0])
    share = STRENGTH / (1 + STRENGTH)
    np.testing.assert_allclose(slope.personal["theta"], share * gap, rtol=1e-12)
    moved = np.sum(gap * (expected[-1] - START))
    np.testing.assert_allclose(slope.inner["log_strength"], -share * moved, rtol=1e-12)


def test_agreement_with_unrolled_steps_grows_with_their_number():
    support, query = problems.rough_task(), problems.rough_task(4, 7)

    def error(steps):
        loop = loop_of(problems.rough, steps, 0.15, 2.0)
        unrolled = inner.gradient(problems.rough, steps, 0.15, proximal_weight=2.0 * 5 / 2)
        made, slopes = zip(
            *(found(one, problems.rough, support, query, problems.rough_params(loop)) for one in (loop, unrolled))
        )
        assert world.distance(*(adapted for adapted, _ in made)) < 1e-14
        return world.distance(*slopes)

    errors = [error(steps) for steps in (2, 64)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 1e-3 and errors[-1] < 1e-9, errors


def test_meta_gradient_of_the_solution_equals_finite_differences():
    loop = loop_of(problems.rough, 100, 0.15, 2.0, learn_strength=True, write=lambda params, support, key: jax.tree.map(
        lambda x: x * params.shared["map"][0, 0] + support.targets[0], params.personal))  # fmt: skip
    value = problems.after(loop, problems.rough, problems.rough_task(), problems.rough_task(4, 7), KEY)
    params = problems.rough_params(loop)
    slope = jax.jit(jax.grad(value))(params)
    assert world.distance(slope, problems.finite_differences(value, params)) < 1e-8
    assert all(np.all(np.abs(leaf) > 1e-6) for leaf in jax.tree.leaves(slope))
    forward = jax.jit(lambda params: jax.jvp(value, (params,), (jax.tree.map(jnp.ones_like, params),))[1])(params)
    np.testing.assert_allclose(forward, sum(np.sum(leaf) for leaf in jax.tree.leaves(slope)), rtol=1e-9)


def test_enough_conjugate_gradients_are_the_dense_solve():
    # after 2 steps, far from the minimum: the theorem's formula at whatever was found
    support = problems.rough_task()
    params = problems.rough_params(loop_of())
    flat, shape = ravel_pytree(params.personal)

    def mean_loss(personal):
        return base.masked_mean(problems.rough(params._replace(personal=shape(personal)), support, None), support.mask)

    def jacobian(cg_steps, damping):
        loop = loop_of(problems.rough, 2, 0.15, 2.0, cg_steps=cg_steps, damping=damping)
        end = lambda start: ravel_pytree(
            loop.adapt(params._replace(personal=shape(start)), support, None)[0].personal)[0]  # fmt: skip
        slope, found = jax.jit(jax.jacrev(lambda start: (end(start),) * 2, has_aux=True))(flat)
        return found, slope

    hessian = jax.jit(jax.hessian(mean_loss))
    for damping in (0.0, 0.7):
        found, got = jacobian(3, damping)
        expected = 2.0 * np.linalg.inv(np.asarray(hessian(found)) + (2.0 + damping) * np.eye(3))
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    errors = [np.abs(jacobian(n, 0.7)[1] - expected).max() for n in (1, 2)]
    assert errors[0] > errors[1] > 1e-6


def test_only_the_ends_of_the_path_have_a_derivative():
    loop = loop_of(steps=4)
    path = lambda start: loop.adapt(base.Params({}, {"theta": start}, {}), problems.bowl_task(), None)[1]["theta"]
    slopes = jax.jit(jax.jacrev(path))(problems.START)
    expected = np.array([1.0, 0.0, 0.0, 0.0, STRENGTH / (1 + STRENGTH)])[:, None, None] * np.eye(2)[None]
    np.testing.assert_allclose(slopes, expected, atol=1e-14)


def wide(params, batch, key):
    """Many activations per example and few personal numbers: what a tape would keep is seen in the memory."""
    hidden = jnp.tanh(batch.inputs[:, :1] * jnp.linspace(-1.0, 1.0, 4000)[None] + params.personal["theta"][0])
    return jnp.square(jnp.mean(hidden, 1) + params.personal["theta"][1] - batch.targets[:, 0])


def test_memory_does_not_grow_with_the_steps():
    def bytes_of(loop):
        slope = jax.grad(problems.after(loop, wide, problems.bowl_task(), problems.bowl_task()))
        analysis = jax.jit(slope).lower(problems.bowl_params(loop)).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    few, many = (bytes_of(loop_of(wide, steps)) for steps in (4, 64))
    assert many - few < 64 * 2 * 8 * 4  # at most the path's own numbers
    unrolled = [bytes_of(inner.gradient(wide, steps, RATE)) for steps in (4, 64)]
    assert unrolled[1] - unrolled[0] > 60 * 4000 * 8


def test_noise_is_the_same_at_every_step_so_there_is_a_minimum():
    loop = loop_of(problems.rough, 200, 0.15, 2.0)
    path, quiet = (
        np.asarray(adapt(loop, problems.rough_params(loop), problems.rough_task(), key)[1]["theta"])
        for key in (KEY, None)
    )
    np.testing.assert_allclose(path[-1], path[-2], rtol=1e-12)
    assert not np.allclose(path[-1], quiet[-1], rtol=1e-4)


def test_any_optimizer_finds_the_same_minimum_and_derivative():
    support, query = problems.rough_task(), problems.rough_task(4, 7)
    loops = [
        inner.implicit(problems.rough, 200, optimizer, strength=2.0)
        for optimizer in (optax.sgd(0.15), optax.sgd(0.05, momentum=0.8, nesterov=True))
    ]
    params = problems.rough_params(loops[0])
    slopes = [slope_after(loop, problems.rough, support, query, params)[1] for loop in loops]
    assert world.distance(*slopes) < 1e-9


def test_a_user_without_support_keeps_the_start_and_its_derivative():
    loop, empty = loop_of(), problems.bowl_task((False,) * 4)
    (adapted, path), slope = found(loop, problems.bowl, empty, problems.bowl_task(), problems.bowl_params(loop))
    assert np.all(np.asarray(path["theta"]) == START) and np.all(np.asarray(adapted.personal["theta"]) == START)
    np.testing.assert_allclose(slope.personal["theta"], START - MEAN, rtol=1e-12)


def test_users_mapped_over_two_devices_are_users_in_a_loop():
    problems.assert_users_are_apart(loop_of(problems.rough, 5, 0.15, 1.0, learn_strength=True), KEY)


def flat(params, batch, key):
    """A regression of ten weights whose curvature is small."""
    return 0.005 * jnp.square(batch.inputs @ params.personal["w"] - batch.targets)


@functools.cache
def small_slope():
    """The gradient at zero in float32 of a size times what comes out, by size; and the data."""
    rng = np.random.default_rng(0)
    inputs, targets, out = (rng.normal(size=shape).astype(np.float32) for shape in ((12, 10), (12,), (10,)))
    loop = loop_of(flat, 5, 0.15, 0.005, cg_steps=50)

    def value(start, size):
        support = base.Batch(jnp.asarray(inputs), jnp.asarray(targets), jnp.ones(12, bool))
        return jnp.sum(loop.adapt(base.Params({}, {"w": start}, {}), support, None)[0].personal["w"] * out * size)

    return jax.jit(jax.grad(value)), inputs, out


@pytest.mark.parametrize("size", [1e-10, 1e-16, 1e-25])
def test_small_cotangents_in_float32_do_not_underflow(size):
    grad, inputs, out = small_slope()
    with jax.enable_x64(False):
        slope = grad(np.zeros(10, np.float32), np.float32(size))
    assert slope.dtype == np.float32
    slope = np.asarray(slope, np.float64) / size
    curvature = 0.01 * inputs.T.astype(np.float64) @ inputs / 12
    expected = 0.005 * np.linalg.solve(curvature + 0.005 * np.eye(10), out.astype(np.float64))
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"strength": 0.0}, "strength must be finite and > 0, got 0.0"),
        ({"strength": float("nan")}, "strength must be finite and > 0, got nan"),
        ({"cg_steps": 0}, "cg_steps must be >= 1, got 0"),
        ({"damping": -1.0}, "damping must be finite and >= 0, got -1.0"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        loop_of(**arguments)
