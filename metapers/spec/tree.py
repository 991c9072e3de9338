"""A config as a tree: sections filled with the options of the members that are chosen, and what leaves a tree has."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

# the packages whose members a config can choose: importing them fills the registries
from metapers import aggregate, baselines, inner, learners, memory, models, optimizers, penalties, scores, tasks
from metapers.members import load_installed, load_plugins, registry
from metapers.options import NONE, REQUIRED, Choice, ConfigError, Option, Schema, nearest
from metapers.spec.root import OPERATIONAL, PLACES, ROOT

Config = Any  # an ml_collections.ConfigDict whose keys are known at run time only

PACKAGES = (aggregate, baselines, inner, learners, memory, models, optimizers, penalties, scores, tasks)


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
    return ConfigDict(expand(given)).lock()


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
        load_plugins(given["plugins"])
    schema = ROOT if schema is None else schema
    _check_keys(given, schema, path)
    found: dict[str, Any] = {}
    for key, one in schema.items():
        value = given.get(key, REQUIRED)
        if isinstance(one, Option):
            found[key] = _value(one, value)
        elif isinstance(one, Choice):
            found[key] = _many(one, value, f"{path}{key}") if one.many else _section(one, value, f"{path}{key}")
        else:
            value = {} if value is REQUIRED else _mapping(f"{path}{key}", value, one)
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
    value = {"name": NONE if value is None else value} if not isinstance(value, Mapping) else value
    name = value.get("name", choice.default or NONE)
    if name == NONE and choice.optional:
        _check_keys(value, {"name": Option(NONE)}, f"{key}.")
        return {"name": NONE}
    if name not in registry(choice.kind):
        known = [*registry(choice.kind), *([NONE] if choice.optional else [])]
        raise ConfigError(f"{key}.name", name, f"one of {known}", nearest(name, known))
    options = expand(
        {option: one for option, one in value.items() if option != "name"},
        registry(choice.kind).options(name),
        f"{key}.",
    )
    return {"name": name, **options}


def _many(choice: Choice, value: Any, key: str) -> dict[str, Any]:
    value = (choice.default or ()) if value is REQUIRED or value is None else value
    value = (value,) if isinstance(value, str) else value
    named = dict(value) if isinstance(value, Mapping) else {name: {} for name in value}
    if not isinstance(value, Mapping) and len(named) < len(value):
        raise ConfigError(key, tuple(value), "without a name that stands there twice")
    found = {}
    for name in sorted(named):
        if name not in registry(choice.kind):
            raise ConfigError(key, name, f"of {list(registry(choice.kind))}", nearest(name, registry(choice.kind)))
        options = _mapping(f"{key}.{name}", named[name], registry(choice.kind).options(name))
        found[name] = expand(options, registry(choice.kind).options(name), f"{key}.{name}.")
    return found


def _mapping(key: str, value: Any, schema: Schema) -> Any:
    if not isinstance(value, (Mapping, ConfigDict)):
        raise ConfigError(key, value, "a section", f"set one of its keys, as {key}.{next(iter(schema), 'name')}")
    return value


def _check_keys(given: Mapping[str, Any], schema: Schema, path: str) -> None:
    for key in given:
        if key not in schema and not (key == "name" and path):
            raise ConfigError(f"{path}{key}", given[key], "a known key", nearest(key, schema))


def choose(config: Config, key: str, chosen: Any, **options: Any) -> None:
    """Puts another member into a section of a config: its options have their defaults, or the given values.

    Args:
      config: is changed.
      key: the dotted key of the section, "inner", "optimizer.param", "model.head".
      chosen: a member's name; for "penalties" a dict of options by name, or a tuple of names.
      **options: values of the member's options.

    Raises:
      ConfigError: for an unknown key, member or option.

    >>> config = config_for("sinusoid", "mlp")
    >>> choose(config, "inner", "implicit", steps=16)
    >>> config.inner.steps, config.inner.cg_steps
    (16, 5)
    """
    section = {"name": chosen, **options} if isinstance(chosen, str) and key != "penalties" else chosen
    tree = plain(config)
    put(tree, key, section)
    filled = expand(tree)
    with config.unlocked():
        holder, _, last = key.rpartition(".")
        place = at(config, holder) if holder else config
        with place.unlocked():
            place[last] = ConfigDict(at(filled, key)).lock()


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
    """(dotted key, value) of every value, in order of the keys."""
    for key in sorted(config.keys()):
        one = config[key]
        if isinstance(one, (ConfigDict, Mapping)):
            yield from leaves(one, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", one


def options(config: Mapping[str, Any], schema: Schema | None = None, path: str = "") -> Iterator[Leaf]:
    """Every option of a config with its value, in the order of the schema; choices are left out."""
    for key, one in (ROOT if schema is None else schema).items():
        if isinstance(one, Option):
            yield Leaf(f"{path}{key}", one, config[key])
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
        if isinstance(one, Option):
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


def merged(config: Config, overrides: Mapping[str, Any]) -> Config:
    """A copy of ``config`` with dotted keys set; a section may be replaced by a member's name.

    Where the member of a section changes, options that both members have keep their values.

    Raises:
      ConfigError: for an unknown key or a value of another type.
    """
    tree = plain(config)
    for key, value in sorted(overrides.items(), key=lambda pair: pair[0].count(".")):
        exchange(tree, key, value)
    filled = expand(tree)
    known = {leaf.key: leaf for leaf in options(filled)}
    for key in overrides:
        if key in known and not (known[key].option.required and known[key].value is None):
            known[key].option.read(key, known[key].value)
    return ConfigDict(filled).lock()


def exchange(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key of nested dicts. A text in place of a section, or its ``name``, exchanges the member there."""
    key = key.removesuffix(".name") if "." in key else key
    *before, last = key.split(".")
    holder = tree
    for part in before:
        if not isinstance(holder.get(part), dict):
            raise ConfigError(key, value, "a known key", nearest(key, [name for name, _ in leaves(tree)]))
        holder = holder[part]
    held = holder.get(last)
    if isinstance(held, dict) and "name" in held and isinstance(value, (str, type(None))):
        kept = {option: one for option, one in held.items() if option != "name"}
        kind = _kind(tree, key)
        name = value or NONE
        shared = registry(kind).options(name) if kind and name in registry(kind) else {}
        value = {"name": name} | {option: one for option, one in kept.items() if option in shared}
    elif isinstance(held, dict) and isinstance(value, (list, tuple)):
        value = {name: held.get(name, {}) for name in value}
    elif last not in holder:
        known = [name for name, _ in leaves(tree)]
        raise ConfigError(key, value, "a known key", nearest(key, known) or _not_chosen(tree, key))
    holder[last] = value


def _kind(tree: Mapping[str, Any], key: str) -> str | None:
    found = [one.kind for one in members(expand(tree)) if one.key == key]
    if found:
        return found[0]
    one: Any = ROOT
    for part in key.split("."):
        one = one[part] if isinstance(one, Mapping) and part in one else None
    return one.kind if isinstance(one, Choice) else None


def _not_chosen(tree: Mapping[str, Any], key: str) -> str:
    section = key.split(".")[0]
    return f"it belongs to a member that {section} does not choose" if section in tree else ""


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
