"""Options: what each type and bound takes and refuses, and the one error that they raise."""

import math
import pickle

import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from metapers.options import REQUIRED, Choice, ConfigError, Option, is_carried, nearest

NUMBERS = some.floats(allow_nan=False, allow_infinity=False)


def refused(option, value, key="section.key"):
    with pytest.raises(ConfigError) as error:
        option.read(key, value)
    assert error.value.key == key and (error.value.value is value or error.value.value == value)
    return error.value


# Types


@pytest.mark.parametrize(
    ("option", "kind", "bound"),
    [
        (Option(5), int, "a whole number"),
        (Option(0.5), float, "a number"),
        (Option(above=0.0), float, "a number > 0"),
        (Option(type=int, least=1), int, "a whole number >= 1"),
        (Option(True), bool, "True or False"),
        (Option("rmse"), str, "a text"),
        (Option("a", choices=("a", "b")), str, "one of ['a', 'b']"),
        (Option(7, choices=(7, 14)), int, "one of [7, 14]"),
        (Option(None, type=str), str, "a text, or None"),
        (Option(None, type=float, above=0.0), float, "a number > 0, or None"),
        (Option(2, optional=True), int, "a whole number, or None"),
        (Option((1, 2), least=1), tuple, "a tuple of whole numbers >= 1"),
        (Option((0.1, 5.0)), tuple, "a tuple of numbers"),
        (Option((), item=str), tuple, "a tuple of texts"),
        (Option(0.5, least=0, most=1), float, "a number >= 0 and <= 1"),
        (Option(0.5, above=0, below=1), float, "a number > 0 and < 1"),
    ],
)
def test_the_type_follows_from_the_default_and_the_bound_is_put_into_words(option, kind, bound):
    assert option.kind is kind and option.bound() == bound


@pytest.mark.parametrize(
    ("option", "value", "read"),
    [
        (Option(0.5), 2, 2.0),
        (Option(0.5), 0.25, 0.25),
        (Option(5), 7, 7),
        (Option(True), False, False),
        (Option("rmse"), "mae", "mae"),
        (Option("a", choices=("a", "b")), "b", "b"),
        (Option((1, 2)), [3, 4], (3, 4)),
        (Option((1, 2)), (), ()),
        (Option((0.1, 5.0)), [1, 2], (1.0, 2.0)),
        (Option((), item=str), ["a"], ("a",)),
        (Option(None, type=int), None, None),
        (Option(None, type=int), 3, 3),
        (Option(2, optional=True), None, None),
        (Option(type=int), 3, 3),
    ],
)
def test_a_value_is_read_as_the_option_has_it(option, value, read):
    found = option.read("key", value)
    assert found == read and type(found) is type(read)
    if isinstance(read, tuple):
        assert [type(one) for one in found] == [type(one) for one in read]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (Option(5), 5.0),
        (Option(5), "5"),
        (Option(5), True),
        (Option(5), None),
        (Option(0.5), True),
        (Option(0.5), "0.5"),
        (Option(0.5), [0.5]),
        (Option(0.5), {"rate": 0.5}),
        (Option(True), 1),
        (Option(True), "True"),
        (Option("rmse"), 1),
        (Option("rmse"), ("rmse",)),
        (Option((1, 2)), 3),
        (Option((1, 2)), "12"),
        (Option((1, 2)), [1.0, 2]),
        (Option((0.1, 5.0)), [1, "2"]),
        (Option((), item=str), [1]),
        (Option(None, type=int), 1.0),
        (Option(None, type=str), 3),
        (Option(7, choices=(7, 14)), 8),
        (Option(7, choices=(7, 14)), 7.0),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_the_option_takes(option, value):
    assert refused(option, value).bound == option.bound()


@pytest.mark.parametrize("value", [None, REQUIRED])
def test_a_required_option_without_a_value_says_that_it_has_no_default(value):
    option = Option(above=0.0)
    assert option.required and repr(option.default) == "required" and not Option(None).required
    with pytest.raises(ConfigError) as error:
        option.read("penalties.anchor.strength", value)
    assert (error.value.value, error.value.bound, error.value.hint) == (None, "a number > 0", "it has no default")


def test_an_empty_text_stands_for_no_absent_value():
    assert refused(Option(None, type=str), "").hint == "None leaves it out"
    assert Option("").read("name", "") == ""


# Bounds


@given(value=NUMBERS, limit=NUMBERS)
@pytest.mark.parametrize("name", ["above", "least", "below", "most"])
def test_a_bound_is_a_comparison(name, value, limit):
    inside = {"above": value > limit, "least": value >= limit, "below": value < limit, "most": value <= limit}[name]
    option = Option(0.0, **{name: limit})
    if inside:
        assert option.read("key", value) == value
    else:
        assert refused(option, value).bound == option.bound()


