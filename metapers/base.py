"""Every shape that a method fills, on one page.

A method is a lower-case factory that returns one of these NamedTuples of pure functions. In every one of
them ``state`` comes first in and first out, ``key`` comes last, and what is optional is keyword-only. A step
returns ``(state, scores, info)``: ``state`` is carried and saved; ``scores`` are arrays by task that a memory may read;
``info`` is for people and for the loop's alarms, and is never read back.

Terms: a *stream* is a sequence of *periods* (periods of time); a period holds *users*; a user's data in a period
is a *task* with a *support* set to adapt on and a *query* set to evaluate on. Parameters are *shared* (moved by
the learner only), *personal* (moved by a user's own adaptation) or *inner* (what the inner loop has learned).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any
Array = jax.Array
Key = jax.Array


class Params(NamedTuple):
    """Nested dicts of float arrays; the one argument of everything that computes."""

    shared: Tree
    personal: Tree  # in the meta-state: every user's start; after adaptation: one user's own
    inner: Tree  # what the inner loop has learned (rates, moments); {} if nothing


class Batch(NamedTuple):
    """Examples of one user: leaves [n, ...]; ``mask`` bool [n], False where a row is padding.

    ``time`` and ``available`` are float [n], in days since the first example of the source. None: not given. Every
    source gives both; they are zeros where it does not know the time of an example.
    """

    inputs: Tree
    targets: Tree
    mask: Array
    time: Array | None = None  # when the example happens
    available: Array | None = None  # when its target becomes known; equal to ``time`` where there is no delay


class Task(NamedTuple):
    """One user's data in a period; many users are a leading axis on every leaf.

    ``user`` is the int32 row of the user in the bank. ``notes`` are arrays that travel along: ``period`` (int32), and
    ``repeat`` (int32), the number of earlier tasks of the same user in the same batch.
    """

    support: Batch
    query: Batch
    user: Array
    notes: dict[str, Array]


LossFn = Callable[[Params, Batch, Key | None], Array]  # -> losses [n], one per example
TaskLoss = Callable[[Params, Task, Key], tuple[Array, Tree]]  # -> (one user's scalar loss, aux)


class Objective(NamedTuple):
    """What a model's outputs mean: numbers, classes, rankings."""

    loss: Callable[[Tree, Tree], Array]
    """(outputs, targets) -> [n]: the negative log-likelihood of each example, up to a constant."""
    sample: Callable[[Tree, Key], Tree]  # (outputs, key) -> targets drawn from that likelihood
    scores: Callable[[Tree, Tree, Array], dict[str, Array]]  # (outputs, targets, mask) -> one user's metrics
    labels: Callable[[Tree], tuple[Tree, Array]] | None = None
    """outputs -> (targets [c, n, ...], weights [c, n]): finitely many labels whose weighted squared scores are
    the exact expectation under that likelihood (every class; sigma points); None: only sampled labels."""


class Model(NamedTuple):
    """A network cut into shared and personal parameters; ``key`` None means evaluation."""

    init: Callable[[Key], Params]  # inner = {}
    apply: Callable[[Params, Tree, Array, Key | None], Tree]  # (params, inputs, mask, key) -> outputs [n, ...]
    write: Callable[[Params, Batch, Key | None], Tree]  # (params, support, key) -> personal, without gradients
    groups: Callable[[Params], Tree]  # params -> the name of each leaf's group, from its Variable type
    taps: Callable[[Params, Tree, Tree, Array, Key | None], tuple[Tree, dict[str, Array]]] | None = None
    """(params, inputs, offsets, mask, key) -> (outputs, {layer: its inputs [n, ...]}).

    ``offsets`` {layer: [n, ...]} are added to the outputs of layers. So a gradient with respect to them, at zeros, is
    that of the layers' outputs. None: the model has none. The Kronecker form of a Fisher matrix holds for outputs
    without adaptation only."""


