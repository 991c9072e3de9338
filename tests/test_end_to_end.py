"""The shipped configs, shrunk: trained, evaluated and reported; the two commands as processes, stopped and killed."""

import ast
import json
import math
import random
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from metapers import command, spec, workdir
from metapers.command import arguments, process
from metapers.evaluation.evaluate_run import evaluate_run
from metapers.members import registry
from metapers.options import NONE
from metapers.report import report_of
from metapers.run import resume, training
from metapers.tasks.wisdm import ACTIVITIES
from tests import runs, test_wisdm, test_writers

CONFIGS = sorted((runs.ROOT / "configs").glob("*.py"))
FEWER = {"movielens": ("continual",)}  # `small_run` of conftest.py trains all arms
ALONE = ("ratings", "shakespeare", "sinusoid", "writers")
"""Configs that train without the joint baseline here: a third of the programs. The others train it, with their models
of numbers (movielens) and of classes (wisdm)."""
INTERVAL = {"mean", "low", "high"}
PERIODS = ("both", "first", "second", "first", "both", "second", "first", "second")


# Small data in the files of the real sets, which are read in the tests of their sources. Blocks of held-out users have
# few shapes: all lives fit into one width, and the users of every split and period into blocks of 16.


def members() -> list[int]:
    """The ids of sixteen training users, eight validation users and eight test users."""
    counts = {"train": 16, "validation": 8, "test": 8}
    return [number for split, count in counts.items() for number in test_writers.ids(split, count)]


def roles(folder: Path) -> Path:
    """Roles of a few lines in Shakespeare's files."""
    h5py = pytest.importorskip("h5py", reason="Shakespeare's roles come with the extra [shakespeare]")
    for name in ("shakespeare_train.h5", "shakespeare_test.h5"):
        with h5py.File(folder / name, "w") as file:
            for place, role in enumerate(members()):
                file[f"examples/{role}/snippets"] = [b"To be, or not to be: " * (2 + place % 2)]
    return folder


def films(folder: Path) -> Path:
    """Users who rate twelve of twenty films: two of eight in both periods, three in the first, three in the second."""
    draw, lines = random.Random(0), ["userId,movieId,rating,timestamp"]
    for place, user in enumerate(members()):
        times = {"both": range(12), "first": range(6), "second": range(6, 12)}[PERIODS[place % 8]]
        for number, film in enumerate(draw.sample(range(1, 21), 12)):
            lines.append(f"{user},{film},{draw.randint(1, 10) / 2},{times[number * len(times) // 12]}")
    titles = [f"{film},Film {film} ({1980 + film}),{('Drama', 'Comedy|Drama')[film % 2]}" for film in range(1, 21)]
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *titles]) + "\n")
    return folder


def drawings(folder: Path) -> Path:
    """Eighty characters of eight drawings in Omniglot's folders."""
    draw = np.random.default_rng(0)
    for part, labels in (("images_background", range(40)), ("images_evaluation", range(40, 80))):
        for label in labels:
            pages = folder / part / "Alphabet" / f"character{label:02d}"
            pages.mkdir(parents=True)
            for number in range(8):
                Image.fromarray(draw.random((105, 105)) < 0.9).save(pages / f"{label:04d}_{number:02d}.png")
    return folder


def digits(folder: Path) -> Path:
    """Writers of ten to twelve digits in MNIST's files."""
    lengths = [(writer, 10 + place % 3) for place, writer in enumerate(members())]
    rows = [(place % 10, 0, writer, place) for writer, length in lengths for place in range(length)]
    return test_writers.hand_made(folder, rows)


def people(folder: Path) -> Path:
    """People of ten to twelve rows in WISDM's file."""
    draw, rows = random.Random(0), []
    for place, person in enumerate(members()):
        for number in range(10 + place % 3):
            features = {"X0": draw.random(), "Y1": draw.random(), "XPEAK": draw.choice(["?", 100, 300])}
            rows.append(test_wisdm.line(len(rows), person, ACTIVITIES[(place + number) % 6], **features))
    return test_wisdm.hand_made(folder, rows)


FILES = {"movielens": films, "omniglot": drawings, "shakespeare": roles, "wisdm": people, "writers": digits}
SHRUNK = {  # no bank for the sine waves: nobody returns there
    "movielens": {"data.backend": "folder"},
    "omniglot": {"model.filters": 4, "evaluation.shots": (5,), "evaluation.headline_shots": 5},
    "shakespeare": {"model.hidden": 8},
    "sinusoid": {"data.users": 12, "bank": False, "evaluation.shots": (10,), "evaluation.headline_shots": 10},
    "writers": {"model.filters": 8},
}


