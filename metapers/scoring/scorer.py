"""Versions and baselines held against held-out users: what training and judging have in common."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from metapers import held_out, keys, models
from metapers.base import Array, Cohort, InnerLoop, Key, Params, Stream, Tree
from metapers.journal import counted
from metapers.options import NONE, ConfigError
from metapers.placement import host, users_mesh
from metapers.scores import sign
from metapers.scoring import curves as scored_curves
from metapers.scoring import records
from metapers.scoring.adapting import Adaptation, adaptation
from metapers.spec import Components, Config
from metapers.spec.heads import source_facts
from metapers.spec.inner_loops import inner_loop, rate_before_tuning, tuning_loop


class Scorer(NamedTuple):
    """Compiled curves of a config. Fine-tuning a model that has no learned rates is the same program fed with a
    constant rate, so no rate compiles anew."""

    components: Components
    shots: tuple[int, ...]
    steps: tuple[int, ...]
    own: Callable[..., records.Curves]  # (params, cohort, start): adapts by the config's inner loop
    tuned: Callable[..., records.Curves]  # the same for what is fine-tuned at a given rate
    own_headline: Callable[..., records.Curves]  # `own` at the headline's shots alone
    tuned_headline: Callable[..., records.Curves]  # `tuned` at the headline's shots alone
    adapts: Adaptation  # by the config's inner loop
    tunes: Adaptation  # at a given rate
    cohorts: Callable[[str], Cohort]  # split -> ``everyone``, made once

    def everyone(self, split: str, *, lives: bool | None = None) -> Cohort:
        """The held-out users of each period and then their whole histories.

        ``lives``: True for the whole histories alone, False for the periods alone. Both are views and copy nothing.
        """
        cohort = self.cohorts(split)
        cut = int(np.sum(cohort.periods >= 0))
        if lives is None:
            return cohort
        return held_out.span(cohort, slice(cut, len(cohort.users)) if lives else slice(0, cut))

    def forget(self) -> None:
        """Frees the held-out users that ``everyone`` keeps."""
        getattr(self.cohorts, "cache_clear", lambda: None)()

    def curves(
        self, params: Params, name: str, cohort: Cohort, start: Tree | None = None, rate: float | None = None
    ) -> records.Curves:
        """Curves of an arm's params; ``rate``: of fine-tuning, for an arm without an inner loop."""
        run = self.own if self.components.arms[name].adapts else self.tuned
        return run(self.ready(params, name, rate), cohort, start)

    def validation_score(self, params: Params, name: str, cohort: Cohort, rate: float) -> float:
        """The headline score that an evaluation reports of fine-tuning at ``rate``; of a loss, less is more.

        If a user's adaptation diverges, the score of the start counts, as in the evaluation. If a score is not finite,
        the result is -inf.
        """
        chosen = self.components.config.evaluation
        try:
            found = self.tuned_headline(self.ready(params, name, rate), cohort)
        except scored_curves.NotFinite:
            return -np.inf
        place = found.shots.index(chosen.headline_shots), found.steps.index(chosen.headline_steps)
        return sign(chosen.metric) * float(found.scores[chosen.metric][:, :, *place].mean())

    def ready(self, params: Params, name: str, rate: float | None = None) -> Params:
        """``params`` on the host, with inner parameters: their own, or a constant rate for fine-tuning."""
        params = host(params)
        tunes = not self.components.arms[name].adapts
        if jax.tree.leaves(params.inner) and not tunes:
            return params
        usual = rate_before_tuning(self.components.config)
        loop = _loop(self.components, max(self.steps), rate or usual, tunes)
        return params._replace(inner=jax.vmap(loop.init)(params))

    def initial(self) -> Params:
        """The initialisation that every arm of the run began from: random, or where ``start_from`` ended."""
        model, warm_start = self.components.model, self.components.warm_start
        first = host(_initialised(model.init, roots(self.components)))
        return first if warm_start is None else warm_start.begin(first)[0]

    def adapted(self, params: Params, name: str, cohort: Cohort) -> Tree:
        """Personal parameters after the headline's steps on each user's first shots."""
        chosen = self.components.config.evaluation
        run = self.adapts if self.components.arms[name].adapts else self.tunes
        shots, steps = chosen.headline_shots, chosen.headline_steps
        return run.after(self.ready(params, name), cohort, shots=shots, steps=steps)

    def table(
        self, params: Params, name: str, cohort: Cohort, *, split: str, version: int, rate: float | None = None
    ) -> pa.Table:
        """The records of an arm's params on a cohort, from a fresh start."""
        found = self.curves(params, name, cohort, None, rate)
        return pa.concat_tables(self.blocks(found, name, cohort, split=split, version=version))

    def blocks(
        self, found: records.Curves, name: str, cohort: Cohort, *, split: str, version: int, start: str = "fresh"
    ) -> Iterator[pa.Table]:
        """The records of an arm's curves on a cohort, some users at a time."""
        config, arm = self.components.config, self.components.arms[name]
        return records.blocks(
            found,
            cohort,
            self.components.stream.users,
            arm=name,
            split=split,
            fold=fold(self.components),
            version=version,
            seen_until=arm.seen(version) if version >= 0 else -1,
            seeds=[config.seed + i for i in range(config.seeds)],
            start=start,
        )

    def validation(self, params: Params, name: str, period: int) -> tuple[pa.Table, dict[str, Any]]:
        """Records of the validation users of every period and of their whole lives, and their headline scores."""
        cohort = self.everyone("validation")
        table = self.table(params, name, cohort, split="validation", version=period)
        chosen = self.components.config.evaluation

        def mean(steps: int, **where: int) -> float:
            _, values = records.per_user(table, chosen.metric, shots=chosen.headline_shots, steps=steps, **where)
            return float(values.mean())

        periods = sorted(set(cohort.periods.tolist()))
        scores = {
            "split": "validation",
            "metric": chosen.metric,
            "shots": chosen.headline_shots,
            "steps": chosen.headline_steps,
            "adapted": {str(t): mean(chosen.headline_steps, period=t) for t in periods},
            "start": {str(t): mean(0, period=t) for t in periods},
        }
        return table, scores

    def transductive(self) -> bool:
        """Whether the answer for one query depends on the others; asked of the model on real inputs."""
        cohort = self.components.stream.held_out("validation", None)
        inputs, targets = jax.tree.map(lambda leaf: jnp.asarray(leaf[:8]), (cohort.inputs, cohort.targets))
        first = jax.tree.map(lambda leaf: leaf[0], self.initial())
        return models.is_transductive(self.components.model, first, inputs, targets)

    def life(self, params: Params, name: str) -> tuple[records.Curves, np.ndarray]:
        """Curves on the validation users' whole lives, and their headline means [start or adapted, seeds]."""
        chosen = self.components.config.evaluation
        found = self.curves(params, name, self.components.stream.held_out("validation", None))
        grid = found.scores[chosen.metric].mean(axis=1)[:, self.shots.index(chosen.headline_shots)]
        return found, grid[:, [self.steps.index(0), self.steps.index(chosen.headline_steps)]].T

    def curve_point(self, params: Params, name: str, period: int) -> dict[str, float]:
        """The headline score of the period's validation users, adapted and at the start; nothing without any."""
        chosen = self.components.config.evaluation
        cohort = self.components.stream.held_out("validation", period)
        if not len(cohort.users):
            return {}
        run = self.own_headline if self.components.arms[name].adapts else self.tuned_headline
        found = run(self.ready(params, name), cohort)
        row = found.scores[chosen.metric].mean(axis=(0, 1))[0]
        return {
            f"validation/{chosen.metric}": float(row[found.steps.index(chosen.headline_steps)]),
            f"validation/{chosen.metric}_start": float(row[found.steps.index(0)]),
        }


