"""The figures that are shown are the figures that were recorded, and what configs and README name is there."""

import json
import pathlib
import re
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from benchmarks import picture, results
from metapers import spec, workdir
from metapers.evaluation import study
from metapers.scoring.records import write_records
from tests.test_report import ARMS, BUDGET, OFFSETS, SEEDS, records, told
from tests.test_spec_overrides import applied

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_readme_shows_the_kept_figures():
    kept = json.loads((ROOT / "benchmarks" / "results" / "figures.json").read_text())
    shown = (ROOT / "README.md").read_text().split("<!-- figures:begin -->\n")[1].split("\n<!-- figures:end -->")[0]
    assert shown == kept["readme"]
    assert len(kept["verdicts"]) >= 15
    for row in kept["verdicts"]:
        assert (f"\n- {row['what']}" in shown) != row["holds"]


def test_the_picture_shows_the_kept_figures():
    kept = json.loads((ROOT / "benchmarks" / "results" / "figures.json").read_text())
    with Image.open(ROOT / "docs" / "picture.png") as shown:
        assert shown.info["figures"] == picture.told(kept["movielens"])


def test_the_block_names_both_bounds_and_what_the_arms_were_trained_with():
    found = told(oracle=False, arms=(*ARMS, "upper_bound"))[0]
    gain = {"mean": -0.02, "low": -0.03, "high": -0.01}
    found |= {"used": 4, "unused": {"item_user_bias": gain, "joint_model_fine_tuned": gain}}
    found["budget"] = {name: BUDGET | {"user_tasks": 1000.0 * (place + 1)} for place, name in enumerate(results.ARMS)}
    whole = results.block(found, {"sudden": found})
    lines = whole[: whole.index("\nThe project asks ")].splitlines()
    average = {name: row["average"] for name, row in found["continual"].items()}
    for stream in ("MovieLens", "sudden drift"):
        for place, name in enumerate(results.ARMS):
            (line,) = [one for one in lines if one.startswith(f"| {stream}: {name} |")]
            _, _, *cells, _ = [cell.strip() for cell in line.split("|")]
            closed = ""
            if name in results.BOUNDS:
                closed = f"{found['gap']['to'][name]['closed']:.0%}"
            first = found["continual"][name].get("forgetting_first")
            forgot = "" if first is None else f"{first:+.4f}"
            assert cells == [f"{average[name]:.4f}", forgot, f"{1000 * (place + 1):,}", closed]
    text = " ".join(lines)
    assert "by more than 0.05: 100.0% [100.0%, 100.0%] of users are better, 0.0% [0.0%, 0.0%] are worse" in text
    assert "the matched bound" in text and text.count("upper bound") == 1
    rows = {what: (holds, shown) for what, holds, shown in results.verdicts(found, {"sudden": found})}
    for name, called in results.BOUNDS.items():
        holds, shown = rows[f"sudden drift: continual closes >= 80% of the gap to {name}, the {called}"]
        assert holds == (found["gap"]["to"][name]["closed"] >= 0.8) and shown.startswith(
            f"{found['gap']['to'][name]['closed']:.0%}, gap +"
        )
    holds, shown = rows["at most 35 % of users worse than unadapted by more than 0.05"]
    assert holds and shown == "0.0%"


def test_every_run_of_the_figures_trains_both_bounds(tmp_path):
    for run in [one for runs in results.runs_of(tmp_path, [0, 3], ["--config.seeds=1"]) for one in runs]:
        (given,) = [word for word in run.overrides if word.startswith("--config.arms=")]
        assert set(spec.arms(applied(given))) - {"joint_model"} == set(results.ARMS)


@pytest.mark.parametrize("path", [*sorted((ROOT / "configs").glob("*.py")), ROOT / "README.md"], ids=lambda p: p.name)
def test_evidence_that_is_named_is_kept(path):
    for named in re.findall(r"benchmarks/[\w/]+\.\w+", path.read_text()):
        assert (ROOT / named).is_file(), named


def two_periods():
    """The config of the records of ``tests.test_report``, with two periods."""
    config = spec.config_for("movielens", "recommender")
    config.seeds, config.data.periods, config.evaluation.bootstrap = SEEDS, 2, 200
    return config


