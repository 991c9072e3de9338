"""Scores of versions: the rate at which a model without learned rates is tuned."""

import jax
import numpy as np
import pytest

from metapers import spec, tasks
from metapers.placement import host
from metapers.scoring import curves, records
from metapers.scoring import scorer as scoring
from metapers.spec import building, heads, inner_loops

MLP = {"data.users": 8, "evaluation.metric": "mse", "model.adapts": "all"}


def scorer_of(**overrides):
    given = MLP | {"inner.rates.rate": 0.5} | overrides
    return scoring.scorer(spec.components(spec.merged(spec.config_for("sinusoid", "mlp"), given)))


def rates_of(scorer, name, rate=None):
    ready = scorer.ready(scorer.initial(), name, rate)
    return {float(value) for leaf in jax.tree.leaves(ready.inner) for value in np.unique(leaf)}


@pytest.mark.parametrize(("rate", "used"), [(None, inner_loops.CAUTIOUS), (0.25, 0.25)])
def test_the_baseline_is_tuned_cautiously_until_a_rate_is_chosen(rate, used):
    # inner.rates.rate was chosen for models that learned to adapt: on one that did not it may end in a nan
    (found,) = rates_of(scorer_of(), "joint_model", rate)
    assert found == pytest.approx(used)


def test_a_rate_is_scored_at_the_headline_whatever_happens_at_later_steps():
    few = {"evaluation.shots": (2, 5), "evaluation.headline_shots": 2}
    scorer = scorer_of(**few, **{"evaluation.steps": (0, 1, 2, 9), "evaluation.headline_steps": 1})
    params, judges = scorer.initial(), scorer.components.stream.held_out("validation", None)
    grid = scorer.curves(params, "joint_model", judges, rate=0.01).scores["mse"].mean((0, 1))
    assert scorer.validation_score(params, "joint_model", judges, 0.01) == pytest.approx(-grid[0, 1], rel=1e-6)
    assert abs(grid[0, 1] - grid[0, 3]) > 1e-3 < abs(grid[0, 1] - grid[1, 1])
    # at this rate every user is finite after the headline's one step, and some diverge before the ninth
    large = scorer.curves(params, "joint_model", judges, rate=1e3).scores
    lost = large[records.DIVERGED]
    assert not lost[:, :, 0, 1].any() and lost[:, :, 0, 3].any()
    want = pytest.approx(-large["mse"][:, :, 0, 1].mean())
    assert scorer.validation_score(params, "joint_model", judges, 1e3) == want


def test_a_user_who_diverges_at_the_headline_counts_with_the_start():
    few = {"evaluation.shots": (2, 5), "evaluation.headline_shots": 2}
    scorer = scorer_of(**few, **{"evaluation.steps": (0, 9), "evaluation.headline_steps": 9})
    params, judges = scorer.initial(), scorer.components.stream.held_out("validation", None)
    found = scorer.curves(params, "joint_model", judges, rate=1e3).scores
    lost = found[records.DIVERGED][:, :, 0, 1] > 0
    assert lost.any()
    np.testing.assert_array_equal(found["mse"][:, :, 0, 1][lost], found["mse"][:, :, 0, 0][lost])
    want = pytest.approx(-found["mse"][:, :, 0, 1].mean())
    assert scorer.validation_score(params, "joint_model", judges, 1e3) == want


def test_a_rate_whose_scores_are_not_finite_is_the_worst():
    def trial(params, cohort):
        raise curves.NotFinite("mse must be finite")

    scorer = scorer_of()._replace(tuned_headline=trial)
    judges = scorer.components.stream.held_out("validation", None)
    assert scorer.validation_score(scorer.initial(), "joint_model", judges, 0.1) == -np.inf


def test_a_run_of_joint_learners_is_tuned_at_the_rate_of_its_config():
    (found,) = rates_of(scorer_of(learner="joint"), "fine_tune")
    assert found == pytest.approx(0.5)


