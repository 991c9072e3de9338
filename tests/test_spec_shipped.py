"""Shipped configs: every method of every file makes a config that is complete, or is refused by name."""

import jax
import numpy as np
import pytest

from metapers import keys, spec
from metapers.command.arguments import SHIPPED, UsageError, file_config
from metapers.options import ConfigError
from metapers.spec import building
from metapers.spec.heads import source_facts
from tests import runs
from tests.test_config import refused

NAMES = sorted(path.stem for path in (runs.ROOT / "configs").glob("*.py"))
FORMS = {"ratings": ("{}", "transformer-{}")}  # those of omniglot have a test of their own
LEAST = {"movielens": 9, "sinusoid": 17, "omniglot": 18, "shakespeare": 14, "wisdm": 18, "writers": 17, "ratings": 28}


def shipped(name: str):
    """The config of a file and a method, as ``--config=NAME`` makes it."""
    return file_config(name)


def left_out(name: str) -> ConfigError:
    """The error of a config file for a method that it does not have."""
    with pytest.raises(UsageError) as error:
        shipped(name)
    assert isinstance(error.value.__cause__, ConfigError) and "\n" not in str(error.value)
    return error.value.__cause__


def test_the_package_holds_the_shipped_configs():
    assert sorted(path.stem for path in SHIPPED.glob("*.py")) == NAMES and len(NAMES) == 8


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_config_is_complete_and_has_no_value_without_effect(name):
    config = shipped(name)
    assert spec.check(config).to_dict() == config.to_dict() and spec.unused(config) == []


@pytest.mark.parametrize("name", LEAST)
def test_every_method_of_a_shipped_config_passes_or_is_refused_by_name(name):
    passed = 0
    for method in spec.METHODS:
        for form in FORMS.get(name, ("{}",)):
            try:
                config = shipped(f"{name}:{form.format(method)}")
            except UsageError as error:
                assert error.__cause__.key in ("method", "model", "backbone"), error
                continue
            try:
                spec.check(config)
            except ConfigError as error:
                targets = source_facts(config.data).targets
                known = ("bayes",) if targets == "classes" else ("ridge", "prototypes")
                assert (error.key == "model.head" and method in known) or method == "maml_plus_plus", error
                assert method != "maml_plus_plus" or (error.value, error.hint) == (None, "it has no default")
                continue
            assert spec.unused(config) == []
            passed += 1
    assert passed >= LEAST[name]


def test_a_method_that_a_config_does_not_have_is_refused_with_those_it_has():
    error = left_out("movielens:boil")
    own = ["bayes", "bayes-conservative", "gradient", "anil", "maml", "fomaml", "meta_sgd", "msl_lslr", "reptile_adam"]
    assert (error.key, error.value) == ("method", "boil")
    assert error.bound == f"one of {sorted([*own, 'imaml', 'joint'])}"
    assert left_out("sinusoid:mamml").hint == "did you mean 'maml'?"
    error = left_out("sinusoid:maml-x")
    assert (error.key, error.value) == ("shots", "x")
    assert shipped("sinusoid:anil-5").data.support == 5


def test_the_backbone_of_the_next_rating_stands_before_the_dash():
    assert shipped("ratings").model.name == shipped("ratings:lora").model.name == "rating_gru"
    config = shipped("ratings:transformer-lora")
    assert (config.model.name, config.model.adapts, config.data.history) == ("rating_transformer", "low_rank", 8)
    error = left_out("ratings:transfomer-lora")
    assert (error.key, error.value) == ("backbone", "transfomer") and error.bound == "one of ['gru', 'transformer']"
    assert error.hint == "did you mean 'transformer'?"
    error = left_out("ratings:transformer-loar")
    assert (error.key, error.value, error.hint) == ("method", "loar", "did you mean 'lora'?")


