"""The commands: their help, what they do, and how they end."""

import os
import shlex
import sys
import threading

import jax
import pytest

import metapers
from metapers import command, spec
from metapers.command import arguments, process
from metapers.members import kinds, registry
from metapers.run import search, training
from metapers.run.resume import Interrupted
from tests import commands, runs
from tests.commands import SYNTHETIC

in_process, plugin = commands.in_process, commands.plugin  # fixtures


@pytest.mark.parametrize(
    ("main", "words", "said"),
    [
        (
            command.train_main,
            [],
            ["--config ", "--workdir ", "--sweep ", "--profile ", "--allow-plugin ", "--config.KEY"],
        ),
        (command.eval_main, [], ["--workdir ", "--arm ", "--version ", "--split ", "--steps ", "--shots "]),
        (command.main, ["train"], ["--config ", "--workdir ", "--sweep ", "metapers train"]),
        (command.main, ["evaluate"], ["--workdir ", "--shots ", "--allow-plugin "]),
        (command.main, ["list"], ["--kind ", "--markdown ", "--plugin ", "metapers list"]),
        (command.main, ["inspect-config"], ["--config ", "--allow-plugin ", "metapers inspect-config"]),
        (command.main, ["migrate-config"], ["metapers migrate-config old.py"]),
    ],
)
def test_help_shows_examples_and_every_flag(in_process, main, words, said):
    for flag in ("--help", "-h"):
        code, out, err = in_process(main, *words, flag)
        assert code == 0 and err == "" and all(one in out for one in [*said, "--traceback "])


def test_the_program_lists_its_commands_and_prints_its_version(in_process):
    for words in ([], ["--help"], ["help"], ["-h"]):
        code, out, _ = in_process(command.main, *words)
        assert code == 0 and all(f"\n  {name} " in out for name in command.COMMANDS)
    assert in_process(command.main, "--version")[:2] == (0, f"{metapers.__version__}\n")
    assert in_process(command.train_main, "--version_only")[:2] == (0, f"{metapers.__version__}\n")
    code, out, err = in_process(command.main, "inspect")
    assert (code, out) == (2, "") and err == "error: unknown command 'inspect'; did you mean 'inspect-config'?\n"
    code, _, err = in_process(command.main, "zzz")
    assert code == 2 and all(name in err for name in command.COMMANDS) and len(err.splitlines()) == 1


def test_help_on_a_config_says_what_it_is_its_methods_and_its_keys(in_process, tmp_path):
    code, out, err = in_process(
        command.train_main, "--config=configs/sinusoid.py:anil-5", "--config.outer_steps=7", "--help"
    )
    assert code == 0 and err == ""
    assert "Sinusoid regression (Finn et al. 2017)" in out and "--config.outer_steps=7" in out
    assert "--config.model.adapts='head'" in out and "--config.data.support=5" in out
    methods = next(line for line in out.splitlines() if line.startswith("Methods")).partition(": ")[2].split(", ")
    assert {"maml", "cavia", "bayes"} <= {*methods} and not {"ridge", "prototypes"} & {*methods}  # no classes there
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from metapers import spec\n\ndef get_config(size='s'):\n"
        "    return {'s': spec.config_for('sinusoid', 'mlp')}[size]\n"
    )
    code, out, _ = in_process(command.train_main, f"--config={mine}", "--help")
    assert code == 0 and "--config.data.name='sinusoid'" in out and "Methods" not in out
    _, out, _ = in_process(
        command.train_main, "--config", "configs/synthetic.py", "--config.outer_steps", "7", "--help"
    )
    assert "under drift" in out and "Methods" not in out and "--config.outer_steps=7" in out
    assert "--config.data.drift='recurring'" in out and "--config.gate.name='none'" in out
    code, out, _ = in_process(command.train_main, "--config=configs/nope.py", "--help")
    assert code == 0 and out.splitlines()[-1].startswith("error: --config names no file: configs/nope.py")


