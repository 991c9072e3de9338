"""A whole training run: one program a kind of learner, resumed and stopped without loss, refused with a reason."""

import functools
import io
import json
import os
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from metapers import placement, serving, spec, store, workdir
from metapers.base import Boundary
from metapers.evaluation.evaluate_run import evaluate_run
from metapers.options import ConfigError
from metapers.run import load, loop, programs, resume, training
from metapers.run.training import train
from metapers.workdir import versions_of
from tests import runs

pytestmark = pytest.mark.xdist_group("quick runs")  # one worker compiles their programs


def quick(**changes):
    """``runs.quick`` with a penalty, so that a learner's state has every part."""
    return runs.quick(**{"penalties": {"anchor": {"strength": 0.01}}} | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A quick run that nothing interrupted: its folder and all its numbers."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        runs.share_programs(patched)
        train(quick(), folder)
    return folder, runs.numbers(folder)


@pytest.fixture
def compiled_once(monkeypatch):
    """Runs of the same numbers share the compiled programs of the first one."""
    runs.share_programs(monkeypatch)


def assert_same(folder, whole):
    assert runs.same_bits(runs.numbers(folder), whole[1]) == []
    assert runs.validation(folder) == runs.validation(whole[0])


def test_one_seed_on_two_devices_spreads_its_users(whole):
    mesh = placement.training_mesh(quick().seeds, tuple(jax.devices()))
    assert mesh is not None and mesh.axis_names == ("users",)
    assert json.loads((whole[0] / "config.json").read_text())["devices"] is None


def test_finished_runs_are_left_as_they_are(whole, monkeypatch, compiled_once):
    monkeypatch.setattr(training, "one_period", lambda *_: pytest.fail("trained again"))
    train(quick(), whole[0])
    assert_same(whole[0], whole)


class Signalled:
    """In place of ``interruptions``: SIGTERM arrives when the run asks for the n-th time."""

    def __init__(self, after, number=signal.SIGTERM):
        self.left, self.number = after, number

    def __enter__(self):
        return self.asked

    def __exit__(self, *_):
        pass

    def asked(self):
        self.left -= 1
        return self.number if self.left < 0 else 0


@pytest.mark.parametrize("after", [0, 1, 3, 5, 7, 9])
def test_an_interrupted_run_saves_and_resumes_bit_for_bit(after, whole, tmp_path, monkeypatch, compiled_once):
    with monkeypatch.context() as patched:
        patched.setattr(training, "interruptions", lambda: Signalled(after))
        with pytest.raises(resume.Interrupted, match="stopped by signal 15") as error:
            train(quick(), tmp_path)
    assert error.value.signal == signal.SIGTERM
    before = runs.same_bits(runs.numbers(tmp_path), whole[1])
    assert before != []  # it was not finished
    train(quick(), tmp_path)
    assert_same(tmp_path, whole)


def test_every_arm_counts_its_steps_from_its_beginning(tmp_path, monkeypatch, compiled_once):
    """Random draws follow that count: no period draws again what an earlier one drew."""
    begun, run, ended, build = [], loop.run, [], programs.program

    def watched(compiled, *given, period, start, stop, before=0):
        begun.append((period, before + start, before + stop))
        return run(compiled, *given, period=period, start=start, stop=stop, before=before)

    def program(run, name):
        built = build(run, name)
        consolidate = lambda *given: ended.append(int(given[-1])) or built.compiled.consolidate(*given)
        return built._replace(compiled=built.compiled._replace(consolidate=consolidate))

    monkeypatch.setattr(loop, "run", watched)
    monkeypatch.setattr(programs, "program", program)
    config = quick(data__periods=2)
    train(config, tmp_path)
    arms = spec.arms(config)
    first, second = ([arm.steps(now) for arm in arms.values()] for now in (0, 1))
    assert begun == [
        part for one, two in zip(first, second, strict=True) for part in ((0, 0, one), (1, one, one + two))
    ]
    assert ended == [config.outer_steps, 2 * config.outer_steps] and len(arms) == 2  # the joint model keeps nothing


def test_an_arm_consolidates_where_its_boundary_lies_and_resumes_there(tmp_path, monkeypatch):
    """A boundary that is asked after each chunk, and fires at every second time and where a period ends."""
    ended, fed, build = [], [], programs.program

    def ask(state, losses, mask, ends):
        count = state["count"] + 1
        fed.append((losses.shape, bool(mask.all()), float(losses.mean()), ends))
        return {"count": count, "sum": state["sum"] + losses.sum()}, bool(ends or count % 2 == 0)

    boundary = Boundary(lambda: {"count": np.int32(0), "sum": np.float64(0)}, ask, watches=True)

    def program(run, name):
        built = build(run, name)
        consolidate = lambda *given: ended.append(int(given[-1])) or built.compiled.consolidate(*given)
        return built._replace(compiled=built.compiled._replace(consolidate=consolidate))

    monkeypatch.setattr(programs.building, "boundary", lambda config: boundary)
    monkeypatch.setattr(programs, "program", program)
    config = quick(learner="joint", log_every=7)
    train(config, tmp_path / "whole")
    assert ended == [6, 7, 7 + 3, 7 + 7]  # chunks end at 3, 6 and 7; the count goes on over the end of a period
    assert [(shape, whole, ends) for shape, whole, _, ends in fed] == [
        ((3, 4), True, False),
        ((3, 4), True, False),
        ((1, 4), True, True),
    ] * 2
    (logged,) = [row["loss"] for row in runs.journal(tmp_path / "whole") if row.get("period") == 0 and "loss" in row]
    assert fed[2][2] == pytest.approx(logged)  # the losses of the last chunk, which the journal has as a mean
    for after, place in ((2, "step 6"), (3, "step 7")):
        with monkeypatch.context() as patched:
            patched.setattr(training, "interruptions", lambda after=after: Signalled(after))
            with pytest.raises(resume.Interrupted, match=f"saved at period 0, {place}"):
                train(config, tmp_path / place)
        train(config, tmp_path / place)
        assert runs.same_bits(runs.numbers(tmp_path / place), runs.numbers(tmp_path / "whole")) == []


def test_a_resume_goes_on_from_the_newest_undamaged_checkpoint(whole, tmp_path, monkeypatch, capsys, compiled_once):
    with monkeypatch.context() as patched:
        patched.setattr(training, "interruptions", lambda: Signalled(3))
        with pytest.raises(resume.Interrupted):
            train(quick(), tmp_path)
    checkpoints = tmp_path / "arms" / "continual" / "checkpoints"
    steps = store.versions(checkpoints)
    assert len(steps) == 2
    newest = max((checkpoints / str(steps[-1])).rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    newest.write_bytes(newest.read_bytes()[:-1])
    capsys.readouterr()
    train(quick(), tmp_path)
    assert f"resumed period 0 at step {steps[0]} of 7" in capsys.readouterr().out
    assert_same(tmp_path, whole)


def test_a_config_that_would_change_numbers_is_refused_with_every_key(whole):
    with pytest.raises(ValueError, match="another config") as error:
        train(quick(outer_steps=8, inner__rates__rate=0.2), whole[0])
    assert "outer_steps: 7 -> 8" in str(error.value) and "inner.rates.rate: 0.1 -> 0.2" in str(error.value)
    assert "log_every" not in str(error.value)


def test_of_many_other_keys_those_that_bring_the_others_along_come_first(whole):
    with pytest.raises(ValueError, match="another config: data.name: 'linear_gaussian' -> 'sinusoid'; ") as error:
        train(spec.config_for("sinusoid", "mlp"), whole[0])
    assert "model.name: 'linear' -> 'mlp'" in str(error.value) and str(error.value).count(" -> ") == 8
    assert re.search(r"; and \d\d more\. Resume with the same one", str(error.value))


def test_operational_keys_may_change_and_are_logged(whole, capsys, compiled_once):
    train(quick(log_every=1, checkpoint_every=100), whole[0])
    told = capsys.readouterr().out
    assert "resumed with another log_every: 3 -> 1" in told and "checkpoint_every: 3 -> 100" in told
    notes = [line["text"] for line in runs.journal(whole[0]) if line["kind"] == "note"]
    assert any("log_every: 3 -> 1" in text for text in notes)
    assert load.opened(whole[0]).log_every == 1
    train(quick(), whole[0])


def test_other_data_are_refused(whole, tmp_path):
    for name in ("config.json", "provenance.json"):
        (tmp_path / name).write_bytes((whole[0] / name).read_bytes())
    path = tmp_path / "provenance.json"
    held = json.loads(path.read_text())
    workdir.write_json(path, held | {"sha256": "0" * 64})
    with pytest.raises(ValueError, match=f"other data: SHA-256 0000000000000000… then, {held['sha256'][:16]}"):
        train(quick(), tmp_path)


OLD = {"seed": 0, "steps": 100, "users": 32, "data": {"source": "linear_gaussian"}, "learner": {"inner": "gradient"}}


@pytest.mark.parametrize("call", [lambda folder: train(quick(), folder), evaluate_run, serving.load])
def test_a_run_of_metapers_0_1_is_refused_with_the_revision_that_can_finish_it(call, tmp_path):
    workdir.write_json(tmp_path / "config.json", OLD)
    with pytest.raises(ValueError, match="written by metapers 0.1, which revision 835c679 can finish") as error:
        call(tmp_path)
    assert "\n" not in str(error.value) and "migrate-config" in str(error.value)
    assert json.loads((tmp_path / "config.json").read_text()) == OLD
    assert not (tmp_path / "provenance.json").exists() and not list(tmp_path.glob("arms/*"))


def refused(config, folder):
    """The error of a config that is refused before anything is trained, and binds no workdir."""
    with pytest.raises(ConfigError) as error:
        train(config, folder)
    assert not (folder / "config.json").exists() and not (folder / "provenance.json").exists()
    return error.value


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("arms", {"naive": {}}, "fine_tune"),
        ("model.name", "linea", "linear"),
        ("learner.name", "mamll", "maml"),
        ("inner.name", "gradien", "gradient"),
        ("inner.rates.name", "constan", "constant"),
        ("aggregator.name", "means", "mean"),
        ("memory.name", "reservoi", "reservoir"),
        ("optimizer.param.name", "adm", "adam"),
        ("data.name", "linear_gausian", "linear_gaussian"),
        ("data.drift", "suden", "sudden"),
        ("schedule.name", "cosin", "cosine"),
        ("outer_steps", -3, None),
        ("devices", 99, None),
    ],
)
def test_unknown_members_and_numbers_out_of_range_are_refused_before_anything_is_trained(key, value, hint, tmp_path):
    config = quick()
    *sections, last = key.split(".")
    functools.reduce(lambda holder, name: holder[name], sections, config)[last] = value
    error = refused(config, tmp_path)
    shown = next(iter(value)) if isinstance(value, dict) else value
    assert error.key == key and error.value in (value, shown)
    assert error.hint == (f"did you mean {hint!r}?" if hint else error.hint)
    assert error.bound.startswith({"outer_steps": "a whole number >= 1", "devices": "<= 2"}.get(key, "one of ["))


