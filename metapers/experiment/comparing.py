"""What a run is compared with: the trivial baselines, their strengths chosen on validation users, and the oracle."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa

from metapers import baselines, evaluate, records
from metapers.base import Cohort
from metapers.experiment import adapting, scoring
from metapers.experiment.scoring import Scorer
from metapers.scores import sign

STRENGTHS: dict[str, dict[str, tuple[float, ...]]] = {
    "user_mean": {"shrink": (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)},
    "item_user_bias": {"item": (2.0, 3.0, 4.0, 5.0), "user": (8.0, 10.0, 12.0, 15.0)},
    "item_recent_bias": {"shrink": (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)},
    "user_frequency": {"shrink": (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 300.0, 1000.0)},
    "bigram": {"shrink": (1.0, 10.0, 100.0)},
}


def of_baselines(scorer: Scorer, split: str) -> list[pa.Table]:
    """Records of the trivial baselines, strengths chosen on validation users, and of the oracle where there is one."""
    stream, stages = scorer.parts.stream, scorer.parts.stream.stages
    cohort = scoring.everyone(stream, split, stages - 1)
    predictors = {name: fitted.predict for name, fitted in fit_baselines(scorer).items()}
    if not predictors:
        return []
    horizon = scoring.horizon(scorer.parts, scorer.shots)
    predicted = evaluate.predicted(adapting.plain_objective(scorer.parts.config), shots=scorer.shots, horizon=horizon)
    if stream.oracle is not None:
        predictors["oracle"] = stream.oracle
    return [
        records.records(
            predicted(predict, cohort),
            cohort,
            stream.users,
            strategy=name,
            split=split,
            fold=scoring.fold(scorer.parts),
            trained_stage=stages - 1,
        )
        for name, predict in predictors.items()
    ]


def fit_baselines(scorer: Scorer) -> dict[str, baselines.Predictor]:
    """The baselines fitted on all training users, strengths chosen by the headline metric on validation lives."""
    stream, chosen = scorer.parts.stream, scorer.parts.config.evaluation
    training, judges = stream.training(None), stream.held_out("validation", None)
    score_of = evaluate.predicted(
        adapting.plain_objective(scorer.parts.config),
        shots=(chosen.headline_shots,),
        horizon=scoring.horizon(scorer.parts, scorer.shots),
    )

    def score(predictor: baselines.Predictor) -> float:
        return -sign(chosen.metric) * float(score_of(predictor.predict, judges).scores[chosen.metric].mean())

    found = {}
    sizes = scorer.parts.sizes
    for name, fit in baselines_for(training, sizes.get("classes", sizes.get("vocabulary"))).items():
        grid = STRENGTHS.get(name)
        choice = baselines.choose(lambda fit=fit, **given: fit(training, **given), grid, score) if grid else None
        found[name] = choice.predictor if choice else fit(training)
    return found


def baselines_for(training: Cohort, classes: int | None = None) -> dict[str, Callable[..., baselines.Predictor]]:
    """The baselines that targets of this kind have: of classes, of sequences, of single numbers, or none.

    ``classes``: how many there are, where training users need not have met them all.
    """
    targets = training.targets
    if not isinstance(targets, np.ndarray):
        return {}
    if np.issubdtype(targets.dtype, np.integer):
        fits = {"class_prior": baselines.class_prior, "user_frequency": baselines.user_frequency}
        if targets.ndim == 2 and isinstance(training.inputs, np.ndarray) and training.inputs.shape == targets.shape:
            fits["bigram"] = baselines.bigram
        return {name: partial(fit, classes=classes) for name, fit in fits.items()}
    if targets.ndim != 1:
        return {}
    found = {"global_mean": baselines.global_mean, "user_mean": baselines.user_mean}
    if isinstance(training.inputs, dict) and "item" in training.inputs:
        found["item_user_bias"] = baselines.item_user_bias
    if isinstance(training.inputs, dict) and "past_rating" in training.inputs:
        found["item_recent_bias"] = baselines.item_recent_bias
    return found