@pytest.mark.parametrize(("file", "method", "margin"), [("writers", "maml", 0.0), ("shakespeare", "reptile_adam", 1.0)])
def test_a_gate_behind_the_method_changes_nothing_else(file, method, margin):
    bare, gated = shipped(f"{file}:{method}"), shipped(f"{file}:{method}-cross_validated")
    assert bare.gate.name == "none" and gated.name == f"{bare.name}-cross_validated"
    changed = spec.merged(bare, {"name": gated.name, "gate": "cross_validated", "gate.margin": margin})
    assert gated.to_dict() == changed.to_dict()
    spec.check(gated)
    error = left_out(f"{file}:{method}-cross_validate")
    assert (error.key, error.value) == ("gate.name", "cross_validate")


# Omniglot


def omniglot(name: str):
    return shipped(f"omniglot:{name}")


def test_omniglot_evaluates_each_method_after_the_steps_it_trains_with_where_they_are_a_solution():
    head = omniglot("imaml").evaluation
    assert head.steps == (0, 1, 3, 5, 16) and head.headline_steps == 16
    assert omniglot("maml").evaluation.headline_steps == 5
    wide = omniglot("fomaml-20way")
    assert (wide.data.ways, wide.evaluation.headline_shots, wide.inner.steps) == (20, 20, 5)
    error = left_out("omniglot:maml-20")
    assert (error.key, error.value) == ("form", "20") and "'20way', '5way', 'drawn', 'means'" in error.bound
    assert omniglot("reptile-support").model.norm.name == "support"
    solved = omniglot("prototypes").data
    assert (solved.ways, solved.train_ways, omniglot("maml").data.train_ways) == (5, 20, None)
    for name in ("maml", "fomaml", "maml-20way", "anil"):  # a head of zeros where the body is good already
        config = omniglot(name)
        assert config.model.head_scale == (1.0 if name == "maml" else 0.0)
        assert config.optimizer.personal.name == ("adam" if name == "maml" else "frozen")
    twenty = [omniglot(f"{name}-20way").inner for name in ("maml", "meta_sgd", "boil")]
    assert [(one.steps, one.rates.rate) for one in twenty] == [(5, 0.5), (5, 0.5), (5, 0.1)]
    assert omniglot("prototypes-20way").outer_steps == 18000  # from random parameters too
    for name in ("joint", "film", "boil"):
        assert omniglot(name).optimizer.personal.name == "adam"
    assert omniglot("boil").model.head_scale == 1.0  # where the head does not adapt, zeros stay zeros
    for name, rate in (("reptile", 1.0), ("reptile-support", 0.1)):
        moves = omniglot(name).optimizer  # the start moves by plain steps, body and head alike
        assert [(moves[group].name, moves[group].rate) for group in ("param", "personal")] == [("sgd", rate)] * 2
    for name in ("neighbours", "joint"):  # one model for all, and no second one beside it
        assert [*spec.arms(omniglot(name))] == ["fine_tune"]


OMNIGLOT_FORMS = ("20way", "pool", "means", "support", "20way-means", "20way-pool-means", "pool-short-means",
                  "20way-drawn", "20way-paper", "paper", "drawn", "short", "pool-short", "pool-pool")  # fmt: skip


@pytest.mark.parametrize("form", OMNIGLOT_FORMS)
def test_every_form_of_every_method_of_omniglot_is_a_config_that_holds_or_is_refused_by_name(form):
    lacking = {"cavia", "lora", "bayes", "neighbours"}  # conv4 has no such form
    for method in sorted(spec.METHODS.keys() - lacking):
        name = f"{method}-{form}"
        try:
            config = omniglot(name)
        except UsageError as error:
            assert error.__cause__.key in ("form", "forms")
            special = form in ("drawn", "pool-pool", "20way-drawn", "20way-paper", "paper", "short")
            assert special or "means" in form or name == "maml-pool-short"
            continue
        assert spec.unused(spec.check(config)) == []
        assert config.model.get("prototypes", False) == ("means" in form or method == "proto_maml")
        assert config.model.pool == ("pool" in form) and config.data.ways == (20 if "20way" in form else 5)
        assert "means" not in form or (config.inner.name == "gradient" and config.model.adapts in ("all", "head"))
        assert method != "reptile" or config.inner.optimizer.name == "sgd"


