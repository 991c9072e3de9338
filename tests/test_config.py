"""A config as a tree: what it holds, what it refuses, and how its members are chosen."""

import json

import pytest

from metapers import spec
from metapers.members import registry
from metapers.options import Arms, Choice, ConfigError, Option
from metapers.spec import tree
from metapers.spec.root import ROOT
from tests import runs


def leaves(config) -> dict:
    return dict(tree.leaves(config))


def refused(call, *given, **named) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        call(*given, **named)
    assert "\n" not in str(error.value)
    return error.value


def test_a_config_holds_every_key_of_the_root_and_the_options_of_the_chosen_members_alone():
    config = spec.config_for("sinusoid", "mlp")
    assert set(config.keys()) == set(ROOT)
    for key, kind in (("data", "source"), ("model", "model"), ("inner", "inner_loop"), ("learner", "learner")):
        assert set(config[key].keys()) == {"name", *registry(kind).options(config[key].name)}
    assert config.gate.to_dict() == {"name": "none"} and config.penalties.to_dict() == {}
    assert config.inner.rates.to_dict() == {"name": "constant", "rate": 0.1}
    for key, one in ROOT.items():
        if isinstance(one, Option):
            assert config[key] == one.default


def test_chosen_members_are_listed_with_those_inside_them():
    config = spec.config_for("omniglot", "conv4")
    spec.choose(config, "penalties", {"ewc": {"strength": 2.0}})
    found = {one.key: (one.kind, one.name) for one in tree.members(config)}
    assert found["model.norm"] == ("norm", "batch") and found["inner.rates"] == ("rates", "constant")
    assert found["penalties.ewc"] == ("penalty", "ewc") and found["optimizer.table"] == ("optimizer", "adam")
    assert "gate" not in found and "penalties" not in found
    keys = [leaf.key for leaf in tree.options(config)]
    assert {*keys, *(f"{key}.name" for key in found if not key.startswith("penalties")), "gate.name"} == {
        key for key in leaves(config) if not key.startswith("arms.")
    }


def test_a_misspelt_key_is_refused_where_it_is_written():
    config = spec.config_for("linear_gaussian", "linear")
    with pytest.raises(AttributeError, match="steps"):
        config.inner.step = 3
    with pytest.raises(TypeError):
        config.inner.steps = "three"
    for made in (config, spec.merged(config, {"inner.steps": 2}), spec.check(config), spec.from_plain({})):
        with pytest.raises(AttributeError):
            made.inner.step = 3
        with pytest.raises(AttributeError):
            made.penalties.anchor = {}


def test_a_section_may_be_given_by_a_name_a_dict_or_none():
    by_name = tree.expand({"inner": "implicit", "penalties": "anchor", "gate": None, "memory": "none"})
    assert by_name["inner"]["cg_steps"] == 5 and by_name["penalties"] == {"anchor": {"strength": None}}
    assert by_name["gate"] == by_name["memory"] == {"name": "none"}
    given = {"inner": {"name": "implicit", "optimizer": {"rate": 1}}, "penalties": ["ewc", "anchor"]}
    by_dict = tree.expand(given)
    assert by_dict["inner"]["optimizer"] == {"name": "sgd", "rate": 1.0} and by_dict["inner"]["steps"] == 5
    assert list(by_dict["penalties"]) == ["anchor", "ewc"]
    assert tree.expand(by_dict) == by_dict
    assert tree.expand({"penalties": ()}) == tree.expand({"penalties": "none"}) == tree.expand({})


@pytest.mark.parametrize(
    ("given", "key", "hint"),
    [
        ({"iner": {}}, "iner", "'inner'"),
        ({"Seed": 3}, "Seed", "'seed'"),
        ({"evaluation": {"Shots": (1,)}}, "evaluation.Shots", "'shots'"),
        ({"evaluation": {"name": "x"}}, "evaluation.name", ""),
        ({"optimizer": {"parm": "sgd"}}, "optimizer.parm", "'param'"),
        ({"inner": {"step": 3}}, "inner.step", "'steps'"),
        ({"inner": "implict"}, "inner.name", "'implicit'"),
        ({"inner": {"cg_steps": 3}}, "inner.cg_steps", "inner is 'gradient', and only 'implicit' has it"),
        ({"gate": {"folds": 3}}, "gate.folds", "gate is 'none', and only 'cross_validated' or 'learned' has it"),
        ({"inner": {"rates": "lsrl"}}, "inner.rates.name", "'lslr'"),
        ({"inner": {"rates": {"rat": 1}}}, "inner.rates.rat", "'rate'"),
        ({"model": "mlp", "data": "sinusod"}, "data.name", "'sinusoid'"),
        ({"penalties": ("anchr",)}, "penalties", "'anchor'"),
        ({"penalties": {"anchor": {"strenght": 1}}}, "penalties.anchor.strenght", "'strength'"),
        ({"penalties": ("ewc", "ewc")}, "penalties", ""),
        ({"penalties": {"ewc": 3}}, "penalties.ewc", "penalties.ewc.strength"),
        ({"penalties": 3}, "penalties", ""),
        ({"evaluation": 3}, "evaluation", "evaluation.metric"),
        ({"optimizer": "sgd"}, "optimizer", "optimizer.param"),
        ({"model": "none"}, "model.name", ""),
        ({"inner": ["gradient"]}, "inner.name", ""),
        ({"plugins": ["no_such_module"]}, "plugins", "--allow-plugin=no_such_module"),
    ],
)
def test_nested_dicts_with_an_unknown_key_or_member_are_refused(given, key, hint):
    error = refused(spec.from_plain, given)
    assert error.key == key and hint in error.hint


