"""Adaptation to the bottom of a proximal problem, differentiated there and not along the way."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.scipy.sparse.linalg import cg

from metapers import trees
from metapers.base import Batch, InnerLoop, Key, LossFn, Params, Tree
from metapers.inner.gradient import STEPS
from metapers.inner.optimized import MOVES, descend, with_clip
from metapers.inner.support_loss import Write, begin, path_of, support_loss
from metapers.members import Member
from metapers.options import Option


def implicit(
    loss_fn: LossFn,
    steps: int,
    optimizer: optax.GradientTransformation,
    *,
    strength: float,
    cg_steps: int = 10,
    damping: float = 0.0,
    learn_strength: bool = False,
    write: Write | None = None,
) -> InnerLoop:
    """personal = argmin_p mean loss(p) + strength/2 ‖p - start‖², approached by ``steps`` of an optax optimizer.

    The result is differentiated as if it were the minimum p*, by the implicit function theorem: with H the Hessian of
    the mean support loss at p*, dp* = (H + strength I)⁻¹ (strength dstart - ∂∇loss), where ∂ is with respect to shared
    parameters; the inverse by ``cg_steps`` steps of conjugate gradients at most, each one Hessian-vector product.
    No step is kept for the backward pass, so memory does not grow with ``steps``; the error of the derivative does
    fall with ``steps`` and ``cg_steps`` (Rajeswaran, Finn, Kakade, Levine 2019, arXiv:1909.04630, algorithm 2).

    Of the path [steps + 1, ...] only the first entry (the start) and the last (the solution) have derivatives;
    those between are plain numbers. ``damping`` is added to the diagonal in the inverse only, for curvature that is
    negative beyond ``strength``, where conjugate gradients go astray; 0 is exact. ``learn_strength``: ``inner =
    {"log_strength": scalar}``, at first log(strength). Noise that the loss draws is the same at every step, so that
    there is one minimum. In units of ``inner.gradient``: proximal_weight = strength n / 2 for n examples. What
    ``write`` computes from the support is the start in the formula and before the first step, not in the path.

    >>> loss_fn = lambda params, batch, key: 0.5 * jnp.square(params.personal["w"] - batch.targets)
    >>> support = Batch({}, jnp.array([1.0, 3.0]), jnp.array([True, True]))
    >>> loop = implicit(loss_fn, 1, optax.sgd(0.5), strength=1.0)
    >>> end = lambda w: loop.adapt(Params({}, {"w": w}, {}), support, None)[0].personal["w"]
    >>> [float(x) for x in jax.value_and_grad(end)(jnp.zeros(()))]
    [1.0, 0.5]

    Raises:
      ValueError: steps < 1, strength not finite or <= 0, cg_steps < 1, damping not finite or < 0.
    """
    _check(steps, strength, cg_steps, damping)

    def init(params: Params) -> Tree:
        dtype = jnp.result_type(*jax.tree.leaves(params.personal))
        return {"log_strength": jnp.full((), math.log(strength), dtype)} if learn_strength else {}

    def adapt(params: Params, support: Batch, key: Key | None = None) -> tuple[Params, Tree]:
        start, first = begin(params, support, key, write)
        params = params._replace(personal=first)

        def proximal(params: Params) -> Callable[[Tree], Tree]:
            weight = jnp.exp(params.inner["log_strength"]) if learn_strength else strength
            loss, ready = support_loss(loss_fn, params, support, key)

            def slope(personal: Tree) -> Tree:
                down = jax.grad(loss)(personal, (jnp.asarray(0), ready))
                return jax.tree.map(lambda g, x, first: g + weight * (x - first), down, personal, params.personal)

            return slope

        fixed = jax.lax.stop_gradient(params)
        slope = proximal(fixed)
        known = jnp.any(support.mask)
        found, moved = descend(lambda personal, step: slope(personal), fixed.personal, steps, optimizer, known)
        _, curvature = jax.linearize(slope, found)
        slope = proximal(params)(found)
        # Zero, but with the derivative of the slope; so the solution stays as found, to the last bit, and its
        # derivative is the theorem's. The solve of a zero takes no step: it costs only where it is differentiated.
        zero = trees.subtract(slope, jax.lax.stop_gradient(slope))
        solution = trees.subtract(found, _inverse(curvature, zero, cg_steps, damping))
        path = path_of(start, jax.tree.map(lambda x, last: jnp.concatenate([x[:-1], last[None]]), moved, solution))
        return params._replace(personal=solution), path

    return InnerLoop(init, adapt)


def _inverse(matrix: Callable[[Tree], Tree], right: Tree, cg_steps: int, damping: float) -> Tree:
    def solve(matrix: Callable[[Tree], Tree], right: Tree) -> Tree:
        # At size 1 and ended by rounding: squares of smaller numbers underflow in float32, and 0 / 0 is next.
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(right)]))
        size = jnp.where(largest > 0, largest, 1)
        unit = jax.tree.map(lambda x: x / size, right)
        tolerance = float(jnp.finfo(largest.dtype).eps)
        return trees.scale(cg(matrix, unit, tol=tolerance, maxiter=cg_steps)[0], size)

    damped = lambda x: trees.add(matrix(x), trees.scale(x, damping))
    return jax.lax.custom_linear_solve(damped, right, solve, solve, symmetric=True)


def _check(steps: int, strength: float, cg_steps: int, damping: float) -> None:
    for name, count in (("steps", steps), ("cg_steps", cg_steps)):
        if count < 1:
            raise ValueError(f"{name} must be >= 1, got {count}")
    if not (math.isfinite(strength) and strength > 0):
        raise ValueError(f"strength must be finite and > 0, got {strength}")
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping must be finite and >= 0, got {damping}")


def _member(
    loss_fn: LossFn,
    write: Write,
    steps: int,
    optimizer: optax.GradientTransformation,
    clip_norm: float | None,
    **options,
) -> InnerLoop:
    moves = with_clip(optimizer, clip_norm)
    return implicit(loss_fn, max(steps, 1), moves, write=write, **options)


IMPLICIT = Member(
    _member,
    options={
        "steps": STEPS,
        **MOVES,
        "strength": Option(1.0, above=0.0, doc="weight of half the squared distance from the start"),
        "cg_steps": Option(5, least=1, doc="conjugate gradient steps of the outer derivative"),
        "damping": Option(0.0, least=0.0, doc="added to the diagonal of the curvature in the outer derivative"),
        "learn_strength": Option(False, doc="the outer loop learns the strength"),
    },
    needs=("loss_fn", "write"),
    paper="Rajeswaran, Finn, Kakade, Levine 2019, arXiv:1909.04630",
    example={"steps": 3, "cg_steps": 4},
    variants=({"steps": 2, "strength": 0.5, "cg_steps": 3, "damping": 0.1, "learn_strength": True},),
    doc="the minimum of a proximal problem, differentiated there (iMAML)",
)
