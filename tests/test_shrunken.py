"""The kill test reaches every member that training can choose, in the configs that the command takes."""

from functools import cache

import pytest

from benchmarks import shrunken
from metapers.members import registry
from metapers.options import NONE
from metapers.spec import plain
from metapers.spec.tree import at, members

pytestmark = pytest.mark.benchmarks

KINDS = (*shrunken.SECTIONS, "penalty")


@cache
def made(name):
    return shrunken.configured(shrunken.complete(shrunken.cases()[name]))


def chosen(config):
    return {(one.kind, one.name) for one in members(config)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_member_of_a_kind_is_killed(kind):
    there = set().union(*(chosen(made(name)) for name in shrunken.cases() if name.startswith(f"{kind} ")))
    assert {(kind, name) for name in registry(kind)} <= there


@pytest.mark.parametrize("name", shrunken.cases())
def test_the_command_of_a_case_is_one_that_train_takes(name):
    changes = shrunken.complete(shrunken.cases()[name])
    command = shrunken.command(shrunken.ROOT / "runs", changes)
    assert command[1] == "train.py" and command[2] == f"--config={shrunken.file_of(changes)}"
    config, given = made(name), dict(shrunken.values(changes))
    assert [f"--config.{key}={text}" for key, text in given.items()] == command[4:]
    assert config.outer_steps == 60 and config.chunk == 2 and [*config.arms] == ["continual"]
    kind, _, rest = name.partition(" ")
    if kind in KINDS and rest.partition(",")[0] in registry(kind):
        assert (kind, rest.partition(",")[0]) in chosen(config)


def test_the_sizes_of_the_data_are_the_example_of_the_source():
    config = shrunken.configured({})
    for key, value in registry("source")["linear_gaussian"].example.items():
        assert config.data[key] == value


def test_a_case_that_no_base_fits_is_refused_with_the_error_of_the_config_itself():
    with pytest.raises(ValueError, match="penalties.anchor.strength"):
        shrunken.complete({"penalties": {"anchor": {"strength": 0.0}}})


LOG = {"inner.name": "gradient", "inner.rates.name": "log_meta_sgd"}
WITHOUT = {"memory.name": NONE}
# what the list of cases held before it came from the registries, by the keys that made each
HELD = {
    "maml": WITHOUT | LOG | {"learner.name": "maml", "penalties": {}},
    "reptile": WITHOUT | {"learner.name": "reptile", "inner.rates.name": "constant", "learner.sequential": False},
    "multi_step": WITHOUT
    | {"learner.name": "multi_step", "learner.msl_anneal_steps": 40, "learner.second_order_from": 20},
    "sequential": WITHOUT | {"learner.name": "reptile", "inner.rates.name": "constant", "learner.sequential": True},
    "joint": WITHOUT | {"learner.name": "joint"},
    "constant rates": {"inner.name": "gradient", "inner.rates.name": "constant"},
    "first order": {"inner.name": "gradient", "inner.first_order": True},
    "meta_sgd": {"inner.name": "gradient", "inner.rates.name": "meta_sgd"},
    "log_meta_sgd": LOG,
    "lslr": {"inner.name": "gradient", "inner.rates.name": "lslr"},
    "remat": {"inner.name": "gradient", "inner.backward": "remat"},
    "mixed": {"inner.name": "gradient", "inner.backward": "mixed"},
    "all parameters": LOG | {"model.adapts": "all"},
    "optimized": {"inner.name": "optimized", "inner.optimizer.name": "adam", "inner.clip_norm": 1.0},
    "implicit": {"inner.name": "implicit"},
    "closed_form": {"inner.name": "closed_form", "data.name": "movielens"},
    "cross_validated": LOG | {"gate.name": "cross_validated"},
    "min_shift": LOG | {"gate.name": "min_shift"},
    "learned gate": LOG | {"gate.name": "learned"},
    "no inner loop": {"inner.name": NONE, "evaluation.steps": [0], "evaluation.headline_steps": 0},
    "no penalty": {"penalties": {}, "memory.name": "reservoir"},
    "ewc, sampled and decayed": {"penalties.ewc.exact": False, "penalties.ewc.decay": 0.5},
    "reservoir, overflowing": {"memory.name": "reservoir", "memory.capacity": 4},
    "clipped": {"aggregator.name": "clipped", "aggregator.norm": 0.5},
    "blocks": {"user_block": 4},
    "over devices": {"seeds": 1},
    "sgd": {"optimizer.param.name": "sgd", "optimizer.personal.name": "sgd"},
    "mlp": {"model.name": "mlp", "data.name": "sinusoid", "data.periods": 2},
}


@pytest.mark.parametrize("name", HELD)
def test_a_case_has_these_values(name):
    assert any(_holds(plain(made(case)), HELD[name]) for case in shrunken.cases())


@pytest.mark.parametrize("names", [{"anchor"}, {"ewc"}, {"anchor", "ewc"}])
def test_a_case_has_exactly_these_penalties(names):
    assert any(names == set(made(case).penalties) and made(case).memory.name != NONE for case in shrunken.cases())


def _holds(config, values):
    try:
        return all(at(config, key) == value for key, value in values.items())
    except KeyError:
        return False