def test_unknown_sources_and_models_are_named():
    for given, key, value, hint in (
        (("movilens", "linear"), "data.name", "movilens", "'movielens'"),
        (("movielens", "recomender"), "model.name", "recomender", "'recommender'"),
    ):
        error = refused(spec.config_for, *given)
        assert (error.key, error.value) == (key, value) and error.hint == f"did you mean {hint}?"


def test_a_config_comes_back_from_json():
    config = runs.small(
        inner="optimized", inner__optimizer="adam", penalties={"anchor": {"strength": 0.1}}, gate="learned"
    )
    back = spec.from_plain(json.loads(json.dumps(spec.plain(config))))
    assert leaves(back) == leaves(config) and back.is_locked
    assert {type(value) for value in leaves(back).values()} == {type(value) for value in leaves(config).values()}
    assert tree.differences(back, config) == ([], [])


# Choosing


def test_choosing_a_member_brings_its_options_with_their_defaults_or_the_given_values():
    config = spec.config_for("sinusoid", "mlp")
    config.inner.steps = 2
    spec.choose(config, "inner", "implicit", strength=3, optimizer={"name": "sgd", "rate": 0.5})
    assert config.inner.steps == 5 and config.inner.strength == 3.0 and config.inner.optimizer.rate == 0.5
    assert (
        "rates" not in config.inner
        and config.inner.cg_steps == registry("inner_loop")["implicit"].options["cg_steps"][0]
    )
    spec.choose(config, "inner.optimizer", "adam", rate=0.2)
    assert config.inner.optimizer.to_dict() == {"name": "adam", "rate": 0.2} and config.inner.strength == 3.0
    spec.choose(config, "optimizer.param", "frozen")
    assert config.optimizer.param.to_dict() == {"name": "frozen"} and config.optimizer.table.name == "adam"
    spec.choose(config, "memory", "none")
    assert config.memory.to_dict() == {"name": "none"}
    spec.choose(config, "inner", {"name": "gradient", "rates": "lslr"})
    assert config.inner.rates.name == "lslr"
    spec.choose(config, "inner", spec.config_for("sinusoid", "mlp").inner)
    assert config.inner.rates.name == "constant"


def test_penalties_are_chosen_by_names_or_with_their_options():
    config = spec.config_for("sinusoid", "mlp")
    spec.choose(config, "penalties", "anchor", strength=0.1)
    assert config.penalties.to_dict() == {"anchor": {"strength": 0.1}}
    spec.choose(config, "penalties", {"ewc": {"strength": 2, "draws": 3}, "anchor": {"strength": 1}})
    assert list(config.penalties) == ["anchor", "ewc"] and config.penalties.ewc.draws == 3
    assert config.penalties.ewc.strength == 2.0 and config.penalties.ewc.decay == 1.0
    for empty in ((), "none", None, {}):
        spec.choose(config, "penalties", ("ewc",))
        spec.choose(config, "penalties", empty)
        assert config.penalties.to_dict() == {}


@pytest.mark.parametrize(
    ("key", "chosen", "options", "refused_key", "hint"),
    [
        ("iner", "implicit", {}, "iner", "'inner'"),
        ("inner", "implict", {}, "inner.name", "'implicit'"),
        ("inner", "implicit", {"cg_step": 3}, "inner.cg_step", "'cg_steps'"),
        ("inner", "gradient", {"cg_steps": 3}, "inner.cg_steps", "'implicit'"),
        ("inner.steps", 3, {}, "inner.steps", ""),
        ("inner.optimizer", "adam", {}, "inner.optimizer", "'optimized' or 'implicit'"),
        ("learner", "none", {}, "learner.name", ""),
        ("penalties", "anchor", {"strenth": 3}, "penalties.anchor.strenth", "'strength'"),
    ],
)
def test_what_cannot_be_chosen_is_refused_and_the_config_stays(key, chosen, options, refused_key, hint):
    config = spec.config_for("sinusoid", "mlp")
    error = refused(spec.choose, config, key, chosen, **options)
    assert error.key == refused_key and hint in error.hint
    assert leaves(config) == leaves(spec.config_for("sinusoid", "mlp"))


def test_a_config_stays_locked_when_a_member_is_chosen():
    config = spec.config_for("sinusoid", "mlp")
    spec.choose(config, "inner.rates", "lslr")
    spec.choose(config, "penalties", ("anchor",))
    assert (
        config.is_locked
        and config.inner.is_locked
        and config.inner.rates.is_locked
        and config.penalties.anchor.is_locked
    )


def test_a_config_file_may_set_a_whole_section_with_the_member_in_it():
    config = spec.config_for("linear_gaussian", "linear")
    config.inner = {"name": "implicit", "cg_steps": 3}
    config.penalties = {"anchor": {"strength": 1}}
    config.gate = None
    config.update(outer_steps=7, clip_norm=1)
    config.inner.update(steps=4)
    made = spec.check(config)
    assert (made.inner.name, made.inner.cg_steps, made.inner.steps, made.inner.optimizer.name) == (
        "implicit",
        3,
        4,
        "sgd",
    )
    assert made.penalties.anchor.strength == 1.0 and made.gate.name == "none" and made.clip_norm == 1.0
    config = spec.config_for("linear_gaussian", "linear")
    config.inner.name = "implicit"  # the name alone: the options of the other member still stand there
    error = refused(spec.check, config)
    assert error.key.startswith("inner.") and "spec.choose exchanges a member" in error.hint


def test_every_kind_that_the_root_names_has_members():
    def choices(schema):
        for one in schema.values():
            yield from [one] if isinstance(one, Choice) else () if isinstance(one, (Option, Arms)) else choices(one)

    for one in choices(ROOT):
        assert [*registry(one.kind)] and all(
            name in registry(one.kind) for name in [one.default] if isinstance(name, str)
        )
