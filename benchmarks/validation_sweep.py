"""Sweeps over validation users of all folds, never of test users: what chose the values in configs/.

    python benchmarks/validation_sweep.py                         # the candidates of configs/movielens.py
    python benchmarks/validation_sweep.py "mine: users=8, steps=600, continual.capacity=1024"
    python benchmarks/validation_sweep.py --config=configs/wisdm.py:maml --set data.path=FOLDER \\
        --rates 0.01,0.03,0.1,0.3                                 # the inner rate

A candidate is "name: key=value, …"; "strategy=naive" trains that strategy instead of continual (or of the config's
first), "config='gradient'" is another method of the same file. Prints, pooled over the folds' validation users, the
headline metric after the inner steps (and at the start) on the stages of the final version (mean over stages) and on
whole lives, and the fraction of users hurt by adapting.
"""

import argparse
import ast
import importlib.util
import pathlib
import sys
import time

import metapers

metapers.use_all_cores()

import numpy as np  # noqa: E402

from metapers.evaluate import NotFinite  # noqa: E402
from metapers.experiment import assembly, scoring, sweep  # noqa: E402
from metapers.experiment import config as configs  # noqa: E402
from metapers.records import DIVERGED  # noqa: E402
from metapers.scores import sign  # noqa: E402
from metapers.stage import Diverged  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
CANDIDATES = (
    "shipped:",
    "everybody adapts: learner.keep='always'",
    "fewer hurt: learner.least_move=0.0755",
    "descended: config='gradient'",
    "joint_so_far: strategy=joint_so_far",
    "naive: strategy=naive",
    "half the batch: users=8, continual.replayed=24, continual.draws=32",
    "weaker anchor: continual.anchor_strength=1e-3",
    "memory of 512: continual.capacity=512",
    "memory of 128: continual.capacity=128",
    "no memory, 64 fresh: strategy=naive, users=64",
    "longer stages: steps=600",
    "no item tables: model.tables=False",
    "faster item tables: optimizer.table.rate=0.3",
)


def shipped(path: str, method: str = ""):
    """The config of a file, "configs/wisdm.py:maml"; ``method`` in place of the one after the colon."""
    file, _, own = path.partition(":")
    spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, ROOT / file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(method or own) if method or own else module.get_config()


def parsed(text: str) -> tuple[str, dict]:
    """("name", {key: value}) of a candidate."""
    name, _, rest = text.partition(":")
    pairs = dict(part.strip().split("=", 1) for part in rest.split(",") if part.strip())
    return name, {key: value if key == "strategy" else ast.literal_eval(value) for key, value in pairs.items()}


def judged(path: str, given: dict, overrides: dict, fold: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(scores [users, (start, adapted)] of a fold's validation users, each one's stage or -1)."""
    config = shipped(path, overrides.get("config", ""))
    usual = "continual" if "continual" in config.strategies else config.strategies[0]
    head = config.evaluation
    fast = {"evaluation.shots": (head.headline_shots,), "evaluation.steps": (0, head.headline_steps)}
    fast |= {} if fold is None else {"data.fold": fold}
    changes = {key: value for key, value in overrides.items() if key not in ("config", "strategy")}
    config = configs.check(configs.merged(config, fast | given | changes))
    strategy = overrides.get("strategy", usual)
    parts = assembly.parts(config)
    params = sweep.lived(parts, [config], strategy)
    cohort = scoring.everyone(parts.stream, "validation", parts.stream.stages - 1)
    found = scoring.scorer(parts).curves(params, strategy, cohort)
    lost = found.scores.get(DIVERGED)
    if lost is not None:
        raise NotFinite(f"{int(lost.any(axis=(0, 2, 3)).sum())} of {len(cohort.stages)} users and stages diverged")
    return found.scores[config.evaluation.metric][:, :, 0].mean(axis=0), cohort.stages


def line(name: str, path: str, given: dict, overrides: dict, folds: list[int | None]) -> str:
    """A candidate's row; one that diverges says so."""
    began = time.monotonic()
    try:
        found = [judged(path, given, overrides, fold) for fold in folds]
    except (NotFinite, Diverged) as error:
        return f"{name:24}{type(error).__name__}: {error}"
    scores, stages = (np.concatenate(parts) for parts in zip(*found, strict=True))
    average = np.mean([scores[stages == stage].mean(axis=0) for stage in sorted(set(stages) - {-1})], axis=0)
    lives = scores[stages == -1]
    better = sign(shipped(path).evaluation.metric)
    hurt = np.mean(better * (lives[:, 1] - lives[:, 0]) < -1e-6)
    start, adapted = lives.mean(axis=0)
    return (
        f"{name:24}{average[1]:>9.4f}{average[0]:>9.4f}{adapted:>9.4f}{start:>9.4f}{hurt:>7.1%}"
        f"{time.monotonic() - began:>9.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="*", help='"name: key=value, …"; default: those of MovieLens')
    parser.add_argument("--config", default="configs/movielens.py")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every candidate")
    parser.add_argument("--rates", default="", help="values of learner.inner_rate, each a candidate")
    parser.add_argument("--folds", default="0,1,2,3,4")
    options = parser.parse_args()
    given = {key: _literal(value) for key, value in (one.split("=", 1) for one in options.set)}
    rates = [f"rate {rate}: learner.inner_rate={rate}" for rate in options.rates.split(",") if rate]
    folded = "fold" in shipped(options.config).data
    folds = [int(fold) for fold in options.folds.split(",")] if folded else [None]
    print(f"{options.config:24}{'stages':>9}{'(start)':>9}{'lives':>9}{'(start)':>9}{'hurt':>7}{'seconds':>9}")
    for text in [*options.candidates, *rates] or CANDIDATES:
        name, overrides = parsed(text)
        print(line(name, options.config, given, overrides, folds), flush=True)
    return 0


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    sys.exit(main())
