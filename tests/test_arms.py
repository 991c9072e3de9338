"""Arms: the config but for what each overrides, read from Python, texts and JSON; one program for each structure."""

import json
import sys

import numpy as np
import pytest

from metapers import spec
from metapers.run.training import train
from metapers.spec import overrides
from metapers.spec.root import SHIPPED_ARMS
from tests import commands, runs
from tests.test_config import leaves, refused
from tests.test_programs import Watch
from tests.test_spec_overrides import applied

plugin = commands.plugin  # a fixture
PENALTIES = {"anchor": {"strength": 0.5}}


def with_arms(arms, **changes):
    return spec.merged(runs.small(penalties=PENALTIES), {"arms": arms} | runs.dotted(changes))


def configs(config):
    """What each arm has, by dotted key."""
    return {name: leaves(arm.config) for name, arm in spec.arms(config).items()}


# What an arm has


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ({"memory": {"capacity": 7}}, "memory.capacity", 7),
        ({"memory": "none"}, "memory.name", "none"),
        ({"penalties": {"anchor": {"strength": 2}}}, "penalties.anchor.strength", 2.0),
        ({"penalties": ("ewc",)}, "penalties.ewc.decay", 1.0),
        ({"learner": {"name": "reptile"}}, "learner.name", "reptile"),
        ({"optimizer": {"param": {"rate": 0.5}}}, "optimizer.param.rate", 0.5),
        ({"optimizer": {"param": "frozen"}}, "optimizer.param.name", "frozen"),
        ({"aggregator": {"name": "clipped", "norm": 3}}, "aggregator.norm", 3.0),
        ({"schedule": "cosine"}, "schedule.name", "cosine"),
        ({"clip_norm": 2}, "clip_norm", 2.0),
        ({"user_block": 4}, "user_block", 4),
    ],
)
def test_an_override_changes_its_arm_and_no_other(section, key, value):
    before = configs(with_arms({"fine_tune": {}, "continual": {}, "mine": {}}))
    after = configs(with_arms({"fine_tune": {}, "continual": {}, "mine": section}))
    assert after["mine"][key] == value and type(after["mine"][key]) is type(value)
    changed = {
        one for one in after["mine"].keys() | before["mine"] if after["mine"].get(one) != before["mine"].get(one)
    }
    whole = key.rpartition(".")[0] or key
    assert changed and {one.split(".")[0] for one in changed} == {whole.split(".")[0]}
    assert {name: one for name, one in after.items() if name != "mine"} == {
        name: one for name, one in before.items() if name != "mine"
    }


def test_what_an_arm_does_not_override_is_the_configs_also_when_that_changes_later():
    config = with_arms({"er": {"memory": {"replay_batch": 3}, "penalties": ()}, "anchor": {"memory": "none"}})
    config = spec.merged(config, {"memory.capacity": 9, "outer_steps": 11, "penalties.anchor.strength": 4.0})
    er, anchor = (spec.arms(config)[name].config for name in ("er", "anchor"))
    assert (er.memory.capacity, er.memory.replay_batch, er.outer_steps) == (9, 3, 11)
    assert er.penalties.to_dict() == {} and anchor.penalties.anchor.strength == 4.0 and anchor.memory.name == "none"
    kept = spec.arms(spec.merged(config, {"arms.er.penalties": ("anchor",)}))["er"].config
    assert kept.penalties.anchor.strength == 4.0  # named alone, a penalty has the options of the config


def test_arms_come_in_one_order_with_the_joint_model_last():
    config = with_arms({"zebra": {}, "continual": {}, "aardvark": {}, "frozen": {}})
    assert [*spec.arms(config)] == ["frozen", "continual", "aardvark", "zebra", "joint_model"]
    assert spec.leading(config) == "continual"
    assert [*spec.arms(with_arms(tuple(reversed(SHIPPED_ARMS))))] == [*SHIPPED_ARMS]
    assert [*spec.arms(with_arms(("fine_tune",), learner="joint"))] == ["fine_tune"]
    own = with_arms({"zebra": {}, "aardvark": {}})
    assert [*spec.arms(own)] == ["aardvark", "zebra", "joint_model"] and spec.leading(own) == "zebra"
    assert spec.leading(with_arms("joint_model")) == "joint_model"


