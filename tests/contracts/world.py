"""A small world written out by hand: a model with shared and personal parameters, ragged tasks, poison behind masks."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from metapers.base import Array, Batch, InnerLoop, Key, Learner, LossFn, Model, Params, Task, Tree

USERS, EXAMPLES, DIM = 5, 4, 3


def bilinear() -> Model:
    """outputs = inputs · map · w + b, with a shared map [d, d] and a personal w [d] and b."""

    def init(key: Key) -> Params:
        first, second = jax.random.split(key)
        shared = {"map": jnp.eye(DIM) + 0.2 * _noise(first, (DIM, DIM))}
        return Params(shared, {"b": jnp.full((), 0.1), "w": _noise(second, (DIM,))}, {})  # b weakly typed on purpose

    def apply(params: Params, inputs: Array, mask: Array, key: Key | None) -> Array:
        return inputs @ params.shared["map"] @ params.personal["w"] + params.personal["b"]

    def groups(params: Params) -> Tree:
        names = ("param", "personal", "inner")
        return Params(*(jax.tree.map(lambda _, name=name: name, part) for name, part in zip(names, params)))

    return Model(init, apply, lambda params, support, key: params.personal, groups)


def _noise(key: Key, shape: tuple[int, ...]) -> Array:
    # uniform in -1..1, the same numbers in float32 and float64, which jax.random.uniform does not give
    return jax.random.bits(key, shape, jnp.uint32).astype(jnp.zeros(()).dtype) / 2.0**31 - 1


def squared(model: Model) -> LossFn:
    """½ (output - target)² of each example."""

    def loss_fn(params: Params, batch: Batch, key: Key | None) -> Array:
        return 0.5 * jnp.square(model.apply(params, batch.inputs, batch.mask, key) - batch.targets)

    return loss_fn


def point_loss(params: Params, batch: Batch, key: Key | None) -> Array:
    """½‖theta − target‖² of each example: the family whose meta-gradients are formulas."""
    return 0.5 * jnp.sum(jnp.square(params.personal["theta"][None] - batch.targets), axis=1)


def one_step(loss_fn: LossFn, rate: float, *, first_order: bool = False) -> InnerLoop:
    """One plain gradient step on the personal parameters, written out; the yardstick of the learners' tests."""

    def adapt(params: Params, support: Batch, key: Key | None) -> tuple[Params, Tree]:
        def loss(personal: Tree) -> Array:
            losses = loss_fn(params._replace(personal=personal), support, key)
            return jnp.sum(jnp.where(support.mask, losses, 0)) / jnp.maximum(support.mask.sum(), 1).astype(losses.dtype)

        grads = jax.grad(loss)(params.personal)
        grads = jax.lax.stop_gradient(grads) if first_order else grads
        end = jax.tree.map(lambda p, g: p - rate * g, params.personal, grads)
        return params._replace(personal=end), jax.tree.map(lambda a, b: jnp.stack([a, b]), params.personal, end)

    return InnerLoop(lambda params: {}, adapt)


@cache
def _drawn(seed: int, users: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shots = rng.integers(1, EXAMPLES + 1, size=(2, users, 1))
    return rng.normal(size=(2, users, EXAMPLES, DIM)), np.arange(EXAMPLES) < shots


def tasks(seed: int, users: int = USERS, *, first: int = 0, poisoned: bool = False) -> tuple[Task, Array]:
    """``users`` stacked tasks with 1 to EXAMPLES examples each and one masked user, the last.

    ``poisoned``: the same, with NaN in every input, target and time behind a mask and another row for the masked user.
    """
    inputs, mask = _drawn(seed, users)
    there = np.arange(users) < users - 1
    bad = ~(mask & there[:, None]) if poisoned else np.zeros_like(mask)
    targets = np.where(bad, np.nan, np.sin(inputs.sum(-1)) + 0.3)
    inputs = np.where(bad[..., None], np.nan, inputs)
    time = np.where(bad, np.nan, np.arange(EXAMPLES) + np.array([0, EXAMPLES])[:, None, None])
    rows = np.arange(first, first + users, dtype=np.int32)
    rows = np.where(there, rows, 10_000).astype(np.int32) if poisoned else rows
    dtype = jnp.zeros(()).dtype
    of_examples = (inputs, targets, time, time + 0.5)
    inputs, targets, time, available = (values.astype(dtype) for values in of_examples)
    support, query = (Batch(inputs[i], targets[i], mask[i], time[i], available[i]) for i in range(2))
    notes = {"period": np.zeros(users, np.int32)}
    return jax.tree.map(jnp.asarray, (Task(support, query, rows, notes), there))


def distance(a: Tree, b: Tree) -> float:
    """Largest difference between two trees of the same structure; keys by their data; NaN where NaN meets a number."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    worst = 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = numbers(x), numbers(y)
        assert x.shape == y.shape and x.dtype == y.dtype, (x.shape, y.shape, x.dtype, y.dtype)
        gap = np.abs(x.astype(np.float64) - y.astype(np.float64))
        worst = np.maximum(worst, np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, gap).max(initial=0.0))
    return float(worst)


def numbers(leaf: Array) -> np.ndarray:
    """One leaf as plain numbers, typed keys as their data."""
    keyed = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(leaf) if keyed else leaf)
    return array.astype(np.int8) if array.dtype == bool else array


def on_batch(learner: Learner) -> Callable:
    """``learner.update`` of fresh tasks alone: (state, tasks, mask, key) -> (state, info), the ``losses`` in the info.

    Losses [n + m] are those of the fresh tasks, then of the remembered ones, where the learner has a memory.
    """

    def update(state: Tree, tasks: Task, mask: Array, key: Key) -> tuple[Tree, dict]:
        state, scores, info = learner.update(state, {"fresh": (tasks, mask)}, key)
        return state, {**info, "losses": jnp.concatenate([one["losses"] for one in scores.values()])}

    return update
