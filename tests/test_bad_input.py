"""Bad places to read from and write to: one clear error, and nothing is lost."""

import json
import os
import re

import jax
import pytest

from metapers import command, spec
from metapers.evaluation.evaluate_run import evaluate_run
from metapers.options import ConfigError
from metapers.run.training import train
from metapers.spec import tree
from tests import commands, runs

in_process = commands.in_process  # a fixture

LIMITED = """
import gc, os, resource, sys
import metapers
import metapers.run.training
from metapers import store
from metapers.command import train_main
cores = metapers.use_all_cores
metapers.use_all_cores = lambda: cores(2)  # as many devices as the tests have, whatever the machine
def limited(save):
    def call(*given, **named):
        resource.setrlimit(resource.RLIMIT_FSIZE, (256, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return save(*given, **named)
    return call
gc.freeze()
for name in sys.argv[1:3]:
    if os.fork() == 0:  # before JAX is used: it has no threads yet
        setattr(store, name, limited(getattr(store, name)))
        sys.argv = ["train.py", f"--workdir={sys.argv[3]}/{name}", *sys.argv[4:]]
        train_main()
    print(f"exit code {os.waitstatus_to_exitcode(os.wait()[1])}", file=sys.stderr, flush=True)
"""
"""Trains twice, each time in a process of its own, and lets a write fail in a function of ``store``."""


def arguments():
    """A quick run of one period as a command line for configs/synthetic.py, without its workdir."""
    config = runs.quick(bank=False, data__periods=1, learner="joint", memory="none")  # the least to compile
    quick = [f"--config.{key}={value}" for key, value in tree.leaves(config)]
    return ["--config=configs/synthetic.py", *quick]


def one_line(err):
    assert "Traceback" not in err, err
    return next(line for line in err.splitlines() if line.startswith("error: "))


@pytest.fixture
def trained(in_process, monkeypatch):
    """The quick run trained, or continued, in this process as the command does it: (folder) -> (exit code, errors)."""
    runs.share_programs(monkeypatch)

    def call(folder):
        with jax.enable_x64(False):
            code, _, err = in_process(command.train_main, f"--workdir={folder}", *arguments())
        return code, err

    return call


def test_a_workdir_whose_parent_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(NotADirectoryError, match="cannot make the workdir .*/file/work: this is a file"):
        train(runs.quick(), tmp_path / "file" / "work")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
def test_a_read_only_workdir_is_refused(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir(mode=0o755)
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_uid == os.getuid() and place != place.parent and not place.stat().st_mode & 0o001:
            place.chmod(place.stat().st_mode | 0o055)
    program = (
        "import os, sys\n"
        "from metapers.run import resume, training\n"  # before: nobody may not be able to read the checkout
        "from metapers import workdir\n"
        "from metapers.command import TRAIN, process\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: workdir.open_workdir(sys.argv[1])\n"
        "except Exception as error: sys.exit(process._failed(error, TRAIN, ''))\n"
    )
    code, _, err = runs.call("-c", program, folder)
    assert code == 1 and "cannot write in the workdir" in one_line(err) and str(folder) in one_line(err)
    assert list(folder.iterdir()) == []


def test_a_write_that_fails_during_a_save_is_reported_and_nothing_is_lost(trained, tmp_path):
    whole, saves = tmp_path / "whole", ("save_checkpoint", "save_version")
    assert trained(whole) == (0, "")
    _, _, err = runs.call("-c", LIMITED, *saves, tmp_path, *arguments())
    reports = err.split("exit code 1\n")
    assert len(reports) == 3 and reports[2] == "", err
    for save, report, place in zip(saves, reports, ("checkpoints/3", "versions/0")):
        told = one_line(report)
        assert "could not write" in told and place in told and re.search("too large|No space|Errno", told)
        saved = tmp_path / save / "arms" / "continual" / place.partition("/")[0]
        assert not saved.exists() or all(path.name.startswith(".") for path in saved.iterdir())  # nothing that counts
        assert trained(tmp_path / save) == (0, "")
        assert runs.same_bits(runs.numbers(tmp_path / save), runs.numbers(whole)) == []


@pytest.mark.parametrize(
    ("source", "model", "changes"),
    [
        ("movielens", "recommender", {"data.backend": "folder"}),
        ("omniglot", "conv4", {"evaluation.shots": (5,), "evaluation.headline_shots": 5}),
        ("writers", "conv4", {}),
        ("wisdm", "mlp", {}),
        ("shakespeare", "gru", {}),
    ],
)
def test_a_source_of_files_says_that_data_path_is_missing_or_leads_nowhere(source, model, changes, tmp_path):
    config = spec.merged(spec.config_for(source, model), changes)
    with pytest.raises(ConfigError) as error:
        train(config, tmp_path / "work")
    assert (error.value.key, error.value.value) == ("data.path", None)
    assert error.value.bound == f"the folder with the files of data.name {source!r}"
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"^data.path must name a folder that is there, got '{nowhere}'$"):
        train(spec.merged(config, {"data.path": nowhere}), tmp_path / "work")
    assert not list(tmp_path.rglob("config.json"))  # nothing is bound to what was refused


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("configs/movielens.py:cavia", r"method must be one of \['anil', 'bayes', .*\], got 'cavia'$"),
        ("configs/shakespeare.py:ridge", r"backbone must be one of \['conv4', 'mlp'\] with method 'ridge', got 'gru'$"),
    ],
)
def test_a_method_that_a_config_does_not_have_is_refused_in_one_line(in_process, path, message, tmp_path):
    code, out, err = in_process(command.train_main, f"--config={path}", f"--workdir={tmp_path / 'work'}")
    assert code == 2 and out == "" and re.search(message, one_line(err))
    assert not (tmp_path / "work").exists()


def test_more_shots_than_a_user_has_are_masked_and_counted(small_run, tmp_path, monkeypatch):
    runs.share_programs(monkeypatch)  # training compiled what evaluation runs
    folder = tmp_path / "run"
    few = {"data.periods": 1, "data.examples": 5, "bank": False}
    config = runs.quick(arms=("fine_tune",), **few, evaluation__shots=(1, 16), evaluation__headline_shots=16)
    train(config, folder)
    told = evaluate_run(folder, say=lambda text: None)
    assert told["short"] > 0 and told["headline"]["shots"] == 16
    assert json.loads((folder / "summary.json").read_text())["short"] == told["short"]
    assert json.loads((small_run / "summary.json").read_text())["short"] == 0