def test_train_starts_the_run_and_says_what_comes_next(in_process, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(training, "train", lambda *given, **more: calls.append(given))
    words = [
        "--config=synthetic",
        f"--workdir={tmp_path / 'my run'}",
        "--config.inner=optimized",
        f"--profile={tmp_path}",
    ]
    monkeypatch.chdir(tmp_path)  # a shipped config is known by its name everywhere
    code, out, err = in_process(command.main, "train", *words)
    assert (code, err) == (0, "") and out.endswith(f"next:    metapers evaluate --workdir='{tmp_path}/my run'\n")
    config, folder = calls[0]
    assert folder == tmp_path / "my run" and config.name == "synthetic users under drift"
    assert config.inner.name == "optimized" and config.profile == str(tmp_path) and config.is_locked
    code, out, _ = in_process(command.train_main, *words[:2])
    assert code == 0 and "python eval.py --workdir=" in out and calls[1][0].profile is None


@pytest.mark.parametrize(
    ("main", "program", "words", "again"),
    [
        (command.train_main, "train.py", [], [sys.executable, "train.py"]),
        (command.main, "/opt/my tools/metapers", ["train"], ["/opt/my tools/metapers", "train"]),
        (command.main, "/x/metapers/__main__.py", ["train"], [sys.executable, "-m", "metapers", "train"]),
    ],
)
def test_an_interrupted_run_says_how_to_go_on(in_process, tmp_path, monkeypatch, main, program, words, again):
    def interrupted(*given, **more):
        raise Interrupted("stopped by signal 15", 15)

    monkeypatch.setattr(training, "train", interrupted)
    given = ["--config=synthetic", "--config.name=two words", f"--workdir={tmp_path}"]
    code, _, err = in_process(main, *words, *given, program=program)
    first, hint = err.splitlines()
    assert code == 128 + 15 and first == "stopped by signal 15"
    assert hint.startswith("to go on:  ") and shlex.split(hint.partition(":  ")[2]) == [*again, *given]


@pytest.mark.parametrize(
    ("given", "plugins", "level"),
    [("", None, 2), ("--xla_dump_to=x", None, 2), ("--xla_backend_optimization_level=0", None, 0), ("", True, None)],
)
def test_programs_for_cpus_are_compiled_at_level_2_unless_another_is_given(monkeypatch, given, plugins, level):
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda name: plugins if name == "jax_plugins" else True)
    process._compiler()
    words = os.environ["XLA_FLAGS"].split()
    found = [int(word.rpartition("=")[2]) for word in words if word.startswith("--xla_backend_optimization_level=")]
    assert found == ([] if level is None else [level])
    assert [word for word in words if "level" not in word] == [word for word in given.split() if "level" not in word]


def test_ctrl_c_before_anything_is_saved_gives_one_line(in_process, tmp_path, monkeypatch):
    def stopped(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stopped)
    code, _, err = in_process(command.main, "train", "--config=synthetic", f"--workdir={tmp_path}")
    assert code == 130 and len(err.splitlines()) == 1


def test_a_sweep_ends_with_the_command_that_trains_the_best(in_process, tmp_path, monkeypatch):
    best = {"outer_steps": 3, "penalties": ("anchor", "ewc"), "inner.rates": "lslr"}
    monkeypatch.setattr(search, "run", lambda *given: best)
    given = ["--config.seeds=1", "--config.penalties=('anchor',)", "--config.outer_steps", "9"]
    for main, words, program in (
        (command.train_main, [], [sys.executable, "train.py"]),
        (command.main, ["train"], ["metapers", "train"]),
    ):
        code, out, _ = in_process(
            main, *words, SYNTHETIC, *given, "--workdir", str(tmp_path), "--sweep=outer_steps=3,4"
        )
        assert code == 0
        want = [SYNTHETIC, "--config.seeds=1", "--config.outer_steps=3", "--config.penalties=('anchor', 'ewc')"]
        want += ["--config.inner.rates=lslr", "--workdir=WORKDIR"]
        assert shlex.split(out.splitlines()[-1]) == ["best:", *program, *want]


