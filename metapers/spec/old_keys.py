"""The keys of metapers 0.1: the present key of each, and the values of an old config under them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from metapers.options import NONE, ConfigError
from metapers.spec.methods import METHODS, SOLVED
from metapers.spec.root import OLD_ARMS
from metapers.spec.tree import expand, put


class Key(NamedTuple):
    """Where an old key went: a key that ends in ".name" chooses the member of a section."""

    new: tuple[str, ...]  # the present key; of several, the one that the chosen members have
    names: Mapping[Any, str] = {}  # values that have another name
    off: tuple[Any, ...] = ()  # values that None replaces


def _key(new: str, *, off: Any = (), **names: str) -> Key:
    return Key(tuple(new.split()), names, () if off == () else (off,))


KEYS: Mapping[str, Key] = {
    "strategies": _key("arms", **OLD_ARMS),
    "data.stages": _key("data.periods"),
    "data.users_per_stage": _key("data.users_per_period"),
    "steps": _key("outer_steps"),
    "users": _key("meta_batch"),
    "start_from": _key("start_from", off=""),
    "profile": _key("profile", off=""),
    "devices": _key("devices", off=0),
    "clip_norm": _key("clip_norm", off=0),
    "schedule": _key("schedule.name"),
    "warmup": _key("schedule.warmup"),
    "data.source": _key("data.name"),
    "data.origin": _key("data.backend"),
    "data.path": _key("data.path", off=""),
    "data.min_ratings": _key("data.min_ratings", off=0),
    "data.min_examples": _key("data.min_examples", off=0),
    "data.train_ways": _key("data.train_ways", off=0),
    "data.full": _key("data.p_full_support"),
    "data.from_start": _key("data.p_from_first"),
    "data.by_length": _key("data.length_power"),
    "model.norm": _key("model.norm.name"),
    "model.groups": _key("model.norm.groups"),
    "model.head": _key("model.head.name"),
    "model.variance": _key("model.variance model.head.variance"),
    "model.full": _key("model.full model.head.full"),
    **{f"model.{key}": _key(f"model.head.{key}") for key in ("capacity", "nearest", "share", "scale")},
    "learner.inner": _key("inner.name", written="closed_form"),
    "learner.inner_steps": _key("inner.steps"),
    "learner.inner_rate": _key("inner.rates.rate inner.optimizer.rate"),
    "learner.inner_optimizer": _key("inner.optimizer.name", adam_plain="adam_no_momentum"),
    "learner.inner_clip": _key("inner.clip_norm", off=0),
    "learner.minibatch": _key("inner.minibatch", off=0),
    "learner.rates": _key(
        "inner.rates.name", fixed="constant", learned="meta_sgd", log="log_meta_sgd", per_step="lslr"
    ),
    "learner.shrink": _key("inner.pseudo_count"),
    "learner.pull": _key("inner.proximal_weight"),
    **{f"learner.{key}": _key(f"inner.{key}") for key in ("strength", "cg_steps", "first_order", "backward", "unroll")},
    "learner.keep": _key(
        "gate.name", always=NONE, if_it_helps="cross_validated", if_it_moves="min_shift", gated="learned"
    ),
    "learner.folds": _key("gate.folds"),
    "learner.margin": _key("gate.margin"),
    "learner.least_move": _key("gate.least"),
    "learner.anneal": _key("learner.msl_anneal_steps"),
    "learner.second_from": _key("learner.second_order_from"),
    "learner.serial": _key("learner.sequential"),
    "learner.root": _key("learner.rmse_epsilon", off=0),
    "learner.adapts": _key("model.adapts"),
    "learner.aggregator": _key("aggregator.name"),
    "learner.clip": _key("aggregator.norm"),
    "learner.block": _key("user_block", off=0),
    "continual.penalty": _key("penalties"),
    "continual.anchor_strength": _key("penalties.anchor.strength"),
    **{f"continual.ewc_{key}": _key(f"penalties.ewc.{key}") for key in ("strength", "decay", "draws", "exact")},
    "continual.memory": _key("memory.name"),
    "continual.capacity": _key("memory.capacity"),
    "continual.replayed": _key("memory.replay_batch"),
    "continual.draws": _key("memory.consolidation_batches"),
}
"""The keys of metapers 0.1 that have another name or another value now; every other key keeps its name. An option of
a member that the config does not choose is dropped: nothing read it."""

METHOD_NAMES = {"maml_plus_plus": "msl_lslr", "reptile": "reptile_adam"}
"""Methods whose old names belong to the complete methods now."""


def migrated_values(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of a config from the values of an old one; ``spec.from_plain`` fills in defaults.

    Args:
      leaves: values by dotted key of metapers 0.1.

    Raises:
      ConfigError: for a key that metapers 0.1 did not have.

    >>> migrated_values({"steps": 7, "learner.inner": "written", "learner.inner_rate": 0.1})
    {'inner': {'name': 'closed_form'}, 'outer_steps': 7}
    """
    tree: dict[str, Any] = {}
    moved = [(new, key, value) for key, value in leaves.items() for new in place_of(key).new]
    members = [one for one in moved if is_choice(one[0]) and one[0] != "penalties"]
    for new, key, value in sorted(members, key=lambda one: one[0].count(".")):
        if _has(expand(tree), new.removesuffix(".name")):
            put(tree, new, renamed(value, place_of(key).names))
    if "continual.penalty" in leaves:
        named = [name for name in leaves["continual.penalty"] if name != NONE]
        tree["penalties"] = {name: {} for name in named if leaves.get(f"continual.{name}_strength", 0) > 0}
    if leaves.get("continual.replayed") == 0:
        tree["memory"] = {"name": NONE}
    whole = expand(tree)
    for new, key, value in moved:
        if not is_choice(new) and _has(whole, new):
            put(tree, new, None if value in place_of(key).off else renamed(value, place_of(key).names))
        elif key not in KEYS and not _has(whole, new) and not key.startswith("optimizer."):  # a frozen group has none
            raise ConfigError(key, value, "a key of metapers 0.1")
    return tree


