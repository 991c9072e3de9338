"""One period of learning as compiled chunks of a scan: the loop that knows the shapes and no method.

A chunk is ``chunk`` outer steps in one program; the last one is masked, so every period of every arm that has
the same learner runs the same executable. Seeds are a leading axis of the state, spread over the devices of a
``mesh`` whose axis is "seeds"; over another axis the learner itself may split its work (``aggregate.sharded``).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from metapers import keys, trees
from metapers.base import Array, Key, Learner, Params, Sampler, Scores, Task, Tree
from metapers.placement import place


class Program(NamedTuple):
    """The compiled functions of a learner on a family; state, keys and infos have a leading seed axis."""

    init: Callable[[Params, Tree], Tree]  # (params [seeds, ...], data) -> state
    chunk: Callable[..., tuple[Tree, dict[str, Array]]]
    """(state, keys, data, step, last, begin) -> (state, infos); ``begin``: the first outer step of the period."""
    consolidate: Callable[..., Tree]  # (state, keys, data, step) -> state, ``step`` outer steps after the start
    data: Callable[[tuple[int, int]], Tree]  # window -> its data where the program expects them
    length: int  # outer steps in a chunk
    mesh: Mesh | None  # where everything lies


class Progress(NamedTuple):
    """What the caller gets after each chunk: the state after ``step`` outer steps of the period."""

    step: int
    state: Tree
    infos: dict[str, np.ndarray]  # each [seeds, steps of the chunk]


class Diverged(FloatingPointError):
    """A loss became NaN or infinite; ``state`` is the last good one, after ``step`` outer steps."""

    def __init__(self, message: str, step: int, state: Tree):
        super().__init__(message)
        self.step = step
        self.state = state


def program(
    learner: Learner, sampler: Sampler, *, chunk: int, mesh: Mesh | None = None, watched: bool = False
) -> Program:
    """Compiles ``learner`` on the tasks of ``sampler`` once for a whole stream, ``chunk`` outer steps a dispatch.

    Every random draw is a function of the seed's key, a name, the outer steps since the arm began and the first one of
    the period. So a run continued from a saved state ends bit for bit where an uninterrupted one does. No two steps of
    an arm draw alike, unless the sampler repeats a batch.

    Args:
      learner: the outer loop.
      sampler: gives the tasks of each step.
      chunk: outer steps of a dispatch, >= 1.
      mesh: where seeds or users are spread, or None.
      watched: whether infos hold ``task_losses`` and ``task_mask`` [seeds, chunk, slots], of fresh tasks.

    Raises:
      ValueError: if ``chunk`` is below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be >= 1, got {chunk}")

    def draw(key: Key, data: Tree, step: Array, since: Array, order: Key) -> tuple[Task, Array]:
        tasks, mask = sampler.sample(data, step, since, order, key)
        return keys.numbered(tasks), mask

    def init(params: Params, data: Tree) -> Tree:
        zero, root = jnp.int32(0), keys.root(0)
        shapes, _ = jax.eval_shape(draw, root, data, zero, zero, root)
        tasks = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.vmap(lambda one: learner.init(one, tasks))(params)

    def steps(state: Tree, key: Key, data: Tree, step: Array, last: Array, begin: Array) -> tuple[Tree, dict]:
        order = keys.named(key, "order", begin)

        def body(state: Tree, offset: Array) -> tuple[Tree, dict]:
            now = step + offset
            since = now - begin
            same = now if sampler.repeats == 1 else now - since % sampler.repeats  # the first step with this batch
            tasks, mask = draw(keys.named(key, "step", same), data, now, since, order)
            update_key = keys.named(keys.named(key, "step", now), "update")
            after, scores, info = learner.update(state, {"fresh": (tasks, mask)}, update_key)
            live = now < last
            infos = _scalars(scores, info, learner.params(after), mask, live)
            if watched:
                infos |= {"task_losses": scores["fresh"]["losses"], "task_mask": mask & live}
            return trees.select(live, after, state), infos

        return jax.lax.scan(body, state, jnp.arange(chunk, dtype=jnp.int32))

    def consolidate(state: Tree, key: Key, data: Tree, step: Array) -> Tree:
        key = keys.named(key, "consolidate", step)
        return learner.consolidate(
            state,
            lambda index: draw(keys.named(key, "draw", index), data, index, index * sampler.repeats, key),
            keys.named(key, "learner"),
        )

    over_seeds = partial(_over_seeds, mesh=mesh)
    data = lambda window: place(sampler.data(window), mesh, by_seed=False)
    return Program(jax.jit(init), over_seeds(steps), over_seeds(consolidate), data, chunk, mesh)


