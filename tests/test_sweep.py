"""A sweep: members that differ in what the state carries are one program, and are what training alone gives."""

import contextlib
import functools
import io
import json
import signal
from typing import Any

import jax
import numpy as np
import pytest

from metapers import spec, store
from metapers.evaluation.evaluate_run import evaluate_run
from metapers.members import registry
from metapers.options import ConfigError
from metapers.run import candidates, loop, search
from metapers.run.resume import Interrupted
from metapers.run.training import train
from metapers.scoring import curves as scored_curves
from metapers.scoring import scorer as scoring
from metapers.spec.tree import binding
from metapers.workdir import versions_of
from tests import runs

pytestmark = pytest.mark.xdist_group("sweep")


def options(**changes):
    return runs.quick(**{"seeds": 2, "devices": 1, "inner__rates": "meta_sgd", "outer_steps": 4} | changes)


_PROGRAMS: dict[tuple[Any, ...], Any] = {}


def share(patched):
    """Lets searches that differ in the fold and in values that the state carries use the same compiled programs."""
    build, program, scorer, configs = search.build_learner, loop.program, scoring.scorer, {}

    def once(config, what, make):
        alike = spec.merged(config, {"data.fold": 0, "outer_steps": 4, "optimizer.personal.rate": 0.002})
        key = (store.digest(binding(alike)), what)
        if key not in _PROGRAMS:
            _PROGRAMS[key] = make()
        return _PROGRAMS[key]

    def learner_of(config, model, mesh):
        made = build(config, model, mesh)
        configs[made] = config
        return made

    def program_of(learner, family, *, chunk, **given):
        make = functools.partial(program, learner, family, chunk=chunk, **given)
        # 1: its init, of own values
        return make() if chunk == 1 else once(configs[learner], (chunk, given["mesh"]), make)

    def scorer_of(components):
        made = once(components.config, "scorer", lambda: scorer(components))
        return made._replace(components=components)

    patched.setattr(search, "build_learner", learner_of)
    patched.setattr(loop, "program", program_of)
    patched.setattr(scoring, "scorer", scorer_of)


@pytest.fixture
def shared(monkeypatch):
    share(monkeypatch)


def rows_of(folder):
    return json.loads((folder / "sweep.json").read_text())["rows"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inner.rates.rate=0.1,1", ("inner.rates.rate", (0.1, 1.0))),
        ("outer_steps=3,5", ("outer_steps", (3, 5))),
        ("learner.name=maml,reptile", ("learner.name", ("maml", "reptile"))),
        ("penalties=('anchor',),('anchor','ewc')", ("penalties", (("anchor",), ("anchor", "ewc")))),
        ("inner=gradient,implicit", ("inner", ("gradient", "implicit"))),
    ],
)
def test_specs_are_read_as_values_of_the_keys_type(text, expected):
    assert search.parse(runs.small(), text) == expected


def test_only_what_the_state_carries_is_grouped():
    config = runs.small(inner__rates="meta_sgd")
    combinations = [
        {"optimizer.param.rate": rate, "inner.rates.rate": inner, "inner.steps": steps}
        for rate in (0.1, 0.2)
        for inner in (0.3, 0.4)
        for steps in (1, 2)
    ]
    assert [len(group) for group in search.grouped(config, combinations)] == [4, 4]
    constant = runs.small(inner__rates="constant")
    assert [len(group) for group in search.grouped(constant, combinations)] == [2, 2, 2, 2]


def test_an_inner_rate_that_no_state_carries_is_not_grouped():
    for inner in ("optimized", "implicit"):
        assert not search.in_state(runs.small(inner=inner), "inner.optimizer.rate")
    assert not search.in_state(runs.small(inner__rates="meta_sgd", learner="joint"), "inner.rates.rate")
    assert search.in_state(runs.small(inner__rates="meta_sgd"), "inner.rates.rate")


