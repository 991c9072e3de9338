"""How a config's users adapt: the inner loop, what it starts from, and what decides how far it goes."""

from collections.abc import Callable
from typing import Any

import optax

from metapers import base, inner
from metapers.base import InnerLoop, Model, Objective
from metapers.experiment.architectures import MODELS, solved_head
from metapers.experiment.catalogue import SOURCES
from metapers.experiment.config import Config, one_of
from metapers.inner.optimized import clip
from metapers.inner.support_loss import Write

INNER_LOOPS = ("gradient", "none", "written", "optimized", "implicit")
INNER_OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
    "adam": lambda rate: optax.adam(rate, eps_root=1e-8),
    "adam_plain": lambda rate: optax.adam(rate, b1=0.0, eps_root=1e-8),  # without momentum, as in Reptile
}
KEEPS = ("always", "if_it_helps", "if_it_moves", "gated")  # whether, and how far, a user adapts
RATES: dict[str, Callable[[float, int], Any]] = {  # of the inner loop, from its rate and its steps in training
    "fixed": lambda rate, steps: rate,
    "learned": lambda rate, steps: inner.per_parameter(rate),
    "log": lambda rate, steps: inner.log_per_parameter(rate),
    "per_step": inner.per_step,
}
TUNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 1.0, 3.0)  # of fine-tuning what had no inner loop
TUNING_WEIGHTS = (0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0, 6.0)  # of its users' sums, where it solves for them
CAUTIOUS = 0.001
"""The rate of fine-tuning while no better one was chosen: ``learner.inner_rate`` was chosen for models that learned to
adapt, and may blow up one that did not."""
BACKWARDS: dict[str, dict[str, bool]] = {"plain": {}, "remat": {"remat": True}, "mixed": {"mixed": True}}


def objective(config: Config) -> Objective:
    """What the model's outputs mean: a model that tells more than the source's own says so."""
    own = MODELS[one_of("model.name", config.model.name, MODELS)].objective(config.model.to_dict())
    return own or plain_objective(config)


def plain_objective(config: Config) -> Objective:
    """What the targets of the source mean, for outputs like them: those of baselines."""
    return SOURCES[one_of("data.source", config.data.source, SOURCES)].objective()


def inner_loop(config: Config, built: Model, *, steps: int | None = None) -> InnerLoop:
    """The inner loop of ``config.learner`` as users meet it; ``steps`` stands in place of the config's."""
    chosen = config.learner
    made = training_loop(config, built, steps=steps)
    match one_of("learner.keep", chosen.keep, KEEPS):
        case "if_it_helps":
            loss_fn = base.example_loss(built, objective(config))
            head = solved_head(config.model)
            # stored examples have no meaning a part of the way: all of them, or the start
            whole: dict[str, Any] = {} if head is None or head.between else {"scales": (0.0, 1.0)}
            return inner.keep_if_it_helps(made, loss_fn, folds=chosen.folds, margin=chosen.margin, **whole)
        case "if_it_moves":
            return inner.keep_if_it_moves(made, lambda params, batch: _mean(built, params, batch), chosen.least_move)
    return made


def _mean(built: Model, params: base.Params, batch: base.Batch) -> base.Array:
    outputs = built.apply(params, batch.inputs, batch.mask, None)
    return outputs["mean"] if isinstance(outputs, dict) else outputs  # a variance is of another unit


def training_loop(
    config: Config, built: Model, *, steps: int | None = None, first_order: bool | None = None
) -> InnerLoop:
    """The inner loop that the outer one learns through: whether to adapt is asked after training, unless it is
    learned itself."""
    made = bare_loop(config, built, steps=steps, first_order=first_order)
    if one_of("learner.keep", config.learner.keep, KEEPS) == "gated":
        return inner.gated(made, base.example_loss(built, objective(config)), folds=config.learner.folds)
    return made