@partial(jax.jit, static_argnums=0)  # compiled once for a model, however often an evaluation needs it
def _initialised(init: Callable[[Key], Params], roots: Array) -> Params:
    return jax.vmap(lambda key: init(keys.named(key, "init")))(roots)


def scorer(components: Components, *, shots: tuple[int, ...] = (), steps: tuple[int, ...] = ()) -> Scorer:
    """The scorer of a config; ``shots`` and ``steps`` instead of the config's. Step 0 and the headline always count.

    Raises ValueError for more shots than the config has, or so many of an episode that its classes differ in number.
    """
    chosen = components.config.evaluation
    shots = tuple(sorted({*(shots or chosen.shots), chosen.headline_shots}))
    steps = tuple(sorted({0, *(steps or chosen.steps), chosen.headline_steps}))
    ways = source_facts(components.config.data).ways(components.config.data)
    uneven = [one for one in shots if ways and one % ways]
    if uneven:
        raise ConfigError("shots", uneven[0], f"multiples of data.ways = {ways}")
    known, block = horizon(components, shots), components.config.user_block or 0
    mesh, scores = (
        users_mesh(components.devices),
        scored_curves.query_scores(components.model, components.objective, halves=chosen.metric),
    )

    def adapting(tunes: bool) -> Adaptation:
        loop = _loop(components, max(steps), None, tunes)
        return adaptation(components.model, loop, steps=steps, width=known, block=block, mesh=mesh)

    def curves(run: Adaptation, shots: tuple[int, ...], steps: tuple[int, ...] = ()) -> Callable[..., records.Curves]:
        return scored_curves.curves(run, scores, shots=shots, steps=steps, horizon=known, users=block)

    adapts = adapting(False)
    tunes = adapts if _one_program(components.config) else adapting(True)
    own = curves(adapts, shots)
    tuned = own if tunes is adapts else curves(tunes, shots)
    headline = (chosen.headline_shots,), tuple(sorted({0, chosen.headline_steps}))
    own_headline, tuned_headline = (curves(run, *headline) for run in (adapts, tunes))
    cohorts = cache(partial(everyone, components.stream))
    return Scorer(components, shots, steps, own, tuned, own_headline, tuned_headline, adapts, tunes, cohorts)


