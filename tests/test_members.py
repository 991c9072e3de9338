"""The machinery of members: registries, sections, building from them, and what a builder provides."""

from typing import NamedTuple

import pytest

from metapers import members
from metapers.members import (
    Context,
    Member,
    build,
    defaults,
    filled,
    naming,
    register,
    registry,
    sections,
    without_name,
)
from metapers.options import NONE, REQUIRED, Choice, ConfigError, Option


class Made(NamedTuple):
    """What the factories here give: their arguments."""

    arguments: dict


def plate(**arguments):
    """A plate.

    With more words.
    """
    return Made(arguments)


def dish(**arguments):
    return Made(arguments)


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    """Registries of two kinds, "kitchen" with a choice of "tool", of this test alone."""
    monkeypatch.setattr(members, "_REGISTRIES", dict(members._REGISTRIES))
    tools = registry("tool", "what is held")
    tools.add(
        knife=Member(plate, {"length": Option(3.0, above=0.0), "weight": Option(type=int, least=1)}),
        spoon=Member(dish, {"length": Option(1.0)}, needs=("metal",), example={"length": 2.0}, doc="round"),
    )
    kitchen = registry("kitchen")
    kitchen.common = {"open": Option(True, doc="read by the builder")}
    kitchen.add(
        small=Member(plate, {"tool": Choice("tool", "spoon"), "size": Option(2)}, needs=("light", "metal")),
        bare=Member(
            dish, {"tool": Choice("tool", optional=True)}, variants=({"tool": "spoon"}, {"tool": {"name": "spoon"}})
        ),
    )


def lit(**more):
    return Context(light=lambda: "sun", metal=lambda: "iron", **more)


# Registries


def test_a_registry_is_made_once_and_keeps_what_it_says_of_its_members():
    assert registry("tool") is registry("tool") and registry("tool").doc == "what is held"
    assert registry("tool", "another").doc == "another" == registry("tool", "").doc
    assert "tool" in members.kinds() and "fork" not in members.kinds()


def test_kinds_stand_in_the_order_of_their_names_whatever_came_first(monkeypatch):
    found = members.kinds()
    monkeypatch.setattr(members, "_REGISTRIES", dict(reversed(members._REGISTRIES.items())))
    assert members.kinds() == found == tuple(sorted(found))


def test_a_registry_lists_its_members_in_the_order_in_which_they_came():
    tools = registry("tool")
    assert list(tools) == ["knife", "spoon"] == [name for name, _ in tools.items()]
    assert "knife" in tools and "fork" not in tools and 3 not in tools


def test_an_unknown_name_hints_at_the_nearest_one():
    with pytest.raises(ConfigError) as error:
        registry("tool")["KNIVE"]
    assert (error.value.key, error.value.value) == ("tool", "KNIVE")
    assert error.value.bound == "one of ['knife', 'spoon']" and error.value.hint == "did you mean 'knife'?"


@pytest.mark.parametrize("name", ["knife", NONE])
def test_a_name_that_is_taken_is_refused(name):
    with pytest.raises(ValueError, match=f"tool '{name}' is taken; register the member under another name"):
        register("tool", name, Member(dish))
    assert registry("tool")["knife"].factory is plate and NONE not in registry("tool")


def test_the_same_factory_may_come_again_as_a_module_that_is_imported_anew():
    register("tool", "knife", Member(plate, {"length": Option(4.0)}))
    assert registry("tool")["knife"].options["length"].default == 4.0 and list(registry("tool")) == ["knife", "spoon"]


def test_an_entry_says_what_it_is_by_its_doc_or_the_first_line_of_the_factory():
    assert registry("tool")["spoon"].about() == "round"
    assert registry("tool")["knife"].about() == "A plate." and Member(dish).about() == ""


def test_the_options_of_a_kind_stand_behind_those_of_the_member():
    assert list(registry("kitchen").options("small")) == ["tool", "size", "open"]
    assert list(registry("tool").options("knife")) == ["length", "weight"]


# Sections


def test_the_defaults_of_a_member_hold_those_of_what_it_chooses():
    spoon = {"name": "spoon", "length": 1.0}
    assert defaults("kitchen", "small") == {"name": "small", "tool": spoon, "size": 2, "open": True}
    assert defaults("kitchen", "bare") == {"name": "bare", "tool": {"name": NONE}, "open": True}
    assert defaults("tool", "knife") == {"name": "knife", "length": 3.0, "weight": REQUIRED}
    with pytest.raises(ConfigError, match="tool must be one of"):
        defaults("tool", "fork")


def test_a_section_is_filled_with_defaults_and_a_choice_may_be_a_name_alone():
    by_name = filled("kitchen", {"name": "bare", "tool": "spoon", "open": False})
    assert by_name == {"name": "bare", "tool": {"name": "spoon", "length": 1.0}, "open": False}
    inside = filled("kitchen", {"name": "small", "tool": {"name": "knife", "weight": 2}})
    assert inside["tool"] == {"name": "knife", "length": 3.0, "weight": 2} and inside["size"] == 2
    assert filled("kitchen", {"name": "bare", "tool": NONE})["tool"] == {"name": NONE}
    assert without_name(inside["tool"]) == {"length": 3.0, "weight": 2}


