"""The figures that are shown are the figures that were kept, and what configs and README name is there."""

import json
import pathlib
import re

import pytest

from benchmarks import results

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_readme_shows_the_kept_figures():
    kept = json.loads((ROOT / "benchmarks" / "results" / "figures.json").read_text())
    shown = (ROOT / "README.md").read_text().split("<!-- figures:begin -->\n")[1].split("\n<!-- figures:end -->")[0]
    assert shown == results.block(kept["movielens"], kept["synthetic"])
    assert all(row["holds"] for row in kept["verdicts"]) and len(kept["verdicts"]) >= 15


@pytest.mark.parametrize("path", [*sorted((ROOT / "configs").glob("*.py")), ROOT / "README.md"], ids=lambda p: p.name)
def test_evidence_that_is_named_is_kept(path):
    for named in re.findall(r"benchmarks/[\w/]+\.\w+", path.read_text()):
        assert (ROOT / named).is_file(), named