def solved(head, source="sinusoid", **overrides):
    given = {"inner": "closed_form", "model.head": head, "arms": ("fine_tune",)}
    return spec.merged(spec.config_for(source, "solved"), given | overrides)


def test_under_a_solved_prior_the_baseline_is_tuned_by_the_weight_of_the_evidence():
    # weight 1/4 is the posterior under twice the noise: no rate stands for it
    small = {"data.users": 8, "evaluation.metric": "mse", "model.hidden": (8,)}
    scorer = scoring.scorer(spec.components(solved("bayes", **small)))
    judges = scorer.components.stream.held_out("validation", None)
    params = host(scorer.initial())
    louder = jax.tree.map(lambda x: x, params)
    louder.shared["head"]["log_noise"] = params.shared["head"]["log_noise"] + np.log(2.0)
    weighed = scorer.curves(params, "joint_model", judges, rate=0.25).scores["mse"]
    np.testing.assert_allclose(weighed, scorer.curves(louder, "joint_model", judges, rate=1.0).scores["mse"], rtol=1e-6)
    assert np.abs(weighed - scorer.curves(params, "joint_model", judges, rate=1.0).scores["mse"]).max() > 1e-3
    assert inner_loops.tuning_grid(scorer.components.config) == inner_loops.TUNING_WEIGHTS


def test_the_baseline_is_trained_only_where_one_model_for_all_can_be():
    assert [*spec.arms(solved("bayes"))] == ["fine_tune", "joint_model"]
    assert [*spec.arms(solved("neighbours"))] == ["fine_tune", "joint_model"]
    for head in ("ridge", "prototypes"):  # they learn through the support alone
        assert [*spec.arms(solved(head, "wisdm"))] == ["fine_tune"]
    assert [*spec.arms(solved("neighbours", learner="joint"))] == ["fine_tune"]  # the same twice
    assert inner_loops.tuning_grid(solved("neighbours")) == ()


@pytest.mark.parametrize("rates", ["constant", "meta_sgd", "log_meta_sgd"])
def test_what_chooses_a_rate_is_what_judges_it_also_where_heads_begin_at_class_means(rates):
    rng, users, each = np.random.default_rng(0), 40, 12
    label = rng.integers(0, 3, users * each)
    images = rng.normal(size=(users * each, 16, 16, 1)) + label[:, None, None, None]
    examples = tasks.Examples(
        tuple(f"u{row}" for row in range(users)),
        np.repeat(np.arange(users), each),
        np.zeros(users * each, int),
        np.tile(np.arange(each), users),
        images.astype(np.float32),
        label,
    )
    stream = tasks.stream(examples, periods=1, fold=0, support=4, query=4, about={"classes": 3})
    few = {"seeds": 1, "evaluation.shots": (4,), "evaluation.headline_shots": 4, "evaluation.steps": (0, 2)}
    config = spec.merged(
        spec.config_for("writers", "conv4"),
        few
        | {"model.filters": 4, "model.prototypes": True, "model.norm": "group", "model.norm.groups": 2}
        | {"model.adapts": "head", "inner.rates": rates, "evaluation.headline_steps": 2, "evaluation.metric": "nll"},
    )
    sizes = {"classes": 3, "width": 1}
    model, devices = building.model(config, sizes), tuple(jax.devices()[:1])
    made = spec.Components(config, spec.arms(config), stream, sizes, model, heads.objective(config), devices)
    scorer = scoring.scorer(made)
    params, judges = scorer.initial(), stream.held_out("validation", None)
    judged = scorer.curves(params, "joint_model", judges, rate=0.1).scores["nll"]
    want = pytest.approx(-judged[..., 1].mean(), rel=1e-6)
    assert scorer.validation_score(params, "joint_model", judges, 0.1) == want
    assert np.abs(judged - scorer.curves(params, "fine_tune", judges).scores["nll"]).max() > 1e-2  # from class means
