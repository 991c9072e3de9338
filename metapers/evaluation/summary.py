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
from metapers.spec import BASELINE, Config

SCHEMA_VERSION = 1
LIFE = -1  # the evaluated stage of a whole life


def summarise(
    table: pa.Table,
    config: Config,
    *,
    provenance: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    stages: int,
    transductive: bool = False,
    chosen: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The content of summary.json (docs/summary.md) from the records of one run, or of several folds pooled.

    ``table`` holds the test records and, for the choice of ``unadapted``, the validation records of the same runs.
    Every interval is 95 % over test users, resampled as whole persons; seeds are averaged first. ``chosen``: what
    validation users chose (``evaluation.choices``).
    """
    head = config.evaluation
    view = View(table, head.metric, head.headline_shots, head.headline_steps, stages, head.bootstrap)
    present = [name for name in dict.fromkeys((*config.strategies, BASELINE)) if view.has(name)]
    leader = "continual" if "continual" in present else present[0]
    adapted = view.life(leader, view.steps)
    continual = {name: view.continual(name, view.steps) for name in present if name != BASELINE}
    return {
        "schema_version": SCHEMA_VERSION,
        "name": config.name,
        "headline": _headline(view, leader, adapted, present),
        "hurt_fraction": _hurt(view, adapted, view.life(leader, 0)),
        "hurt_fraction_against": {
            name: _hurt(view, adapted, view.life(name, 0)) for name in ("item_user_bias",) if view.has(name)
        },
        "continual": {name: {key: value.mean for key, value in found.items()} for name, found in continual.items()},
        "continual_intervals": {
            name: {key: _interval(value) for key, value in found.items()} for name, found in continual.items()
        },
        "continual_at_start": {
            name: {key: value.mean for key, value in view.continual(name, 0).items()} for name in continual
        },
        "gap": _gap(view, continual),
        "definitions": scores.DEFINITIONS,
        "matrix": {name: view.matrix(name).tolist() for name in continual},
        "stages": _stages(view, present, stages),
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


class View:
    """Per-user scores by strategy from a table of records, at a fixed metric, shots and headline steps."""

    def __init__(self, table: pa.Table, metric: str, shots: int, steps: int, stages: int, draws: int):
        rows = table.filter((pc.field("metric") == metric) & (pc.field("shots") == shots))
        self.test = rows.filter(pc.field("split") == "test")
        self.validation = rows.filter(pc.field("split") == "validation")
        self.metric, self.shots, self.steps, self.stages, self.draws = metric, shots, steps, stages, draws
        self.names = set(self.test["strategy"].to_pylist())

    def has(self, name: str) -> bool:
        """Whether a strategy or baseline has test records."""
        return name in self.names

    def life(self, name: str, steps: int) -> np.ndarray:
        """[seeds, users]: the last version's score on whole lives, users in the order of their hash."""
        return self.at(name, steps, LIFE)

    def at(self, name: str, steps: int, stage: int) -> np.ndarray:
        """[seeds, users]: the last version's score on a stage's users, from a fresh start."""
        where = {"trained_stage": self.stages - 1, "evaluated_stage": stage, "start": "fresh"}
        return records.per_user(self.test, self.metric, strategy=name, steps=steps, **where)[1]

    def validated(self, name: str, steps: int) -> float:
        """Mean of the last version's score on validation users' lives; in pooled folds a user stands several times."""
        last = (pc.field("strategy") == name) & (pc.field("trained_stage") == self.stages - 1)
        rows = self.validation.filter(last & (pc.field("steps") == steps) & (pc.field("evaluated_stage") == LIFE))
        return float(np.mean(rows["value"].to_numpy()))

    def mean(self, values: np.ndarray) -> Interval:
        """Mean over users with its interval."""
        return scores.mean_interval(values, draws=self.draws)

    def paired(self, a: np.ndarray, b: np.ndarray) -> Interval:
        """Mean of a - b over the same users with its interval."""
        return scores.paired(a, b, draws=self.draws)

    def scored(self, name: str, steps: int) -> scores.Scored:
        """Signed scores of every version on every stage."""
        return records.scored_of(self.test, strategy=name, metric=self.metric, shots=self.shots, steps=steps)

    def continual(self, name: str, steps: int) -> dict[str, Interval]:
        """The continual metrics of a strategy with intervals."""
        return scores.continual_metrics(self.scored(name, steps), draws=self.draws)

    def matrix(self, name: str) -> np.ndarray:
        """The unsigned score [steps in (0, headline), trained stage, evaluated stage], mean over seeds and users."""
        cells = [
            records.matrix_of(self.test, strategy=name, metric=self.metric, shots=self.shots, steps=steps)[0]
            for steps in (0, self.steps)
        ]
        return sign(self.metric) * np.stack(cells).mean(axis=1)

    def short(self, name: str) -> int:
        """Test users with fewer examples to adapt on than the headline's shots, all stages and lives together."""
        last = (pc.field("strategy") == name) & (pc.field("trained_stage") == self.stages - 1)
        once = (pc.field("steps") == 0) & (pc.field("start") == "fresh")
        return _users_and_stages(self.test.filter(last & once & (pc.field("n_support") < self.shots)))


def _diverged(view: View, table: pa.Table, name: str) -> dict[str, int]:
    """Test users and stages that were judged at their start, as adapting ran away in some seed (``inner.path``)."""
    last = (pc.field("strategy") == name) & (pc.field("trained_stage") == view.stages - 1)
    lost = last & (pc.field("split") == "test") & (pc.field("metric") == records.DIVERGED) & (pc.field("value") > 0)
    headline = (pc.field("shots") == view.shots) & (pc.field("steps") == view.steps)
    found = table.filter(lost)
    return {"headline": _users_and_stages(found.filter(headline)), "anywhere": _users_and_stages(found)}


def _users_and_stages(rows: pa.Table) -> int:
    return len(set(zip(rows["user"].to_pylist(), rows["evaluated_stage"].to_pylist(), strict=True)))


def _headline(view: View, leader: str, adapted: np.ndarray, present: list[str]) -> dict[str, Any]:
    starts = [name for name in (leader, BASELINE) if name in present]
    better = sign(view.metric)
    unadapted_of = max(starts, key=lambda name: better * view.validated(name, 0))
    unadapted = view.life(unadapted_of, 0)
    others = {"unadapted": unadapted}
    if BASELINE in present:
        others |= {"joint": view.life(BASELINE, 0), "joint_fine_tuned": view.life(BASELINE, view.steps)}
    others |= {name: view.life(name, 0) for name in (*registry("baseline"), "oracle") if view.has(name)}
    table = {}
    for name, values in others.items():
        gap = view.paired(adapted, values)
        row = {"difference": gap.mean, "difference_low": gap.low, "difference_high": gap.high}
        table[name] = _interval(view.mean(values)) | row | {"worst_decile": _worst(view, values)}
    return {
        "strategy": leader,
        "metric": view.metric,
        "larger_is_better": better > 0,
        "shots": view.shots,
        "steps": view.steps,
        "adapted": _interval(view.mean(adapted)) | {"worst_decile": _worst(view, adapted)},
        "over_seeds": _over_seeds(adapted),
        "unadapted": _interval(view.mean(unadapted)) | {"of": unadapted_of},
        "baselines": table,
        "strategies": {
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


def _hurt(view: View, adapted: np.ndarray, reference: np.ndarray) -> float:
    larger = sign(view.metric) > 0
    references = np.broadcast_to(reference, adapted.shape) if reference.shape[0] == 1 else reference
    each = [scores.fraction_hurt(a, b, larger_is_better=larger) for a, b in zip(adapted, references, strict=True)]
    return float(np.mean(each))


def _gap(view: View, continual: Mapping[str, Mapping[str, Interval]]) -> dict[str, Any] | None:
    """How much of the way from naive to joint_so_far in ``average`` continual goes, with its paired gain; the share is
    None where the way is not there: where the paired interval of joint_so_far less naive does not lie above 0."""
    if not {"naive", "joint_so_far", "continual"} <= continual.keys() or view.stages < 2:
        return None
    ours, naive = view.scored("continual", view.steps), view.scored("naive", view.steps)
    gain = scores.difference_metrics(ours, naive, draws=view.draws)
    whole = scores.difference_metrics(view.scored("joint_so_far", view.steps), naive, draws=view.draws)["average"]
    low, high = continual["naive"]["average"].mean, continual["joint_so_far"]["average"].mean
    return {
        "closed": (continual["continual"]["average"].mean - low) / (high - low) if whole.low > 0 else None,
        "to_close": _interval(whole),
        "gain_over_naive": _interval(gain["average"]),
        "forgetting_first_less_naive": _interval(gain["forgetting_first"]),
        "joint_so_far_less_naive": high - low,
    }


def _stages(view: View, present: list[str], stages: int) -> list[dict[str, float]]:
    """The last version by stage: each strategy adapted, the leader at the start, the baselines."""
    judged = sorted(set(view.test["evaluated_stage"].to_pylist()) - {LIFE})
    rows = []
    for stage in judged:
        row: dict[str, float] = {"stage": stage}
        for name in present:
            row[name] = float(view.at(name, view.steps, stage).mean())
            row[f"{name}_start"] = float(view.at(name, 0, stage).mean())
        for name in (*registry("baseline"), "oracle"):
            if view.has(name):
                row[name] = float(view.at(name, 0, stage).mean())
        rows.append(row)
    return rows


def _banked(view: View, leader: str) -> list[dict[str, float]]:
    """Users who returned, in each stage: from the row that the bank kept of them, and from a fresh start."""
    rows = view.test.filter((pc.field("strategy") == leader) & (pc.field("start") == "banked"))
    found = []
    for stage in sorted(set(rows["evaluated_stage"].to_pylist())):
        where = {"strategy": leader, "trained_stage": stage, "evaluated_stage": stage}
        row: dict[str, float] = {"stage": stage}
        for steps in (0, view.steps):
            users, bank = records.per_user(rows, view.metric, steps=steps, **where)
            names, fresh = records.per_user(view.test, view.metric, steps=steps, start="fresh", **where)
            here = np.isin(names, users)
            row |= {f"banked_{steps}": float(bank.mean()), f"fresh_{steps}": float(fresh[:, here].mean())}
            row["users"] = int(users.size)
        found.append(row)
    return found


def _regret(view: View, present: list[str]) -> dict[str, dict[str, float]] | None:
    """Per-user score minus that of the Bayes-optimal prediction, where the truth is known; 0 is perfect."""
    if not view.has("oracle"):
        return None
    best = view.life("oracle", 0)
    others = {name: view.life(name, view.steps) for name in present}
    others |= {name: view.life(name, 0) for name in registry("baseline") if view.has(name)}
    factor = -sign(view.metric)
    return {name: _interval(view.mean(factor * (values - best))) for name, values in others.items()}