def bare_loop(config: Config, built: Model, *, steps: int | None = None, first_order: bool | None = None) -> InnerLoop:
    """The inner loop for whom adapting is no question."""
    chosen, loss_fn = config.learner, base.example_loss(built, objective(config))
    steps = int(chosen.inner_steps if steps is None else steps)
    first_order = bool(chosen.first_order if first_order is None else first_order)
    if (solved_head(config.model) is not None) != (chosen.inner == "written"):
        must = "be" if chosen.inner != "written" else "not be"
        raise ValueError(
            f"learner.inner must {must} 'written' with model.name {config.model.name!r}, got {chosen.inner!r}: "
            "what a model computes from the support is not descended, and what it descends is not computed"
        )
    match one_of("learner.inner", chosen.inner, INNER_LOOPS):
        case "none":
            return inner.none()
        case "written":
            return inner.written(built.write, steps)
        case "optimized":
            return inner.optimized(
                loss_fn,
                steps,
                inner_optimizer(config),
                first_order=first_order,
                shrink=chosen.shrink,
                pull=chosen.pull,
                minibatch=chosen.minibatch,
                write=built.write,
            )
        case "implicit":
            return inner.implicit(
                loss_fn,
                max(steps, 1),
                inner_optimizer(config),
                strength=chosen.strength,
                cg_steps=chosen.cg_steps,
                write=built.write,
            )
    kind = one_of("learner.rates", chosen.rates, RATES)
    return gradient_loop(config, built, RATES[kind](chosen.inner_rate, chosen.inner_steps), steps, first_order)


def tuning_grid(config: Config) -> tuple[float, ...]:
    """Values among which validation users choose how ``tuning_loop`` tunes; empty where there is nothing to choose."""
    head = solved_head(config.model)
    if head is None:
        return TUNING_RATES
    return TUNING_WEIGHTS if head.weighed else ()


def tuning_loop(config: Config, built: Model, *, steps: int, rate: float | None = None) -> InnerLoop:
    """How a model that was trained without an inner loop is tuned on a user's support.

    Gradient steps at one ``rate``, or what the model itself writes, as sums weighed by ``rate`` where it writes sums
    (joint training never meets the prior, so its strength is chosen as a rate is). The loop reads it from the inner
    parameters, so another value compiles nothing. None: a cautious rate, and weight 1.
    """
    head = solved_head(config.model)
    if head is not None:
        made = inner.written(built.write, steps)
        return inner.tempered(made, rate or 1.0) if head.weighed else made
    kind = inner.log_per_parameter if config.learner.rates == "log" else inner.per_parameter
    write = _under_own_head(built.write) if config.model.get("prototypes", False) else built.write
    return gradient_loop(config, built, kind(rate or CAUTIOUS), steps, config.learner.first_order, write=write)


def _under_own_head(write: Write) -> Write:
    # joint training has learned a head: tuned is that one, not one from class means in its place
    return lambda params, support, key: write(params, support, key) | {"head": params.personal["head"]}


def gradient_loop(
    config: Config, built: Model, rate: Any, steps: int, first_order: bool, *, write: Write | None = None
) -> InnerLoop:
    """Gradient steps at given rates, all else as in ``config.learner``; ``write`` in place of the model's."""
    chosen = config.learner
    return inner.gradient(
        base.example_loss(built, objective(config)),
        steps,
        rate,
        first_order=first_order,
        shrink=chosen.shrink,
        pull=chosen.pull,
        write=write or built.write,
        unroll=chosen.unroll,
        **BACKWARDS[one_of("learner.backward", chosen.backward, BACKWARDS)],
    )


def inner_optimizer(config: Config) -> optax.GradientTransformation:
    """The optax optimizer inside, with a user's gradient clipped or not."""
    chosen = config.learner
    name = one_of("learner.inner_optimizer", chosen.inner_optimizer, INNER_OPTIMIZERS)
    made = INNER_OPTIMIZERS[name](chosen.inner_rate)
    return optax.chain(clip(chosen.inner_clip), made) if chosen.inner_clip else made