@given(value=some.integers(-20, 20), low=some.integers(-9, 9), high=some.integers(-9, 9))
def test_two_bounds_hold_together_and_for_every_entry_of_a_tuple(value, low, high):
    inside = low <= value < high
    one, several = Option(0, least=low, below=high), Option((0,), least=low, below=high)
    if inside:
        assert one.read("key", value) == value and several.read("key", [value, value]) == (value, value)
    else:
        assert refused(one, value).bound == f"a whole number >= {low} and < {high}"
        assert refused(several, [value]).bound == f"a tuple of whole numbers >= {low} and < {high}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("option", [Option(0.5), Option(0.5, above=0.0), Option(None, type=float)])
def test_a_number_is_finite(option, value):
    assert refused(option, value).bound == "finite"


def test_a_whole_number_has_no_largest_value_and_a_number_has():
    assert Option(5, least=1).read("seed", 10**400) == 10**400
    assert refused(Option(0.5), 10**400).bound == "finite"
    assert refused(Option((0.5,)), [10**400]).bound == "finite"


@settings(max_examples=40)
@given(
    value=some.one_of(some.none(), some.booleans(), some.integers(), some.floats(), some.text(), some.lists(NUMBERS))
)
@pytest.mark.parametrize(
    "option",
    [
        Option(5, least=0),
        Option(0.5, above=0.0),
        Option(True),
        Option("a", choices=("a", "b")),
        Option("rmse"),
        Option((1, 2), least=1),
        Option((0.1,), most=9.0),
        Option(None, type=int),
        Option(None, type=str),
        Option(above=0.0),
    ],
)
def test_whatever_is_given_is_read_or_refused_with_a_config_error(option, value):
    try:
        found = option.read("key", value)
    except ConfigError as error:
        assert error.key == "key" and error.bound
    else:
        assert option.read("key", found) == found, "what was read is read again"
        assert found is None or type(found) is option.kind


# The error


def test_a_config_error_holds_its_parts_and_says_them_in_one_line():
    error = ConfigError("inner.steps", 0, ">= 1", "0 steps adapt nothing")
    assert (error.key, error.value, error.bound, error.hint) == ("inner.steps", 0, ">= 1", "0 steps adapt nothing")
    assert str(error) == "inner.steps must be >= 1, got 0; 0 steps adapt nothing"
    assert isinstance(error, ValueError) and ConfigError("key", "x", "a number").hint == ""
    assert str(ConfigError("key", "x", "a number")) == "key must be a number, got 'x'"


@pytest.mark.parametrize("bound", ["not 'closed_form' here", "name a folder", "hold 0", "exist"])
def test_a_bound_with_a_verb_of_its_own_stands_as_it_is(bound):
    assert str(ConfigError("key", 1, bound)) == f"key must {bound}, got 1"


def test_a_config_error_goes_through_a_pickle_with_its_parts():
    error = pickle.loads(pickle.dumps(ConfigError("a.b", (1, 2), "one", "try 1")))
    assert isinstance(error, ConfigError)
    assert (error.key, error.value, error.bound, error.hint) == ("a.b", (1, 2), "one", "try 1")


# Hints


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("strenght", "strength"),
        ("STRENGTH", "strength"),
        ("Strenght", "strength"),
        ("decay_", "decay"),
        ("meta_SGD", "Meta_sgd"),
        ("xyz", None),
        ("", None),
        (3, None),
        (None, None),
    ],
)
def test_the_nearest_name_is_found_whatever_its_case(name, found):
    known = ["strength", "decay", "Meta_sgd", 3]
    assert nearest(name, known) == (f"did you mean {found!r}?" if found else "")


def test_nothing_is_near_where_nothing_is_known():
    assert nearest("strength", []) == ""


def test_a_refused_choice_hints_at_the_nearest_one():
    option = Option("plain", choices=("plain", "remat", "mixed"))
    assert refused(option, "remta").hint == "did you mean 'remat'?"
    assert refused(option, "REMAT").hint == "did you mean 'remat'?"
    assert refused(option, 5).hint == refused(option, "xxxxxx").hint == ""


# What is carried


def test_an_array_of_a_state_is_carried_and_a_number_is_not():
    assert is_carried(jnp.asarray(1.0))
    assert not is_carried(1.0) and not is_carried(3) and not is_carried(None)


def test_a_choice_says_what_may_be_chosen():
    choice = Choice("penalty", (), many=True, doc="penalties")
    assert choice.kind == "penalty" and choice.many and not choice.optional and choice.default == ()
