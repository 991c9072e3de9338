"""Versions and baselines held against held-out users: what training and judging have in common."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax.sharding import AxisType, Mesh

from metapers import evaluate, held_out, keys, models, records
from metapers.base import Array, Cohort, InnerLoop, Params, Stream, Tree
from metapers.experiment import adapting, starting
from metapers.experiment.assembly import STRATEGIES, Parts
from metapers.experiment.catalogue import SOURCES
from metapers.experiment.config import Config
from metapers.report.words import counted
from metapers.scores.cohorts import sign


class Scorer(NamedTuple):
    """Compiled curves of a config. Fine-tuning a model that has no learned rates is the same program fed with a
    constant rate, so no rate compiles anew."""

    parts: Parts
    shots: tuple[int, ...]
    steps: tuple[int, ...]
    own: Callable[..., records.Curves]  # (params, cohort, start): adapts by the config's inner loop
    tuned: Callable[..., records.Curves]  # the same for what is fine-tuned at a given rate
    trial: Callable[..., records.Curves]  # `tuned` at the headline and after the last step, to choose the rate by
    bank: dict[str, Any]  # programs that fill the bank, one for each kind of strategy

    def curves(
        self, params: Params, name: str, cohort: Cohort, start: Tree | None = None, rate: float = 0.0
    ) -> records.Curves:
        """Curves of a strategy's params; ``rate``: of fine-tuning, for a strategy without an inner loop."""
        run = self.tuned if plain(self.parts.config, name) else self.own
        return run(self.ready(params, name, rate), cohort, start)

    def goodness(self, params: Params, name: str, cohort: Cohort, rate: float) -> float:
        """How well fine-tuning at ``rate`` serves, for a strategy without an inner loop: the mean headline score, less
        of a loss being more. -inf where somebody diverges on the way to the last step: a bad rate, not an error."""
        chosen = self.parts.config.evaluation
        try:
            found = self.trial(self.ready(params, name, rate), cohort)
        except evaluate.NotFinite:
            return -np.inf
        if records.DIVERGED in found.scores:
            return -np.inf
        at_headline = found.scores[chosen.metric][..., found.steps.index(chosen.headline_steps)]
        return sign(chosen.metric) * float(at_headline.mean())

    def ready(self, params: Params, name: str, rate: float = 0.0) -> Params:
        """``params`` on the host, with inner parameters: their own, or a constant rate for fine-tuning."""
        params = host(params)
        tunes = plain(self.parts.config, name)
        if jax.tree.leaves(params.inner) and not tunes:
            return params
        own = self.parts.config.learner
        usual = None if STRATEGIES[name].learner or own.inner == "written" else own.inner_rate
        loop = _loop(self.parts, max(self.steps), rate or usual, tunes)
        return params._replace(inner=jax.vmap(loop.init)(params))

    def initial(self) -> Params:
        """The initialisation that every strategy of the run began from: drawn, or where ``start_from`` ended."""
        drawn = host(jax.jit(jax.vmap(lambda key: self.parts.model.init(keys.named(key, "init"))))(roots(self.parts)))
        return drawn if self.parts.donor is None else starting.begun(drawn, self.parts.donor)[0]

    def adapted(self, params: Params, name: str, cohort: Cohort) -> Tree:
        """Personal parameters after the headline's steps on each user's first shots."""
        kind = "tuned" if plain(self.parts.config, name) else "own"
        if kind not in self.bank:
            chosen = self.parts.config.evaluation
            loop = _loop(self.parts, chosen.headline_steps, None, kind == "tuned")
            self.bank[kind] = evaluate.adapted(
                self.parts.model,
                loop,
                shots=chosen.headline_shots,
                steps=chosen.headline_steps,
                block=self.parts.config.learner.block,
                mesh=users_mesh(self.parts),
            )
        return self.bank[kind](self.ready(params, name), cohort)

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
        found = self.curves(params, name, cohort, start, rate)
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
        cohort = everyone(self.parts.stream, "validation", STRATEGIES[name].known(stage))
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

    def transductive(self) -> bool:
        """Whether the answer for one query depends on the others; asked of the model on real inputs."""
        cohort = self.parts.stream.held_out("validation", None)
        inputs, targets = jax.tree.map(lambda leaf: jnp.asarray(leaf[:8]), (cohort.inputs, cohort.targets))
        return models.is_transductive(self.parts.model, inputs, keys.root(self.parts.config.seed), targets)

    def life(self, params: Params, name: str) -> tuple[records.Curves, np.ndarray]:
        """Curves on the validation users' whole lives, and their headline means [start or adapted, seeds]."""
        chosen = self.parts.config.evaluation
        found = self.curves(params, name, self.parts.stream.held_out("validation", None))
        grid = found.scores[chosen.metric].mean(axis=1)[:, self.shots.index(chosen.headline_shots)]
        return found, grid[:, [self.steps.index(0), self.steps.index(chosen.headline_steps)]].T

    def curve_point(self, params: Params, name: str, stage: int) -> dict[str, float]:
        """The headline score of the stage's validation users, adapted and at the start; nothing without any."""
        chosen = self.parts.config.evaluation
        cohort = self.parts.stream.held_out("validation", stage, STRATEGIES[name].known(stage))
        if not len(cohort.users):
            return {}
        found = self.curves(params, name, cohort)
        grid = found.scores[chosen.metric].mean(axis=(0, 1))
        row = grid[self.shots.index(chosen.headline_shots)]
        return {
            f"validation/{chosen.metric}": float(row[self.steps.index(chosen.headline_steps)]),
            f"validation/{chosen.metric}_start": float(row[self.steps.index(0)]),
        }


