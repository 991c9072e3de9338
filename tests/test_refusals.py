"""Choices of a config that contradict each other are refused before data are read, by key, value and bound."""

import jax
import pytest

from metapers import spec
from metapers.members import registry
from metapers.run import training
from metapers.run.training import train
from metapers.spec import building
from tests.test_config import refused

CLOSED = {"inner": "closed_form"}
STILL = {"inner": "none", "evaluation.steps": (0,), "evaluation.headline_steps": 0}
PLUS_PLUS = {
    "learner": "maml_plus_plus",
    "learner.msl_anneal_steps": 5,
    "learner.second_order_from": 5,
    "schedule": "cosine",
}
JOINT = ("fine_tune", "joint_model")
UNTRAINED = "no derivative reaches"
NO_PATH = "inner steps"


def heads(targets: str) -> list[str]:
    return sorted(name for name, one in registry("head").items() if targets in one.facts.targets)


def models(inputs: str, targets: str) -> list[str]:
    return sorted(
        name for name, one in registry("model").items() if inputs in one.facts.inputs and targets in one.facts.targets
    )


@pytest.mark.parametrize(
    ("pair", "changes", "key", "value", "bound", "hint"),
    [
        # what a learner needs of the inner loop
        (("wisdm", "solved"), CLOSED | {"learner": "reptile"}, "learner", "reptile",
         "another member with inner 'closed_form'", "no start that others could share"),
        (("wisdm", "solved"), CLOSED | {"learner": "multi_step"},
         "learner", "multi_step", "another member here", NO_PATH),
        (("wisdm", "mlp"), STILL | {"learner": "multi_step"}, "learner", "multi_step", "another member here", NO_PATH),
        (("wisdm", "mlp"), {"inner": "implicit", "learner": "multi_step"},
         "learner", "multi_step", "another member here", NO_PATH),
        *((("wisdm", "mlp"), {"learner": "reptile", "inner.rates": rates},
           "inner.rates", rates, "another member with learner 'reptile'", UNTRAINED)
          for rates in ("meta_sgd", "log_meta_sgd", "lslr")),
        (("wisdm", "mlp"), {"learner": "reptile", "gate": "learned"},
         "gate", "learned", "another member with learner 'reptile'", UNTRAINED),
        # a published method is complete
        *((("wisdm", "mlp"), PLUS_PLUS | changes, "learner", "maml_plus_plus", "another member here", hint)
          for changes, hint in (({"inner.rates": "constant"}, "inner.rates must be lslr"),
                                ({"inner.rates": "lslr", "schedule": "constant"}, "schedule must be cosine"),
                                ({"inner": "optimized"}, "inner.rates must be lslr"),
                                ({"inner": "implicit"}, NO_PATH))),
        # what a gate needs of a head and of a stream
        *((("wisdm", "solved"), CLOSED | {"gate": "learned", "model.head": head},
           "gate", "learned", f"another member with model.head {head!r}", "no meaning part of the way")
          for head in ("prototypes", "neighbours")),
        *((("omniglot", "conv4"),
           {"gate": gate, "model.adapts": "all", "evaluation.shots": (5,), "evaluation.headline_shots": 5},
           "data.shots", 1, f">= 2 with gate {gate!r}", "all that is known of a class")
          for gate in ("cross_validated", "learned")),
        (("wisdm", "mlp"), {"gate": "min_shift"}, "gate.least", None, "a number > 0", "it has no default"),
        (("wisdm", "mlp"), {"gate": "cross_validate"}, "gate.name", "cross_validate",
         "one of ['cross_validated', 'min_shift', 'learned', 'none']", "did you mean 'cross_validated'?"),
        # the loss
        (("movielens", "bayes_recommender"), CLOSED | {"learner.rmse_epsilon": 0.05, "model.variance": True},
         "learner.rmse_epsilon", 0.05, "None here", "can be negative and has no root"),
        # inner steps
        (("wisdm", "mlp"), {"inner": "none"}, "evaluation.steps", (0, 1, 2, 5, 10), "(0,) with inner 'none'", ""),
        (("wisdm", "mlp"), CLOSED, "inner", "closed_form", "not be 'closed_form' here", "takes gradient steps"),
        (("wisdm", "solved"), {}, "inner", "gradient", "'closed_form' here", "computes its head"),
        (("wisdm", "solved"), STILL, "inner", "none", "'closed_form' here", "computes its head"),
        # layer sets
        (("wisdm", "mlp"), {"model.adapts": "head+film"}, "model.adapts", "head+film", "layer sets that the model has",
         "model 'mlp' as configured has nothing of 'film'"),
        (("writers", "conv4"), {"model.adapts": "film", "model.norm": "support"}, "model.adapts", "film",
         "layer sets that the model has", "model 'conv4' as configured has nothing of 'film'"),
        (("linear_gaussian", "linear"), {"model.adapts": "biases"}, "model.adapts", "biases",
         "layer sets that the model has", "model 'linear' as configured has nothing of 'biases'"),
        (("wisdm", "mlp"), {"model.adapts": "head+bodi"},
         "model.adapts", "head+bodi", "names of ", "did you mean 'body'?"),
        (("wisdm", "mlp"), {"model.adapts": ""}, "model.adapts", "", "names of ", ""),
        (("omniglot", "conv4"), {"model.prototypes": True, "model.adapts": "biases", "evaluation.shots": (5,),
                                 "evaluation.headline_shots": 5},
         "model.prototypes", True, "False where adapts has no Head", ""),
        # models and heads that do not fit the source
        (("sinusoid", "solved"), CLOSED, "model.head", "ridge",
         f"one of {heads('numbers')} for data 'sinusoid' (vectors to numbers)", ""),
        (("sinusoid", "solved"), CLOSED | {"model.head": "prototypes"}, "model.head", "prototypes",
         f"one of {heads('numbers')} for data 'sinusoid' (vectors to numbers)", ""),
        (("wisdm", "solved"), CLOSED | {"model.head": "bayes"}, "model.head", "bayes",
         f"one of {heads('classes')} for data 'wisdm' (vectors to classes)", ""),
        (("sinusoid", "conv4"), {}, "model", "conv4",
         f"one of {models('vectors', 'numbers')} for data 'sinusoid' (vectors to numbers)", ""),
        (("quadratic", "mlp"), {}, "model", "mlp", "one of ['point'] for data 'quadratic' (points to points)", ""),
        *((("movielens", name), {}, "data.history", 0, f">= 1 with model {name!r}", "")
          for name in ("rating_gru", "rating_transformer")),
        (("writers", "conv4"), {"model.norm": "grup"}, "model.norm.name", "grup",
         "one of ['group', 'layer', 'support', 'batch', 'none']", "did you mean 'group'?"),
        # episodes
        *((("omniglot", "conv4"), {"evaluation.shots": shots, "evaluation.headline_shots": 5} | changes, *error, "")
          for changes, shots, error in (
              ({"data.ways": 20}, (5,), ("evaluation.headline_shots", 5, "data.ways * data.shots = 20")),
              ({"data.shots": 5}, (5,), ("evaluation.headline_shots", 5, "data.ways * data.shots = 25")),
              ({}, (5, 10), ("evaluation.shots", (5, 10), "at most data.ways * data.shots = 5")))),
        (("omniglot", "conv4"), {"data.shots": 2, "evaluation.shots": (4, 10), "evaluation.headline_shots": 10},
         "evaluation.shots", (4, 10), "multiples of data.ways = 5", "the same number of each class"),
        # arms
        *((pair, {"arms": JOINT} | changes, "arms", JOINT, "without 'joint_model' here", "no such model")
          for pair, changes in ((("omniglot", "conv4"), {"evaluation.shots": (5,), "evaluation.headline_shots": 5}),
                                (("wisdm", "solved"), CLOSED), (("wisdm", "mlp"), {"learner": "joint"}))),
        (("wisdm", "mlp"), {"arms": ()}, "arms", (), "names of arms, at least one", ""),
        (("wisdm", "mlp"), {"arms": ("fine_tune", "frozen", "fine_tune")}, "arms", ("fine_tune", "frozen", "fine_tune"),
         "names that are given once", ""),
        (("wisdm", "mlp"), {"arms": ("fine_tun",)}, "arms", "fine_tun", "one of ", "did you mean 'fine_tune'?"),
        # evaluation
        *((("wisdm", "mlp"), {f"evaluation.{key}": listed}, f"evaluation.{key}", listed,
           "increasing whole numbers, at least one", "")
          for key, listed in (("shots", ()), ("shots", (4, 2)), ("shots", (4, 4)), ("steps", ()), ("steps", (5, 0)))),
        (("wisdm", "mlp"), {"evaluation.headline_shots": 3}, "evaluation.headline_shots", 3,
         "one of evaluation.shots (1, 2, 4, 8, 16)", ""),
        (("wisdm", "mlp"), {"evaluation.headline_steps": 9}, "evaluation.headline_steps", 9,
         "one of evaluation.steps (0, 1, 2, 5, 10)", ""),
    ],
)  # fmt: skip
def test_choices_that_contradict_each_other_are_refused(pair, changes, key, value, bound, hint):
    error = refused(lambda: spec.check(spec.merged(spec.config_for(*pair), changes)))
    assert (error.key, error.value) == (key, value) and error.bound.startswith(bound) and hint in error.hint


