"""Adaptation: closed forms on the quadratic, finite differences, masks, and what is computed once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapers import base, inner, keys
from metapers.inner.once import once
from metapers.inner.path import entries
from tests import inner_problems as problems
from tests.contracts import world
from tests.inner_problems import adapt, after, finite_differences, rough_task, slope_after

KEY = jax.random.key(0)
CENTRES = np.array([[1.0, -2.0], [3.0, 0.5], [-1.0, 4.0], [0.0, 1.5]])
MEAN = np.array([0.75, 1.0])
START = np.array([2.0, -1.0])
RATE = 0.3


def bowl(params, batch, key):
    """1/2 ||theta - c||^2 for each example c: the gradient of the mean is theta - mean(c)."""
    return 0.5 * jnp.sum(jnp.square(params.personal["theta"][None] - batch.targets), -1)


def rough(params, batch, key):
    """No symmetry, no constant curvature, shared and personal entangled; noise from the key."""
    hidden = jnp.tanh(batch.inputs @ params.shared["map"])
    noise = 0.0 if key is None else 0.1 * jax.random.normal(key, batch.mask.shape)
    return jnp.square(jnp.sin(hidden @ params.personal["theta"]) + noise - batch.targets)


def bowl_task(mask=(True,) * 4):
    return base.Batch(jnp.asarray(np.zeros((4, 1))), jnp.asarray(CENTRES), jnp.array(mask))


def bowl_params(loop):
    params = base.Params({}, {"theta": jnp.asarray(START)}, {})
    return params._replace(inner=loop.init(params))


def rough_params(loop):
    params = rough_start()
    return params._replace(inner=loop.init(params))


@functools.cache
def rough_start():
    def start():
        k = jax.random.split(jax.random.key(2))
        return base.Params({"map": jax.random.normal(k[0], (3, 2))}, {"theta": jax.random.normal(k[1], (2,))}, {})

    return jax.jit(start)()


def assert_close(a, b, tolerance=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


LOOPS = {
    "plain": {},
    "rates": {"rate": inner.per_parameter(RATE)},
    "log_rates": {"rate": inner.log_per_parameter(RATE)},
    "unroll": {"unroll": 2},
    "pseudo_count": {"pseudo_count": 2.0, "rate": inner.per_parameter(RATE)},
    "proximal_weight": {"pseudo_count": 1.0, "rate": inner.log_per_parameter(RATE), "proximal_weight": 1.5},
    "per_step": {"rate": inner.per_step(RATE, 3)},
    "remat": {"remat": True},
    "mixed": {"mixed": True, "proximal_weight": 0.5},
}


@pytest.mark.parametrize("name", LOOPS)
def test_path_on_the_quadratic_is_the_closed_form(name):
    loop = inner.gradient(bowl, 4, **{"rate": RATE, **LOOPS[name]})
    adapted, path = adapt(loop, bowl_params(loop), bowl_task(), KEY)
    # Gradient: (4 (theta - mean) + 2 pull (theta - start)) / (4 + shrink).
    pull = LOOPS[name].get("proximal_weight", 0.0)
    rate = RATE * (4 + 2 * pull) / (4 + LOOPS[name].get("pseudo_count", 0.0))
    limit = (4 * MEAN + 2 * pull * START) / (4 + 2 * pull)
    expected = limit[None] + (1 - rate) ** np.arange(5.0)[:, None] * (START - limit)[None]
    assert_close(path["theta"], expected)
    assert_close(adapted.personal["theta"], expected[-1])
    assert path["theta"].shape == (5, 2)


@pytest.mark.parametrize("steps", [0, 3])
def test_meta_gradient_on_the_quadratic(steps):
    # Query 1/2 ||theta_K - q||^2: d/d theta_0 = (1 - rate)^K (theta_K - q); first order drops the factor.
    query = base.Batch(jnp.array([[0.0]]), jnp.array([[5.0, 7.0]]), jnp.array([True]))
    gap = MEAN + (1 - RATE) ** steps * (START - MEAN) - np.array([5.0, 7.0])
    for first_order, factor in ((False, (1 - RATE) ** steps), (True, 1.0)):
        loop = inner.gradient(bowl, steps, RATE, first_order=first_order)
        _, slope = slope_after(loop, bowl, bowl_task(), query, bowl_params(loop))
        assert_close(slope.personal["theta"], factor * gap)


def test_meta_gradient_with_the_support_as_query():
    loop = inner.gradient(bowl, 3, RATE)
    _, slope = slope_after(loop, bowl, bowl_task(), bowl_task(), bowl_params(loop))
    assert_close(slope.personal["theta"], (1 - RATE) ** 6 * (START - MEAN))


def test_learned_rates_start_at_the_rate():
    raw, log = (
        inner.gradient(bowl, 1, inner.per_parameter(RATE)),
        inner.gradient(bowl, 1, inner.log_per_parameter(RATE)),
    )
    assert_close(bowl_params(raw).inner, {"rates": {"theta": np.full(2, RATE)}})
    assert_close(bowl_params(log).inner, {"log_rates": {"theta": np.full(2, np.log(RATE))}})
    assert bowl_params(inner.gradient(bowl, 1, RATE)).inner == {}


def test_learned_rates_act_on_each_number_and_may_be_negative():
    loop = inner.gradient(bowl, 2, inner.per_parameter(RATE))
    rates = np.array([0.5, -0.25])
    params = bowl_params(loop)._replace(inner={"rates": {"theta": jnp.asarray(rates)}})
    assert_close(adapt(loop, params, bowl_task())[0].personal["theta"], MEAN + (1 - rates) ** 2 * (START - MEAN))


# Not "unroll", "remat" and "mixed": a test below holds them to the plain steps.
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("plain", KEY),
        ("rates", KEY),
        ("log_rates", KEY),
        ("pseudo_count", None),
        ("proximal_weight", KEY),
        ("per_step", KEY),
    ],
)
def test_meta_gradient_equals_finite_differences(name, key):
    loop = inner.gradient(rough, 3, **{"rate": 0.2, **LOOPS[name]})
    params, value = rough_params(loop), after(loop, rough, rough_task(), rough_task(4, 7), key)
    slope = jax.jit(jax.grad(value))(params)
    assert_close(slope, finite_differences(value, params), 1e-8)
    assert all(np.all(np.abs(leaf) > 1e-7) for leaf in jax.tree.leaves(slope))


def test_first_order_keeps_the_values_and_changes_the_gradient():
    loops = [inner.gradient(rough, 3, inner.per_parameter(0.2), first_order=first) for first in (False, True)]
    params, query = rough_params(loops[0]), rough_task(4, 7)
    values, slopes = zip(*(slope_after(loop, rough, rough_task(), query, params) for loop in loops), strict=True)
    assert_close(*values)
    assert not np.allclose(slopes[0].personal["theta"], slopes[1].personal["theta"], rtol=1e-3)
    # Rates still learn at first order: theta_K = theta_0 - rate * sum of gradients held constant.
    adapted, _ = adapt(loops[1], params, rough_task())
    pull = slope_after(inner.none(), rough, rough_task(), query, adapted)[1].personal["theta"]
    moved = params.personal["theta"] - adapted.personal["theta"]
    assert_close(slopes[1].inner["rates"]["theta"], -pull * moved / 0.2)
    assert_close(slopes[1].personal["theta"], pull)


def test_padding_changes_nothing_even_nan():
    loop = inner.gradient(rough, 3, inner.per_parameter(0.2), pseudo_count=1.0)
    params, query = rough_params(loop), rough_task(4, 7)
    short = rough_task(3)
    pad = lambda x: np.concatenate([x, np.full((2, *x.shape[1:]), np.nan)])
    mask = jnp.array([True, True, True, False, False])
    padded = base.Batch(base.hide(pad(short.inputs), mask), base.hide(pad(short.targets), mask), mask)
    assert_close(*(slope_after(loop, rough, support, query, params) for support in (padded, short)))


def test_no_support_at_all_keeps_the_start():
    loop = inner.gradient(bowl, 3, RATE)
    adapted, path = adapt(loop, bowl_params(loop), bowl_task((False,) * 4))
    assert_close(adapted.personal["theta"], START, 0)
    assert_close(path["theta"], np.stack([START] * 4), 0)


def test_one_example_of_four_moves_by_its_own_gradient_over_one_plus_shrink():
    loop = inner.gradient(bowl, 1, RATE, pseudo_count=3.0)
    adapted, _ = adapt(loop, bowl_params(loop), bowl_task((False, True, False, False)))
    assert_close(adapted.personal["theta"], START - RATE / 4 * (START - CENTRES[1]))


@pytest.mark.parametrize("loop", [inner.gradient(bowl, 0, RATE), inner.none()])
def test_no_steps_give_the_start(loop):
    adapted, path = adapt(loop, bowl_params(loop), bowl_task())
    assert_close(adapted.personal["theta"], START, 0)
    assert_close(path["theta"], START[None], 0)


def test_rates_learned_for_some_steps_adapt_for_others():
    trained, longer = (inner.gradient(bowl, steps, inner.log_per_parameter(RATE)) for steps in (1, 5))
    short, long = (adapt(loop, bowl_params(trained), bowl_task())[1]["theta"] for loop in (trained, longer))
    assert_close(long[1], short[1])


WRITING = {
    "gradient": lambda steps, write: inner.gradient(bowl, steps, RATE, write=write),
    "optimized": lambda steps, write: inner.optimized(bowl, steps, optax.sgd(RATE), write=write),
    # pulled to what was written with a weight that leaves the bowl as it is, to many digits
    "implicit": lambda steps, write: inner.implicit(bowl, steps, optax.sgd(RATE), strength=1e-14, write=write),
}


@pytest.mark.parametrize("name", WRITING)
def test_steps_begin_where_write_says_and_the_path_where_nothing_was_seen(name):
    write = lambda params, support, key: {"theta": base.masked_mean(support.targets[:, 0], support.mask) * jnp.ones(2)}
    loop = WRITING[name](2, write)
    adapted, path = adapt(loop, bowl_params(loop), bowl_task())
    left = (1 - RATE) ** np.array([1.0, 2.0])[:, None]
    path = np.asarray(path["theta"])
    assert_close(path[0], START, 0)
    assert_close(path[1:], MEAN[None] + left * (MEAN[0] - MEAN)[None])
    assert_close(adapted.personal["theta"], path[-1], 0)
    other, moved = adapt(loop, bowl_params(loop), bowl_task()._replace(targets=7 - bowl_task().targets))
    assert_close(moved["theta"][0], path[0], 0)
    assert not np.allclose(other.personal["theta"], adapted.personal["theta"])


@pytest.mark.parametrize("name", ["gradient", "optimized"])
def test_without_steps_nothing_is_written(name):
    loop = WRITING[name](0, lambda params, support, key: {"theta": START + 1})
    adapted, path = adapt(loop, bowl_params(loop), bowl_task())
    assert_close(adapted.personal["theta"], START, 0)
    assert_close(path["theta"], START[None], 0)


def test_every_step_has_a_key_of_its_own():
    seen = lambda params, batch, key: jax.random.normal(key, batch.mask.shape) * params.personal["theta"][0]
    loop = inner.gradient(seen, 3, 1.0)
    _, path = adapt(loop, bowl_params(loop), bowl_task(), KEY)
    steps = -np.diff(np.asarray(path["theta"])[:, 0])
    named = [np.mean(jax.random.normal(keys.named(KEY, "inner", step), (4,))) for step in range(3)]
    assert_close(steps, np.stack(named))
    assert len(set(steps.tolist())) == 3


def test_users_mapped_over_two_devices_are_users_in_a_loop():
    problems.assert_users_are_apart(inner.gradient(problems.rough, 3, inner.per_parameter(0.2)), KEY)


def test_once_computes_the_fixed_part_outside():
    def fn(moving, fixed):
        return jnp.sum(jnp.exp(fixed["x"] @ fixed["w"]) * moving["a"] + jnp.arange(2.0)) * moving["a"][0]

    moving = {"a": jnp.array([2.0, 3.0])}
    fixed = {"x": jnp.array([[1.0, 2.0], [0.5, 0.1]]), "w": jnp.array([0.3, -0.2])}
    rest = once(fn, moving, fixed)
    dots = str(jax.make_jaxpr(rest)(moving))
    assert "dot_general" in str(jax.make_jaxpr(fn)(moving, fixed))
    assert "dot_general" not in dots
    assert "exp" not in dots
    other = {"a": jnp.array([-1.0, 0.5])}
    assert_close(jax.jit(rest)(other), jax.jit(fn)(other, fixed))
    assert_close(jax.jit(jax.grad(lambda w: once(fn, moving, {**fixed, "w": w})(other)))(fixed["w"]),
          jax.jit(jax.grad(lambda w: fn(other, {**fixed, "w": w})))(fixed["w"]))  # fmt: skip


@pytest.mark.parametrize("fn", [lambda m, f: f * 2.0, lambda m, f: m * 3.0, lambda m, f: jnp.ones(()), lambda m, f: m])
def test_once_where_one_side_is_empty(fn):
    assert_close(once(fn, jnp.array(5.0), jnp.array(7.0))(jnp.array(2.0)), fn(jnp.array(2.0), jnp.array(7.0)))


def test_once_keeps_a_program_with_effects_whole():
    seen = []

    def fn(moving, fixed):
        jax.debug.callback(lambda x: seen.append(float(x)), fixed)
        return moving * fixed

    rest = once(fn, jnp.array(1.0), jnp.array(7.0))
    assert_close(rest(jnp.array(2.0)), jnp.array(14.0))
    jax.effects_barrier()
    assert seen == [7.0]


def test_shared_layers_run_once_however_many_steps():
    def products(steps):
        loop = inner.gradient(rough, steps, 0.2, unroll=steps)
        text = str(jax.make_jaxpr(lambda p: loop.adapt(p, rough_task(), None)[0].personal)(rough_params(loop)))
        return text.count("tanh")

    assert products(1) == products(6) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"rate": 0.0}, "rate must be finite and > 0, got 0.0"),
        ({"rate": float("nan")}, "rate must be finite and > 0, got nan"),
        ({"rate": float("inf")}, "rate must be finite and > 0, got inf"),
        ({"pseudo_count": -0.5}, "pseudo_count must be finite and >= 0, got -0.5"),
        ({"proximal_weight": float("nan")}, "proximal_weight must be finite and >= 0, got nan"),
        ({"unroll": 0}, "unroll must be >= 1, got 0"),
        ({"remat": True, "mixed": True}, "one question, got both"),
    ],
)
def test_gradient_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        inner.gradient(bowl, **{"steps": 1, "rate": 0.1, **arguments})


@pytest.mark.parametrize("make", [inner.per_parameter, inner.log_per_parameter, lambda rate: inner.per_step(rate, 2)])
@pytest.mark.parametrize("rate", [0.0, float("nan")])
def test_rates_refuse(make, rate):
    with pytest.raises(ValueError, match=f"rate must be finite and > 0, got {rate}"):
        make(rate)


def test_rates_by_step_need_a_step():
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        inner.per_step(0.1, 0)


def test_rates_by_step_act_on_their_step_and_the_last_one_on_all_later_ones():
    loop = inner.gradient(bowl, 4, inner.per_step(RATE, 2))
    params = bowl_params(loop)._replace(inner={"step_rates": {"theta": jnp.array([0.5, 0.25])}})
    _, path = adapt(loop, params, bowl_task())
    left = np.array([1.0, 0.5, 0.5 * 0.75, 0.5 * 0.75**2, 0.5 * 0.75**3])
    assert_close(path["theta"], MEAN[None] + left[:, None] * (START - MEAN)[None])


@pytest.mark.parametrize("first_order", [False, True])
def test_choices_of_memory_change_no_number(first_order):
    def slope(**options):
        loop = inner.gradient(
            rough,
            5,
            inner.per_parameter(0.2),
            first_order=first_order,
            pseudo_count=0.5,
            proximal_weight=0.3,
            **options,
        )
        return slope_after(loop, rough, rough_task(), rough_task(), rough_params(loop))

    plain = slope()
    for choice in ({"remat": True}, {"mixed": True}, {"unroll": 2}):
        assert world.distance(plain, slope(**choice)) < 1e-12


def test_mixed_under_vmap_and_keys_is_the_loop():
    def slopes(**options):
        loop = inner.gradient(rough, 3, 0.2, **options)
        params = rough_params(loop)

        def value(params, key):
            adapted, _ = loop.adapt(params, rough_task(), key)
            return jnp.mean(rough(adapted, rough_task(), None))

        both = jnp.stack([keys.root(1), keys.root(2)])
        return jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))(params, both)

    assert world.distance(slopes(), slopes(mixed=True)) < 1e-12


def test_remat_and_mixed_keep_less_between_the_passes():
    def kept(**options):
        loop = inner.gradient(wide, 40, 0.01, **options)
        slope = jax.jit(jax.grad(lambda params: jnp.sum(wide(loop.adapt(params, batch, None)[0], batch, None))))
        return slope.lower(params).compile().memory_analysis().temp_size_in_bytes

    def wide(params, batch, key):
        return jnp.square(jnp.sum(jnp.tanh(batch.inputs @ params.personal["w"]), -1) - batch.targets)

    params = base.Params({}, {"w": 0.1 * jax.random.normal(keys.root(0), (8, 64))}, {})
    batch = base.Batch(jax.random.normal(keys.root(1), (32, 8)), jnp.ones(32), jnp.ones(32, bool))
    plain = kept()
    assert kept(remat=True) < 0.6 * plain and kept(mixed=True) < 0.6 * plain


def test_the_start_of_a_path_never_diverged_whatever_the_model_makes_of_it():
    apply = lambda params, inputs, mask, key: inputs * params.personal
    model = base.Model(lambda key: None, apply, lambda params, support, key: None, lambda params: params)
    support = base.Batch(jnp.array([1.0, 1e100]), jnp.zeros(2), jnp.array([True, True]))
    path = jnp.array([1e140, 2e140, 1.0, jnp.nan])
    judged = jax.jit(lambda support: entries(model, base.Params({}, path[0], {}), support, path))
    found, diverged = judged(support)
    assert diverged.tolist() == [False, True, False, True] and found.tolist() == [1e140, 1e140, 1.0, 1e140]
    unseen = support._replace(mask=jnp.array([True, False]))  # what is behind the mask decides nothing
    assert judged(unseen)[1].tolist() == [False, False, False, True]