Sources = Mapping[str, tuple[Task, Array]]
"""Where the tasks of a step come from: (tasks, mask [n]) by name. ``fresh``: new tasks; ``memory``: remembered ones."""
Scores = dict[str, dict[str, Array]]
"""By name of the source: arrays [n, ...], one entry for each task; ``losses`` at least (0 for masked tasks)."""
Compose = Callable[[Sources], Sources]
"""Sources -> sources: what is support and what is query of the tasks that a step trains on."""


class TaskFamily(NamedTuple):
    """Tasks to train on: data on the host before each chunk, drawn from on the device inside the scan."""

    data: Callable[[tuple[int, int], int, int], Tree]
    """(window, step, num) -> leaves of the same shapes every time; ``window``: first and last period to draw from,
    both included. (t, t) is a plain stream, (0, t) all so far, (0, 0) the first only: an arm is a window."""
    sample: Callable[[Tree, Array, int, Key], tuple[Task, Array]]  # (data, step, n, key) -> (tasks, mask [n])
    roll: Callable[[tuple[int, int]], Tree] | None = None
    """window -> what ``of_users`` reads beside ``data``: its training users, ``count`` of them; None:
    every task has a new user, so that there is no list of them."""
    of_users: Callable[[Tree, Array, Key], Task] | None = None
    """(data | roll, places int32 [n], key) -> a task of the users at these places of the list, each below ``count``."""


class Sampler(NamedTuple):
    """Which training users have a task in an outer step."""

    data: Callable[[tuple[int, int]], Tree]  # window -> what ``sample`` reads
    sample: Callable[[Tree, Array, Array, Key, Key], tuple[Task, Array]]
    """(data, step, since, order, key) -> (tasks, mask [slots]).

    ``step``: outer steps since the arm began; ``since``: since the period began; ``order``: one key for all steps of a
    period; ``key``: of the step."""
    slots: int  # places of a batch
    passes: Callable[[tuple[int, int]], int | None] = lambda window: None
    """window -> the batches after which no task is left; None: no end."""
    repeats: int = 1  # outer steps that have the same batch


class InnerLoop(NamedTuple):
    """How one user adapts."""

    init: Callable[[Params], Tree]  # params -> inner
    adapt: Callable[[Params, Batch, Key | None], tuple[Params, Tree]]
    """(params, support, key) -> (params, path); shared untouched; path: personal [steps + 1, ...], start first."""


class Example(NamedTuple):
    """One example of one user, with the times at which its parts are known; n examples: leaves [n, ...].

    Times are float scalars in days from one origin for all users, best the start of the stream: float32 resolves three
    minutes at 20,000 days.
    """

    inputs: Tree  # without a leading axis
    target: Tree
    time: Array  # when the inputs are known and the prediction is due
    available: Array  # when the target becomes known, usually >= ``time``


class UserModel(NamedTuple):
    """One user as a state machine, for serving, the bank and prequential evaluation alike.

    Nothing of a target may reach a prediction at a time before ``Example.available``, although ``observe`` gets the
    whole example. ``params`` are shared by all users and may differ from call to call. ``user_state`` is a pytree of
    arrays of fixed shapes. ``time`` is the time of the call, in days. ``key`` None means that nothing is drawn.
    """

    start: Callable[[Params], Tree]  # params -> user_state, of a user without examples
    predict: Callable[[Params, Tree, Tree, Array, Key | None], Tree]
    """(params, user_state, inputs, time, key) -> outputs; both of one example, without a leading axis."""
    observe: Callable[[Params, Tree, Example, Array, Key | None], Tree]
    """(params, user_state, example, time, key) -> user_state."""


class Aggregator(NamedTuple):
    """How the losses of many users become one gradient; combinators wrap another aggregator."""

    init: Callable[[Params], Tree]
    total: Callable[..., tuple[Tree, tuple[Array, Tree]]]
    """(state, task_loss, params, tasks, mask, key) -> (sums, (losses [n], aux)); only sums leave a device."""
    finish: Callable[..., tuple[Tree, Params, dict]]
    """(state, sums, key, *, expected) -> (state, grads, info); ``expected``: the size of the batch, replayed
    tasks included; it does not depend on the mask."""
    sensitivity: Callable[[], float] = lambda: math.inf
    """How far one user, with all tasks of a batch, can move the gradient times ``expected``, in the Euclidean norm."""
    whole_users: bool = False
    """Whether it needs the tasks of a user together: parts of a batch are cut from tasks in order of users then."""
    merge: Callable[[Tree, Tree], Tree] | None = None
    """(sums of a part, sums of the part that follows in order of users) -> sums of both; None: they are added."""


