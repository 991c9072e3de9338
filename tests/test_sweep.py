"""A sweep: members that differ in what the state carries are one program, and are what training alone gives."""

import json
import signal

import jax
import numpy as np
import pytest

from metapers import store
from metapers.scoring import curves as evaluate
from metapers.run import loop as stage
from metapers.spec import building as assembly
from metapers.evaluation import evaluate_run as judging
from metapers.scoring import scorer as scoring
from metapers.run import search as sweep
from metapers.run.resume import Interrupted
from metapers.run.training import train
from tests import runs


def options(**changes):
    return runs.quick(**{"seeds": 2, "devices": 1, "learner__rates": "learned", "steps": 4} | changes)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("learner.inner_rate=0.1,1", ("learner.inner_rate", (0.1, 1.0))),
        ("steps=3,5", ("steps", (3, 5))),
        ("learner.name=maml,reptile", ("learner.name", ("maml", "reptile"))),
        ("continual.penalty=('anchor',),('anchor','ewc')", ("continual.penalty", (("anchor",), ("anchor", "ewc")))),
    ],
)
def test_specs_are_read_as_values_of_the_keys_type(spec, expected):
    assert sweep.parse(runs.small(), spec) == expected


def test_only_what_the_state_carries_is_grouped():
    config = runs.small(learner__rates="learned")
    combinations = [
        {"optimizer.param.rate": rate, "learner.inner_rate": inner, "learner.inner_steps": steps}
        for rate in (0.1, 0.2)
        for inner in (0.3, 0.4)
        for steps in (1, 2)
    ]
    assert [len(group) for group in sweep.grouped(config, combinations)] == [4, 4]
    fixed = runs.small(learner__rates="fixed")
    assert [len(group) for group in sweep.grouped(fixed, combinations)] == [2, 2, 2, 2]


def test_an_inner_rate_that_no_state_carries_is_not_grouped():
    for changes in ({"learner__inner": "optimized"}, {"learner__inner": "implicit"}, {"learner__name": "joint"}):
        assert not sweep.in_state(runs.small(learner__rates="learned", **changes), "learner.inner_rate")
    assert sweep.in_state(runs.small(learner__rates="learned"), "learner.inner_rate")


def test_members_of_one_program_are_what_training_them_alone_gives(tmp_path, monkeypatch):
    chunks = []
    build = stage.program

    def counted(*given, **named):
        compiled = build(*given, **named)
        return compiled._replace(chunk=lambda *arguments: chunks.append(id(compiled)) or compiled.chunk(*arguments))

    config = options()
    with monkeypatch.context() as patched:
        patched.setattr(stage, "program", counted)
        best = sweep.run(config, ["optimizer.personal.rate=0.02,0.2", "learner.inner_rate=0.05,0.3"], tmp_path)
    assert len(set(chunks)) == 1 and len(chunks) == 2 * 2  # two stages of two chunks for all four
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert len(told["rows"]) == 4 and told["strategy"] == "continual"
    assert [row["rmse"] for row in told["rows"]] == sorted(row["rmse"] for row in told["rows"])
    assert len({row["rmse"] for row in told["rows"]}) == 4
    assert best == {key: told["rows"][0][key] for key in ("optimizer.personal.rate", "learner.inner_rate")}

    row = next(r for r in told["rows"] if r["optimizer.personal.rate"] == 0.2 and r["learner.inner_rate"] == 0.3)
    alone = options(optimizer__personal__rate=0.2, learner__inner_rate=0.3)
    train(alone, tmp_path / "alone")
    versions = scoring.versions_of(tmp_path / "alone", "continual")
    params, _ = store.load_version(versions, 1)
    parts = assembly.parts(alone)
    lived = jax.tree.map(np.asarray, sweep.lived(parts, [alone], "continual"))
    for name, leaf in runs.flat(lived).items():
        kept = params["params"]
        for part in name.split("/"):
            kept = kept[part]
        np.testing.assert_allclose(leaf, kept, atol=1e-10)
    _, values = scoring.scorer(parts).life(lived, "continual")
    np.testing.assert_allclose(row["over_seeds"], values[1], rtol=1e-9)
    np.testing.assert_allclose(row["rmse_start"], values[0].mean(), rtol=1e-9)


def test_members_of_other_shapes_are_trained_one_after_the_other(tmp_path, capsys):
    assert sweep.run(options(seeds=1), ["learner.inner_steps=1,2"], tmp_path).keys() == {"learner.inner_steps"}
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert sorted(row["learner.inner_steps"] for row in told["rows"]) == [1, 2]
    out = capsys.readouterr().out
    assert "learner.inner_steps" in out and "validation users" in out and f"sweep: {tmp_path / 'sweep.json'}" in out
    assert not list(tmp_path.rglob("test*"))  # test users were not looked at
    with pytest.raises(FileNotFoundError, match="it holds a sweep .*train the best one into a workdir of its own"):
        judging.judge(tmp_path)


