"""A config as a tree: sections filled with the options of the members that are chosen, and what leaves a tree has."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

# the packages whose members a config can choose: importing them fills the registries
from metapers import (
    aggregate,
    baselines,
    boundaries,
    inner,
    learners,
    memory,
    models,
    optimizers,
    penalties,
    samplers,
    scores,
    tasks,
    updates,
    user_models,
)
from metapers.members import load_installed, load_plugins, registry
from metapers.options import NONE, REQUIRED, Arms, Choice, ConfigError, Option, Schema, nearest
from metapers.spec.named import arm_sections, as_section, named_members, not_chosen
from metapers.spec.root import OPERATIONAL, PLACES, PLUGINS, ROOT

Config = Any  # an ml_collections.ConfigDict whose keys are known at run time only

PACKAGES = (
    *(aggregate, baselines, boundaries, inner, learners, memory, models, optimizers),
    *(penalties, samplers, scores, tasks, updates, user_models),
)


class Leaf(NamedTuple):
    """An option of a config with its value."""

    key: str  # dotted
    option: Option
    value: Any


class Chosen(NamedTuple):
    """A member that a config chose."""

    key: str  # the dotted key of its section
    kind: str
    name: str
    section: Mapping[str, Any]


def config_for(source: str, model: str) -> Config:
    """Every key of a config for a source and a model, with defaults; locked against other keys.

    Args:
      source: a member of the kind "source".
      model: a member of the kind "model".

    Raises:
      ConfigError: for an unknown name.

    >>> config_for("sinusoid", "mlp").inner.steps
    5
    """
    return from_plain({"data": source, "model": model})


def from_plain(given: Mapping[str, Any]) -> Config:
    """A config from nested dicts with any part of its keys; the others have their defaults.

    Raises:
      ConfigError: for an unknown key or member.
    """
    return config_of(expand(given))


def config_of(tree: Mapping[str, Any]) -> Config:
    """A locked config of whole nested dicts."""
    return ConfigDict(tree).lock()


def expand(given: Mapping[str, Any], schema: Schema | None = None, path: str = "") -> dict[str, Any]:
    """Nested dicts with every key: what ``given`` says, and defaults. A section may be a member's name alone.

    Args:
      given: nested dicts; lists stand for tuples.
      schema: the keys of this section; None: those of a whole config.
      path: the dotted key of this section, with a dot behind it.

    Raises:
      ConfigError: for a key that the schema does not have, an unknown member, or a plug-in that is not imported yet.
    """
    load_installed()
    if schema is None and isinstance(given.get("plugins"), (list, tuple)):
        load_plugins(PLUGINS.read("plugins", given["plugins"]))
    schema = ROOT if schema is None else schema
    _check_keys(given, schema, path)
    found: dict[str, Any] = {}
    for key, one in schema.items():
        value = given.get(key, REQUIRED)
        if isinstance(one, Option):
            found[key] = _value(one, value)
        elif isinstance(one, Arms):
            found[key] = arm_sections(one.default if value is REQUIRED else value, f"{path}{key}")
        elif isinstance(one, Choice):
            found[key] = _many(one, value, f"{path}{key}") if one.many else _section(one, value, f"{path}{key}")
        else:
            value = {} if value is REQUIRED else as_section(f"{path}{key}", value, one)
            found[key] = expand(value, one, f"{path}{key}.")
    return found


def _value(option: Option, value: Any) -> Any:
    value = option.default if value is REQUIRED else value
    if value is REQUIRED:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and option.kind is float:
        return float(value)
    return tuple(value) if isinstance(value, list) and option.kind is tuple else value


def _section(choice: Choice, value: Any, key: str) -> dict[str, Any]:
    value = (choice.default or NONE) if value is REQUIRED else value
    value = value if isinstance(value, Mapping) else {"name": NONE if value is None else value}
    name = value.get("name", choice.default or NONE)
    known = [*registry(choice.kind), *([NONE] if choice.optional else [])]
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"{key}.name", name, f"one of {known}", nearest(name, known))
    own = registry(choice.kind).options(name) if name != NONE else {}
    given = {option: one for option, one in value.items() if option != "name"}
    for option in given:
        if option not in own:
            other = not_chosen(choice.kind, key, option, name)
            hint = f"{other}: spec.choose exchanges a member with its options" if other else nearest(option, own)
            raise ConfigError(f"{key}.{option}", given[option], "a known key", hint)
    return {"name": name, **expand(given, own, f"{key}.")}


def _many(choice: Choice, value: Any, key: str) -> dict[str, Any]:
    named = named_members(choice, (choice.default or ()) if value is REQUIRED else value, key)
    found = {}
    for name in sorted(named):
        options = as_section(f"{key}.{name}", named[name], registry(choice.kind).options(name))
        found[name] = expand(options, registry(choice.kind).options(name), f"{key}.{name}.")
    return found


def _check_keys(given: Mapping[str, Any], schema: Schema, path: str) -> None:
    for key in given:
        if key not in schema:
            raise ConfigError(f"{path}{key}", given[key], "a known key", nearest(key, schema))


def choose(config: Config, key: str, chosen: Any, **options: Any) -> None:
    """Puts another member into a section of a config: its options have their defaults, or the given values.

    Args:
      config: is changed.
      key: the dotted key of the section, "inner", "optimizer.param", "model.head".
      chosen: a member's name, or a dict of its name and options; for "penalties" a name, a tuple of names or a dict of
        options by name; for "arms" the same of arms and what they override.
      **options: values of the options of the member that ``chosen`` names.

    Raises:
      ConfigError: for an unknown key, member or option.

    >>> config = config_for("sinusoid", "mlp")
    >>> choose(config, "inner", "implicit", steps=16)
    >>> config.inner.steps, config.inner.cg_steps
    (16, 5)
    """
    tree = plain(config)
    found = entry(tree, key)
    if isinstance(found, Option) or key.startswith("arms."):
        hint = (
            ""
            if found
            else f"spec.choose(config, 'arms', ...) sets all arms, spec.merged(config, {{{key!r}: ...}}) one"
        )
        raise ConfigError(key, chosen, "a section that chooses a member", hint)
    if options:
        several = isinstance(found, Arms) or (isinstance(found, Choice) and found.many)
        chosen = {chosen: options} if several else {"name": chosen, **options}
    put(tree, key, plain(chosen) if isinstance(chosen, (ConfigDict, Mapping)) else chosen)
    filled = expand(tree)
    with config.unlocked():
        holder, _, last = key.rpartition(".")
        place = at(config, holder) if holder else config
        with place.unlocked():
            place[last] = ConfigDict(at(filled, key)).lock()


def entry(tree: Mapping[str, Any], key: str) -> Option | Choice | Schema | None:
    """The option, the choice or the section at a dotted key, under the members that whole nested dicts choose.

    None for an unknown key, as for an option of a member that is not chosen.
    """
    found: Any = ROOT
    for part in key.split("."):
        if isinstance(found, Choice) and found.many:
            found = registry(found.kind).options(part) if part in tree else None
        else:
            if isinstance(found, Choice):
                found = registry(found.kind).options(tree["name"]) if tree["name"] != NONE else {}
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is None:
            return None
        tree = tree[part]
    return found


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key of nested dicts; sections on the way are made."""
    *before, last = key.split(".")
    for part in before:
        tree = tree.setdefault(part, {})
    tree[last] = value