def test_shipped_arms_draw_from_their_periods_and_train_where_they_say():
    made = spec.arms(with_arms(tuple(SHIPPED_ARMS)))
    assert {name: one.window(2) for name, one in made.items()} == {
        "frozen": (0, 0),
        "fine_tune": (2, 2),
        "cumulative": (0, 2),
        "upper_bound": (0, 2),
        "continual": (2, 2),
        "joint_model": (0, 2),
    }
    assert [name for name, one in made.items() if not one.trains(1)] == ["frozen"]
    assert [name for name, one in made.items() if one.restarts] == ["cumulative", "upper_bound"]
    assert [name for name, one in made.items() if one.remembers] == ["continual"]
    assert [name for name, one in made.items() if not one.adapts] == ["joint_model"]
    budgets = {"cumulative": "matched", "upper_bound": "converged", "joint_model": "matched"}
    assert {name: one.budget for name, one in made.items()} == dict.fromkeys(made, "own") | budgets
    assert all(one.matches is not None and one.matches.name == "continual" for one in made.values())
    mine = spec.arms(with_arms({"mine": {"trains_on": "so_far", "restarts": True}}))["mine"]
    assert mine.window(2) == (0, 2) and mine.restarts and mine.remembers


# Reading


def test_texts_set_the_keys_of_one_arm():
    config = applied(
        "--config.arms.er.memory.capacity=64",
        "--config.arms.er.penalties.ewc.strength=2",
        "--config.arms.er.penalties=ewc",
        "--config.arms.er.clip_norm=None",
        "--config.arms.er.restarts",
        "--config.arms.fine_tune.optimizer.param.rate=1e-3",
        "--config.arms={'er': {}, 'fine_tune': {}}",
    )
    assert spec.plain(config.arms) == {
        "er": {
            "memory": {"capacity": 64},
            "penalties": {"ewc": {"strength": 2.0}},
            "clip_norm": None,
            "restarts": True,
        },
        "fine_tune": {"memory": {"name": "none"}, "penalties": {}, "optimizer": {"param": {"rate": 1e-3}}},
    }
    made = spec.arms(spec.check(config))
    assert made["er"].config.memory.capacity == 64 and made["fine_tune"].config.optimizer.param.rate == 1e-3


def test_names_choose_among_shipped_arms_and_those_that_the_config_has():
    config = with_arms({"er": {"memory": {"capacity": 7}}, "fine_tune": {"clip_norm": 1.0}})
    new = spec.merged(config, {"arms": ("er", "frozen")})
    assert spec.plain(new.arms) == {
        "er": {"memory": {"capacity": 7}},
        "frozen": spec.plain(with_arms("frozen").arms.frozen),
    }
    assert applied("--config.arms=fine_tune", config=config).arms.fine_tune.clip_norm == 1.0
    spec.choose(new, "arms", "mine", memory="none")
    assert spec.plain(new.arms) == {"mine": {"memory": {"name": "none"}}} and new.is_locked and new.arms.is_locked
    error = refused(spec.merged, config, {"arms": ("er", "fr")})
    assert error.key == "arms" and error.bound == f"one of {[*SHIPPED_ARMS, 'er']}"


def test_arms_come_back_from_json_and_keep_what_they_override():
    config = with_arms({"er": {"memory": {"capacity": 7}, "penalties": {"ewc": {"strength": 1}}}, "cumulative": {}})
    for one in (config, spec.check(config)):
        back = spec.from_plain(json.loads(json.dumps(spec.plain(one))))
        assert spec.plain(back.arms) == spec.plain(config.arms) and configs(back) == configs(config)
    assert spec.arms(back)["er"].config.penalties.ewc.strength == 1.0


def test_one_more_override_keeps_the_others():
    for name in SHIPPED_ARMS:
        config = spec.merged(with_arms(name), {f"arms.{name}.clip_norm": 3.0})
        assert spec.plain(config.arms[name]) == spec.plain(with_arms(name).arms[name]) | {"clip_norm": 3.0}
        assert spec.plain(with_arms({name: {"clip_norm": 3.0}}).arms) == spec.plain(config.arms)
    config = with_arms({"er": {"penalties": {"anchor": {"strength": 1.0}, "ewc": {"strength": 2.0}}}})
    config = spec.merged(config, {"arms.er.penalties.ewc.draws": 3, "arms.er.memory.capacity": 5})
    assert spec.plain(config.arms.er) == {
        "penalties": {"anchor": {"strength": 1.0}, "ewc": {"strength": 2.0, "draws": 3}},
        "memory": {"capacity": 5},
    }


