"""The commands of the program: ``metapers COMMAND``, ``python -m metapers COMMAND``, train.py and eval.py."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import metapers
from metapers.command.evaluate import EVALUATE
from metapers.command.inspect_config import INSPECT_CONFIG
from metapers.command.list_members import LIST
from metapers.command.migrate_config import MIGRATE_CONFIG
from metapers.command.process import Command, run
from metapers.command.train import TRAIN
from metapers.options import nearest

COMMANDS: dict[str, Command] = {one.name: one for one in (TRAIN, EVALUATE, LIST, INSPECT_CONFIG, MIGRATE_CONFIG)}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The program ``metapers``; never returns."""
    argv = list(sys.argv if argv is None else argv)
    name = argv[1] if len(argv) > 1 else "--help"
    if name in COMMANDS:
        program = [sys.executable, "-m", "metapers"] if argv[0].endswith("__main__.py") else [argv[0]]
        run(COMMANDS[name], argv[1:], [*program, name])
    if name == "--version":
        print(metapers.__version__)
        raise SystemExit(0)
    if name in ("--help", "-h", "help"):
        listed = "\n".join(f"  {one.name:16}{one.help.splitlines()[0]}" for one in COMMANDS.values())
        print(f"metapers COMMAND --help says more.\n\n{listed}")
        raise SystemExit(0)
    hint = nearest(name, COMMANDS) or f"commands are {', '.join(COMMANDS)}"
    print(f"error: unknown command {name!r}; {hint}", file=sys.stderr)
    raise SystemExit(2)


def train_main(argv: Sequence[str] | None = None) -> NoReturn:
    """The program train.py; never returns."""
    run(TRAIN, list(sys.argv if argv is None else argv))


def eval_main(argv: Sequence[str] | None = None) -> NoReturn:
    """The program eval.py; never returns."""
    run(EVALUATE, list(sys.argv if argv is None else argv))
