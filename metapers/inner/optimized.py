"""Adaptation by a few steps of any optax optimizer on the personal parameters."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from metapers import trees
from metapers.base import Array, Batch, InnerLoop, Key, LossFn, Params, Tree
from metapers.inner.gradient import FIRST_ORDER, STEPS, SUPPORT_LOSS
from metapers.inner.support_loss import Write, begin, check_weights, path_of, support_loss
from metapers.members import Member
from metapers.options import Choice, Option


def optimized(
    loss_fn: LossFn,
    steps: int,
    optimizer: optax.GradientTransformation,
    *,
    first_order: bool = False,
    pseudo_count: float = 0.0,
    proximal_weight: float = 0.0,
    minibatch: int = 0,
    write: Write | None = None,
) -> InnerLoop:
    """``steps`` times personal <- personal + optimizer(∇ (Σ loss + c ‖personal - start‖²) / (max(n, 1) + m)).

    The optimizer starts afresh for every user; it sees the personal parameters as one tree, so a clip by the global
    norm is one of a user's whole gradient. ``optax.sgd(rate)`` is ``inner.gradient``; Adam with b1 = 0 is the inner
    optimizer of Reptile (Nichol, Achiam, Schulman 2018, arXiv:1803.02999, section 6.1), there with moments that live
    on from task to task. ``first_order``, ``pseudo_count`` m, ``proximal_weight`` c and ``write`` as in
    ``inner.gradient``. A user without any support takes no step.

    ``minibatch`` > 0: each step has the next so many examples of the support in an order drawn from the key, and none
    stands twice in a step; n times their mean stands for Σ loss. 0: every step has all. Reptile's update rewards
    gradients of different minibatches that agree (there section 5.1); where every step has all there is only one, to
    agree with itself.

    Second order differentiates the optimizer itself. Adam divides by √(ν + eps_root) + eps, and √ has an infinite
    slope where a gradient, and so ν, is exactly 0 (a dead unit, an input that is always 0): give eps_root > 0 (1e-8 or
    more in float32), or ``first_order``. So has the norm of ``optax.clip_by_global_norm``, and ``clip`` here has not.
    Adam's first step is almost the sign of the gradient, which has almost no slope: its second-order terms are small
    next to those of plain descent.

    >>> loss_fn = lambda params, batch, key: 0.5 * jnp.square(params.personal["w"] - batch.targets)
    >>> support = Batch({}, jnp.array([1.0, 3.0]), jnp.array([True, True]))
    >>> start = Params({}, {"w": jnp.zeros(())}, {})
    >>> optimized(loss_fn, 2, optax.chain(optax.clip(1.0), optax.sgd(0.5))).adapt(start, support, None)[1]["w"].tolist()
    [0.0, 0.5, 1.0]

    Raises:
      ValueError: steps or minibatch < 0, pseudo_count or proximal_weight not finite or < 0.
    """
    for name, value in (("steps", steps), ("minibatch", minibatch)):
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    check_weights(pseudo_count, proximal_weight)

    def adapt(params: Params, support: Batch, key: Key | None = None) -> tuple[Params, Tree]:
        if steps == 0:
            return params, jax.tree.map(lambda x: x[None], params.personal)
        start, first = begin(params, support, key, write)
        params = params._replace(personal=first)
        loss, ready = support_loss(
            loss_fn,
            params,
            support,
            key,
            pseudo_count=pseudo_count,
            proximal_weight=proximal_weight,
            minibatch=minibatch,
        )
        slope = lambda personal, step: jax.grad(loss)(personal, (step, ready))
        adapted, moved = descend(slope, first, steps, optimizer, jnp.any(support.mask), first_order=first_order)
        return params._replace(personal=adapted), path_of(start, moved)

    return InnerLoop(lambda params: {}, adapt)


def clip(norm: float) -> optax.GradientTransformation:
    """A gradient of more than ``norm`` (of the whole tree) scaled down to it; at a gradient of zeros the identity, with
    its derivative, where the root of ``optax.clip_by_global_norm`` has none.

    >>> clip(1.0).update({"w": jnp.array([0.0, 4.0])}, optax.EmptyState())[0]["w"].tolist()
    [0.0, 1.0]
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        square = trees.squared_norm(updates)
        there = square > 0
        size = jnp.sqrt(jnp.where(there, square, jnp.ones_like(square)))
        factor = jnp.where(there & (size > norm), norm / size, jnp.ones_like(size))
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def descend(
    slope_of: Callable[[Tree, Array], Tree],
    start: Tree,
    steps: int,
    optimizer: optax.GradientTransformation,
    known: Array,
    *,
    first_order: bool = False,
) -> tuple[Tree, Tree]:
    """``steps`` of the optimizer along slope_of(personal, step): (the end, the positions after each [steps, ...]).

    ``known``: bool, whether there is anything to learn from; where not, the steps stay at the start.
    """

    def step_fn(carried: tuple[Tree, Tree], step: Array) -> tuple[tuple[Tree, Tree], Tree]:
        personal, opt_state = carried
        slope = slope_of(personal, step)
        slope = jax.lax.stop_gradient(slope) if first_order else slope
        # Norms and roots have no derivative at a gradient of zeros, which is what an empty or masked user has.
        slope = trees.select(known, slope, jax.tree.map(jnp.ones_like, slope))
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of an int32 count
            updates, opt_state = optimizer.update(slope, opt_state, personal)
        moved = trees.select(known, cast(Tree, optax.apply_updates(personal, updates)), start)
        return (moved, opt_state), moved

    fresh = trees.varying_like(optimizer.init(start), (start, known))
    (end, _), moved = jax.lax.scan(step_fn, (start, fresh), jnp.arange(steps))
    return end, moved


def _member(
    loss_fn: LossFn,
    write: Write,
    optimizer: optax.GradientTransformation,
    clip_norm: float | None,
    minibatch: int | None,
    **options,
) -> InnerLoop:
    moves = with_clip(optimizer, clip_norm)
    return optimized(loss_fn, optimizer=moves, minibatch=minibatch or 0, write=write, **options)


def with_clip(optimizer: optax.GradientTransformation, norm: float | None) -> optax.GradientTransformation:
    """``optimizer`` on a gradient clipped to ``norm``; None: as it is."""
    return optimizer if norm is None else optax.chain(clip(norm), optimizer)


MOVES = {
    "optimizer": Choice("inner_optimizer", "sgd", doc="the optimizer of inner steps"),
    "clip_norm": Option(None, type=float, above=0.0, doc="bound on the norm of a user's gradient in an inner step"),
}

OPTIMIZED = Member(
    _member,
    options={
        "steps": STEPS,
        **MOVES,
        "minibatch": Option(None, type=int, least=1, doc="examples in an inner step; None: all of the support"),
        "first_order": FIRST_ORDER,
        **SUPPORT_LOSS,
    },
    needs=("loss_fn", "write"),
    paper="Nichol, Achiam, Schulman 2018, arXiv:1803.02999 (with adam_no_momentum)",
    example={"steps": 2, "optimizer": {"name": "adam_no_momentum", "rate": 0.05}},
    variants=(
        {"optimizer": "sgd", "clip_norm": 0.5, "proximal_weight": 0.5},
        {"steps": 3, "optimizer": "sgd", "minibatch": 2},
    ),
    traits=("path",),
    doc="steps of an optax optimizer",
)
