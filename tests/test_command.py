"""The doors: help, wrong calls, missing things; one clear line and an exit code, never a traceback."""

import shlex
import sys
import threading

import pytest

import metapers
from metapers.command import main as command
from metapers.run import search as sweep
from tests import runs

pytestmark = pytest.mark.filterwarnings("ignore:.*load_module.*:DeprecationWarning")  # how config_flags reads a file


@pytest.fixture
def door(monkeypatch, capsys):
    """A door called in this process: (exit code, output, errors); what only a fresh process may do is left out."""
    for name in ("_quiet", "_cache"):
        monkeypatch.setattr(command, name, lambda: None)
    monkeypatch.setattr(metapers, "use_all_cores", lambda: 2)
    monkeypatch.setattr(command, "_resume_hint", [])
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # config_flags loads a file over the one before

    def call(main, *arguments):
        with pytest.raises(SystemExit) as stopped:
            main([main.__name__.replace("_main", ".py"), *map(str, arguments)])
        told = capsys.readouterr()
        assert "Traceback" not in told.err + told.out
        return stopped.value.code, told.out, told.err

    return call


SYNTHETIC = "--config=configs/synthetic.py"


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (command.train_main, ["--config ", "--workdir ", "--sweep ", "--profile ", "--traceback ", "--config.learner"]),
        (command.eval_main, ["--workdir ", "--strategy ", "--version ", "--split ", "--steps ", "--shots "]),
    ],
)
def test_help_shows_examples_and_every_flag(door, main, flags):
    code, out, _ = door(main, "--help")
    assert code == 0 and "python " in out and all(flag in out for flag in flags)


