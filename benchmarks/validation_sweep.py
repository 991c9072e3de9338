"""The sweep over validation users that chose configs/movielens.py: candidates on all five folds, never on test users.

    python benchmarks/validation_sweep.py                         # the candidates of the shipped config
    python benchmarks/validation_sweep.py "mine: users=8, steps=600, continual.capacity=1024"

A candidate is "name: key=value, …"; "strategy=naive" trains that strategy instead of continual. Prints, pooled over
the folds' validation users, the RMSE after the inner steps (and at the start) on the stages of the final version
(mean over stages) and on whole lives, and the fraction of users hurt by adapting.
"""

import ast
import importlib.util
import pathlib
import sys
import time

import metapers

metapers.use_all_cores()

import numpy as np  # noqa: E402

from metapers.experiment import assembly, scoring, sweep  # noqa: E402
from metapers.experiment import config as configs  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDS = range(5)
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


def shipped(method: str):
    spec = importlib.util.spec_from_file_location("movielens", ROOT / "configs" / "movielens.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(method)


def parsed(text: str) -> tuple[str, str, dict]:
    name, _, rest = text.partition(":")
    pairs = dict(part.strip().split("=", 1) for part in rest.split(",") if part.strip())
    strategy = pairs.pop("strategy", "continual")
    return name, strategy, {key: ast.literal_eval(value) for key, value in pairs.items()}


def judged(strategy: str, overrides: dict, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """(RMSE [users, (start, adapted)] of a fold's validation users, each one's stage or -1)."""
    config = shipped(overrides.get("config", "bayes"))
    fast = {"data.fold": fold, "evaluation.shots": (16,), "evaluation.steps": (0, config.evaluation.headline_steps)}
    changes = {key: value for key, value in overrides.items() if key != "config"}
    config = configs.merged(config, fast | changes)
    parts = assembly.parts(config)
    params = sweep.lived(parts, [config], strategy)
    cohort = scoring.everyone(parts.stream, "validation", parts.stream.stages - 1)
    found = scoring.scorer(parts).curves(params, strategy, cohort)
    return found.scores[config.evaluation.metric][:, :, 0].mean(axis=0), cohort.stages


def main() -> None:
    print(f"{'':24}{'stages':>9}{'(start)':>9}{'lives':>9}{'(start)':>9}{'hurt':>7}{'seconds':>9}")
    for text in sys.argv[1:] or CANDIDATES:
        name, strategy, overrides = parsed(text)
        began = time.monotonic()
        folds = [judged(strategy, overrides, fold) for fold in FOLDS]
        scores, stages = (np.concatenate(parts) for parts in zip(*folds, strict=True))
        average = np.mean([scores[stages == stage].mean(axis=0) for stage in sorted(set(stages) - {-1})], axis=0)
        lives = scores[stages == -1]
        hurt = np.mean(lives[:, 1] > lives[:, 0] + 1e-6)
        start, adapted = lives.mean(axis=0)
        print(
            f"{name:24}{average[1]:>9.4f}{average[0]:>9.4f}{adapted:>9.4f}{start:>9.4f}{hurt:>7.1%}"
            f"{time.monotonic() - began:>9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