def test_an_unknown_penalty_is_refused_by_name(tmp_path):
    config = quick()
    with config.unlocked():
        config.penalties = ConfigDict({"anchr": {"strength": 1.0}})
    error = refused(config, tmp_path)
    assert (error.key, error.value, error.hint) == ("penalties", "anchr", "did you mean 'anchor'?")


def test_a_diverged_run_stops_by_name_and_its_last_good_state_loads(tmp_path, monkeypatch, compiled_once):
    program = programs.program

    def poisoned(*given):
        built = program(*given)

        def chunk(state, roots, data, step, *bounds):
            after, infos = built.compiled.chunk(state, roots, data, step, *bounds)
            bad = np.asarray(step) == 7 + 3  # of the arm: step 3 of period 1
            finite = jnp.asarray(np.asarray(infos["finite"]) & ~(bad & (np.arange(3) == 2)))
            return after, infos | {"finite": finite}

        return built._replace(compiled=built.compiled._replace(chunk=chunk))

    with monkeypatch.context() as patched, jax.transfer_guard("allow"):
        patched.setattr(programs, "program", poisoned)
        patched.setattr(loop.jax, "transfer_guard", lambda _: io.StringIO())  # the poison reads on the host
        with pytest.raises(loop.Diverged, match="continual: a loss is NaN or infinite at step 5 of period 1, seed 0"):
            train(quick(checkpoint_every=100), tmp_path)
    checkpoints = tmp_path / "arms" / "continual" / "checkpoints"
    assert store.latest_checkpoint(checkpoints) == 7 + 3
    tree, told = store.load_checkpoint(checkpoints, 10)
    assert told == {"period": 1, "step": 3, "scores": []} and store.versions(versions_of(tmp_path, "continual")) == [0]
    assert all(np.isfinite(leaf).all() for leaf in runs.flat(tree).values() if leaf.dtype.kind == "f")