@pytest.mark.parametrize(
    ("pair", "changes"),
    [
        (("wisdm", "mlp"), {"learner": "reptile", "gate": "cross_validated"}),
        (("wisdm", "mlp"), {"learner": "reptile", "inner": "optimized"}),
        (("wisdm", "mlp"), {"learner": "multi_step", "inner": "optimized"}),
        (("wisdm", "mlp"), {"learner": "multi_step", "inner.rates": "lslr", "gate": "learned"}),
        (("wisdm", "mlp"), STILL),
        (("wisdm", "mlp"), STILL | {"learner": "joint"}),
        (("wisdm", "mlp"), PLUS_PLUS | {"inner.rates": "lslr"}),
        (("wisdm", "solved"), CLOSED | {"gate": "cross_validated", "model.head": "neighbours"}),
        (("wisdm", "solved"), CLOSED | {"gate": "learned"}),
        (("wisdm", "solved"), CLOSED | {"gate": "min_shift", "gate.least": 0.1, "learner": "joint"}),
        (("sinusoid", "solved"), CLOSED | {"model.head": "bayes", "arms": JOINT}),
        (("movielens", "bayes_recommender"), CLOSED | {"learner.rmse_epsilon": 0.05}),
        (("movielens", "rating_gru"), {"data.history": 1}),
        (("wisdm", "mlp"), {"arms": JOINT, "model.adapts": "head + biases"}),
        (("omniglot", "conv4"), {"data.shots": 2, "evaluation.shots": (5, 10), "evaluation.headline_shots": 10,
                                 "gate": "cross_validated"}),
    ],
)  # fmt: skip
def test_choices_that_go_together_pass(pair, changes):
    config = spec.merged(spec.config_for(*pair), changes)
    assert spec.check(config).to_dict() == config.to_dict()


