"""Values in place of a config's, by dotted key: those of a command line as texts, those of Python as they are."""

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from metapers.members import load_plugins, registry
from metapers.options import NONE, Choice, ConfigError, Option, nearest
from metapers.spec.old_keys import KEYS as OLD_KEYS
from metapers.spec.tree import Config, at, entry, expand, from_plain, leaves, named_members, not_chosen, plain

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
    return ConfigDict(expand(tree)).lock()


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
        found = entry(tree, key)
        if found is None:
            raise unknown_key(tree, key, text)
        listed = found.many if isinstance(found, Choice) else isinstance(found, Option) and found.kind is tuple
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
    found = entry(tree, key)
    if found is None:
        raise unknown_key(tree, key, value)
    section, _, last = key.rpartition(".")
    holder = at(tree, section) if section else tree
    if isinstance(found, Option):
        holder[last] = None if found.required and value is None else found.read(key, value)
        return tree
    holder[last] = _exchanged(found, holder[last], key, value) if isinstance(found, Choice) else value
    return expand(tree)


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
    several = isinstance(found, Choice) and found.many
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
    raise ConfigError(key, text, f"{names}, or a dict of options" if isinstance(found, Choice) else "a dict of options")


def unknown_key(tree: Mapping[str, Any], key: str, value: Any) -> ConfigError:
    """The error for a key that a config does not have.

    Its hint names the same key in another case, the present name of a key of metapers 0.1, the members that have such
    an option, or the nearest key.
    """
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
