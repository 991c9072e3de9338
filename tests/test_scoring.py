"""Scores of versions: the rate at which a model without learned rates is tuned."""

import jax
import numpy as np
import pytest

from metapers import experiment
from metapers.experiment import assembly, scoring
from metapers.experiment import config as configs


def scorer_of(**overrides):
    config = configs.merged(
        experiment.config_for("sinusoid", "mlp"),
        {"data.users": 8, "evaluation.metric": "mse", "learner.adapts": "all", "learner.inner_rate": 0.5} | overrides,
    )
    return scoring.scorer(assembly.parts(config))


def rates_of(scorer, name, rate=0.0):
    ready = scorer.ready(scorer.initial(), name, rate)
    return {float(value) for leaf in jax.tree.leaves(ready.inner) for value in np.unique(leaf)}


@pytest.mark.parametrize(("rate", "used"), [(0.0, scoring.CAUTIOUS), (0.25, 0.25)])
def test_the_baseline_is_tuned_cautiously_until_a_rate_is_chosen(rate, used):
    # learner.inner_rate was chosen for models that learned to adapt: on one that did not it may end in a nan
    (found,) = rates_of(scorer_of(), "joint", rate)
    assert found == pytest.approx(used)


def test_a_run_of_joint_learners_is_tuned_at_the_rate_of_its_config():
    (found,) = rates_of(scorer_of(**{"learner.name": "joint"}), "naive")
    assert found == pytest.approx(0.5)
