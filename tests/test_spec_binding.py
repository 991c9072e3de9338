"""What of a config binds a run, and a run of an older version."""

import json
import pathlib
import re
import shutil

import pytest
from ml_collections import ConfigDict

from metapers import serving, spec, store
from metapers.options import Option
from metapers.run import resume
from metapers.run.load import opened
from metapers.spec import tree
from metapers.spec.root import OPERATIONAL, PLACES, ROOT
from tests import runs
from tests.test_config import leaves, refused


def test_a_good_config_passes_and_every_value_has_the_type_of_its_option():
    config = runs.small()
    checked = spec.check(config)
    assert leaves(checked) == leaves(config) and checked is not config and checked.is_locked
    config.evaluation.shots = [1, 4]
    config.clip_norm = 1
    checked = spec.check(config)
    assert checked.evaluation.shots == (1, 4) and type(checked.evaluation.shots) is tuple
    assert checked.clip_norm == 1.0 and type(checked.clip_norm) is float


def test_differences_separate_what_binds_from_what_does_not():
    new = runs.small(outer_steps=41, log_every=11, devices=1, penalties={"ewc": {"strength": 2.0}})
    binding, operational = tree.differences(runs.small(), new)
    assert [line for line in binding if not line.startswith("penalties")] == [
        "devices: None -> 1",
        "outer_steps: 40 -> 41",
    ]
    assert "penalties.ewc.strength: 'absent' -> 2.0" in binding
    assert operational == ["log_every: 10 -> 11"]
    binding, _ = tree.differences(runs.small(), runs.small(inner="implicit"))
    assert "inner.name: 'gradient' -> 'implicit'" in binding and "inner.cg_steps: 'absent' -> 5" in binding


def test_a_chosen_member_without_options_is_a_difference():
    config, empty = runs.small(), ConfigDict({"penalties": {"l0": {}}})
    assert tree.differences(ConfigDict({"penalties": {}}), empty)[0] == [
        "penalties: {} -> 'absent'",
        "penalties.l0: 'absent' -> {}",
    ]
    assert leaves(config)["penalties"] == {}


def test_the_digest_is_of_what_binds():
    def digest(config):
        return store.digest(tree.binding(config))

    assert digest(runs.small()) == digest(runs.small(log_every=7, progress=True, checkpoint_every=3))
    assert digest(runs.small()) == digest(spec.check(runs.small()))
    assert digest(runs.small()) != digest(runs.small(outer_steps=41))
    assert digest(runs.small()) != digest(runs.small(inner__rates="lslr"))
    assert all(isinstance(ROOT[key], Option) for key in OPERATIONAL)


@pytest.mark.parametrize("changes", [{"data.download": True}, {"data.path": "/elsewhere"}, {"start_from": "there"}])
def test_what_names_a_place_or_prepares_it_binds_nothing(changes):
    config = spec.config_for("omniglot", "conv4")
    moved = spec.merged(config, changes)
    assert tree.differences(config, moved)[0] == [] and len(tree.differences(config, moved)[1]) == 1
    assert tree.binding(config) == tree.binding(moved)
    assert {*changes} <= {*PLACES}


def test_a_metric_that_the_objective_does_not_have_is_refused_with_those_it_has():
    config = spec.config_for("linear_gaussian", "linear")
    config.evaluation.metric = "accuracy"
    error = refused(spec.components, config)
    assert (error.key, error.value) == ("evaluation.metric", "accuracy")
    assert error.bound == "one of ['mae', 'mse', 'rmse']"


# Runs of older versions


def aged(config, *later: str) -> dict:
    """A config as an older version saved it: without the keys that came later."""
    saved = spec.plain(config)
    for key in later:
        section, _, name = key.rpartition(".")
        del (tree.at(saved, section) if section else saved)[name]
    return saved


LATER = ("gate", "inner.unroll", "learner.rmse_epsilon", "optimizer.table", "evaluation.bootstrap", "bank", "plugins")


def test_a_config_of_an_older_version_has_the_defaults_of_what_came_later():
    config = runs.small(evaluation__bootstrap=ROOT["evaluation"]["bootstrap"].default)
    back = spec.from_plain(aged(config, *LATER))
    assert leaves(back) == leaves(config) and tree.differences(back, config) == ([], [])
    changed = spec.merged(config, {"inner.unroll": 2})
    assert tree.differences(back, changed) == (["inner.unroll: 1 -> 2"], [])


def test_a_key_that_is_not_known_any_more_is_refused(tmp_path):
    saved = spec.plain(runs.small())
    saved["inner"]["learn_rates"] = True
    error = refused(spec.from_plain, saved)
    assert (error.key, error.value, error.bound) == ("inner.learn_rates", True, "a known key")
    (tmp_path / "config.json").write_text(json.dumps(saved))
    error = refused(opened, tmp_path)
    assert error.key == "inner.learn_rates" and error.hint == f"in {tmp_path / 'config.json'}"


def test_a_run_of_an_older_version_is_opened_served_and_goes_on(small_run, tmp_path):
    folder = pathlib.Path(shutil.copytree(small_run, tmp_path / "old"))
    saved = json.loads((folder / "config.json").read_text())
    for key in ("gate", "bank", "plugins"):
        del saved[key]
    del saved["inner"]["unroll"]
    (folder / "config.json").write_text(json.dumps(saved))
    assert leaves(opened(folder)) == leaves(runs.small())
    assert resume.check_compatible(runs.small(), folder) == []
    assert serving.load(folder, "fine_tune").config.gate.name == "none"
    with pytest.raises(ValueError, match="inner.unroll: 1 -> 2"):
        resume.check_compatible(runs.small(inner__unroll=2), folder)


@pytest.mark.parametrize(("key", "value"), [("data.minority", 0.5), ("model.hidden", (3,))])
def test_a_run_begun_before_its_source_or_model_had_an_option_is_opened_and_goes_on(key, value, tmp_path):
    config = spec.check(spec.config_for("linear_gaussian", "mlp"))
    (tmp_path / "config.json").write_text(json.dumps(aged(config, key)))
    assert leaves(opened(tmp_path)) == leaves(config)
    assert resume.check_compatible(config, tmp_path) == []
    with pytest.raises(ValueError, match=f"was started with another config: {re.escape(key)}: "):
        resume.check_compatible(spec.merged(config, {key: value}), tmp_path)
