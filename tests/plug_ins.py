"""The members of tests/one_file: by themselves, and as a package ``acme`` that commands find."""

import importlib.util
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from metapers import members
from metapers.members import Member
from tests import runs

FILES = runs.ROOT / "tests" / "one_file"
KINDS = ("penalty", "memory", "inner_loop", "learner", "model", "source", "baseline")


class Registered(NamedTuple):
    """What a file of ``FILES`` registers."""

    module: ModuleType
    kind: str
    name: str
    member: Member


def registered(kind: str) -> Registered:
    """The one member of a file. It does not stay in the registry, where other tests would find it."""
    found: list[tuple[str, str, Member]] = []
    place = importlib.util.spec_from_file_location(f"one_file_{kind}", FILES / f"{kind}.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "register", lambda *given: found.append(given))
        place.loader.exec_module(module)
    ((kind, name, member),) = found
    return Registered(module, kind, name, member)


SERVER = """
import gc, json, os, sys
import jaxlib.mlir.dialects.mhlo  # what JAX imports when it lowers its first program
import metapers.command as command
import metapers.evaluation.evaluate_run, metapers.report, metapers.run.training, metapers.spec.reference
programs = {"train.py": command.train_main, "eval.py": command.eval_main, "metapers": command.main}
gc.collect()
gc.freeze()  # or every child copies all modules at its end, to collect them: a second each
for line in sys.stdin:
    argv, out, err, path = json.loads(line)
    child = os.fork()  # before JAX is used: it has no threads yet
    if child == 0:
        sys.path[:0] = path
        for number, path in ((0, os.devnull), (1, out), (2, err)):
            os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT), number)
        programs[argv[0]](argv)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs commands in processes of their own, and imports for all of them once."""


class Commands:
    """Commands as a shell would start them, where the package ``acme`` is on the path; ``path``: more before it."""

    def __init__(self, server: subprocess.Popen[str], folder: Path):
        self.server, self.folder = server, folder

    def begin(self, *argv: object, path: Sequence[str] = ()) -> int:
        """Starts a command; its process."""
        assert self.server.stdin is not None
        self.out, self.err = (self.folder / f"{time.monotonic_ns()}.{name}" for name in ("out", "err"))
        self.server.stdin.write(json.dumps([[*map(str, argv)], str(self.out), str(self.err), path]) + "\n")
        self.server.stdin.flush()
        return int(self._line())

    def end(self) -> tuple[int, str, str]:
        """(exit code, output, errors) of the command that was started."""
        return int(self._line()), self.out.read_text(), self.err.read_text()

    def __call__(self, *argv: object, path: Sequence[str] = ()) -> tuple[int, str, str]:
        self.begin(*argv, path=path)
        return self.end()

    def _line(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline()


def package(folder: Path) -> Path:
    """A folder with the package ``acme``, of the seven files."""
    shutil.copytree(FILES, folder / "acme", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "acme" / "__init__.py").touch()
    return folder
