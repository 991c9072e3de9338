"""An evaluation: records, ledger of test uses, pictures, report; parts of it on request."""

import contextlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from metapers import spec, store
from metapers.evaluation import choices, printing, summary
from metapers.evaluation import evaluate_run as evaluation
from metapers.evaluation.evaluate_run import evaluate_run
from metapers.journal import meter
from metapers.members import registry
from metapers.report import report_of, words
from metapers.run import load, setup
from metapers.scoring import records
from metapers.scoring import scorer as scoring
from metapers.spec.inner_loops import tuning_grid
from metapers.workdir import TUNED, versions_of
from tests import runs

pytestmark = pytest.mark.xdist_group("small run")

ARMS = ("frozen", "fine_tune", "cumulative", "continual")


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """Evaluations of the same grid share their compiled programs."""
    runs.share_programs(monkeypatch)


@pytest.fixture(scope="module")
def copy(small_run, tmp_path_factory):
    """A copy of the small run that may be written."""
    folder = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(small_run, folder)
    return folder


def uses(folder):
    return [json.loads(line) for line in (folder / "test_uses.jsonl").read_text().splitlines()]


def test_the_records_hold_every_version_every_shot_every_step_and_the_baselines(small_run):
    rows = records.read_file(small_run / "records" / "test.parquet").to_pylist()
    assert {row["arm"] for row in rows} == {
        *ARMS,
        "joint_model",
        "global_mean",
        "user_mean",
        "user_last",
        "user_ewma",
        "ridge_residual",
        "nearest",
        "oracle",
    }
    for name in ARMS:
        mine = [row for row in rows if row["arm"] == name and row["start"] == "fresh"]
        assert {row["version"] for row in mine} == {-1, 0, 1, 2}
        assert {row["period"] for row in mine} == {-1, 0, 1, 2}
        assert {(row["shots"], row["steps"]) for row in mine} == {(k, s) for k in (1, 4) for s in (0, 1, 2)}
        assert {row["seed"] for row in mine} == {0, 1} and {row["split"] for row in mine} == {"test"}
    assert {row["start"] for row in rows if row["arm"] == "fine_tune"} == {"fresh", "banked"}
    assert all(row["returning"] for row in rows if row["start"] == "banked")


