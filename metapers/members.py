"""Members: what a config can choose by name. An entry holds a factory and its options; a registry holds the entries.

A new member is one file with its factory and its entry, and one line that registers the entry::

    register("penalty", "l1", Member(l1, {"strength": Option(above=0.0, traced=True)}, example={"strength": 1.0}))

Everything else follows from the entry: the keys of a config with their defaults and bounds, the reference page, the
notes about keys without effect, the contract tests.
"""

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from metapers.options import NONE, REQUIRED, Choice, ConfigError, Option, nearest

GROUP = "metapers.members"
"""The entry-point group by which an installed package names the modules that register its members."""


class Member(NamedTuple):
    """What can be chosen by name.

    The builder calls ``factory(**needs, **options)``. An option that is a ``Choice`` arrives built.
    """

    factory: Callable[..., Any]
    options: Mapping[str, Option | Choice] = {}
    needs: tuple[str, ...] = ()  # what the builder provides, by the names of the factory's arguments
    paper: str = ""  # the source
    example: Mapping[str, Any] = {}  # options with which the contract tests run it
    variants: tuple[Mapping[str, Any], ...] = ()  # further options that run other code: contract tests run these too
    traits: tuple[str, ...] = ()  # what others must know of it, by name
    requires: Mapping[str, str] = {}  # traits that a config must have beside it, each with the reason
    conflicts: Mapping[str, str] = {}  # traits that a config must not have beside it, each with the reason
    facts: Any = None  # what the builder of this kind must know before it builds
    doc: str = ""  # a few words for tables; empty: the first line of the factory's docstring

    def about(self) -> str:
        """A few words on the member."""
        return self.doc or ((self.factory.__doc__ or "").strip().splitlines() or [""])[0]


class Registry:
    """The members of one kind by name, in the order in which tables show them."""

    def __init__(self, kind: str):
        self.kind, self.doc = kind, ""
        self.common: Mapping[str, Option | Choice] = {}  # options of every member that the builder itself reads
        self.carry: Callable[..., Any] | None = None
        """(make, values) -> the shape with ``values``, options by name, in its state; None: factories do so."""
        self.modules: dict[str, str] = {}  # of members of other packages: the module that registered each
        self._members: dict[str, Member] = {}

    def add(self, **members: Member) -> None:
        """Adds members by name.

        Raises:
          ValueError: for a name that another factory has, or "none".
        """
        for name, member in members.items():
            held = self._members.get(name)
            if name == NONE or (held is not None and _place(held) != _place(member)):
                raise ValueError(f"{self.kind} {name!r} is taken; register the member under another name")
            self._members[name] = member

    def __getitem__(self, name: str) -> Member:
        if name not in self._members:
            raise ConfigError(self.kind, name, f"one of {list(self)}", nearest(name, self._members))
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def items(self) -> Iterable[tuple[str, Member]]:
        """(name, member) of each."""
        return self._members.items()

    def options(self, name: str) -> dict[str, Option | Choice]:
        """The options of a member, those that all of its kind have last."""
        return {**self[name].options, **self.common}


_REGISTRIES: dict[str, Registry] = {}


def registry(kind: str, doc: str = "") -> Registry:
    """The registry of a kind, made when it is first asked for; ``doc``: what its members do, for the reference page."""
    found = _REGISTRIES.setdefault(kind, Registry(kind))
    found.doc = doc or found.doc
    return found


def kinds() -> tuple[str, ...]:
    """The kinds that have a registry, in the order of their names whatever was imported first."""
    return tuple(sorted(_REGISTRIES))


def register(kind: str, name: str, member: Member) -> None:
    """Adds one member: the line that a file of another package ends with.

    Args:
      kind: "penalty", "memory", "inner_loop", "learner", "model", "source", "baseline", ... (``kinds``).
      name: what a config calls it.
      member: its entry.

    Raises:
      ValueError: for a name that another factory of this kind has.
    """
    registry(kind).add(**{name: member})
    registry(kind).modules[name] = sys._getframe(1).f_globals["__name__"]


# Building


