"""The outer step of a workload through metapers' public path: models, objectives, inner loop, learner, aggregator.

--devices N splits the users over N CPU devices (``aggregate.sharded``); --chunk K > 1 takes K steps per dispatch
in the scan in which a period is trained (``metapers.run.loop.program``) instead of one call of ``learner.update``.
--blocks B takes B of a device's users at a time (``aggregate.blocks``), --unroll U inner steps a turn of their loop.
--repeated computes in every inner step what never changes (for `leads.py`: the library does it once);
--primal moves every kernel itself, none in its dual form.
--mode adapt and --mode one: see ``ours_adapt.py``.
"""

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import timing, workloads
from benchmarks.workloads import Examples, Workload
from metapers import aggregate, inner, keys, learners, models
from metapers.aggregate.sums import pad
from metapers.base import Batch, Learner, Model, Objective, Params, Sampler, Task, example_loss, masked_mean
from metapers.inner import dual
from metapers.run import loop
from metapers.scores import objectives


def model_of(work: Workload) -> Model:
    if work.name.startswith("W2"):
        return models.conv4(work.layers[-1]["b"].shape[0], workloads.FILTERS)
    sizes = workloads.SIZES[work.name]
    return models.mlp(sizes) if work.table is None else models.embedding_mlp(work.table.shape[0], sizes)


def params_of(work: Workload) -> Params:
    """The workload's first parameters under the names that metapers' models give them."""
    denses = {
        f"dense_{i}": {"kernel": layer["w"], "bias": layer["b"]}
        for i, layer in enumerate(work.layers)
        if "gain" not in layer
    }
    if work.table is not None:
        return Params({"embed": {"table": work.table}}, {"mlp": denses}, {})
    if not work.name.startswith("W2"):
        return Params({}, denses, {})
    personal = {"head": {"kernel": work.layers[-1]["w"], "bias": work.layers[-1]["b"]}}
    for i, layer in enumerate(work.layers[:-1]):
        personal[f"conv_{i}"] = {"kernel": layer["w"], "bias": layer["b"]}
        personal[f"norm_{i}"] = {"scale": layer["gain"], "shift": layer["offset"]}
    return Params({}, personal, {})


def tasks_of(work: Workload, multiple: int = 1) -> tuple[Task, jax.Array]:
    """The workload's tasks, no example masked; users who are masked fill their number up to a multiple."""

    def batch(x: jax.Array, y: jax.Array) -> Batch:
        return Batch(x, y, jnp.ones(y.shape[:2], bool))

    data: Examples = work.data
    support, query = batch(data.support_x, data.support_y), batch(data.query_x, data.query_y)
    users = jnp.arange(work.tasks, dtype=jnp.int32)
    tasks = Task(support, query, users, {"period": jnp.zeros_like(users)})
    return pad(tasks, jnp.ones(work.tasks, bool), multiple)


def objective_of(work: Workload) -> Objective:
    return objectives.cross_entropy() if work.name.startswith("W2") else objectives.squared_error()


def learner_of(work: Workload, mesh: Mesh | None, unroll: int = 1, blocks: int = 0) -> Learner:
    loss_fn = example_loss(model_of(work), objective_of(work))
    aggregator = aggregate.blocks(aggregate.mean(), blocks) if blocks else aggregate.mean()
    aggregator = aggregator if mesh is None else aggregate.sharded(aggregator, mesh)
    adapt = inner.gradient(loss_fn, workloads.INNER_STEPS, work.rate, unroll=unroll)
    return learners.maml(loss_fn, adapt, optax.adam(workloads.OUTER_RATE), aggregator=aggregator)