def test_the_same_sweep_goes_on_and_another_is_refused(tmp_path, monkeypatch):
    trained, lived = [], sweep.lived

    def counted(parts, members, *given):
        trained.append([one.learner.inner_steps for one in members])
        if trained == [[1], [2]]:
            raise Interrupted("stopped by signal 2", 2)  # in the middle of the second
        return lived(parts, members, *given)

    monkeypatch.setattr(sweep, "lived", counted)
    spec = ["learner.inner_steps=1,2", "continual.penalty=('anchor',),"]
    with pytest.raises(Interrupted):
        sweep.run(options(seeds=1), spec, tmp_path)
    (kept,) = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    best = sweep.run(options(seeds=1), spec, tmp_path)
    assert trained == [[1], [2], [2]] and best["continual.penalty"] == ("anchor",)
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert len(rows) == 2 and kept in rows
    sweep.run(options(seeds=1), spec, tmp_path)  # all is there
    assert len(trained) == 3
    for other in ((options(seeds=1, steps=5), spec), (options(seeds=1), ["learner.inner_steps=1,2,3", spec[1]])):
        with pytest.raises(ValueError, match="the workdir of a sweep must hold no other sweep"):
            sweep.run(*other, tmp_path)
    assert rows == json.loads((tmp_path / "sweep.json").read_text())["rows"]


def test_a_signal_ends_a_sweep_and_what_ended_is_kept(tmp_path):
    arguments = ["--config=configs/synthetic.py", f"--workdir={tmp_path}", "--sweep=learner.inner_steps=1,2,3"]
    arguments += ["--config.steps=200000", "--config.chunk=10", "--config.seeds=1", "--config.data.stages=1"]
    with runs.child("train.py", *arguments) as process:
        try:
            told = iter(process.stdout.readline, "")
            assert "sweep 0/3 (0%), 0 s, ETA ? reading, compiling\n" in told
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert err.startswith("stopped by signal 15: what ended is in sweep.json\nto go on:  ") and "--sweep" in err


def test_who_diverges_comes_last_and_takes_nobody_along(tmp_path, capsys):
    best = sweep.run(options(seeds=1), ["optimizer.personal.rate=0.002,1e300"], tmp_path)
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert best == {"optimizer.personal.rate": 0.002} and len(rows) == 2
    assert rows[1] == {
        **{"optimizer.personal.rate": 1e300, "rmse": None, "rmse_start": None, "over_seeds": None, "rank_by": None}
    }
    alone = sweep.run(options(seeds=1), ["optimizer.personal.rate=0.002"], tmp_path / "alone")
    kept = json.loads((tmp_path / "alone" / "sweep.json").read_text())["rows"]
    assert alone == best and rows[0]["rmse"] == pytest.approx(kept[0]["rmse"], rel=1e-9)
    out = capsys.readouterr().out
    assert "diverged" in out and "optimizer.personal.rate=1e+300: a loss is NaN or infinite" in out
    with pytest.raises(ValueError, match="sweep must hold a combination whose training does not diverge, got none"):
        sweep.run(options(seeds=1), ["optimizer.personal.rate=1e300"], tmp_path / "none")


def test_scores_that_are_not_finite_are_as_divergence(tmp_path, monkeypatch):
    scorer = scoring.scorer

    def failing(parts):
        made = scorer(parts)
        run = lambda params, cohort, start: made.own(params, cohort, start)

        def own(params, cohort, start):
            if parts.config.seeds > 1 or parts.config.optimizer.personal.rate == 0.5:
                raise evaluate.NotFinite("rmse must be finite, got inf")
            return run(params, cohort, start)

        return made._replace(own=own)

    monkeypatch.setattr(scoring, "scorer", failing)
    assert sweep.run(options(seeds=1), ["optimizer.personal.rate=0.5,0.002"], tmp_path) == {
        "optimizer.personal.rate": 0.002
    }
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert [row["rmse"] is None for row in rows] == [False, True]


def test_keys_that_the_strategy_does_not_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match="strategy 'naive' reads, got 'continual.capacity', of continual alone"):
        sweep.run(options(strategies=("naive",)), ["continual.capacity=8,16"], tmp_path)


def test_text_with_a_bracket_is_text():
    assert sweep.parse(runs.small(), "start_from=/a(1)/b,/c") == ("start_from", ("/a(1)/b", "/c"))


def test_a_sweep_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "lived", lambda *given: pytest.fail("trained"))
    with pytest.raises(ValueError, match="sweep must name a key once, got 'steps' twice"):
        sweep.run(options(), ["steps=1,2", "steps=3"], tmp_path / "new")
    with pytest.raises(ValueError, match="learner.least_move must be > 0 with learner.keep 'if_it_moves', got 0.0"):
        sweep.run(options(), ["learner.keep=always,if_it_moves"], tmp_path / "new")  # the second of two
    assert not (tmp_path / "new").exists()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="the workdir of a sweep must hold no run"):
        sweep.run(options(), ["steps=1,2"], tmp_path)
