"""What README and docs say is so: links, rooms, config keys with their defaults, commands, and code that runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapers import aggregate, keys, learners
from metapers.base import Params
from metapers.spec import building as assembly
from metapers.spec import config as configs
from tests.contracts import table, world

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
NO_SOURCE = {"__init__", "_version"}  # modules that are no rooms


def between(text: str, name: str) -> str:
    """What stands between <!-- name:begin --> and <!-- name:end -->."""
    found = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", text, re.DOTALL)
    assert found, f"the block {name} is missing"
    return found[1]


def test_the_memory_table_is_that_of_the_measurement():
    kept = json.loads((ROOT / "benchmarks" / "results" / "memory_cpu.json").read_text())["rows"]
    shown = between((ROOT / "docs" / "results.md").read_text(), "memory").splitlines()[2:]

    def middle(row, key):
        return median(run[key] for run in row["runs"])

    plain = middle(kept[0], "temp_mb")
    wanted = [
        f"| {row['name']} | {middle(row, 'temp_mb'):.0f} | {plain / middle(row, 'temp_mb'):.2f} | "
        f"{middle(row, 'seconds'):.2f} |"
        for row in kept
    ]
    assert shown == wanted and max(row["difference_64"] for row in kept) <= 5e-16


def blocks(page: Path, name: str) -> list[str]:
    """The Python blocks of a page that are marked <!-- runs: name -->."""
    found = re.findall(rf"<!-- runs: {re.escape(name)} -->\n```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert found, f"{page.name} has no block {name!r}"
    return found


def member(page: Path, name: str) -> dict:
    """The names that a member's file, shown on a page, defines."""
    (source,) = blocks(page, name)
    space: dict = {"__name__": f"shown_{name}"}
    exec(compile(source, f"{page.name}:{name}", "exec"), space)
    return space


