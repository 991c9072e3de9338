"""The one builder of inner loops: in training, as users meet it, and as a model without one is fine-tuned."""

from collections.abc import Callable
from typing import Any

from metapers import base, inner
from metapers.base import InnerLoop, Model
from metapers.inner.support_loss import Write
from metapers.members import Context, build, filled, registry
from metapers.options import NONE
from metapers.spec.heads import head_facts, objective
from metapers.spec.tree import Config

TUNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 1.0, 3.0)
"""Rates among which validation users choose how a model without an inner loop is fine-tuned."""
TUNING_WEIGHTS = (0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0, 6.0)
"""Weights of a user's sums among which they choose, where the model solves for the user's weights."""
CAUTIOUS = 0.001
"""The rate of fine-tuning while none is chosen: a rate for models that learned to adapt may be too large for others."""


def inner_loop(
    config: Config, model: Model, *, training: bool = False, steps: int | None = None, first_order: bool | None = None
) -> InnerLoop:
    """The inner loop of a config.

    Args:
      config: its sections ``inner`` and ``gate`` are read.
      model: whose users adapt.
      training: as the outer loop learns through it: without a gate, unless the gate is trained.
      steps: in place of the config's.
      first_order: in place of the config's.

    Raises:
      ConfigError: for what a member refuses.
    """
    context = loop_context(config, model)
    made = _bare(config, context, steps=steps, first_order=first_order)
    if config.gate.name == NONE or (training and "trained" not in registry("gate")[config.gate.name].traits):
        return made
    return build("gate", config.gate, context.extended(inner_loop=lambda: made), key="gate")


def loop_context(config: Config, model: Model) -> Context:
    """What inner loops, rates and gates may need."""
    return Context(
        loss_fn=lambda: base.example_loss(model, objective(config)),
        write=lambda: model.write,
        steps=lambda: config.inner.steps,
        outputs_fn=lambda: _mean_output(model),
        stores_examples=lambda: "stores_examples" in _head_traits(config),
        model=lambda: model,
        objective=lambda: objective(config),
    )


def _bare(config: Config, context: Context, **replaced: Any) -> InnerLoop:
    if config.inner.name == NONE:
        return inner.none()
    own = registry("inner_loop")[config.inner.name].options
    given = {key: value for key, value in replaced.items() if value is not None and key in own}
    return build("inner_loop", config.inner, context, key="inner", **given)


def _mean_output(model: Model) -> Callable[[base.Params, base.Batch], base.Array]:
    def mean(params: base.Params, batch: base.Batch) -> base.Array:
        outputs = model.apply(params, batch.inputs, batch.mask, None)
        return outputs["mean"] if isinstance(outputs, dict) else outputs  # a variance is of another unit

    return mean


def _head_traits(config: Config) -> tuple[str, ...]:
    return registry("head")[config.model.head.name].traits if "head" in config.model else ()


def tuning_grid(config: Config) -> tuple[float, ...]:
    """Values among which validation users choose how ``tuning_loop`` tunes; empty where there is no choice."""
    head = head_facts(config.model)
    if head is None:
        return TUNING_RATES
    return TUNING_WEIGHTS if head.sums else ()


def tuning_loop(config: Config, model: Model, *, steps: int, rate: float | None = None) -> InnerLoop:
    """How a model that was trained without an inner loop is fine-tuned on a user's support.

    Gradient steps at one rate; or what the model itself computes, as sums weighted by ``rate`` where it keeps sums
    (joint training never uses the prior, so its strength is chosen as a rate is). The loop reads the rate from the
    inner parameters, so another value runs the same program.

    Args:
      config: of ``inner`` the options are read that ``gradient`` has too.
      model: whose users adapt.
      steps: inner steps.
      rate: the rate, or the weight; None: a cautious rate, and weight 1.
    """
    head = head_facts(config.model)
    if head is not None:
        made = inner.written(model.write, steps)
        return inner.tempered(made, rate or 1.0) if head.sums else made
    held = config.inner.to_dict()
    own = registry("inner_loop")["gradient"].options
    kind = "log_meta_sgd" if held.get("rates", {}).get("name") == "log_meta_sgd" else "meta_sgd"
    shared = {key: value for key, value in held.items() if key in own and key not in ("rates", "steps")}
    section = {"name": "gradient", **shared, "rates": {"name": kind, "rate": rate or CAUTIOUS}}
    write = _under_own_head(model.write) if config.model.get("prototypes", False) else model.write
    context = loop_context(config, model).extended(write=lambda: write, steps=lambda: steps)
    return build("inner_loop", filled("inner_loop", section), context, key="inner", steps=steps)


def rate_before_tuning(config: Config) -> float | None:
    """The rate of fine-tuning as long as validation users have chosen none, in records and in serving alike.

    A run whose learner has no inner loop uses the config's own rate. For the joint model of other runs the result is
    None, and ``tuning_loop`` takes a cautious rate: the config's was chosen for models that learned to adapt.
    """
    own = "no_inner_loop" in registry("learner")[config.learner.name].traits and head_facts(config.model) is None
    return inner_rate(config) if own else None


def inner_rate(config: Config) -> float | None:
    """The size of an inner step that a config names; None where its inner loop has none."""
    for section in ("rates", "optimizer"):
        if section in config.inner:
            return config.inner[section].rate
    return None


def _under_own_head(write: Write) -> Write:
    # joint training has learned a head: that one is fine-tuned, not one from class means in its place
    return lambda params, support, key: write(params, support, key) | {"head": params.personal["head"]}
