"""Compares candidates on validation users of all folds, never on test users: what chose the values in configs/.

    python benchmarks/validation_sweep.py                         # the candidates of configs/movielens.py
    python benchmarks/validation_sweep.py "mine: meta_batch=8, outer_steps=600, memory.capacity=512"
    python benchmarks/validation_sweep.py --config=configs/wisdm.py:maml --set data.path=FOLDER \\
        --rates 0.01,0.03,0.1,0.3                                 # the inner rate

A candidate is "name: key=value, …" with values as on a command line. "arm=fine_tune" trains that arm instead of
continual (or of the config's first), "config=gradient" is another method of the same file. Prints, pooled over the
validation users of the folds, the headline metric after the inner steps (and at the start): on the periods of the final
version (mean over periods), on whole histories, and the fraction of users who are worse adapted than at the start.
"""

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script
    sys.path.insert(0, str(ROOT))

import metapers  # noqa: E402

metapers.use_all_cores()

from metapers.command.arguments import file_config  # noqa: E402
from metapers.run.candidates import FAILED, evaluate, parse  # noqa: E402
from metapers.spec import Config  # noqa: E402

CANDIDATES = (
    "shipped:",
    "no gate: gate=none",
    "fewer adapt: gate.least=0.0755",
    "gradient steps: config=gradient",
    "cumulative: arm=cumulative",
    "fine_tune: arm=fine_tune",
    "half the batch: meta_batch=8, memory.replay_batch=24, memory.consolidation_batches=32",
    "weaker anchor: penalties.anchor.strength=1e-3",
    "memory of 512: memory.capacity=512",
    "memory of 128: memory.capacity=128",
    "no memory, 64 fresh: arm=fine_tune, meta_batch=64",
    "longer periods: outer_steps=600",
    "no item tables: model.tables=False",
    "faster item tables: optimizer.table.rate=0.3",
)


def shipped(path: str, method: str | None = None) -> Config:
    """The config of a file, "configs/wisdm.py:maml"; ``method`` in place of the one after the colon."""
    file, _, own = path.partition(":")
    file = str(ROOT / file) if (ROOT / file).is_file() else file
    return file_config(":".join(part for part in (file, method or own) if part))


def line(text: str, path: str, given: dict[str, str], folds: Sequence[int | None]) -> str:
    """A candidate's row; one that diverges says so."""
    began, candidate = time.monotonic(), parse(text)
    candidate = candidate._replace(given={**given, **candidate.given})
    try:
        found = evaluate(candidate, lambda method: shipped(path, method), folds)
    except FAILED as error:
        return f"{candidate.name:24}{type(error).__name__}: {error}"
    means = "".join(f"{value:>9.4f}" for value in found[:-1])
    return f"{candidate.name:24}{means}{found.worse:>7.1%}{time.monotonic() - began:>9.0f}"


def rate_key(config: Config) -> str:
    """The key of the inner rate."""
    return next(f"inner.{section}.rate" for section in ("rates", "optimizer") if section in config.inner)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="*", help='"name: key=value, …"; default: those of MovieLens')
    parser.add_argument("--config", default="configs/movielens.py")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every candidate")
    parser.add_argument("--rates", default="", help="values of the inner rate, each a candidate")
    parser.add_argument("--folds", default="0,1,2,3,4")
    options = parser.parse_args()
    given = dict(one.split("=", 1) for one in options.set)
    config = shipped(options.config)
    rates = [f"rate {rate}: {rate_key(config)}={rate}" for rate in options.rates.split(",") if rate]
    folds = [int(fold) for fold in options.folds.split(",")] if "fold" in config.data else [None]
    titles = f"{'periods':>9}{'(start)':>9}{'whole':>9}{'(start)':>9}{'worse':>7}{'seconds':>9}"
    print(f"{options.config:24}{titles}")
    for text in [*options.candidates, *rates] or CANDIDATES:
        print(line(text, options.config, given, folds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
