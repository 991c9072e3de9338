"""Keys of a config: bounds, nearest names, what binds a run and what does not."""

import json
import pathlib
import re
import shutil

import pytest

from metapers import experiment, store
from metapers.experiment import config_for
from metapers.spec import architectures
from metapers.spec import building as assembly
from metapers.spec import defaults
from metapers.evaluation import evaluate_run as judging
from metapers.run import resume as resuming
from metapers.spec import config as configs
from tests import runs


def test_the_page_names_the_models_that_fit_each_source():
    text = (runs.ROOT / "docs" / "configs.md").read_text()
    told = dict.fromkeys(assembly.SOURCES, ())
    for sources, kinds, fitting in re.findall(r"^\| (`[\w`, ]+`) \| (\w+ to \w+) \| (`.*) \|$", text, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", sources):
            told[name] = (kinds, set(re.findall(r"`(\w+)`", fitting)))
    for name, source in assembly.SOURCES.items():
        kinds = f"{source.inputs} to {source.targets}"
        fits = lambda one, source=source: source.inputs in one.inputs and source.targets in one.targets
        models = {model for model, one in architectures.MODELS.items() if fits(one)}
        heads = {head for head, one in architectures.HEADS.items() if source.targets in one.targets}
        solved = any(model.startswith("solved") for model in models)
        assert told[name] == (kinds, models | (heads if solved else set()))


def test_a_misspelt_key_is_refused_where_it_is_written():
    config = config_for("linear_gaussian", "linear")
    with pytest.raises(AttributeError, match="inner_steps"):
        config.learner.inner_step = 3
    with pytest.raises(TypeError):
        config.learner.inner_steps = "three"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, "steps must be >= 1, got -1"),
        ({"seeds": 0}, "seeds must be >= 1, got 0"),
        ({"chunk": 0}, "chunk must be >= 1, got 0"),
        ({"continual.replayed": -1}, "continual.replayed must be >= 0, got -1"),
        ({"learner.inner_steps": 0}, "learner.inner_steps must be >= 1, got 0"),
        ({"learner.shrink": -0.5}, "learner.shrink must be >= 0, got -0.5"),
        ({"learner.inner_rate": 0.0}, "learner.inner_rate must be > 0, got 0.0"),
        ({"learner.inner_rate": float("nan")}, "learner.inner_rate must be finite, got nan"),
        ({"optimizer.param.rate": float("inf")}, "optimizer.param.rate must be finite, got inf"),
        ({"optimizer.inner.weight_decay": -1.0}, "optimizer.inner.weight_decay must be >= 0, got -1.0"),
        ({"continual.anchor_strength": float("nan")}, "continual.anchor_strength must be finite, got nan"),
        ({"evaluation.shots": ()}, r"evaluation.shots must be increasing integers >= 1, got \(\)"),
        ({"evaluation.shots": (0, 4)}, r"evaluation.shots must be increasing integers >= 1, got \(0, 4\)"),
        ({"evaluation.shots": (4, 2)}, r"evaluation.shots must be increasing integers >= 1, got \(4, 2\)"),
        ({"evaluation.shots": ("a", 4)}, "evaluation.shots must be increasing integers >= 1"),
        ({"evaluation.steps": (-1, 2)}, r"evaluation.steps must be increasing integers >= 0, got \(-1, 2\)"),
        (
            {"evaluation.headline_shots": 3},
            r"headline_shots must be one of evaluation.shots \(1, 4\), got 3",
        ),
        ({"evaluation.headline_steps": 9}, "evaluation.headline_steps must be one of evaluation.steps"),
        ({"strategies": ()}, "strategies must name at least one strategy"),
        ({"continual.ewc_draws": 0}, "continual.ewc_draws must be >= 1, got 0"),
        ({"strategies": ("naive", "static", "naive")}, r"strategies must not name anything twice, got \('naive', 'st"),
        ({"continual.penalty": ("ewc", "ewc")}, "continual.penalty must not name anything twice"),
        ({"evaluation.bootstrap": 1}, "evaluation.bootstrap must be >= 100, got 1"),
        ({"data.seed": -1}, "data.seed must be >= 0, got -1"),
        ({"data.spread": float("inf")}, "data.spread must be finite, got inf"),
        ({"clip_norm": float("inf")}, "clip_norm must be finite, got inf"),
        ({"continual.ewc_decay": 1.5}, r"continual.ewc_decay must be in \[0, 1\], got 1.5"),
    ],
)
def test_values_are_held_against_their_bounds(change, message):
    with pytest.raises(ValueError, match=message):
        configs.check(configs.merged(runs.small(), change))


def test_a_good_config_passes_and_comes_back_as_it_was():
    config = runs.small()
    assert configs.check(config) is config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learner.inner_step": 3}, "unknown config key 'learner.inner_step'; did you mean 'learner.inner_steps'?"),
        ({"inner_steps": 3}, "unknown config key 'inner_steps'; did you mean 'learner.inner_steps'?"),
        ({"steps": 2.5}, r"steps must be int, got 2.5 \(float\)"),
        ({"steps": True}, r"steps must be int, got True \(bool\)"),
        ({"learner.inner_rate": "fast"}, r"learner.inner_rate must be float, got 'fast' \(str\)"),
        ({"strategies": "naive"}, "strategies must be tuple, got 'naive'"),
    ],
)
def test_merging_refuses_unknown_keys_and_other_types(change, message):
    with pytest.raises(ValueError, match=message):
        configs.merged(runs.small(), change)


