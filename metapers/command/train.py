"""``metapers train``: trains every arm of a config, or searches over values of its keys."""

import pathlib
import shlex

from absl import flags

from metapers.command import arguments
from metapers.command.process import Call, Command

HELP = """Trains every arm of a config, period by period, into a workdir.

  python train.py --config=configs/movielens.py --workdir=runs/mine
  python train.py --config=configs/movielens.py --workdir=runs/mine --config.inner.steps=3
  python train.py --config=configs/movielens.py --workdir=runs/sweep --sweep=optimizer.param.rate=0.003,0.01
  python train.py --config=configs/movielens.py --help      what this config is, its methods, its keys and their values

`metapers train` is the same command; it knows the shipped configs by name: metapers train --config=synthetic …
The same command on the same workdir goes on where it was, bit for bit. Then: python eval.py --workdir=runs/mine
"""


def _define(own: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "where everything of the run is written", flag_values=own)
    flags.DEFINE_string("profile", None, "a folder to write a JAX trace of the run to", flag_values=own)
    flags.DEFINE_multi_string("sweep", [], "key=value,value,…: runs every combination, ranks it", flag_values=own)


def _body(call: Call) -> int:
    from metapers.run import search, training
    from metapers.spec import check

    config = arguments.config_of(call.words, call.flags.allow_plugin)
    config.profile = call.flags.profile or config.profile
    config, workdir = check(config), pathlib.Path(call.flags.workdir)
    if call.flags.sweep:
        best = search.run(config, call.flags.sweep, workdir)
        replaced = {"sweep", "workdir", *(f"{no}config.{key}" for key in best for no in ("", "no"))}
        kept = [word for name, words in arguments.flags_of(call.argv) if name not in replaced for word in words]
        chosen = [f"--config.{key}={value}" for key, value in best.items()]
        print(f"best:  {shlex.join([*call.program, *kept, *chosen, '--workdir=WORKDIR'])}")
        return 0
    training.train(config, workdir, compile_ahead=True)
    evaluate = "python eval.py" if call.argv[0].endswith(".py") else "metapers evaluate"
    print(f"\ntrained: {workdir}\nnext:    {evaluate} --workdir={shlex.quote(str(workdir))}")
    return 0


TRAIN = Command("train", HELP, _define, _body, needed=("config", "workdir"), computes=True)
