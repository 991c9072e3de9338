"""EWC: stay near the last period's parameters where the adapted model's likelihood depends on them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metapers import keys, trees
from metapers.base import Array, Draw, InnerLoop, Key, Objective, Params, Penalty, Task, Tree, hide_padding, masked_mean
from metapers.members import Member
from metapers.options import Option, is_carried
from metapers.penalties.none import none


class EwcState(NamedTuple):
    """``anchor``: the last period's end; ``importance``: like parameters, >= 0; ``active``: bool, after a period."""

    anchor: Params
    importance: Params
    active: Array


def ewc(
    objective: Objective,
    apply: Callable[[Params, Tree, Array, Key | None], Tree],
    inner_loop: InnerLoop,
    strength: float,
    *,
    decay: float = 1.0,
    draws: int = 8,
    exact: bool = True,
) -> Penalty:
    """Elastic weight consolidation: strength / 2 * sum_j importance_j (theta_j - anchor_j)^2.

    When a period ends, importance <- decay * importance + F and anchor <- theta, where

        F_j = mean over users, mean over query examples, E_y [ (d/d theta_j log p(y | x, adapted(theta)))^2 ].

    The likelihood is the *adapted* model's and the derivative is taken *through* the adaptation to the meta-parameters
    theta: a parameter that adaptation overwrites is unimportant, whatever the adapted model makes of it. y follows
    the model's own likelihood, never the data: ``exact`` is the whole expectation, by ``objective.labels``; otherwise
    one ``objective.sample`` for each example. Squares are of each example's score, never of a mean gradient. The
    mean runs over the users of ``draws`` batches draw(0), draw(1), ...; users without query examples do not count.

    Cost of ``consolidate``: for each user one forward pass through adaptation, and one backward pass for each query
    example and label; memory: n_query times the parameters. Users and labels are taken one after another.

    Raises ValueError for a ``strength`` that is negative or not finite, ``decay`` outside [0, 1], ``draws`` < 1, and
    ``exact`` for an objective that has no finite set of labels.

    Sources: Kirkpatrick et al., 2017 (arXiv:1612.00796), eq. 3; the running sum with decay: Schwarz et al., 2018
    (arXiv:1805.06370), section 4; the per-example exact and sampled Fisher: van de Ven, 2025 (arXiv:2502.11756).
    """
    _check(objective, strength, decay, draws, exact)
    squared_scores = _squared_scores(objective, apply, inner_loop, exact)

    def init(params: Params) -> EwcState:
        return EwcState(trees.copy(params), trees.zeros(params), jnp.zeros((), bool))

    def value(state: EwcState, params: Params) -> Array:
        moved = trees.subtract(params, state.anchor)
        distance = trees.dot(state.importance, jax.tree.map(jnp.square, moved))
        return jnp.where(state.active, 0.5 * strength * distance, jnp.zeros_like(distance))

    def consolidate(state: EwcState, params: Params, draw: Draw, key: Key) -> EwcState:
        fresh = _mean_over_users(squared_scores, params, draw, draws, key)
        importance = trees.add(trees.scale(state.importance, decay), fresh)
        return EwcState(trees.copy(params), importance, jnp.ones_like(state.active))

    return none()._replace(init=init, value=value, consolidate=consolidate)


