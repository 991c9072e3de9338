"""What README and docs say is so: links, files, layers, config keys, methods, commands, and code that runs."""

import json
import re
from pathlib import Path
from statistics import median

import pytest

from metapers.command import COMMANDS
from metapers.command.arguments import file_config
from metapers.members import registry
from metapers.options import Arms, Choice, Option
from metapers.spec import reference
from metapers.spec.methods import METHODS
from metapers.spec.root import ARM, OVERRIDES, SHIPPED_ARMS
from metapers.spec.root import ROOT as KEYS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
NO_PART = {"__init__", "__main__", "_version", "configs"}  # what the layers need not name


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
    pages = (README, ARCHITECTURE, (ROOT / "docs" / "adding_members.md").read_text())
    named = {name for text in pages for name in re.findall(r"`((?:docs|configs|tests|metapers)/[\w/.]+\.\w+)`", text)}
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert named and not missing


def modules(folder: Path) -> set[str]:
    """The packages and modules of a folder."""
    found = {path.parent.name for path in folder.glob("*/__init__.py")} | {path.stem for path in folder.glob("*.py")}
    return found - NO_PART


def section(page: str, heading: str) -> str:
    """What stands under a heading."""
    return re.split(r"^## ", page.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]


def test_every_package_and_module_stands_in_the_layers():
    drawn = section(ARCHITECTURE, "Layers").split("```mermaid")[1].split("```")[0]
    words = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"\[\"(.*?)\"\]", drawn))))
    assert modules(ROOT / "metapers") - words == set(), "missing in the layers of docs/architecture.md"
    parts = {name for line in drawn.splitlines() for name in re.findall(r"(\w+)/", line)}
    assert parts <= modules(ROOT / "metapers"), "in the layers of docs/architecture.md, but not there"


@pytest.mark.parametrize("package", ["spec", "scoring", "run", "evaluation", "serving"])
def test_every_module_of_a_package_stands_in_its_row(package):
    (row,) = re.findall(rf"^\| `{package}/` \| (.*) \|$", section(ARCHITECTURE, "Layers"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == modules(ROOT / "metapers" / package)


def test_the_reference_of_configs_is_the_one_that_the_members_make():
    told = (ROOT / "docs" / "configs.md").read_text()
    assert told == reference.markdown(), "make it again: metapers list --markdown > docs/configs.md"


def known_keys(schema=KEYS, prefix="") -> set[str]:
    """The keys that a config may have under any choice of members, sections included."""
    found = set()
    for key, one in schema.items():
        found.add(f"{prefix}{key}")
        if isinstance(one, Arms):
            inside = known_keys({**ARM, **{name: schema[name] for name in OVERRIDES}})
            found |= {f"{key}.{name}.{own}" for name in SHIPPED_ARMS for own in inside}
        elif isinstance(one, Choice):
            for name in registry(one.kind):
                inside = f"{prefix}{key}.{name}." if one.many else f"{prefix}{key}."
                found |= known_keys(registry(one.kind).options(name), inside)
        elif not isinstance(one, Option):
            found |= known_keys(one, f"{prefix}{key}.")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_of_command_lines_exist(page):
    text = page.read_text()
    shown = {name for _, name in re.findall(r'register\(\s*"(\w+)",\s*"(\w+)"', text)}  # members that the page makes
    named = {key for key in re.findall(r"--(?:config\.|sweep=)([\w.]+)=", text) if not shown & {*key.split(".")}}
    named -= {"KEY"}
    assert named <= known_keys(), named - known_keys()
    assert named or page.name != "README.md"


def test_commands_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z][a-z-]*[a-z])(?=`| PYTHON| {2})", README))
    assert {"demo", "test"} <= named <= targets, named - targets
    called = set(re.findall(r"`(?:python -m )?metapers ([a-z-]+)", README))
    assert {"train", "evaluate", "list"} <= called <= set(COMMANDS), called - set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_methods_that_are_named_behind_a_config_exist(page):
    named = set(re.findall(r"(\w+)\.py:([a-z][\w-]*)", page.read_text()))
    for stream, method in sorted(named):
        assert file_config(f"{stream}:{method}").data.name
    assert named or page.name not in ("README.md", "results.md")


def test_methods_of_the_table_of_the_readme_exist():
    rows = re.findall(r"^\| ([a-z_]+)[ -]", between(README, "family"), re.MULTILINE)
    own = {"gradient", "transformer"}  # of configs, or a backbone before the method
    assert {"maml", "lslr", "reptile_adam"} & {*rows} and {*rows} - {"method"} <= {*METHODS} | own


def run_blocks(page: Path, folder: Path) -> dict:
    """The names that the Python of a page defines on a finished run."""
    source = "\n".join(blocks(page, "on a finished run")).replace("runs/demo", str(folder))
    space: dict = {"__name__": page.stem}
    exec(compile(source, page.name, "exec"), space)
    return space


def test_python_of_the_readme_runs_on_a_finished_run(small_run, monkeypatch, capsys):
    monkeypatch.setattr("metapers.use_all_cores", lambda: 2)
    run_blocks(ROOT / "README.md", small_run)
    said = capsys.readouterr().out
    steps = [float(value) for value in re.findall(r"'rmse': ([\d.]+)", said)]
    interval = re.search(r"Interval\(mean=([\d.]+), low=([\d.]+), high=([\d.]+)\)", said)
    assert len(steps) == 2 and steps[0] != steps[1], said
    assert interval and float(interval[2]) <= float(interval[1]) <= float(interval[3])


def test_python_of_the_records_runs_on_a_finished_run(small_run, tmp_path):
    page = tmp_path / "records.md"
    text = (ROOT / "docs" / "records.md").read_text()
    page.write_text(text.replace("shots=16, steps=5", "shots=4, steps=2"))
    made = run_blocks(page, small_run)
    assert made["r"].shape == (2, 3, 3) and made["b"].shape == (2, 3)
    assert {"average", "fwt"} <= made["intervals"].keys()