def _loop(components: Components, steps: int, rate: float | None, tunes: bool) -> InnerLoop:
    """The config's inner loop; one that ``tunes`` reads its rate from the inner parameters, whatever the config."""
    if tunes:
        return tuning_loop(components.config, components.model, steps=steps, rate=rate)
    return inner_loop(components.config, components.model, steps=steps)


def _one_program(config: Config) -> bool:
    """Whether adapting and tuning are the same computation on other inner parameters: not where a head begins at
    class means, which joint training never meets (``spec.inner_loops.tuning_loop``)."""
    learned = config.inner.name == "gradient" and config.inner.rates.name in ("meta_sgd", "log_meta_sgd")
    return learned and config.gate.name == NONE and not config.model.get("prototypes", False)


def horizon(components: Components, shots: tuple[int, ...]) -> int:
    """Where queries begin: after the config's largest support, whatever shots are asked for; ValueError beyond it."""
    most = max(components.config.evaluation.shots)
    if max(shots) > most:
        raise ConfigError("shots", max(shots), f"<= {most}, the most of the run's config")
    return most


def roots(components: Components) -> Array:
    """The root key of each seed, [seeds]."""
    return jnp.stack([keys.root(components.config.seed + i) for i in range(components.config.seeds)])


def fold(components: Components) -> int:
    """The fold whose users are the test users."""
    return int(components.config.data.get("fold", 0))


def everyone(stream: Stream, split: str) -> Cohort:
    """The held-out users of each period and then their whole histories."""
    cohorts = [stream.held_out(split, period) for period in (*range(stream.periods), None)]
    filled = [cohort for cohort in cohorts if len(cohort.users)]
    return held_out.merged(filled or cohorts[:1])


def save(folder: Path, table: pa.Table, split: str, name: str, period: int) -> None:
    """Writes records where eval and notebooks find them."""
    records.write_records(folder / "records" / f"{split}-{name}-{period}.parquet", table)


def sentence(scores: Mapping[str, Any]) -> str:
    """The headline of a version on validation users, for the terminal."""
    periods = {key: value for key, value in scores["adapted"].items() if key != "-1"}
    adapted, start = np.mean(list(periods.values())), np.mean([scores["start"][key] for key in periods])
    better = "better" if sign(scores["metric"]) * (adapted - start) > 0 else "worse"
    return (
        f"validation {scores['metric']} over all periods {start:.4f} at the start, {adapted:.4f} after "
        f"{counted(scores['steps'], 'step')} on {counted(scores['shots'], 'example')} ({better})"
    )