def test_members_of_one_program_are_what_training_them_alone_gives(tmp_path, monkeypatch):
    chunks, found = [], []
    build, learned = loop.program, search.learned

    def counted(*given, **named):
        compiled = build(*given, **named)
        return compiled._replace(chunk=lambda *arguments: chunks.append(id(compiled)) or compiled.chunk(*arguments))

    config = options()
    with monkeypatch.context() as patched:
        patched.setattr(loop, "program", counted)
        patched.setattr(search, "learned", lambda *given: found.append(learned(*given)) or found[-1])
        best = search.run(config, ["optimizer.personal.rate=0.02,0.2", "inner.rates.rate=0.05,0.3"], tmp_path)
    assert len(set(chunks)) == 1 and len(chunks) == 2 * 2  # two periods of two chunks for all four
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert len(told["rows"]) == 4 and told["arm"] == "continual"
    assert [row["rmse"] for row in told["rows"]] == sorted(row["rmse"] for row in told["rows"])
    assert len({row["rmse"] for row in told["rows"]}) == 4
    assert best == {key: told["rows"][0][key] for key in ("optimizer.personal.rate", "inner.rates.rate")}

    place = 3  # the last of the grid
    row = next(r for r in told["rows"] if r["optimizer.personal.rate"] == 0.2 and r["inner.rates.rate"] == 0.3)
    train(options(optimizer__personal__rate=0.2, inner__rates__rate=0.3, bank=False), tmp_path / "alone")
    kept = runs.flat(store.load_version(versions_of(tmp_path / "alone", "continual"), 1)[0]["params"])
    (learned,) = found
    for name, leaf in runs.flat(learned).items():
        np.testing.assert_allclose(leaf[2 * place : 2 * place + 2], kept[name], atol=1e-10)
    told = [
        one for one in runs.validation(tmp_path / "alone")["validation-continual-1.parquet"] if one["metric"] == "rmse"
    ]
    for key, steps in (("rmse", 1), ("rmse_start", 0)):
        lives = [one for one in told if (one["period"], one["steps"]) == (-1, steps)]
        values = [np.mean([one["value"] for one in lives if one["seed"] == seed]) for seed in range(2)]
        np.testing.assert_allclose(row[key], np.mean(values), rtol=1e-9)
        if steps:
            np.testing.assert_allclose(row["over_seeds"], values, rtol=1e-9)


def test_members_of_other_shapes_are_trained_one_by_one_and_the_same_sweep_goes_on(tmp_path, monkeypatch, capsys):
    trained, learned = [], search.learned

    def counted(components, members, *given):
        trained.append([one.inner.steps for one in members])
        if trained == [[1], [2]]:
            raise Interrupted("stopped by signal 2", 2)  # in the middle of the second
        return learned(components, members, *given)

    monkeypatch.setattr(search, "learned", counted)
    config = options(seeds=1, penalties={"anchor": {"strength": 1.0}})
    specs = ["inner.steps=1,2", "penalties=('anchor',),", "penalties.anchor.strength=0.01"]
    with pytest.raises(Interrupted):
        search.run(config, specs, tmp_path)
    (kept,) = rows_of(tmp_path)
    best = search.run(config, specs, tmp_path)
    assert best.keys() == {"inner.steps", "penalties", "penalties.anchor.strength"}
    assert trained == [[1], [2], [2]] and best["penalties"] == ("anchor",)
    rows = rows_of(tmp_path)
    assert sorted(row["inner.steps"] for row in rows) == [1, 2] and kept in rows
    out = capsys.readouterr().out
    assert "inner.steps" in out and "validation users" in out and f"sweep: {tmp_path / 'sweep.json'}" in out
    assert not list(tmp_path.rglob("test*"))  # test users were not looked at
    search.run(config, specs, tmp_path)  # all is there
    assert len(trained) == 3
    for other in ((spec.merged(config, {"outer_steps": 5}), specs), (config, ["inner.steps=1,2,3", *specs[1:]])):
        with pytest.raises(ValueError, match="the workdir of a sweep must hold no other sweep"):
            search.run(*other, tmp_path)
    assert rows == rows_of(tmp_path)
    with pytest.raises(FileNotFoundError, match="it holds a search .*train the best one into a workdir of its own"):
        evaluate_run(tmp_path)