@pytest.mark.parametrize(
    ("name", "key", "value", "hint"),
    [
        ("maml-means_", "form", "means_", "did you mean 'means'?"),
        ("maml-pool-pool", "forms", ["pool", "pool"], ""),
        ("maml-5way-20way", "forms", ["5way", "20way"], ""),
        ("maml-drawn", "form", "drawn", "maml and fomaml with 20 ways"),
        ("anil-20way-drawn", "form", "drawn", "maml and fomaml with 20 ways"),
        ("maml-20way-means-drawn", "form", "drawn", "maml and fomaml with 20 ways"),
        ("anil-paper", "form", "paper", "maml and fomaml, and goes with no other form"),
        ("maml-paper-pool", "form", "paper", "maml and fomaml, and goes with no other form"),
        ("prototypes-short", "form", "short", "pooled features and of what begins with them"),
        ("maml-20way-pool-short-drawn", "form", "short", "pooled features and of what begins with them"),
        ("maml-pool-short", "form", "short", "pooled features and of what begins with them"),
        ("reptile-means", "form", "means", "a method whose head takes gradient steps"),
        ("film-means", "form", "means", "a method whose head takes gradient steps"),
    ],
)
def test_forms_of_omniglot_that_do_not_go_together_are_refused(name, key, value, hint):
    error = left_out(f"omniglot:{name}")
    assert (error.key, error.value) == (key, value) and hint in error.hint


def test_from_class_means_with_5_ways_training_is_short_and_random_parameters_are_trained_at_full_length():
    names = (
        "meta_sgd",
        "meta_sgd-means",
        "maml-means",
        "proto_maml",
        "meta_sgd-20way-means",
        "maml-20way-drawn",
        "maml",
    )
    assert [omniglot(name).outer_steps for name in names] == [1000, 200, 200, 200, 1000, 30000, 30000]
    short, whole = omniglot("prototypes-pool-short"), omniglot("prototypes-pool")
    assert (short.outer_steps, whole.outer_steps) == (4500, 18000)
    assert short.optimizer.param.rate > whole.optimizer.param.rate
    for name in ("maml-20way-pool", "meta_sgd-pool-means", "ridge-pool"):  # what begins with them is the same
        short, whole = omniglot(f"{name}-short"), omniglot(name)
        assert short.outer_steps == whole.outer_steps and short.optimizer == whole.optimizer


def test_omniglot_as_in_the_paper_has_its_protocol_whose_rates_are_for_a_loss_summed_over_the_ways():
    for form, ways, batch, steps, rate, headline in (("paper", 5, 32, 1, 0.4, 3), ("20way-paper", 20, 16, 5, 0.1, 5)):
        config = omniglot(f"maml-{form}")
        assert (config.data.ways, config.meta_batch, config.outer_steps) == (ways, batch, 60000)
        assert (config.data.queries, config.data.smooth, config.schedule.name) == (1, False, "constant")
        assert (config.model.pool, config.model.norm.name) == (False, "batch")
        assert (config.inner.steps, config.evaluation.headline_steps) == (steps, headline)
        assert config.inner.rates.rate == rate * ways and not config.inner.first_order
        assert {config.optimizer[group].rate for group in ("param", "personal")} == {1e-3}
        assert config.start_from is None
        first = omniglot(f"fomaml-{form}")
        assert (first.inner.rates.rate, first.inner.first_order) == (0.5, True)
        first.inner.first_order, first.inner.rates.rate = False, config.inner.rates.rate
        assert first.to_dict() == config.to_dict() | {"name": first.name}  # no other value differs
    start = building.model(config, {"classes": 20, "width": 1}).init(keys.root(0)).personal
    head = [leaf for path, leaf in jax.tree.leaves_with_path(start) if "head" in jax.tree_util.keystr(path)]
    assert np.std(max(head, key=np.size)) == pytest.approx(1, rel=0.1)


def test_a_config_that_passes_is_refused_once_a_value_is_bad():
    for name in NAMES:
        config = shipped(name)
        config.meta_batch = 0
        assert refused(spec.check, config).key == "meta_batch"
