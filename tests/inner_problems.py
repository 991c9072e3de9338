"""Small problems for inner loops: a bowl whose every step is a formula, and a rough one for finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, PartitionSpec

from metapers import base
from tests.contracts import world

CENTRES = jnp.array([[1.0, -2.0], [3.0, 0.5], [-1.0, 4.0], [0.0, 1.5]])
MEAN = jnp.array([0.75, 1.0])
START = jnp.array([2.0, -1.0])


def bowl(params, batch, key):
    """½‖theta - c‖² for each example c: the gradient of the mean is theta - mean(c)."""
    return 0.5 * jnp.sum(jnp.square(params.personal["theta"][None] - batch.targets), -1)


def bowl_task(mask=(True,) * 4):
    """The four centres behind a mask."""
    return base.Batch(jnp.asarray(np.zeros((4, 1))), CENTRES, jnp.array(mask))


def bowl_params(loop):
    """A start away from the mean."""
    params = base.Params({}, {"theta": START}, {})
    return params._replace(inner=loop.init(params))


def rough(params, batch, key):
    """No symmetry, no constant curvature, shared and personal entangled; noise from the key."""
    noise = 0.0 if key is None else 0.1 * jax.random.normal(key, batch.mask.shape)
    return jnp.square(rough_outputs(params, batch) + noise - batch.targets)


def rough_outputs(params, batch):
    """The predictions that ``rough`` compares with the targets, [n]."""
    hidden = jnp.tanh(batch.inputs @ params.shared["map"])
    return jnp.sin(hidden @ params.personal["theta"] + params.personal["b"])


def _drawn(n, seed):
    k = jax.random.split(jax.random.key(seed))
    return jax.random.normal(k[0], (n, 3)), jax.random.normal(k[1], (n,))


@functools.cache
def rough_task(n=5, seed=1):
    """n examples, all there."""
    return base.Batch(*jax.jit(_drawn, static_argnums=0)(n, seed), jnp.asarray(np.ones(n, bool)))


def rough_tasks(n, users):
    """The tasks of n examples with seeds 0 to users - 1, stacked."""
    drawn = jax.jit(jax.vmap(functools.partial(_drawn, n)))(np.arange(users))
    return base.Batch(*drawn, jnp.asarray(np.ones((users, n), bool)))


def rough_users(users):
    """Stacked tasks, the last user without any example."""
    there = np.arange(users)[:, None] < users - 1
    return rough_tasks(5, users)._replace(mask=jnp.asarray(np.repeat(there, 5, 1)))


@functools.cache
def _rough_start():
    def start():
        k = jax.random.split(jax.random.key(2))
        personal = {"b": jnp.asarray(0.3), "theta": jax.random.normal(k[1], (2,))}
        return base.Params({"map": jax.random.normal(k[0], (3, 2))}, personal, {})

    return jax.jit(start)()


def rough_params(loop):
    """A start of three personal numbers in two leaves, and a shared map."""
    return _rough_start()._replace(inner=loop.init(_rough_start()))


def padded(batch, rows):
    """A batch with rows of zeros behind it that are not there."""
    return jax.tree.map(lambda x: jnp.asarray(np.concatenate([x, np.zeros((rows, *x.shape[1:]), x.dtype)])), batch)


def adapt(loop, params, support, key=None):
    """What the loop makes of the support, as one program."""
    return jax.jit(loop.adapt)(params, support, key)


def after(loop, loss_fn, support, query, key=None):
    """The query loss after adaptation, as a function of the parameters."""

    def value(params):
        adapted, _ = loop.adapt(params, support, key)
        return base.masked_mean(loss_fn(adapted, query, None), query.mask)

    return value


def slope_after(loop, loss_fn, support, query, params, key=None):
    """The query loss after adaptation and its gradient, compiled."""
    return jax.jit(jax.value_and_grad(after(loop, loss_fn, support, query, key)))(params)


def finite_differences(value, params, size=1e-5):
    """Central differences of a scalar function, by all numbers at once."""

    @jax.jit
    def slopes(params):
        flat, shape = ravel_pytree(params)
        steps = size * jnp.eye(flat.size)
        up, down = jax.vmap(lambda step: value(shape(flat + step)))(jnp.concatenate([steps, -steps])).reshape(2, -1)
        return shape((up - down) / (2 * size))

    return slopes(params)


def assert_users_are_apart(loop, key):
    """Users mapped over two devices are users in a loop: losses, paths and a finite gradient of the sum of losses."""
    params, users = rough_params(loop), rough_users(4)
    both = users, users._replace(mask=jnp.ones_like(users.mask))  # the query of each: its support made whole

    def value(params, support, query):
        adapted, path = loop.adapt(params, support, key)
        return base.masked_mean(rough(adapted, query, None), query.mask), path

    def total(params, supports, queries):
        losses, paths = jax.vmap(value, (None, 0, 0))(params, supports, queries)
        return jax.lax.psum(jnp.sum(losses), "users"), paths

    mesh = jax.make_mesh((2,), ("users",), axis_types=(AxisType.Auto,))
    here, everywhere = PartitionSpec("users"), PartitionSpec()
    sharded = jax.shard_map(total, mesh=mesh, in_specs=(everywhere, here, here), out_specs=(everywhere, here))
    (loss, paths), slope = jax.device_get(jax.jit(jax.value_and_grad(sharded, has_aux=True))(params, *both))
    one = jax.jit(jax.value_and_grad(value, has_aux=True))
    alone = [jax.device_get(one(params, *jax.tree.map(lambda x, i=i: np.asarray(x)[i], both))) for i in range(4)]
    for i, ((_, path), _) in enumerate(alone):
        assert world.distance(path, jax.tree.map(lambda x, i=i: x[i], paths)) < 1e-13
    summed = jax.tree.map(lambda *leaves: sum(leaves), *((value, slope) for (value, _), slope in alone))
    assert world.distance((loss, slope), summed) < 1e-12
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, slope)))
