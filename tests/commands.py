"""The programs called in this process, and a plug-in for them: fixtures of the tests of commands."""

import sys

import pytest

import metapers
from metapers import command
from metapers.command import process
from metapers.members import registry

SYNTHETIC = "--config=configs/synthetic.py"


@pytest.fixture
def in_process(monkeypatch, capsys):
    """A program called in this process: (exit code, output, errors); what only a fresh process may do is left out."""
    for name in ("_quiet", "_cache"):
        monkeypatch.setattr(process, name, lambda: None)
    monkeypatch.setattr(metapers, "use_all_cores", lambda: 2)

    def call(main, *words, program=None):
        names = {command.main: "metapers", command.train_main: "train.py", command.eval_main: "eval.py"}
        with pytest.raises(SystemExit) as stopped:
            main([program or names[main], *map(str, words)])
        told = capsys.readouterr()
        assert "Traceback" not in told.err + told.out
        return stopped.value.code, told.out, told.err

    return call


PLUGIN = """
from metapers.members import Member, register
from metapers.options import Option
from metapers.penalties import none

register("penalty", "acme_command", Member(lambda weight: none(), {"weight": Option(above=0.0)}, doc="an example"))
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The name of a module that registers the penalty acme_command; afterwards it is gone."""
    name = "acme_of_commands"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry("penalty"), "_members", dict(registry("penalty")._members))
    monkeypatch.setattr(registry("penalty"), "modules", dict(registry("penalty").modules))
    yield name
    sys.modules.pop(name, None)