def test_merging_takes_ints_for_floats_and_lists_for_tuples_and_leaves_the_first_alone():
    config = runs.small()
    new = configs.merged(config, {"learner.inner_rate": 1, "evaluation.shots": [1, 2, 4]})
    assert new.learner.inner_rate == 1.0 and isinstance(new.learner.inner_rate, float)
    assert new.evaluation.shots == (1, 2, 4) and config.evaluation.shots == (1, 4)
    with pytest.raises(AttributeError):
        new.learner.inner_step = 3


def test_unknown_sources_and_models_are_named():
    with pytest.raises(ValueError, match="data.source must be one of .*did you mean 'movielens'"):
        config_for("movilens", "linear")
    with pytest.raises(ValueError, match="model.name must be one of .*did you mean 'recommender'"):
        config_for("movielens", "recomender")


def test_a_config_comes_back_from_json():
    config = runs.small()
    back = configs.from_plain(configs.plain(config))
    assert dict(configs.leaves(back)) == dict(configs.leaves(config))
    assert configs.differences(back, config) == ([], [])


def test_differences_tell_what_binds_from_what_does_not():
    binding, operational = configs.differences(
        runs.small(), runs.small(steps=41, log_every=11, devices=1, continual__penalty=("ewc",))
    )
    assert binding == ["continual.penalty: ('anchor',) -> ('ewc',)", "devices: 0 -> 1", "steps: 40 -> 41"]
    assert operational == ["log_every: 10 -> 11"]


def test_the_digest_is_of_what_binds():
    def digest(config):
        return store.digest(configs.binding(config))

    assert digest(runs.small()) == digest(runs.small(log_every=7, progress=True, checkpoint_every=3))
    assert digest(runs.small()) != digest(runs.small(steps=41))
    assert all(key in dict(runs.small().items()) for key in configs.OPERATIONAL)


def test_a_metric_that_the_objective_does_not_have_is_refused_with_those_it_has():
    config = config_for("linear_gaussian", "linear")
    config.evaluation.metric = "accuracy"
    with pytest.raises(ValueError, match=r"evaluation.metric must be one of \['mae', 'mse', 'rmse'\], got 'accuracy'"):
        assembly.parts(config)


def aged(config, *later: str) -> dict:
    """A config as an older version wrote it down: without the keys that came later."""
    saved = configs.plain(config)
    for key in later:
        section, _, name = key.rpartition(".")
        del (saved[section] if section else saved)[name]
    return saved


LATER = ("learner.keep", "learner.least_move", "learner.unroll", "continual.ewc_exact", "evaluation.bootstrap", "bank")


def test_a_config_of_an_older_version_has_the_defaults_of_what_came_later():
    config = runs.small(evaluation__bootstrap=defaults.EVALUATION["bootstrap"])
    back = configs.from_plain(aged(config, *LATER))
    assert dict(configs.leaves(back)) == dict(configs.leaves(config))
    assert configs.differences(back, config) == ([], [])
    changed = configs.merged(config, {"learner.unroll": 2})
    assert configs.differences(back, changed) == (["learner.unroll: 1 -> 2"], [])


def test_a_group_without_lines_stays_with_param_in_an_older_config():
    saved = configs.plain(runs.small())
    del saved["optimizer"]["table"]
    assert "table" not in configs.from_plain(saved).optimizer


def test_a_key_that_is_not_known_any_more_is_refused():
    saved = configs.plain(runs.small())
    saved["learner"]["learn_rates"] = True
    with pytest.raises(ValueError, match="config has learner.learn_rates = True, which this version does not know"):
        configs.from_plain(saved)


def test_a_run_of_an_older_version_is_opened_served_and_goes_on(small_run, tmp_path):
    folder = pathlib.Path(shutil.copytree(small_run, tmp_path / "old"))
    saved = json.loads((folder / "config.json").read_text())
    for key in LATER[:4]:
        section, _, name = key.partition(".")
        del saved[section][name]
    del saved["bank"]
    (folder / "config.json").write_text(json.dumps(saved))
    assert dict(configs.leaves(judging.opened(folder))) == dict(configs.leaves(runs.small()))
    assert resuming.agree(runs.small(), folder) == []
    assert experiment.load(folder, "naive").config.learner.keep == "always"
    with pytest.raises(ValueError, match="learner.unroll: 1 -> 2"):
        resuming.agree(runs.small(learner__unroll=2), folder)


@pytest.mark.parametrize(("key", "value"), [("data.minority", 0.5), ("model.hidden", (3,))])
def test_a_run_begun_before_its_source_or_model_had_an_option_is_opened_and_goes_on(key, value, tmp_path):
    config = configs.check(config_for("linear_gaussian", "mlp"))
    (tmp_path / "config.json").write_text(json.dumps(aged(config, key)))
    assert dict(configs.leaves(judging.opened(tmp_path))) == dict(configs.leaves(config))
    assert resuming.agree(config, tmp_path) == []
    with pytest.raises(ValueError, match=f"was started with another config: {key}: "):
        resuming.agree(configs.merged(config, {key: value}), tmp_path)


@pytest.mark.parametrize("changes", [{"data.download": True}, {"data.path": "/elsewhere"}])
def test_what_names_a_place_or_prepares_it_binds_nothing(changes):
    config = config_for("omniglot", "conv4")
    moved = configs.merged(config, changes)
    assert configs.differences(config, moved)[0] == [] and len(configs.differences(config, moved)[1]) == 1
    assert configs.binding(config) == configs.binding(moved)