def renamed(value: Any, names: Mapping[Any, str]) -> Any:
    """A value, or each entry of a tuple, under its present name."""
    if isinstance(value, (tuple, list)):
        return tuple(renamed(one, names) for one in value)
    return names.get(value, value) if isinstance(value, str) else value


def is_choice(new: str) -> bool:
    """Whether a present key names members of a section."""
    return new in ("penalties", "arms") or new.endswith(".name")


def place_of(key: str) -> Key:
    """Where a key of metapers 0.1 went; a key that ``KEYS`` lacks keeps its name."""
    return KEYS.get(key, Key((key,)))


def _has(tree: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return True


# What the text of an old config file may choose

MAKERS = ("config_for", "method_config")
"""The functions that made a config."""
DIVIDED = ("learner", "continual")
"""Sections whose keys went to several others."""
KINDS = {"model": "model", "inner": "inner_loop", "gate": "gate", "learner": "learner"}
KINDS |= {"aggregator": "aggregator", "schedule": "schedule", "memory": "memory"}
"""The kinds of the members that sections choose."""
USUAL = {"model": "linear", "inner": "gradient", "gate": NONE, "learner": "maml"}
USUAL |= {"aggregator": "mean", "schedule": "constant", "memory": "reservoir"}
"""The members that metapers 0.1 chose where a file does not say."""


def made_by(names: list[Any], section: str) -> list[Any]:
    """The members of a section that config_for(source, model) or method_config(source, backbone, method) may choose."""
    method = METHODS.get(str(METHOD_NAMES.get(names[2], names[2]))) if len(names) > 2 else None
    if section == "model" and len(names) > 1:
        with_head, computed = SOLVED.get(str(names[1])), len(names) > 2 and method is None
        return [with_head] if method and method.head else [names[1], *([with_head] if computed else [])]
    if section in ("inner", "learner") and len(names) > 2:
        return [method.chosen.get(section, (USUAL[section],))[0] if method else None]
    return []
