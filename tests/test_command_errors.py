"""Wrong command lines and configs: one line, an exit code, and never a traceback."""

import pytest

from metapers import command
from tests import commands
from tests.commands import SYNTHETIC

in_process = commands.in_process  # a fixture
CHOOSES = "spec.choose(config, section, name), sets it"
CHOOSES_ARMS = "spec.choose(config, 'arms', names or a dict) sets it"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config is missing"),
        ([SYNTHETIC], "--workdir is missing"),
        ([SYNTHETIC, "--workdir=WORK", "--nonsense=3"], "Unknown command line flag 'nonsense'"),
        ([SYNTHETIC, "--workdir=WORK", "stray"], "unexpected argument 'stray': every option is --name=value"),
        (
            ["--workdir=WORK", "synthetic"],
            "did you mean --config=synthetic?",
        ),
        (["--config=configs/nope.py", "--workdir=WORK"], "--config names no file: configs/nope.py"),
        (["--config", "configs/nope.py", "--workdir=WORK", "--config.outer_steps=3"], "--config names no file"),
        (["--config=synthetik", "--workdir=WORK"], "did you mean 'synthetic'?"),
        (["--config=", "--workdir=WORK"], "--config is empty"),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.inner.step=3"],
            "inner.step must be a known key, got '3'; did you mean 'inner.steps'?",
        ),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.outer_steps=5", "--config.iner.steps=3"],
            "iner.steps must be a known key, got '3'; did you mean 'inner.steps'?",
        ),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.gate.folds=3"],
            "gate.folds must be a known key, got '3'; gate is 'none', and only 'cross_validated' or 'learned' has it",
        ),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.outer_steps=many"],
            "outer_steps must be a whole number >= 1, got 'many'",
        ),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.outer_steps=1.5"],
            "outer_steps must be a whole number >= 1, got '1.5'",
        ),
        ([SYNTHETIC, "--workdir=WORK", "--config.outer_steps=-5"], "outer_steps must be a whole number >= 1, got -5"),
        ([SYNTHETIC, "--workdir=WORK", "--config.inner.rates.rate=fast"], "inner.rates.rate must be a number > 0"),
        ([SYNTHETIC, "--workdir=WORK", "--config.data.drift=suden"], "did you mean 'sudden'?"),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.evaluation.shots=(1,x)"],
            "evaluation.shots must be a tuple of whole numbers",
        ),
        ([SYNTHETIC, "--workdir=WORK", "--config.learner=mamll"], "learner.name must be one of ['maml', "),
        ([SYNTHETIC, "--workdir=WORK", "--config.arms=fine_tun"], "did you mean 'fine_tune'?"),
        *(
            ([SYNTHETIC, "--workdir=WORK", f"--config.{key}={old}"], f"got {old!r}; did you mean {new!r}?")
            for key, old, new in (
                ("arms", "naive", "fine_tune"),
                ("arms", "static", "frozen"),
                ("arms", "joint_so_far", "cumulative"),
                ("arms", "joint", "joint_model"),
                ("strategies", "naive", "arms"),
                ("data.stages", "3", "data.periods"),
                ("data.users_per_stage", "9", "data.users_per_period"),
            )
        ),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.arms.naive.memory.capacity=3"],
            "arms.naive.memory.capacity must be of one of the arms ['continual', 'cumulative', 'fine_tune', 'frozen'], "
            "got 'naive'; did you mean 'fine_tune'?",
        ),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.arms.continual.memory.capacity=-3"],
            "arms.continual.memory.capacity must be a whole number >= 1, got -3",
        ),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.arms.continual.inner.steps=3"],
            "arms.continual.inner.steps must be the same for all arms, got 3; an arm may override learner, ",
        ),
        ([SYNTHETIC, "--workdir="], "--workdir is empty"),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.arms=fine_tune", "--config.arms=frozen"],
            "arms must be given once, all of the tuple in one text, got ('fine_tune', 'frozen')",
        ),
        (
            [f"{SYNTHETIC}:foo", "--workdir=WORK"],
            "cannot be used: get_config() of configs/synthetic.py takes nothing after",
        ),
        (
            ["--config=configs/sinusoid.py:maml-x", "--workdir=WORK"],
            "sinusoid.py:maml-x cannot be used: shots must be a whole number >= 1 after the dash, got 'x'",
        ),
        (
            ["--config=sinusoid:mamml", "--workdir=WORK"],
            "sinusoid:mamml cannot be used: method must be one of ['maml', ",
        ),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.learner=3"],
            "learner must be a member's name, or a dict of options, got '3'",
        ),
        (
            [SYNTHETIC, "--workdir=WORK", "--config.plugins=no_such_module"],
            "plugins must be a module that can be imported",
        ),
    ],
)
def test_a_wrong_call_gives_one_line_and_exit_code_2(in_process, tmp_path, words, message):
    workdir = tmp_path / "work"
    code, out, err = in_process(command.train_main, *(one.replace("WORK", str(workdir)) for one in words))
    assert code == 2 and err.startswith("error: ") and message in err.splitlines()[0]
    assert out == "" and not workdir.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "it has no get_config() that returns a ConfigDict"),
        ("def get_config():\n    return 3\n", "get_config() must return a ConfigDict, got 3"),
        ("def get_config(:\n", "SyntaxError"),
        ("import nowhere_to_be_found\n", "ModuleNotFoundError: No module named 'nowhere_to_be_found' (line 1)"),
        ("def get_config():\n    return {}['x']\n", "KeyError: x (line 2)"),
        ("def get_config():\n    raise ValueError('size must be >= 1, got 0')\n", "used: size must be >= 1, got 0"),
        (
            "from metapers import spec\ndef get_config():\n    config = spec.config_for('sinusoid', 'mlp')\n"
            "    config.inner.step = 3\n    return config\n",
            "unknown config key 'step'; did you mean 'steps'? (line 4)",
        ),
        (
            "from metapers import spec\ndef get_config():\n    config = spec.config_for('sinusoid', 'mlp')\n"
            "    config.inner = 'implicit'\n    return config\n",
            "'inner' holds options: a dict, or spec.choose(config, section, name), sets it (line 4)",
        ),
        (
            "from metapers import spec\ndef get_config():\n    config = spec.config_for('sinusoid', 'mlp')\n"
            "    config.update(outer_steps=3, schedule='cosine')\n    return config\n",
            "a section holds options: a dict, or spec.choose(config, section, name), sets it (line 4)",
        ),
        *(
            (
                "from metapers import spec\ndef get_config():\n    config = spec.config_for('sinusoid', 'mlp')\n"
                f"    {line}\n    return config\n",
                f"used: {message} (line 4)",
            )
            for line, message in (
                *(
                    (f"config.arms = {value}", f"'arms' holds what each arm overrides: {CHOOSES_ARMS}")
                    for value in ("'fine_tune'", "('fine_tune',)")
                ),
                *(
                    (f"config.update(arms={value})", f"a section holds options: a dict, or {CHOOSES}")
                    for value in ("'fine_tune'", "('fine_tune',)", "['fine_tune']")
                ),
                ("config.strategies = ('naive',)", "unknown config key 'strategies'; did you mean 'arms'?"),
                ("config.data.stages = 3", "unknown config key 'stages'; did you mean 'data.periods'?"),
                ("config.arms.er = {}", "unknown config key 'er'; spec.choose sets members and arms with their keys"),
            )
        ),
        (
            "from metapers import spec\ndef get_config():\n    config = spec.config_for('sinusoid', 'mlp')\n"
            "    spec.choose(config, 'inner', 'implict')\n    return config\n",
            "inner.name must be one of ['gradient', ",
        ),
    ],
)
@pytest.mark.parametrize("more", [(), ("--config.outer_steps=3",)])
def test_a_broken_config_file_gives_one_line(in_process, tmp_path, text, message, more):
    path = tmp_path / "mine.py"
    path.write_text(text)
    code, _, err = in_process(command.train_main, f"--config={path}", f"--workdir={tmp_path / 'work'}", *more)
    assert code == 2 and err.startswith(f"error: --config={path} cannot be used: ") and message in err.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.penalties=ewc"], "penalties.ewc.strength must be a number > 0, got None; it has no default"),
        (
            ["--config.evaluation.shots=(4,1)"],
            "evaluation.shots must be increasing whole numbers, at least one, got (4, 1)",
        ),
        (
            ["--config.learner=reptile"],
            "inner.rates must be another member with learner 'reptile', got 'log_meta_sgd'; no derivative reaches",
        ),
        (
            ["--config.inner=closed_form"],
            "inner must not be 'closed_form' here, got 'closed_form'; model 'linear' takes",
        ),
        (["--sweep=inner.rates.rate"], "sweep must be key=value,value"),
        (["--sweep=inner.iner_rate=1,2"], "inner.iner_rate must be a known key, got 1; did you mean "),
        (["--sweep=outer_steps=1,many"], "outer_steps must be a whole number >= 1, got 'many'"),
        (["--sweep=outer_steps=5,-5"], "outer_steps must be a whole number >= 1, got -5"),
        (["--sweep=evaluation.metric=rmse,mae"], "got 'evaluation.metric', which is what combinations are ranked by"),
        (
            ["--sweep=log_every=1,2"],
            "sweep must name a key that training reads, got 'log_every', which changes no number",
        ),
        (["--sweep=arms=('fine_tune',),('frozen',)"], "got 'arms', which changes no number of a sweep"),
    ],
)
def test_a_config_that_is_refused_gives_one_line_and_exit_code_1(in_process, tmp_path, words, message):
    code, _, err = in_process(command.train_main, SYNTHETIC, f"--workdir={tmp_path}", *words)
    assert code == 1 and err.startswith("error: ") and message in err.splitlines()[0]
    assert err.splitlines()[1:] == ["(--traceback shows where)"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "--workdir is missing"),
        (["--workdir=EMPTY"], 1, "no run in "),
        (["--workdir=EMPTY/none"], 1, "train.py --workdir="),
        (["--workdir=RUN", "--split=train"], 2, "split"),
        (["--workdir=RUN", "--shots=1,x"], 1, "shots must be whole numbers with commas between them, got '1,x'"),
        (["--workdir=RUN", "--shots=0"], 1, "shots must be >= 1, got 0"),
        (["--workdir=RUN", "--steps="], 1, "steps must be whole numbers with commas between them, got ''"),
        (["--workdir="], 2, "--workdir is empty"),
        (["--workdir=RUN", "--arm=fine_tun"], 1, "did you mean 'fine_tune'?"),
        (["--workdir=RUN", "--arm=naive"], 1, "did you mean 'fine_tune'?"),
        (
            ["--workdir=RUN", "--arm=fine_tune", "--version=7"],
            1,
            "version must be one of [0, 1, 2] of fine_tune, got 7",
        ),
        (["--workdir=RUN", "--version=7"], 1, "has a version 7"),
        (["--workdir=RUN", "--arm=fine_tune", "--shots=-1"], 1, "shots must be >= "),
        (["--workdir=RUN", "--arm=fine_tune", "--steps=-1"], 1, "steps must be >= "),
        (["--workdir=RUN", SYNTHETIC], 2, "unknown option --config: evaluate reads the config of a workdir"),
        (["--workdir=RUN", "--config.seeds=3"], 2, "unknown option --config: evaluate reads the config of a workdir"),
        (["--workdir=RUN", "stray"], 2, "unexpected argument 'stray'"),
    ],
)
@pytest.mark.parametrize("main", [command.eval_main, command.main])
def test_wrong_calls_of_evaluate(in_process, small_run, tmp_path, main, words, code, message):
    uses = (small_run / "test_uses.jsonl").read_text()
    given = [one.replace("RUN", str(small_run)).replace("EMPTY", str(tmp_path)) for one in words]
    told, _, err = in_process(main, *(["evaluate"] if main is command.main else []), *given)
    assert told == code and err.startswith("error: ") and message in err.splitlines()[0]
    assert (small_run / "test_uses.jsonl").read_text() == uses
