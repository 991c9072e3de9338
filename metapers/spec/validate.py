"""What a config may not say: values beyond their bounds, choices that contradict each other, models that do not fit."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jax
from ml_collections import ConfigDict

from metapers import keys
from metapers.base import Model
from metapers.members import build, plugin_of, registry
from metapers.models import ADAPTS
from metapers.options import NONE, ConfigError, Option, nearest
from metapers.spec import building
from metapers.spec.arms import Arm, arms, has_joint_model
from metapers.spec.heads import fits, head_facts, model_facts, objective_name, source_facts
from metapers.spec.inner_loops import inner_loop
from metapers.spec.root import BASELINE, OVERRIDES
from metapers.spec.tree import Chosen, Config, expand, members, options, plain

STAND_INS: Mapping[str, Mapping[str, int]] = {
    "films": {"items": 2, "genres": 2, "history": 1},
    "vectors": {"width": 2},
    "points": {"width": 2},
    "images": {"width": 1},
    "characters": {"vocabulary": 2, "length": 2},
}
"""Sizes by the kind of a source's inputs, for a model that is only looked at."""


def check(config: Config) -> Config:
    """The same config with every value as its option has it, after all that can be checked without data.

    A config that is refused has cost nothing: no data are read, nothing is computed. ``plugins`` of the result names
    the modules of all members of other packages that the config chose, so that a run names what it needs.

    Args:
      config: a whole config; keys that are missing have their defaults.

    Raises:
      ConfigError: for an unknown key, a value beyond its bound, a required value that is missing, a model that does
        not fit the source, or choices that contradict each other.
    """
    tree = read(plain(config))
    config = ConfigDict(tree).lock()
    _evaluation(config)
    _names(config)
    _contradictions(config)
    _fits(config)
    _builds(config)
    for arm in arms(config).values():
        _arm(config, arm)
    if source_facts(config.data).ways(config.data):
        _episodes(config, source_facts(config.data).ways(config.data))
    return _with_plugins(config)


def _with_plugins(config: Config) -> Config:
    chosen = [one for arm in arms(config).values() for one in members(arm.config)]
    named = {plugin_of(one.kind, one.name) for one in [*members(config), *chosen]} - {None, *config.plugins}
    more = sorted(str(name) for name in named)
    return ConfigDict(plain(config) | {"plugins": (*config.plugins, *more)}).lock() if more else config


def _arm(config: Config, arm: Arm) -> None:
    # what an arm overrides is refused under the arm's own key
    try:
        own = ConfigDict(read(plain(arm.config))).lock()
        _contradictions(own)
        _learner(own, _stand_in(own))
        _sampler(own, arm)
    except ConfigError as error:
        if arm.name == BASELINE and BASELINE not in config.arms:
            raise
        if error.key.split(".")[0] not in OVERRIDES:  # a key of the config, which does not fit the arm
            hint = f"{error.hint}; so it is in the arm {arm.name!r}"
            raise ConfigError(error.key, error.value, error.bound, hint.removeprefix("; ")) from error
        raise ConfigError(f"arms.{arm.name}.{error.key}", error.value, error.bound, error.hint) from error


def _sampler(own: Config, arm: Arm) -> None:
    chosen, traits = own.sampler.name, registry("sampler")[own.sampler.name].traits
    if "ends" in traits and arm.budget != "own":
        why = f"it ends after one pass, and an arm of budget {arm.budget!r} takes as many outer steps as it needs"
        raise ConfigError("sampler", chosen, "a sampler that goes on", why)
    if "varying" in traits and own.learner.sequential:
        why = "the number of its tasks varies, and one user after the other has no expected number"
        raise ConfigError("sampler", chosen, "a sampler with a fixed number of tasks", why)