class Penalty(NamedTuple):
    """What keeps earlier periods alive in the parameters."""

    init: Callable[[Params], Tree]
    value: Callable[[Tree, Params], Array]  # (state, params) -> scalar; its gradient is added after ``finish``
    on_task: Callable[[Tree, Params, Params, Task, Key], Array]  # (state, params, adapted, task, key) -> scalar
    observe: Callable[[Tree, Params, Params, Params], Tree]  # (state, before, after, grads) -> state, every step
    consolidate: Callable[[Tree, Params, "Draw", Key], Tree]  # (state, params, draw, key) -> state, at a boundary


class Update(NamedTuple):
    """How the gradients of the sources of a step become one direction."""

    init: Callable[[Params], Tree]
    points: Callable[[Tree, Params], dict[str, Params]]
    """(state, params) -> where gradients are wanted, by name; the first one's losses are the step's."""
    combine: Callable[[Tree, Mapping[tuple[str, str], Params], Params, Key], tuple[Tree, Params, dict]]
    """(state, gradients by (source, point), params, key) -> (state, direction, info)."""
    apart: bool = False
    """Whether it needs the gradient of each source. If not, all sources are one batch, with the name ``all``."""


class Memory(NamedTuple):
    """A fixed number of items from the past: any pytree with a leading axis."""

    init: Callable[[Tree], Tree]  # item_spec: one item's arrays or ShapeDtypeStructs -> state
    insert: Callable[[Tree, Tree, Array, Mapping[str, Array], Array, Key], Tree]
    """(state, items, users [n], scores, mask [n], key) -> state.

    ``scores``: arrays [n, ...] of the step that trained on the items, by name; empty where no step did."""
    sample: Callable[[Tree, int, Key], tuple[Tree, Array, Array]]
    """(state, n, key) -> (items [n, ...], slots int32 [n], mask [n]); a slot is -1 where the mask is False."""
    touch: Callable[[Tree, Array, Mapping[str, Array]], Tree]
    """(state, slots int32 [n], scores) -> state, after a step that trained on the items of these slots."""
    forget: Callable[[Tree, Array], Tree]  # (state, user) -> state without the user's bytes
    influence: tuple[str, ...] = ()  # what of a user ``forget`` cannot remove


class Boundary(NamedTuple):
    """When an arm consolidates. Training calls ``update`` on the host after each chunk; one answer for all seeds."""

    init: Callable[[], Tree]
    update: Callable[[Tree, np.ndarray, np.ndarray, bool], tuple[Tree, bool]]
    """(state, losses [steps, users], mask [steps, users], ends) -> (state, whether a boundary is here). ``losses``: of
    fresh tasks, the mean over seeds; ``ends``: whether a period of the calendar ends here."""
    watches: bool = False  # whether it reads losses; without, they come empty, [0, 0]


Draw = Callable[[Array], tuple[Task, Array]]  # i -> (tasks, mask): the i-th batch since the last boundary


class Learner(NamedTuple):
    """The outer loop. All that learning carries is one pytree, ``state``."""

    init: Callable[[Params, Task], Tree]  # of tasks (a stacked batch) only shapes are read
    update: Callable[[Tree, Sources, Key], tuple[Tree, Scores, dict]]  # (state, sources, key) -> (state, scores, info)
    consolidate: Callable[[Tree, Draw, Key], Tree]
    forget: Callable[[Tree, Array], Tree]  # (state, user) -> state without the user's bytes
    params: Callable[[Tree], Params]  # what is evaluated, saved and served (slow weights, averages)
    influence: tuple[str, ...] = ()  # what of a user ``forget`` cannot remove


