"""Records to the numbers that people and scripts read: summary.json and the tables of the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metapers import scores
from metapers.members import registry
from metapers.scores import Interval, sign
from metapers.scoring import records
from metapers.spec import BASELINE, Config, arms, leading

LIFE = -1  # the evaluated period of a whole life
BOUNDS = ("cumulative", "upper_bound")
"""Arms that train on all periods so far: with the leader's number of user-tasks, and until they converge."""


def summarise(
    table: pa.Table,
    config: Config,
    *,
    provenance: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    periods: int,
    transductive: bool = False,
    chosen: Mapping[str, Mapping[str, Any]] | None = None,
    budgets: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """The content of summary.json (docs/summary.md) from the records of one run, or of several folds pooled.

    ``table`` holds the test records and, for the choice of ``unadapted``, the validation records of the same runs.
    Every interval is 95 % over test users, resampled as whole persons; seeds are averaged first. ``chosen``: what
    validation users chose (``evaluation.choices``). ``budgets``: what each arm's last version was trained with.
    """
    head = config.evaluation
    view = View(table, head.metric, head.headline_shots, head.headline_steps, periods, head.bootstrap)
    present = [name for name in arms(config) if view.has(name)]
    leader = leading(config) if leading(config) in present else present[0]
    adapted = view.life(leader, view.steps)
    continual = {name: view.continual(name, view.steps) for name in present if name != BASELINE}
    return {
        "schema_version": records.SCHEMA_VERSION,
        "as_of": config.as_of,
        "name": config.name,
        "headline": _headline(view, leader, adapted, present),
        "shares": {
            name: _shares(table, view, leader, against, head.tolerance)
            for name, against in (("start", leader), ("item_user_bias", "item_user_bias"))
            if view.has(against)
        },
        "continual": {name: {key: value.mean for key, value in found.items()} for name, found in continual.items()},
        "continual_intervals": {
            name: {key: _interval(value) for key, value in found.items()} for name, found in continual.items()
        },
        "budget": {name: dict(spent) for name, spent in (budgets or {}).items()},
        "continual_at_start": {
            name: {key: value.mean for key, value in view.continual(name, 0).items()} for name in continual
        },
        "gap": _gap(view, leader, list(continual)),
        "definitions": scores.DEFINITIONS,
        "matrix": {name: view.matrix(name).tolist() for name in continual if view.complete(name)},
        "periods": _periods(view, present, periods),
        "banked": _banked(view, leader),
        "regret": _regret(view, present),
        "short": view.short(leader),
        "diverged": _diverged(view, table, leader),
        "transductive": transductive,
        "chosen": {name: dict(options) for name, options in (chosen or {}).items()},
        "users": {"test": int(adapted.shape[-1])},
        "seconds": {part: float(seconds.get(part, 0.0)) for part in ("train", "evaluate", "compile")},
        "provenance": provenance[0] if len(provenance) == 1 else list(provenance),
        "seeds": [config.seed + i for i in range(config.seeds)],
        "folds": sorted(set(view.test["fold"].to_pylist())),
    }


def needed(config: Config) -> pc.Expression:
    """The records that a summary reads.

    They are the headline's metric at its shots, at the start and after its steps; the halves of whole histories; and
    where adapting ran away.
    """
    head = config.evaluation
    shown = (pc.field("shots") == head.headline_shots) & pc.field("steps").isin([0, head.headline_steps])
    halves = pc.field("metric").isin(list(records.HALVES)) & (pc.field("period") == LIFE)
    lost = (pc.field("metric") == records.DIVERGED) & (pc.field("value") > 0)
    return (shown & ((pc.field("metric") == head.metric) | halves)) | lost


class View:
    """Per-user scores by arm from a table of records, at a fixed metric, shots and headline steps."""

    def __init__(self, table: pa.Table, metric: str, shots: int, steps: int, periods: int, draws: int):
        rows = table.filter((pc.field("metric") == metric) & (pc.field("shots") == shots))
        self.test = rows.filter(pc.field("split") == "test")
        self.validation = rows.filter(pc.field("split") == "validation")
        self.metric, self.shots, self.steps, self.periods, self.draws = metric, shots, steps, periods, draws
        each = self.test.select(["arm", "version"]).group_by(["arm", "version"]).aggregate([])
        self.versions = {name: set[int]() for name in each["arm"].to_pylist()}
        for arm, version in zip(each["arm"].to_pylist(), each["version"].to_pylist(), strict=True):
            self.versions[arm].add(version)

    def has(self, name: str) -> bool:
        """Whether an arm or baseline has test records."""
        return name in self.versions

    def life(self, name: str, steps: int) -> np.ndarray:
        """[seeds, users]: the last version's score on whole lives, users in the order of their hash."""
        return self.at(name, steps, LIFE)

    def at(self, name: str, steps: int, period: int) -> np.ndarray:
        """[seeds, users]: the last version's score on a period's users, from a fresh start."""
        where = {"version": self.periods - 1, "period": period, "start": "fresh"}
        return records.per_user(self.test, self.metric, arm=name, steps=steps, **where)[1]

    def validated(self, name: str, steps: int) -> float:
        """Mean of the last version's score on validation users' lives; in pooled folds a user stands several times."""
        last = (pc.field("arm") == name) & (pc.field("version") == self.periods - 1)
        rows = self.validation.filter(last & (pc.field("steps") == steps) & (pc.field("period") == LIFE))
        return float(np.mean(rows["value"].to_numpy()))

    def mean(self, values: np.ndarray) -> Interval:
        """Mean over users with its interval."""
        return scores.mean_interval(values, draws=self.draws)

    def paired(self, a: np.ndarray, b: np.ndarray) -> Interval:
        """Mean of a - b over the same users with its interval."""
        return scores.paired(a, b, draws=self.draws)

    def complete(self, name: str) -> bool:
        """Whether an arm left a version after every period."""
        return set(range(self.periods)) <= self.versions.get(name, set())

    def scored(self, name: str, steps: int) -> scores.Scored:
        """Signed scores of every version on every period; an arm with one version has it in all rows."""
        table = self.test if self.complete(name) else _repeated(self.test, name, self.periods)
        return records.scored_of(table, arm=name, metric=self.metric, shots=self.shots, steps=steps)

    def continual(self, name: str, steps: int) -> dict[str, Interval]:
        """The continual metrics of an arm with intervals; ``average`` alone for an arm with its last version alone."""
        found = scores.continual_metrics(self.scored(name, steps), draws=self.draws)
        return found if self.complete(name) else {"average": found["average"]}

    def matrix(self, name: str) -> np.ndarray:
        """The unsigned score [steps in (0, headline), trained period, evaluated period], mean over seeds and users."""
        cells = [
            records.matrix_of(self.test, arm=name, metric=self.metric, shots=self.shots, steps=steps)[0]
            for steps in (0, self.steps)
        ]
        return sign(self.metric) * np.stack(cells).mean(axis=1)

    def short(self, name: str) -> int:
        """Test users with fewer examples to adapt on than the headline's shots, all periods and lives together."""
        last = (pc.field("arm") == name) & (pc.field("version") == self.periods - 1)
        once = (pc.field("steps") == 0) & (pc.field("start") == "fresh")
        return _users_and_periods(self.test.filter(last & once & (pc.field("n_support") < self.shots)))


def _repeated(table: pa.Table, name: str, periods: int) -> pa.Table:
    rows = table.filter((pc.field("arm") == name) & (pc.field("version") == periods - 1))
    place = rows.schema.get_field_index("version")
    return pa.concat_tables(
        rows.set_column(place, "version", pa.repeat(pa.scalar(number, pa.int32()), rows.num_rows))
        for number in range(periods)
    )


def _diverged(view: View, table: pa.Table, name: str) -> dict[str, int]:
    """Test users and periods that were judged at their start, as adapting ran away in some seed (``inner.path``)."""
    last = (pc.field("arm") == name) & (pc.field("version") == view.periods - 1)
    lost = last & (pc.field("split") == "test") & (pc.field("metric") == records.DIVERGED) & (pc.field("value") > 0)
    headline = (pc.field("shots") == view.shots) & (pc.field("steps") == view.steps)
    found = table.filter(lost)
    return {"headline": _users_and_periods(found.filter(headline)), "anywhere": _users_and_periods(found)}


def _users_and_periods(rows: pa.Table) -> int:
    return len(set(zip(rows["user"].to_pylist(), rows["period"].to_pylist(), strict=True)))


def _headline(view: View, leader: str, adapted: np.ndarray, present: list[str]) -> dict[str, Any]:
    starts = [name for name in (leader, BASELINE) if name in present]
    better = sign(view.metric)
    unadapted_of = max(starts, key=lambda name: better * view.validated(name, 0))
    unadapted = view.life(unadapted_of, 0)
    others = {"unadapted": unadapted}
    if BASELINE in present:
        others |= {BASELINE: view.life(BASELINE, 0), "joint_model_fine_tuned": view.life(BASELINE, view.steps)}
    others |= {name: view.life(name, 0) for name in (*registry("baseline"), "oracle") if view.has(name)}
    table = {}
    for name, values in others.items():
        gap = view.paired(adapted, values)
        row = {"difference": gap.mean, "difference_low": gap.low, "difference_high": gap.high}
        table[name] = _interval(view.mean(values)) | row | {"worst_decile": _worst(view, values)}
    return {
        "arm": leader,
        "metric": view.metric,
        "larger_is_better": better > 0,
        "shots": view.shots,
        "steps": view.steps,
        "adapted": _interval(view.mean(adapted)) | {"worst_decile": _worst(view, adapted)},
        "over_seeds": _over_seeds(adapted),
        "unadapted": _interval(view.mean(unadapted)) | {"of": unadapted_of},
        "baselines": table,
        "arms": {
            name: _interval(view.mean(view.life(name, view.steps))) | {"start": float(view.life(name, 0).mean())}
            for name in present
        },
    }


def _interval(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _over_seeds(values: np.ndarray) -> dict[str, float] | None:
    return _interval(scores.seed_interval(values.mean(axis=-1))) if values.shape[0] > 1 else None


def _worst(view: View, values: np.ndarray) -> float:
    return scores.worst_decile(values.mean(axis=0), larger_is_better=sign(view.metric) > 0)


def _shares(table: pa.Table, view: View, leader: str, against: str, tolerance: float) -> dict[str, Any]:
    """Shares of users: clearly better, no different or clearly worse adapted than the start, or than a baseline."""
    where = {"version": view.periods - 1, "period": LIFE, "start": "fresh", "split": "test", "shots": view.shots}
    better = sign(view.metric)

    def of(name: str, steps: int, metric: str) -> np.ndarray:
        return better * records.per_user(table, metric, arm=name, steps=steps, **where)[1].mean(axis=0)

    def gain(metric: str) -> np.ndarray:
        return of(leader, view.steps, metric) - of(against, 0, metric)

    rows = _of(table, arm=leader, metric=view.metric, steps=view.steps, **where)
    halves = None
    if records.HALVES[0] in set(table["metric"].unique().to_pylist()):
        users, place = np.unique(rows["user"].to_numpy(), return_index=True)
        two = rows["n_query"].to_numpy()[place] > 1
        halves = np.where(two, np.stack([gain(name) for name in records.HALVES]), np.nan)
    found = scores.shares(gain(view.metric), halves, tolerance=tolerance, draws=view.draws)
    told = {name: _interval(getattr(found, name)) for name in ("better", "same", "worse")}
    return told | {"tolerance": found.tolerance, "noise": found.noise, "users": found.users}


def _of(table: pa.Table, **where: Any) -> pa.Table:
    keep = pc.field("arm") == where.pop("arm")
    for name, value in where.items():
        keep &= pc.field(name) == value
    return table.filter(keep)


def _gap(view: View, leader: str, names: list[str]) -> dict[str, Any] | None:
    """The leader's paired gain over fine_tune in ``average``, and which share of the way to each bound that is.

    The share is None where the way is not there: where the paired interval of the bound less fine_tune does not lie
    above 0. ``upper_bound`` is trained until it converges, ``cumulative`` with the leader's number of user-tasks.
    """
    if "fine_tune" not in names or leader in ("fine_tune", *BOUNDS) or view.periods < 2:
        return None
    lower = view.scored("fine_tune", view.steps)
    gain = scores.difference_metrics(view.scored(leader, view.steps), lower, draws=view.draws)
    to = {}
    for name in (name for name in BOUNDS if name in names):
        way = scores.difference_metrics(view.scored(name, view.steps), lower, draws=view.draws)["average"]
        share = gain["average"].mean / way.mean if way.low > 0 else None
        to[name] = {"closed": share, "to_close": _interval(way)}
    less = gain.get("forgetting_first") if view.complete(leader) and view.complete("fine_tune") else None
    return {
        "arm": leader,
        "gain_over_fine_tune": _interval(gain["average"]),
        "forgetting_first_less_fine_tune": _interval(less) if less else None,
        "to": to,
    }


def _periods(view: View, present: list[str], periods: int) -> list[dict[str, float]]:
    """The last version by period: each arm adapted, the leader at the start, the baselines."""
    judged = sorted(set(view.test["period"].to_pylist()) - {LIFE})
    rows = []
    for period in judged:
        row: dict[str, float] = {"period": period}
        for name in present:
            row[name] = float(view.at(name, view.steps, period).mean())
            row[f"{name}_start"] = float(view.at(name, 0, period).mean())
        for name in (*registry("baseline"), "oracle"):
            if view.has(name):
                row[name] = float(view.at(name, 0, period).mean())
        rows.append(row)
    return rows


def _banked(view: View, leader: str) -> list[dict[str, Any]]:
    """Users who returned, in each period: from their stored row, and from a fresh start.

    ``gain``: the paired improvement of the stored row over the fresh start after the headline's steps; below 0 the
    stored row is worse.
    """
    rows = view.test.filter((pc.field("arm") == leader) & (pc.field("start") == "banked"))
    found = []
    for period in sorted(set(rows["period"].to_pylist())):
        where = {"arm": leader, "version": period, "period": period}
        row: dict[str, Any] = {"period": period}
        for steps in (0, view.steps):
            users, bank = records.per_user(rows, view.metric, steps=steps, **where)
            names, fresh = records.per_user(view.test, view.metric, steps=steps, start="fresh", **where)
            fresh = fresh[:, np.isin(names, users)]
            row |= {f"banked_{steps}": float(bank.mean()), f"fresh_{steps}": float(fresh.mean())}
            row |= {"users": int(users.size), "gain": _interval(view.paired(*_signed(view, bank, fresh)))}
        found.append(row)
    return found


def _signed(view: View, *values: np.ndarray) -> list[np.ndarray]:
    return [sign(view.metric) * one for one in values]


def _regret(view: View, present: list[str]) -> dict[str, dict[str, float]] | None:
    """Per-user score minus that of the Bayes-optimal prediction, where the truth is known; 0 is perfect."""
    if not view.has("oracle"):
        return None
    best = view.life("oracle", 0)
    others = {name: view.life(name, view.steps) for name in present}
    others |= {name: view.life(name, 0) for name in registry("baseline") if view.has(name)}
    factor = -sign(view.metric)
    return {name: _interval(view.mean(factor * (values - best))) for name, values in others.items()}
