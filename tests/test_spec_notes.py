"""Values without effect are named in a note; options of a member that is not chosen cannot be set at all."""

import pytest

from metapers import spec
from metapers.run import training
from tests import runs
from tests.test_config import refused

STILL = {"inner": "none", "evaluation.steps": (0,), "evaluation.headline_steps": 0}  # what inner "none" needs
EPISODES = {"evaluation.shots": (5,), "evaluation.headline_shots": 5}


def notes(changes, pair=None):
    config = runs.small() if pair is None else spec.config_for(*pair)
    return spec.unused(spec.check(spec.merged(config, changes)))


@pytest.mark.parametrize(
    ("changes", "key", "value", "why"),
    [
        ({"learner": "reptile", "inner.first_order": True}, "inner.first_order", True, "learner 'reptile'"),
        ({"learner": "reptile", "inner.backward": "remat"}, "inner.backward", "'remat'", "learner 'reptile'"),
        (
            {"learner": "reptile", "inner": "optimized", "inner.first_order": True},
            *("inner.first_order", True, "learner 'reptile'"),
        ),
        ({"learner": "joint", "inner.backward": "mixed"}, "inner.backward", "'mixed'", "learner 'joint'"),
        ({"learner": "joint", "inner.first_order": True}, "inner.first_order", True, "learner 'joint'"),
        ({"learner": "joint", "inner.rates": "lslr"}, "inner.rates.name", "'lslr'", "learner 'joint'"),
        ({"arms": ("joint_model",), "inner.rates": "lslr"}, "inner.rates.name", "'lslr'", "learner 'joint'"),
    ],
)
def test_a_value_that_nothing_reads_is_named_with_the_reason(changes, key, value, why):
    changes = {"penalties": (), "memory": "none"} | changes
    assert f"{key} {value} has no effect with {why}" in notes(changes)
    without = {name: one for name, one in changes.items() if not key.startswith(name) or name == "inner"}
    assert not [note for note in notes(without) if note.startswith(key)]


@pytest.mark.parametrize(
    ("pair", "changes", "expected"),
    [
        (None, {"learner": "joint", "gate": "learned"}, "gate 'learned' has no effect with learner 'joint'"),
        (None, STILL | {"gate": "cross_validated"}, "gate 'cross_validated' has no effect with inner 'none'"),
        (
            ("omniglot", "conv4"),
            EPISODES | STILL | {"model.prototypes": True, "model.adapts": "all"},
            "model.prototypes True has no effect with inner 'none'",
        ),
        (
            ("movielens", "recommender"),
            {"data.history": 8},
            "data.history 8 has no effect with model 'recommender'",
        ),
    ],
)
def test_a_choice_without_effect_is_named(pair, changes, expected):
    assert notes(changes, pair) == [expected]


def test_penalties_and_a_memory_are_named_where_no_arm_remembers():
    off = {"arms": ("fine_tune", "frozen"), "memory": "none"}
    assert notes(off) == []
    (note,) = notes(off | {"penalties": {"anchor": {"strength": 1.0}}})
    assert note == "penalties has no effect: no arm of ('frozen', 'fine_tune', 'joint_model') has it"
    (note,) = notes(off | {"memory": "reservoir", "memory.capacity": 7})
    assert note.startswith("memory has no effect: ")
    assert (
        notes(off | {"memory": "reservoir", "memory.capacity": 7, "arms": {"er": {"memory": {"replay_batch": 3}}}})
        == []
    )
    assert notes(off | {"arms": ("continual",), "penalties": {"anchor": {"strength": 1.0}}}) == []


class Stop(Exception):
    """Training is about to begin."""


def stop(*given):
    raise Stop


def test_training_logs_every_value_that_nothing_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "learn_stream", stop)
    config = runs.quick(arms=("fine_tune",), penalties={"anchor": {"strength": 1.0}}, learner="joint", gate="learned")
    want = spec.unused(spec.check(config))
    assert len(want) == 3
    with pytest.raises(Stop):
        training.train(config, tmp_path)
    told = [line["text"] for line in runs.journal(tmp_path) if line["kind"] == "note"]
    assert {f"note: {note}" for note in want} <= {*told}


