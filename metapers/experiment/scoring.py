"""Versions and baselines held against held-out users: what training and judging have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
from jax.sharding import AxisType, Mesh

from metapers import evaluate, records
from metapers.base import Cohort, Params, Stream, Tree
from metapers.experiment import assembly
from metapers.experiment.assembly import STRATEGIES, Parts
from metapers.scores.cohorts import sign


class Scorer(NamedTuple):
    """Compiled curves of a config, one for what adapts by its own inner loop and one for what is fine-tuned."""

    parts: Parts
    shots: tuple[int, ...]
    steps: tuple[int, ...]
    own: Any  # (params, cohort, start) -> Curves
    tuned: dict[float, Any]  # rate -> the same for a jointly trained model; filled as rates are asked for
    bank: dict[str, Any]  # one for each kind of strategy

    def curves(self, params: Params, name: str, cohort: Cohort, start: Tree | None = None, rate: float = 0.0):
        """Curves of a strategy's params; ``rate``: of fine-tuning, for a strategy without an inner loop."""
        return self._curves(name, rate)(params, cohort, start)

    def _curves(self, name: str, rate: float):
        if not plain(self.parts, name):
            return self.own
        rate = rate or self.parts.config.learner.inner_rate
        if rate not in self.tuned:
            self.tuned[rate] = _curves(self.parts, self.shots, self.steps, rate)
        return self.tuned[rate]

    def adapted(self, params: Params, name: str, cohort: Cohort) -> Tree:
        """Personal parameters after the headline's steps on each user's first shots."""
        kind = "tuned" if plain(self.parts, name) else "own"
        if kind not in self.bank:
            chosen = self.parts.config.evaluation
            rate = self.parts.config.learner.inner_rate if kind == "tuned" else None
            loop = assembly.inner_loop(self.parts.config, self.parts.model, steps=chosen.headline_steps, rate=rate)
            self.bank[kind] = evaluate.adapted(
                loop, shots=chosen.headline_shots, steps=chosen.headline_steps, mesh=users_mesh(self.parts)
            )
        return self.bank[kind](host(params), cohort)

    def table(
        self,
        params: Params,
        name: str,
        cohort: Cohort,
        *,
        split: str,
        trained_stage: int,
        start: Tree | None = None,
        rate: float = 0.0,
    ) -> pa.Table:
        """The records of a strategy's params on a cohort."""
        found = self.curves(host(params), name, cohort, start, rate)
        config = self.parts.config
        return records.records(
            found,
            cohort,
            self.parts.stream.users,
            strategy=name,
            split=split,
            fold=fold(self.parts),
            trained_stage=trained_stage,
            seeds=[config.seed + i for i in range(config.seeds)],
            start="fresh" if start is None else "banked",
        )

    def validation(self, params: Params, name: str, stage: int) -> tuple[pa.Table, dict[str, Any]]:
        """Records of the validation users of every stage and of their whole lives, and their headline scores."""
        cohort = everyone(self.parts.stream, "validation")
        table = self.table(params, name, cohort, split="validation", trained_stage=stage)
        chosen = self.parts.config.evaluation

        def mean(steps: int, **where: int) -> float:
            _, values = records.per_user(table, chosen.metric, shots=chosen.headline_shots, steps=steps, **where)
            return float(values.mean())

        stages = sorted(set(cohort.stages.tolist()))
        scores = {
            "split": "validation",
            "metric": chosen.metric,
            "shots": chosen.headline_shots,
            "steps": chosen.headline_steps,
            "adapted": {str(t): mean(chosen.headline_steps, evaluated_stage=t) for t in stages},
            "start": {str(t): mean(0, evaluated_stage=t) for t in stages},
        }
        return table, scores

    def curve_point(self, params: Params, name: str, stage: int) -> dict[str, float]:
        """The headline score of the stage's validation users, adapted and at the start."""
        chosen = self.parts.config.evaluation
        found = self.curves(host(params), name, self.parts.stream.held_out("validation", stage))
        grid = found.scores[chosen.metric].mean(axis=(0, 1))
        row = grid[self.shots.index(chosen.headline_shots)]
        return {
            f"validation/{chosen.metric}": float(row[self.steps.index(chosen.headline_steps)]),
            f"validation/{chosen.metric}_start": float(row[self.steps.index(0)]),
        }


def scorer(parts: Parts, *, shots: tuple[int, ...] = (), steps: tuple[int, ...] = ()) -> Scorer:
    """The scorer of a config; ``shots`` and ``steps`` instead of the config's. Step 0 and the headline always count."""
    chosen = parts.config.evaluation
    shots = tuple(sorted({*(shots or chosen.shots), chosen.headline_shots}))
    steps = tuple(sorted({0, *(steps or chosen.steps), chosen.headline_steps}))
    return Scorer(parts, shots, steps, _curves(parts, shots, steps, None), {}, {})


def _curves(parts: Parts, shots: tuple[int, ...], steps: tuple[int, ...], rate: float | None):
    loop = assembly.inner_loop(parts.config, parts.model, steps=max(steps), rate=rate)
    return evaluate.curves(
        parts.model,
        parts.objective,
        loop,
        shots=shots,
        steps=steps,
        horizon=max(shots),
        mesh=users_mesh(parts),
    )


def plain(parts: Parts, name: str) -> bool:
    """Whether a strategy's learner has no inner loop of its own."""
    return (STRATEGIES[name].learner or parts.config.learner.name) == "joint"


def users_mesh(parts: Parts) -> Mesh | None:
    """Evaluation spreads users over the devices, whatever training spread."""
    if len(parts.devices) < 2:
        return None
    return Mesh(np.array(parts.devices), ("users",), axis_types=(AxisType.Auto,))


def host(tree: Tree) -> Tree:
    """Arrays on the host, free of the training program's mesh."""
    return jax.tree.map(np.asarray, tree)


def fold(parts: Parts) -> int:
    """The fold whose users are the test users."""
    return int(parts.config.data.get("fold", 0))


def everyone(stream: Stream, split: str) -> Cohort:
    """The held-out users of each stage, one after the other, and then their whole lives."""
    cohorts = [stream.held_out(split, stage) for stage in [*range(stream.stages), None]]
    return evaluate.merged([cohort for cohort in cohorts if len(cohort.users)])


def save(folder: Path, table: pa.Table, split: str, name: str, stage: int) -> None:
    """Writes records where eval and notebooks find them."""
    records.write_records(folder / "records" / f"{split}-{name}-{stage}.parquet", table)


def sentence(scores: Mapping[str, Any]) -> str:
    """The headline of a version on validation users, for the terminal."""
    stages = {key: value for key, value in scores["adapted"].items() if key != "-1"}
    adapted, start = np.mean(list(stages.values())), np.mean([scores["start"][key] for key in stages])
    better = "better" if sign(scores["metric"]) * (adapted - start) > 0 else "worse"
    return (
        f"validation {scores['metric']} over all stages {start:.4f} at the start, {adapted:.4f} after "
        f"{scores['steps']} steps on {scores['shots']} examples ({better})"
    )


