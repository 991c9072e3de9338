"""Adaptation by a few steps of gradient descent on the personal parameters."""

import jax
import jax.numpy as jnp

from metapers import trees
from metapers.base import Array, Batch, InnerLoop, Key, LossFn, Params, Tree
from metapers.inner import dual
from metapers.inner.mixed import mixed_gradient
from metapers.inner.rates import Rates
from metapers.inner.rates import fixed as constant
from metapers.inner.support_loss import Write, begin, check_weights, path_of, support_loss
from metapers.members import Member
from metapers.options import Choice, Option


def gradient(
    loss_fn: LossFn,
    steps: int,
    rate: float | Rates,
    *,
    first_order: bool = False,
    pseudo_count: float = 0.0,
    proximal_weight: float = 0.0,
    write: Write | None = None,
    unroll: int = 1,
    remat: bool = False,
    mixed: bool = False,
) -> InnerLoop:
    """``steps`` times personal <- personal - rate ∘ ∇ (Σ loss + c ‖personal - start‖²) / (max(n, 1) + m).

    ``rate``: a number, or learned rates (``inner.per_parameter``, ``log_per_parameter``, ``per_step``), which live in
    ``params.inner``; what is trained with one number of steps adapts with any other. ``first_order``: the gradient is
    a constant when the result is differentiated (Finn, Abbeel, Levine 2017, arXiv:1703.03400, section 5.2).
    ``pseudo_count`` m: that many examples of no loss join the mean, so that few examples move a user less.
    ``proximal_weight`` c: the weight of the squared distance from the start, which does not grow with the support: a
    Gaussian prior around the start, whose weight fades as a user's examples come in (the inner problem of Rajeswaran et
    al. 2019, arXiv:1909.04630, equation 3, for any number of steps). ``write``: (params, support, key) -> where the
    steps begin and what the prior is centred on, default the personal parameters. Entry 0 of the path is the personal
    parameters as they came, which no example has touched; without any step nothing is written.

    What the loss computes from shared parameters alone is computed once for all steps (``inner.once``), and a kernel
    that meets only such values is moved in its dual form where that is cheaper (``inner.dual``). Three choices
    change memory and time and no number: ``unroll``, steps per turn of the compiled loop; ``remat``, a step's
    intermediate values are computed again on the way back instead of kept; ``mixed``, the way back through a step is
    a forward derivative of its gradient (``inner.mixed``), which keeps a step's parameters only.

    >>> loss_fn = lambda params, batch, key: 0.5 * jnp.square(params.personal["w"] - batch.targets)
    >>> support = Batch({}, jnp.array([1.0, 3.0]), jnp.array([True, True]))
    >>> adapted, path = gradient(loss_fn, 2, 0.5).adapt(Params({}, {"w": jnp.zeros(())}, {}), support, None)
    >>> path["w"].tolist()
    [0.0, 1.0, 1.5]

    Raises:
      ValueError: steps < 0, rate not finite or <= 0, pseudo_count or proximal_weight not finite or < 0, unroll < 1,
        both remat and mixed.
    """
    check_weights(pseudo_count, proximal_weight)
    _check(steps, unroll, remat and mixed)
    rates = rate if isinstance(rate, Rates) else constant(rate)

    def adapt(params: Params, support: Batch, key: Key | None = None) -> tuple[Params, Tree]:
        if steps == 0:
            return params, jax.tree.map(lambda x: x[None], params.personal)
        start, first = begin(params, support, key, write)
        fixed = params._replace(personal=first), support, key
        loss, ready = support_loss(loss_fn, *fixed, pseudo_count=pseudo_count, proximal_weight=proximal_weight)
        ready = trees.varying_like(ready, fixed) if mixed else ready
        speeds = lambda step: rates.at(params.inner, first, step)
        others = jnp.asarray(0), ready
        way = dual.descent(loss, first, others, speeds(others[0]), steps, first_order=first_order)
        slope_of = mixed_gradient(way.loss) if mixed else jax.grad(way.loss)

        def step_fn(place: dual.Place, step: Array) -> tuple[dual.Place, dual.Place]:
            slope = slope_of(place.moving, (step, ready))
            slope = jax.lax.stop_gradient(slope) if first_order else slope
            moved = way.move(place, speeds(step), slope)
            return moved, moved

        step_fn = jax.checkpoint(step_fn) if remat else step_fn
        last, places = jax.lax.scan(step_fn, way.begin, jnp.arange(steps), unroll=min(unroll, steps))
        return params._replace(personal=way.personal(last)), path_of(start, jax.vmap(way.personal)(places))

    return InnerLoop(lambda params: rates.init(params.personal), adapt)


def _check(steps: int, unroll: int, both: bool) -> None:
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    if unroll < 1:
        raise ValueError(f"unroll must be >= 1, got {unroll}")
    if both:
        raise ValueError("remat and mixed are two answers to one question, got both True")


NOT_DIFFERENTIATED = ("undifferentiated", "no_inner_loop")
"""Traits of learners that take no derivative through inner steps."""

BACKWARDS = {"plain": {}, "remat": {"remat": True}, "mixed": {"mixed": True}}

SUPPORT_LOSS = {
    "pseudo_count": Option(0.0, least=0.0, doc="examples without loss that join the mean of the support loss"),
    "proximal_weight": Option(0.0, least=0.0, doc="weight of the squared distance from the start in the support loss"),
}
FIRST_ORDER = Option(False, no_effect_with=NOT_DIFFERENTIATED, doc="gradients of inner steps count as constants")
STEPS = Option(5, least=1, doc="inner steps in training")


def _member(loss_fn: LossFn, write: Write, steps: int, rates: Rates, backward: str, **options) -> InnerLoop:
    return gradient(loss_fn, steps, rates, write=write, **BACKWARDS[backward], **options)


GRADIENT = Member(
    _member,
    options={
        "steps": STEPS,
        "rates": Choice("rates", "constant", doc="how far an inner step goes"),
        "first_order": FIRST_ORDER,
        "backward": Option(
            "plain",
            choices=tuple(BACKWARDS),
            no_effect_with=NOT_DIFFERENTIATED,
            doc="how the outer derivative is computed; remat and mixed need less memory for the same result",
        ),
        "unroll": Option(1, least=1, doc="inner steps in a turn of the compiled loop"),
        **SUPPORT_LOSS,
    },
    needs=("loss_fn", "write"),
    paper="Finn, Abbeel, Levine 2017, arXiv:1703.03400",
    example={"steps": 3, "rates": {"name": "meta_sgd", "rate": 0.05}},
    variants=(
        {"first_order": True},
        {"pseudo_count": 2.0, "unroll": 2, "rates": {"name": "constant", "rate": 0.05}},
        {"backward": "remat"},
        {"backward": "mixed", "proximal_weight": 0.5},
    ),
    traits=("path",),
    doc="gradient steps",
)
