"""The figures that are shown are the figures that were kept, and what configs and README name is there."""

import json
import pathlib
import re

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from benchmarks import picture, results
from metapers.spec import defaults
from tests.test_report import OFFSETS, SEEDS, STRATEGIES, records

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_readme_shows_the_kept_figures():
    kept = json.loads((ROOT / "benchmarks" / "results" / "figures.json").read_text())
    shown = (ROOT / "README.md").read_text().split("<!-- figures:begin -->\n")[1].split("\n<!-- figures:end -->")[0]
    assert shown == results.block(kept["movielens"], kept["synthetic"])
    assert all(row["holds"] for row in kept["verdicts"]) and len(kept["verdicts"]) >= 15


def test_the_picture_shows_the_kept_figures():
    kept = json.loads((ROOT / "benchmarks" / "results" / "figures.json").read_text())
    with Image.open(ROOT / "docs" / "picture.png") as shown:
        assert shown.info["figures"] == picture.told(kept["movielens"])


@pytest.mark.parametrize("path", [*sorted((ROOT / "configs").glob("*.py")), ROOT / "README.md"], ids=lambda p: p.name)
def test_evidence_that_is_named_is_kept(path):
    for named in re.findall(r"benchmarks/[\w/]+\.\w+", path.read_text()):
        assert (ROOT / named).is_file(), named


@pytest.mark.parametrize("joint", [True, False])
def test_users_by_whom_hyper_parameters_were_chosen_are_left_out_of_the_second_difference(joint):
    table = records(stages=2, oracle=False, folds=(0,), strategies=STRATEGIES, bias=0.1)
    strategy, split = (np.asarray(table[name]) for name in ("strategy", "split"))
    test = table.filter(pa.array((split == "test") & ((strategy != "joint") | joint)))
    users = sorted(set(test["user"].to_pylist()))
    chosen = test.filter(pa.array(np.isin(np.asarray(test["user"]), users[:4])))  # as validation users of another fold
    config = defaults.default({"source": "movielens", "stages": 2}, {"name": "linear"})
    config.seeds = SEEDS
    head = {"metric": "rmse", "shots": 16, "steps": 5, "strategy": "continual"}
    found = results.unused(test, chosen, config, {"headline": head})
    assert found["used"] == 4 and set(found["unused"]) == {"item_user_bias", *(["joint_fine_tuned"] if joint else [])}
    whole = results.unused(test, chosen.slice(0, 0), config, {"headline": head})
    assert whole["used"] == 0 and whole["unused"] != found["unused"]
    gap = whole["unused"]["item_user_bias"]["mean"]  # adapted falls by 0.02 a step and fourth root of the shots
    assert gap == pytest.approx(-0.2 - OFFSETS["item_user_bias"], abs=0.1)


def test_a_finished_run_is_held_against_the_config_that_is_asked_for_and_not_judged_again(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(results.subprocess, "run", lambda command, **options: called.append((command[1:], options)))
    (tmp_path / "summary.json").write_text("{}")
    assert results.run("row", "configs/wisdm.py:anil", tmp_path, ["--config.seeds=2"]) == {}
    ((command, options),) = called  # which refuses another config
    assert command == ["train.py", "--config=configs/wisdm.py:anil", f"--workdir={tmp_path}", "--config.seeds=2"]
    assert options["check"]
    called.clear()
    (tmp_path / "summary.json").unlink()
    with pytest.raises(FileNotFoundError):
        results.run("row", "configs/wisdm.py:anil", tmp_path, [])
    assert [command[0] for command, _ in called] == ["train.py", "eval.py"]
