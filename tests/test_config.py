"""Keys of a config: bounds, nearest names, what binds a run and what does not."""

import pytest

from metapers import store
from metapers.experiment import assembly, config_for
from metapers.experiment import config as configs
from tests import runs


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
        ({"learner.inner_rate": 0.0}, "learner.inner_rate must be finite and > 0, got 0.0"),
        ({"learner.inner_rate": float("nan")}, "learner.inner_rate must be finite and > 0, got nan"),
        ({"optimizer.param.rate": float("inf")}, "optimizer.param.rate must be finite and > 0, got inf"),
        ({"optimizer.inner.weight_decay": -1.0}, "optimizer.inner.weight_decay must be >= 0, got -1.0"),
        ({"continual.anchor_strength": float("nan")}, "continual.anchor_strength must be >= 0, got nan"),
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