def test_a_head_from_class_means_may_stand_beside_other_layers_that_adapt():
    config = spec.merged(
        spec.config_for("omniglot", "conv4"),
        {"model.prototypes": True, "evaluation.shots": (5,), "evaluation.headline_shots": 5},
    )
    for adapts in ("all", "head+biases", "body+head"):
        assert spec.check(spec.merged(config, {"model.adapts": adapts})).model.adapts == adapts


def test_nothing_is_read_or_computed_to_refuse_a_config(monkeypatch):
    def fail(*given, **named):
        pytest.fail("data were read")

    monkeypatch.setattr(building, "stream", fail)
    monkeypatch.setattr(jax.Array, "block_until_ready", fail, raising=False)
    config = spec.merged(
        spec.config_for("movielens", "recommender"), {"data.backend": "folder", "data.path": "/nowhere"}
    )
    spec.check(config)
    refused(lambda: spec.check(spec.merged(config, {"model.adapts": "film"})))


def test_a_choice_of_one_config_is_refused_with_the_objective_that_conflicts(monkeypatch):
    monkeypatch.setattr(registry("schedule"), "_members", dict(registry("schedule")._members))
    constant = registry("schedule")["constant"]
    registry("schedule").add(constant=constant._replace(conflicts={"likelihood": "an example"}))
    config = spec.merged(spec.config_for("movielens", "bayes_recommender"), CLOSED | {"model.variance": True})
    error = refused(spec.check, config)
    assert (error.key, error.bound, error.hint) == (
        "schedule",
        "another member with objective 'gaussian'",
        "an example",
    )


@pytest.mark.parametrize(
    ("pair", "changes", "message"),
    [
        (("sinusoid", "mlp"), {"data.amplitude": (1.0,)}, "data.amplitude must be a range (low, high) with low < high"),
        (("linear_gaussian", "linear"), {"data.length_power": 1000.0},
         "data.length_power must be <= 162.7 with the longest"),
        (("linear_gaussian", "linear"), {"data.users_per_period": 5, "data.periods": 1},
         "data must be split so that each period has users to evaluate on, got 'no validation user in the stream'; "
         "more users in each period, fewer periods"),
        (("linear_gaussian", "linear"), {"data.users_per_period": 8, "data.periods": 2},
         "data must be split so that each period has users to evaluate on, got 'no test user in period 1 of 2'; more "
         "users in each period, fewer periods or another data.fold"),
        (("linear_gaussian", "linear"), {"memory.capacity": 10**9},
         "arms: the state of 'continual' must be at most "),
        (("linear_gaussian", "linear"), {"profile": "/dev/null/trace"}, "[Errno 20] profile must be a folder that can "
         "be made: '/dev/null/trace'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_anything_is(pair, changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "learn_stream", lambda *given: pytest.fail("trained"))
    with pytest.raises((ValueError, OSError)) as error:
        train(spec.merged(spec.config_for(*pair), changes), tmp_path)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "key", "bound", "value"),
    [
        ({"boundaries": ("2000-13-01",)}, "data.boundaries", "ISO dates, as '2000-01-01'", ("2000-13-01",)),
        ({"boundaries": ("2000",)}, "data.boundaries", "ISO dates, as '2000-01-01'", ("2000",)),
    ],
)
def test_periods_of_movielens_are_refused_as_they_were_given(changes, key, bound, value):
    config = spec.config_for("movielens", "recommender")
    error = refused(
        lambda: building.stream(spec.merged(config, {f"data.{name}": one for name, one in changes.items()}))
    )
    assert (error.key, error.value) == (key, value) and error.bound.startswith(bound)


def test_a_period_of_movielens_without_ratings_is_refused():
    config = spec.merged(spec.config_for("movielens", "recommender"), {"data.boundaries": ("2050-01-01",)})
    error = refused(building.stream, config)
    assert (error.key, error.value) == ("data.boundaries", ("2050-01-01",))
    assert error.hint == "period 1 of 2 (from 2050-01-01T00:00:00 to the end) holds none"
