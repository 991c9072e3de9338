"""The whole of an evaluation: every version and every baseline on held-out users, to records, summary and report."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metapers import held_out, store, trees, workdir
from metapers.base import Params, Tree
from metapers.evaluation import choices, printing, summary
from metapers.journal import Meter, meter
from metapers.run import lineage, resume, setup
from metapers.run.load import load_params, opened, tuned
from metapers.scoring import baselines, records
from metapers.scoring import scorer as scoring
from metapers.scoring.scorer import Scorer
from metapers.spec import BASELINE, Components, Config, arms
from metapers.spec.arms import arm_of
from metapers.spec.inner_loops import tuning_grid
from metapers.workdir import TUNED, versions_of


def evaluate_run(
    folder: Path,
    *,
    arm: str | None = None,
    version: int | None = None,
    split: str = "test",
    steps: tuple[int, ...] = (),
    shots: tuple[int, ...] = (),
    say: Callable[[str], None] = print,
    plugins: Sequence[str] = (),
) -> dict | None:
    """Scores a run's versions and the baselines on ``split``; writes records and summary.json.

    With ``arm`` or ``version`` only those are scored, with ``steps`` or ``shots`` the grid is another than the
    config's, and on the validation split nothing is summarised: such a look says its table, puts its records under
    ``looks/`` and returns None. Each use of the test split adds a line to ``test_uses.jsonl``.

    Raises:
      FileNotFoundError: if the folder holds no run, or not the version asked for, or a version is missing or what
        training wrote of the validation users with it.
      ValueError: for an unknown arm, shots or steps out of range, or other data than the run was started on.
      CorruptVersion: if a version is not what was saved.
      WorkdirInUse: if another process trains or judges there.
    """
    began = time.monotonic()
    config = opened(folder, plugins)
    found = existing(folder, config, arm, version)
    for name, asked, least in (("shots", shots, 1), ("steps", steps, 0)):
        if min(asked, default=least) < least:
            raise ValueError(f"{name} must be >= {least}, got {min(asked)}")
    part = arm is not None or version is not None
    look = part or bool(steps) or bool(shots) or split != "test"
    with workdir.lock(folder), lineage.compile_clock() as clock:
        lineage.say_reading(config)
        components = setup.components(config)
        resume.same_data(components, Path(folder))
        if not look:
            whole(folder, found, components)
        scorer = scoring.scorer(components, shots=shots, steps=steps)
        log_use(folder, split, arm, version)
        name = f"{split}-{arm or 'all'}-{'all' if version is None else version}"
        for kind, asked in (("shots", shots), ("steps", steps)):
            name += f"-{kind}-{_listed(asked)}" if asked else ""
        place = f"looks/{name}.parquet" if look else "records/test.parquet"
        with records.Writer(folder / place, None if look else summary.needed(config)) as written:
            chosen = scored(folder, scorer, found, split, part, written, keep=not (steps or shots))
        scorer.forget()
        if look:
            say(printing.plain_table(written.kept(), config, split))
            return None
        seconds = lineage.add_seconds(folder, "evaluate", seconds=time.monotonic() - began, compile_seconds=clock())
        return summarised(folder, scorer, written.kept(), chosen, seconds, say)


def _listed(numbers: tuple[int, ...]) -> str:
    text = "-".join(map(str, numbers))
    if len(text) <= 60:
        return text
    return f"{numbers[0]}-to-{numbers[-1]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"  # a file's name is short


def scored(
    folder: Path,
    scorer: Scorer,
    found: dict[str, list[int]],
    split: str,
    part: bool,
    written: records.Writer,
    *,
    keep: bool,
) -> dict[str, dict[str, Any]]:
    """Writes records of the versions in ``found`` and of the baselines; of the initialisation too, unless it is a part.

    ``keep``: the rates that were chosen on an arm's last period are what serving tunes at from now on.

    Returns:
      What validation users chose: name -> option -> ``choices.of``.
    """
    names = [] if part else [name for name in found if name != BASELINE]
    total = sum(len(numbers) + len(rates_to_try(scorer, name)) for name, numbers in found.items()) + len(names) + 1
    with (
        ThreadPoolExecutor(1, "baselines") as beside,  # NumPy's work and XLA's take turns on few cores
        meter(total, title=f"evaluate on {split}", shown=scorer.components.config.progress) as progress,
    ):
        progress.waiting("compiling")
        simple = beside.submit(baselines.of_baselines, scorer, split)
        rates = {name: tuning_rate(folder, scorer, name, progress) for name in found}
        ended = [name for name in found if finished(folder, name, scorer.components.stream.periods)]
        if keep and ended:
            workdir.write_json(folder / TUNED, tuned(folder) | {name: rates[name] for name in ended if rates[name]})
        for name, numbers in found.items():
            written.write(of_arm(folder, scorer, name, numbers, split, rates[name], progress))
        started = None  # arms that adapt have one inner loop, so their initialisation is scored once
        everyone = scorer.everyone(split)
        for name in names:
            adapts = scorer.components.arms[name].adapts
            if not adapts or started is None:
                started = scorer.curves(scorer.initial(), name, everyone, None, rates[name])
            # version -1: what forward transfer is measured from
            written.write(scorer.blocks(started, name, everyone, split=split, version=-1))
            started = started if adapts else None
            progress.advance(1, f"{name}, initialisation")
        more, fitted = simple.result()
        written.write(baselines.blocks(scorer, more, split))
        progress.advance(1, "baselines")
    chosen = {name: {"rate": choices.of(rate, rates_to_try(scorer, name))} for name, rate in rates.items() if rate}
    return chosen | choices.of_baselines(fitted)


def summarised(
    folder: Path,
    scorer: Scorer,
    table: pa.Table,
    chosen: Mapping[str, Mapping[str, Any]],
    seconds: dict[str, float],
    say: Callable[[str], None],
) -> dict:
    """Writes summary.json from the records of all versions, and prints the tables."""
    config, stream = scorer.components.config, scorer.components.stream
    found = summary.summarise(
        records.pooled([records.slim(table), records.slim(validation_records(folder, summary.needed(config)))]),
        config,
        provenance=[dict(stream.provenance)],
        seconds=seconds,
        periods=stream.periods,
        transductive=scorer.transductive(),
        chosen=chosen,
        budgets=budgets(folder, scorer),
    )
    workdir.write_json(folder / "summary.json", found)
    say(printing.text(found))
    for line in (*choices.edges(found["chosen"]), *choices.worse_rows(found)):
        say(f"\n{line}")
    say(f"\nsummary: {Path(folder) / 'summary.json'}")
    return found


def budgets(folder: Path, scorer: Scorer) -> dict[str, dict[str, float]]:
    """What the last version of each arm was trained with, and the seconds of all its periods."""
    found = {}
    for name in scorer.components.arms:
        told = [store.read_record(versions_of(folder, name), number)["lineage"] for number in _numbers(folder, name)]
        if told:
            found[name] = told[-1]["budget"] | {"seconds": round(sum(one["seconds"] for one in told), 3)}
    return found


def _numbers(folder: Path, name: str) -> list[int]:
    return store.versions(versions_of(folder, name))


def existing(folder: Path, config: Config, arm: str | None, version: int | None) -> dict[str, list[int]]:
    """The finished versions to judge by arm, or FileNotFoundError naming what is missing."""
    names = list(arms(config))
    if arm:
        names = [arm_of(config, "arm", arm).name]
    found = {name: store.versions(versions_of(folder, name)) for name in names}
    for name, numbers in found.items():
        if not numbers:
            raise FileNotFoundError(f"{versions_of(folder, name)} holds no finished version; train.py goes on there")
        if version is not None:
            chosen = numbers[-1] if version == -1 else version
            if chosen not in numbers:
                if arm:
                    raise FileNotFoundError(f"version must be one of {numbers} of {name}, got {version}")
                numbers.clear()
            else:
                numbers[:] = [chosen]
    found = {name: numbers for name, numbers in found.items() if numbers}
    if not found:
        raise FileNotFoundError(f"no arm of {folder} has a version {version}")
    return found


def whole(folder: Path, found: dict[str, list[int]], made: Components) -> None:
    """Refuses a run without a version for every period, or one that has lost a version's validation records, which
    choose what the report shows."""
    periods = made.stream.periods
    for name, numbers in found.items():
        wanted = {number for number in range(periods) if made.arms[name].saves(number, periods)}
        missing = sorted(wanted - set(numbers))
        if missing:
            raise FileNotFoundError(
                f"{versions_of(folder, name)} must hold versions {sorted(wanted)}, got {numbers} without {missing}: "
                f"train.py goes on there, or judge what there is (--arm={name})"
            )
        for number in numbers:
            path = Path(folder) / "records" / f"validation-{name}-{number}.parquet"
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} is missing, which training writes with version {number} of {name}: "
                    f"copy the run's whole folder, or judge a part of it (--arm={name})"
                )


def finished(folder: Path, name: str, periods: int) -> bool:
    """Whether an arm has its version of the last period."""
    return periods - 1 in store.versions(versions_of(folder, name))


def of_arm(
    folder: Path, scorer: Scorer, name: str, numbers: list[int], split: str, rate: float | None, progress: Meter
) -> Iterator[pa.Table]:
    """Records of an arm's versions: fresh starts everywhere, stored rows for those who return in its newest period."""
    bank, cohort = Rows(scorer, name, split), scorer.everyone(split)
    before: tuple[Params, records.Curves] | None = None
    for number in store.versions(versions_of(folder, name)):
        if number > numbers[-1]:
            break
        params = load_params(folder, name, number)
        if number in numbers:
            if before is None or not trees.equal(before[0], params):  # equal: of an arm that trains no further
                before = params, scorer.curves(params, name, cohort, None, rate)
            yield from scorer.blocks(before[1], name, cohort, split=split, version=number)
            yield from bank.returned(params, number, rate)
            progress.advance(1, f"{name}, version {number}")
        if number < numbers[-1]:
            bank.adapt(params, number)