@pytest.mark.parametrize("joint", [True, False])
def test_users_on_whom_hyper_parameters_were_chosen_are_left_out_of_the_second_difference(joint):
    table = records(periods=2, oracle=False, folds=(0,), arms=ARMS, bias=0.1)
    arm, split = (np.asarray(table[name]) for name in ("arm", "split"))
    test = table.filter(pa.array((split == "test") & ((arm != "joint_model") | joint)))
    users = sorted(set(test["user"].to_pylist()))
    chosen = test.filter(pa.array(np.isin(np.asarray(test["user"]), users[:4])))  # as validation users of another fold
    config = two_periods()
    head = {"metric": "rmse", "shots": 16, "steps": 5, "arm": "continual"}
    found = study.without_validation_users(test, chosen, config, {"headline": head})
    assert found["used"] == 4 and set(found["unused"]) == {
        "item_user_bias",
        *(["joint_model_fine_tuned"] if joint else []),
    }
    whole = study.without_validation_users(test, chosen.slice(0, 0), config, {"headline": head})
    assert whole["used"] == 0 and whole["unused"] != found["unused"]
    gap = whole["unused"]["item_user_bias"]["mean"]  # adapted falls by 0.02 a step and fourth root of the shots
    assert gap == pytest.approx(-0.2 - OFFSETS["item_user_bias"], abs=0.1)


@pytest.fixture
def commands(monkeypatch):
    """The commands of a study without the program's name, and their options; none is run."""
    called = []

    def run(command, **options):
        assert command[:3] == [sys.executable, "-m", "metapers"]
        called.append((command[3:], options))

    monkeypatch.setattr(study, "subprocess", SimpleNamespace(run=run))
    return called


def test_a_finished_run_is_compared_with_its_config_and_not_evaluated_again(tmp_path, commands):
    run = study.Run("row", "configs/wisdm.py:anil", tmp_path, ("--config.seeds=2",))
    (tmp_path / "summary.json").write_text("{}")
    assert study.finish(run, root=ROOT) == (tmp_path, {}, 0.0)
    ((command, options),) = commands  # which refuses another config
    assert command == ["train", "--config=configs/wisdm.py:anil", f"--workdir={tmp_path}", "--config.seeds=2"]
    assert options == {"cwd": ROOT, "check": True}
    commands.clear()
    (tmp_path / "summary.json").unlink()
    with pytest.raises(FileNotFoundError):
        study.finish(run)
    assert [command[0] for command, _ in commands] == ["train", "evaluate"]


def test_a_run_that_begins_with_a_version_finishes_the_run_that_leaves_it_first(tmp_path, commands):
    first = study.Run("features", "omniglot:prototypes", tmp_path / "a")
    second = study.Run(
        "row", "omniglot:ridge", tmp_path / "b", ("--config.seeds=2",), study.Start(first, "fine_tune", 3)
    )
    for folder, seconds in (("a", 7.0), ("b", 2.0)):
        workdir.write_json(workdir.open_workdir(tmp_path / folder) / "summary.json", {"seconds": {"train": seconds}})
    lines = []
    found = study.finish(second, say=lines.append)
    assert found.folder == tmp_path / "b" and found.summary["seconds"]["train"] == 2.0 and found.seconds_before == 7.0
    version = tmp_path / "a" / "arms" / "fine_tune" / "versions" / "3"
    assert [command[1] for command, _ in commands] == ["--config=omniglot:prototypes", "--config=omniglot:ridge"]
    assert commands[1][0][3:] == [f"--config.start_from={version}", "--config.seeds=2"]
    assert [line.partition(":")[0] for line in lines] == ["features", "row"]


@pytest.mark.parametrize("transductive", [True, False])
def test_folds_are_pooled_with_their_users_and_their_seconds(tmp_path, monkeypatch, transductive):
    config = two_periods()
    finished = []
    for fold in (0, 1):
        folder = workdir.open_workdir(tmp_path / str(fold))
        whole = records(periods=2, oracle=False, folds=(fold,), arms=ARMS, bias=0.1)
        split = np.asarray(whole["split"])
        write_records(folder / "records" / "test.parquet", whole.filter(pa.array(split == "test")))
        write_records(
            folder / "records" / "validation-fine_tune-1.parquet", whole.filter(pa.array(split == "validation"))
        )
        workdir.write_json(folder / "config.json", spec.plain(config))
        made = {"seconds": {"train": 1.0, "evaluate": 2.0, "compile": 3.0}, "provenance": {"fold": fold}}
        made |= {"budget": {"fine_tune": {"user_tasks": 10.0 * (fold + 1), "seconds": 2.0}}}
        finished.append(study.Finished(folder, made | {"transductive": transductive and fold == 1}))
    found = study.pooled(finished)
    assert found.summary["folds"] == [0, 1] and found.summary["seconds"] == {
        "train": 2.0,
        "evaluate": 4.0,
        "compile": 6.0,
    }
    assert found.summary["provenance"] == [{"fold": 0}, {"fold": 1}]
    assert found.summary["budget"] == {"fine_tune": {"user_tasks": 15.0, "seconds": 2.0}}
    assert found.summary["transductive"] is transductive
    users = set(found.test["user"].to_pylist())
    assert found.summary["users"]["test"] == len(users) and set(found.test["split"].to_pylist()) == {"test"}
    assert {"used", "unused"} <= set(found.summary) and spec.plain(found.config) == spec.plain(config)
