"""The user model of every inner loop and head: it adapts anew, from the start, at each prediction."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metapers import trees
from metapers.base import Array, Batch, Example, InnerLoop, Key, Model, Params, Tree, UserModel, hide
from metapers.members import Member
from metapers.options import Option


class ReadaptingState(NamedTuple):
    """``examples``: leaves [capacity, ...], in order of time, zeros behind the last; ``count``: int32, how many."""

    examples: Example
    count: Array


def readapting(
    model: Model, inner_loop: InnerLoop, example_spec: Example, *, max_support: int, max_pending: int = 0
) -> UserModel:
    """Adapts from the start on the last ``max_support`` examples whose target is available, then predicts.

    The state holds the ``max_support + max_pending`` examples of the latest ``time``, equal times in order of arrival.
    ``predict`` takes those that have ``available <= time``, of more than ``max_support`` the latest, and calls
    ``inner_loop.adapt`` with the key that it is given. This support is in order of time, its padding last. Where at
    most ``max_pending`` targets are awaited at a time, it is the last ``max_support`` available examples. Where more
    are, an example may be dropped before its target is available.

    The state depends on examples alone, so it stays valid when ``params`` are trained further. A prediction costs one
    adaptation. Each example is predicted alone: with a transductive norm it sees no other. What an adaptation that
    diverged predicts is returned as it is.

    Args:
      model: ``apply`` predicts, without dropout.
      inner_loop: how a user adapts; heads in closed form go through ``closed_form``.
      example_spec: one example's arrays or ``ShapeDtypeStruct``s.
      max_support: examples to adapt on, >= 1.
      max_pending: further examples that are held, >= 0.

    Raises:
      ValueError: max_support < 1, max_pending < 0; in ``observe`` an example that is not like ``example_spec``.

    >>> model = Model(None, lambda params, inputs, mask, key: params.personal["mean"] + inputs, None, None)
    >>> mean = lambda support: jnp.sum(support.targets) / jnp.maximum(support.mask.sum(dtype=float), 1)
    >>> loop = InnerLoop(None, lambda params, support, key: (params._replace(personal={"mean": mean(support)}), None))
    >>> of_last_two = readapting(model, loop, Example(*4 * (jnp.zeros(()),)), max_support=2)
    >>> params = Params({}, {"mean": jnp.zeros(())}, {})
    >>> state = of_last_two.start(params)
    >>> for day, target in enumerate([3.0, 5.0, 7.0]):  # each target becomes available a day later
    ...     example = Example(jnp.zeros(()), jnp.asarray(target), day, day + 1)
    ...     state = of_last_two.observe(params, state, example, day, None)
    >>> [float(of_last_two.predict(params, state, jnp.zeros(()), day, None)) for day in (1, 2, 3)]
    [0.0, 5.0, 6.0]
    """
    for name, value, least in (("max_support", max_support, 1), ("max_pending", max_pending, 0)):
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}")
    capacity = max_support + max_pending

    def start(params: Params) -> ReadaptingState:
        rows = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), example_spec)
        return ReadaptingState(rows, jnp.zeros((), jnp.int32))

    def predict(params: Params, user_state: ReadaptingState, inputs: Tree, time: Array, key: Key | None) -> Tree:
        adapted, _ = inner_loop.adapt(params, _support(user_state, time, max_support), key)
        one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], inputs)
        return jax.tree.map(lambda leaf: leaf[0], model.apply(adapted, one, jnp.ones(1, bool), None))

    def observe(
        params: Params, user_state: ReadaptingState, example: Example, time: Array, key: Key | None
    ) -> ReadaptingState:
        return _inserted(user_state, _like(example_spec, example))

    return UserModel(start, predict, observe)


def _support(state: ReadaptingState, time: Array, size: int) -> Batch:
    """The last ``size`` held examples whose target is available at ``time``, first and in order of time; then zeros."""
    held = state.examples
    rows = jnp.arange(held.time.size, dtype=jnp.int32)
    known = (rows < state.count) & (held.available <= jnp.asarray(time, held.available.dtype))
    later = jnp.cumsum(known[::-1], dtype=jnp.int32)[::-1]  # how many known ones there are from each row on
    chosen = known & (later <= size)
    order = jnp.argsort(~chosen, stable=True)[:size]
    inputs, targets, mask = jax.tree.map(lambda leaf: leaf[order], (held.inputs, held.target, chosen))
    return Batch(hide(inputs, mask), hide(targets, mask), mask)


def _inserted(state: ReadaptingState, example: Example) -> ReadaptingState:
    """The state with one example more, in its place by time; where all rows are taken, the earliest is dropped."""
    capacity = state.examples.time.size
    rows = jax.tree.map(lambda held, new: jnp.concatenate([held, new[None]]), state.examples, example)
    empty = jnp.append(jnp.arange(capacity, dtype=jnp.int32) >= state.count, False)
    order = jnp.lexsort((rows.time, empty))  # stable: of equal times the one that came first
    surplus = jnp.maximum(state.count + 1 - capacity, 0)
    order = jax.lax.dynamic_slice(order, (surplus,), (capacity,))
    return ReadaptingState(jax.tree.map(lambda leaf: leaf[order], rows), state.count + 1 - surplus)


def _like(spec: Example, example: Example) -> Example:
    """The example as arrays; ValueError unless it has the structure, shapes and dtypes of ``spec``."""
    times = {name: jnp.asarray(getattr(example, name), getattr(spec, name).dtype) for name in ("time", "available")}
    example = jax.tree.map(jnp.asarray, example._replace(**times))
    if jax.tree.structure(spec) != jax.tree.structure(example):
        raise ValueError(
            f"example must have the structure {jax.tree.structure(spec)}, got {jax.tree.structure(example)}"
        )
    for name, old, new in zip(trees.names(spec), jax.tree.leaves(spec), jax.tree.leaves(example)):
        if (new.shape, new.dtype) != (tuple(old.shape), old.dtype):
            expected, got = f"{old.dtype}{list(old.shape)}", f"{new.dtype}{list(new.shape)}"
            raise ValueError(f"example: leaf {name!r} must be {expected}, got {got}")
    return example


READAPTING = Member(
    readapting,
    options={
        "max_support": Option(64, least=1, doc="examples to adapt on: the last whose target is available"),
        "max_pending": Option(
            0, least=0, doc="further examples that are held, so that targets which come late displace no available one"
        ),
    },
    needs=("model", "inner_loop", "example_spec"),
    example={"max_support": 3},
    variants=({"max_support": 3, "max_pending": 1},),
    doc="an adaptation from the start, before each prediction, on the last available examples",
)
