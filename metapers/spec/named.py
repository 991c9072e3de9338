"""Sections that hold something by name: members, and arms with what each of them overrides."""

from collections.abc import Iterable, Mapping
from typing import Any

from metapers.members import registry
from metapers.options import NONE, Choice, ConfigError, Option, Schema, nearest
from metapers.spec.root import ARM, OLD_ARMS, OVERRIDES, ROOT, SHIPPED_ARMS


def as_section(key: str, value: Any, schema: Schema) -> Any:
    """The same value, if it is a section.

    Raises:
      ConfigError: for any other value.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(key, value, "a section", f"set one of its keys, as {key}.{next(iter(schema), 'name')}")
    return value


def not_chosen(kind: str, key: str, option: str, name: str) -> str:
    """The members of a kind that have an option which the chosen one lacks, as a hint; empty where none has it.

    >>> not_chosen("gate", "gate", "margin", "none")
    "gate is 'none', and only 'cross_validated' has it"
    """
    having = [repr(other) for other in registry(kind) if option in registry(kind).options(other)]
    having = having if len(having) < 5 else [*having[:3], "others"]
    return f"{key} is {name!r}, and only {' or '.join(having)} has it" if having else ""


def named_members(choice: Choice, value: Any, key: str) -> dict[str, Any]:
    """The options by name of a choice of several members, which a name, a tuple of names or a dict gives.

    Raises:
      ConfigError: for another value, an unknown name and one that is there twice.
    """
    value = () if value in (None, NONE, "") else (value,) if isinstance(value, str) else value
    known = list(registry(choice.kind))
    if not isinstance(value, (Mapping, list, tuple)):
        raise ConfigError(key, value, f"names of {known}, or a dict of options by name")
    for name in value:
        if not isinstance(name, str) or name not in known:
            raise ConfigError(key, name, f"one of {known}", nearest(name, known))
    if len(set(value)) < len(value):
        raise ConfigError(key, tuple(value), "names that are given once")
    return dict(value) if isinstance(value, Mapping) else {name: {} for name in value}


# Arms


def arm_hint(name: Any, known: Iterable[str]) -> str:
    """The arm that an unknown name may mean: the present name of a strategy of metapers 0.1, or the nearest one.

    >>> arm_hint("naive", SHIPPED_ARMS), arm_hint("joint_modell", SHIPPED_ARMS), arm_hint("naive", ["er"])
    ("did you mean 'fine_tune'?", "did you mean 'joint_model'?", '')
    """
    present = OLD_ARMS.get(name) if isinstance(name, str) else None
    return f"did you mean {present!r}?" if present in [*known] else nearest(name, known)


def named_arms(value: Any, key: str, held: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What arms override, by name: a name, a tuple of names or a dict gives it.

    Args:
      value: as a config has it; a name stands for a shipped arm, or for one of ``held``.
      key: of the section.
      held: overrides by name of the arms that a config has.

    Raises:
      ConfigError: for another value, an unknown name, one that is there twice and one that no folder may have.
    """
    value, held = (value,) if isinstance(value, str) else value, held or {}
    shipped = ", ".join(SHIPPED_ARMS)
    if not isinstance(value, (Mapping, list, tuple)) or not all(isinstance(name, str) for name in value):
        raise ConfigError(key, value, f"names of arms, as {shipped}, or a dict of overrides by name")
    if len(set(value)) < len(value):
        raise ConfigError(key, tuple(value), "names that are given once")
    known = [*SHIPPED_ARMS, *(name for name in held if name not in SHIPPED_ARMS)]
    for name in value:
        if name in OLD_ARMS or (not isinstance(value, Mapping) and name not in known):
            more = "an arm of another name is given with its overrides, in a dict"
            raise ConfigError(key, name, f"one of {known}", arm_hint(name, known) or more)
        if not name.isidentifier():
            raise ConfigError(key, name, "names of letters, digits and _", "an arm names a folder")
    return dict(value) if isinstance(value, Mapping) else {name: held.get(name, {}) for name in value}


def arm_sections(value: Any, key: str) -> dict[str, Any]:
    """The sections of the arms that ``named_arms`` reads, with what shipped arms override beside.

    Raises:
      ConfigError: for what ``named_arms`` and ``arm_section`` refuse.
    """
    return {
        name: arm_section({**SHIPPED_ARMS.get(name, {}), **as_section(f"{key}.{name}", given, ARM)}, name)
        for name, given in named_arms(value, key).items()
    }


def arm_section(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The section of an arm: its own keys, and what it overrides, a chosen member as {"name": member}.

    Args:
      given: what the arm says.
      name: of the arm.

    Raises:
      ConfigError: for a key that no arm may override.
    """
    found: dict[str, Any] = {}
    for key, value in given.items():
        whole = f"arms.{name}.{key}"
        check_override(whole, value)
        one = {**ARM, **ROOT}[key]
        found[key] = one.read(whole, value) if isinstance(one, Option) else _override(one, value, whole)
    return found


def check_override(key: str, value: Any) -> None:
    """Refuses "arms.NAME.KEY" where no arm has such a key of its own, with the reason."""
    part = key.split(".")[2]
    if part in (*ARM, *OVERRIDES):
        return
    if part in ROOT:
        raise ConfigError(key, value, "the same for all arms", f"an arm may override {', '.join(OVERRIDES)}")
    raise ConfigError(key, value, "a known key", nearest(part, (*ARM, *OVERRIDES)))


def _override(one: Any, value: Any, key: str) -> Any:
    if isinstance(one, Mapping):
        section = as_section(key, value, one)
        return {
            part: _override(one[part], given, f"{key}.{part}") if part in one else given
            for part, given in section.items()
        }
    if one.many:
        named = named_members(one, value, key)
        return {name: dict(as_section(f"{key}.{name}", given, {})) for name, given in named.items()}
    return dict(value) if isinstance(value, Mapping) else {"name": NONE if value is None else value}
