"""Values by dotted key, in Python and as texts of a command line: read in any order, or refused in one line."""

import sys

import pytest

from metapers import spec
from metapers.command import arguments
from metapers.members import registry
from metapers.spec import overrides
from tests import commands, runs
from tests.test_config import leaves, refused

plugin = commands.plugin  # a fixture


def given(*words: str):
    """The values of a command line, as the program splits it."""
    return arguments.split(["train.py", *words]).given


def applied(*words: str, config=None):
    return overrides.apply(runs.small() if config is None else config, given(*words))


# Python


def test_merging_takes_ints_for_floats_and_lists_for_tuples_and_leaves_the_first_alone():
    config = runs.small()
    new = spec.merged(config, {"inner.rates.rate": 1, "evaluation.shots": [1, 2, 4]})
    assert new.inner.rates.rate == 1.0 and isinstance(new.inner.rates.rate, float)
    assert new.evaluation.shots == (1, 2, 4) and config.evaluation.shots == (1, 4)
    assert config.inner.rates.rate == 0.1
    with pytest.raises(AttributeError):
        new.inner.step = 3


def test_exchanging_a_member_keeps_the_options_that_both_have():
    config = runs.small(inner__steps=3, inner__pseudo_count=4.0, inner__rates__rate=0.5, inner__unroll=2)
    new = spec.merged(config, {"inner": "optimized"})
    assert new.inner.steps == 3 and new.inner.pseudo_count == 4.0 and "unroll" not in new.inner
    assert new.inner.optimizer.rate == 0.1  # rates and optimizer are two choices
    new = spec.merged(config, {"inner.rates": "lslr"})
    assert new.inner.rates.to_dict() == {"name": "lslr", "rate": 0.5} and new.inner.steps == 3
    new = spec.merged(config, {"inner": "none"})
    assert new.inner.to_dict() == {"name": "none"}
    again = spec.merged(new, {"inner.name": "gradient"})
    assert again.inner.steps == registry("inner_loop")["gradient"].options["steps"].default
    same = spec.merged(config, {"inner": "gradient"})
    assert leaves(same) == leaves(config)
    new = spec.merged(config, {"penalties": {"anchor": {"strength": 3.0}, "ewc": {"strength": 1.0, "draws": 2}}})
    assert spec.merged(new, {"penalties": "ewc"}).penalties.to_dict()["ewc"]["draws"] == 2
    assert spec.merged(new, {"penalties": ["anchor"]}).penalties.to_dict() == {"anchor": {"strength": 3.0}}
    assert spec.merged(new, {"penalties": {"ewc": {"strength": 5.0}}}).penalties.ewc.draws == 4


def test_an_option_of_another_type_is_another_option_under_the_same_name():
    config = spec.merged(spec.config_for("shakespeare", "mlp"), {"model.hidden": (3,), "model.low_rank": 2})
    new = spec.merged(config, {"model": "gru"})
    assert new.model.hidden == registry("model")["gru"].options["hidden"].default and new.model.low_rank == 2


def test_a_choice_and_its_options_are_merged_in_any_order():
    want = {"inner.cg_steps": 3, "inner.optimizer.rate": 0.5, "inner.optimizer": "adam", "inner": "implicit"}
    for changes in (want, dict(reversed(want.items())), dict(sorted(want.items()))):
        new = spec.merged(runs.small(), changes)
        assert (new.inner.name, new.inner.cg_steps) == ("implicit", 3)
        assert new.inner.optimizer.to_dict() == {"name": "adam", "rate": 0.5}
    new = spec.merged(spec.merged(runs.small(), want), {"inner.rates.name": "lslr", "inner.name": "gradient"})
    assert new.inner.rates.name == "lslr"


