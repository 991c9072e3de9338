"""The workloads of the meta-step benchmark as plain arrays: shapes, data and first parameters, from one fixed key.

W1        sinusoid MLP 1-40-40-1, 25 tasks of 10 support and 10 query examples, inner rate 0.01
W2-5w1s   Omniglot network of four convolutions (64 filters, 3x3, stride 2, batch-statistics norm, relu, mean over
          space, linear), 28x28x1, 5 ways, 1 shot, 32 tasks, inner rate 0.4
W2-20w1s  the same with 20 ways and 16 tasks
W3        recommender: item table 2000x32 (moved by the outer loop only) -> 64 -> 64 -> 1 (inner and outer loop),
          256 users of 16 support and 16 query ratings, inner rate 0.01

Everywhere five inner steps, second order, Adam 1e-3 outside. The numbers are random: the shapes are what matters.
"""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NAMES = ("W1", "W2-5w1s", "W2-20w1s", "W3")
INNER_STEPS = 5
OUTER_RATE = 1e-3
SIZES = {"W1": (1, 40, 40, 1), "W3": (32, 64, 64, 1)}
ITEMS = 2000
FILTERS = 64


class Examples(NamedTuple):
    """Every task's data: leaves [tasks, n, ...]."""

    support_x: jax.Array
    support_y: jax.Array
    query_x: jax.Array
    query_y: jax.Array


class Workload(NamedTuple):
    """``layers``: dense ``w`` [in, out], ``b``; convolutions also ``gain`` and ``offset``. ``table``: W3's items."""

    name: str
    tasks: int
    rate: float
    layers: list[dict[str, Any]]
    table: jax.Array | None
    data: Examples


def make(name: str) -> Workload:
    """The workload of that name. Raises ValueError for another name."""
    if name not in NAMES:
        raise ValueError(f"workload must be one of {NAMES}, got {name!r}")
    key = jax.random.split(jax.random.key(0), 12)
    if name == "W1":
        xs, xq = jax.random.normal(key[5], (25, 10, 1)), jax.random.normal(key[6], (25, 10, 1))
        return Workload(name, 25, 0.01, mlp(key, SIZES[name]), None, Examples(xs, jnp.sin(xs), xq, jnp.sin(xq)))
    if name == "W3":
        ids = [jax.random.randint(k, (256, 16), 0, ITEMS) for k in (key[5], key[6])]
        ratings = [jax.random.uniform(k, (256, 16, 1)) for k in (key[8], key[9])]
        table = jax.random.normal(key[7], (ITEMS, SIZES[name][0]))
        examples = Examples(ids[0], ratings[0], ids[1], ratings[1])
        return Workload(name, 256, 0.01, mlp(key, SIZES[name]), table, examples)
    ways, tasks = (5, 32) if name == "W2-5w1s" else (20, 16)
    layers = [conv(key[i], 1 if i == 0 else FILTERS) for i in range(4)] + [dense(key[4], FILTERS, ways)]
    images = [jax.random.uniform(k, (tasks, ways, 28, 28, 1)) for k in (key[5], key[6])]
    labels = jnp.tile(jnp.arange(ways), (tasks, 1))
    return Workload(name, tasks, 0.4, layers, None, Examples(images[0], labels, images[1], labels))


def mlp(key: jax.Array, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    return [dense(key[i], inputs, outputs) for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:]))]


def dense(key: jax.Array, inputs: int, outputs: int) -> dict[str, Any]:
    return {"w": jax.random.normal(key, (inputs, outputs)) / inputs**0.5, "b": jnp.zeros(outputs)}


def conv(key: jax.Array, channels: int) -> dict[str, Any]:
    w = jax.random.normal(key, (3, 3, channels, FILTERS)) * (2 / (9 * channels)) ** 0.5
    return {"w": w, "b": jnp.zeros(FILTERS), "gain": jnp.ones(FILTERS), "offset": jnp.zeros(FILTERS)}


def save(name: str, path: str) -> None:
    """Writes a workload as an .npz, for a program that has no JAX."""
    made = make(name)
    arrays = {f"data/{field}": value for field, value in made.data._asdict().items()}
    arrays |= {f"layer/{i}/{part}": value for i, layer in enumerate(made.layers) for part, value in layer.items()}
    if made.table is not None:
        arrays["table"] = made.table
    given: dict[str, Any] = {part: np.asarray(value) for part, value in arrays.items()}
    np.savez(path, rate=made.rate, **given)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=NAMES, required=True)
    parser.add_argument("--save", required=True, metavar="FILE.npz")
    chosen = parser.parse_args()
    save(chosen.workload, chosen.save)
