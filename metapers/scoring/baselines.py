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

Predict = Callable[[Cohort, int, int], Tree]


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
    stream, judge = own.components.stream, _judge(own, own.shots)
    fitted = fit_baselines(own)
    lives, periods = (scorer.everyone(stream, split, lives=only) for only in (True, False))
    predictors = [(name, one.lives.predictor.predict, lives) for name, one in fitted.items()]
    predictors += [(name, one.periods.predictor.predict, periods) for name, one in fitted.items()]
    if stream.oracle is not None and predictors:
        predictors += [("oracle", stream.oracle, cohort) for cohort in (lives, periods)]
    return [Scored(name, judge(predict, cohort), cohort) for name, predict, cohort in predictors], fitted


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

    def score(cohort: Cohort, predictor: Predictor) -> float:
        values = judge(predictor.predict, cohort).scores[chosen.metric][0, :, 0, 0]
        means = [values[cohort.periods == period].mean() for period in np.unique(cohort.periods)]
        return -sign(chosen.metric) * float(np.mean(means))

    found = {}
    for name in names_for(stream.training(None)):
        member = registry("baseline")[name]
        memos: dict[int, dict] = {}
        fit, grid = functools.cache(functools.partial(_as_of, own, name, member, memos)), grid_of(member)
        each = []
        for lives in (True, False):
            judges = scorer.everyone(stream, "validation", lives=lives)
            settings, best = {}, math.nan
            if grid and len(judges.users):
                _, settings, best = baselines.choose(fit, grid, functools.partial(score, judges))
            each.append(Chosen(_as_of(own, name, member, None, **settings), settings, best))
        found[name] = Fitted(*each)
    return found


def _judge(own: Scorer, shots: tuple[int, ...]) -> Callable[[Predict, Cohort], Curves]:
    horizon = scorer.horizon(own.components, own.shots)
    config = own.components.config
    return curves.predicted(source_objective(config), shots=shots, horizon=horizon, halves=config.evaluation.metric)


def _as_of(own: Scorer, name: str, member: Member, memos: dict[int, dict] | None, /, **settings: float) -> Predictor:
    """A baseline that predicts each example by what was known of other users under ``config.as_of``.

    ``memos``: what fits with other settings share, by the last period of their training examples; None: nothing.
    """
    stream, sizes = own.components.stream, own.components.sizes
    usual = {key: one.default for key, one in member.options.items() if isinstance(one, Option)}

    @functools.cache
    def until(period: int) -> Predictor:
        training = stream.training(period)
        classes = sizes.get("classes", sizes.get("vocabulary"))
        memo = None if memos is None else memos.setdefault(period, {})
        context = Context(training=lambda: training, classes=lambda: classes, memo=lambda: memo)
        return build("baseline", {"name": name, **usual, **settings}, context)

    def predict(cohort: Cohort, shots: int, horizon: int) -> Tree:
        last = last_known(own.components.config.as_of, cohort.example_periods, stream.periods - 1)
        user = np.repeat(np.arange(len(cohort.users)), np.diff(cohort.offsets))
        found: Tree = None
        for period in np.unique(last):
            members = np.unique(user[last == period])
            rows = held_out.rows_of(cohort, members)
            outputs = until(int(period)).predict(held_out.take(cohort, members), shots, horizon)
            if found is None:
                found = jax.tree.map(lambda leaf: np.empty((last.size, *leaf.shape[1:]), leaf.dtype), outputs)
            wanted = last[rows] == period
            jax.tree.map(lambda whole, new: whole.__setitem__(rows[wanted], new[wanted]), found, outputs)  # noqa: B023
        return found

    return Predictor(predict, {"settings": settings})


def grid_of(member: Member) -> dict[str, tuple[Any, ...]]:
    """The values of a baseline's options among which validation users choose."""
    return {key: one.grid for key, one in member.options.items() if isinstance(one, Option) and one.grid}


def names_for(training: Cohort) -> list[str]:
    """The baselines that apply to the targets and inputs of a cohort."""
    return [name for name, member in registry("baseline").items() if member.facts is None or member.facts(training)]
