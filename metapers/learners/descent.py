"""One outer step: users' losses to a gradient, the gradient to new parameters. MAML, Reptile and joint differ only
in what one user's loss is."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from metapers import base, keys, trees
from metapers.base import Aggregator, Array, Batch, Draw, Key, Learner, Params, Penalty, Task, Tree
from metapers.options import Option

UserLoss = Callable[[Params, Task, Array, Key], tuple[Array, Array, Params]]
"""(params, task, step, key) -> (surrogate, loss, adapted): what is differentiated, what is told, the user's parameters;
``step``: outer steps taken so far."""


RMSE_EPSILON = Option(
    None,
    type=float,
    above=0.0,
    not_with={"likelihood": "a negative log-likelihood can be negative and has no root"},
    doc="a user's loss is sqrt(mean squared error + this); None: the mean",
)
"""The option of learners that can descend the root of a user's mean squared error."""


class Phase(NamedTuple):
    """What one user's loss is from an outer step on, until the next phase begins."""

    start: int
    user_loss: UserLoss


class DescentState(NamedTuple):
    """What gradient descent on users' losses carries from step to step."""

    params: Params
    opt_state: Tree
    aggregator: Tree
    penalty: Tree  # {} without a penalty
    step: Array  # int32, outer steps taken


def joined(task: Task) -> Batch:
    """Support and query of one user as one batch, along the examples."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), task.support, task.query)


def descent(
    user_loss: UserLoss | Sequence[Phase],
    optimizer: optax.GradientTransformation,
    *,
    aggregator: Aggregator,
    penalty: Penalty | None = None,
    inner: Callable[[Params], Tree] | None = None,
) -> Learner:
    """Gradient descent on the aggregate over users of ``user_loss`` plus ``penalty``, by an optax optimizer.

    The optimizer sees all of ``Params`` (shared, personal, inner) as one tree, and as the extra argument ``step`` the
    outer step, for those that ask for it (``scheduled``). ``inner(params)`` fills the inner parameters where they
    come empty. ``user_loss`` may be several in turn, phases by ascending start, the first at 0: of each step only that
    of its phase is computed, whether or not seeds are vmapped, for they take their steps together. Without a penalty
    nothing is computed for one. Info: ``losses`` [n] (0 for masked users), ``penalty`` and ``grad_norm`` (scalars), and
    what the aggregator tells.
    """

    phases = [Phase(0, user_loss)] if callable(user_loss) else list(user_loss)

    def init(params: Params, tasks: Task) -> DescentState:
        if inner is not None and not jax.tree.leaves(params.inner):
            params = params._replace(inner=inner(params))
        params = _fresh(params)
        kept = penalty.init(params) if penalty else {}
        return DescentState(params, optimizer.init(params), aggregator.init(params), kept, jnp.zeros((), jnp.int32))

    def task_loss(phase: Phase, state: DescentState, params: Params, task: Task, key: Key) -> tuple[Array, Tree]:
        surrogate, loss, adapted = phase.user_loss(params, task, state.step, key)
        if penalty is None:
            return surrogate, {"loss": loss}
        extra = penalty.on_task(state.penalty, params, adapted, task, keys.named(key, "penalty"))
        return surrogate + extra, {"loss": loss, "penalty": extra}

    def update(state: DescentState, tasks: Task, mask: Array, key: Key) -> tuple[DescentState, dict]:
        tasks = base.hide_padding(tasks, mask)

        def total(phase: Phase, state: DescentState, tasks: Task, mask: Array, key: Key) -> tuple[Tree, tuple]:
            return aggregator.total(
                state.aggregator, partial(task_loss, phase, state), state.params, tasks, mask, keys.named(key, "users")
            )

        now = sum((_of_all_seeds(state.step) >= phase.start).astype(jnp.int32) for phase in phases[1:])
        turns = [partial(total, phase) for phase in phases]
        sums, (_, told) = jax.lax.switch(now, turns, state, tasks, mask, key)
        kept, grads, info = aggregator.finish(state.aggregator, sums, keys.named(key, "finish"), expected=mask.shape[0])
        before, plain, cost = state.params, grads, jnp.zeros_like(told["loss"], shape=())
        if penalty:
            cost, extra = jax.value_and_grad(penalty.value, argnums=1)(state.penalty, before)
            cost, grads = cost + base.masked_mean(told["penalty"], mask), trees.add(grads, extra)
        after, opt_state = _moved(optimizer, state, grads)
        watched = penalty.observe(state.penalty, before, after, plain) if penalty else {}
        info = {**info, "losses": base.hide(told["loss"], mask), "penalty": cost, "grad_norm": optax.tree.norm(grads)}
        return DescentState(after, opt_state, kept, watched, state.step + 1), info

    def consolidate(state: DescentState, draw: Draw, key: Key) -> DescentState:
        if penalty is None:
            return state
        return state._replace(penalty=penalty.consolidate(state.penalty, state.params, draw, key))

    # parameters and importances are sums over users: no single one can be taken out
    return Learner(init, update, consolidate, lambda state, user: state, lambda state: state.params)


@jax.custom_batching.custom_vmap
def _of_all_seeds(step: Array) -> Array:
    # one number for all seeds, so that a choice by it stays a choice: by a batch of numbers all branches would run
    return step


@_of_all_seeds.def_vmap
def _(axis_size: int, in_batched: list[bool], step: Array) -> tuple[Array, bool]:
    return (step[0] if in_batched[0] else step), False


def _fresh(params: Params) -> Params:
    # fresh buffers, for the caller's may be donated; and no weak types, which the first update would turn into strong
    # ones and so compile the second anew
    return jax.tree.map(lambda x: jnp.array(x, x.dtype, copy=True), params)


def _moved(optimizer: optax.GradientTransformation, state: DescentState, grads: Params) -> tuple[Params, Tree]:
    told = optax.with_extra_args_support(optimizer)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of an int32 count
        updates, opt_state = told.update(grads, state.opt_state, state.params, step=state.step)
    return cast(Params, optax.apply_updates(state.params, updates)), opt_state
