"""Options of members: their types, defaults and bounds, and the one error that a bad value gives."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class ConfigError(ValueError):
    """A value of a config that cannot be used: ``key must be bound, got value; hint``.

    >>> error = ConfigError("inner.steps", 0, ">= 1", "0 steps adapt nothing")
    >>> str(error), error.key
    ('inner.steps must be >= 1, got 0; 0 steps adapt nothing', 'inner.steps')
    """

    def __init__(self, key: str, value: Any, bound: str, hint: str = ""):
        """
        Args:
          key: the dotted key.
          value: what was given.
          bound: what the value must be, as it follows "must be".
          hint: what would help; empty for nothing.
        """
        self.key, self.value, self.bound, self.hint = key, value, bound, hint
        verb = "" if bound.startswith(("not ", "name ", "hold ", "exist")) else "be "
        super().__init__(f"{key} must {verb}{bound}, got {value!r}{f'; {hint}' if hint else ''}")

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfigError, (self.key, self.value, self.bound, self.hint)


class Required:
    """The default of an option without one."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = Required()


class Option(NamedTuple):
    """One value that a config may set."""

    default: Any = REQUIRED
    above: float | None = None  # the value must be > this
    least: float | None = None  # the value must be >= this
    below: float | None = None  # the value must be < this
    most: float | None = None  # the value must be <= this
    choices: tuple[Any, ...] = ()  # the only values; empty: any
    type: Any = None  # of the value; None: that of the default, else float
    item: Any = None  # of a tuple's entries; None: that of the default's first
    optional: bool = False  # None is a value too; so it is where the default is None
    traced: bool = False  # the state carries it: other values run the same compiled program
    grid: tuple[Any, ...] = ()  # values among which validation users choose
    no_effect_with: tuple[str, ...] = ()  # traits of other chosen members under which nothing reads the value
    not_with: Mapping[str, str] = {}  # traits with which another value than the default is refused, with the reason
    doc: str = ""

    @property
    def kind(self) -> Any:
        """The type of the value.

        >>> Option(5).kind, Option(above=0.0).kind, Option(None, type=int).kind
        (<class 'int'>, <class 'float'>, <class 'int'>)
        """
        if self.type is not None:
            return self.type
        return float if self.default is None or self.default is REQUIRED else type(self.default)

    @property
    def required(self) -> bool:
        """Whether a config must set it."""
        return self.default is REQUIRED

    def bound(self) -> str:
        """What a value must be, in words.

        >>> Option(0.5, least=0, most=1).bound(), Option("a", choices=("a", "b")).bound(), Option(True).bound()
        ('a number >= 0 and <= 1', "one of ['a', 'b']", 'True or False')
        """
        if self.choices:
            text = f"one of {list(self.choices)}"
        elif self.kind is bool:
            text = "True or False"
        else:
            limits = (("> ", self.above), (">= ", self.least), ("< ", self.below), ("<= ", self.most))
            said = " and ".join(f"{sign}{limit:g}" for sign, limit in limits if limit is not None)
            text = " ".join(part for part in (_called(self.kind, self._item()), said) if part)
        return f"{text}, or None" if self._may_be_none() else text

    def read(self, key: str, value: Any) -> Any:
        """``value`` as the option has it: an int stands for a float, a list for a tuple.

        Args:
          key: the dotted key, for the error.
          value: the value of the config.

        Raises:
          ConfigError: for a value of another type or beyond the bounds, or none where one is required.
        """
        if value is REQUIRED or (value is None and not self._may_be_none()):
            raise ConfigError(key, None, self.bound(), "it has no default" if self.required else "")
        if value is None:
            return None
        if self.kind is tuple:
            entries = tuple(value) if isinstance(value, (list, tuple)) else self._refuse(key, value)
            return tuple(self._one(key, entry, self._item(), value) for entry in entries)
        return self._one(key, value, self.kind, value)

    def _one(self, key: str, value: Any, kind: Any, whole: Any) -> Any:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = _float(value)
        fits = kind is None or type(value) is kind
        if not fits or (self.choices and value not in self.choices):
            hint = nearest(value, self.choices) if isinstance(value, str) else ""
            raise ConfigError(key, whole, self.bound(), hint)
        if value == "" and self._may_be_none():
            raise ConfigError(key, whole, self.bound(), "None leaves it out")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(key, whole, "finite")
            if not self._within(value):
                raise ConfigError(key, whole, self.bound())
        return value

    def _within(self, value: float) -> bool:
        return (
            (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )

    def _refuse(self, key: str, value: Any) -> Any:
        raise ConfigError(key, value, self.bound())

    def _item(self) -> Any:
        if self.item is not None or self.kind is not tuple:
            return self.item
        return type(self.default[0]) if isinstance(self.default, tuple) and self.default else None

    def _may_be_none(self) -> bool:
        return self.default is None or self.optional


class Choice(NamedTuple):
    """A section of a config: the name of a member of one kind, and the options of that member."""

    kind: str  # of the registry
    default: str | tuple[str, ...] | None = None  # the member that is chosen where a config says nothing; None: none
    many: bool = False  # several members by name, each with its options
    optional: bool = False  # no member is a choice too, "none"
    doc: str = ""


class Arms(NamedTuple):
    """A section of a config with arms by name, each with the keys that it overrides and no others."""

    default: tuple[str, ...]  # the arms of a config that does not say
    doc: str = ""


def is_carried(value: Any) -> bool:
    """Whether a value is an array that a state carries: its bound was checked when the state was made."""
    return hasattr(value, "aval")


NONE = "none"
"""The name of no member in an optional choice."""


def nearest(name: Any, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the known name that is closest, whatever its case; empty for none that is close.

    >>> nearest("STRENGHT", ["strength", "decay"])
    "did you mean 'strength'?"
    """
    by_lower = {one.lower(): one for one in known if isinstance(one, str)}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5) if isinstance(name, str) else []
    return f"did you mean {by_lower[close[0]]!r}?" if close else ""


Schema = Mapping[str, "Option | Choice | Arms | Schema"]
"""Keys of a section: options, choices of members, arms, and sections of the same form."""


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:  # beyond the largest number
        return math.inf if value > 0 else -math.inf


def _called(kind: Any, item: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", tuple: "a tuple"}
    more = {int: " of whole numbers", float: " of numbers", str: " of texts"}.get(item, "") if kind is tuple else ""
    return names.get(kind, getattr(kind, "__name__", str(kind))) + more
