"""The same outer step in bare JAX and optax, by hand: what metapers' step is measured against.

No masks, keys, state or members: one function per workload, as short as it gets.
--devices N splits the tasks over N CPU devices; --conv patches writes convolutions as matrix products.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import timing, workloads
from benchmarks.workloads import Examples, Workload


def dense(layer: dict[str, Any], x: jax.Array) -> jax.Array:
    return x @ layer["w"] + layer["b"].reshape((1,) * (x.ndim - 1) + (-1,))


def mlp(layers: list, x: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        x = jax.nn.relu(dense(layer, x))
    return dense(layers[-1], x)


def conv_lax(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, w, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv_patches(x: jax.Array, w: jax.Array) -> jax.Array:
    n, size, _, channels = x.shape
    out = (size + 1) // 2
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    end = 2 * out - 1
    shifts = [x[:, i : i + end : 2, j : j + end : 2] for i in range(3) for j in range(3)]
    patches = jnp.concatenate(shifts, -1).reshape(n * out * out, 9 * channels)
    return (patches @ w.reshape(9 * channels, -1)).reshape(n, out, out, -1)


def conv4(layers: list, x: jax.Array, conv: Callable) -> jax.Array:
    for layer in layers[:-1]:
        x = conv(x, layer["w"]) + layer["b"][None, None, None]
        x = x - x.mean((0, 1, 2), keepdims=True)
        x = x * (jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * layer["gain"])[None, None, None]
        x = jax.nn.relu(x + layer["offset"][None, None, None])
    return dense(layers[-1], x.mean((1, 2)))


def squares(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(outputs - targets))


def entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[:, None], 1).mean()


def loss_of(work: Workload, conv: Callable) -> Callable[[list, jax.Array, jax.Array], jax.Array]:
    images = work.name.startswith("W2")

    def loss(layers: list, x: jax.Array, y: jax.Array) -> jax.Array:
        return entropy(conv4(layers, x, conv), y) if images else squares(mlp(layers, x), y)

    return loss


def adapter(work: Workload, conv: Callable, unroll: int) -> Callable[[list, Examples], list]:
    """(layers, one task) -> the layers after five steps on the support."""
    loss = loss_of(work, conv)

    def adapt(layers: list, data: Examples) -> list:
        def step(layers: list, _) -> tuple[list, None]:
            slope = jax.grad(loss)(layers, data.support_x, data.support_y)
            return jax.tree.map(lambda p, g: p - work.rate * g, layers, slope), None

        return jax.lax.scan(step, layers, length=workloads.INNER_STEPS, unroll=unroll)[0]

    return adapt


def mean_loss(work: Workload, conv: Callable, unroll: int) -> Callable[[tuple, Examples], jax.Array]:
    """((layers, table), data) -> the mean over tasks of the query loss after five steps on the support."""
    loss, adapt = loss_of(work, conv), adapter(work, conv, unroll)

    def one(layers: list, data: Examples) -> jax.Array:
        return loss(adapt(layers, data), data.query_x, data.query_y)

    def mean(params: tuple, data: Examples) -> jax.Array:
        layers, table = params
        if table is not None:
            data = data._replace(support_x=table[data.support_x], query_x=table[data.query_x])
        return jax.vmap(one, (None, 0))(layers, data).mean()

    return mean


def stepper(work: Workload, *, devices: int = 1, patches: bool = False, unroll: int = 1) -> Callable[[], float]:
    """A function that takes one outer step each time it is called and returns the loss before that step."""
    value_and_grad = jax.value_and_grad(mean_loss(work, conv_patches if patches else conv_lax, unroll))
    params: Any = (work.layers, work.table)
    data = work.data
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("tasks",), axis_types=(AxisType.Auto,))
        data = jax.device_put(data, NamedSharding(mesh, P("tasks")))
        params = jax.device_put(params, NamedSharding(mesh, P()))
        whole = value_and_grad

        def part(params: tuple, data: Examples) -> tuple:
            # else the gradient of what all devices hold alike is summed before the mean below
            params = jax.tree.map(lambda x: jax.lax.pcast(x, "tasks", to="varying"), params)
            return jax.lax.pmean(whole(params, data), "tasks")

        value_and_grad = jax.shard_map(part, mesh=mesh, in_specs=(P(), P("tasks")), out_specs=P())
    optimizer = optax.adam(workloads.OUTER_RATE)

    @jax.jit
    def train(params: tuple, state: Any, data: Examples) -> tuple:
        value, slope = value_and_grad(params, data)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state, value

    held = [params, optimizer.init(params)]

    def step() -> float:
        held[0], held[1], value = train(*held, data)
        return float(value)

    return step


def everybody(work: Workload, *, devices: int = 1, unroll: int = 1) -> tuple[Callable[[], float], Callable[[], float]]:
    """(step, proof): all users' inner steps, blocking; the mean loss of their queries, not timed."""
    adapt, data, params = adapter(work, conv_lax, unroll), work.data, (work.layers, work.table)

    def spread(params: tuple, data: Examples) -> list:
        layers, table = params
        if table is not None:
            data = data._replace(support_x=table[data.support_x])
        if devices > 1:
            layers = jax.tree.map(lambda x: jax.lax.pcast(x, "tasks", to="varying"), layers)
        return jax.vmap(adapt, (None, 0))(layers, data)

    if devices > 1:
        mesh = jax.make_mesh((devices,), ("tasks",), axis_types=(AxisType.Auto,))
        data = jax.device_put(data, NamedSharding(mesh, P("tasks")))
        params = jax.device_put(params, NamedSharding(mesh, P()))
        program = jax.jit(jax.shard_map(spread, mesh=mesh, in_specs=(P(), P("tasks")), out_specs=P("tasks")))
    else:
        program = jax.jit(spread)
    held = {}

    def step() -> float:
        held["layers"] = jax.block_until_ready(program(params, data))
        return 0.0

    def proof() -> float:
        query = data.query_x if work.table is None else work.table[data.query_x]
        return float(jax.vmap(loss_of(work, conv_lax))(held["layers"], query, data.query_y).mean())

    return step, proof


