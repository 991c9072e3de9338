"""Inner optimizers: Adam is the paper's at every size of gradient, and has a derivative where gradients are zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapers import base, inner
from metapers.inner import optimizers

KEY = jax.random.key(0)


@pytest.mark.parametrize("size", [1e3, 1.0, 1e-5, 1e-7])
@pytest.mark.parametrize(("ours", "b1"), [(optimizers.adam, 0.9), (optimizers.adam_no_momentum, 0.0)])
def test_adam_is_optax_adam_without_eps_root(ours, b1, size):
    slopes = {"a": size * jax.random.normal(KEY, (4, 3), jnp.float32), "b": jnp.full((4,), -size, jnp.float32)}

    def path(optimizer):
        def step(state, slope):
            updates, state = optimizer.update(slope, state)
            return state, updates

        state = optimizer.init(jax.tree.map(lambda x: x[0], slopes))
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of an int32 count
            return jax.jit(lambda: jax.lax.scan(step, state, slopes)[1])()

    pair = (jax.tree.leaves(path(one)) for one in (ours(0.1), optax.adam(0.1, b1=b1)))
    for found, expected in zip(*pair, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_first_step_at_a_small_gradient_is_the_rate():
    slope = {"w": jnp.array(1e-5)}

    def first(optimizer):
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of an int32 count
            return float(optimizer.update(slope, optimizer.init(slope))[0]["w"])

    assert first(optimizers.adam(0.1)) == pytest.approx(-0.1, rel=2e-3)
    assert first(optax.adam(0.1, eps_root=1e-8)) == pytest.approx(-0.01, rel=1e-2)  # what it was once


def low_rank(params, batch, key):
    """Squared errors of (1 + up · down) x; ``up`` begins at zero, so the gradient of ``down`` is zero at first."""
    weight = 1.0 + params.personal["up"] @ params.personal["down"]
    return 0.5 * jnp.square(batch.inputs @ weight - batch.targets)


def test_at_second_order_a_factor_without_gradient_has_no_derivative():
    inputs = jax.random.normal(KEY, (6, 3))
    batch = base.Batch(inputs, 2 * inputs.sum(1), jnp.ones(6, bool))
    params = base.Params({}, {"up": jnp.zeros((3, 2)), "down": jax.random.normal(jax.random.key(1), (2,))}, {})

    def slope(first_order):
        loop = inner.optimized(low_rank, 3, optimizers.adam(0.05), first_order=first_order)
        value = lambda params: base.masked_mean(low_rank(loop.adapt(params, batch, None)[0], batch, None), batch.mask)
        return jax.jit(jax.grad(value))(params).personal

    second, first = slope(False), slope(True)
    for name in ("up", "down"):
        assert np.isfinite(second[name]).all()
        assert optax.tree.norm(second[name]) < 10 * optax.tree.norm(first[name]), name