def test_an_absurd_rate_diverges_with_period_and_step(tmp_path):
    config = runs.quick(arms=("fine_tune",), devices=1, inner__rates__rate=1e200, inner__steps=3)
    with pytest.raises(loop.Diverged, match=r"fine_tune: a loss is NaN or infinite at step 0 of period 0, seed 0"):
        train(config, tmp_path)
    assert store.versions(versions_of(tmp_path, "fine_tune")) == []


def test_a_second_trainer_is_refused_and_a_stale_lock_is_not_in_the_way(whole, compiled_once):
    (whole[0] / ".lock").write_text("999999\n")
    with workdir.lock(whole[0]):
        with pytest.raises(workdir.WorkdirInUse, match=f"in use by process {os.getpid()}"):
            train(quick(), whole[0])
    (whole[0] / ".lock").write_text("999999\n")
    train(quick(), whole[0])


def test_signals_set_a_mark_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with resume.interruptions() as asked:
        assert asked() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked() == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_journal_holds_scalars_and_a_validation_curve(small_run):
    lines = runs.journal(small_run)
    assert {"start", "scalars", "note", "end"} <= {line["kind"] for line in lines}
    curve = [line for line in lines if line["kind"] == "scalars" and line["name"] == "fine_tune"]
    assert [line["step"] for line in curve] == list(range(10, 121, 10))
    assert all("loss" in line and "grad_norm" in line for line in curve)
    judged = [line["step"] for line in curve if "validation/rmse" in line]
    assert judged == [20, 40, 60, 80, 100, 120]
    assert all(line["validation/rmse"] < line["validation/rmse_start"] for line in curve[-1:])
    for name in ("frozen", "fine_tune", "cumulative", "continual", "joint_model"):
        events = list((small_run / "tensorboard" / name).glob("events.out.tfevents.*"))
        assert events and all(b"validation/rmse" in path.read_bytes() for path in events)


def test_seconds_add_up_over_resumes(whole, compiled_once):
    held = json.loads((whole[0] / "seconds.json").read_text())
    assert held["train"] > held["compile"] >= 0
    train(quick(), whole[0])
    assert json.loads((whole[0] / "seconds.json").read_text())["train"] >= held["train"]


def test_a_version_tells_where_it_comes_from(small_run):
    folder = versions_of(small_run, "continual")
    records = [store.read_record(folder, number) for number in store.versions(folder)]
    for name in ("version", "boundary", "seen_until"):
        assert [record["lineage"][name] for record in records] == [0, 1, 2]
    told = records[2]["lineage"]
    assert told["parent"] == {"number": 1, "digest": records[1]["digest"]} and records[0]["lineage"]["parent"] is None
    assert told["seeds"] == [0, 1] and told["provenance"]["sha256"] and told["devices"]["count"] == 2
    assert told["libraries"]["jax"] == jax.__version__ and told["seconds"] > 0
    assert told["config"]["outer_steps"] == 40 and len(told["config_digest"]) == 64
    assert {"0", "1", "2", "-1"} == told["scores"]["adapted"].keys()
