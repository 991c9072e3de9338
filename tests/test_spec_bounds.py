"""Every option of every member: values beyond its bounds, of another type, and left out are refused by their key."""

import math
import pickle
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from metapers import members, spec
from metapers.members import registry
from metapers.options import NONE, Arms, Choice, ConfigError, Option
from metapers.spec.root import ROOT
from metapers.spec.tree import put
from tests.test_config import refused

NO_KEYS = ("baseline", "objective", "user_model")
"""Kinds that no key chooses: a stream and an objective bring the first two, Python code makes the last."""


def choices(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Choice]]:
    for key, one in schema.items():
        if isinstance(one, Choice):
            yield f"{path}{key}", one
        elif not isinstance(one, (Option, Arms)):
            yield from choices(one, f"{path}{key}.")


@cache
def routes() -> dict[str, tuple[str, dict[str, str], bool]]:
    """Kind -> (dotted key of a section, what must be chosen above it, whether it holds several), from the root down."""
    found: dict[str, tuple[str, dict[str, str], bool]] = {}
    waiting = [(key, one, {}) for key, one in choices(ROOT)]
    while waiting:
        key, one, above = waiting.pop(0)
        if one.kind in found:
            continue
        found[one.kind] = (key, above, one.many)
        for name in registry(one.kind):
            inside = f"{key}.{name}" if one.many else key
            for deeper, choice in choices(registry(one.kind).options(name), f"{inside}."):
                waiting.append((deeper, choice, {**above, key: name}))
    return found


def chosen(kind: str, name: str) -> tuple[str, dict[str, Any]]:
    """The dotted key of the section of a member, and nested dicts of a config that chooses it as its example does."""
    key, above, several = routes()[kind]
    tree: dict[str, Any] = {}
    for section, member in above.items():
        put(tree, section, {"name": member})
    example = dict(registry(kind)[name].example)
    if several:
        put(tree, key, {name: example})
        return f"{key}.{name}", tree
    put(tree, key, {"name": name, **example})
    return key, tree


def every_option() -> Iterator[tuple[str, Option | Choice, dict[str, Any]]]:
    """(dotted key, option, nested dicts of a config that has it): of the root and of every member."""

    def of_root(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Option | Choice, dict[str, Any]]]:
        for key, one in schema.items():
            if isinstance(one, (Option, Choice)):
                yield f"{path}{key}", one, {}
            elif not isinstance(one, Arms):
                yield from of_root(one, f"{path}{key}.")

    yield from of_root(ROOT)
    for kind in routes():
        for name in registry(kind):
            for option, one in registry(kind).options(name).items():
                section, tree = chosen(kind, name)
                yield f"{section}.{option}", one, tree


def beyond(option: Option) -> Iterator[Any]:
    """Values just beyond each bound, of the entries' type where the value is a tuple."""
    kind = option._item() if option.kind is tuple else option.kind
    if kind not in (int, float):
        return
    step = (
        (lambda value, way: int(value) + way)
        if kind is int
        else (lambda value, way: np.nextafter(value, way * math.inf))
    )
    if option.above is not None:
        yield kind(option.above)
    if option.least is not None:
        yield kind(step(option.least, -1))
    if option.below is not None:
        yield kind(option.below)
    if option.most is not None:
        yield kind(step(option.most, 1))
    if kind is float:
        yield from (math.nan, math.inf, -math.inf)


def within(option: Option) -> Iterator[Any]:
    """Values at each bound that are still good."""
    kind = option._item() if option.kind is tuple else option.kind
    if option.choices or kind not in (int, float):
        return
    for bound, way in ((option.above, 1), (option.below, -1)):
        if bound is not None:
            yield int(bound) + way if kind is int else float(np.nextafter(bound, way * math.inf))
    yield from (kind(bound) for bound in (option.least, option.most) if bound is not None)


def mistyped(option: Option) -> Iterator[Any]:
    """Values of other types."""
    wrong = {int: (1.5, "1", True), float: ("fast", True), bool: (1, "true"), str: (3, True), tuple: (3, "many")}
    yield from wrong[option.kind]
    yield {"value": 1}
    if option.kind is not tuple:
        yield (option.default,)
    if option.kind is tuple and option._item() is not None:
        yield from ((one,) for one in wrong[option._item()])
    if option.default is not None and not option.optional:
        yield None


def misspelt(option: Option) -> Iterator[Any]:
    for one in option.choices:
        if isinstance(one, str):
            yield f"{one}s"
        else:
            yield one + 1 if one + 1 not in option.choices else one + 17


def bad(option: Option) -> list[Any]:
    limits = [(value,) if option.kind is tuple else value for value in beyond(option)]
    return [*limits, *mistyped(option), *misspelt(option)]


def check_with(tree: dict[str, Any], key: str, value: Any) -> None:
    put(tree, key, value)
    spec.check(ConfigDict(tree))