def test_inspect_config_prints_every_key_and_every_note(in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--config=synthetic", "--config.arms=fine_tune", "--config.gate=learned", "--config.inner.steps=3"]
    code, out, err = in_process(command.main, "inspect-config", *words)
    assert code == 0 and err == ""
    lines = dict(line.split(" = ", 1) for line in out.splitlines() if " = " in line)
    config = arguments.config_of(arguments.split(["metapers", *words]))
    assert lines == {key: repr(value) for key, value in spec.tree.leaves(spec.check(config))}
    assert lines["gate.name"] == "'learned'" and lines["inner.steps"] == "3"
    assert [key for key in lines if key.startswith("arms.")] == [
        "arms.fine_tune.memory.name",
        "arms.fine_tune.penalties",
    ]
    assert [line for line in out.splitlines() if line.startswith("note: ")] == [
        f"note: {note}" for note in spec.unused(config)
    ]
    assert "note: penalties has no effect" in out
    code, out, err = in_process(command.main, "inspect-config", "--config=synthetic", "--config.learner=reptile")
    assert code == 1 and out == "" and err.startswith("error: inner.rates must be another member")


def test_list_prints_every_member_with_its_options(in_process):
    code, out, err = in_process(command.main, "list")
    assert code == 0 and err == ""
    for kind in kinds():
        assert f"\n{kind}: " in f"\n{out}"
        for name in registry(kind):
            assert f"\n  {name} " in out
            assert all(f"\n      {option} " in out for option in registry(kind).options(name))
    _, only, _ = in_process(command.main, "list", "--kind=penalty")
    assert only.startswith("penalty: ") and "\n  ewc " in only and "memory: " not in only
    _, page, _ = in_process(command.main, "list", "--markdown")
    assert page.startswith("# ") and all(f"## {kind}: " in page for kind in kinds())
    code, _, err = in_process(command.main, "list", "--kind=penalt")
    assert code == 1 and err.splitlines()[0].endswith("got 'penalt'; did you mean 'penalty'?")
    code, _, err = in_process(command.main, "list", SYNTHETIC)
    assert code == 2 and err.splitlines()[0] == "error: unknown option --config: list reads no config"


def test_migrate_config_prints_the_new_text_and_what_is_left_by_hand(in_process, tmp_path):
    old = tmp_path / "old.py"
    old.write_text(
        "from metapers import experiment\n\n\ndef get_config():\n"
        "    config = experiment.config_for('linear_gaussian', 'linear')\n    config.steps = 7\n    return config\n"
    )
    code, out, err = in_process(command.main, "migrate-config", str(old))
    assert (code, err) == (0, "") and "config.outer_steps = 7" in out and "spec.config_for(" in out
    assert "config.steps = 7" in old.read_text()
    for words, want, message in (
        ([], 2, "the old config file is missing"),
        ([str(old), "more"], 2, "unexpected argument 'more'"),
        ([str(tmp_path / "none.py")], 1, "No such file"),
    ):
        code, out, err = in_process(command.main, "migrate-config", *words)
        assert (code, out) == (want, "") and err.startswith("error: ") and message in err.splitlines()[0]


def test_a_plug_in_is_named_by_the_command_or_allowed(in_process, plugin, tmp_path):
    words = [
        "inspect-config",
        "--config=synthetic",
        "--config.penalties=acme_command",
        "--config.penalties.acme_command.weight=2",
    ]
    code, _, err = in_process(command.main, *words)
    assert code == 2 and "penalties must be one of" in err
    code, out, _ = in_process(command.main, *words, f"--config.plugins={plugin}")
    assert code == 0 and "penalties.acme_command.weight = 2.0" in out and f"plugins = ('{plugin}',)" in out
    code, out, _ = in_process(command.main, "list", "--kind=penalty", f"--plugin={plugin}")
    assert code == 0 and "acme_command" in out


def test_a_config_file_imports_its_plug_in_only_where_the_caller_allows_it(in_process, plugin, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from metapers import spec\n\n\ndef get_config():\n"
        f"    return spec.from_plain({{'plugins': ['{plugin}'], 'penalties': {{'acme_command': {{'weight': 2}}}}}})\n"
    )
    code, _, err = in_process(command.main, "inspect-config", f"--config={mine}")
    assert code == 2 and plugin not in sys.modules
    assert err.splitlines()[0].endswith(f"got '{plugin}'; --allow-plugin={plugin} imports it")
    for words in (("--help",), ("--help", f"--allow-plugin={plugin}"), (f"--allow-plugin={plugin}",)):
        code, out, _ = in_process(command.main, "inspect-config", f"--config={mine}", *words)
        allowed = words[-1] != "--help"
        assert code == 0 and ("penalties.acme_command.weight" in out) == allowed and (plugin in sys.modules) == allowed


# The process


def test_an_error_shows_its_place_only_when_asked(tmp_path, monkeypatch):
    for name in ("_quiet", "_cache"):
        monkeypatch.setattr(process, name, lambda: None)
    monkeypatch.setattr(metapers, "use_all_cores", lambda: 2)
    with pytest.raises(FileNotFoundError, match="no run in"):
        command.eval_main(["eval.py", f"--workdir={tmp_path}", "--traceback"])
    with pytest.raises(arguments.UsageError, match="--config names no file"):
        command.main(["metapers", "inspect-config", "--config=nope", "--traceback"])


@pytest.mark.parametrize(("given", "kept"), [("", 0.2), ("0", 7.0)])
def test_the_cache_keeps_what_took_a_while_unless_the_environment_says_otherwise(given, kept, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", given)
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    try:
        process._cache()
        assert jax.config.jax_persistent_cache_min_compile_time_secs == kept
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def test_the_cache_is_a_private_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "metapers" / "xla"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    before = jax.config.jax_compilation_cache_dir
    try:
        process._cache()
        assert jax.config.jax_compilation_cache_dir == str(folder) and folder.stat().st_mode & 0o777 == 0o700
        folder.rmdir()
        folder.write_text("a file")
        jax.config.update("jax_compilation_cache_dir", None)
        process._cache()
        assert jax.config.jax_compilation_cache_dir is None and "compiled anew" in capsys.readouterr().out
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_the_oldest_compiled_programs_are_removed_first(tmp_path):
    for number, size in enumerate((10, 20, 30)):
        path = tmp_path / f"program-{number}"
        path.write_bytes(b"x" * size)
        os.utime(path, (number, number))
    for most, left in ((60, {0, 1, 2}), (50, {1, 2}), (49, {2}), (0, set())):
        process.trim(tmp_path, most)
        assert {int(path.name[-1]) for path in tmp_path.iterdir()} == left


def test_the_programs_as_a_newcomer_calls_them():
    wanted = {
        ("train.py", "--help"): (0, "--workdir", ""),
        ("-m", "metapers", "inspect-config", "--config=nope"): (2, "", "error: --config names no file: nope; "),
    }
    started = [(runs.child(*words), want) for words, want in wanted.items()]
    for process_, (code, out, err) in started:
        told, wrong = process_.communicate(timeout=300)
        assert process_.returncode == code and out in told and wrong.startswith(err)
        assert bool(told) == bool(out) and len(wrong.splitlines()) == (2 if err else 0)


def test_cores_are_devices_only_before_jax_is_used():
    program = (
        "import metapers; assert metapers.use_all_cores(2) == 2\n"
        "import jax; jax.numpy.zeros(1)\n"
        "assert metapers.use_all_cores(2) == 2 == len(jax.devices())\n"
        "try: metapers.use_all_cores(3)\nexcept RuntimeError as error: print(error)\n"
    )
    with runs.child("-c", program) as child:
        out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert "already has 2 devices, wanted 3" in out
    with pytest.raises(ValueError, match="count must be >= 1, got -1"):
        metapers.use_all_cores(-1)


def test_what_a_librarys_thread_raises_is_not_shown_but_the_errors_of_the_command_are(capsys):
    error = RuntimeError("Event loop is closed")
    thread = threading.Thread(target=process._from_threads, args=(RuntimeError, error, None))
    thread.start()
    thread.join()
    assert capsys.readouterr().err == ""
    process._from_threads(RuntimeError, error, None)
    assert "Event loop is closed" in capsys.readouterr().err