@pytest.mark.parametrize(
    "changes",
    [
        {"inner": "optimized", "inner.optimizer": "adam", "inner.clip_norm": 1.0},
        {"inner": "optimized", "inner.minibatch": 4},
        {"inner": "implicit", "inner.strength": 2.0, "inner.cg_steps": 3},
        {"inner": "optimized", "inner.first_order": True, "inner.pseudo_count": 4.0},
        {"inner.rates": "log_meta_sgd", "inner.backward": "mixed", "inner.unroll": 2},
        {"gate": "cross_validated", "gate.folds": 3, "gate.margin": 1.0},
        {"gate": "learned", "gate.folds": 3},
        {"gate": "min_shift", "gate.least": 0.1},
        {"learner": "multi_step", "learner.msl_anneal_steps": 5, "learner.second_order_from": 5},
        {"learner.rmse_epsilon": 0.1},
        # the model without an inner loop is fine-tuned with these
        {"learner": "joint", "inner.pseudo_count": 4.0, "inner.proximal_weight": 2.0, "inner.unroll": 2},
        # several methods of one config file share them
        {"learner": "joint", "inner.steps": 7, "inner.rates.rate": 0.5},
        {"aggregator": "clipped", "aggregator.norm": 1.0},
        {"penalties": {"anchor": {"strength": 1.0}, "ewc": {"strength": 1.0}}},
        STILL,
    ],
)
def test_values_that_something_reads_are_not_named(changes):
    assert notes(changes) == []


PENALTIES = {"penalties": {"anchor": {"strength": 1.0}}}


@pytest.mark.parametrize(
    ("pair", "changes", "key", "hint"),
    [
        (None, {}, "inner.optimizer", "'optimized' or 'implicit'"),
        (None, {}, "inner.clip_norm", "'optimized' or 'implicit'"),
        (None, {}, "inner.minibatch", "'optimized'"),
        (None, {}, "inner.strength", "'implicit'"),
        (None, {"inner": "optimized"}, "inner.strength", "'implicit'"),
        (None, {}, "inner.cg_steps", "'implicit'"),
        (None, {"inner": "optimized"}, "inner.rates", "'gradient'"),
        (None, {"inner": "implicit"}, "inner.backward", "'gradient'"),
        (None, {"inner": "implicit"}, "inner.pseudo_count", "'gradient' or 'optimized'"),
        (None, {"inner": "implicit"}, "inner.unroll", "'gradient'"),
        (None, STILL, "inner.first_order", "'gradient' or 'optimized'"),
        (None, STILL, "inner.steps", "'gradient'"),
        (None, {"optimizer.table": "frozen"}, "optimizer.table.rate", "'adam' or 'sgd'"),
        (None, {"optimizer.table": "frozen"}, "optimizer.table.weight_decay", "'adam' or 'sgd'"),
        (None, {}, "gate.folds", "'cross_validated' or 'learned'"),
        (None, {}, "gate.margin", "'cross_validated'"),
        (None, {"gate": "learned"}, "gate.margin", "'cross_validated'"),
        (None, {}, "gate.least", "'min_shift'"),
        (None, {}, "learner.msl_anneal_steps", "'multi_step' or 'maml_plus_plus'"),
        (None, {"learner": "reptile"}, "learner.second_order_from", "'multi_step' or 'maml_plus_plus'"),
        (None, {"learner": "reptile"}, "learner.rmse_epsilon", "'maml'"),
        (None, {"learner": "multi_step"}, "learner.rmse_epsilon", "'maml'"),
        (None, {}, "schedule.warmup", "'cosine'"),
        (None, {}, "aggregator.norm", "'clipped'"),
        *((None, PENALTIES, f"penalties.ewc.{option}", "'ewc'") for option in ("strength", "decay", "draws", "exact")),
        (None, {"penalties": {"ewc": {"strength": 1.0}}}, "penalties.anchor.strength", "'anchor'"),
        (None, {}, "penalties.anchor.strength", "'anchor'"),
        *((None, {"memory": "none"}, f"memory.{option}", "'reservoir'")
          for option in ("capacity", "replay_batch", "consolidation_batches")),
        (("wisdm", "solved"), {}, "model.adapts", "'mlp'"),
        (("wisdm", "solved"), {}, "model.prototypes", "'conv4'"),
        (("wisdm", "solved"), {"model.head": "ridge"}, "model.head.variance", "'bayes'"),
        (("wisdm", "solved"), {"model.head": "bayes"}, "model.head.nearest", "'neighbours'"),
        (("writers", "conv4"), {}, "model.norm.groups", "'group'"),
        (("linear_gaussian", "linear"), {}, "data.history", "'movielens'"),
    ],
)  # fmt: skip
def test_an_option_of_a_member_that_is_not_chosen_is_an_unknown_key(pair, changes, key, hint):
    config = runs.small() if pair is None else spec.config_for(*pair)
    spec.merged(config, changes)
    error = refused(spec.merged, config, changes | {key: 1})
    assert (error.key, error.value, error.bound) == (key, 1, "a known key") and hint in error.hint
