"""What a run is compared with: simple baselines whose strengths validation users choose, and the oracle."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa

from metapers import baselines, held_out
from metapers.base import Cohort, Tree
from metapers.baselines import Chosen, Predictor
from metapers.members import Context, Member, build, registry
from metapers.options import Option
from metapers.scores import sign
from metapers.scoring import curves, records, scorer
from metapers.scoring.records import Curves
from metapers.scoring.scorer import Scorer
from metapers.spec.heads import source_objective


class Fitted(NamedTuple):
    """A baseline with the strengths that validation users chose, for each of the two tables that show it."""

    lives: Chosen  # by the score on whole lives
    periods: Chosen  # by the mean over periods of the score on each


class Scored(NamedTuple):
    """A baseline's curves on held-out users."""

    name: str
    curves: Curves
    cohort: Cohort


def last_known(as_of: str, periods: np.ndarray, last: int) -> np.ndarray:
    """The last period in the training data of the baseline that predicts an example of ``periods`` int [n].

    "before": the period before. The first period has none before it, so its own training users stand in. That is more
    than the policy allows, in favour of the baseline.

    >>> [last_known(policy, np.arange(3), 2).tolist() for policy in ("before", "end", "retrospective")]
    [[0, 0, 1], [0, 1, 2], [2, 2, 2]]
    """
    if as_of == "retrospective":
        return np.full_like(periods, last)
    return np.maximum(periods - 1, 0) if as_of == "before" else periods


def of_baselines(own: Scorer, split: str) -> tuple[list[Scored], dict[str, Fitted]]:
    """Curves of the baselines, strengths chosen on validation users, and of the oracle where there is one.

    Returns:
      The curves, and the baselines with their strengths by name.
    """
    oracle, judge = own.components.stream.oracle, _judge(own, own.shots)
    fitted = fit_baselines(own)
    found = []
    for lives in (True, False):
        cohort = own.everyone(split, lives=lives)
        predictors = {name: (one.lives if lives else one.periods).predictor.predict for name, one in fitted.items()}
        if oracle is not None and predictors:
            predictors["oracle"] = oracle
        curves_of = judge(list(predictors.values()), cohort)
        found += [Scored(name, one, cohort) for name, one in zip(predictors, curves_of, strict=True)]
    return found, fitted


def blocks(own: Scorer, found: Sequence[Scored], split: str) -> Iterator[pa.Table]:
    """The records of ``of_baselines``'s curves, some users at a time."""
    stream = own.components.stream
    about: Any = {"split": split, "fold": scorer.fold(own.components), "version": stream.periods - 1}
    for name, curves_of, cohort in found:
        yield from records.blocks(curves_of, cohort, stream.users, arm=name, **about)


def fit_baselines(own: Scorer) -> dict[str, Fitted]:
    """The baselines fitted on training users under ``config.as_of``.

    The headline metric on validation users chooses strengths: on whole histories for the table of whole histories, and
    on each period for the table of periods.
    """
    stream, chosen = own.components.stream, own.components.config.evaluation
    judge = _judge(own, (chosen.headline_shots,))
    training = functools.lru_cache(maxsize=1)(stream.training)  # a copy of the examples of most users

    def scores(cohort: Cohort, predictors: Sequence[Predictor]) -> list[float]:
        found = []
        for one in judge([predictor.predict for predictor in predictors], cohort):
            values = one.scores[chosen.metric][0, :, 0, 0]
            means = [values[cohort.periods == period].mean() for period in np.unique(cohort.periods)]
            found.append(-sign(chosen.metric) * float(np.mean(means)))
        return found

    found = {}
    for name in names_for(training(0)):
        fits, each = Fits(own, name, training), []
        grid = grid_of(registry("baseline")[name])
        for lives in (True, False):
            judges = own.everyone("validation", lives=lives)
            settings, best = {}, math.nan
            if grid and len(judges.users):
                _, settings, best = baselines.choose(fits.predictor, grid, functools.partial(scores, judges))
            each.append(Chosen(fits.alone(settings), settings, best))
        found[name] = Fitted(*each)
    return found