def anchor(heading: str) -> str:
    """The anchor that a heading gets where Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target, place in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        assert "://" not in target, "pages point into the checkout only"
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{page.name} points to {target}, which is not there"
        if place:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert place in map(anchor, headings), f"{page.name} points to a heading {place} that {target} lacks"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_no_machine(page):
    found = re.search(r"(?<![\w.])/(work|tmp|root|home)/|pypi\.|files\.pythonhosted|index[-]url", page.read_text())
    assert not found, found


def test_named_files_are_there():
    pages = (README, (ROOT / "docs" / "architecture.md").read_text())
    named = {name for text in pages for name in re.findall(r"`((?:docs|configs|tests|metapers)/[\w/.]+\.\w+)`", text)}
    missing = sorted(name for name in named - {"metapers/penalties/drift.py"} if not (ROOT / name).exists())
    assert named and not missing


def test_every_room_is_in_the_list_and_every_line_of_the_list_is_a_room():
    listed, inside = set(), ""
    for line in between(README, "rooms").splitlines():
        deep, names = line.startswith("      "), re.split(r" {3,}", line.strip())[0].split("  ")
        inside = inside if deep else ""
        listed |= {inside + name.rstrip("/") for name in names}
        inside = names[0] if not deep and names[0] == "metapers/" else inside
    there = {name for name in listed if (ROOT / name).exists() or (ROOT / f"{name}.py").exists()}
    assert listed == there, f"not there: {sorted(listed - there)}"
    package = ROOT / "metapers"
    rooms = {f"metapers/{path.parent.name}" for path in package.glob("*/__init__.py")}
    rooms |= {f"metapers/{path.stem}" for path in package.glob("*.py") if path.stem not in NO_SOURCE}
    rooms |= {"train.py", "eval.py", "configs", "metapers", "tests", "notebooks", "benchmarks", "docs"}
    assert listed == rooms, f"in one only: {sorted(listed ^ rooms)}"


def shipped_keys() -> set[tuple[str, str]]:
    """(key, default as it is written) of every source and every model."""
    pairs = [(source, name) for source in assembly.SOURCES for name in assembly.MODELS]
    return {(key, repr(value)) for pair in pairs for key, value in configs.leaves(assembly.config_for(*pair))}


def test_every_config_key_is_described_with_its_default():
    text = (ROOT / "docs" / "configs.md").read_text()
    told = {(key, value) for key, value in re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", text, re.MULTILINE)}
    known = shipped_keys()
    # point and linear have no options: their names stand in the heading, as those of their rows would
    known -= {("model.name", repr(name)) for name in ("linear", "point") if f"`{name}`" in text}
    assert known - told == set(), "missing in docs/configs.md"
    assert told - known == set(), "docs/configs.md tells of what is not so"


def test_operational_keys_are_all_told():
    text = (ROOT / "docs" / "configs.md").read_text()
    (told,) = re.findall(r"\*\*Operational keys\*\*.*?: ?\n?\n?((?:`\w+`(?:, ?\n?)?)+)\.", text, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", told)) == set(configs.OPERATIONAL)


def test_commands_and_keys_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z][a-z-]*[a-z])(?=`| PYTHON| {2})", README))
    assert {"demo", "test"} <= named <= targets, named - targets
    known = {key for key, _ in shipped_keys()}
    keys_named = set(re.findall(r"--(?:config\.|sweep=)([\w.]+)=", README)) - {"KEY"}
    assert keys_named and keys_named <= known, keys_named - known


def test_python_of_the_readme_runs_on_a_finished_run(request):
    try:
        folder = request.getfixturevalue("small_run")
    except pytest.FixtureLookupError:
        pytest.skip("there is no fixture small_run, a finished run, in conftest.py")
    source = "\n".join(blocks(ROOT / "README.md", "on a finished run")).replace("runs/demo", str(folder))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    steps = [float(value) for value in re.findall(r"'rmse': ([\d.]+)", done.stdout)]
    interval = re.search(r"Interval\(mean=([\d.]+), low=([\d.]+), high=([\d.]+)\)", done.stdout)
    assert len(steps) == 2 and steps[0] != steps[1], done.stdout
    assert interval and float(interval[2]) <= float(interval[1]) <= float(interval[3])


def test_the_penalty_of_the_readme_pulls_to_the_running_average():
    drift = member(ROOT / "README.md", "penalty")["drift"]
    penalty, start = drift(3.0, keep=0.75), Params({"w": jnp.array([1.0, 2.0])}, {"b": jnp.array(4.0)}, {})
    state = penalty.init(start)
    assert float(penalty.value(state, start)) == 0.0
    moved = Params({"w": jnp.array([5.0, 2.0])}, {"b": jnp.array(4.0)}, {})
    state = penalty.observe(state, start, moved, start)
    assert state.average.shared["w"].tolist() == [2.0, 2.0]  # 0.75 * 1 + 0.25 * 5
    assert float(penalty.value(state, moved)) == 13.5  # 3 / 2 * (5 - 2)^2
    slope = jax.grad(penalty.value, argnums=1)(state, moved)
    assert slope.shared["w"].tolist() == [9.0, 0.0]
    with pytest.raises(ValueError, match="strength must be >= 0, got -1.0"):
        drift(-1.0)
    with pytest.raises(ValueError, match=r"keep must be in \[0, 1\], got 1.5"):
        drift(1.0, keep=1.5)


def test_the_learner_of_the_docs_has_maml_at_one_end():
    both_ends = member(ROOT / "docs" / "adding_members.md", "learner")["both_ends"]
    options = dict(aggregator=aggregate.mean())

    def moved(learner) -> Params:
        tasks, mask = world.tasks(0)
        state = learner.init(table.MODEL.init(keys.root(0)), tasks)
        return learner.params(learner.update(state, tasks, mask, keys.root(1))[0])

    def at(share: float) -> Params:
        return moved(both_ends(table.LOSS, table.loop(), optax.sgd(0.1), share=share, **options))

    assert world.distance(at(0.0), moved(learners.maml(table.LOSS, table.loop(), optax.sgd(0.1), **options))) < 1e-12
    halfway = jax.tree.map(lambda a, b: (a + b) / 2, at(0.0), at(1.0))  # sgd is linear in the gradient
    assert world.distance(at(0.5), halfway) < 1e-12 < world.distance(at(0.0), at(1.0))


def test_the_source_of_the_docs_is_a_stream():
    rooms = member(ROOT / "docs" / "adding_members.md", "source")["rooms"]
    stream = rooms(stages=2, users_per_stage=200, examples=10, noise=1e-6, support=4, query=3)
    tasks, mask = stream.family.sample(stream.family.data((0, 1), 0, 0), jnp.int32(0), 6, keys.root(0))
    assert tasks.support.inputs.shape == (6, 4, 2) and tasks.query.targets.shape == (6, 3) and bool(mask.all())
    cohort = stream.held_out("test", 1)
    inputs, targets = (np.asarray(x[:10], float) for x in (cohort.inputs, cohort.targets))
    weights, *_ = np.linalg.lstsq(inputs, targets, rcond=None)
    assert np.abs(inputs @ weights - targets).max() < 1e-4  # one user: a line through level and slope
    first, later = stream.held_out("test", 0).targets.mean(), cohort.targets.mean()
    assert abs(later - first - 1) < 0.5  # the mean level grows by one
    with pytest.raises(ValueError, match="examples must be >= 1, got 0"):
        rooms(examples=0)