class Cohort(NamedTuple):
    """Held-out users as they are known on the host: numpy, ragged, each user's examples in order of time.

    ``offsets`` [users + 1]: user u's examples are rows offsets[u]:offsets[u + 1] of ``inputs`` and ``targets``.
    ``time`` and ``available`` are those of ``Batch``: in days, None where not given. Every source gives both. ``time``
    never falls within a user.
    """

    inputs: Tree  # numpy [total, ...]
    targets: Tree  # numpy [total, ...]
    offsets: np.ndarray  # int64 [users + 1]
    users: np.ndarray  # int32 [users], rows in the bank
    periods: np.ndarray  # int32 [users], the period each one is judged in; -1: the whole life
    returning: np.ndarray  # bool [users], seen in an earlier period
    example_periods: np.ndarray  # int32 [total], the period of each example
    time: np.ndarray | None = None  # float32 [total]
    available: np.ndarray | None = None  # float32 [total]


class Stream(NamedTuple):
    """What a source of users gives: a family to train on, cohorts to be judged on, and where it all came from."""

    family: TaskFamily
    held_out: Callable[..., Cohort]
    """(split, period) -> cohort; period None: each user's whole life."""
    periods: int
    users: tuple[str, ...]  # outside names by row
    provenance: Mapping[str, Any]
    training: Callable[[int | None], Cohort]  # the training users' examples up to and with a period (None: all)
    oracle: Callable[[Cohort, int, int], Tree] | None = None
    """(cohort, shots, horizon) -> Bayes-optimal outputs [total, ...] given each user's first ``shots`` examples;
    only where the truth is known. ``horizon``: rows before it may be support and are returned as they come."""


def example_loss(model: Model, objective: Objective) -> LossFn:
    """The per-example loss of a model under an objective: (params, batch, key) -> [n]."""

    def loss_fn(params: Params, batch: Batch, key: Key | None) -> Array:
        return objective.loss(model.apply(params, batch.inputs, batch.mask, key), batch.targets)

    return loss_fn


def masked_mean(values: Array, mask: Array, *, shrink: float = 0.0) -> Array:
    """Mean of ``values`` [n] where ``mask`` [n]; 0 where nothing is left. The only place that averages.

    ``shrink`` adds that many examples of value zero, so that few examples weigh less: sum / (max(n, 1) + shrink).

    >>> float(masked_mean(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([True, True, False])))
    2.0
    """
    total = jnp.sum(jnp.where(mask, values, jnp.zeros_like(values)))
    count = jnp.sum(mask, dtype=values.dtype)
    return total / (jnp.maximum(count, 1) + shrink)


def hide(tree: Tree, mask: Array) -> Tree:
    """Zeros in place of every row whose ``mask`` is False, whatever stood there; leaves [n, ...], mask [n].

    Run on padded data before it meets a loss: a NaN behind a mask would otherwise come back in the gradient.
    """

    def one(leaf: Array) -> Array:
        wide = jnp.reshape(mask, mask.shape + (1,) * (leaf.ndim - mask.ndim))
        return jnp.where(wide, leaf, jnp.zeros_like(leaf))

    return jax.tree.map(one, tree)


def hide_rows(batch: Batch, mask: Array) -> Batch:
    """The batch with ``mask`` [n] as its mask, and zeros in all its other fields where ``mask`` is False.

    >>> hide_rows(Batch({}, jnp.array([1.0, 2.0]), jnp.ones(2, bool)), jnp.array([True, False])).targets.tolist()
    [1.0, 0.0]
    """
    return hide(batch._replace(mask=()), mask)._replace(mask=mask)


def hide_padding(tasks: Task, mask: Array) -> Task:
    """Stacked tasks with every padded example and every masked user (``mask`` bool [n]) turned into zeros."""

    def batch(part: Batch) -> Batch:
        return hide_rows(part, part.mask & jnp.reshape(mask, mask.shape + (1,) * (part.mask.ndim - mask.ndim)))

    return tasks._replace(support=batch(tasks.support), query=batch(tasks.query))