@pytest.mark.parametrize(
    ("change", "key", "value", "hint"),
    [
        ({"inner.step": 3}, "inner.step", 3, "did you mean 'inner.steps'?"),
        ({"inner_steps": 3}, "inner_steps", 3, "did you mean 'inner.steps'?"),
        ({"INNER.Steps": 3}, "INNER.Steps", 3, "did you mean 'inner.steps'?"),
        ({"inner.steps.more": 3}, "inner.steps.more", 3, "did you mean 'inner.steps'?"),
        ({"inner": 3}, "inner.name", 3, ""),
        ({"inner": ("gradient", "implicit")}, "inner.name", ("gradient", "implicit"), ""),
        ({"outer_steps": 2.5}, "outer_steps", 2.5, ""),
        ({"outer_steps": True}, "outer_steps", True, ""),
        ({"outer_steps": None}, "outer_steps", None, ""),
        ({"bank": 1}, "bank", 1, ""),
        ({"inner.rates.rate": "fast"}, "inner.rates.rate", "fast", ""),
        ({"inner.rates.rate": float("nan")}, "inner.rates.rate", pytest.approx(float("nan"), nan_ok=True), ""),
        ({"arms": 3}, "arms", 3, ""),
        ({"arms": {"er": 3}}, "arms.er", 3, "set one of its keys, as arms.er.trains_on"),
        ({"arms": {"e r": {}}}, "arms", "e r", "an arm names a folder"),
        ({"arms": ("fine_tune", "fine_tune")}, "arms", ("fine_tune", "fine_tune"), ""),
        ({"arms": (1,)}, "arms", (1,), ""),
        ({"evaluation.shots": (1, "a")}, "evaluation.shots", (1, "a"), ""),
        ({"start_from": ""}, "start_from", "", "None leaves it out"),
        ({"penalties": ("ewc", "ewc")}, "penalties", ("ewc", "ewc"), ""),
        ({"evaluation": "rmse"}, "evaluation", "rmse", "set one of its keys, as evaluation.metric"),
        ({"evaluation": {"metrics": "rmse"}}, "evaluation.metrics", "rmse", "did you mean 'metric'?"),
    ],
)
def test_merging_refuses_unknown_keys_and_other_types(change, key, value, hint):
    error = refused(spec.merged, runs.small(), change)
    assert (error.key, error.value, error.hint) == (key, value, hint)


def test_a_required_option_may_still_be_open_where_values_are_merged():
    config = spec.merged(runs.small(), {"penalties": "anchor", "outer_steps": 3})
    assert config.penalties.anchor.strength is None
    assert spec.merged(config, {"seeds": 1, "penalties.anchor.strength": None}).penalties.anchor.strength is None
    assert refused(spec.check, config).key == "penalties.anchor.strength"
    assert spec.check(spec.merged(config, {"penalties.anchor.strength": 1})).penalties.anchor.strength == 1.0


# Texts


