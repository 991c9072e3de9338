"""Small problems for inner loops: a bowl whose every step is a formula, and a rough one for finite differences."""

import jax
import jax.numpy as jnp
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
    return base.Batch(jnp.zeros((4, 1)), CENTRES, jnp.array(mask))


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


def rough_task(n=5, seed=1):
    """n examples, all there."""
    k = jax.random.split(jax.random.key(seed))
    return base.Batch(jax.random.normal(k[0], (n, 3)), jax.random.normal(k[1], (n,)), jnp.ones(n, bool))


def rough_users(users):
    """Stacked tasks, the last user without any example."""
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *[rough_task(5, seed) for seed in range(users)])
    return stacked._replace(mask=stacked.mask.at[-1].set(False))


def rough_params(loop):
    """A start of three personal numbers in two leaves, and a shared map."""
    k = jax.random.split(jax.random.key(2))
    personal = {"b": jnp.asarray(0.3), "theta": jax.random.normal(k[1], (2,))}
    params = base.Params({"map": jax.random.normal(k[0], (3, 2))}, personal, {})
    return params._replace(inner=loop.init(params))


def after(loop, loss_fn, support, query, key=None):
    """The query loss after adaptation, as a function of the parameters."""

    def value(params):
        adapted, _ = loop.adapt(params, support, key)
        return base.masked_mean(loss_fn(adapted, query, None), query.mask)

    return value


def finite_differences(value, params, size=1e-5):
    """Central differences of a scalar function, one number at a time."""
    leaves, shape = jax.tree.flatten(params)

    def slope(i, j):
        def moved(step):
            changed = [*leaves]
            changed[i] = jnp.reshape(jnp.ravel(leaves[i]).at[j].add(step), leaves[i].shape)
            return value(jax.tree.unflatten(shape, changed))

        return (moved(size) - moved(-size)) / (2 * size)

    slopes = [jnp.array([slope(i, j) for j in range(x.size)]).reshape(x.shape) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(shape, slopes)


def over_users(loop, params, users):
    """Value and gradient of the sum over users of the query loss, each one's query being its support made whole."""

    def total(params, users):
        whole = users._replace(mask=jnp.ones_like(users.mask))
        return jnp.sum(jax.vmap(lambda task, query: after(loop, rough, task, query)(params))(users, whole))

    return total, jax.jit(jax.value_and_grad(total))(params, users)


def over_two_devices(total, params, users):
    """The same with the users split over two devices."""
    mesh = jax.make_mesh((2,), ("users",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(
        lambda params, users: jax.lax.psum(total(params, users), "users"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("users")),
        out_specs=PartitionSpec(),
    )
    return jax.jit(jax.value_and_grad(sharded))(params, users)


def assert_users_are_apart(loop, key):
    """Users mapped are users in a loop, and the same over two devices; the gradient is finite."""
    params, users = rough_params(loop), rough_users(4)
    mapped = jax.jit(jax.vmap(lambda task: loop.adapt(params, task, key)[1]))(users)
    adapt = jax.jit(loop.adapt)
    for i in range(4):
        alone = adapt(params, jax.tree.map(lambda x, i=i: x[i], users), key)[1]
        assert world.distance(jax.tree.map(lambda x, i=i: x[i], mapped), alone) < 1e-13
    total, here = over_users(loop, params, users)
    assert world.distance(over_two_devices(total, params, users), here) < 1e-12
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(here))