# Refusals


@pytest.mark.parametrize(
    ("key", "value", "bound", "hint"),
    [
        ("arms.er.meta_batch", 3, "the same for all arms", "an arm may override learner, aggregator, "),
        ("arms.er.inner", "implicit", "the same for all arms", "an arm may override learner, aggregator, "),
        ("arms.er.inner.steps", 3, "the same for all arms", "an arm may override learner, aggregator, "),
        ("arms.er.data.periods", 3, "the same for all arms", "an arm may override learner, aggregator, "),
        ("arms.er.memry", "none", "a known key", "did you mean "),
        ("arms.er.memory.capcity", 3, "a known key", "did you mean "),
        ("arms.er.trains_on", "sofar", "one of ['period', 'so_far', 'first']", "did you mean 'so_far'?"),
        ("arms.er.restarts", 1, "True or False", ""),
        ("arms.er.budget", "match", "one of ['own', 'matched', 'converged']", "did you mean 'matched'?"),
        ("arms.er.memory.capacity", 0, "a whole number >= 1", ""),
        ("arms.er.memory.capacity", "many", "a whole number >= 1", ""),
        ("arms.er.memory", 3, "one of ", ""),
        ("arms.er.penalties", ("anchr",), "one of ", "did you mean 'anchor'?"),
        ("arms.er.optimizer", "adam", "a section", ""),
        ("arms.er.learner", "multistep", "one of ", "did you mean 'multi_step'?"),
    ],
)
def test_what_an_arm_may_not_have_is_refused_by_its_whole_key(key, value, bound, hint):
    config = with_arms({"er": {}})
    error = refused(lambda: spec.check(spec.merged(config, {key: value})))
    assert error.key.removesuffix(".name") == key and error.bound.startswith(bound) and hint in error.hint
    tree = {"arms": {}}
    spec.tree.put(tree, key, value)
    error = refused(lambda: spec.check(spec.from_plain(spec.plain(config) | tree)))
    assert (error.key.removesuffix(".name") + ".").startswith(".".join(key.split(".")[:3]) + ".")
    assert error.bound.startswith(bound)


def test_a_required_strength_that_an_arm_lacks_is_refused_under_the_arms_key():
    config = with_arms({"ewc": {"penalties": "ewc"}, "continual": {}})
    error = refused(spec.check, config)
    assert (error.key, error.value, error.hint) == ("arms.ewc.penalties.ewc.strength", None, "it has no default")
    assert spec.check(spec.merged(config, {"arms.ewc.penalties.ewc.strength": 1})).arms.ewc.penalties.ewc.strength == 1


def test_an_arm_that_does_not_fit_the_rest_of_the_config_is_named():
    error = refused(lambda: spec.check(with_arms({"mine": {"learner": "reptile"}}, inner__rates="meta_sgd")))
    assert error.key == "inner.rates" and error.hint.endswith("; so it is in the arm 'mine'")
    error = refused(lambda: spec.check(with_arms({"mine": {"learner": "multi_step"}}, inner="implicit")))
    assert error.key == "arms.mine.learner"
    error = refused(spec.merged, with_arms({"er": {}}), {"arms.er.penalties.ewc.strength": 3})
    assert error.key == "arms.er.penalties.ewc.strength" and error.hint == "penalties does not choose 'ewc'"
    error = refused(spec.merged, with_arms({"er": {}}), {"arms.er.inner.cg_steps": 3})
    assert error.key == "arms.er.inner.cg_steps" and error.bound == "the same for all arms"
    error = refused(spec.merged, runs.small(), {"arms.er.memory.capacity": 3})
    assert error.key == "arms.er.memory.capacity" and "cumulative" in error.bound


def test_a_key_of_one_arm_is_no_section_that_choose_sets():
    config = with_arms({"er": {}})
    error = refused(spec.choose, config, "arms.er.memory", "none")
    assert "spec.merged(config, {'arms.er.memory': ...}) one" in error.hint and spec.plain(config.arms) == {"er": {}}


