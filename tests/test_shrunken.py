"""The kill test reaches every member of the contract table that a config can name."""

import ast

import pytest

from benchmarks import shrunken
from tests.contracts import table

KINDS = {
    "learner": table.LEARNERS,
    "inner": table.INNER_LOOPS,
    "penalty": table.PENALTIES,
    "memory": table.MEMORIES,
    "aggregator": table.AGGREGATORS,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_member_of_the_table_is_killed_too(kind):
    named = {name.removeprefix(f"{kind} ").split(",")[0] for name in shrunken.MEMBERS if name.startswith(f"{kind} ")}
    there = {name.split(",")[0] for name, _ in KINDS[kind]}
    apart = set(shrunken.NOT_BY_THEMSELVES.get(kind, {}))
    assert named | apart == there and not named & apart


@pytest.mark.parametrize("name", shrunken.MEMBERS)
def test_its_config_is_one_that_train_takes(name):
    from metapers.spec import config as configs
    from tests.test_end_to_end import config_of

    command = shrunken.command(shrunken.ROOT / "runs", shrunken.MEMBERS[name])
    (path,) = (flag.removeprefix("--config=") for flag in command if flag.startswith("--config="))
    known = dict(configs.leaves(config_of(shrunken.ROOT / path).get_config()))
    keys = [flag.removeprefix("--config.").split("=")[0] for flag in command if flag.startswith("--config.")]
    assert keys and set(keys) <= known.keys()
    changes = {key: value for key, value in shrunken.MEMBERS[name].items() if key != "shipped"}
    values = {key: ast.literal_eval(one) if str(one)[:1] == "(" else one for key, one in changes.items()}
    configs.check(configs.merged(config_of(shrunken.ROOT / path).get_config(), values))