def test_a_run_without_a_versions_validation_records_is_refused_before_anybody_is_judged(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    lost = tmp_path / "run" / "records" / "validation-fine_tune-1.parquet"
    before = uses(tmp_path / "run")
    lost.unlink()
    with pytest.raises(
        FileNotFoundError, match=f"{lost} is missing, which training writes with version 1 of fine_tune"
    ):
        evaluate_run(tmp_path / "run")
    assert uses(tmp_path / "run") == before


def test_the_initialisation_is_the_same_for_all_and_a_static_model_never_changes(small_run):
    rows = records.read_file(small_run / "records" / "test.parquet").to_pylist()

    def values(name, trained):
        return [
            (row["user"], row["period"], row["shots"], row["steps"], row["metric"], row["seed"], row["value"])
            for row in rows
            if row["arm"] == name and row["version"] == trained and row["start"] == "fresh"
        ]

    assert values("fine_tune", -1) == values("continual", -1) != values("fine_tune", 0)
    assert values("frozen", 0) == values("frozen", 2) == values("fine_tune", 0)


def test_the_oracle_is_below_everything(small_run):
    told = json.loads((small_run / "summary.json").read_text())
    assert all(row["mean"] > 0 for row in told["regret"].values())
    assert told["headline"]["baselines"]["oracle"]["difference"] == pytest.approx(told["regret"]["continual"]["mean"])


def test_a_share_of_the_gap_is_told_only_where_there_is_one(small_run):
    gap = json.loads((small_run / "summary.json").read_text())["gap"]
    to = gap["to"]["cumulative"]
    assert gap["to"].keys() == {"cumulative"} and gap["arm"] == "continual"
    way = to["to_close"]
    assert (to["closed"] is None) == (way["low"] <= 0)
    if to["closed"] is not None:
        assert to["closed"] == pytest.approx(gap["gain_over_fine_tune"]["mean"] / way["mean"])


def test_validation_users_choose_and_test_users_judge(small_run):
    test = {row["user"] for row in records.read_file(small_run / "records" / "test.parquet").to_pylist()}
    chosen = {row["user"] for rows in runs.validation(small_run).values() for row in rows}
    assert test and chosen and not test & chosen


def test_a_part_of_a_run_on_request_leaves_the_summary_alone_and_is_logged(copy):
    before, lines = (copy / "summary.json").read_text(), len(uses(copy))
    said = []
    told = evaluate_run(copy, arm="fine_tune", version=-1, steps=(0, 2), shots=(1,), say=said.append)
    assert told is None and (copy / "summary.json").read_text() == before
    rows = records.read_file(copy / "looks" / "test-fine_tune--1-shots-1-steps-0-2.parquet").to_pylist()
    assert {row["arm"] for row in rows} >= {"fine_tune", "user_mean"} and "frozen" not in {r["arm"] for r in rows}
    rows = [row for row in rows if row["arm"] == "fine_tune"]
    assert {row["version"] for row in rows} == {2}
    assert {row["steps"] for row in rows} == {0, 2} and {row["shots"] for row in rows} == {1, 4}
    # the run's own records stay whole: nobody stands in them twice
    where = {"arm": "fine_tune", "split": "test", "shots": 4, "steps": 0, "start": "fresh"}
    records.per_user(records.read_records(copy / "records"), "rmse", version=2, period=-1, **where)
    assert "rmse on test users' whole lives" in said[0] and "fine_tune" in said[0]
    assert len(uses(copy)) == lines + 1
    assert uses(copy)[-1]["arm"] == "fine_tune" and uses(copy)[-1]["version"] == -1


@pytest.mark.parametrize("grid", [{"shots": (1,)}, {"steps": (0, 3)}])
def test_another_grid_is_a_look_and_leaves_the_run_as_it_was(copy, grid):
    names = ("records/test.parquet", "summary.json", "report.html")
    kept, tuned = {name: (copy / name).read_bytes() for name in names}, (copy / TUNED).read_text()
    (copy / TUNED).write_text("{}")  # what the look chooses on its own grid is not what serving tunes at
    assert evaluate_run(copy, **grid, say=lambda text: None) is None
    assert {name: (copy / name).read_bytes() for name in names} == kept
    assert (copy / TUNED).read_text() == "{}"
    (copy / TUNED).write_text(tuned)
    name, asked = next(iter(grid.items()))
    rows = records.read_file(copy / "looks" / f"test-all-all-{name}-{'-'.join(map(str, asked))}.parquet").to_pylist()
    assert {row[name] for row in rows if row["arm"] == "fine_tune"} >= set(asked)


def test_a_look_at_hundreds_of_steps_has_a_file(copy):
    steps = tuple(range(120))
    assert evaluate_run(copy, arm="fine_tune", version=1, steps=steps, say=lambda text: None) is None
    (path,) = (copy / "looks").glob("test-fine_tune-1-steps-0-to-119-*.parquet")
    assert {row["steps"] for row in records.read_file(path).to_pylist()} == {*steps}


def test_a_run_that_has_lost_a_version_names_it(copy):
    lost = versions_of(copy, "fine_tune") / "1"
    lines = len(uses(copy))
    lost.rename(copy / "aside")
    try:
        with pytest.raises(
            FileNotFoundError, match=r"fine_tune/versions must hold versions \[0, 1, 2\], got \[0, 2\] without \[1\]"
        ):
            evaluate_run(copy)
        assert evaluate_run(copy, arm="fine_tune", say=lambda text: None) is None  # a part of it can be judged
        last, tuned = versions_of(copy, "joint_model") / "2", (copy / TUNED).read_text()
        (copy / TUNED).write_text("{}")
        last.rename(copy / "last")
        evaluate_run(copy, arm="joint_model", say=lambda text: None)  # whose rate is that of an earlier period
        assert (copy / TUNED).read_text() == "{}"
        (copy / "last").rename(last)
        evaluate_run(copy, arm="joint_model", say=lambda text: None)
        assert json.loads((copy / TUNED).read_text()) == json.loads(tuned)
    finally:
        (copy / "aside").rename(lost)
    assert len(uses(copy)) == lines + 3


def test_a_look_at_validation_users_is_no_use_of_the_test_users(copy):
    lines = len(uses(copy))
    said = []
    assert evaluate_run(copy, split="validation", say=said.append) is None
    assert len(uses(copy)) == lines and "validation users' whole lives" in said[0]


def test_judging_twice_gives_the_same_summary(copy):
    before = json.loads((copy / "summary.json").read_text())
    after = evaluate_run(copy, say=lambda text: None)
    assert {k: v for k, v in before.items() if k != "seconds"} == {
        k: v for k, v in json.loads(json.dumps(after)).items() if k != "seconds"
    }


def test_a_first_evaluation_is_one_use_and_writes_report_and_pictures(small_run):
    assert len(uses(small_run)) >= 1 and uses(small_run)[0]["arm"] is None
    assert (small_run / "report.html").stat().st_size > 10_000
    pictures = list(small_run.rglob("*.png"))
    assert pictures and all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_users_who_diverged_are_counted_once_each_and_told(small_run):
    table, config = records.read_file(small_run / "records" / "test.parquet"), load.opened(small_run)
    first, second = sorted({row["user"] for row in table.to_pylist()})[:2]
    lost = {(first, 4, 2), (second, 1, 1)}  # (user, shots, steps), in every seed; the headline is (4, 2)
    rows = [
        row | {"metric": "diverged", "value": float((row["user"], row["shots"], row["steps"]) in lost)}
        for row in table.to_pylist()
        if (row["arm"], row["start"], row["period"], row["metric"]) == ("continual", "fresh", -1, "rmse")
    ]

    def told(rows):
        parts = [table, evaluation.validation_records(small_run), pa.Table.from_pylist(rows, table.schema)]
        return summary.summarise(pa.concat_tables(parts), config, provenance=[{}], seconds={}, periods=3)

    found, clean = told(rows), told([])
    assert found["diverged"] == {"headline": 1, "anywhere": 2} and clean["diverged"] == {"headline": 0, "anywhere": 0}
    assert found["headline"] == clean["headline"] and found["short"] == clean["short"]
    assert "1 users and periods diverged at 4 examples and 2 steps, 2 at some shots and steps" in printing.text(found)
    assert "1 users and periods at the headline and 2 at some" in " ".join(words.verdict(found, spec.plain(config)))
    assert "diverged" not in printing.text(clean)


def test_a_damaged_version_is_refused_by_name(copy):
    versions = versions_of(copy, "frozen")
    path = next(path for path in (versions / "0").rglob("*") if path.is_file() and path.stat().st_size)
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    try:
        with pytest.raises(store.CorruptVersion, match=path.name):
            evaluate_run(copy, arm="frozen", say=lambda text: None)
    finally:
        path.write_bytes(whole)


def test_an_unfinished_run_is_told_how_to_go_on(tmp_path, small_run):
    (tmp_path / "config.json").write_bytes((small_run / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match="frozen.* holds no finished version; train.py goes on there"):
        evaluate_run(tmp_path)


def test_what_has_no_inner_loop_is_tuned_at_the_value_that_is_best_for_validation_users(small_run):
    config = load.opened(small_run)
    scorer, grid = scoring.scorer(setup.components(config)), tuning_grid(config)
    name, judges = "joint_model", scorer.components.stream.held_out("validation", None)
    params = load.load_params(small_run, name, 2)
    # headline shots and steps are the last of the small config
    means = [scorer.curves(params, name, judges, rate=rate).scores["rmse"][..., -1, -1].mean() for rate in grid]
    best = grid[means.index(min(means))]
    assert evaluation.tuning_rate(small_run, scorer, name) == best != grid[0] and max(means) > 1.01 * min(means)
    assert evaluation.tuning_rate(small_run, scorer, "continual") is None


def test_progress_counts_every_version_and_every_rate_that_is_tried_and_ends_when_all_is_done(
    small_run, monkeypatch, tmp_path
):
    counted, notes = [], []

    @contextlib.contextmanager
    def counting(total, **told):
        counted.append(total)
        yield SimpleNamespace(waiting=str, advance=lambda amount, note="": notes.append((amount, note)))

    monkeypatch.setattr(evaluation, "meter", counting)
    config = load.opened(small_run)
    scorer = scoring.scorer(setup.components(config))
    found = evaluation.existing(small_run, config, None, None)
    with records.Writer(tmp_path / "test.parquet") as written:
        evaluation.scored(small_run, scorer, found, "test", False, written, keep=False)
    assert sum(amount for amount, _ in notes) == counted[0]
    tried = [note for _, note in notes if "tuned at" in note]
    assert len(tried) == len(tuning_grid(config)) and all(note.startswith("joint_model, tuned at") for note in tried)


def test_a_choice_at_the_edge_of_what_was_tried_is_in_the_summary_the_report_and_the_terminal(
    small_run, copy, monkeypatch
):
    runs.without_pictures(monkeypatch)
    scorer = scoring.scorer(setup.components(load.opened(copy)))
    table, said = records.read_file(copy / "records" / "test.parquet"), []
    chosen = {
        "joint_model": {"rate": choices.of(3.0, (1.0, 3.0))},
        "user_mean": {"shrink": choices.of(0.0, (0.0, 1.0), bound=0.0)},
    }
    evaluation.summarised(copy, scorer, table, chosen, {"train": 1.0, "evaluate": 1.0, "compile": 0.0}, said.append)
    edge = "joint_model: rate 3 is the largest of the values tried (1, 3). A value beyond it may be better."
    assert f"\n{edge}" in said and not any("user_mean: shrink" in line for line in said)
    assert json.loads((copy / "summary.json").read_text())["chosen"] == chosen
    assert edge in report_of(copy).read_text()


def test_what_validation_users_chose_is_in_the_summary(small_run):
    chosen = json.loads((small_run / "summary.json").read_text())["chosen"]
    assert chosen["joint_model"]["rate"]["value"] in chosen["joint_model"]["rate"]["tried"]
    assert json.loads((small_run / TUNED).read_text()) == {"joint_model": chosen["joint_model"]["rate"]["value"]}
    assert chosen["user_mean"]["shrink"]["tried"] == list(registry("baseline")["user_mean"].options["shrink"].grid)
    assert (
        chosen["user_ewma"].keys() == {"rate", "shrink", "rate by period", "shrink by period"}
        and "global_mean" not in chosen
    )


def test_the_rate_with_the_best_reported_score_is_chosen_also_where_a_user_diverges(small_run, monkeypatch):
    scorer = scoring.scorer(setup.components(load.opened(small_run)))
    params = load.load_params(small_run, "joint_model", 2)
    found = scorer.tuned_headline(scorer.ready(params, "joint_model"), scorer.components.stream.held_out("test", None))
    grid = (0.1, 0.2, 0.3)
    better = iter((3.0, 1.0, 2.0))

    def trial(params, cohort):
        rmse = np.full_like(found.scores["rmse"], next(better))
        return found._replace(scores={"rmse": rmse, "diverged": (rmse == 1.0).astype(float)})

    monkeypatch.setattr(evaluation, "tuning_grid", lambda config: grid)
    assert evaluation.tuning_rate(small_run, scorer._replace(tuned_headline=trial), "joint_model") == 0.2


def test_users_are_judged_and_banked_as_many_at_a_time_as_training_holds(small_run, monkeypatch):
    given, blocks, adaptation = [], [], scoring.adaptation
    monkeypatch.setattr(scoring.scored_curves, "curves", lambda *args, **options: given.append(options["users"]))
    monkeypatch.setattr(
        scoring, "adaptation", lambda *args, **options: blocks.append(options["block"]) or adaptation(*args, **options)
    )
    config = spec.merged(load.opened(small_run), {"user_block": 3})
    scoring.scorer(setup.components(config))
    assert given == [3] * 4
    assert blocks == [3, 3]  # for adapting and for tuning; the bank takes the same


def test_versions_of_equal_parameters_are_scored_once_and_recorded_each(small_run, monkeypatch):
    scorer, scored = scoring.scorer(setup.components(load.opened(small_run))), []
    curves = scoring.Scorer.curves
    monkeypatch.setattr(scoring.Scorer, "curves", lambda *args: scored.append(args[4] is None) or curves(*args))
    with meter(9, title="", shown=False) as progress:
        tables = list(evaluation.of_arm(small_run, scorer, "frozen", [0, 1, 2], "test", None, progress))
    assert scored == [True, False, False]  # the version once, and the stored rows of two periods
    fresh = [one for one in tables if set(one["start"].to_pylist()) == {"fresh"}]
    assert [(one["version"][0].as_py(), one["seen_until"][0].as_py()) for one in fresh] == [(0, 0), (1, 0), (2, 0)]
    cohort = scoring.everyone(scorer.components.stream, "test")
    alone = scorer.table(load.load_params(small_run, "frozen", 2), "frozen", cohort, split="test", version=2)
    assert fresh[2].equals(alone)
    scored.clear()
    with meter(9, title="", shown=False) as progress:
        list(evaluation.of_arm(small_run, scorer, "continual", [0, 1, 2], "test", None, progress))
    assert scored == [True, True, False, True, False]


def test_records_a_few_users_at_a_time_are_those_of_all_and_give_the_same_summary(small_run, monkeypatch, tmp_path):
    scorer = scoring.scorer(setup.components(load.opened(small_run)))
    cohort, columns = scoring.everyone(scorer.components.stream, "test"), ["metric", "seed", "user", "period"]
    found = scorer.curves(load.load_params(small_run, "continual", 2), "continual", cohort)
    about = {"split": "test", "version": 2}
    (whole,) = scorer.blocks(found, "continual", cohort, **about)
    monkeypatch.setattr(records, "USERS", 5)
    parts = list(scorer.blocks(found, "continual", cohort, **about))
    assert len(parts) == -(-len(cohort.users) // 5) > 2
    order = [(name, "ascending") for name in (*columns, "shots", "steps")]
    assert pa.concat_tables(parts).sort_by(order).equals(whole.sort_by(order))
    asked = summary.needed(load.opened(small_run))
    with records.Writer(tmp_path / "some.parquet", asked) as written:
        written.write(parts)
    assert records.read_file(tmp_path / "some.parquet").sort_by(order).equals(whole.sort_by(order))
    texts = written.kept().cast(records.SCHEMA)  # as they are in the file, not as numbers of a list of texts
    assert texts.sort_by(order).equals(whole.filter(asked).sort_by(order))
    assert 0 < written.kept().num_rows < whole.num_rows / 3
    assert records.read_file(tmp_path / "some.parquet", asked).num_rows == written.kept().num_rows