def test_the_version_is_printed(door):
    assert door(command.train_main, "--version_only")[:2] == (0, f"{metapers.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        ([SYNTHETIC], "--workdir is missing"),
        ([SYNTHETIC, "--workdir=WORK", "--nonsense=3"], "Unknown command line flag 'nonsense'"),
        ([SYNTHETIC, "--workdir=WORK", "stray"], "unexpected argument 'stray'"),
        (["--config=configs/nope.py", "--workdir=WORK"], "--config names no file: configs/nope.py"),
        (["--config", "configs/nope.py", "--workdir=WORK", "--config.steps=3"], "--config names no file"),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.learner.inner_step=3"],
            "unknown config key 'learner.inner_step'; did you mean 'learner.inner_steps'?",
        ),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.steps=5", "--config.leaner.inner_steps=3"],
            "unknown config key 'leaner.inner_steps'; did you mean 'learner.inner_steps'?",
        ),
        ([SYNTHETIC, "--workdir=WORK", "--config.steps=many"], "steps must be int (now 600), got 'many'"),
        ([SYNTHETIC, "--workdir=WORK", "--config.steps=1.5"], "steps must be int (now 600), got '1.5'"),
        ([SYNTHETIC, "--workdir=WORK", "--config.learner.inner_rate=fast"], "learner.inner_rate must be float"),
        ([SYNTHETIC, "--workdir="], "--workdir is empty"),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.strategies=naive", "--config.strategies=static"],
            "--config.strategies is a tuple, given 2 times: all of it must stand in one",
        ),
        ([f"{SYNTHETIC}:foo", "--workdir=WORK"], "cannot be used: its get_config() takes nothing after the colon"),
        (
            ["--config=configs/sinusoid.py:maml-x", "--workdir=WORK"],
            "sinusoid.py:maml-x cannot be used: shots must be a whole number >= 1 after the dash, got 'x'",
        ),
        ([SYNTHETIC, "--workdir=WORK", "--config.learner=3"], "config key 'learner' holds others: set one of them"),
    ],
)
def test_a_wrong_call_is_told_in_one_line_with_exit_code_2(door, tmp_path, arguments, message):
    workdir = tmp_path / "work"
    code, out, err = door(command.train_main, *(one.replace("WORK", str(workdir)) for one in arguments))
    assert code == 2 and err.startswith("error: ") and message in err.splitlines()[0]
    assert out == "" and not workdir.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "has no get_config() that returns a ConfigDict"),
        ("def get_config():\n    return 3\n", "its get_config() must return a ConfigDict, got 3"),
        ("def get_config(:\n", "SyntaxError"),
        ("import nothing_of_that_name\n", "No module named 'nothing_of_that_name'"),
        ("def get_config():\n    raise ValueError('no luck')\n", "cannot be used: no luck"),
        ("def get_config():\n    return {}['a']\n", "cannot be used: KeyError: a"),
        (
            "from metapers import experiment\ndef get_config():\n"
            "    c = experiment.config_for('sinusoid', 'mlp')\n    c.learner.inner_step = 4\n    return c\n",
            "unknown config key 'inner_step'; did you mean 'inner_steps'?",
        ),
    ],
)
@pytest.mark.parametrize("more", [(), ("--config.steps=3",)])
def test_a_broken_config_file_is_told_in_one_line(door, tmp_path, text, message, more):
    path = tmp_path / "mine.py"
    path.write_text(text)
    code, _, err = door(command.train_main, f"--config={path}", f"--workdir={tmp_path / 'work'}", *more)
    assert code == 2 and err.startswith(f"error: --config={path}") and message in err.splitlines()[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.steps=-5", "steps must be >= 1, got -5"),
        (
            "--config.learner.name=mamll",
            "learner.name must be one of ['joint', 'maml', 'multi_step', 'reptile'], got 'mamll'",
        ),
        ("--config.data.drift=suden", "did you mean 'sudden'?"),
        ("--config.evaluation.shots=(1,x)", "evaluation.shots must be increasing integers >= 1"),
        ("--sweep=learner.inner_rate", "sweep must be key=value,value"),
        ("--sweep=learner.iner_rate=1,2", "unknown config key 'learner.iner_rate'; did you mean 'learner.inner_rate'?"),
        ("--sweep=steps=1,many", "steps must be int, got 'many'"),
        ("--sweep=steps=5,-5", "steps must be >= 1, got -5"),
        ("--sweep=evaluation.metric=rmse,mae", "got 'evaluation.metric', which is what combinations are ranked by"),
        (
            "--sweep=log_every=1,2",
            "sweep must name a key that training reads, got 'log_every', which changes no number",
        ),
        ("--sweep=strategies=('naive',),('static',)", "got 'strategies', which changes no number of a sweep"),
    ],
)
def test_a_value_out_of_bounds_is_told_in_one_line_with_exit_code_1(door, tmp_path, override, message):
    code, _, err = door(command.train_main, SYNTHETIC, f"--workdir={tmp_path}", override)
    assert code == 1 and err.startswith("error: ") and message in err.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--workdir is missing"),
        (["--workdir=EMPTY"], 1, "no run in "),
        (["--workdir=EMPTY/none"], 1, "train.py --workdir="),
        (["--workdir=RUN", "--split=train"], 2, "split"),
        (["--workdir=RUN", "--shots=1,x"], 1, "shots must be integers with commas between them, got '1,x'"),
        (["--workdir=RUN", "--shots=0"], 1, "shots must be >= 1, got 0"),
        (["--workdir=RUN", "--steps="], 1, "steps must be integers with commas between them, got ''"),
        (["--workdir="], 2, "--workdir is empty"),
        (["--workdir=RUN", "--strategy=naiv"], 1, "did you mean 'naive'?"),
        (["--workdir=RUN", "--strategy=naive", "--version=7"], 1, "version must be one of [0, 1, 2] of naive, got 7"),
        (["--workdir=RUN", "--version=7"], 1, "has a version 7"),
        (["--workdir=RUN", "--strategy=naive", "--shots=-1"], 1, "shots must be >= "),
        (["--workdir=RUN", "--strategy=naive", "--steps=-1"], 1, "steps must be >= "),
    ],
)
def test_wrong_calls_of_eval(door, small_run, tmp_path, arguments, code, message):
    uses = (small_run / "test_uses.jsonl").read_text()
    given = [one.replace("RUN", str(small_run)).replace("EMPTY", str(tmp_path)) for one in arguments]
    told, _, err = door(command.eval_main, *given)
    assert told == code and err.startswith("error: ") and message in err.splitlines()[0]
    assert (small_run / "test_uses.jsonl").read_text() == uses


