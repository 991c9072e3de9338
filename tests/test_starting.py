"""Runs that begin with a version of another run: what they take, what they initialise, what is refused."""

import json

import jax
import numpy as np
import pytest

from metapers import models, spec, store
from metapers.base import Params
from metapers.options import ConfigError
from metapers.run import setup, warm_start
from metapers.run.training import train
from metapers.run.warm_start import WarmStart, named
from metapers.scoring import scorer as scoring
from metapers.workdir import versions_of
from tests import runs

pytestmark = pytest.mark.xdist_group("warm start")


RNG = np.random.default_rng(0)


def of_seeds(model, seeds):
    """Made-up parameters of a model."""
    shapes = jax.eval_shape(jax.vmap(model.init), jax.random.split(jax.random.key(1), seeds))
    return jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def version_with(params):
    return WarmStart(named(params.shared) | named(params.personal), "digest")


def one_period(**changes):
    plain = {"learner": "joint", "devices": 1, "bank": False}  # the least to compile
    plain |= {"evaluation__steps": (0,), "evaluation__headline_steps": 0}
    return runs.quick(arms=("fine_tune",), data__periods=1, **plain, **changes)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The version of a run of one period."""
    folder = tmp_path_factory.mktemp("first")
    train(one_period(), folder)
    return versions_of(folder, "fine_tune") / "0"


def test_a_network_takes_the_body_of_one_whose_head_is_solved_and_initialises_its_head():
    solved = of_seeds(models.embedded(models.conv_body(4), models.prototypes(3)), 2)
    whole = of_seeds(models.conv4(3, 4), 3)  # all of it personal, where the body was shared
    begun, new = version_with(solved).begin(whole)
    assert new == ["head/bias", "head/kernel"]
    for name, leaf in named(begun.personal).items():
        if name in new:
            np.testing.assert_array_equal(leaf, named(whole.personal)[name])
            continue
        np.testing.assert_array_equal(leaf, named(solved.shared)[name][[0, 1, 0]])  # seed i modulo the two
    assert any(
        np.any(named(begun.personal)[name] != leaf) for name, leaf in named(whole.personal).items() if name not in new
    )


def test_a_leaf_of_another_shape_is_initialised_and_a_version_without_any_is_refused():
    few, many = of_seeds(models.conv4(3, 4), 1), of_seeds(models.conv4(5, 4), 1)
    begun, new = version_with(few).begin(many)
    assert new == ["head/bias", "head/kernel"] and begun.personal["head"]["kernel"].shape == (1, 4, 5)
    other = Params({"table": np.ones((1, 7))}, {}, {})
    with pytest.raises(ConfigError) as error:
        version_with(other).begin(many)
    assert error.value.key == "start_from"
    assert error.value.bound == "a version with some of this model's parameters"


def test_a_run_begins_where_another_ended_and_its_lineage_says_so(first, tmp_path):
    ended, record = store.load_version(first.parent, 0)[0]["params"], store.read_record(first.parent, 0)
    config = one_period(start_from=str(first), seed=5, outer_steps=3)
    initial = scoring.scorer(setup.components(config)).initial()
    assert runs.same_bits(runs.flat(initial.personal), runs.flat(ended["personal"])) == []
    train(config, tmp_path)
    _, lineage = store.load_version(versions_of(tmp_path, "fine_tune"), 0)
    assert lineage["provenance"]["started_from"] == record["digest"]
    journal = (tmp_path / "journal.jsonl").read_text()
    assert f"parameters begin as in {first}; newly initialised: none" in journal
    random = scoring.scorer(setup.components(runs.quick(seed=5))).initial()
    assert runs.same_bits(runs.flat(initial.personal), runs.flat(random.personal)) != []

    path = tmp_path / "provenance.json"  # as if start_from had been trained anew since
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started_from": "another"}))
    with pytest.raises(ValueError, match="began with another version than start_from names now"):
        train(config, tmp_path)


@pytest.mark.parametrize(
    ("period", "periods", "own", "refused"), [(0, 5, 5, False), (1, 5, 5, True), (0, 1, 5, True), (4, 5, 1, False)]
)
def test_a_version_of_a_later_period_is_refused(period, periods, own, refused, first, monkeypatch):
    tree, lineage = store.load_version(first.parent, 0)
    read = lambda *given: (tree, lineage | {"seen_until": period, "periods": periods})
    monkeypatch.setattr(store, "load_version", read)
    config = spec.merged(one_period(start_from=str(first)), {"data.periods": own})
    if not refused:
        assert warm_start.warm_start(config).leaves
        return
    with pytest.raises(ConfigError) as error:
        warm_start.warm_start(config)
    assert error.value.key == "start_from" and error.value.value == f"a version of period {period + 1} of {periods}"
    assert error.value.bound == f"a version that has seen no more than the first of this run's {own} periods"


@pytest.mark.parametrize("where", ["nowhere/versions/0", "."])
def test_a_start_that_is_no_version_is_refused_before_anything_is_written(where, tmp_path):
    config = runs.quick(start_from=str(tmp_path / where))
    with pytest.raises(FileNotFoundError, match="start_from must name a version, .*versions/<n>, got"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_version_that_held_out_other_users_is_refused(first, monkeypatch):
    config = one_period(start_from=str(first), data__fold=1)
    with pytest.raises(ConfigError) as error:
        setup.components(config)
    told = error.value
    assert (told.key, told.value) == ("start_from", 0)
    assert told.bound == "a version that held out the same users, data.fold = 1"
    assert warm_start.warm_start(one_period(start_from=str(first))).leaves
    another = spec.merged(spec.config_for("sinusoid", "mlp"), {"start_from": str(first)})
    assert warm_start.warm_start(another).leaves  # other people: none of them is held out here

    read = store.load_version

    def written_by_0_1(*given):
        tree, lineage = read(*given)
        data = {("source" if key == "name" else key): one for key, one in lineage["config"]["data"].items()}
        return tree, lineage | {"config": {"data": data}}

    monkeypatch.setattr(store, "load_version", written_by_0_1)
    with pytest.raises(ConfigError, match="held out the same users"):
        setup.components(config)