def read(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts with every key, each value read by its option.

    Raises:
      ConfigError: for an unknown key or a value beyond its bound.
    """
    whole = expand(tree)
    for leaf in options(whole):
        *before, last = leaf.key.split(".")
        holder: Any = whole
        for part in before:
            holder = holder[part]
        holder[last] = leaf.option.read(leaf.key, leaf.value)
    return whole


def _evaluation(config: Config) -> None:
    chosen = config.evaluation
    for key in ("shots", "steps"):
        listed = tuple(chosen[key])
        if not listed or list(listed) != sorted(set(listed)):
            raise ConfigError(f"evaluation.{key}", listed, "increasing whole numbers, at least one")
        if chosen[f"headline_{key}"] not in listed:
            raise ConfigError(
                f"evaluation.headline_{key}", chosen[f"headline_{key}"], f"one of evaluation.{key} {listed}"
            )
    if config.inner.name == NONE and tuple(chosen.steps) != (0,):
        raise ConfigError("evaluation.steps", tuple(chosen.steps), "(0,) with inner 'none', which takes no step")


def _names(config: Config) -> None:
    listed = tuple(config.arms)
    if not listed:
        raise ConfigError("arms", listed, "names of arms, at least one")
    if BASELINE in listed and not has_joint_model(config):
        raise ConfigError(
            "arms",
            listed,
            f"without {BASELINE!r} here",
            "there is no such model where tasks name their classes anew, under a head that learns through the support "
            "alone, or with learner 'joint'",
        )


def _contradictions(config: Config) -> None:
    chosen = list(members(config))
    traits = traits_of(config)
    for one in chosen:
        member = registry(one.kind)[one.name]
        for trait, because in member.requires.items():
            if trait not in traits:
                raise ConfigError(one.key, one.name, "another member here", because)
        for trait, because in member.conflicts.items():
            if trait in traits:
                raise ConfigError(one.key, one.name, f"another member with {having(config, trait)}", because)
        for key, option, value in _own_options(one):
            for trait, because in option.not_with.items():
                if trait in traits and value != option.default:
                    raise ConfigError(f"{one.key}.{key}", value, f"{option.default!r} here", because)


def traits_of(config: Config) -> set[str]:
    """The traits of all members that a config chose, and of its objective."""
    found = {trait for one in members(config) for trait in _traits(one)}
    return found | set(registry("objective")[objective_name(config)].traits)


def having(config: Config, trait: str) -> str:
    """The members of a config that have a trait, as a text; its objective where none of them has it."""
    found = [f"{one.key} {one.name!r}" for one in members(config) if trait in _traits(one)]
    return ", ".join(found) or f"objective {objective_name(config)!r}"


def _traits(one: Chosen) -> tuple[str, ...]:
    return registry(one.kind)[one.name].traits


def _own_options(one: Chosen) -> Iterator[tuple[str, Option, Any]]:
    for key, option in registry(one.kind).options(one.name).items():
        if isinstance(option, Option):
            yield key, option, one.section[key]


def _fits(config: Config) -> None:
    source, facts = source_facts(config.data), model_facts(config.model)
    what = f"for data {config.data.name!r} ({source.inputs} to {source.targets})"
    fitting = [name for name in registry("model") if fits(source, model_facts({"name": name}))]
    if not fits(source, facts):
        raise ConfigError("model", config.model.name, f"one of {sorted(fitting)} {what}")
    if config.data.get("history", 0) < facts.history:
        raise ConfigError("data.history", config.data.history, f">= {facts.history} with model {config.model.name!r}")
    if "head" in config.model:
        heads = [name for name, one in registry("head").items() if source.targets in one.facts.targets]
        if config.model.head.name not in heads:
            raise ConfigError("model.head", config.model.head.name, f"one of {sorted(heads)} {what}")
    closed_form = config.inner.name != NONE and "closed_form_loop" in registry("inner_loop")[config.inner.name].traits
    if (head_facts(config.model) is not None) != closed_form:
        raise ConfigError(
            "inner",
            config.inner.name,
            "not be 'closed_form' here" if closed_form else "'closed_form' here",
            f"model {config.model.name!r} {'takes gradient steps' if closed_form else 'computes its head'}",
        )


def _builds(config: Config) -> None:
    model = _stand_in(config)
    _learner(config, model)
    inner_loop(config, model)


def _stand_in(config: Config) -> Model:
    # With sizes in place of the stream's: what members refuse by themselves is refused before data are read.
    source = source_facts(config.data)
    sizes = {**STAND_INS.get(source.inputs, {"width": 2}), **({"classes": 2} if source.targets == "classes" else {})}
    if "adapts" in config.model:
        _layer_sets(config, sizes)
    return _model(repr(config.model.to_dict()), repr(sizes))


def _learner(config: Config, model: Model) -> None:
    building.learner(config, model, None)
    building.penalty(config, model, inner_loop(config, model, training=True))
    building.memory(config)


def _layer_sets(config: Config, sizes: Mapping[str, int]) -> None:
    section = config.model.to_dict()
    for name in section["adapts"].split("+"):
        if name.strip() not in ADAPTS:
            raise ConfigError(
                "model.adapts", section["adapts"], f"names of {list(ADAPTS)}, joined by '+'", nearest(name, ADAPTS)
            )
    if "prototypes" in section:
        section["prototypes"] = False  # that they need a head which adapts is for the model to say
    _model(repr({**section, "adapts": "all"}), repr(sizes))  # other faults show here

    def personal(adapts: str) -> int:
        return _personal_leaves(repr({**section, "adapts": adapts}), repr(sizes))

    always = personal("")  # personal whatever adapts: the statistics that a norm keeps
    for name in config.model.adapts.split("+"):
        if personal(name.strip()) == always:
            raise ConfigError(
                "model.adapts",
                config.model.adapts,
                "layer sets that the model has",
                f"model {config.model.name!r} as configured has nothing of {name.strip()!r}",
            )


@cache
def _model(section: str, sizes: str) -> Model:
    # many configs of one file differ in nothing that a model is made of
    return build("model", ast.literal_eval(section), {"sizes": ast.literal_eval(sizes)}, key="model")


@cache
def _personal_leaves(section: str, sizes: str) -> int:
    try:
        made = _model(section, sizes)
    except ValueError:  # nothing in it is of these types
        return 0
    return len(jax.tree.leaves(jax.eval_shape(made.init, keys.root(0)).personal))


def _episodes(config: Config, ways: int) -> None:
    # An episode's support comes first, a drawing of each class after the other, and what follows is its query.
    support, chosen = ways * config.data.shots, config.evaluation
    if config.data.shots < 2 and "holds_back" in traits_of(config):
        raise ConfigError(
            "data.shots",
            config.data.shots,
            f">= 2 with gate {config.gate.name!r}",
            "what is held back would be all that is known of a class",
        )
    for key, value, good in (
        ("headline_shots", chosen.headline_shots, chosen.headline_shots == support),
        ("shots", tuple(chosen.shots), max(chosen.shots) <= support),
    ):
        if not good:
            sign = "" if key == "headline_shots" else "at most "
            raise ConfigError(f"evaluation.{key}", value, f"{sign}data.ways * data.shots = {support}")
    if any(shots % ways for shots in chosen.shots):
        raise ConfigError(
            "evaluation.shots", tuple(chosen.shots), f"multiples of data.ways = {ways}", "the same number of each class"
        )