class Rows:
    """The stored rows of an arm's held-out users: what adapting left of each in the last period they were there."""

    def __init__(self, scorer: Scorer, name: str, split: str):
        """
        Args:
          scorer: of the run.
          name: the arm.
          split: whose users.
        """
        self.scorer, self.name, self.split = scorer, name, split
        self.wanted = scorer.components.config.bank and scorer.components.arms[name].adapts
        self.users = np.unique(scorer.everyone(split, lives=False).users)
        self.there = np.zeros(len(self.users), bool)
        self.personal: Tree = None  # leaves [seeds, users, ...]

    def adapt(self, params: Params, period: int) -> None:
        """Adapts the users of a period to their support there, by the version that the period left."""
        cohort = self.scorer.components.stream.held_out(self.split, period)
        if not self.wanted or not len(cohort.users):
            return
        found = self.scorer.adapted(params, self.name, cohort)
        if self.personal is None:
            count = len(self.users)
            self.personal = jax.tree.map(lambda leaf: np.zeros((len(leaf), count, *leaf.shape[2:]), leaf.dtype), found)
        place = np.searchsorted(self.users, cohort.users)
        for kept, new in zip(jax.tree.leaves(self.personal), jax.tree.leaves(found), strict=True):
            kept[:, place] = new
        self.there[place] = True

    def returned(self, params: Params, period: int, rate: float | None) -> Iterator[pa.Table]:
        """Records of the users who return in a period, started from their stored rows."""
        cohort = self.scorer.components.stream.held_out(self.split, period)
        place = np.searchsorted(self.users, cohort.users)
        if not self.wanted or not self.there[place].any():
            return
        cohort = held_out.take(cohort, np.flatnonzero(self.there[place]))
        rows = jax.tree.map(lambda leaf: leaf[:, place[self.there[place]]], self.personal)
        found = self.scorer.curves(params, self.name, cohort, rows, rate)
        yield from self.scorer.blocks(found, self.name, cohort, split=self.split, version=period, start="banked")