def _squared_scores(objective: Objective, apply: Callable, inner_loop: InnerLoop, exact: bool) -> Callable:
    """One user's (params, task, key) -> Params: the mean over query examples of the expected squared score."""

    def labels(outputs: Tree, key: Key) -> tuple[Tree, Array]:
        if exact and objective.labels is not None:
            return objective.labels(outputs)
        leaf = jax.tree.leaves(outputs)[0]
        targets = objective.sample(outputs, key)
        return jax.tree.map(lambda x: x[None], targets), jnp.ones((1, leaf.shape[0]), leaf.dtype)

    def squared_scores(params: Params, task: Task, key: Key) -> Params:
        def predict(params: Params) -> Tree:
            adapted, _ = inner_loop.adapt(params, task.support, keys.named(key, "adapt"))
            return apply(adapted, task.query.inputs, task.query.mask, None)

        # The adaptation is linearised once; every example's score is then one pull of a cotangent through it.
        outputs, pull = jax.vjp(predict, params)

        def add_label(total: Params, label: tuple[Tree, Array]) -> tuple[Params, None]:
            targets, weights = label  # made from the outputs' values: constants, no derivative runs through them
            losses, pull_loss = jax.vjp(lambda outputs: objective.loss(outputs, targets), outputs)
            one_by_one = jnp.eye(losses.shape[0], dtype=losses.dtype)
            scores = jax.vmap(lambda row: pull(*pull_loss(row))[0])(one_by_one)
            mean = jax.tree.map(lambda score: _mean_square(score, weights, task.query.mask), scores)
            return trees.add(total, mean), None

        total, _ = jax.lax.scan(add_label, trees.zeros(params), labels(outputs, keys.named(key, "labels")))
        return total

    return squared_scores


def _mean_square(score: Array, weights: Array, mask: Array) -> Array:
    """Mean over examples of weight * score^2; score [n, ...], weights and mask [n]."""
    flat = jnp.reshape(score, (score.shape[0], math.prod(score.shape[1:])))
    mean = jax.vmap(masked_mean, in_axes=(1, None))(weights[:, None] * jnp.square(flat), mask)
    return jnp.reshape(mean, score.shape[1:])


def _mean_over_users(squared_scores: Callable, params: Params, draw: Draw, draws: int, key: Key) -> Params:
    """Mean over all users of all draws that have a query example; users one after another, to bound the memory."""

    def add_user(carry: tuple[Params, Array], one: tuple[Task, Array, Key]) -> tuple[tuple[Params, Array], None]:
        total, count = carry
        task, mask, draw_key = one
        counts = mask & jnp.any(task.query.mask)
        mine = squared_scores(params, task, keys.of_task(draw_key, task))
        total = trees.add(total, trees.select(counts, mine, trees.zeros(mine)))
        return (total, count + counts.astype(count.dtype)), None

    def add_draw(carry: tuple[Params, Array], i: Array) -> tuple[tuple[Params, Array], None]:
        tasks, mask = draw(i)
        draw_keys = jnp.broadcast_to(keys.named(key, "fisher", i), mask.shape)
        return jax.lax.scan(add_user, carry, (hide_padding(tasks, mask), mask, draw_keys))

    start = (trees.zeros(params), jnp.zeros((), jnp.int32))
    (total, count), _ = jax.lax.scan(add_draw, start, jnp.arange(draws, dtype=jnp.int32))
    return jax.tree.map(lambda x: x / jnp.maximum(count, 1).astype(x.dtype), total)


def _check(objective: Objective, strength: float, decay: float, draws: int, exact: bool) -> None:
    if not is_carried(strength) and not 0 <= strength < math.inf:
        raise ValueError(f"strength must be finite and >= 0, got {strength}")
    if not is_carried(decay) and not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    if draws < 1:
        raise ValueError(f"draws must be >= 1, got {draws}")
    if exact and objective.labels is None:
        raise ValueError("exact must be False for an objective without labels, got True: it can only be sampled")


EWC = Member(
    ewc,
    options={
        "strength": Option(above=0.0, traced=True, doc="weight of half the importance-weighted squared distance"),
        "decay": Option(1.0, least=0.0, most=1.0, traced=True, doc="what is left of the importance at each boundary"),
        "draws": Option(4, least=1, doc="batches over which the importance is averaged"),
        "exact": Option(True, doc="the whole expectation over labels, instead of one drawn label for each example"),
    },
    needs=("objective", "apply", "inner_loop"),
    paper="Kirkpatrick et al. 2017, arXiv:1612.00796; Schwarz et al. 2018, arXiv:1805.06370",
    example={"strength": 5.0, "draws": 2},
    variants=({"exact": False, "decay": 0.5},),
    doc="elastic weight consolidation: stay near where the adapted model's likelihood depends on the parameters",
)