def scorer(parts: Parts, *, shots: tuple[int, ...] = (), steps: tuple[int, ...] = ()) -> Scorer:
    """The scorer of a config; ``shots`` and ``steps`` instead of the config's. Step 0 and the headline always count.

    Raises ValueError for more shots than the config has, or so many of an episode that its classes differ in number.
    """
    chosen = parts.config.evaluation
    shots = tuple(sorted({*(shots or chosen.shots), chosen.headline_shots}))
    steps = tuple(sorted({0, *(steps or chosen.steps), chosen.headline_steps}))
    ways = SOURCES[parts.config.data.source].ways(parts.config.data)
    uneven = [one for one in shots if ways and one % ways]
    if uneven:
        raise ValueError(f"shots must be multiples of data.ways = {ways}, got {uneven[0]}")
    known, block = horizon(parts, shots), parts.config.learner.block

    def curves(tunes: bool, shots: tuple[int, ...], read: tuple[int, ...]) -> Callable[..., records.Curves]:
        loop = _loop(parts, max(steps), None, tunes)
        options: dict[str, Any] = {"horizon": known, "users": block, "mesh": users_mesh(parts)}
        return evaluate.curves(parts.model, parts.objective, loop, shots=shots, steps=read, **options)

    own = curves(False, shots, steps)
    tuned = own if _one_program(parts.config) else curves(True, shots, steps)
    trial = curves(True, (chosen.headline_shots,), tuple(sorted({chosen.headline_steps, max(steps)})))
    return Scorer(parts, shots, steps, own, tuned, trial, {})


def _loop(parts: Parts, steps: int, rate: float | None, tunes: bool) -> InnerLoop:
    """The config's inner loop; one that ``tunes`` reads its rate from the inner parameters, whatever the config."""
    if tunes:
        return adapting.tuning_loop(parts.config, parts.model, steps=steps, rate=rate)
    return adapting.inner_loop(parts.config, parts.model, steps=steps)


def _one_program(config: Config) -> bool:
    """Whether adapting and tuning are the same computation on other inner parameters: not where a head begins at
    class means, which joint training never meets (``adapting.tuning_loop``)."""
    chosen = config.learner
    return (
        not config.model.get("prototypes", False)
        and (chosen.inner, chosen.keep) == ("gradient", "always")
        and chosen.rates in ("learned", "log")
    )


def horizon(parts: Parts, shots: tuple[int, ...]) -> int:
    """Where queries begin: after the config's largest support, whatever shots are asked for; ValueError beyond it."""
    most = max(parts.config.evaluation.shots)
    if max(shots) > most:
        raise ValueError(f"shots must be <= {most}, the most of the run's config, got {max(shots)}")
    return most


def roots(parts: Parts) -> Array:
    """The root key of each seed, [seeds]."""
    return jnp.stack([keys.root(parts.config.seed + i) for i in range(parts.config.seeds)])


def plain(config: Config, name: str) -> bool:
    """Whether a strategy's learner has no inner loop of its own."""
    return (STRATEGIES[name].learner or config.learner.name) == "joint"


def users_mesh(parts: Parts) -> Mesh | None:
    """Evaluation spreads users over the devices, whatever training spread."""
    if len(parts.devices) < 2:
        return None
    return Mesh(np.array(parts.devices), ("users",), axis_types=(AxisType.Auto,))


def host(tree: Tree) -> Tree:
    """Arrays on the host, free of the training program's mesh."""
    return jax.tree.map(np.asarray, tree)


def versions_of(folder: Path, name: str) -> Path:
    """Where a strategy's versions lie."""
    return Path(folder) / "strategies" / name / "versions"


def fold(parts: Parts) -> int:
    """The fold whose users are the test users."""
    return int(parts.config.data.get("fold", 0))


def everyone(stream: Stream, split: str, known: int) -> Cohort:
    """The held-out users of each stage and then their whole lives, seen with what is known after stage ``known``."""
    cohorts = [stream.held_out(split, stage, known) for stage in [*range(stream.stages), None]]
    return held_out.merged([cohort for cohort in cohorts if len(cohort.users)])


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
        f"{counted(scores['steps'], 'step')} on {counted(scores['shots'], 'example')} ({better})"
    )