def test_every_kind_with_keys_is_reached():
    assert set(routes()) | set(NO_KEYS) == set(members.kinds()) and not set(routes()) & set(NO_KEYS)
    assert routes()["rates"][0] == "inner.rates" and routes()["head"][0] == "model.head"
    reached = [key for key, _, _ in every_option()]
    assert len(reached) > 250 and {"inner.rates.rate", "penalties.ewc.decay", "model.norm.groups"} <= {*reached}


def test_bad_values_of_every_option_are_refused_by_the_whole_key():
    count = 0
    for key, option, tree in every_option():
        for value in bad(option) if isinstance(option, Option) else ():
            error = refused(check_with, tree, key, value)
            shown = (error.key, error.bound)
            assert shown in ((key, option.bound()), (key, "finite")), f"{key} = {value!r}: {error}"
            told = tuple(error.value) if isinstance(error.value, list) else error.value
            assert told == value or (value != value and told != told), f"{key} = {value!r}: {error}"
            count += 1
    assert count > 1500


def test_the_hint_of_a_misspelt_choice_is_the_nearest_one():
    seen = 0
    for key, option, tree in every_option():
        for good, wrong in zip(getattr(option, "choices", ()), misspelt(option) if isinstance(option, Option) else ()):
            if isinstance(good, str):
                assert refused(check_with, tree, key, wrong).hint == f"did you mean {good!r}?"
                seen += 1
    assert seen >= 8


def test_a_misspelt_member_is_refused_with_the_nearest_one():
    for key, choice, tree in every_option():
        if not isinstance(choice, Choice):
            continue
        for name in registry(choice.kind):
            error = refused(check_with, tree, key, f"{name}s")
            assert error.key == (key if choice.many else f"{key}.name") and error.hint == f"did you mean {name!r}?"
            assert error.value == f"{name}s"
        if not choice.optional and not choice.many:
            assert refused(check_with, tree, key, NONE).key == f"{key}.name"


def test_a_required_option_that_is_left_out_is_refused():
    seen = []
    for key, option, tree in every_option():
        if isinstance(option, Option) and option.required:
            section, _, last = key.rpartition(".")
            holder = tree
            for part in section.split("."):
                holder = holder[part]
            del holder[last]
            error = refused(lambda tree=tree: spec.check(ConfigDict(tree)))
            assert (error.key, error.value, error.hint) == (key, None, "it has no default")
            seen.append(key)
    assert {"penalties.anchor.strength", "penalties.ewc.strength", "gate.least", "aggregator.norm"} <= {*seen}


def test_a_strength_of_0_is_refused():
    for key in (
        "penalties.anchor.strength",
        "penalties.ewc.strength",
        "gate.least",
        "aggregator.norm",
        "inner.strength",
    ):
        (tree,) = [tree for other, _, tree in every_option() if other == key]
        for zero in (0, 0.0, -0.0):
            error = refused(check_with, tree, key, zero)
            assert (error.key, error.value) == (key, 0.0) and "> 0" in error.bound


def test_values_at_the_bounds_defaults_and_grids_are_good():
    schemas = [registry(kind).options(name) for kind in members.kinds() for name in registry(kind)]
    flat = [option for schema in (ROOT, ROOT["evaluation"], *schemas) for option in schema.values()]
    for option in flat:
        if not isinstance(option, Option):
            continue
        known = [] if option.required else [option.default]
        for value in [*known, *option.grid, *option.choices]:
            assert option.read("key", value) == value
        for value in within(option):
            value = (value,) if option.kind is tuple else value
            assert option.read("key", value) == value


def test_examples_and_variants_are_read_as_they_are():
    for kind in routes():
        for name in registry(kind):
            member = registry(kind)[name]
            for given in (member.example, *member.variants):
                for key, value in given.items():
                    option = registry(kind).options(name)[key]
                    if isinstance(option, Option):
                        assert option.read(key, value) == value


@pytest.mark.parametrize(
    ("option", "value", "bound"),
    [
        (Option(5, least=1), 0, "a whole number >= 1"),
        (Option(0.5, least=0, most=1), 2.0, "a number >= 0 and <= 1"),
        (Option(above=0.0), 0.0, "a number > 0"),
        (Option(None, type=int, least=2), 1, "a whole number >= 2, or None"),
        (Option("a", choices=("a", "b")), "c", "one of ['a', 'b']"),
        (Option((1,), least=1), (0,), "a tuple of whole numbers >= 1"),
        (Option((), item=str), (1,), "a tuple of texts"),
        (Option(True), 1, "True or False"),
        (Option(1.0), math.inf, "finite"),
    ],
)
def test_the_bound_is_said_in_words(option, value, bound):
    error = refused(option.read, "a.key", value)
    assert (error.key, error.value, error.bound) == ("a.key", value, bound)
    assert str(error).startswith(f"a.key must be {bound}, got {value!r}")


def test_an_error_comes_back_from_another_process():
    error = ConfigError("inner.steps", 0, ">= 1", "0 steps adapt nothing")
    back = pickle.loads(pickle.dumps(error))
    assert (back.key, back.value, back.bound, back.hint) == ("inner.steps", 0, ">= 1", "0 steps adapt nothing")
    assert str(back) == str(error)