def test_a_signal_ends_a_sweep_and_what_ended_is_kept(tmp_path):
    arguments = ["--config=configs/synthetic.py", f"--workdir={tmp_path}", "--sweep=inner.steps=1,2,3"]
    arguments += ["--config.outer_steps=200000", "--config.chunk=10", "--config.seeds=1", "--config.data.periods=1"]
    arguments += ["--config.arms=fine_tune,"]
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


@pytest.fixture(scope="module")
def diverging(tmp_path_factory):
    """A sweep of which one combination diverges: its folder, the best, and what it said."""
    folder, said = tmp_path_factory.mktemp("diverging"), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(said):
        share(patched)
        best = search.run(options(seeds=1), ["optimizer.personal.rate=0.002,1e300"], folder)
    return folder, best, said.getvalue()


def test_a_combination_that_diverges_comes_last_and_stops_no_other(diverging, tmp_path):
    folder, best, out = diverging
    rows = rows_of(folder)
    assert best == {"optimizer.personal.rate": 0.002} and len(rows) == 2
    assert rows[1] == {
        **{"optimizer.personal.rate": 1e300, "rmse": None, "rmse_start": None, "over_seeds": None, "rank_by": None}
    }
    assert "diverged" in out and "optimizer.personal.rate=1e+300: a loss is NaN or infinite" in out
    told = json.loads((folder / "sweep.json").read_text())
    told |= {"grid": {"optimizer.personal.rate": [1e300]}, "rows": rows[1:]}  # a sweep of this one alone
    (tmp_path / "sweep.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="sweep must hold a combination whose training does not diverge, got none"):
        search.run(options(seeds=1), ["optimizer.personal.rate=1e300"], tmp_path)


def test_scores_that_are_not_finite_are_as_divergence(tmp_path, monkeypatch, shared):
    scorer = scoring.scorer

    def failing(components):
        made = scorer(components)
        run = lambda params, cohort, start: made.own(params, cohort, start)

        def own(params, cohort, start):
            if components.config.seeds > 1 or components.config.optimizer.personal.rate == 0.5:
                raise scored_curves.NotFinite("rmse must be finite, got inf")
            return run(params, cohort, start)

        return made._replace(own=own)

    def untrained(components, members, *given):
        first = scorer(components).initial()
        return jax.tree.map(lambda leaf: np.concatenate([leaf] * len(members)), first)

    monkeypatch.setattr(scoring, "scorer", failing)
    monkeypatch.setattr(search, "learned", untrained)
    assert search.run(options(seeds=1), ["optimizer.personal.rate=0.5,0.002"], tmp_path) == {
        "optimizer.personal.rate": 0.002
    }
    assert [row["rmse"] is None for row in rows_of(tmp_path)] == [False, True]


def test_keys_that_the_arm_does_not_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match="arm 'fine_tune' reads, got 'memory.capacity', which does not change it"):
        search.run(options(arms=("fine_tune",)), ["memory.capacity=8,16"], tmp_path)
    own = options(arms={"er": {"memory": {"capacity": 4}}, "zebra": {"memory": {"capacity": 4}}})
    with pytest.raises(ValueError, match="arm 'zebra' reads, got 'arms.er.memory.capacity', which does not change it"):
        search.run(own, ["memory.replay_batch=2,3", "arms.er.memory.capacity=8,16"], tmp_path)


def test_text_with_a_bracket_is_text():
    assert search.parse(runs.small(), "start_from=/a(1)/b,/c") == ("start_from", ("/a(1)/b", "/c"))


def test_a_sweep_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "learned", lambda *given: pytest.fail("trained"))
    with pytest.raises(ValueError, match="sweep must name a key once, got 'outer_steps' twice"):
        search.run(options(), ["outer_steps=1,2", "outer_steps=3"], tmp_path / "new")
    with pytest.raises(ConfigError) as error:
        search.run(options(), ["gate=none,min_shift"], tmp_path / "new")  # the second of two
    assert (error.value.key, error.value.value) == ("gate.least", None)
    monkeypatch.setitem(registry("boundary")._members, "other", registry("boundary")["calendar"])
    with pytest.raises(ConfigError, match="boundary must be 'calendar' in a sweep, got 'other'"):
        search.run(options(), ["boundary=calendar,other"], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="the workdir of a sweep must hold no run"):
        search.run(options(), ["outer_steps=1,2"], tmp_path)