def at(tree: Any, key: str) -> Any:
    """The value, or the section, of a dotted key."""
    for part in key.split("."):
        tree = tree[part]
    return tree


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value, in order of the keys; the value of an empty section is {}."""
    for key in sorted(config.keys()):
        one = config[key]
        if isinstance(one, (ConfigDict, Mapping)):
            yield from leaves(one, f"{prefix}{key}.") if len(one) else [(f"{prefix}{key}", {})]
        else:
            yield f"{prefix}{key}", one


def options(config: Mapping[str, Any], schema: Schema | None = None, path: str = "") -> Iterator[Leaf]:
    """Every option of a config with its value, in the order of the schema; choices are left out."""
    for key, one in (ROOT if schema is None else schema).items():
        if isinstance(one, Option):
            yield Leaf(f"{path}{key}", one, config[key])
        elif isinstance(one, Arms):  # what they override are options of the arms' own configs
            continue
        elif not isinstance(one, Choice):
            yield from options(config[key], one, f"{path}{key}.")
        elif one.many:
            for name, section in config[key].items():
                yield from options(section, registry(one.kind).options(name), f"{path}{key}.{name}.")
        elif config[key]["name"] != NONE:
            own = registry(one.kind).options(config[key]["name"])
            yield from options(config[key], own, f"{path}{key}.")


def members(config: Mapping[str, Any], schema: Schema | None = None, path: str = "") -> Iterator[Chosen]:
    """Every member that a config chose, the chosen ones inside their sections too."""
    for key, one in (ROOT if schema is None else schema).items():
        if isinstance(one, (Option, Arms)):
            continue
        if not isinstance(one, Choice):
            yield from members(config[key], one, f"{path}{key}.")
        elif one.many:
            for name, section in config[key].items():
                yield Chosen(f"{path}{key}.{name}", one.kind, name, section)
                yield from members(section, registry(one.kind).options(name), f"{path}{key}.{name}.")
        elif config[key]["name"] != NONE:
            name = config[key]["name"]
            yield Chosen(f"{path}{key}", one.kind, name, config[key])
            yield from members(config[key], registry(one.kind).options(name), f"{path}{key}.")


def plain(config: Config) -> dict[str, Any]:
    """Nested dicts with tuples as lists, as config.json keeps it."""
    return {
        key: plain(one) if isinstance(one, (ConfigDict, Mapping)) else list(one) if isinstance(one, tuple) else one
        for key, one in config.items()
    }


def binding(config: Config) -> dict[str, Any]:
    """The part of a config that can change a number: all but the operational keys and the places."""
    there = plain(config)
    for key in PLACES:
        section, _, last = key.rpartition(".")
        (there[section] if section else there).pop(last, None)
    return {key: value for key, value in there.items() if key not in OPERATIONAL}


def differences(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Differences as "key: old -> new": (those that can change a number, the operational ones and the places)."""
    a, b = dict(leaves(old)), dict(leaves(new))
    binding_ones, operational = [], []
    for key in sorted(a.keys() | b.keys()):
        if a.get(key, "absent") != b.get(key, "absent"):
            text = f"{key}: {a.get(key, 'absent')!r} -> {b.get(key, 'absent')!r}"
            free = key.split(".")[0] in OPERATIONAL or key in PLACES
            (operational if free else binding_ones).append(text)
    return binding_ones, operational