def test_a_choice_and_its_options_stand_in_one_command_in_any_order():
    words = [
        "--config.inner.optimizer.rate=0.5",
        "--config.inner.cg_steps=3",
        "--config.inner.optimizer.name=adam",
        "--config.inner=implicit",
        "--config.penalties.anchor.strength=0.1",
        "--config.penalties=ewc,anchor",
        "--config.penalties.ewc.strength=2",
    ]
    first = applied(*words)
    assert (first.inner.name, first.inner.cg_steps, first.inner.optimizer.rate) == ("implicit", 3, 0.5)
    assert first.penalties.anchor.strength == 0.1 and first.penalties.ewc.strength == 2.0
    assert leaves(applied(*reversed(words))) == leaves(first)
    back = applied(
        "--config.inner.rates.name=lslr", "--config.inner.rates.rate=0.3", "--config.inner.name=gradient", config=first
    )
    assert back.inner.rates.to_dict() == {"name": "lslr", "rate": 0.3}
    assert applied("--config.seed=1", "--config.seed=2").seed == 2  # the last one counts


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--noconfig.bank"], "bank", False),
        (["--config.bank=false"], "bank", False),
        (["--config.bank"], "bank", True),
        (["--config.bank=1"], "bank", True),
        (["--config.clip_norm=2"], "clip_norm", 2.0),
        (["--config.clip_norm=None"], "clip_norm", None),
        (["--config.start_from=None"], "start_from", None),
        (["--config.user_block=none"], "user_block", None),
        (["--config.name=a, b=c"], "name", "a, b=c"),
        (["--config.name="], "name", ""),
        (["--config.inner.rates.rate=1e-3"], "inner.rates.rate", 1e-3),
        (["--config.data.spread", "2"], "data.spread", 2.0),
        (["--config.evaluation.shots=4"], "evaluation.shots", (4,)),
        (["--config.evaluation.shots=1,4"], "evaluation.shots", (1, 4)),
        (["--config.evaluation.shots=(1, 4)"], "evaluation.shots", (1, 4)),
        (["--config.evaluation.shots=[1, 4]"], "evaluation.shots", (1, 4)),
        (["--config.arms="], "arms", {}),
        (["--config.arms=none"], "arms", {}),
        (["--config.arms={'er': {'memory': {'capacity': 3}}}"], "arms.er.memory.capacity", 3),
        (["--config.inner=none"], "inner.name", "none"),
        (["--config.inner=None"], "inner.name", "none"),
        (["--config.inner='optimized'"], "inner.name", "optimized"),
        (["--config.inner={'steps': 2}"], "inner.steps", 2),
        (["--config.inner={'name': 'implicit', 'cg_steps': 2}"], "inner.cg_steps", 2),
        (["--config.optimizer.param={'name': 'sgd', 'rate': 1}"], "optimizer.param.rate", 1.0),
        (["--config.evaluation={'shots': (16,), 'bootstrap': 200}"], "evaluation.bootstrap", 200),
        (["--config.penalties={'ewc': {'strength': 3}}"], "penalties.ewc.strength", 3.0),
        (["--config.penalties=('anchor',)", "--config.penalties.anchor.strength=3"], "penalties.anchor.strength", 3.0),
        (["--config.penalties=[anchor]", "--config.penalties.anchor.strength=3"], "penalties.anchor.strength", 3.0),
        (["--config.penalties=none"], "penalties", {}),
        (["--config.penalties="], "penalties", {}),
        (["--config.penalties={}"], "penalties", {}),
    ],
)
def test_texts_are_read_as_the_option_has_them(words, key, value):
    found = leaves(applied(*words))[key]
    assert found == value and type(found) is type(value)


def test_a_dict_without_a_name_is_one_of_options_of_the_chosen_member():
    config = applied("--config.inner={'cg_steps': 2}", config=runs.small(inner="implicit", inner__steps=3))
    assert (config.inner.name, config.inner.cg_steps, config.inner.steps) == ("implicit", 2, 5)