def one_user(work: Workload, *, unroll: int = 1) -> Callable[[], float]:
    """A function that adapts the first user and returns the first prediction, data and result on the host."""
    adapt, params = adapter(work, conv_lax, unroll), (work.layers, work.table)
    first = Examples(*(np.asarray(part[0]) for part in work.data))

    @jax.jit
    def program(params: tuple, data: Examples) -> jax.Array:
        layers, table = params
        seen = data if table is None else data._replace(support_x=table[data.support_x], query_x=table[data.query_x])
        return mlp(adapt(layers, seen), seen.query_x)

    return lambda: float(np.asarray(program(params, first))[0, 0])


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = timing.arguments(__doc__, workloads.NAMES)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--conv", default="xla", choices=["xla", "patches"])
    parser.add_argument("--unroll", type=int, default=1)
    return parser.parse_args(words)


def main() -> None:
    given = arguments()
    if given.devices > 1:
        jax.config.update("jax_num_cpu_devices", given.devices)
    began, proof = time.perf_counter(), None
    work, patches = workloads.make(given.workload), given.conv == "patches"
    if given.mode == "adapt":
        step, proof = everybody(work, devices=given.devices, unroll=given.unroll)
    elif given.mode == "one":
        step = one_user(work, unroll=given.unroll)
    else:
        step = stepper(work, devices=given.devices, patches=patches, unroll=given.unroll)
    measured = timing.timed(step, began=began, steps=given.steps, max_s=given.max_s)
    if proof is not None:
        measured |= {"loss": proof(), "losses": [proof()]}
    measured |= timing.on_device(jax.devices()[0].memory_stats())
    timing.answer(given.workload, "bare JAX", jax.__version__, 1 if given.mode == "one" else work.tasks, measured)


if __name__ == "__main__":
    main()