def run(
    compiled: Program,
    state: Tree,
    seed_keys: Array,
    data: Callable[[int], Tree],
    *,
    period: int,
    start: int,
    stop: int,
    before: int = 0,
) -> Iterator[Progress]:
    """Runs outer steps ``start`` to ``stop`` of a period, a chunk at a time, and yields after each.

    ``data(step)`` gives the period's data before each chunk; inside a chunk nothing moves between host and device.

    Args:
      compiled: of the arm.
      state: of the learner.
      seed_keys: [seeds].
      data: step -> the period's data.
      period: for messages.
      start: outer steps of the period that are done.
      stop: outer steps of the period.
      before: outer steps that the arm took before the period; random draws depend on ``before`` + step.

    Raises:
      Diverged: if a loss is NaN or infinite, naming period, step and seed; it carries the last good state.
    """
    for step in range(start, stop, compiled.length):
        fed = data(step)
        numbers = tuple(np.int32(number) for number in (before + step, before + stop, before))
        numbers = place(numbers, compiled.mesh, by_seed=False)
        with jax.transfer_guard("disallow"):
            after, infos = compiled.chunk(state, seed_keys, fed, *numbers)
        done = min(compiled.length, stop - step)
        infos = {name: np.asarray(value)[:, :done] for name, value in infos.items()}
        bad = np.argwhere(~infos.pop("finite"))
        if bad.size:
            seed, offset = bad[np.argmin(bad[:, 1])]
            raise Diverged(
                f"a loss is NaN or infinite at step {step + offset} of period {period}, seed {seed}; "
                f"the last good state is that of step {step}",
                step,
                state,
            )
        state = after
        yield Progress(step + done, state, infos)


def _scalars(scores: Scores, info: dict, params: Params, mask: Array, live: Array) -> dict[str, Array]:
    """Scalars of a step for people: the mean loss over the fresh users, whether all is finite, what is scalar."""
    fresh = scores["fresh"]["losses"]
    watched = [one["losses"] for one in scores.values()] + jax.tree.leaves(params)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in watched]))
    scalars = {name: value for name, value in info.items() if jnp.ndim(value) == 0}
    count = jnp.maximum(jnp.sum(mask, dtype=fresh.dtype), 1)
    return scalars | {
        "loss": jnp.sum(jnp.where(mask, fresh, jnp.zeros_like(fresh))) / count,
        "finite": finite | ~live,
    }


def _over_seeds(function: Callable, mesh: Mesh | None) -> Callable:
    """jit(vmap) of a function of (state, key, *rest) over the leading axis of the first two, split over the mesh.

    Where a device has one seed, the function runs without the axis: a second batch axis beside the users' costs a
    quarter of a small step on a CPU, whose library takes products with one.
    """

    def mapped(state: Tree, key: Key, *rest):
        if key.shape[0] == 1:
            state, key = jax.tree.map(lambda leaf: leaf[0], (state, key))
            return jax.tree.map(lambda leaf: leaf[None], function(state, key, *rest))
        return jax.vmap(function, in_axes=(0, 0) + (None,) * len(rest))(state, key, *rest)

    if mesh is None or "seeds" not in mesh.axis_names:
        return jax.jit(mapped)
    seeds, all_of_it = PartitionSpec("seeds"), PartitionSpec()

    def split(state: Tree, key: Key, *rest):
        specs = (seeds, seeds) + (all_of_it,) * len(rest)
        # no collective inside: each device runs its own seeds, so nothing is there for the replication check
        return jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=seeds, check_vma=False)(state, key, *rest)

    return jax.jit(split)
