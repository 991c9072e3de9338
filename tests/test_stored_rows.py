"""Stored rows of held-out users: training never adapts test users, evaluation does, and warns where rows are worse."""

import json
import shutil

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from metapers import held_out
from metapers.evaluation import choices
from metapers.evaluation import evaluate_run as evaluation
from metapers.report import report_of
from metapers.run import load, setup
from metapers.run.training import train
from metapers.scoring import records
from metapers.scoring import scorer as scoring
from metapers.tasks.splits import split_of, user_hash
from tests import runs

pytestmark = pytest.mark.xdist_group("small run")


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """Evaluations of the same grid share their compiled programs."""
    runs.share_programs(monkeypatch)


def test_training_never_looks_at_test_users(monkeypatch, tmp_path):
    build, asked = setup.components, []

    def components(config):
        made = build(config)

        def refusing(split, period):
            asked.append(split)
            assert split == "validation", "training looks at test users"
            return made.stream.held_out(split, period)

        return made._replace(stream=made.stream._replace(held_out=refusing))

    monkeypatch.setattr(setup, "components", components)
    train(runs.quick(seed=5), tmp_path)
    assert set(asked) == {"validation"}


def test_the_bank_of_a_version_holds_training_users_alone(small_run):
    names = scoring.scorer(setup.components(load.opened(small_run))).components.stream.users
    training = np.array([split_of(name, 0) == "train" for name in names])
    assert 0 < training.sum() < training.size
    found = {name: leaf for name, leaf in runs.numbers(small_run).items() if name.endswith("bank/period")}
    assert len(found) == 3 * 5
    for stamps in found.values():
        assert (stamps[:, ~training] < 0).all() and (stamps[:, training] >= 0).any()


@pytest.mark.parametrize("name", ["fine_tune", "continual"])
def test_stored_rows_are_those_of_the_last_period_in_which_a_user_was_there(name, small_run):
    scorer = scoring.scorer(setup.components(load.opened(small_run)))
    stream, rows = scorer.components.stream, {}
    table = records.read_file(small_run / "records" / "test.parquet")
    banked = table.filter((pc.field("arm") == name) & (pc.field("start") == "banked") & (pc.field("metric") == "rmse"))
    told = {(r["seed"], r["period"], r["user"], r["shots"], r["steps"]): r["value"] for r in banked.to_pylist()}
    seen = 0
    for period in range(3):
        params, cohort = load.load_params(small_run, name, period), stream.held_out("test", period)
        back = [place for place, user in enumerate(cohort.users) if user in rows]
        if back:
            start = jax.tree.map(lambda *each: np.stack(each, axis=1), *(rows[cohort.users[place]] for place in back))
            found = scorer.curves(params, name, held_out.take(cohort, np.array(back)), start).scores["rmse"]
            for at in np.ndindex(found.shape):
                seed, user, shots, steps = at
                whose = user_hash(stream.users[cohort.users[back[user]]])
                key = (seed, period, whose, scorer.shots[shots], scorer.steps[steps])
                assert told[key] == pytest.approx(found[at], rel=1e-9)
                seen += 1
        personal = scorer.adapted(params, name, cohort)
        for place, user in enumerate(cohort.users):
            rows[user] = jax.tree.map(lambda leaf, at=place: leaf[:, at], personal)
    assert seen == len(told) > 0


def test_without_a_bank_nobody_starts_from_a_row(small_run):
    scorer = scoring.scorer(setup.components(load.opened(small_run)))
    for config, name in (({"bank": False}, "continual"), ({}, "joint_model")):
        made = scorer.components.config.copy_and_resolve_references()
        made.update(config)
        one = scorer._replace(components=scorer.components._replace(config=made))
        rows = evaluation.Rows(one, name, "test")
        for period in range(3):
            assert list(rows.returned(load.load_params(small_run, name, period), period, None)) == []
            rows.adapt(load.load_params(small_run, name, period), period)


def gain(mean, low, high):
    return {"mean": mean, "low": low, "high": high}


def test_a_sentence_for_each_period_whose_rows_are_worse():
    rows = [
        {"period": 1, "users": 30, "gain": gain(-0.02, -0.03, -0.01)},
        {"period": 2, "users": 30, "gain": gain(0.02, 0.01, 0.03)},
        {"period": 3, "users": 12, "gain": gain(-0.01, -0.03, 0.01)},
        {"period": 4, "users": 1, "gain": gain(-0.5, -0.5, -0.5)},
        {"period": 5, "users": 12, "gain": gain(0.0, -0.01, 0.01)},
    ]
    said = list(choices.worse_rows({"banked": rows}))
    start = "the stored rows of {} returning users are worse than a fresh start by {} on average"
    assert said == [
        f"period 1: {start.format(30, '0.0200')} (its interval excludes zero).",
        f"period 3: {start.format(12, '0.0100')} (its interval includes zero).",
        f"period 4: {start.format(1, '0.5000')} (one user has no interval).",
    ]


@pytest.mark.parametrize("worse", [0.7, -0.7])
def test_worse_rows_are_in_the_terminal_and_in_the_report_and_better_ones_are_not(
    worse, small_run, tmp_path, monkeypatch
):
    runs.without_pictures(monkeypatch)
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    table = records.read_file(folder / "records" / "test.parquet")
    banked = pc.equal(table["start"], "banked")
    moved = pc.if_else(banked, pc.add(table["value"], worse), table["value"])
    table = table.set_column(table.schema.get_field_index("value"), "value", moved.combine_chunks())
    records.write_records(folder / "records" / "test.parquet", pa.table(table, schema=records.SCHEMA))
    scorer, said = scoring.scorer(setup.components(load.opened(folder))), []
    told = evaluation.summarised(
        folder, scorer, table, {}, {"train": 1.0, "evaluate": 1.0, "compile": 0.0}, said.append
    )
    sentences = list(choices.worse_rows(json.loads((folder / "summary.json").read_text())))
    assert len(sentences) == (len(told["banked"]) if worse > 0 else 0) and told["banked"]
    page = report_of(folder).read_text()
    for line in sentences:
        assert f"\n{line}" in said and page.count(line) == 2  # in the verdict, and beside the rows
    if worse < 0:
        assert not any("worse than a fresh start" in text for text in (*said, page))
