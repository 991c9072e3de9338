"""Every key of metapers 0.1 has its value in a present config, or had no effect."""

import pytest

from metapers import spec
from metapers.members import registry
from metapers.options import ConfigError
from metapers.spec import migrate, tree
from metapers.spec.old_keys import METHOD_NAMES
from metapers.spec.root import SHIPPED_ARMS

GROUPS = ("param", "table", "personal", "inner")
DEFAULTS = {  # every key of the default config of metapers 0.1 but those of the source and of the model
    "name": "",
    "seed": 0,
    "seeds": 1,
    "strategies": ("static", "naive", "joint_so_far", "continual"),
    "steps": 100,
    "users": 32,
    "chunk": 50,
    "start_from": "",
    "bank": True,
    "learner.name": "maml",
    "learner.inner": "gradient",
    "learner.inner_steps": 5,
    "learner.inner_rate": 0.1,
    "learner.inner_optimizer": "sgd",
    "learner.inner_clip": 0.0,
    "learner.minibatch": 0,
    "learner.strength": 1.0,
    "learner.cg_steps": 5,
    "learner.keep": "always",
    "learner.folds": 4,
    "learner.least_move": 0.0,
    "learner.margin": 0.0,
    "learner.rates": "fixed",
    "learner.first_order": False,
    "learner.backward": "plain",
    "learner.unroll": 1,
    "learner.shrink": 0.0,
    "learner.pull": 0.0,
    "learner.anneal": 0,
    "learner.second_from": 0,
    "learner.serial": False,
    "learner.root": 0.0,
    "learner.adapts": "personal",
    "learner.aggregator": "mean",
    "learner.clip": 0.0,
    "learner.block": 0,
    "schedule": "constant",
    "warmup": 0,
    "clip_norm": 0.0,
    **{f"optimizer.{group}.name": "adam" for group in GROUPS},
    **{f"optimizer.{group}.rate": 1e-3 for group in GROUPS},
    **{f"optimizer.{group}.weight_decay": 0.0 for group in GROUPS},
    "continual.penalty": ("anchor",),
    "continual.anchor_strength": 0.0,
    "continual.ewc_strength": 0.0,
    "continual.ewc_decay": 1.0,
    "continual.ewc_draws": 4,
    "continual.ewc_exact": True,
    "continual.memory": "reservoir",
    "continual.capacity": 256,
    "continual.replayed": 32,
    "continual.draws": 16,
    "evaluation.metric": "rmse",
    "evaluation.shots": (1, 2, 4, 8, 16),
    "evaluation.steps": (0, 1, 2, 5, 10),
    "evaluation.headline_shots": 16,
    "evaluation.headline_steps": 5,
    "evaluation.bootstrap": 2000,
    "log_every": 50,
    "checkpoint_every": 200,
    "validate_every": 100,
    "progress": True,
    "tensorboard": True,
    "profile": "",
    "devices": 0,
}
SOURCES = {  # options of the sources that have another name or another value now, with values that were chosen
    "linear_gaussian": {"stages": 3, "users_per_stage": 7},
    "movielens": {"origin": "folder", "path": "there", "min_ratings": 4, "full": 0.2, "from_start": 0.3},
    "omniglot": {"train_ways": 20, "origin": "tfds", "path": ""},
    "shakespeare": {"min_examples": 3, "by_length": 0.5, "path": "there"},
}
OPTIMIZED, IMPLICIT = {"learner.inner": "optimized"}, {"learner.inner": "implicit"}
EWC = {"continual.penalty": ("ewc",), "continual.ewc_strength": 0.3}
CONV4 = {"data.source": "writers", "model.name": "conv4"}
SOLVED = {"data.source": "wisdm", "model.name": "solved", "learner.inner": "written"}
NEAREST = SOLVED | {"model.head": "neighbours"}
CHANGED = (  # old key, value, other old values, new key, new value
    ("strategies", ("naive", "joint_so_far"), {}, "arms.cumulative.trains_on", "so_far"),
    ("steps", 7, {}, "outer_steps", 7),
    ("users", 7, {}, "meta_batch", 7),
    ("start_from", "x", {}, "start_from", "x"),
    ("start_from", "", {}, "start_from", None),
    ("profile", "", {}, "profile", None),
    ("devices", 0, {}, "devices", None),
    ("devices", 2, {}, "devices", 2),
    ("clip_norm", 0.0, {}, "clip_norm", None),
    ("clip_norm", 2.0, {}, "clip_norm", 2.0),
    ("schedule", "cosine", {}, "schedule.name", "cosine"),
    ("warmup", 7, {"schedule": "cosine"}, "schedule.warmup", 7),
    ("learner.name", "joint", {}, "learner.name", "joint"),
    ("learner.inner", "written", SOLVED, "inner.name", "closed_form"),
    ("learner.inner", "none", {}, "inner.name", "none"),
    ("learner.inner_steps", 7, {}, "inner.steps", 7),
    ("learner.inner_rate", 0.7, {}, "inner.rates.rate", 0.7),
    ("learner.inner_rate", 0.7, IMPLICIT, "inner.optimizer.rate", 0.7),
    ("learner.inner_optimizer", "adam_plain", OPTIMIZED, "inner.optimizer.name", "adam_no_momentum"),
    ("learner.inner_optimizer", "momentum", IMPLICIT, "inner.optimizer.name", "momentum"),
    ("learner.inner_clip", 0.7, OPTIMIZED, "inner.clip_norm", 0.7),
    ("learner.inner_clip", 0.0, OPTIMIZED, "inner.clip_norm", None),
    ("learner.minibatch", 7, OPTIMIZED, "inner.minibatch", 7),
    ("learner.minibatch", 0, OPTIMIZED, "inner.minibatch", None),
    ("learner.strength", 0.7, IMPLICIT, "inner.strength", 0.7),
    ("learner.cg_steps", 7, IMPLICIT, "inner.cg_steps", 7),
    ("learner.keep", "if_it_helps", {}, "gate.name", "cross_validated"),
    ("learner.keep", "if_it_moves", {}, "gate.name", "min_shift"),
    ("learner.keep", "gated", {}, "gate.name", "learned"),
    ("learner.keep", "always", {}, "gate.name", "none"),
    ("learner.folds", 7, {"learner.keep": "gated"}, "gate.folds", 7),
    ("learner.margin", 0.7, {"learner.keep": "if_it_helps"}, "gate.margin", 0.7),
    ("learner.least_move", 0.7, {"learner.keep": "if_it_moves"}, "gate.least", 0.7),
    ("learner.rates", "fixed", {}, "inner.rates.name", "constant"),
    ("learner.rates", "learned", {}, "inner.rates.name", "meta_sgd"),
    ("learner.rates", "log", {}, "inner.rates.name", "log_meta_sgd"),
    ("learner.rates", "per_step", {}, "inner.rates.name", "lslr"),
    ("learner.first_order", True, {}, "inner.first_order", True),
    ("learner.backward", "mixed", {}, "inner.backward", "mixed"),
    ("learner.unroll", 3, {}, "inner.unroll", 3),
    ("learner.shrink", 0.7, {}, "inner.pseudo_count", 0.7),
    ("learner.pull", 0.7, OPTIMIZED, "inner.proximal_weight", 0.7),
    ("learner.anneal", 7, {"learner.name": "multi_step"}, "learner.msl_anneal_steps", 7),
    ("learner.second_from", 7, {"learner.name": "multi_step"}, "learner.second_order_from", 7),
    ("learner.serial", True, {}, "learner.sequential", True),
    ("learner.root", 0.7, {}, "learner.rmse_epsilon", 0.7),
    ("learner.root", 0.0, {}, "learner.rmse_epsilon", None),
    ("learner.adapts", "all", {}, "model.adapts", "all"),
    ("learner.aggregator", "clipped", {"learner.clip": 0.5}, "aggregator.name", "clipped"),
    ("learner.clip", 0.7, {"learner.aggregator": "clipped"}, "aggregator.norm", 0.7),
    ("learner.block", 7, {}, "user_block", 7),
    ("learner.block", 0, {}, "user_block", None),
    ("continual.penalty", ("ewc",), EWC, "penalties.ewc.strength", 0.3),
    ("continual.anchor_strength", 0.7, {"continual.penalty": ("anchor",)}, "penalties.anchor.strength", 0.7),
    ("continual.ewc_strength", 0.7, EWC, "penalties.ewc.strength", 0.7),
    ("continual.ewc_decay", 0.7, EWC, "penalties.ewc.decay", 0.7),
    ("continual.ewc_draws", 7, EWC, "penalties.ewc.draws", 7),
    ("continual.ewc_exact", False, EWC, "penalties.ewc.exact", False),
    ("continual.memory", "none", {}, "memory.name", "none"),
    ("continual.replayed", 0, {}, "memory.name", "none"),
    ("continual.replayed", 7, {}, "memory.replay_batch", 7),
    ("continual.capacity", 7, {}, "memory.capacity", 7),
    ("continual.draws", 7, {}, "memory.consolidation_batches", 7),
    ("model.norm", "none", CONV4, "model.norm.name", "none"),
    ("model.norm", "layer", CONV4, "model.norm.name", "layer"),
    ("model.groups", 4, CONV4 | {"model.norm": "group"}, "model.norm.groups", 4),
    ("model.head", "neighbours", SOLVED, "model.head.name", "neighbours"),
    ("model.variance", True, SOLVED | {"model.head": "bayes"}, "model.head.variance", True),
    ("model.variance", True, {"model.name": "bayes_recommender"}, "model.variance", True),
    ("model.full", True, SOLVED | {"model.head": "bayes"}, "model.head.full", True),
    ("model.capacity", 7, NEAREST, "model.head.capacity", 7),
    ("model.nearest", 7, NEAREST, "model.head.nearest", 7),
    ("model.share", 0.7, NEAREST, "model.head.share", 0.7),
    ("model.scale", 0.7, NEAREST, "model.head.scale", 0.7),
)
NO_EFFECT = (  # options that nothing read in the default config
    *("learner.inner_optimizer", "learner.inner_clip", "learner.minibatch", "learner.strength", "learner.cg_steps"),
    *("learner.folds", "learner.least_move", "learner.margin", "learner.anneal", "learner.second_from"),
    *("learner.clip", "warmup", *(f"continual.ewc_{key}" for key in ("strength", "decay", "draws", "exact"))),
)


