"""What a run is compared with: simple baselines whose strengths validation users choose, and the oracle."""

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from metapers import baselines
from metapers.base import Cohort
from metapers.members import Context, Member, build, registry
from metapers.options import Option
from metapers.scores import sign
from metapers.scoring import curves, records, scorer
from metapers.scoring.scorer import Scorer
from metapers.spec.heads import source_objective


def of_baselines(own: Scorer, split: str) -> tuple[list[pa.Table], dict[str, baselines.Chosen]]:
    """Records of the baselines, strengths chosen on validation users, and of the oracle where there is one.

    Returns:
      The tables of records, and the baselines with their strengths by name.
    """
    stream, stages = own.components.stream, own.components.stream.stages
    cohort = scorer.everyone(stream, split, stages - 1)
    fitted = fit_baselines(own)
    predictors = {name: one.predictor.predict for name, one in fitted.items()}
    if not predictors:
        return [], {}
    horizon = scorer.horizon(own.components, own.shots)
    predicted = curves.predicted(source_objective(own.components.config), shots=own.shots, horizon=horizon)
    if stream.oracle is not None:
        predictors["oracle"] = stream.oracle
    tables = [
        records.records(
            predicted(predict, cohort),
            cohort,
            stream.users,
            strategy=name,
            split=split,
            fold=scorer.fold(own.components),
            trained_stage=stages - 1,
        )
        for name, predict in predictors.items()
    ]
    return tables, fitted


def fit_baselines(own: Scorer) -> dict[str, baselines.Chosen]:
    """The baselines fitted on all training users, strengths chosen by the headline metric on validation users."""
    stream, chosen = own.components.stream, own.components.config.evaluation
    training, judges = stream.training(None), stream.held_out("validation", None)
    score_of = curves.predicted(
        source_objective(own.components.config),
        shots=(chosen.headline_shots,),
        horizon=scorer.horizon(own.components, own.shots),
    )

    def score(predictor: baselines.Predictor) -> float:
        return -sign(chosen.metric) * float(score_of(predictor.predict, judges).scores[chosen.metric].mean())

    sizes = own.components.sizes
    context = Context(training=lambda: training, classes=lambda: sizes.get("classes", sizes.get("vocabulary")))
    found = {}
    for name in names_for(training):
        member, given = registry("baseline")[name], {"name": name}
        grid = grid_of(member)
        usual = {key: one.default for key, one in member.options.items() if isinstance(one, Option)}
        section: Mapping[str, Any] = {**given, **usual}
        if grid:
            fit = lambda section=section, **values: build("baseline", {**section, **values}, context)
            found[name] = baselines.choose(fit, grid, score)
        else:
            found[name] = baselines.Chosen(build("baseline", section, context), {}, math.nan)
    return found


def grid_of(member: Member) -> dict[str, tuple[Any, ...]]:
    """The values of a baseline's options among which validation users choose."""
    return {key: one.grid for key, one in member.options.items() if isinstance(one, Option) and one.grid}


def names_for(training: Cohort) -> list[str]:
    """The baselines that apply to the targets and inputs of a cohort."""
    return [name for name, member in registry("baseline").items() if member.facts is None or member.facts(training)]