def stepper(work: Workload, *, devices: int = 1, unroll: int = 1, blocks: int = 0) -> Callable[[], float]:
    """A function that takes one outer step each time it is called and returns the loss before that step."""
    mesh = jax.make_mesh((devices,), ("users",), axis_types=(AxisType.Auto,)) if devices > 1 else None
    learner = learner_of(work, mesh, unroll, blocks)
    tasks, mask = tasks_of(work, devices)
    state, root = jax.jit(learner.init)(params_of(work), tasks), keys.root(0)
    if mesh is not None:
        tasks, mask = jax.device_put((tasks, mask), NamedSharding(mesh, P("users")))
        state, root = jax.device_put((state, root), NamedSharding(mesh, P()))

    def update(state: Any, tasks: Task, mask: jax.Array, root: jax.Array) -> tuple[Any, jax.Array]:
        key = keys.named(root, "step", state.step)
        state, scores, _ = learner.update(state, {"fresh": (tasks, mask)}, key)
        return state, masked_mean(scores["fresh"]["losses"], mask)

    train, held = jax.jit(update, donate_argnums=0), [state]

    def step() -> float:
        held[0], loss = train(held[0], tasks, mask, root)
        return float(loss)

    return step


def chunks(work: Workload, *, chunk: int, devices: int = 1, unroll: int = 1, blocks: int = 0) -> Callable[[], float]:
    """A function that takes ``chunk`` outer steps in one dispatch, as training does; returns the last one's loss."""
    mesh = jax.make_mesh((devices,), ("users",), axis_types=(AxisType.Auto,)) if devices > 1 else None
    drawn = tasks_of(work, devices)
    if mesh is not None:
        drawn = jax.device_put(drawn, NamedSharding(mesh, P("users")))
    sampler = Sampler(lambda window: drawn, lambda data, step, since, order, key: data, len(drawn[1]))
    program = loop.program(learner_of(work, mesh, unroll, blocks), sampler, chunk=chunk)
    params = jax.tree.map(lambda leaf: leaf[None], params_of(work))
    state, root = program.init(params, drawn), keys.root(0)[None]
    if mesh is not None:
        state, root = jax.device_put((state, root), NamedSharding(mesh, P()))
    held, done = [state], [0]

    def step() -> float:
        numbers = np.int32(done[0]), np.int32(done[0] + chunk), np.int32(0)
        held[0], infos = program.chunk(held[0], root, drawn, *numbers)
        done[0] += chunk
        return float(infos["loss"][0, -1])

    return step


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    from benchmarks import ours_adapt

    parser = timing.arguments(__doc__, workloads.NAMES)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--unroll", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=1)
    parser.add_argument("--path", choices=[ours_adapt.TOGETHER, ours_adapt.CALLS], default=ours_adapt.TOGETHER)
    parser.add_argument("--repeated", action="store_true")
    parser.add_argument("--primal", action="store_true")
    return parser.parse_args(words)


def main() -> None:
    from benchmarks import ours_adapt

    given = arguments()
    if given.repeated:  # the module: the package names the function in it alike
        importlib.import_module("metapers.inner.support_loss").cut = lambda fn, moving, fixed: (fn, fixed)
    if given.primal:
        dual.cheaper = lambda equation, steps: False
    if given.devices > 1:
        jax.config.update("jax_num_cpu_devices", given.devices)
    began, proof = time.perf_counter(), None
    work = workloads.make(given.workload)
    options = {"devices": given.devices, "unroll": given.unroll, "blocks": given.blocks}
    if given.mode == "adapt":
        step, proof = ours_adapt.everybody(work, **options)
    elif given.mode == "one":
        step = ours_adapt.one_user(work, given.path, unroll=given.unroll)
    else:
        step = chunks(work, chunk=given.chunk, **options) if given.chunk > 1 else stepper(work, **options)
    measured = timing.timed(step, began=began, steps=given.steps, max_s=given.max_s)
    measured |= {name: measured[name] / given.chunk for name in ("ms_per_step", "ms_min", "cpu_ms_per_step")}
    if proof is not None:
        measured |= {"loss": proof(), "losses": [proof()]}
    measured |= timing.on_device(jax.devices()[0].memory_stats())
    tasks = 1 if given.mode == "one" else work.tasks
    timing.answer(given.workload, "metapers", jax.__version__, tasks, measured)


if __name__ == "__main__":
    main()
