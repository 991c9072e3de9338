"""The outer optimizer of a config: one for each group of parameters, its schedule, and what is never moved."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metapers import learners
from metapers.base import Params, Tree
from metapers.experiment.architectures import solved_head
from metapers.experiment.config import Config, one_of

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": lambda rate, decay: optax.inject_hyperparams(optax.adamw)(learning_rate=rate, weight_decay=decay),
    "sgd": lambda rate, decay: optax.chain(
        optax.add_decayed_weights(decay), optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
    ),
    "frozen": lambda rate, decay: optax.set_to_zero(),
}
SCHEDULES = ("constant", "cosine")  # over a stage; each stage begins anew


def optimizer(config: Config, groups: Callable[[Params], Tree]) -> optax.GradientTransformation:
    """One optax optimizer for each group of parameters; a group without options of its own has those of "param".

    Rates are carried in the state, so runs that differ in them alone are one program (``sweep``).
    """
    one_by_one = {}
    for group, options in config.optimizer.items():
        make = OPTIMIZERS[one_of(f"optimizer.{group}.name", options.name, OPTIMIZERS)]
        one_by_one[group] = make(options.rate, options.weight_decay)

    def labels(params: Params) -> Tree:
        return jax.tree.map(lambda group: group if group in one_by_one else "param", groups(params))

    links: list[optax.GradientTransformation] = [optax.partition(one_by_one, labels)]
    if config.clip_norm:
        links.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if one_of("schedule", config.schedule, SCHEDULES) == "cosine":
        links.append(learners.scheduled(cosine(config.steps, config.warmup)))
    if solved_head(config.model) is not None:
        links.append(_empty_starts(groups))
    return optax.chain(*links)


def _empty_starts(groups: Callable[[Params], Tree]) -> optax.GradientTransformation:
    # What is written begins empty and stays so: a loop that goes a part of the way has a derivative in its start, but
    # sums over no examples are zeros, and others would be nobody's.
    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        still = jax.tree.map(lambda group: group == "written", groups(updates))
        return jax.tree.map(lambda stays, leaf: jnp.zeros_like(leaf) if stays else leaf, still, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def cosine(steps: int, warmup: int) -> optax.Schedule:
    """The share of the rate by outer step: up over ``warmup`` steps, down a cosine to 2 %, anew in each stage."""
    warmup = min(warmup, steps - 1)
    within = optax.warmup_cosine_decay_schedule(0.0 if warmup else 1.0, 1.0, warmup, steps, 0.02)
    return lambda count: within(jnp.asarray(count) % steps)