# Candidates on validation users of all folds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shipped:", candidates.Candidate("shipped")),
        ("wide: meta_batch=64", candidates.Candidate("wide", {"meta_batch": "64"})),
        ("a: config=gradient, arm=fine_tune", candidates.Candidate("a", {}, "fine_tune", "gradient")),
        (
            "b: penalties=ewc,anchor, penalties.ewc.strength=2, evaluation.steps=(0,1)",
            candidates.Candidate(
                "b", {"penalties": "ewc,anchor", "penalties.ewc.strength": "2", "evaluation.steps": "(0,1)"}
            ),
        ),
    ],
)
def test_a_candidate_is_read_from_its_text(text, expected):
    assert candidates.parse(text) == expected


def test_a_candidate_without_a_value_is_refused():
    with pytest.raises(ConfigError) as error:
        candidates.parse("wide: meta_batch")
    assert (error.value.key, error.value.value) == ("candidate", "meta_batch")


def test_a_candidate_is_scored_on_the_validation_users_of_every_fold(monkeypatch, shared):
    config, asked, trained = options(seeds=1), [], []
    on_fold, learned = candidates.on_fold, search.learned

    def get_config(method):
        asked.append(method)
        return config

    def counted(components, members, name):
        trained.append((components.config.data.fold, components.config.outer_steps, name))
        return learned(components, members, name)

    monkeypatch.setattr(candidates.search, "learned", counted)
    found = []
    monkeypatch.setattr(candidates, "on_fold", lambda *given: found.append(on_fold(*given)) or found[-1])
    candidate = candidates.Candidate("short", {"outer_steps": "3"}, method="other")
    row = candidates.evaluate(candidate, get_config, (0, 3))
    assert trained == [(0, 3, "continual"), (3, 3, "continual")] and asked == ["other", "other", None]
    whole = [one.values[one.periods == candidates.WHOLE] for one in found]
    assert all(len(one) for one in whole) and len(whole[0]) != 0
    values = np.concatenate(whole)
    assert row.users == pytest.approx(values[:, 1].mean()) and row.users_start == pytest.approx(values[:, 0].mean())
    assert row.worse == pytest.approx(np.mean(values[:, 1] > values[:, 0] + 1e-6))
    periods = [np.concatenate([one.values[one.periods == period] for one in found])[:, 1].mean() for period in range(2)]
    assert row.periods == pytest.approx(np.mean(periods))


def test_the_score_of_a_candidate_is_that_of_the_search_and_of_its_arm(diverging, shared):
    config, given = options(seeds=1), {"optimizer.personal.rate": "0.002"}
    row = candidates.evaluate(candidates.parse("slow: optimizer.personal.rate=0.002"), lambda _: config)
    kept = rows_of(diverging[0])[0]  # trained alone, once another had diverged beside it
    assert row.users == pytest.approx(kept["rmse"], rel=1e-9)
    assert row.users_start == pytest.approx(kept["rmse_start"], rel=1e-9)
    assert row != candidates.evaluate(candidates.Candidate("frozen", given, arm="frozen"), lambda _: config)


def test_a_candidate_that_diverges(shared):
    with pytest.raises(candidates.FAILED):
        candidates.evaluate(
            candidates.Candidate("fast", {"optimizer.personal.rate": "1e300"}), lambda _: options(seeds=1)
        )


def test_a_larger_score_is_better_where_the_metric_says_so():
    found = candidates.Scores(np.array([[0.5, 0.4], [0.5, 0.6], [0.5, 0.6]]), np.array([0, -1, -1]))
    assert candidates.row(found, larger_is_better=True).worse == 0.0
    assert candidates.row(found, larger_is_better=False).worse == 1.0