def _judge(own: Scorer, shots: tuple[int, ...]) -> Callable[[Sequence[curves.Predict], Cohort], list[Curves]]:
    horizon = scorer.horizon(own.components, own.shots)
    config = own.components.config
    return curves.predicted(source_objective(config), shots=shots, horizon=horizon, halves=config.evaluation.metric)


class Fits:
    """A baseline's predictors, which predict each example by what was known of other users under ``config.as_of``."""

    def __init__(self, own: Scorer, name: str, training: Callable[[int], Cohort]):
        """
        Args:
          own: of the run.
          name: of the baseline.
          training: period -> the training users' examples up to and with it.
        """
        self.own, self.name, self.training = own, name, training
        self.member = registry("baseline")[name]
        self.usual = {key: one.default for key, one in self.member.options.items() if isinstance(one, Option)}
        self.asked: list[dict[str, float]] = []  # settings
        self.fitted: dict[tuple[int, int], Predictor] = {}  # by period and place in ``asked``
        self.memos: dict[int, dict] = {}  # what fits with other settings share, by period

    def predictor(self, **settings: float) -> Predictor:
        """The baseline with some settings. All fits that share a period are made when the first of them predicts."""
        if settings not in self.asked:
            self.asked.append(settings)
        place = self.asked.index(settings)

        def until(period: int) -> Predictor:
            if (period, place) not in self.fitted:
                for other, values in enumerate(self.asked):
                    self.fitted[period, other] = self._fit(period, values, self.memos.setdefault(period, {}))
            return self.fitted[period, place]

        return self._as_of(until, settings)

    def alone(self, settings: dict[str, float]) -> Predictor:
        """The baseline with some settings, which shares nothing with others and holds no training examples."""
        periods = self.own.components.stream.periods
        last = np.unique(last_known(self.own.components.config.as_of, np.arange(periods), periods - 1)).tolist()
        return self._as_of({period: self._fit(period, settings, None) for period in last}.__getitem__, settings)

    def _fit(self, period: int, settings: dict[str, float], memo: dict | None) -> Predictor:
        sizes = self.own.components.sizes
        training, classes = self.training(period), sizes.get("classes", sizes.get("vocabulary"))
        context = Context(training=lambda: training, classes=lambda: classes, memo=lambda: memo)
        return build("baseline", {"name": self.name, **self.usual, **settings}, context)

    def _as_of(self, until: Callable[[int], Predictor], settings: dict[str, float]) -> Predictor:
        as_of, periods = self.own.components.config.as_of, self.own.components.stream.periods

        def predict(cohort: Cohort, shots: int, horizon: int) -> Tree:
            last = last_known(as_of, cohort.example_periods, periods - 1)
            user = np.repeat(np.arange(len(cohort.users)), np.diff(cohort.offsets))
            found: Tree = None
            for period in np.unique(last):
                members = np.unique(user[last == period])
                rows = held_out.rows_of(cohort, members)
                outputs = until(int(period)).predict(held_out.take(cohort, members), shots, horizon)
                if found is None:
                    found = jax.tree.map(lambda leaf: np.empty((last.size, *leaf.shape[1:]), leaf.dtype), outputs)
                wanted = last[rows] == period
                for whole, new in zip(jax.tree.leaves(found), jax.tree.leaves(outputs), strict=True):
                    whole[rows[wanted]] = new[wanted]
            return found

        return Predictor(predict, {"settings": settings})


def grid_of(member: Member) -> dict[str, tuple[Any, ...]]:
    """The values of a baseline's options among which validation users choose."""
    return {key: one.grid for key, one in member.options.items() if isinstance(one, Option) and one.grid}


def names_for(training: Cohort) -> list[str]:
    """The baselines that apply to the targets and inputs of a cohort."""
    return [name for name, member in registry("baseline").items() if member.facts is None or member.facts(training)]
