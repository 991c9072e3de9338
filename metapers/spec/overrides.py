"""Values in place of a config's, by dotted key: those of a command line as texts, those of Python as they are."""

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metapers.members import load_plugins, registry
from metapers.options import NONE, Arms, Choice, ConfigError, Option, Schema, nearest
from metapers.spec.named import arm_hint, arm_section, check_override, named_arms, named_members, not_chosen
from metapers.spec.old_keys import KEYS as OLD_KEYS
from metapers.spec.root import ARM, OVERRIDES, ROOT
from metapers.spec.tree import Config, at, config_of, entry, expand, from_plain, leaves, plain, put

Given = Sequence[tuple[str, str]]
"""(dotted key, text) in the order of the command line."""


def merged(config: Config, overrides: Mapping[str, Any]) -> Config:
    """A copy of ``config`` with dotted keys set, in any order; a section may be replaced by a member's name.

    Where the member of a section changes, options that both members have keep their values.

    Raises:
      ConfigError: for an unknown key or a value of another type.

    >>> from metapers.spec.tree import config_for
    >>> merged(config_for("sinusoid", "mlp"), {"inner.cg_steps": 3, "inner": "implicit"}).inner.cg_steps
    3
    """
    tree = expand(plain(config))
    for key, value in _choices_first(overrides.items()):
        tree = exchange(tree, key, value)
    return config_of(expand(tree))


def apply(config: Config, given: Given, allowed: Sequence[str] = ()) -> Config:
    """A config with the values of a command line.

    A choice and the options of what it chooses may stand in one command, in any order. Where the member of a section
    changes, options that both members have keep their values.

    Args:
      config: of a config file.
      given: keys and texts.
      allowed: modules that the caller allows as plug-ins; those that ``given`` names are allowed too.

    Raises:
      ConfigError: for an unknown key, a text that is no value of the key, and a tuple that is given twice.
    """
    named = named_plugins(given)
    plugins = tuple(config.get("plugins", ())) if named is None else named
    load_plugins(plugins, {*allowed, *(named or ())})
    tree = expand(plain(config) | {"plugins": list(plugins)})
    left = _choices_first(pair for pair in given if pair[0] != "plugins")
    for key, text in left:
        found = _entry(tree, key)
        if found is None:
            raise unknown_key(tree, key, text)
        several = found.many if isinstance(found, Choice) else isinstance(found, Option) and found.kind is tuple
        listed = several or isinstance(found, Arms)
        texts = tuple(one for other, one in left if other == key)
        if listed and len(texts) > 1:
            raise ConfigError(key, texts, "given once, all of the tuple in one text")
        tree = exchange(tree, key, parse(found, key, text) if isinstance(found, Option) else _section(found, key, text))
    return from_plain(tree)


def named_plugins(given: Given) -> tuple[str, ...] | None:
    """The plug-ins that a command line names; None where it names none.

    >>> named_plugins([("plugins", "acme.penalty,acme.model"), ("inner.steps", "3")])
    ('acme.penalty', 'acme.model')
    """
    named = [text for key, text in given if key == "plugins"]
    return _tuple(named[-1], str) if named else None