def of_values(leaves):
    return dict(tree.leaves(spec.from_plain(migrate.migrated_values(leaves))))


@pytest.mark.parametrize(("old", "value", "others", "new", "expected"), CHANGED)
def test_a_changed_key_has_a_new_place_and_its_value_there(old, value, others, new, expected):
    assert of_values(others | {old: value})[new] == expected


def test_every_key_of_the_old_default_config_is_translated_or_has_no_effect_by_default():
    moved = {old for old, *_ in CHANGED}
    assert set(NO_EFFECT) <= moved and moved - {key for key in moved if key.startswith("model.")} <= set(DEFAULTS)
    for old, value in DEFAULTS.items():
        place = migrate.KEYS[old].new if old in migrate.KEYS else (old,)
        assert old in moved or place == (old,), old
        there = [new for new in of_values({old: value}) if new.startswith(place)]
        assert there or old in NO_EFFECT or old in ("continual.penalty", "continual.anchor_strength"), old
    options = {f"data.{key}" for given in SOURCES.values() for key in given}
    assert {key for key in migrate.KEYS if key.startswith("data.")} == options | {"data.source"}
    assert {key for key in migrate.KEYS if not key.startswith("data.")} <= moved


def test_the_old_default_config_is_the_new_one():
    for leaves in (DEFAULTS, {}):
        config = spec.from_plain(migrate.migrated_values(leaves))
        assert spec.plain(config) == spec.plain(spec.config_for("linear_gaussian", "linear"))
    assert not migrate.migrated_values(DEFAULTS)["penalties"]  # a strength of 0 was no penalty


