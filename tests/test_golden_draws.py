"""Draws are frozen: the same names, keys, users and first parameters as were recorded in golden_draws.json.

A figure can be compared with one of an earlier revision only if both drew the same. Where a draw is meant to change,
`python -m tests.test_golden_draws` records all of them anew. Keys changed once: periods left them (a step's key
counts the outer steps since the arm began), and repeats entered them (a second task of a user in a batch has a key of
its own).
"""

import ast
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys, models, tasks
from metapers.base import Task
from metapers.tasks import synthetic

ROOT = Path(__file__).resolve().parents[1]
RECORDED = Path(__file__).with_name("golden_draws.json")
COUNTERS = ((), (0,), (1,), (3, 2))  # as in named(key, name, 3, 2): the step, the period or the row

STREAMS = {
    "linear_gaussian": lambda: tasks.linear_gaussian(
        drift=synthetic.recurring(), periods=2, users_per_period=20, examples=8, dim=2, support=4, query=3
    ),
    "linear_gaussian, noisy labels": lambda: tasks.linear_gaussian(
        drift=synthetic.gradual(3), periods=3, users_per_period=15, examples=6, dim=2, minority=0.3, label_noise=0.3,
        seed=2, fold=1, support=3, query=2,
    ),
    "sinusoid": lambda: tasks.sinusoid(periods=2, users=4, support=3, query=5, noise=0.1, shift=0.5, seed=1),
    "quadratic": lambda: tasks.quadratic(dim=2, periods=2, users_per_period=15, examples=6, support=3, query=2),
}  # fmt: skip
MODELS = {
    "mlp": lambda: models.mlp([2, 4, 3]),
    "mlp, added": lambda: models.mlp([2, 4, 4, 1], scalar=True, context=2, film=True, low_rank=2),
    "linear": lambda: models.linear(3),
    "conv4": lambda: models.conv4(3, 2),
    "recommender": lambda: models.recommender(6, 4, tables=True, features=2, hidden=3),
    "bayes_recommender": lambda: models.bayes_recommender(6, 4, tables=True, full=True, features=2, hidden=3),
    "gru": lambda: models.gru(6, embed=2, hidden=3, film=True, low_rank=1),
    "transformer": lambda: models.transformer(6, length=4, width=4, heads=2, layers=1, film=True, low_rank=1),
}


def names_given() -> list[str]:
    """Every name of a key in the package, read from the calls ``keys.named(key, "name", ...)``."""
    files = sorted((ROOT / "metapers").rglob("*.py"))
    calls = [node for file in files for node in ast.walk(ast.parse(file.read_text())) if is_named(node)]
    assert all(isinstance(call.args[1], ast.Constant) for call in calls), "a name that is not written out"
    return sorted({call.args[1].value for call in calls})


def is_named(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "keys.named"


def numbers(values) -> list[float]:
    return [float(f"{value:.8g}") for value in np.ravel(values)]


def first(tree) -> dict[str, list[float]]:
    """The sum of each leaf and its first five numbers, by the leaf's path."""
    leaves = [(jax.tree_util.keystr(path), np.ravel(leaf)) for path, leaf in jax.tree.leaves_with_path(tree)]
    return {name: numbers([leaf.sum(dtype=np.float64), *leaf[:5]]) for name, leaf in leaves}


def words(key) -> list[int]:
    return np.asarray(jax.random.key_data(key)).tolist()


def drawn_keys(names) -> dict:
    return {name: [words(keys.named(keys.root(0), name, *counters)) for counters in COUNTERS] for name in names}


def drawn_tasks(name: str) -> dict:
    """Four users of all periods in step 5, and how the host drew the cohort that is held out."""
    stream = STREAMS[name]()
    data = stream.family.data((0, stream.periods - 1), 5, 3)
    sample = jax.jit(stream.family.sample, static_argnums=2)
    users, mask = sample(data, jnp.int32(5), 4, keys.named(keys.root(7), "tasks"))
    return first({"tasks": users._asdict(), "mask": mask, "held_out": stream.held_out("test", 0)._asdict()})


def drawn_params(name: str) -> dict:
    with jax.enable_x64(False):  # as users train
        return first(jax.jit(MODELS[name]().init)(keys.named(keys.root(0), "init"))._asdict())


def drawn_batches() -> dict:
    """What a step's tasks draw by: steps 3 and 4 of an arm, four tasks, of one user three; and of the user alone."""
    users = jnp.array([3, 5, 3, 3], jnp.int32)
    tasks = Task(None, None, users, {})  # keys read user and notes alone
    steps = {str(step): keys.named(keys.named(keys.root(0), "step", step), "update") for step in (3, 4)}
    batch = jax.vmap(keys.of_task, in_axes=(None, 0))
    return {name: words(batch(key, keys.numbered(tasks))) for name, key in steps.items()} | {
        "alone": words(batch(steps["3"], tasks))
    }


def record() -> None:
    """Writes all draws as they are now."""
    found = {
        "names": names_given(),
        "keys": drawn_keys(names_given()),
        "batches": drawn_batches(),
        "tasks": {name: drawn_tasks(name) for name in STREAMS},
        "params": {name: drawn_params(name) for name in MODELS},
    }
    lines = [f"{json.dumps(part)}: {json.dumps(entries)}" for part, entries in found.items()]
    RECORDED.write_text("{\n" + ",\n".join(lines).replace('}, "', '},\n "') + "\n}\n")


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads(RECORDED.read_text())


def test_the_names_of_keys_are_the_recorded_ones(golden):
    assert names_given() == golden["names"]


def test_a_name_and_its_counters_give_the_recorded_key(golden):
    assert drawn_keys(golden["names"]) == golden["keys"]


def test_the_tasks_of_a_step_have_the_recorded_keys(golden):
    found = drawn_batches()
    assert found == golden["batches"]
    each = [tuple(word) for step in ("3", "4") for word in found[step]]
    assert len(set(each)) == len(each)


@pytest.mark.parametrize("name", STREAMS)
def test_a_source_draws_the_recorded_users(name, golden):
    assert differing(drawn_tasks(name), golden["tasks"][name]) == []


@pytest.mark.parametrize("name", MODELS)
def test_a_model_begins_with_the_recorded_parameters(name, golden):
    assert differing(drawn_params(name), golden["params"][name]) == []


def differing(found: dict, recorded: dict) -> list[str]:
    """The paths of leaves that only one of them has, or whose numbers differ by more than rounding."""
    both = found.keys() & recorded.keys()
    moved = {
        path
        for path in both
        if len(found[path]) != len(recorded[path]) or not np.allclose(found[path], recorded[path], rtol=1e-6, atol=1e-6)
    }
    return sorted(moved | (found.keys() ^ recorded.keys()))


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  (the settings under which the tests draw)

    record()
