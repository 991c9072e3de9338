"""The batched matrix products of W2's outer step: how many there are, and how fast the machine makes them alone.

A convolution is the product of patches [rows, 9 · channels] and weights [9 · channels, filters], one for each task.
Its gradients, and theirs, are products of three kinds of the same sizes: ``forward`` [rows, k] [k, f], ``weights``
[k, rows] [rows, f], ``inputs`` [rows, f] [f, k].

    python -m benchmarks.products -w W2-5w1s --devices 2
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import timing
from benchmarks.workloads import FILTERS, INNER_STEPS

WAYS, TASKS = {"W2-5w1s": 5, "W2-20w1s": 20}, {"W2-5w1s": 32, "W2-20w1s": 16}
SIDES = (14, 7, 4, 2)  # of the squares that each convolution puts out
EQUATIONS = {"forward": "trk,tkf->trf", "weights": "trk,trf->tkf", "inputs": "trf,tkf->trk"}
LARGE, LARGER = 2048, 8192  # sides of products large enough for all cores, and for an accelerator


class Product(NamedTuple):
    """One kind of product of one layer, ``times`` in a task's outer step."""

    layer: int
    kind: str
    rows: int
    k: int
    f: int
    times: int

    @property
    def flop(self) -> int:
        """Of one product."""
        return 2 * self.rows * self.k * self.f


def of_task(workload: str) -> list[Product]:
    """All products of one task's second-order outer step of s inner steps.

    A layer of a step makes one product of each kind, and so does the query's. On the way back through the step each
    of its three products has two of its own, which are again two of each kind: 3 s + 1 of each. Nobody asks for the
    gradient of the images, so their layer has none of the kind ``inputs`` and, of the other two, 2 s + 1.
    """
    found, kinds = [], tuple(EQUATIONS)
    layers = [(WAYS[workload] * side**2, 9 * (FILTERS if i else 1), FILTERS) for i, side in enumerate(SIDES)]
    layers.append((WAYS[workload], FILTERS, WAYS[workload]))
    for i, sizes in enumerate(layers):
        times = 3 * INNER_STEPS + 1 if i else 2 * INNER_STEPS + 1
        found += [Product(i, kind, *sizes, times) for kind in (kinds if i else kinds[:2])]
    return found


def flop_per_task(workload: str) -> int:
    """Multiplications and additions in the products of one task's outer step: 1.25e9 (5 ways), 4.99e9 (20 ways)."""
    return sum(product.flop * product.times for product in of_task(workload))


def rates(workload: str, *, devices: int = 1, repeats: int = 9, max_s: float = 5.0) -> dict[str, Any]:
    """GFLOP/s of the step's products one after another, of the fastest of them, and of one large product.

    ``products``: {layer and kind: GFLOP/s}, each for all tasks at once, the tasks split over the devices.
    """
    seconds, flop, each = 0.0, 0, {}
    every = [product for product in of_task(workload) if product.layer < len(SIDES)]
    for product in every:
        took = best(batched(product, TASKS[workload], devices), repeats, max_s / (len(every) + 1))
        work = product.flop * TASKS[workload]
        seconds, flop = seconds + took * product.times, flop + work * product.times
        each[f"convolution {product.layer}, {product.kind}"] = work / took / 1e9
    side = LARGE if jax.default_backend() == "cpu" else LARGER
    square = jax.random.normal(jax.random.key(0), (side, side), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    took = best(lambda: multiply(square, square).block_until_ready(), repeats, max_s / (len(every) + 1))
    return {
        "gflop_per_s": flop / seconds / 1e9,
        "fastest": max(each.values()),
        "large": 2 * side**3 / took / 1e9,
        "products": each,
    }


def batched(product: Product, tasks: int, devices: int) -> Callable[[], Any]:
    """A function that makes the product for all tasks, blocking."""
    shapes = {"r": product.rows, "k": product.k, "f": product.f, "t": tasks}
    equation = EQUATIONS[product.kind]
    sizes = [[shapes[axis] for axis in term] for term in equation.split("->")[0].split(",")]
    a, b = (jax.random.normal(jax.random.key(i), size, jnp.float32) for i, size in enumerate(sizes))

    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(equation, a, b)

    if devices > 1:
        mesh = jax.make_mesh((devices,), ("tasks",), axis_types=(AxisType.Auto,))
        a, b = jax.device_put((a, b), NamedSharding(mesh, P("tasks")))
        multiply = jax.shard_map(multiply, mesh=mesh, in_specs=(P("tasks"), P("tasks")), out_specs=P("tasks"))
    program = jax.jit(multiply)
    return lambda: program(a, b).block_until_ready()


def best(call: Callable[[], Any], repeats: int, max_s: float) -> float:
    """Seconds of the median of up to ``repeats`` calls, at least three, after two that are not counted."""
    for _ in range(2):
        call()
    took, stop = [], time.perf_counter() + max_s
    while len(took) < repeats and (len(took) < 3 or time.perf_counter() < stop):
        before = time.perf_counter()
        call()
        took.append(time.perf_counter() - before)
    return sorted(took)[len(took) // 2]


def main() -> None:
    parser = timing.arguments(__doc__, tuple(WAYS))
    parser.add_argument("--devices", type=int, default=1)
    given = parser.parse_args()
    if given.devices > 1:
        jax.config.update("jax_num_cpu_devices", given.devices)
    found = rates(given.workload, devices=given.devices, repeats=max(3, given.steps), max_s=given.max_s)
    gflop, tasks = flop_per_task(given.workload) / 1e9, TASKS[given.workload]
    took = 1e3 * tasks * gflop / found["gflop_per_s"]
    measured = {"ms_per_step": took, "ms_min": took, "gflop_per_task": gflop, **found}
    timing.answer(given.workload, "the products alone", jax.__version__, tasks, measured)


if __name__ == "__main__":
    main()