def rates_to_try(scorer: Scorer, name: str) -> tuple[float, ...]:
    """The rates, or weights, that an arm without an inner loop may be tuned at; none for one that has its own."""
    return () if scorer.components.arms[name].adapts else tuning_grid(scorer.components.config)


def tuning_rate(folder: Path, scorer: Scorer, name: str, progress: Meter | None = None) -> float | None:
    """The one of ``rates_to_try`` with the best score on validation users for the arm's last version; None where
    there is no choice. Each that was tried is one more done in ``progress``."""
    grid = rates_to_try(scorer, name)
    if not grid:
        return None
    params = load_params(folder, name, store.versions(versions_of(folder, name))[-1])
    judges = scorer.components.stream.held_out("validation", None)

    def score(rate: float) -> float:
        found = scorer.validation_score(params, name, judges, rate)
        if progress is not None:
            progress.advance(1, f"{name}, tuned at {rate:g} on validation users")
        return found

    return max(grid, key=score)


def validation_records(folder: Path, where: pc.Expression | None = None) -> pa.Table:
    """What training wrote of the validation users, or what is asked for: it chooses between starts."""
    files = sorted((Path(folder) / "records").glob("validation-*-[0-9]*.parquet"))
    return pa.concat_tables([records.read_file(path, where) for path in files])


def log_use(folder: Path, split: str, arm: str | None, version: int | None) -> None:
    """One more line in the ledger of looks at the test users."""
    if split == "test":
        use = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "arm": arm, "version": version}
        workdir.append_line(Path(folder) / "test_uses.jsonl", json.dumps(use | {"revision": lineage.revision()}))