def shrunk(path: Path, made: Path) -> spec.Config:
    """A shipped config that lasts seconds, on data of the kind that it reads."""
    config = arguments.file_config(str(path))
    source, changes = config.data.name, {"outer_steps": 6, "chunk": 3, "checkpoint_every": 3, "seeds": 1}
    changes |= {"evaluation.shots": (4,), "evaluation.steps": (0, 1), "evaluation.headline_steps": 1}
    changes |= {"inner.steps": 1} if "steps" in config.inner else {}
    changes |= SHRUNK.get(source, {})
    if source in FILES:
        changes |= {"data.path": str(FILES[source](made))}
    if source == "movielens":
        changes |= {"data.periods": 1 if config.data.history else 2}
    changes |= {"devices": 1}  # smaller programs; tests/test_programs.py compares two devices with one
    if path.stem in FEWER:
        changes |= {"arms": FEWER[path.stem]}
    words = runs.overrides(source, memory=config.memory.name != NONE, **changes)
    return arguments.config_of(arguments.split(["train.py", f"--config={path}", *words]))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_says_how_to_run_it_and_how_long(path):
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"--config=configs/{path.name}" in said and "Command:" in said and "Minutes:" in said


# The two commands below run configs/synthetic.py.
@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "synthetic"], ids=lambda path: path.stem)
def test_a_shipped_config_trains_is_evaluated_and_reports(path, tmp_path, monkeypatch, capsys):
    runs.share_programs(monkeypatch)  # training compiled what evaluation runs
    name = arguments.file_config(str(path)).data.name
    if path.stem in ALONE:
        source = registry("source")[name]
        alone = source._replace(facts=source.facts._replace(joint=False))
        monkeypatch.setitem(registry("source")._members, name, alone)
    folder, made = tmp_path / "run", tmp_path / "made"
    made.mkdir()
    config = shrunk(path, made)
    with jax.enable_x64(False):  # as in the commands
        training.train(config, folder)
        evaluate_run(folder)
    assert report_of(folder) == folder / "report.html"
    assert capsys.readouterr().out.strip().splitlines()[-1] == f"summary: {folder / 'summary.json'}"
    check_run(folder, arguments.file_config(str(path)), FEWER.get(path.stem, config.arms), config.seeds)


def check_run(folder, config, arms, seeds):
    check_summary(json.loads((folder / "summary.json").read_text()), config, arms, seeds)
    assert (folder / "report.html").stat().st_size > 10_000 and list(folder.rglob("*.png"))
    assert len((folder / "test_uses.jsonl").read_text().splitlines()) == 1
    scalars = [leaf.dtype for leaf in runs.numbers(folder).values() if leaf.dtype.kind == "f"]
    assert scalars and {str(one) for one in scalars} == {"float32"}


def check_summary(told, config, arms, seeds):
    assert told["schema_version"] == 2
    head = told["headline"]
    assert {"metric", "shots", "steps", "adapted", "unadapted", "baselines"} <= head.keys()
    assert head["metric"] == config.evaluation.metric and head["steps"] == 1
    for interval in (head["adapted"], head["unadapted"]):
        assert interval.keys() >= INTERVAL and interval["low"] <= interval["mean"] <= interval["high"]
    joint = registry("source")[config.data.name].facts.joint
    expected = {"unadapted"} | ({"joint_model", "joint_model_fine_tuned"} if joint else set())
    own = {"linear_gaussian": {"oracle"}, "movielens": {"item_user_bias"}, "shakespeare": {"bigram"}}
    expected |= own.get(config.data.name, set())
    expected |= {"item_recent_bias"} if config.data.get("history") else set()
    assert expected <= head["baselines"].keys()
    for name, row in head["baselines"].items():
        assert row.keys() >= INTERVAL | {"difference_low", "difference_high"}, name
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert row["difference"] == pytest.approx(head["adapted"]["mean"] - row["mean"], abs=1e-5)
    for row in told["shares"].values():
        assert sum(row[part]["mean"] for part in ("better", "same", "worse")) == pytest.approx(1.0)
        assert all(0 <= row[part]["low"] <= row[part]["high"] <= 1 for part in ("better", "same", "worse"))
    assert told["budget"].keys() >= set(arms)
    measured = {"average", "past", "learning", "bti"}
    if config.data.get("periods", 1) > 1:
        measured |= {"next", "bwt", "forgetting_max", "forgetting_first", "fwt"}
    for name in set(arms) - {"joint_model"}:
        assert told["continual"][name].keys() >= ({"average"} if name == "upper_bound" else measured)
        assert all(math.isfinite(value) for value in told["continual"][name].values())
    assert all(told["seconds"][part] > 0 for part in ("train", "evaluate"))
    assert told["seconds"]["compile"] >= 0
    assert len(told["provenance"]["sha256"]) == 64
    assert told["seeds"] == [*range(seeds)] and told["folds"] == [config.data.get("fold", 0)]


