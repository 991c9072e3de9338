"""Adaptation without an outer loop, through metapers' public path: every user at once, and one user being served."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import ours, workloads
from benchmarks.workloads import Workload
from metapers import inner
from metapers.base import Batch, InnerLoop, LossFn, Params, Tree, example_loss, masked_mean
from metapers.scores import objectives
from metapers.scoring import adapting
from metapers.serving import Served

TOGETHER, CALLS = "together", "calls"


def loop_of(work: Workload, unroll: int) -> tuple[LossFn, InnerLoop]:
    loss_fn = example_loss(ours.model_of(work), ours.objective_of(work))
    return loss_fn, inner.gradient(loss_fn, workloads.INNER_STEPS, work.rate, unroll=unroll)


def everybody(
    work: Workload, *, devices: int = 1, unroll: int = 1, blocks: int = 0
) -> tuple[Callable[[], float], Callable[[], float]]:
    """(step, proof): all users' inner steps, blocking; the mean loss of their queries, not timed."""
    (loss_fn, loop), (tasks, _), params = loop_of(work, unroll), ours.tasks_of(work), ours.params_of(work)

    def one(params: Params, support: Batch) -> Tree:
        return loop.adapt(params, support, None)[0].personal

    mesh = jax.make_mesh((devices,), ("users",), axis_types=(AxisType.Auto,)) if devices > 1 else None
    if mesh is not None:
        params = jax.device_put(params, NamedSharding(mesh, P()))
        tasks = jax.device_put(tasks, NamedSharding(mesh, P("users")))
    program, held = jax.jit(adapting.each(one, block=blocks, mesh=mesh)), {}

    def step() -> float:
        held["personal"] = jax.block_until_ready(program(params, tasks.support))
        return 0.0

    def proof() -> float:
        def loss(personal: Tree, query: Batch) -> jax.Array:
            return masked_mean(loss_fn(params._replace(personal=personal), query, None), query.mask)

        return float(jnp.mean(jax.jit(jax.vmap(loss))(held["personal"], tasks.query)))

    return step, proof


def one_user(work: Workload, path: str, *, unroll: int = 1) -> Callable[[], float]:
    """A function that adapts the first user to a support set on the host and returns the first of the predictions
    for that user's query, on the host: ``together``, one call; ``calls``, two, as if the parameters were stored."""
    model, (_, loop), params = ours.model_of(work), loop_of(work, unroll), ours.params_of(work)
    support_x, support_y, query_x, _ = (np.asarray(part[0]) for part in work.data)
    served = Served(cast(Any, None), model, objectives.squared_error(), params, {}, {}, loop)

    def together() -> float:
        return float(served.adapt_and_predict(support_x, support_y, query_x)[0, 0])

    def calls() -> float:
        after = served.adapt(support_x, support_y, step=-1)
        return float(np.asarray(served.predict(query_x, after))[0, 0])

    return {TOGETHER: together, CALLS: calls}[path]
