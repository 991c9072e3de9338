"""Adaptation: closed forms on the quadratic, finite differences, masks, and what is computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from metapers import base, inner, keys
from metapers.inner.once import once

KEY = jax.random.key(0)
CENTRES = jnp.array([[1.0, -2.0], [3.0, 0.5], [-1.0, 4.0], [0.0, 1.5]])
MEAN = jnp.array([0.75, 1.0])
START = jnp.array([2.0, -1.0])
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
    return base.Batch(jnp.zeros((4, 1)), CENTRES, jnp.array(mask))


def bowl_params(loop):
    params = base.Params({}, {"theta": START}, {})
    return params._replace(inner=loop.init(params))


def rough_task(n=5, seed=1):
    k = jax.random.split(jax.random.key(seed))
    return base.Batch(jax.random.normal(k[0], (n, 3)), jax.random.normal(k[1], (n,)), jnp.ones(n, bool))


def rough_params(loop):
    k = jax.random.split(jax.random.key(2))
    params = base.Params({"map": jax.random.normal(k[0], (3, 2))}, {"theta": jax.random.normal(k[1], (2,))}, {})
    return params._replace(inner=loop.init(params))


def close(a, b, tolerance=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def after(loop, loss_fn, support, query, key=None):
    """The query loss after adaptation, as a function of the parameters."""

    def value(params):
        adapted, _ = loop.adapt(params, support, key)
        return base.masked_mean(loss_fn(adapted, query, None), query.mask)

    return value


def finite_differences(value, params, size=1e-5):
    leaves, shape = jax.tree.flatten(params)

    def slope(i, j):
        def moved(step):
            changed = [*leaves]
            changed[i] = jnp.reshape(jnp.ravel(leaves[i]).at[j].add(step), leaves[i].shape)
            return value(jax.tree.unflatten(shape, changed))

        return (moved(size) - moved(-size)) / (2 * size)

    slopes = [jnp.array([slope(i, j) for j in range(x.size)]).reshape(x.shape) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(shape, slopes)


LOOPS = {
    "plain": {},
    "rates": {"learn_rates": True},
    "log_rates": {"log_rates": True},
    "unroll": {"unroll": 2},
    "shrink": {"shrink": 2.0, "learn_rates": True},
    "pull": {"shrink": 1.0, "log_rates": True, "pull": 1.5},
}


@pytest.mark.parametrize("name", LOOPS)
def test_path_on_the_quadratic_is_the_closed_form(name):
    loop = inner.gradient(bowl, 4, RATE, **LOOPS[name])
    adapted, path = jax.jit(loop.adapt)(bowl_params(loop), bowl_task(), KEY)
    # Gradient: (4 (theta - mean) + 2 pull (theta - start)) / (4 + shrink).
    pull = LOOPS[name].get("pull", 0.0)
    rate = RATE * (4 + 2 * pull) / (4 + LOOPS[name].get("shrink", 0.0))
    limit = (4 * MEAN + 2 * pull * START) / (4 + 2 * pull)
    expected = limit[None] + (1 - rate) ** jnp.arange(5.0)[:, None] * (START - limit)[None]
    close(path["theta"], expected)
    close(adapted.personal["theta"], expected[-1])
    assert path["theta"].shape == (5, 2)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_meta_gradient_on_the_quadratic(steps):
    # Query 1/2 ||theta_K - q||^2: d/d theta_0 = (1 - rate)^K (theta_K - q); first order drops the factor.
    query = base.Batch(jnp.zeros((1, 1)), jnp.array([[5.0, 7.0]]), jnp.ones(1, bool))
    gap = MEAN + (1 - RATE) ** steps * (START - MEAN) - jnp.array([5.0, 7.0])
    for first_order, factor in ((False, (1 - RATE) ** steps), (True, 1.0)):
        loop = inner.gradient(bowl, steps, RATE, first_order=first_order)
        slope = jax.jit(jax.grad(after(loop, bowl, bowl_task(), query)))(bowl_params(loop))
        close(slope.personal["theta"], factor * gap)


def test_meta_gradient_with_the_support_as_query():
    loop = inner.gradient(bowl, 3, RATE)
    slope = jax.grad(after(loop, bowl, bowl_task(), bowl_task()))(bowl_params(loop))
    close(slope.personal["theta"], (1 - RATE) ** 6 * (START - MEAN))


def test_learned_rates_start_at_the_rate():
    raw, log = inner.gradient(bowl, 1, RATE, learn_rates=True), inner.gradient(bowl, 1, RATE, log_rates=True)
    close(bowl_params(raw).inner, {"rates": {"theta": jnp.full(2, RATE)}})
    close(bowl_params(log).inner, {"log_rates": {"theta": jnp.full(2, np.log(RATE))}})
    assert bowl_params(inner.gradient(bowl, 1, RATE)).inner == {}


def test_learned_rates_act_on_each_number_and_may_be_negative():
    loop = inner.gradient(bowl, 2, RATE, learn_rates=True)
    rates = jnp.array([0.5, -0.25])
    params = bowl_params(loop)._replace(inner={"rates": {"theta": rates}})
    close(loop.adapt(params, bowl_task(), None)[0].personal["theta"], MEAN + (1 - rates) ** 2 * (START - MEAN))


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("key", [None, KEY])
def test_meta_gradient_equals_finite_differences(name, key):
    loop = inner.gradient(rough, 3, 0.2, **LOOPS[name])
    params, value = rough_params(loop), after(loop, rough, rough_task(), rough_task(4, 7), key)
    slope = jax.jit(jax.grad(value))(params)
    close(slope, finite_differences(jax.jit(value), params), 1e-8)
    assert all(jnp.all(jnp.abs(leaf) > 1e-7) for leaf in jax.tree.leaves(slope))


def test_first_order_keeps_the_values_and_changes_the_gradient():
    loops = [inner.gradient(rough, 3, 0.2, learn_rates=True, first_order=first) for first in (False, True)]
    params = rough_params(loops[0])
    values, slopes = zip(
        *(jax.value_and_grad(after(loop, rough, rough_task(), rough_task(4, 7)))(params) for loop in loops), strict=True
    )
    close(*values)
    assert not np.allclose(slopes[0].personal["theta"], slopes[1].personal["theta"], rtol=1e-3)
    # Rates still learn at first order: theta_K = theta_0 - rate * sum of gradients held constant.
    adapted, _ = loops[1].adapt(params, rough_task(), None)
    pull = jax.grad(after(inner.none(), rough, rough_task(), rough_task(4, 7)))(adapted).personal["theta"]
    moved = params.personal["theta"] - adapted.personal["theta"]
    close(slopes[1].inner["rates"]["theta"], -pull * moved / 0.2)
    close(slopes[1].personal["theta"], pull)


def test_padding_changes_nothing_even_nan():
    loop = inner.gradient(rough, 3, 0.2, learn_rates=True, shrink=1.0)
    params, query = rough_params(loop), rough_task(4, 7)
    short = rough_task(3)
    pad = lambda x: jnp.concatenate([x, jnp.full((2, *x.shape[1:]), jnp.nan)])
    mask = jnp.array([True, True, True, False, False])
    padded = base.Batch(base.hide(pad(short.inputs), mask), base.hide(pad(short.targets), mask), mask)
    close(
        jax.value_and_grad(after(loop, rough, padded, query))(params),
        jax.value_and_grad(after(loop, rough, short, query))(params),
    )


def test_no_support_at_all_keeps_the_start():
    loop = inner.gradient(bowl, 3, RATE)
    adapted, path = loop.adapt(bowl_params(loop), bowl_task((False,) * 4), None)
    close(adapted.personal["theta"], START, 0)
    close(path["theta"], jnp.stack([START] * 4), 0)


def test_one_example_of_four_moves_by_its_own_gradient_over_one_plus_shrink():
    loop = inner.gradient(bowl, 1, RATE, shrink=3.0)
    adapted, _ = loop.adapt(bowl_params(loop), bowl_task((False, True, False, False)), None)
    close(adapted.personal["theta"], START - RATE / 4 * (START - CENTRES[1]))


@pytest.mark.parametrize("loop", [inner.gradient(bowl, 0, RATE), inner.none()])
def test_no_steps_give_the_start(loop):
    adapted, path = loop.adapt(bowl_params(loop), bowl_task(), None)
    close(adapted.personal["theta"], START, 0)
    close(path["theta"], START[None], 0)


def test_rates_learned_for_some_steps_adapt_for_others():
    trained, longer = (inner.gradient(bowl, steps, RATE, log_rates=True) for steps in (1, 5))
    close(longer.adapt(bowl_params(trained), bowl_task(), None)[1]["theta"][1],
          trained.adapt(bowl_params(trained), bowl_task(), None)[1]["theta"][1])  # fmt: skip


def test_write_gives_the_first_entry_of_the_path():
    begin = lambda params, support, key: {"theta": base.masked_mean(support.targets[:, 0], support.mask) * jnp.ones(2)}
    for steps in (0, 2):
        loop = inner.gradient(bowl, steps, RATE, write=begin)
        _, path = loop.adapt(bowl_params(loop), bowl_task(), None)
        close(path["theta"], MEAN[None] + (1 - RATE) ** jnp.arange(steps + 1.0)[:, None] * (MEAN[0] - MEAN)[None])


def test_every_step_has_a_key_of_its_own():
    seen = lambda params, batch, key: jax.random.normal(key, batch.mask.shape) * params.personal["theta"][0]
    loop = inner.gradient(seen, 3, 1.0)
    _, path = loop.adapt(bowl_params(loop), bowl_task(), KEY)
    steps = -jnp.diff(path["theta"][:, 0])
    named = [jnp.mean(jax.random.normal(keys.named(KEY, "inner", step), (4,))) for step in range(3)]
    close(steps, jnp.stack(named))
    assert len(set(np.asarray(steps).tolist())) == 3


def test_users_mapped_equal_users_in_a_loop():
    loop = inner.gradient(rough, 3, 0.2, learn_rates=True)
    params, users = rough_params(loop), [rough_task(5, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *users)
    own = jax.random.split(KEY, 3)
    mapped = jax.vmap(lambda task, key: loop.adapt(params, task, key)[1])(stacked, own)
    alone = [loop.adapt(params, task, key)[1] for task, key in zip(users, own)]
    close(mapped, jax.tree.map(lambda *x: jnp.stack(x), *alone))


def test_users_over_two_devices_equal_one():
    loop = inner.gradient(rough, 3, 0.2, learn_rates=True)
    params = rough_params(loop)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *[rough_task(5, seed) for seed in range(4)])

    def total(params, users):
        return jnp.sum(jax.vmap(lambda task: after(loop, rough, task, task)(params))(users))

    mesh = jax.make_mesh((2,), ("users",), axis_types=(AxisType.Auto,))
    here, everywhere = PartitionSpec("users"), PartitionSpec()
    sharded = jax.shard_map(
        lambda params, users: jax.lax.psum(total(params, users), "users"),
        mesh=mesh, in_specs=(everywhere, here), out_specs=everywhere,
    )  # fmt: skip
    close(jax.jit(jax.value_and_grad(sharded))(params, stacked), jax.value_and_grad(total)(params, stacked))


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
    close(rest(other), fn(other, fixed))
    close(jax.grad(lambda w: once(fn, moving, {**fixed, "w": w})(other))(fixed["w"]),
          jax.grad(lambda w: fn(other, {**fixed, "w": w}))(fixed["w"]))  # fmt: skip


@pytest.mark.parametrize("fn", [lambda m, f: f * 2.0, lambda m, f: m * 3.0, lambda m, f: jnp.ones(()), lambda m, f: m])
def test_once_where_one_side_is_empty(fn):
    close(once(fn, jnp.array(5.0), jnp.array(7.0))(jnp.array(2.0)), fn(jnp.array(2.0), jnp.array(7.0)))


def test_once_keeps_a_program_with_effects_whole():
    seen = []

    def fn(moving, fixed):
        jax.debug.callback(lambda x: seen.append(float(x)), fixed)
        return moving * fixed

    rest = once(fn, jnp.array(1.0), jnp.array(7.0))
    close(rest(jnp.array(2.0)), jnp.array(14.0))
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
        ({"shrink": -0.5}, "shrink must be finite and >= 0, got -0.5"),
        ({"pull": float("nan")}, "pull must be finite and >= 0, got nan"),
        ({"unroll": 0}, "unroll must be >= 1, got 0"),
        ({"learn_rates": True, "log_rates": True}, "one choice, got both"),
    ],
)
def test_gradient_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        inner.gradient(bowl, **{"steps": 1, "rate": 0.1, **arguments})