def killable(folder):
    """The command that trains one arm of the synthetic config for seconds, as users call it."""
    changes = {"arms": ("continual",), "outer_steps": 40, "chunk": 2, "checkpoint_every": 6, "data.periods": 2}
    changes |= {"evaluation.shots": (4,), "evaluation.steps": (0, 1), "evaluation.headline_steps": 1}
    changes |= {"inner.steps": 1}
    words = runs.overrides("linear_gaussian", memory=True, **changes)
    return ["train.py", "--config=configs/synthetic.py", f"--workdir={folder}", *words]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run that nothing killed, what the command printed, and the seconds that it trained."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    code, out, err = runs.call(*killable(folder), optimized=True)
    assert code == 0, err
    assert "Traceback" not in err
    lines = runs.journal(folder)
    return folder, out, lines[-1]["time"] - lines[0]["time"]


def wait_for_start(child, folder, starts):
    """Until the journal has a new start, or the child ended."""
    path = folder / "journal.jsonl"
    while child.poll() is None:
        if path.exists() and path.read_text().count('"kind": "start"') > starts:
            return
        time.sleep(0.02)


@pytest.mark.xdist_group("processes")
def test_the_two_commands_as_a_newcomer_calls_them(uninterrupted):
    folder, out, _ = uninterrupted
    assert f"next:    python eval.py --workdir={folder}" in out
    code, out, err = runs.call("eval.py", f"--workdir={folder}", optimized=True)
    assert code == 0, err
    assert "Traceback" not in err
    assert out.strip().splitlines()[-1] == f"report:  {folder / 'report.html'}"
    check_run(folder, arguments.file_config("synthetic"), ("continual",), seeds=2)


@pytest.mark.xdist_group("processes")
def test_stopped_and_then_killed_at_random_moments_a_run_resumes_bit_for_bit(uninterrupted, tmp_path):
    whole, _, trained = uninterrupted
    words = killable(tmp_path)
    with runs.child(*words, optimized=True) as child:
        wait_for_start(child, tmp_path, 0)
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=120)
    assert child.returncode == 143, err
    assert "stopped by signal 15" in err and "Traceback" not in err
    again = err.splitlines()[-1]
    assert again.startswith(f"to go on:  {sys.executable} train.py") and f"--workdir={tmp_path}" in again
    moments, killed = random.Random(7), 0
    for _ in range(2):
        starts = sum(line["kind"] == "start" for line in runs.journal(tmp_path))
        with runs.child(*words, optimized=True) as child:
            wait_for_start(child, tmp_path, starts)
            time.sleep(moments.uniform(0, trained / 2))
            child.kill()
            child.communicate()
        killed += child.returncode == -signal.SIGKILL
        path = tmp_path / "journal.jsonl"  # a kill may tear the last line; the next start cuts it off
        path.write_bytes(path.read_bytes()[: path.read_bytes().rfind(b"\n") + 1])
    assert killed >= 1
    code, _, err = runs.call(*words, optimized=True)
    assert code == 0, err
    assert runs.same_bits(runs.numbers(tmp_path), runs.numbers(whole)) == []
    assert runs.validation(tmp_path) == runs.validation(whole)


@pytest.fixture
def here(monkeypatch):
    """Commands run in this process: they leave its devices, its compile cache and its logging as they are."""
    for name in ("_cache", "_quiet"):
        monkeypatch.setattr(process, name, lambda: None)
    monkeypatch.setattr(process.metapers, "use_all_cores", lambda: None)

    def train(*words):
        with pytest.raises(SystemExit) as ended:
            command.train_main(list(words))
        return ended.value.code

    return train


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_code_of_a_command_that_was_stopped_is_that_of_the_signal(number, here, tmp_path, monkeypatch, capsys):
    def stopped(config, folder, **more):
        raise resume.Interrupted(f"stopped by signal {int(number)}: saved", number)

    monkeypatch.setattr(training, "train", stopped)
    assert here(*killable(tmp_path)) == 128 + number
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"stopped by signal {int(number)}: saved"
    assert said[1].startswith(f"to go on:  {sys.executable} train.py --config=configs/synthetic.py")


def test_a_second_trainer_is_refused_with_the_first_ones_process(here, tmp_path, capsys):
    workdir.open_workdir(tmp_path)
    with workdir.lock(tmp_path):
        assert here(*killable(tmp_path)) == 1
        holder = (tmp_path / ".lock").read_text().strip()
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ") and f"the workdir is in use by process {holder}" in first
    assert rest == ["(--traceback shows where)"]