def exchange(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Whole nested dicts with another value at a dotted key; ``tree`` may be changed.

    Args:
      tree: every key of a config.
      key: of an option or of a section.
      value: of an option; of a section a member's name, which exchanges the member and keeps the options that both
        have, names in a tuple, or a dict of all options.

    Raises:
      ConfigError: for an unknown key or member, and a value that the option refuses.
    """
    found = _entry(tree, key)
    if found is None:
        raise unknown_key(tree, key, value)
    section, _, last = key.rpartition(".")
    if key.startswith("arms."):
        return _in_arm(tree, key, value)
    if isinstance(found, Arms):
        value = named_arms(value, key, tree[key])
    holder = at(tree, section) if section else tree
    if isinstance(found, Option):
        holder[last] = None if found.required and value is None else found.read(key, value)
        return tree
    holder[last] = _exchanged(found, holder[last], key, value) if isinstance(found, Choice) else value
    return expand(tree)


def arm_tree(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The nested dicts of an arm: those of the config, with what the arm overrides, and without arms.

    Args:
      tree: every key of a config.
      name: of one of its arms.

    Raises:
      ConfigError: for an override that is refused, naming its key.
    """
    whole = expand({key: value for key, value in tree.items() if key != "arms"} | {"arms": {}})
    try:
        for key, value in _choices_first(_flat(tree["arms"][name], ROOT)):
            whole = exchange(whole, key, value)
    except ConfigError as error:
        raise ConfigError(f"arms.{name}.{error.key}", error.value, error.bound, error.hint) from error
    return whole


def _flat(section: Mapping[str, Any], schema: Schema, path: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted key, value) of what an arm overrides; members come before their options."""
    for key, value in section.items():
        one = schema.get(key)
        if path == "" and key in ARM:
            continue
        if isinstance(one, Choice) and one.many:
            yield f"{path}{key}", tuple(value)
            for name, options in value.items():
                yield from ((f"{path}{key}.{name}.{option}", what) for option, what in options.items())
        elif isinstance(one, Choice):
            yield from ((f"{path}{key}", value[part]) for part in value if part == "name")
            yield from ((f"{path}{key}.{part}", what) for part, what in value.items() if part != "name")
        elif isinstance(one, Mapping):
            yield from _flat(value, one, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _entry(tree: Mapping[str, Any], key: str) -> Any:
    """``tree.entry``, and for "arms.NAME.KEY" what the key is in this arm."""
    if not key.startswith("arms."):
        return entry(tree, key)
    _, name, *rest = key.split(".")
    if name not in tree["arms"]:
        hint = arm_hint(name, tree["arms"]) or "--config.arms takes the names, or a dict of overrides by name"
        raise ConfigError(key, name, f"of one of the arms {list(tree['arms'])}", hint)
    if not rest:
        return ARM
    return ARM.get(rest[0]) or entry(arm_tree(tree, name), ".".join(rest))


def _in_arm(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    _, name, *rest = key.split(".")
    if rest:
        check_override(key, value)
    held = {part: dict(one) if isinstance(one, Mapping) else one for part, one in tree["arms"][name].items()}
    if not rest:
        held = dict(value)
    elif len(rest) == 1:
        held[rest[0]] = value
    else:
        many = isinstance(one := ROOT.get(rest[0]), Choice) and one.many
        if many:  # an option of a member that the arm has: the others stay
            held.setdefault(rest[0], {named: {} for named in arm_tree(tree, name)[rest[0]]})
        put(held, ".".join(rest), value)
    return expand(tree | {"arms": tree["arms"] | {name: arm_section(held, name)}})


def _exchanged(choice: Choice, held: Mapping[str, Any], key: str, value: Any) -> Any:
    if choice.many:
        named = named_members(choice, value, key)
        return named if isinstance(value, Mapping) else {name: held.get(name, {}) for name in named}
    if isinstance(value, Mapping):
        return {"name": held["name"], **value}
    members = registry(choice.kind)
    if NONE in (value, held["name"]) or value not in list(members):
        return value
    old, new = members.options(held["name"]), members.options(value)
    shared = {option: held[option] for option in new if option in old and _alike(old[option], new[option])}
    return {"name": value, **shared}


def _alike(old: Option | Choice, new: Option | Choice) -> bool:
    # one name may stand for options of two types: hidden is a tuple in mlp and a number in gru
    return type(old) is type(new) and old.kind == new.kind


def _choices_first(given: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    # a choice stands above the options that it brings; inner.name is another key for inner
    bare = [(key.removesuffix(".name") if "." in key else key, value) for key, value in given]
    return sorted(bare, key=lambda pair: pair[0].count("."))


def _section(found: Any, key: str, text: str) -> Any:
    several = isinstance(found, Arms) or (isinstance(found, Choice) and found.many)
    if several and text == NONE:
        return ()
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = _tuple(text, str) if several and "{" not in text else text
    is_text = isinstance(value, str) and not set(value) & set("{}()[]:")
    if is_text or value is None or isinstance(value, Mapping) or (several and isinstance(value, (tuple, list))):
        return value
    names = "names with commas between them" if several else "a member's name"
    raise ConfigError(
        key, text, f"{names}, or a dict of options" if isinstance(found, (Arms, Choice)) else "a dict of options"
    )


def unknown_key(tree: Mapping[str, Any], key: str, value: Any) -> ConfigError:
    """The error for a key that a config does not have.

    Its hint names the same key in another case, the present name of a key of metapers 0.1, the members that have such
    an option, or the nearest key.
    """
    if key.startswith("arms."):
        return _unknown_in_arm(tree, key, value)
    known = [name.removesuffix(".name") if "." in name else name for name, _ in leaves(tree)]
    known += sorted({name.rpartition(".")[0] for name in known} - {""})
    same = [name for name in known if name.lower() == key.lower()]
    last = [
        name
        for name in known
        if difflib.SequenceMatcher(None, name.split(".")[-1], key.split(".")[-1].lower()).ratio() > 0.8
    ]
    old = OLD_KEYS[key].new[0].removesuffix(".name") if key in OLD_KEYS else None
    hint = f"did you mean {(same[0] if same else old)!r}?" if same or old else _elsewhere(tree, key)
    return ConfigError(key, value, "a known key", hint or nearest(key, last) or nearest(key, known))


def _unknown_in_arm(tree: Mapping[str, Any], key: str, value: Any) -> ConfigError:
    _, name, *rest = key.split(".")
    try:
        check_override(key, value)
    except ConfigError as error:
        return error
    own = {part: section for part, section in arm_tree(tree, name).items() if part in OVERRIDES}
    error = unknown_key(own, ".".join(rest), value)
    return ConfigError(key, value, error.bound, error.hint.replace("mean '", f"mean 'arms.{name}."))


def _elsewhere(tree: Mapping[str, Any], key: str) -> str:
    """Which members would bring the key; empty where none does."""
    parts = key.split(".")
    for length in range(1, len(parts)):
        section, part = ".".join(parts[:length]), parts[length]
        choice = entry(tree, section)
        if isinstance(choice, Choice) and entry(tree, f"{section}.{part}") is None:
            if not choice.many:
                return not_chosen(choice.kind, section, part, at(tree, section)["name"])
            return f"{section} does not choose {part!r}" if part in registry(choice.kind) else ""
    return ""


def parse(option: Option, key: str, text: str) -> Any:
    """The value of an option that a text means.

    >>> parse(Option(0.5), "rate", "1e-3"), parse(Option((1,)), "shots", "(4,8)"), parse(Option(False), "bank", "true")
    (0.001, (4, 8), True)

    Raises:
      ConfigError: for a text that is none, or a value beyond the option's bounds.
    """
    if text in ("None", "none") and (option.default is None or option.optional):
        return None
    kind: Any = option.kind
    try:
        if kind is tuple:
            value: Any = _tuple(text, option.item or (type(option.default[0]) if option.default else None))
        elif kind is bool:
            value = {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        else:
            value = kind(text)
    except (ValueError, KeyError, SyntaxError, TypeError):
        raise ConfigError(key, text, option.bound()) from None
    return option.read(key, value)


def _tuple(text: str, item: Any) -> tuple[Any, ...]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = tuple(part.strip() for part in text.strip("()[]").split(",") if part.strip())
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return tuple(item(one) if item in (float, int) and isinstance(one, str) else one for one in value)
