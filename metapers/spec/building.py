"""From a config to its parts: stream, model, objective, learner, optimizer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from metapers import aggregate, base, inner, learners, penalties, placement, samplers
from metapers.base import (
    Aggregator,
    Array,
    Boundary,
    Key,
    Learner,
    Memory,
    Model,
    Objective,
    Params,
    Penalty,
    Sampler,
    Stream,
    TaskFamily,
    Tree,
    Update,
)
from metapers.members import Context, build, registry
from metapers.options import NONE, ConfigError, nearest
from metapers.spec.arms import Arm, arms, with_passes
from metapers.spec.heads import head_facts, objective, source_facts
from metapers.spec.inner_loops import inner_loop
from metapers.spec.tree import Config


class Components(NamedTuple):
    """What a config builds before any arm is trained."""

    config: Config
    arms: Mapping[str, Arm]  # in the order of training
    stream: Stream
    sizes: Mapping[str, int]  # what the model knows of the inputs
    model: Model
    objective: Objective
    devices: tuple[placement.Device, ...]
    warm_start: Any = None  # the version whose parameters the run begins with (``run.warm_start``), or None


def components(config: Config) -> Components:
    """The stream, model and objective of a config.

    Raises:
      ConfigError: for a metric that the objective does not have, a period without users to evaluate on, and what the
        members refuse.
      FileNotFoundError: for a ``data.path`` where nothing is.
    """
    built = stream(config)
    _check_held_out(built, config)
    sizes = source_facts(config.data).sizes(built)
    there = placement.devices(config.devices)
    known = _with_passes(arms(config), built)
    made = Components(config, known, built, sizes, model(config, sizes), objective(config), there)
    known, metric = metrics(made), config.evaluation.metric
    if metric not in known:
        raise ConfigError("evaluation.metric", metric, f"one of {known}", nearest(metric, known))
    return made


def _check_held_out(built: Stream, config: Config) -> None:
    more = "more users in each period, fewer periods" + (" or another data.fold" if "fold" in config.data else "")
    for split, periods in (("validation", (None,)), ("test", (*range(built.periods), None))):
        for period in periods:
            if not len(built.held_out(split, period).users):
                where = "the stream" if period is None else f"period {period} of {built.periods}"
                raise ConfigError(
                    "data", f"no {split} user in {where}", "split so that each period has users to evaluate on", more
                )


def metrics(made: Components) -> list[str]:
    """The names of one user's scores, read off shapes: nothing is computed."""
    cohort = made.stream.held_out("validation", None)
    inputs, targets = jax.tree.map(lambda leaf: jnp.asarray(leaf[:2]), (cohort.inputs, cohort.targets))
    rows = jnp.ones(len(jax.tree.leaves(inputs)[0]), bool)

    def scores(key: Key) -> dict[str, Array]:
        outputs = made.model.apply(made.model.init(key), inputs, rows, None)
        return made.objective.scores(outputs, targets, rows)

    return list(jax.eval_shape(scores, jax.random.key(0)))


def stream(config: Config) -> Stream:
    """The stream of users that ``config.data`` describes.

    Raises:
      ConfigError: for a source that is read from files without ``data.path``, and what the source refuses.
      FileNotFoundError: if there is nothing at ``data.path``.
    """
    section = config.data.to_dict()
    if source_facts(section).from_files(section):
        if not section["path"]:
            raise ConfigError(
                "data.path", section["path"], f"the folder with the files of data.name {section['name']!r}"
            )
        if not Path(section["path"]).exists():
            raise FileNotFoundError(f"data.path must name a folder that is there, got {section['path']!r}")
    return build("source", section, Context(as_of=lambda: config.as_of), key="data")


def model(config: Config, sizes: Mapping[str, int]) -> Model:
    """The model for inputs of the stream's ``sizes``; no data is read."""
    return build("model", config.model.to_dict(), {"sizes": sizes}, key="model")


def learner(config: Config, built: Model, mesh: Mesh | None) -> Learner:
    """The outer loop of an arm.

    Args:
      config: of the arm; its sections learner, aggregator, optimizer, schedule, penalties and memory.
      built: the model.
      mesh: the devices that share the users of a step; None: one.

    Raises:
      ConfigError: for what a member refuses.
    """
    section = config.learner.to_dict()
    if config.update_rule.name != "sum" and "rule" not in registry("learner")[section["name"]].needs:
        fits = [name for name, one in registry("learner").items() if "rule" in one.needs]
        raise ConfigError(
            "update_rule", config.update_rule.name, f"'sum' with learner {section['name']!r}", f"{fits} read it"
        )
    # joint training does not adapt: its penalty's Fisher information is that of the parameters as they are
    adapts = "no_inner_loop" not in registry("learner")[section["name"]].traits
    loop = inner_loop(config, built, training=True) if adapts else inner.none()
    context = Context(
        loss_fn=lambda: base.example_loss(built, objective(config)),
        inner_loop=lambda: loop,
        first_order_loop=lambda: inner_loop(config, built, training=True, first_order=True),
        optimizer=lambda: optimizer(config, built.groups),
        aggregator=lambda: aggregator(config, mesh),
        penalty=lambda: penalty(config, built, loop),
        rule=lambda: update_rule(config),
        model=lambda: built,
        objective=lambda: objective(config),
        mesh=lambda: mesh,
    )
    made = build("learner", section, context, key="learner")
    made = learners.serial(made) if section["sequential"] else made
    kept, chosen = memory(config), config.memory
    if kept is None:
        return made
    compose = build("composition", chosen.composition, {}, key="memory.composition")
    draws, when = chosen.consolidation_batches, chosen.insertion
    return learners.replay(made, kept, chosen.replay_batch, draws=draws, insertion=when, compose=compose)