def test_the_example_and_each_variant_are_sections_with_a_label():
    found = sections("kitchen", "bare")
    assert [label for label, _ in found] == ["bare", "bare, tool spoon", "bare, tool {'name': 'spoon'}"]
    assert [section["tool"]["name"] for _, section in found] == [NONE, "spoon", "spoon"]
    assert [label for label, _ in sections("kitchen")] == ["small", *(label for label, _ in found)]
    assert sections("tool", "spoon")[0][1] == {"name": "spoon", "length": 2.0}
    assert sections("kitchen", "small", more={"size": 9})[0][1]["size"] == 9


# Building


def test_a_member_gets_what_it_needs_and_its_options_with_choices_built():
    section = filled("kitchen", {"name": "small"})
    made = build("kitchen", section, lit())
    assert made.arguments.keys() == {"tool", "size", "light", "metal"}, "common options are for the builder"
    assert made.arguments["light"] == "sun" and made.arguments["size"] == 2
    assert made.arguments["tool"] == Made({"length": 1.0, "metal": "iron"})


def test_no_member_builds_nothing_and_an_optional_choice_of_none_arrives_as_none():
    assert build("tool", {"name": NONE}, Context()) is None
    assert build("kitchen", filled("kitchen", {"name": "bare"}), Context()).arguments == {"tool": None}


def test_a_value_may_stand_in_place_of_a_sections():
    section = filled("kitchen", {"name": "small"})
    made = build("kitchen", section, lit(), size=7)
    assert made.arguments["size"] == 7 and section["size"] == 2
    assert made.arguments["tool"].arguments["length"] == 1.0


def test_a_member_whose_needs_are_not_provided_is_refused_by_name():
    with pytest.raises(LookupError, match="spoon.*metal|metal.*spoon|needs.*'metal'"):
        build("kitchen", filled("kitchen", {"name": "small"}), Context(light=lambda: "sun"))


def test_an_unknown_member_is_refused_with_the_kind():
    with pytest.raises(ConfigError) as error:
        build("tool", {"name": "fork"}, Context())
    assert (error.value.key, error.value.value) == ("tool", "fork")


def refusing(size, tool=None):
    raise ValueError(f"size must be >= 1, got {size}: it is small")


def test_what_a_factory_refuses_is_said_with_the_key_of_the_config():
    register("kitchen", "refusing", Member(refusing, {"size": Option(0)}))
    with pytest.raises(ConfigError) as error:
        build("kitchen", {"name": "refusing", "size": 0}, Context(), key="house.kitchen")
    found = error.value
    assert (found.key, found.value, found.bound, found.hint) == ("house.kitchen.size", 0, ">= 1", "it is small")
    with pytest.raises(ConfigError, match="^kitchen.size must be >= 1, got 0; it is small$"):
        build("kitchen", {"name": "refusing", "size": 0}, Context())


def test_what_an_inner_member_refuses_is_said_with_its_own_key():
    register("tool", "refusing", Member(refusing, {"size": Option(0)}))
    section = {"name": "bare", "tool": {"name": "refusing", "size": -1}}
    with pytest.raises(ConfigError) as error:
        build("kitchen", section, Context(), key="kitchen")
    assert (error.value.key, error.value.value) == ("kitchen.tool.size", -1)


@pytest.mark.parametrize(
    ("text", "bound", "hint"),
    [
        ("size must be >= 1, got 0", ">= 1", ""),
        ("size must be finite and > 0, got nan", "finite and > 0", ""),
        ("size must hold 0, the start, got (1, 2)", "hold 0, the start", ""),
        ("size must be below 3, got 4; try 2", "below 3", "try 2"),
        ("size must be below 3, got 4: try 2", "below 3", "try 2"),
    ],
)
def test_the_sentence_of_a_factory_is_taken_apart(text, bound, hint):
    with pytest.raises(ConfigError) as error, naming("a.b", {"size": 5}):
        raise ValueError(text)
    assert (error.value.key, error.value.value, error.value.bound, error.value.hint) == ("a.b.size", 5, bound, hint)
    assert isinstance(error.value.__cause__, ValueError) and str(error.value.__cause__) == text


@pytest.mark.parametrize(
    "error",
    [
        ValueError("other must be >= 1, got 0"),
        ValueError("size is wrong"),
        TypeError("size must be >= 1, got 0"),
        ConfigError("size", 0, ">= 1"),
    ],
)
def test_another_error_stays_as_it_is(error):
    with pytest.raises(type(error)) as raised, naming("a.b", {"size": 0}):
        raise error
    assert raised.value is error


# What a builder provides


def test_a_context_makes_a_value_when_it_is_first_needed_and_once():
    made = []
    context = Context(light=lambda: made.append("light") or "sun", metal=lambda: made.append("metal"))
    assert made == [] and set(context) == {"light", "metal"} and len(context) == 2
    assert context["light"] == "sun" == context["light"] and made == ["light"]


def test_a_context_says_what_it_provides():
    with pytest.raises(LookupError, match=r"needs must be of \['light'\], got 'metal'"):
        Context(light=lambda: "sun")["metal"]


def test_an_extended_context_makes_its_values_anew():
    made = []
    context = Context(light=lambda: made.append("light") or len(made))
    assert context["light"] == 1
    more = context.extended(metal=lambda: "iron")
    assert more["light"] == 2 and more["metal"] == "iron" and context["light"] == 1
    assert "metal" in more and "metal" not in context and "light" in context
    assert context.extended(light=lambda: "lamp")["light"] == "lamp"