@pytest.mark.parametrize("source", SOURCES)
def test_options_of_sources_have_their_new_names(source):
    given = {f"data.{key}": value for key, value in SOURCES[source].items()}
    found = of_values({"data.source": source} | given)
    for key, value in given.items():
        assert found[migrate.KEYS[key].new[0]] == (value or None)
    assert found["data.name"] == source


def test_a_key_that_was_none_is_refused_and_a_frozen_group_has_no_options():
    with pytest.raises(ConfigError) as refused:
        migrate.migrated_values({"learner.inner_stepz": 3})
    assert (refused.value.key, refused.value.value) == ("learner.inner_stepz", 3)
    tree = migrate.migrated_values({"optimizer.param.name": "frozen", "optimizer.param.rate": 0.1})
    assert tree == {"optimizer": {"param": {"name": "frozen"}}}


def test_every_value_that_is_written_is_one_of_this_version():
    assert set(migrate.KEYS["strategies"].names.values()) < set(SHIPPED_ARMS)
    kinds = {"inner": "inner_loop", "inner.rates": "rates", "inner.optimizer": "inner_optimizer", "gate": "gate"}
    for key in (place for old, place in migrate.KEYS.items() if old != "strategies"):
        for name in key.names.values():
            assert name == "none" or name in registry(kinds[key.new[0].removesuffix(".name")])
    assert set(METHOD_NAMES.values()) <= set(spec.METHODS)
