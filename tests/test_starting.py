"""Runs that begin where a version of another run ended: what is taken, what is drawn, what is refused."""

import json

import jax
import numpy as np
import pytest

from metapers import models, store
from metapers.base import Params
from metapers.spec import building as assembly
from metapers.scoring import scorer as scoring
from metapers.run import warm_start as starting
from metapers.spec import config as configs
from metapers.run.training import train
from tests import runs


def of_seeds(model, seeds):
    return jax.tree.map(np.asarray, jax.vmap(model.init)(jax.random.split(jax.random.key(1), seeds)))


def donor_of(params):
    return starting.Donor(starting.named(params.shared) | starting.named(params.personal), "digest")


def test_a_network_takes_the_body_of_one_whose_head_is_solved_and_draws_its_head():
    solved = of_seeds(models.embedded(models.conv_body(4), models.prototypes(3)), 2)
    whole = of_seeds(models.conv4(3, 4), 3)  # all of it personal, where the body was shared
    begun, drawn = starting.begun(whole, donor_of(solved))
    assert drawn == ["head/bias", "head/kernel"]
    for name, leaf in starting.named(begun.personal).items():
        if name in drawn:
            np.testing.assert_array_equal(leaf, starting.named(whole.personal)[name])
            continue
        np.testing.assert_array_equal(leaf, starting.named(solved.shared)[name][[0, 1, 0]])  # seed i modulo the two
    assert any(
        np.any(starting.named(begun.personal)[name] != leaf)
        for name, leaf in starting.named(whole.personal).items()
        if name not in drawn
    )


def test_a_leaf_of_another_shape_is_drawn_and_a_donor_without_any_is_refused():
    few, many = of_seeds(models.conv4(3, 4), 1), of_seeds(models.conv4(5, 4), 1)
    begun, drawn = starting.begun(many, donor_of(few))
    assert drawn == ["head/bias", "head/kernel"] and begun.personal["head"]["kernel"].shape == (1, 4, 5)
    other = Params({"table": np.ones((1, 7))}, {}, {})
    with pytest.raises(ValueError, match="start_from must name a version with some of this model's parameters"):
        starting.begun(many, donor_of(other))


def test_a_run_begins_where_another_ended_and_its_lineage_says_so(tmp_path):
    train(runs.quick(strategies=("naive",), data__stages=1), tmp_path / "first")
    folder = tmp_path / "first" / "strategies" / "naive" / "versions"
    ended, record = store.load_version(folder, 0)[0]["params"], store.read_record(folder, 0)
    config = runs.quick(strategies=("naive",), data__stages=1, start_from=str(folder / "0"), seed=5, steps=3)
    initial = scoring.scorer(assembly.parts(config)).initial()
    assert runs.same_bits(runs.flat(initial.personal), runs.flat(ended["personal"])) == []
    train(config, tmp_path / "second")
    _, lineage = store.load_version(tmp_path / "second" / "strategies" / "naive" / "versions", 0)
    assert lineage["provenance"]["started_from"] == record["digest"]
    journal = (tmp_path / "second" / "journal.jsonl").read_text()
    assert f"parameters begin where {folder / '0'} ended; drawn: none" in journal
    drawn = scoring.scorer(assembly.parts(runs.quick(seed=5))).initial()
    assert runs.same_bits(runs.flat(initial.personal), runs.flat(drawn.personal)) != []

    path = tmp_path / "second" / "provenance.json"  # as if start_from had been trained anew since
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started_from": "another"}))
    with pytest.raises(ValueError, match="began with another version than start_from names now"):
        train(config, tmp_path / "second")


@pytest.mark.parametrize("where", ["nowhere/versions/0", "."])
def test_a_start_that_is_no_version_is_refused_before_anything_is_written(where, tmp_path):
    config = runs.quick(start_from=str(tmp_path / where))
    with pytest.raises(FileNotFoundError, match="start_from must name a version, .*versions/<n>, got"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_version_that_held_out_other_users_is_refused(tmp_path):
    train(runs.quick(strategies=("naive",), data__stages=1, data__fold=1), tmp_path / "first")
    version = str(tmp_path / "first" / "strategies" / "naive" / "versions" / "0")
    config = runs.quick(start_from=version, data__stages=1)
    with pytest.raises(
        ValueError, match="start_from must name a version that held out the same users, data.fold = 0, got 1"
    ):
        assembly.parts(config)
    theirs = configs.plain(runs.quick(start_from=version, data__stages=1, data__fold=1))["data"]
    assert starting.donor(version, theirs).leaves
    assert starting.donor(version, {"source": "another"}).leaves  # other people: none of them is held out here
