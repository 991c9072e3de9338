"""``metapers evaluate``: scores the versions of a workdir on held-out users and writes the report."""

import pathlib

from absl import flags

from metapers.command.process import Call, Command
from metapers.options import ConfigError

HELP = """Evaluates the versions of a workdir on held-out users: prints the table, writes records, pictures, the report.

  python eval.py --workdir=runs/mine
  python eval.py --workdir=runs/mine --arm=fine_tune --version=2 --shots=1,4,16 --steps=0,1,5
"""


def _define(own: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "a workdir that train.py has written", flag_values=own)
    flags.DEFINE_string("arm", "", "one arm; default: all of the run", flag_values=own)
    flags.DEFINE_integer("version", None, "one version's number, -1 the last; default: all", flag_values=own)
    flags.DEFINE_enum("split", "test", ["test", "validation"], "the users to evaluate on", flag_values=own)
    flags.DEFINE_list("steps", None, "inner steps to score after; default: the config's", flag_values=own)
    flags.DEFINE_list("shots", None, "support sizes; default: the config's", flag_values=own)


def _body(call: Call) -> int:
    from metapers.evaluation.evaluate_run import evaluate_run
    from metapers.report import report_of

    own, folder = call.flags, pathlib.Path(call.flags.workdir)
    found = evaluate_run(
        folder,
        arm=own.arm or None,
        version=own.version,
        split=own.split,
        steps=_numbers("steps", own.steps),
        shots=_numbers("shots", own.shots),
        plugins=own.allow_plugin,
    )
    if found is not None:
        print(f"report:  {report_of(folder)}")
    return 0


def _numbers(name: str, values: list[str] | None) -> tuple[int, ...]:
    if values is None:
        return ()
    try:
        return tuple(int(value) for value in values or [""])
    except ValueError:
        raise ConfigError(name, ",".join(values), "whole numbers with commas between them") from None


EVALUATE = Command("evaluate", HELP, _define, _body, needed=("workdir",), computes=True)