@pytest.mark.parametrize(
    ("words", "key", "hint"),
    [
        (["--config.outer_steps=many"], "outer_steps", ""),
        (["--config.outer_steps=1.5"], "outer_steps", ""),
        (["--config.outer_steps="], "outer_steps", ""),
        (["--config.outer_steps=None"], "outer_steps", ""),
        (["--config.outer_steps=0"], "outer_steps", ""),
        (["--config.inner.rates.rate=fast"], "inner.rates.rate", ""),
        (["--config.inner.rates.rate=nan"], "inner.rates.rate", ""),
        (["--config.bank=maybe"], "bank", ""),
        (["--noconfig.seeds"], "seeds", ""),
        (["--config.start_from="], "start_from", "None leaves it out"),
        (["--config.evaluation.shots=1,x"], "evaluation.shots", ""),
        (["--config.evaluation.shots=1.5"], "evaluation.shots", ""),
        (["--config.data.drift=suden"], "data.drift", "did you mean 'sudden'?"),
        (["--config.Seed=1"], "Seed", "did you mean 'seed'?"),
        (["--config.OUTER_STEPS=1"], "OUTER_STEPS", "did you mean 'outer_steps'?"),
        (["--config.inner.step=3"], "inner.step", "did you mean 'inner.steps'?"),
        (["--config.iner.steps=3"], "iner.steps", "did you mean 'inner.steps'?"),
        (["--config.memry=none"], "memry", "did you mean 'memory'?"),
        (["--config.steps=3"], "steps", "did you mean 'outer_steps'?"),  # of metapers 0.1
        (["--config.learner.inner_rate=3"], "learner.inner_rate", "did you mean 'inner.rates.rate'?"),
        (["--config.learner.inner=none"], "learner.inner", "did you mean 'inner'?"),
        (["--config.inner.cg_steps=3"], "inner.cg_steps", "inner is 'gradient', and only 'implicit' has it"),
        (["--config.gate.least=3"], "gate.least", "gate is 'none', and only 'min_shift' has it"),
        (
            ["--config.inner.optimizer.rate=3"],
            *("inner.optimizer.rate", "inner is 'gradient', and only 'optimized' or 'implicit' has it"),
        ),
        (["--config.penalties.anchor.strength=1"], "penalties.anchor.strength", "penalties does not choose 'anchor'"),
        (
            ["--config.memory=none", "--config.memory.capacity=3"],
            "memory.capacity",
            "memory is 'none', and only 'reservoir' has it",
        ),
        (["--config.inner=implict"], "inner.name", "did you mean 'implicit'?"),
        (["--config.inner.name=implict"], "inner.name", "did you mean 'implicit'?"),
        (["--config.inner.rates=lsrl"], "inner.rates.name", "did you mean 'lslr'?"),
        (["--config.inner=3"], "inner", ""),
        (["--config.inner=(gradient,implicit)"], "inner", ""),
        (["--config.inner={'name': 'implicit'"], "inner", ""),
        (["--config.inner={'cg_step': 3}"], "inner.cg_step", "did you mean 'steps'?"),
        (["--config.learner=none"], "learner.name", ""),
        (["--config.penalties=ewk"], "penalties", "did you mean 'ewc'?"),
        (["--config.penalties=anchor,anchor"], "penalties", ""),
        (["--config.penalties=3"], "penalties", ""),
        (["--config.penalties={'anchor'}"], "penalties", ""),
        (["--config.evaluation=rmse"], "evaluation", "set one of its keys, as evaluation.metric"),
        (["--config.evaluation=3"], "evaluation", ""),
        (["--config.optimizer=sgd"], "optimizer", "set one of its keys, as optimizer.param"),
        (["--config.arms=fine_tune", "--config.arms=frozen"], "arms", ""),
        (["--config.penalties=ewc", "--config.penalties=anchor"], "penalties", ""),
        (["--config.plugins=no_such_module"], "plugins", "No module named 'no_such_module'"),
    ],
)
def test_texts_that_are_no_value_are_refused_with_the_whole_key(words, key, hint):
    error = refused(applied, *words)
    assert error.key == key and error.hint == hint


@pytest.mark.parametrize("text", ["fine_tune, frozen", "('fine_tune', 'frozen')", "[frozen,fine_tune]"])
def test_arms_are_chosen_by_names(text):
    assert set(applied(f"--config.arms={text}").arms) == {"fine_tune", "frozen"}
    for one in ("fine_tune", "('fine_tune',)"):
        assert set(applied(f"--config.arms={one}").arms) == {"fine_tune"}


def test_a_tuple_that_is_given_twice_is_refused_with_both_texts():
    for key in ("arms", "penalties"):
        error = refused(applied, f"--config.{key}=a", f"--config.{key}=b")
        assert (error.key, error.value) == (key, ("a", "b")) and error.bound.startswith("given once")


def test_a_long_list_of_members_with_an_option_is_shortened():
    hint = refused(applied, "--config.model.hidden=3").hint
    assert hint.startswith("model is 'linear', and only 'recommender' or ") and hint.endswith(" or others has it")


# Plug-ins


def test_a_plug_in_is_imported_before_its_members_are_chosen(plugin):
    words = ["--config.penalties.acme_command.weight=2", "--config.penalties=acme_command"]
    assert refused(applied, *words).key == "penalties" and plugin not in sys.modules
    config = applied(*words, f"--config.plugins={plugin}")
    assert config.penalties.acme_command.weight == 2.0 and config.plugins == (plugin,)
    assert spec.check(config).plugins == (plugin,)
    assert spec.check(applied(*words)).plugins == (plugin,)  # a module that is imported anyhow is named too


def test_a_plug_in_of_a_config_file_is_imported_only_where_the_caller_allows_it(plugin):
    config = runs.small()
    config.plugins = (plugin,)
    for call in (lambda: overrides.apply(config, ()), lambda: spec.from_plain(spec.plain(config))):
        error = refused(call)
        assert (error.key, error.value, error.hint) == ("plugins", plugin, f"--allow-plugin={plugin} imports it")
        assert plugin not in sys.modules
    assert overrides.apply(config, (), (plugin,)).plugins == (plugin,) and plugin in sys.modules
