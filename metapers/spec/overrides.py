"""Values that a command line gives to keys of a config: plug-ins first, then choices, then options."""

import ast
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from metapers.members import load_plugins
from metapers.options import ConfigError, Option, nearest
from metapers.spec.tree import Config, exchange, expand, from_plain, leaves, options, plain

Given = Sequence[tuple[str, str]]
"""(dotted key, text) in the order of the command line."""


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
    tree = plain(config)
    tree["plugins"] = list(plugins)
    left = [pair for pair in given if pair[0] != "plugins"]
    for key, text in sorted(left, key=lambda pair: pair[0].count(".")):
        if _is_section(tree, key):
            exchange(tree, key, _section(key, text))
            tree = expand(tree)
    for key, text in left:
        if not _is_section(tree, key):
            _set(tree, key, text, [other for other, _ in left].count(key))
    return from_plain(tree)


def named_plugins(given: Given) -> tuple[str, ...] | None:
    """The plug-ins that a command line names; None where it names none.

    >>> named_plugins([("plugins", "acme.penalty,acme.model"), ("inner.steps", "3")])
    ('acme.penalty', 'acme.model')
    """
    named = [text for key, text in given if key == "plugins"]
    return _tuple(named[-1], str) if named else None


def _is_section(tree: Mapping[str, Any], key: str) -> bool:
    key = key.removesuffix(".name") if "." in key else key
    held: Any = tree
    for part in key.split("."):
        held = held.get(part) if isinstance(held, Mapping) else None
    return isinstance(held, Mapping)


def _section(key: str, text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(value, (Mapping, tuple, list, str)) or value is None:
        return tuple(value.split(",")) if isinstance(value, str) and "," in value else value
    raise ConfigError(key, text, "a member's name, names in a tuple, or a dict of options")


def _set(tree: dict[str, Any], key: str, text: str, times: int) -> None:
    known = {leaf.key: leaf.option for leaf in options(expand(tree))}
    if key not in known:
        raise unknown_key(tree, key, text)
    if known[key].kind is tuple and times > 1:
        raise ConfigError(key, f"{times} times on the command line", "given once, all of the tuple in one text")
    value = parse(known[key], key, text)
    *before, last = key.split(".")
    for part in before:
        tree = tree[part]
    tree[last] = list(value) if isinstance(value, tuple) else value


def unknown_key(tree: Mapping[str, Any], key: str, value: Any) -> ConfigError:
    """The error for a key that a config does not have; it names the nearest one, whatever its case."""
    known = [name for name, _ in leaves(tree)]
    same = [name for name in known if name.lower() == key.lower()]
    last = [
        name
        for name in known
        if difflib.SequenceMatcher(None, name.split(".")[-1], key.split(".")[-1].lower()).ratio() > 0.8
    ]
    hint = f"did you mean {same[0]!r}?" if same else nearest(key, last) or nearest(key, known)
    return ConfigError(key, value, "a known key of this config", hint)


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
