"""Studies: several runs of a config, each one resumed where it stopped, and the records of their folds pooled."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from metapers.evaluation import summary
from metapers.evaluation.evaluate_run import validation_records
from metapers.run.load import opened
from metapers.scoring import records
from metapers.spec import BASELINE, Config
from metapers.workdir import versions_of

REFERENCE = "item_user_bias"
"""The baseline against which a pooled study names the difference without the users who chose hyper-parameters."""


class Start(NamedTuple):
    """The version that a run begins with, and the run that leaves it."""

    run: "Run"
    arm: str
    number: int


class Run(NamedTuple):
    """One run of a study."""

    name: str  # for the terminal
    config: str  # as --config takes it: a file or a shipped name, a method behind a colon
    folder: Path  # the workdir
    overrides: tuple[str, ...] = ()  # words of the command line, "--config.KEY=VALUE"
    start: Start | None = None  # None: begins with a random initialisation, or as its config says


class Finished(NamedTuple):
    """A run that is trained and evaluated."""

    folder: Path
    summary: dict[str, Any]
    seconds_before: float = 0.0  # of training of the run whose version it begins with


class Pooled(NamedTuple):
    """The records of several folds together."""

    summary: dict[str, Any]  # as of one run, docs/summary.md; with "used" and "unused" of ``without_validation_users``
    test: pa.Table  # the test records
    config: Config  # of the first fold


def finish(run: Run, *, root: Path | None = None, say: Callable[[str], None] | None = None) -> Finished:
    """Trains and evaluates a run, or what is left of it; before it the run whose version it begins with.

    Each command runs in a process of its own, so runs share no compiled programs and no memory. A finished run is
    trained no further, but the command still compares its config.

    Args:
      run: what to finish.
      root: the folder in which the commands run, to which relative paths of configs refer; None: the current one.
      say: receives the seconds that the run took; None: they are printed.

    Raises:
      CalledProcessError: if a command fails; so does that of a workdir that holds a run of another config.
    """
    overrides, before = run.overrides, 0.0
    if run.start is not None:
        before = finish(run.start.run, root=root, say=say).summary["seconds"]["train"]
        version = versions_of(run.start.run.folder, run.start.arm) / str(run.start.number)
        overrides = (f"--config.start_from={version}", *overrides)
    began, done = time.monotonic(), run.folder / "summary.json"
    commands = [["train", f"--config={run.config}", f"--workdir={run.folder}", *overrides]]
    if not done.exists():
        commands.append(["evaluate", f"--workdir={run.folder}"])
    for command in commands:
        subprocess.run([sys.executable, "-m", "metapers", *command], cwd=root, check=True)
    (say or _print)(f"{run.name}: {time.monotonic() - began:.0f} s")
    return Finished(run.folder, json.loads(done.read_text()), before)


def pooled(finished: Sequence[Finished]) -> Pooled:
    """The summary of several folds of one config: each user is a test user of one fold.

    Args:
      finished: the runs, at least one; their configs differ in the fold alone.

    Raises:
      FileNotFoundError: for a folder that holds no run, or no records of test or validation users.
    """
    config = opened(finished[0].folder)
    test = pa.concat_tables([records.read_file(one.folder / "records" / "test.parquet") for one in finished])
    chosen = pa.concat_tables([validation_records(one.folder) for one in finished])
    found = summary.summarise(
        pa.concat_tables([test, chosen]),
        config,
        provenance=[one.summary["provenance"] for one in finished],
        seconds={
            part: sum(one.summary["seconds"][part] for one in finished) for part in finished[0].summary["seconds"]
        },
        periods=_periods(config),
        transductive=any(one.summary["transductive"] for one in finished),
        budgets=_budgets([one.summary["budget"] for one in finished]),
    )
    if REFERENCE in found["headline"]["baselines"]:
        found |= without_validation_users(test, chosen, config, found)
    return Pooled(found, test, config)


def without_validation_users(test: pa.Table, chosen: pa.Table, config: Config, found: dict[str, Any]) -> dict[str, Any]:
    """The paired differences without the test users who were validation users of another fold.

    Hyper-parameters were chosen on validation users, so these test users are not independent of the choice.

    Args:
      test: test records of all folds.
      chosen: validation records of all folds.
      config: of the folds.
      found: their summary.

    Returns:
      "used": the number of test users who are left out; "unused": by baseline the mean difference over the others,
      adapted minus the baseline, with its interval.
    """
    head, periods = found["headline"], _periods(config)
    view = summary.View(test, head["metric"], head["shots"], head["steps"], periods, config.evaluation.bootstrap)
    leader = {"arm": head["arm"], "steps": head["steps"], "version": periods - 1}
    where = {"period": summary.LIFE, "start": "fresh"}
    users, ours = records.per_user(view.test, view.metric, **leader, **where)
    others = ~np.isin(users, chosen["user"].unique().to_numpy(zero_copy_only=False))
    against = {REFERENCE: (REFERENCE, 0), "joint_model_fine_tuned": (BASELINE, head["steps"])}
    gaps = {
        name: view.paired(ours[:, others], view.life(*key)[:, others])
        for name, key in against.items()
        if view.has(key[0])
    }
    return {"used": int((~others).sum()), "unused": {name: gap._asdict() for name, gap in gaps.items()}}


def _budgets(folds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """By arm, the mean over folds of what its last version was trained with."""
    return {
        name: {part: float(np.mean([one[name][part] for one in folds])) for part in folds[0][name]}
        for name in folds[0]
        if all(name in one for one in folds)
    }


def _periods(config: Config) -> int:
    return config.data.get("periods", 1)


def _print(text: str) -> None:
    print(text, flush=True)  # before what the next command prints