def test_help_on_a_config_tells_what_it_is_its_methods_and_its_keys(door, tmp_path):
    code, out, err = door(command.train_main, "--config=configs/sinusoid.py:anil-5", "--config.steps=7", "--help")
    assert code == 0 and err == ""
    assert "Sinusoid regression (Finn et al. 2017)" in out and "--config.steps=7" in out
    assert "--config.learner.adapts='head'" in out and "--config.data.support=5" in out
    methods = next(line for line in out.splitlines() if line.startswith("Methods")).partition(": ")[2].split(", ")
    assert {"maml", "cavia", "bayes"} <= {*methods} and not {"ridge", "prototypes"} & {*methods}  # no classes there
    _, out, _ = door(command.train_main, "--config", "configs/sinusoid.py", "--config.steps", "7", "--help")
    assert "Sinusoid regression" in out and "--config.steps=7" in out
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from metapers import experiment\n\ndef get_config(size='s'):\n"
        "    return {'s': experiment.config_for('sinusoid', 'mlp')}[size]\n"
    )
    code, out, _ = door(command.train_main, f"--config={mine}", "--help")
    assert code == 0 and "--config.data.source='sinusoid'" in out and "Methods" not in out
    _, out, _ = door(command.train_main, SYNTHETIC, "--help")
    assert "under drift" in out and "Methods" not in out and "--config.data.drift='recurring'" in out
    code, out, _ = door(command.train_main, "--config=configs/nope.py", "--help")
    assert code == 0 and out.splitlines()[-1] == "error: --config names no file: configs/nope.py"


def test_a_sweep_ends_with_the_command_that_trains_the_best(door, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "run", lambda *given: {"steps": 3, "continual.penalty": ("anchor", "ewc")})
    given = ["--config.seeds=1", "--config.continual.penalty=('anchor',)", "--config.steps", "9"]
    code, out, _ = door(command.train_main, SYNTHETIC, *given, "--workdir", str(tmp_path), "--sweep=steps=3,4")
    assert code == 0
    best = [SYNTHETIC, "--config.seeds=1", "--config.steps=3", "--config.continual.penalty=('anchor', 'ewc')"]
    assert shlex.split(out.splitlines()[-1])[-5:] == [*best, "--workdir=WORKDIR"]


def test_an_error_shows_its_place_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_quiet", lambda: None)
    with pytest.raises(FileNotFoundError, match="no run in"):
        monkeypatch.setattr(command, "_cache", lambda: None)
        monkeypatch.setattr(metapers, "use_all_cores", lambda: 2)
        command.eval_main(["eval.py", f"--workdir={tmp_path}", "--traceback"])


def test_the_doors_as_a_newcomer_opens_them():
    code, out, err = runs.call("train.py", "--help")
    assert code == 0 and "--workdir" in out and err == ""
    code, out, err = runs.call("train.py", "--config=configs/nope.py", "--workdir=nowhere")
    assert code == 2 and err.splitlines()[0] == "error: --config names no file: configs/nope.py" and out == ""


def test_cores_are_devices_only_before_jax_is_used():
    program = (
        "import metapers; assert metapers.use_all_cores(2) == 2\n"
        "import jax; jax.numpy.zeros(1)\n"
        "assert metapers.use_all_cores(2) == 2 == len(jax.devices())\n"
        "try: metapers.use_all_cores(3)\nexcept RuntimeError as error: print(error)\n"
    )
    with runs.child("-c", program) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "already has 2 devices, wanted 3" in out
    with pytest.raises(ValueError, match="count must be >= 1, got -1"):
        metapers.use_all_cores(-1)


def test_what_a_librarys_thread_raises_is_not_shown_but_the_doors_own_errors_are(capsys):
    error = RuntimeError("Event loop is closed")
    thread = threading.Thread(target=command._from_threads, args=(RuntimeError, error, None))
    thread.start()
    thread.join()
    assert capsys.readouterr().err == ""
    command._from_threads(RuntimeError, error, None)
    assert "Event loop is closed" in capsys.readouterr().err