def test_a_plug_in_that_an_arm_alone_chooses_is_named_in_plugins(plugin):
    words = ["--config.arms={'mine': {'penalties': {'acme_command': {'weight': 2}}}}", f"--config.plugins={plugin}"]
    config = overrides.apply(runs.small(), [tuple(word.removeprefix("--config.").split("=", 1)) for word in words])
    assert plugin in sys.modules
    config = spec.merged(config, {"plugins": ()})
    assert spec.check(config).plugins == (plugin,)
    assert spec.check(spec.merged(config, {"arms": "continual"})).plugins == ()


# Programs


def test_arms_of_one_structure_share_a_program_and_train_at_their_own_rates(monkeypatch, tmp_path):
    watch = Watch(monkeypatch)
    plain = {"penalties": (), "memory": "none"}
    least = {"bank": False, "evaluation.steps": (0,), "evaluation.headline_steps": 0, "inner.first_order": True}
    arms = {"frozen": {}, "fine_tune": {}, "cumulative": {}, "er": {"penalties": ()}}
    arms |= {"fast": plain | {"optimizer": {"param": {"rate": 0.5}, "personal": {"rate": 0.5}}}}
    arms |= {"small": {"penalties": (), "memory": {"capacity": 16}}}
    config = spec.merged(runs.quick(outer_steps=3), least | {"arms": arms})
    train(config, tmp_path / "all")
    # one program of five for frozen, fine_tune, cumulative and fast, whose state begins in one of its own
    assert sorted(watch.traces) == [0, 1, 1, 1, 1] and sorted(watch.compiled("chunk")) == [0, 1, 1, 1, 1]
    alone = {"arms": "fine_tune", "optimizer.param.rate": 0.5, "optimizer.personal.rate": 0.5}
    train(spec.merged(config, alone), tmp_path / "alone")
    found, want = (
        {key.removeprefix(name): one for key, one in runs.numbers(tmp_path / folder).items() if key.startswith(name)}
        for folder, name in (("all", "fast/"), ("alone", "fine_tune/"))
    )
    assert runs.same_bits(found, want) == []
    slow = {key: one for key, one in runs.numbers(tmp_path / "all").items() if key.startswith("fine_tune/1/params")}
    assert slow and not any(
        np.array_equal(one, want[key.removeprefix("fine_tune/")]) for key, one in slow.items() if one.any()
    )


def test_what_makes_a_program_is_a_structure():
    plain = {"penalties": (), "memory": "none"}
    arms = {"fine_tune": {}, "cumulative": {}, "rate": plain | {"optimizer": {"param": {"rate": 0.5}}}}
    arms |= {"continual": {}, "strength": {"penalties": {"anchor": {"strength": 9.0}}}}
    arms |= {"sgd": plain | {"optimizer": {"param": "sgd"}}, "blocks": plain | {"user_block": 2}}
    arms |= {"er": {"penalties": ()}, "small": {"penalties": (), "memory": {"capacity": 3}}}
    made = spec.arms(with_arms(arms))
    groups: dict[str, set[str]] = {}
    for name, arm in made.items():
        groups.setdefault(arm.structure, set()).add(name)
    assert {frozenset(one) for one in groups.values()} == {
        frozenset({"fine_tune", "cumulative", "rate"}),
        frozenset({"continual", "strength"}),
        *(frozenset({name}) for name in ("sgd", "blocks", "er", "small", "joint_model")),
    }


def test_the_joint_model_descends_the_loss_of_the_other_arms():
    config = runs.quick(learner__rmse_epsilon=0.05)
    own = spec.arms(config)["joint_model"].config.learner
    assert own.to_dict() == {"name": "joint", "rmse_epsilon": 0.05, "sequential": False}


def test_a_run_is_about_an_arm_with_a_budget_of_its_own():
    for names, lead in (
        (("fine_tune", "upper_bound"), "fine_tune"),
        (("cumulative", "continual"), "continual"),
        (("frozen", "fine_tune", "cumulative"), "fine_tune"),
        (("upper_bound",), "upper_bound"),
    ):
        assert spec.leading(runs.quick(arms=names)) == lead
