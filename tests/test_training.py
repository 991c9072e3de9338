"""A whole training run: one program a kind of learner, resumed and stopped without loss, refused with a reason."""

import io
import json
import os
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import store, workdir
from metapers.run import loop as stage
from metapers.experiment import config_for
from metapers.spec import building as assembly
from metapers.evaluation import evaluate_run as judging
from metapers.run import resume as resuming
from metapers.scoring import scorer as scoring
from metapers.run import search as sweep
from metapers.run import training
from metapers.run.training import train
from metapers.journal import Journal, meter
from tests import runs
from tests.contracts import world


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A quick run that nothing interrupted: its folder and all its numbers."""
    folder = tmp_path_factory.mktemp("whole")
    train(runs.quick(), folder)
    return folder, runs.numbers(folder)


def assert_same(folder, whole):
    assert runs.same_bits(runs.numbers(folder), whole[1]) == []
    assert runs.validation(folder) == runs.validation(whole[0])


class Watch:
    """Counts what a run compiles and calls, stage by stage."""

    def __init__(self, monkeypatch):
        self.programs: list[stage.Program] = []
        self.calls = 0
        self.by_stage: dict[tuple[str, int], int] = {}
        build, live_one, put = stage.program, training.one_stage, training._put
        monkeypatch.setattr(stage, "program", lambda *given, **options: self.watched(build(*given, **options)))
        monkeypatch.setattr(training, "_put", self.counted(put))

        def one_stage(run, name, now, before):
            begun = self.calls
            kept = live_one(run, name, now, before)
            self.by_stage[name, now] = self.calls - begun
            return kept

        monkeypatch.setattr(training, "one_stage", one_stage)

    def counted(self, function):
        def call(*arguments):
            self.calls += 1
            return function(*arguments)

        return call

    def watched(self, compiled):
        self.programs.append(compiled)
        names = ("init", "renew", "chunk", "consolidate")
        return compiled._replace(**{name: self.counted(getattr(compiled, name)) for name in names})


def test_a_kind_of_learner_compiles_once_for_the_whole_stream_and_a_stage_is_few_dispatches(monkeypatch, tmp_path):
    watch = Watch(monkeypatch)
    config = runs.quick(strategies=("static", "naive", "joint_so_far", "continual"), data__stages=3)
    train(config, tmp_path)
    # static, naive and joint_so_far are one program; continual, with its penalty and memory, and joint are others
    assert len(watch.programs) == 3
    for compiled in watch.programs:
        assert compiled.chunk._cache_size() == compiled.init._cache_size() == 1
        assert compiled.consolidate._cache_size() <= 1 and compiled.renew._cache_size() == 1
    chunks = -(-config.steps // config.chunk)
    trained = {key: calls for key, calls in watch.by_stage.items() if key[0] != "static" or key[1] == 0}
    assert len(trained) == 1 + 3 + 3 + 3 + 3
    assert all(chunks < calls <= chunks + 5 for calls in trained.values()), trained


def lived(**changes):
    config = runs.quick(**changes)
    parts = assembly.parts(config)
    return jax.tree.map(np.asarray, sweep.lived(parts, [config], "continual"))


@pytest.mark.parametrize("users_or_seeds", ["seeds", "users"])
def test_two_devices_are_one_device_and_seeds_are_single_seeds(users_or_seeds):
    options = {"learner__rates": "log", "steps": 4}
    if users_or_seeds == "users":
        assert world.distance(lived(devices=2, **options), lived(devices=1, **options)) < 1e-10
        return
    two = lived(seeds=2, devices=2, **options)
    for seed in range(2):
        alone = lived(seed=seed, devices=1, **options)
        assert world.distance(jax.tree.map(lambda leaf, seed=seed: leaf[seed : seed + 1], two), alone) < 1e-10


def test_one_seed_on_two_devices_spreads_its_users(whole):
    config = runs.quick()
    mesh = assembly.mesh_for(config, tuple(jax.devices()))
    assert mesh is not None and mesh.axis_names == ("users",)
    assert json.loads((whole[0] / "config.json").read_text())["devices"] == 0


def test_finished_runs_are_left_as_they_are(whole, monkeypatch):
    monkeypatch.setattr(training, "one_stage", lambda *_: pytest.fail("trained again"))
    train(runs.quick(), whole[0])
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
def test_an_interrupted_run_saves_and_resumes_bit_for_bit(after, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(training, "interruptions", lambda: Signalled(after))
        with pytest.raises(resuming.Interrupted, match="stopped by signal 15") as error:
            train(runs.quick(), tmp_path)
    assert error.value.signal == signal.SIGTERM
    before = runs.same_bits(runs.numbers(tmp_path), whole[1])
    assert before != []  # it was not finished
    train(runs.quick(), tmp_path)
    assert_same(tmp_path, whole)


def test_a_resume_goes_on_from_the_newest_undamaged_checkpoint(whole, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(training, "interruptions", lambda: Signalled(3))
        with pytest.raises(resuming.Interrupted):
            train(runs.quick(), tmp_path)
    checkpoints = tmp_path / "strategies" / "continual" / "checkpoints"
    steps = store.versions(checkpoints)
    assert len(steps) == 2
    newest = max((checkpoints / str(steps[-1])).rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    newest.write_bytes(newest.read_bytes()[:-1])
    capsys.readouterr()
    train(runs.quick(), tmp_path)
    assert f"resumed stage 0 at step {steps[0]} of 7" in capsys.readouterr().out
    assert_same(tmp_path, whole)


def test_a_config_that_would_change_numbers_is_refused_with_every_key(whole):
    with pytest.raises(ValueError, match="another config") as error:
        train(runs.quick(steps=8, learner__inner_rate=0.2), whole[0])
    assert "steps: 7 -> 8" in str(error.value) and "learner.inner_rate: 0.1 -> 0.2" in str(error.value)
    assert "log_every" not in str(error.value)


def test_of_many_other_keys_those_that_bring_the_others_along_come_first(whole):
    with pytest.raises(ValueError, match="another config: data.source: 'linear_gaussian' -> 'sinusoid'; ") as error:
        train(config_for("sinusoid", "mlp"), whole[0])
    assert "model.name: 'linear' -> 'mlp'" in str(error.value) and str(error.value).count(" -> ") == 8
    assert re.search(r"; and \d\d more\. Resume with the same one", str(error.value))


def test_operational_keys_may_change_and_are_logged(whole, capsys):
    train(runs.quick(log_every=1, checkpoint_every=100), whole[0])
    told = capsys.readouterr().out
    assert "resumed with another log_every: 3 -> 1" in told and "checkpoint_every: 3 -> 100" in told
    notes = [line["text"] for line in runs.journal(whole[0]) if line["kind"] == "note"]
    assert any("log_every: 3 -> 1" in text for text in notes)
    assert judging.opened(whole[0]).log_every == 1
    train(runs.quick(), whole[0])


def test_other_data_are_refused(whole, tmp_path):
    for name in ("config.json", "provenance.json"):
        (tmp_path / name).write_bytes((whole[0] / name).read_bytes())
    path = tmp_path / "provenance.json"
    held = json.loads(path.read_text())
    workdir.write_json(path, held | {"sha256": "0" * 64})
    with pytest.raises(ValueError, match=f"other data: SHA-256 0000000000000000… then, {held['sha256'][:16]}"):
        train(runs.quick(), tmp_path)


def test_a_refused_config_binds_no_workdir(tmp_path):
    with pytest.raises(ValueError, match="learner.name must be one of .*'mamll'; did you mean 'maml'"):
        train(runs.quick(learner__name="mamll"), tmp_path)
    assert not (tmp_path / "config.json").exists() and not (tmp_path / "provenance.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategies": ("naiv",)}, "strategies must be one of .*did you mean 'naive'"),
        ({"model__name": "linea"}, "model.name must be one of .*did you mean 'linear'"),
        ({"learner__inner": "grad"}, "learner.inner must be one of .*did you mean 'gradient'"),
        ({"learner__aggregator": "means"}, "learner.aggregator must be one of .*did you mean 'mean'"),
        ({"continual__penalty": ("anchr",)}, "continual.penalty must be one of .*did you mean 'anchor'"),
        ({"continual__memory": "reservoi"}, "continual.memory must be one of .*did you mean 'reservoir'"),
        ({"optimizer__param__name": "adm"}, "optimizer.param.name must be one of .*did you mean 'adam'"),
        ({"data__drift": "suden"}, "data.drift must be one of .*did you mean 'sudden'"),
        ({"schedule": "cosin"}, "schedule must be one of .*did you mean 'cosine'"),
        ({"steps": -3}, "steps must be >= 1, got -3"),
        ({"devices": 99}, "devices must be <= 2"),
    ],
)
def test_unknown_members_and_numbers_out_of_range_are_refused_before_anything_is_trained(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(runs.quick(**change), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_diverged_run_stops_by_name_and_its_last_good_state_loads(tmp_path, monkeypatch):
    chunk_of = stage.program

    def poisoned(*given, **options):
        compiled = chunk_of(*given, **options)

        def chunk(state, roots, data, now, step, last):
            after, infos = compiled.chunk(state, roots, data, now, step, last)
            bad = (np.asarray(now) == 1) & (np.asarray(step) == 3)
            finite = jnp.asarray(np.asarray(infos["finite"]) & ~(bad & (np.arange(3) == 2)))
            return after, infos | {"finite": finite}

        return compiled._replace(chunk=chunk)

    with monkeypatch.context() as patched, jax.transfer_guard("allow"):
        patched.setattr(stage, "program", poisoned)
        patched.setattr(stage.jax, "transfer_guard", lambda _: io.StringIO())  # the poison reads on the host
        with pytest.raises(stage.Diverged, match="continual: a loss is NaN or infinite at step 5 of stage 1, seed 0"):
            train(runs.quick(checkpoint_every=100), tmp_path)
    checkpoints = tmp_path / "strategies" / "continual" / "checkpoints"
    assert store.latest_checkpoint(checkpoints) == 7 + 3
    tree, told = store.load_checkpoint(checkpoints, 10)
    assert told == {"stage": 1, "step": 3} and store.versions(scoring.versions_of(tmp_path, "continual")) == [0]
    assert all(np.isfinite(leaf).all() for leaf in runs.flat(tree).values() if leaf.dtype.kind == "f")


def test_an_absurd_rate_diverges_with_stage_and_step(tmp_path):
    config = runs.quick(learner__inner_rate=1e200, learner__inner_steps=3, evaluation__steps=(0, 1))
    with pytest.raises(stage.Diverged, match=r"continual: a loss is NaN or infinite at step 0 of stage 0, seed 0"):
        train(config, tmp_path)
    assert store.versions(scoring.versions_of(tmp_path, "continual")) == []


def test_a_second_trainer_is_refused_and_a_stale_lock_is_not_in_the_way(whole):
    (whole[0] / ".lock").write_text("999999\n")
    with workdir.lock(whole[0]):
        with pytest.raises(workdir.WorkdirInUse, match=f"in use by process {os.getpid()}"):
            train(runs.quick(), whole[0])
    (whole[0] / ".lock").write_text("999999\n")
    train(runs.quick(), whole[0])


def test_signals_set_a_mark_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with resuming.interruptions() as asked:
        assert asked() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked() == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_journal_holds_scalars_and_a_validation_curve(small_run):
    lines = runs.journal(small_run)
    assert {"start", "scalars", "note", "end"} <= {line["kind"] for line in lines}
    curve = [line for line in lines if line["kind"] == "scalars" and line["name"] == "naive"]
    assert [line["step"] for line in curve] == list(range(10, 121, 10))
    assert all("loss" in line and "grad_norm" in line for line in curve)
    judged = [line["step"] for line in curve if "validation/rmse" in line]
    assert judged == [20, 40, 60, 80, 100, 120]
    assert all(line["validation/rmse"] < line["validation/rmse_start"] for line in curve[-1:])
    for name in ("static", "naive", "joint_so_far", "continual", "joint"):
        events = list((small_run / "tensorboard" / name).glob("events.out.tfevents.*"))
        assert events and all(b"validation/rmse" in path.read_bytes() for path in events)


def test_a_torn_journal_line_is_cut_off(tmp_path):
    with Journal(tmp_path, tensorboard=False) as one:
        one.event("start", loss=float("nan"))
    path = tmp_path / "journal.jsonl"
    path.write_text(path.read_text() + '{"kind": "torn')
    with Journal(tmp_path, tensorboard=False) as one:
        one.event("end")
    lines = runs.journal(tmp_path)
    assert [line["kind"] for line in lines] == ["start", "end"] and lines[0]["loss"] is None


def test_progress_is_plain_lines_with_an_eta_where_there_is_no_terminal(monkeypatch):
    out = io.StringIO()
    now = [0.0]
    monkeypatch.setattr("metapers.journal.time.monotonic", lambda: now[0])
    with meter(10, title="train", every=5.0) as told:
        told._stream = out
        told.waiting("compiling")
        told.advance(4, worked=False)  # what an earlier run had done
        now[0] = 6.0
        told.advance(3, "naive")
        told.advance(1)
        now[0] = 12.0
        told.advance(2)
    first, *lines = out.getvalue().splitlines()
    assert first == "train 0/10 (0%), 0 s, ETA ? compiling"
    assert lines == ["train 3/6 (50%), 6 s, ETA 6 s naive", "train 6/6 (100%), 12 s, ETA 0 s"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal_and_nothing_where_it_is_switched_off(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    with meter(4, title="train") as told:
        told.waiting("compiling")
        told.advance(1, worked=False)
        told.advance(3, "naive")
    assert "compiling" in screen.getvalue()
    assert re.search(r"train: .*0/3.*naive", screen.getvalue())
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    with meter(4, title="train", shown=False) as told:
        told.advance(4)
    assert screen.getvalue() == ""


def test_seconds_add_up_over_resumes(whole):
    held = json.loads((whole[0] / "seconds.json").read_text())
    assert held["train"] > held["compile"] >= 0
    train(runs.quick(), whole[0])
    assert json.loads((whole[0] / "seconds.json").read_text())["train"] >= held["train"]


def test_a_version_tells_where_it_comes_from(small_run):
    folder = scoring.versions_of(small_run, "continual")
    records = [store.read_record(folder, number) for number in store.versions(folder)]
    assert [record["lineage"]["stage"] for record in records] == [0, 1, 2]
    told = records[2]["lineage"]
    assert told["parent"] == {"number": 1, "digest": records[1]["digest"]} and records[0]["lineage"]["parent"] is None
    assert told["seeds"] == [0, 1] and told["provenance"]["sha256"] and told["devices"]["count"] == 2
    assert told["libraries"]["jax"] == jax.__version__ and told["seconds"] > 0
    assert told["config"]["steps"] == 40 and len(told["config_digest"]) == 64
    assert {"0", "1", "2", "-1"} == told["scores"]["adapted"].keys()