class Context(Mapping[str, Any]):
    """What a builder provides to members; each value is made when a member first needs it."""

    def __init__(self, **providers: Callable[[], Any]):
        self._providers, self._made = providers, {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            if name not in self._providers:
                raise LookupError(f"needs must be of {sorted(self._providers)}, got {name!r}")
            self._made[name] = self._providers[name]()
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._providers

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    def extended(self, **providers: Callable[[], Any]) -> "Context":
        """A context with these providers too; nothing that was made is kept."""
        return Context(**{**self._providers, **providers})


def build(kind: str, section: Mapping[str, Any], context: Mapping[str, Any], *, key: str = "", **replaced: Any) -> Any:
    """What a section of a config describes; None for the name "none".

    Args:
      kind: of the registry.
      section: {"name": a member's name, option: value, ...}; ``common`` options are not passed on.
      context: what members may need, by name.
      key: the section's dotted key, which errors begin with; empty for ``kind``.
      **replaced: values in place of the section's, of options that the member has.

    Raises:
      ConfigError: for an unknown name, and what the factory refuses.
      LookupError: for a member that needs what its builder does not provide.
    """
    if section["name"] == NONE:
        return None
    member = registry(kind)[section["name"]]
    options = {
        name: build(option.kind, section[name], context, key=f"{key or kind}.{name}")
        if isinstance(option, Choice)
        else replaced.get(name, section[name])
        for name, option in member.options.items()
    }
    if missing := set(member.needs) - set(context):
        raise LookupError(f"{kind} {section['name']!r} needs {sorted(missing)}; its builder provides {sorted(context)}")
    needs = {name: context[name] for name in member.needs}
    carry = registry(kind).carry
    carried = {name: options.pop(name) for name, option in member.options.items() if carry and _traced(option)}
    with naming(key or kind, options | carried):
        if carry and carried:
            return carry(lambda **values: member.factory(**needs, **options, **values), carried)
        return member.factory(**needs, **options)


class naming:
    """While inside, a ValueError that begins with the name of an option becomes a ConfigError of the whole key.

    >>> with naming("inner", {"steps": -1}):
    ...     raise ValueError("steps must be >= 0, got -1")
    Traceback (most recent call last):
      ...
    metapers.options.ConfigError: inner.steps must be >= 0, got -1
    """

    def __init__(self, key: str, options: Mapping[str, Any]):
        self.key, self.options = key, options

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, ValueError) or isinstance(error, ConfigError):
            return
        found = re.fullmatch(r"(\w+) must (?:be )?(.*?),? got (.*?)(?:[:;] (.*))?", str(error), re.DOTALL)
        if found and found[1] in self.options:
            value = self.options[found[1]]
            raise ConfigError(f"{self.key}.{found[1]}", value, found[2], found[4] or "") from error


def _traced(option: Option | Choice) -> bool:
    return isinstance(option, Option) and option.traced


def defaults(kind: str, name: str) -> dict[str, Any]:
    """The section of a member with every default; ``REQUIRED`` where there is none.

    Raises:
      ConfigError: for an unknown name.
    """
    return {"name": name} | {key: _default(option) for key, option in registry(kind).options(name).items()}


def _default(option: Option | Choice) -> Any:
    if isinstance(option, Option):
        return option.default
    if option.many:
        return {name: without_name(defaults(option.kind, name)) for name in option.default or ()}
    return {"name": NONE} if option.default is None else defaults(option.kind, str(option.default))


def without_name(section: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a section."""
    return {key: value for key, value in section.items() if key != "name"}


def sections(kind: str, *names: str, more: Mapping[str, Any] | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(label, section) of the example and of each variant of the members of a kind, for tests; ``names``: of these."""
    found = []
    for name in names or registry(kind):
        member = registry(kind)[name]
        for place, given in enumerate((member.example, *member.variants)):
            label = name if not place else f"{name}, {', '.join(f'{key} {value}' for key, value in given.items())}"
            found.append((label, filled(kind, {"name": name, **member.example, **given, **(more or {})})))
    return found


def filled(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A section with defaults for what ``given`` leaves out; a nested choice may be given by its name alone.

    Raises:
      ConfigError: for an unknown name.
    """
    whole = defaults(kind, given["name"])
    for key, option in registry(kind).options(given["name"]).items():
        if key not in given:
            continue
        value = given[key]
        if isinstance(option, Choice) and not option.many:
            value = {"name": value} if isinstance(value, str) else dict(value)
            value = filled(option.kind, value) if value["name"] != NONE else value
        whole[key] = value
    return whole


# Members of other packages


@cache
def load_installed() -> tuple[str, ...]:
    """Imports the modules that installed packages name in the group ``metapers.members``; returns their names.

    Raises:
      ConfigError: for a module that cannot be imported.
    """
    names = sorted(one.value.partition(":")[0] for one in importlib.metadata.entry_points(group=GROUP))
    for name in names:
        _imported(name, f"an installed package names it in the group {GROUP!r}")
    return tuple(names)


def load_plugins(names: Iterable[str], allowed: Iterable[str] = ()) -> None:
    """Imports modules that register members.

    Args:
      names: the modules that a config or a version names.
      allowed: the modules that the caller allows, beside installed entry points and what is imported already.

    Raises:
      ConfigError: for a module that is not allowed, or that cannot be imported.
    """
    installed, allowed = load_installed(), set(allowed)
    for name in names:
        if name not in installed and name not in allowed and name not in sys.modules:
            raise ConfigError("plugins", name, "installed or allowed", f"--allow-plugin={name} imports it")
        _imported(name)


def _imported(name: str, why: str = "") -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        hint = "; ".join(part for part in (str(error), why) if part)
        raise ConfigError("plugins", name, "a module that can be imported", hint) from error


def plugin_of(kind: str, name: str) -> str | None:
    """The module that registered a member of another package; None for one of this package."""
    return registry(kind).modules.get(name)


def _place(member: Member) -> tuple[str, str]:
    return member.factory.__module__, getattr(member.factory, "__qualname__", repr(member.factory))


__all__ = ["NONE", "REQUIRED", "Choice", "ConfigError", "Context", "Member", "Option", "Registry"]