def update_rule(config: Config) -> Update:
    """How the gradients of the sources of a step become one direction."""
    return build("update_rule", config.update_rule, {}, key="update_rule")


def boundary(config: Config) -> Boundary:
    """When an arm consolidates."""
    return build("boundary", config.boundary, {}, key="boundary")


def sampler(config: Config, family: TaskFamily) -> Sampler:
    """Which training users have a task in an outer step of an arm.

    Raises:
      ConfigError: for a sampler that goes by a list of users, where every task has a new user.
    """
    chosen = config.sampler
    if "listed" in registry("sampler")[chosen.name].traits and family.roll is None:
        fits = [name for name, one in registry("sampler").items() if "listed" not in one.traits]
        why = f"every task of data.name {config.data.name!r} has a new user, so there is no list of users to go through"
        raise ConfigError("sampler", chosen.name, f"one of {fits}", why)
    context = Context(family=lambda: family, users=lambda: config.meta_batch)
    return samplers.glances(build("sampler", chosen, context, key="sampler"), chosen.glances)


def _with_passes(known: dict[str, Arm], built: Stream) -> dict[str, Arm]:
    found = {}
    for name, arm in known.items():
        drawn = sampler(arm.config, built.family)
        counts = [drawn.passes(arm.window(period)) for period in range(built.periods)]
        found[name] = tuple(count for count in counts if count is not None)
    return with_passes(known, found)


def aggregator(config: Config, mesh: Mesh | None) -> Aggregator:
    """How users become one gradient: in blocks or not, over the mesh's "users" or not."""
    made = build("aggregator", config.aggregator, {}, key="aggregator")
    if "varying" in registry("sampler")[config.sampler.name].traits:
        remembered = 0 if config.memory.name == NONE else config.memory.replay_batch
        made = aggregate.expecting(made, config.meta_batch + remembered)
    if config.user_block:
        made = aggregate.blocks(made, config.user_block)
    return aggregate.sharded(made, mesh) if mesh is not None and "users" in mesh.axis_names else made


def penalty(config: Config, built: Model, loop: base.InnerLoop) -> Penalty | None:
    """The sum of the penalties that ``config.penalties`` names; None where it names none."""
    context = Context(
        objective=lambda: objective(config),
        apply=lambda: built.apply,
        inner_loop=lambda: loop,
        model=lambda: built,
        loss_fn=lambda: base.example_loss(built, objective(config)),
    )
    made = [
        build("penalty", {"name": name, **section}, context, key=f"penalties.{name}")
        for name, section in config.penalties.to_dict().items()
    ]
    return penalties.sum_of(*made) if len(made) > 1 else made[0] if made else None


def memory(config: Config) -> Memory | None:
    """The memory that ``config.memory`` names, or None."""
    return build("memory", config.memory, {}, key="memory")


def optimizer(config: Config, groups: Callable[[Params], Tree]) -> optax.GradientTransformation:
    """One optax optimizer for each group of parameters; a group without one of its own has that of "param".

    Rates are carried in the state, so runs that differ in them alone are one program (``run.search``).
    """
    by_group = {
        group: build("optimizer", section, {}, key=f"optimizer.{group}") for group, section in config.optimizer.items()
    }

    def labels(params: Params) -> Tree:
        return jax.tree.map(lambda group: group if group in by_group else "param", groups(params))

    still = {group for group, section in config.optimizer.items() if section.name == "frozen"}
    # what is computed from a support begins empty and stays so
    empty = {"written"} if head_facts(config.model) is not None else set()
    links: list[optax.GradientTransformation] = [optax.partition(by_group, labels)]
    if config.clip_norm is not None:
        links.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if still | empty:  # before the clip: a gradient that moves nothing must not shorten the others
        stays = lambda group, label: group in empty or label in still
        links.insert(0, _zeros_at(lambda grads: jax.tree.map(stays, groups(grads), labels(grads))))
    share = build("schedule", config.schedule, {"outer_steps": config.outer_steps}, key="schedule")
    if share is not None:
        links.append(learners.scheduled(share))
    return optax.chain(*links)


def _zeros_at(chosen: Callable[[Any], Tree]) -> optax.GradientTransformation:
    """Zeros in place of the updates of the leaves that are True in ``chosen(updates)``."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda zero, leaf: jnp.zeros_like(leaf) if zero else leaf, chosen(updates), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
