"""One outer step: users' losses to a gradient, the gradient to new parameters. MAML, Reptile and joint differ only
in what one user's loss is."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from metapers import base, keys, trees
from metapers.base import (
    Aggregator,
    Array,
    Batch,
    Draw,
    Key,
    Learner,
    Params,
    Penalty,
    Scores,
    Sources,
    Task,
    Tree,
    Update,
)
from metapers.learners import sources as of
from metapers.options import Option

UserLoss = Callable[[Params, Task, Array, Key], tuple[Array, Array, Params]]
"""(params, task, step, key) -> (surrogate, loss, adapted): what is differentiated, what is logged, the user's
parameters;
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
    update: Tree  # of the update rule; {} without one
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
    rule: Update | None = None,
    inner: Callable[[Params], Tree] | None = None,
) -> Learner:
    """Gradient descent on the aggregate over users of ``user_loss`` plus ``penalty``, by an optax optimizer.

    ``rule`` makes one direction of the gradients of the sources; None: that of all tasks in one batch.

    The optimizer sees all of ``Params`` (shared, personal, inner) as one tree, and as the extra argument ``step`` the
    outer step, for those that ask for it (``scheduled``). ``inner(params)`` fills the inner parameters where they
    come empty. ``user_loss`` may be several in turn, phases by ascending start, the first at 0: of each step only that
    of its phase is computed, whether or not seeds are vmapped, for they take their steps together. Without a penalty
    nothing is computed for one. Scores: ``losses`` [n] of each source (0 for masked users). Info: ``penalty`` and
    ``grad_norm`` (scalars), and those of the aggregator and of the rule.

    Raises:
      ValueError: for a rule that needs the gradient of each source beside an aggregator that needs the tasks of a user
        together: a user's bound would hold for each source alone.
    """
    if rule is not None and rule.apart and aggregator.whole_users:
        raise ValueError(
            "update_rule must take all sources as one batch where users are bounded as a whole, got one by source"
        )

    phases = [Phase(0, user_loss)] if callable(user_loss) else list(user_loss)

    def init(params: Params, tasks: Task) -> DescentState:
        if inner is not None and not jax.tree.leaves(params.inner):
            params = params._replace(inner=inner(params))
        params = _fresh(params)
        kept, own = penalty.init(params) if penalty else {}, rule.init(params) if rule else {}
        return DescentState(
            params, optimizer.init(params), aggregator.init(params), kept, own, jnp.zeros((), jnp.int32)
        )

    def update(state: DescentState, sources: Sources, key: Key) -> tuple[DescentState, Scores, dict]:
        before = state.params
        state, grads, info, by_task = _directed(rule, gradient, state, sources, key)
        mask = jnp.concatenate([mask for _, mask in sources.values()])
        plain, cost = grads, jnp.zeros_like(by_task["loss"], shape=())
        if penalty:
            cost, extra = jax.value_and_grad(penalty.value, argnums=1)(state.penalty, before)
            cost, grads = cost + base.masked_mean(by_task["penalty"], mask), trees.add(grads, extra)
        after, opt_state = _moved(optimizer, state, grads)
        watched = penalty.observe(state.penalty, before, after, plain) if penalty else {}
        state = state._replace(params=after, opt_state=opt_state, penalty=watched, step=state.step + 1)
        scores = of.scores(base.hide(by_task["loss"], mask), sources)
        return state, scores, {**info, "penalty": cost, "grad_norm": optax.tree.norm(grads)}

    gradient = partial(_gradient, phases, partial(_task_loss, penalty), aggregator)

    def consolidate(state: DescentState, draw: Draw, key: Key) -> DescentState:
        if penalty is None:
            return state
        return state._replace(penalty=penalty.consolidate(state.penalty, state.params, draw, key))

    # parameters and importances are sums over users: no single one can be taken out
    held = ("parameters", "the state of the optimizer", *(("the state of the penalties",) if penalty else ()))
    return Learner(init, update, consolidate, lambda state, user: state, lambda state: state.params, held)


def _task_loss(
    penalty: Penalty | None, phase: Phase, state: DescentState, params: Params, task: Task, key: Key
) -> tuple[Array, Tree]:
    surrogate, loss, adapted = phase.user_loss(params, task, state.step, key)
    if penalty is None:
        return surrogate, {"loss": loss}
    extra = penalty.on_task(state.penalty, params, adapted, task, keys.named(key, "penalty"))
    return surrogate + extra, {"loss": loss, "penalty": extra}


def _gradient(
    phases: Sequence[Phase],
    task_loss: Callable,
    aggregator: Aggregator,
    state: DescentState,
    point: Params,
    tasks: Task,
    mask: Array,
    key: Key,
) -> tuple[Tree, Params, dict, dict[str, Array]]:
    """(the aggregator's state, gradient, info, {"loss": [n], "penalty": [n]}) of one batch at ``point``."""
    tasks = base.hide_padding(tasks, mask)

    def total(phase: Phase, state: DescentState, tasks: Task, mask: Array, key: Key) -> tuple[Tree, tuple]:
        loss = partial(task_loss, phase, state)
        return aggregator.total(state.aggregator, loss, point, tasks, mask, keys.named(key, "users"))

    now = sum((_of_all_seeds(state.step) >= phase.start).astype(jnp.int32) for phase in phases[1:])
    sums, (_, by_task) = jax.lax.switch(now, [partial(total, phase) for phase in phases], state, tasks, mask, key)
    finish = keys.named(key, "finish")
    return *aggregator.finish(state.aggregator, sums, finish, expected=mask.shape[0]), by_task


def _directed(
    rule: Update | None, gradient: Callable, state: DescentState, sources: Sources, key: Key
) -> tuple[DescentState, Params, dict, dict[str, Array]]:
    """(state with what aggregator and rule carry, direction, info, {"loss": [n], "penalty": [n]}) of all sources."""
    tasks, mask = of.joined(sources)
    if rule is None:
        kept, grads, info, by_task = gradient(state, state.params, tasks, mask, key)
        return state._replace(aggregator=kept), grads, info, by_task
    parts = of.apart(tasks, mask, sources) if rule.apart else {"all": (tasks, mask)}
    grads, first, info = {}, {}, {}
    for point, params in rule.points(state.update, state.params).items():
        for name, part in parts.items():
            kept, grads[name, point], more, by_task = gradient(state, params, *part, key)
            state, info = state._replace(aggregator=kept), more | info
            first.setdefault(name, by_task)
    by_task = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *first.values())
    kept, direction, more = rule.combine(state.update, grads, state.params, keys.named(key, "update"))
    return state._replace(update=kept), direction, {**info, **more}, by_task


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
    with_step = optax.with_extra_args_support(optimizer)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of an int32 count
        updates, opt_state = with_step.update(grads, state.opt_state, state.params, step=state.step)
    return cast(Params, optax.apply_updates(state.params, updates)), opt_state
