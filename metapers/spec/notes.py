"""Values of a config that have no effect in a run: they are no error, as an ablation leaves them as they are."""

from collections.abc import Iterator

from metapers.members import registry
from metapers.options import NONE
from metapers.spec.arms import arms
from metapers.spec.heads import head_facts, model_facts
from metapers.spec.tree import Config, config_for, leaves, members
from metapers.spec.validate import having, traits_of

TUNED = ("inner.pseudo_count", "inner.proximal_weight", "inner.steps", "inner.unroll")
"""Read too where a model trained without an inner loop is fine-tuned (``inner_loops.tuning_loop``)."""
RATE = ("inner.rates.rate", "inner.optimizer.rate")
"""Never noted: a config file with several methods sets one rate for all."""


def unused(config: Config) -> list[str]:
    """One sentence for each value that differs from its default while nothing reads it."""
    found = [*_by_trait(config), *_by_arm(config)]
    if "history" in config.data and config.data.history and not model_facts(config.model).history:
        found.append(f"data.history {config.data.history} has no effect with model {config.model.name!r}")
    if config.inner.name == NONE and config.model.get("prototypes", False):
        found.append("model.prototypes True has no effect with inner 'none'")
    return found


def _by_trait(config: Config) -> Iterator[str]:
    traits = traits_of(config)
    for one in members(config):
        for key, option in registry(one.kind).options(one.name).items():
            without = [trait for trait in getattr(option, "no_effect_with", ()) if trait in traits]
            if without and one.section[key] != option.default:
                yield f"{one.key}.{key} {one.section[key]!r} has no effect with {having(config, without[0])}"


def _by_arm(config: Config) -> Iterator[str]:
    made = arms(config)
    usual = config_for(config.data.name, config.model.name)
    for section in ("penalties", "memory"):
        chosen = _kept(config, section)
        if chosen and config[section] != usual[section]:
            if not any(chosen & _kept(arm.config, section) for arm in made.values()):
                yield f"{section} has no effect: no arm of {tuple(made)} has it"
    adapts = any(arm.adapts for arm in made.values())
    if config.gate.name != NONE and (not adapts or config.inner.name == NONE):
        why = "learner 'joint'" if not adapts else "inner 'none'"
        yield f"gate {config.gate.name!r} has no effect with {why}"
    if not adapts and head_facts(config.model) is None and config.inner.name != NONE:
        defaults = dict(leaves(usual))
        for key, value in leaves({"inner": config.inner}):
            if key in defaults and value != defaults[key] and key not in (*TUNED, *RATE, "inner.name"):
                yield f"{key} {value!r} has no effect with learner 'joint'"


def _kept(config: Config, section: str) -> set[str]:
    return set(config.penalties) if section == "penalties" else {config.memory.name} - {NONE}
