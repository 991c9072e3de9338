"""What a config may not say is refused before data are read, in one line that names key, value and bound; what
nothing reads is told."""

import re

import jax
import numpy as np
import pytest

from metapers import experiment, keys
from metapers.experiment import config_for
from metapers.spec import building as assembly
from metapers.spec import validate as refusals
from metapers.run import training
from metapers.spec import config as configs
from metapers.run.training import train
from tests import runs
from tests.test_end_to_end import CONFIGS, config_of


def refused(config) -> str:
    with pytest.raises(ValueError) as error:
        configs.check(config)
    return str(error.value)


def unread(key, value, choice, chosen, only):
    return f"{key} {value!r} is not read with {choice} {chosen!r}, only with {only}"


STILL = {"evaluation.steps": (0,), "evaluation.headline_steps": 0}  # what learner.inner "none" asks for
DESCENT, LOOPED = "'gradient' or 'optimized'", "'maml' or 'multi_step' or 'reptile'"
UNREAD = [  # (changes, the first of which nothing reads then, the choice and its value, what would read it)
    ({"learner.inner_optimizer": "adam"}, "learner.inner", "gradient", "'optimized' or 'implicit'"),
    ({"learner.inner_clip": 1.0}, "learner.inner", "gradient", "'optimized' or 'implicit'"),
    ({"learner.minibatch": 4}, "learner.inner", "gradient", "'optimized'"),
    (
        {"optimizer.table.rate": 0.1, "optimizer.table.name": "frozen"},
        *("optimizer.table.name", "frozen", "'adam' or 'sgd'"),
    ),
    ({"learner.strength": 2.0}, "learner.inner", "gradient", "'implicit'"),
    ({"learner.strength": 2.0, "learner.inner": "optimized"}, "learner.inner", "optimized", "'implicit'"),
    ({"learner.cg_steps": 3}, "learner.inner", "gradient", "'implicit'"),
    ({"learner.rates": "log", "learner.inner": "optimized"}, "learner.inner", "optimized", "'gradient'"),
    ({"learner.backward": "remat", "learner.inner": "implicit"}, "learner.inner", "implicit", "'gradient'"),
    ({"learner.first_order": True, "learner.inner": "none"} | STILL, "learner.inner", "none", DESCENT),
    ({"learner.folds": 3}, "learner.keep", "always", "'if_it_helps' or 'gated'"),
    ({"learner.margin": 1.0}, "learner.keep", "always", "'if_it_helps'"),
    ({"learner.margin": 1.0, "learner.keep": "gated"}, "learner.keep", "gated", "'if_it_helps'"),
    ({"learner.least_move": 0.1}, "learner.keep", "always", "'if_it_moves'"),
    ({"learner.anneal": 5}, "learner.name", "maml", "'multi_step'"),
    ({"learner.second_from": 5, "learner.name": "reptile"}, "learner.name", "reptile", "'multi_step'"),
    ({"learner.root": 0.1, "learner.name": "reptile"}, "learner.name", "reptile", "'maml'"),
    ({"learner.keep": "gated", "learner.name": "joint"}, "learner.name", "joint", LOOPED),
    ({"learner.first_order": True, "learner.name": "reptile"}, "learner.name", "reptile", "'maml' or 'multi_step'"),
    ({"learner.backward": "mixed", "learner.name": "joint"}, "learner.name", "joint", "'maml' or 'multi_step'"),
    ({"warmup": 2, "schedule": "constant"}, "schedule", "constant", "'cosine'"),
    ({"learner.clip": 1.0}, "learner.aggregator", "mean", "'clipped'"),
    ({"continual.ewc_strength": 1.0}, "continual.penalty", ("anchor",), "'ewc'"),
    ({"continual.ewc_decay": 0.5}, "continual.penalty", ("anchor",), "'ewc'"),
    ({"continual.ewc_draws": 2}, "continual.penalty", ("anchor",), "'ewc'"),
    ({"continual.ewc_exact": False}, "continual.penalty", ("anchor",), "'ewc'"),
    ({"continual.anchor_strength": 1.0, "continual.penalty": ("ewc",)}, "continual.penalty", ("ewc",), "'anchor'"),
    ({"continual.anchor_strength": 1.0, "continual.penalty": ()}, "continual.penalty", (), "'anchor'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "choice", "chosen", "only"), UNREAD)
def test_a_key_that_nothing_reads_is_told_with_what_would_read_it(changes, choice, chosen, only):
    config, (key, value) = runs.small(), next(iter(changes.items()))
    made = configs.check(configs.merged(config, changes))
    assert refusals.unread(made) == [unread(key, value, choice, chosen, only)]
    assert refusals.unread(configs.merged(config, {name: one for name, one in changes.items() if name != key})) == []


def test_training_tells_every_key_that_nothing_reads(tmp_path):
    train(runs.quick(continual__memory="none"), tmp_path)  # which has three sizes of its own
    told = [line["text"] for line in runs.journal(tmp_path) if line["kind"] == "note"]
    args = ("continual.memory", "none", "'reservoir'")
    for key, value in (("capacity", 32), ("replayed", 8), ("draws", 4)):
        assert f"note: {unread(f'continual.{key}', value, *args)}" in told


@pytest.mark.parametrize(
    ("pair", "changes", "expected"),
    [
        (("wisdm", "solved"), {"learner.inner": "written", "learner.adapts": "all"},
         ("learner.adapts", "all", "learner.inner", "written", "'gradient' or 'none' or 'optimized' or 'implicit'")),
        (("wisdm", "solved"), {"learner.inner": "written", "model.variance": True},
         ("model.variance", True, "model.head", "ridge", "'bayes'")),
        (("sinusoid", "solved"), {"learner.inner": "written", "model.head": "bayes", "model.nearest": 3},
         ("model.nearest", 3, "model.head", "bayes", "'neighbours'")),
        (("writers", "conv4"), {"model.groups": 4}, ("model.groups", 4, "model.norm", "batch", "'group'")),
        (("omniglot", "conv4"), {"model.prototypes": True, "learner.adapts": "all", "learner.inner": "none"} | STILL,
         ("model.prototypes", True, "learner.inner", "none", "'gradient' or 'optimized' or 'implicit'")),
        (("movielens", "recommender"), {"data.history": 8},
         ("data.history", 8, "model.name", "recommender", "'rating_gru' or 'rating_transformer'")),
    ],
)  # fmt: skip
def test_a_key_of_another_member_is_told(pair, changes, expected):
    assert refusals.unread(configs.merged(config_for(*pair), changes)) == [unread(*expected)]


@pytest.mark.parametrize(
    "changes",
    [
        {"learner.inner": "optimized", "learner.inner_optimizer": "adam", "learner.inner_clip": 1.0},
        {"learner.inner": "optimized", "learner.minibatch": 4},
        {"learner.inner": "implicit", "learner.strength": 2.0, "learner.cg_steps": 3},
        {"learner.inner": "implicit", "learner.shrink": 4.0, "learner.pull": 2.0},  # by the joint baseline's tuning
        {"learner.inner": "optimized", "learner.first_order": True, "learner.shrink": 4.0},
        {"learner.rates": "log", "learner.backward": "mixed", "learner.unroll": 2},
        {"learner.keep": "if_it_helps", "learner.folds": 3, "learner.margin": 1.0},
        {"learner.keep": "gated", "learner.folds": 3},
        {"learner.keep": "if_it_moves", "learner.least_move": 0.1},
        {"learner.name": "multi_step", "learner.anneal": 5, "learner.second_from": 5},
        {"learner.root": 0.1},
        {"learner.aggregator": "clipped", "learner.clip": 1.0},
        {"continual.penalty": ("anchor", "ewc"), "continual.anchor_strength": 1.0, "continual.ewc_strength": 1.0},
        {"strategies": ("naive",), "continual.penalty": (), "continual.anchor_strength": 1.0},  # of no strategy here
        {"learner.inner": "none", "evaluation.steps": (0,), "evaluation.headline_steps": 0},
        {"learner.inner": "none", "evaluation.steps": (0,), "evaluation.headline_steps": 0, "learner.inner_steps": 3},
    ],
)
def test_keys_that_something_reads_pass(changes):
    assert not refusals.unread(configs.check(configs.merged(runs.small(), changes)))


PROTOTYPES = {"learner.inner": "written", "model.head": "prototypes"}
STEPPING = " there are no inner steps to judge one by one"
UNTRAINED = " no derivative reaches it there, so nothing would train it"


@pytest.mark.parametrize(
    ("pair", "changes", "message"),
    [
        (
            ("wisdm", "solved"),
            {"learner.name": "reptile", "learner.inner": "written"},
            "learner.name must not be 'reptile' with learner.inner 'written': what is written from one user's examples "
            "is no start that others could share",
        ),
        (
            ("wisdm", "solved"),
            {"learner.name": "multi_step", "learner.inner": "written"},
            "learner.name must not be 'multi_step' with learner.inner 'written':" + STEPPING,
        ),
        (
            ("wisdm", "mlp"),
            {"learner.name": "multi_step", "learner.inner": "none"},
            "learner.name must not be 'multi_step' with learner.inner 'none':" + STEPPING,
        ),
        (
            ("wisdm", "mlp"),
            {"learner.name": "multi_step", "learner.inner": "implicit"},
            "learner.name must not be 'multi_step' with learner.inner 'implicit':" + STEPPING,
        ),
        *(
            (
                ("wisdm", "mlp"),
                {"learner.name": "reptile", "learner.rates": rates},
                f"learner.rates must not be '{rates}' with learner.name 'reptile':" + UNTRAINED,
            )
            for rates in ("learned", "log", "per_step")
        ),
        (
            ("wisdm", "mlp"),
            {"learner.name": "reptile", "learner.keep": "gated"},
            "learner.keep must not be 'gated' with learner.name 'reptile':" + UNTRAINED,
        ),
        *(
            (
                ("wisdm", "solved"),
                {"learner.inner": "written", "learner.keep": "gated", "model.head": head},
                f"learner.keep must not be 'gated' with model.head '{head}': what it stores has no meaning a part of "
                "the way",
            )
            for head in ("prototypes", "neighbours")
        ),
        (
            ("movielens", "bayes_recommender"),
            {"learner.inner": "written", "learner.root": 0.05, "model.variance": True},
            "learner.root must be 0 with model.variance, got 0.05: the loss is then a likelihood, which can be "
            "negative and has no root",
        ),
        (
            ("wisdm", "mlp"),
            {"learner.keep": "if_it_moves"},
            "learner.least_move must be > 0 with learner.keep 'if_it_moves', got 0.0: at 0 everybody moves, as with "
            "'always'",
        ),
        (
            ("wisdm", "mlp"),
            {"learner.inner": "none"},
            "evaluation.steps must be (0,) with learner.inner 'none', which takes no step, got (0, 1, 2, 5, 10)",
        ),
        (
            ("wisdm", "mlp"),
            {"learner.adapts": "head+film"},
            "learner.adapts must name layer sets that the model has, got 'head+film': model.name 'mlp' as configured "
            "has nothing of 'film'",
        ),
        (
            ("writers", "conv4"),
            {"learner.adapts": "film", "model.norm": "support"},
            "learner.adapts must name layer sets that the model has, got 'film': model.name 'conv4' as configured has "
            "nothing of 'film'",
        ),
        (
            ("linear_gaussian", "linear"),
            {"learner.adapts": "biases"},
            "learner.adapts must name layer sets that the model has, got 'biases': model.name 'linear' as configured "
            "has nothing of 'biases'",
        ),
        (
            ("sinusoid", "solved"),
            {"learner.inner": "written"},
            "model.head must be one of ['bayes', 'neighbours'] for data.source 'sinusoid' (vectors to numbers), got "
            "'ridge'",
        ),
        (
            ("sinusoid", "solved"),
            PROTOTYPES,
            "model.head must be one of ['bayes', 'neighbours'] for data.source 'sinusoid' (vectors to numbers), got "
            "'prototypes'",
        ),
        (
            ("wisdm", "solved"),
            {"learner.inner": "written", "model.head": "bayes"},
            "model.head must be one of ['neighbours', 'prototypes', 'ridge'] for data.source 'wisdm' (vectors to "
            "classes), got 'bayes'",
        ),
        (
            ("sinusoid", "conv4"),
            {},
            "model.name must be one of ['linear', 'mlp', 'solved'] for data.source 'sinusoid' (vectors to numbers), "
            "got 'conv4'",
        ),
        (
            ("quadratic", "mlp"),
            {},
            "model.name must be one of ['point'] for data.source 'quadratic' (points to points), got 'mlp'",
        ),
        *(
            (
                ("movielens", name),
                {"data.history": history},
                f"data.history must be >= {least} with model.name '{name}', got {history}",
            )
            for name, history, least in (("rating_gru", 0, 1), ("rating_transformer", 0, 1), ("recommender", -1, 0))
        ),
        *(
            (
                ("omniglot", "conv4"),
                {"evaluation.shots": shots, "evaluation.headline_shots": 5} | changes,
                f"evaluation.headline_shots must be data.ways * data.shots = {support}, and evaluation.shots at most "
                f"that, got 5 and {shots}",
            )
            for changes, support, shots in (
                ({"data.ways": 20}, 20, (5,)),  # 15 of the classes would have no example
                ({"data.shots": 5}, 25, (5,)),  # drawings of the support would be asked for
                ({}, 5, (5, 10)),
            )
        ),
        *(
            (
                pair,
                {"strategies": ("naive", "joint")} | changes,
                "strategies must not name 'joint' here, got ('naive', 'joint'): there is no such baseline where tasks "
                "name their classes anew, under a head that learns through the support alone, or beside learner.name "
                "'joint'",
            )
            for pair, changes in (
                (("omniglot", "conv4"), {}),
                (("wisdm", "solved"), {"learner.inner": "written"}),
                (("wisdm", "mlp"), {"learner.name": "joint"}),
            )
        ),
        *(
            (
                ("omniglot", "conv4"),
                {"learner.keep": keep, "learner.adapts": "all"},
                f"data.shots must be >= 2 with learner.keep '{keep}', got 1: what is held back would be all that is "
                "known of a class",
            )
            for keep in ("if_it_helps", "gated")
        ),
        (
            ("omniglot", "conv4"),
            {"data.shots": 2, "evaluation.shots": (4, 10), "evaluation.headline_shots": 10},
            "evaluation.shots must be multiples of data.ways = 5, the same number of each class, got (4, 10)",
        ),
        (
            ("writers", "conv4"),
            {"model.norm": "grup"},
            "model.norm must be one of ['batch', 'group', 'layer', 'none', 'support'], got 'grup'; did you mean "
            "'group'?",
        ),
        (
            ("wisdm", "mlp"),
            {"learner.keep": "if_it_help"},
            "learner.keep must be one of ['always', 'gated', 'if_it_helps', 'if_it_moves'], got 'if_it_help'; did you "
            "mean 'if_it_helps'?",
        ),
    ],
)
def test_choices_that_contradict_each_other_are_refused(pair, changes, message):
    assert refused(configs.merged(config_for(*pair), changes)) == message


@pytest.mark.parametrize(
    ("pair", "changes", "message"),
    [
        (("sinusoid", "mlp"), {"model.name": "linear"}, "model.name 'linear' has no model.context, so it must be "
         "chosen where the config is made: experiment.config_for(source, model)"),
        (("linear_gaussian", "linear"), {"model.name": "mlp"}, "model.name 'mlp' needs model.context, so it must be"),
        (("sinusoid", "mlp"), {"data.source": "linear_gaussian"}, "data.source 'linear_gaussian' has no data.ampl"),
        (("sinusoid", "mlp"), {"model.hidden": ("a",)}, "model.hidden must hold int values, as (40, 40), got ('a',)"),
        (("sinusoid", "mlp"), {"model.hidden": (0,)}, "model.hidden must be sizes of layers >= 1, got (0,)"),
        (("sinusoid", "mlp"), {"data.amplitude": ("a", 1)}, "data.amplitude must hold float values, as (0.1, 5.0)"),
        (("wisdm", "mlp"), {"model.low_rank": -1}, "model.low_rank must be >= 0, got -1"),
    ],
)  # fmt: skip
def test_options_that_a_source_or_model_cannot_have_are_refused(pair, changes, message):
    assert refused(configs.merged(config_for(*pair), changes)).startswith(message)


@pytest.mark.parametrize(
    ("pair", "changes", "message"),
    [
        (("sinusoid", "mlp"), {"data.noise": -1.0}, "data.noise must be >= 0, got -1.0"),
        (("sinusoid", "mlp"), {"data.amplitude": (1.0,)}, "data.amplitude must be a range (low, high) with low < high"),
        (("linear_gaussian", "linear"), {"data.noise": -1.0}, "data.noise must be > 0, got -1.0"),
        (("linear_gaussian", "linear"), {"data.by_length": 1000.0}, "data.by_length must be <= 162.7 with the longest"),
        (("linear_gaussian", "linear"), {"data.users_per_stage": 5, "data.stages": 1},
         "the stream must have a validation user with two examples or more, got none: more users in each stage"),
        (("linear_gaussian", "linear"), {"data.users_per_stage": 8, "data.stages": 2},
         "stage 1 of 2 must have a test user with two examples or more, got none: more users in each stage, fewer "
         "stages or another data.fold would give one"),
        (("linear_gaussian", "linear"), {"continual.capacity": 10**9},
         "the state of strategy 'continual' must fit into the "),
        (("linear_gaussian", "linear"), {"profile": "/dev/null/trace"}, "[Errno 20] profile must be a folder that can "
         "be made: '/dev/null/trace'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_anything_is(pair, changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "live", lambda run, name: pytest.fail("trained"))
    with pytest.raises((ValueError, OSError)) as error:
        train(configs.merged(config_for(*pair), changes), tmp_path)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boundaries": ("2000-13-01",)}, "data.boundaries must be ISO dates, as '2000-01-01', got '2000-13-01'"),
        ({"boundaries": (2000,)}, "data.boundaries must be ISO dates, as '2000-01-01', got 2000"),
        ({"boundaries": ("2050-01-01",)}, "stage 1 of 2 (from 2050-01-01T00:00:00 to the end) holds no ratings"),
        ({"min_ratings": 1}, "data.min_ratings must be 0 or >= 2, got 1"),
        ({"min_ratings": -2}, "data.min_ratings must be 0 or >= 2, got -2"),
    ],
)
def test_periods_and_sizes_of_movielens_are_told_as_they_were_given(changes, message):
    config = configs.merged(
        config_for("movielens", "recommender"), {f"data.{key}": one for key, one in changes.items()}
    )
    with pytest.raises(ValueError) as error:
        assembly.stream(config)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_and_every_method_of_it_passes(path):
    made, module = 0, config_of(path)
    names = module.OWN if path.stem == "movielens" else experiment.METHODS
    assert not refusals.unread(configs.check(module.get_config()))
    if path.stem == "omniglot":
        names = [*names, *(f"{name}-20way" for name in names)]
    if path.stem == "ratings":
        names = [*names, *(f"transformer-{name}" for name in names)]
    for name in names if module.get_config.__code__.co_argcount else ():
        try:
            config = module.get_config(name)
        except ValueError as error:
            bare = name.removesuffix("-20way").removeprefix("transformer-")
            assert str(error).startswith(f"method {bare!r} needs"), error
            continue
        classes = config.data.source in ("omniglot", "writers", "wisdm")
        heads = ["neighbours", "prototypes", "ridge"] if classes else ["bayes", "neighbours"]
        if config.learner.inner == "written" and "head" in config.model and name.removesuffix("-20way") not in heads:
            assert refused(config).startswith(f"model.head must be one of {heads} for ")
            continue
        assert not refusals.unread(configs.check(config))
        made += 1
    assert made >= {
        "movielens": 10,
        "sinusoid": 12,
        "omniglot": 28,
        "shakespeare": 12,
        "wisdm": 16,
        "writers": 14,
        "ratings": 24,
    }.get(path.stem, 0)


def test_the_next_rating_is_said_by_the_backbone_before_the_dash():
    module = config_of(runs.ROOT / "configs" / "ratings.py")
    assert module.get_config().model.name == module.get_config("lora").model.name == "rating_gru"
    config = module.get_config("transformer-lora")
    assert (config.model.name, config.learner.adapts, config.data.history) == ("rating_transformer", "low_rank", 8)
    with pytest.raises(
        ValueError, match=r"backbone must be one of \['gru', 'transformer'\], got 'transfomer'; did you"
    ):
        module.get_config("transfomer-lora")
    with pytest.raises(ValueError, match="method must be one of .* got 'loar'; did you mean 'lora'"):
        module.get_config("transformer-loar")


def test_omniglot_judges_each_method_after_the_steps_it_trains_with_where_they_are_a_solution():
    module = config_of(runs.ROOT / "configs" / "omniglot.py")
    head = module.get_config("imaml").evaluation
    assert head.steps == (0, 1, 3, 5, 16) and head.headline_steps == 16
    assert module.get_config("maml").evaluation.headline_steps == 5
    wide = module.get_config("fomaml-20way")
    assert (wide.data.ways, wide.evaluation.headline_shots, wide.learner.inner_steps) == (20, 20, 5)
    with pytest.raises(ValueError, match=r"form must be one of \['20way', '5way', 'drawn', 'means', .*\], got '20'"):
        module.get_config("maml-20")
    assert module.get_config("reptile-support").model.norm == "support"
    solved = module.get_config("prototypes").data
    assert (solved.ways, solved.train_ways, module.get_config("maml").data.train_ways) == (5, 20, 0)
    for name in ("maml", "fomaml", "maml-20way", "anil"):  # a head of zeros where the body is good already
        config = module.get_config(name)
        assert config.model.head_scale == (1.0 if name == "maml" else 0.0)
        assert config.optimizer.personal.name == ("adam" if name == "maml" else "frozen")
    twenty = [module.get_config(f"{name}-20way").learner for name in ("maml", "meta_sgd", "boil")]
    assert [(one.inner_steps, one.inner_rate) for one in twenty] == [(5, 0.5), (5, 0.5), (5, 0.1)]
    assert module.get_config("prototypes-20way").steps == 18000  # from drawn parameters too
    for name in ("joint", "film", "boil"):
        assert module.get_config(name).optimizer.personal.name == "adam"
    assert module.get_config("boil").model.head_scale == 1.0  # where the head does not adapt, zeros stay zeros
    for name, rate in (("reptile", 1.0), ("reptile-support", 0.1)):
        moves = module.get_config(name).optimizer  # the start moves by plain steps, body and head alike
        assert [(moves[group].name, moves[group].rate) for group in ("param", "personal")] == [("sgd", rate)] * 2
    for name in ("neighbours", "joint"):  # one model for all, and no second one beside it
        assert assembly.strategies(module.get_config(name)) == ["naive"]


def test_a_method_that_a_config_has_not_is_told_with_those_it_has():
    module = config_of(runs.ROOT / "configs" / "movielens.py")
    with pytest.raises(ValueError, match=r"method must be one of \['anil', 'bayes', .*\], got 'boil'"):
        module.get_config("boil")


FORMS = (
    "",
    "20way",
    "pool",
    "means",
    "support",
    "20way-means",
    "20way-pool-means",
    "pool-short-means",
    "20way-drawn",
    "20way-paper",
    "paper",
    "drawn",
    "short",
    "pool-short",
    "pool-pool",
)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_every_method_of_omniglot_is_a_config_that_holds_or_is_refused_by_name(form):
    module = config_of(runs.ROOT / "configs" / "omniglot.py")
    for method in sorted(
        experiment.METHODS.keys() - {"cavia", "lora", "bayes", "neighbours"}
    ):  # conv4 has no such form
        name = f"{method}-{form}" if form else method
        try:
            config = module.get_config(name)
        except ValueError as error:
            assert re.search(
                "^form(s must be named once|.* of maml and fomaml|.* needs a method whose head|.* of pooled features)",
                str(error),
            )
            assert (
                form in ("drawn", "pool-pool", "20way-drawn", "20way-paper", "paper", "short")
                or "means" in form
                or name == "maml-pool-short"
            )
            continue
        configs.check(config)
        chosen = config.learner
        assert config.model.get("prototypes", False) == ("means" in form or method == "proto_maml")
        assert config.model.pool == ("pool" in form) and config.data.ways == (20 if "20way" in form else 5)
        assert "means" not in form or chosen.inner == "gradient" and chosen.adapts in ("all", "head")
        assert method != "reptile" or chosen.inner_optimizer == "sgd"
    with pytest.raises(ValueError, match="form must be one of .*, got 'means_'; did you mean 'means'"):
        module.get_config("maml-means_")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maml-pool-pool", r"forms must be named once, and one number of ways, got \['pool', 'pool'\]"),
        ("maml-5way-20way", r"forms must be named once, and one number of ways, got \['5way', '20way'\]"),
        ("maml-drawn", r"form 'drawn' is of maml and fomaml with 20 ways, got 'maml' with \['drawn'\]"),
        ("anil-20way-drawn", "form 'drawn' is of maml and fomaml with 20 ways, got 'anil' with"),
        ("maml-20way-means-drawn", "form 'drawn' is of maml and fomaml with 20 ways, got 'maml' with"),
        ("anil-paper", r"form 'paper' is of maml and fomaml and of no other form, got 'anil' with \['paper'\]"),
        (
            "maml-paper-pool",
            r"form 'paper' is of maml and fomaml and of no other form, got 'maml' with \['paper', 'pool'\]",
        ),
        ("prototypes-short", "form 'short' is of pooled features and what begins with them, got 'prototypes' with"),
        ("maml-20way-pool-short-drawn", "form 'short' is of pooled features and what begins with them, got 'maml'"),
        ("maml-pool-short", "form 'short' is of pooled features and what begins with them, got 'maml'"),
        ("reptile-means", "form 'means' needs a method whose head takes gradient steps, got 'reptile'"),
        ("film-means", "form 'means' needs a method whose head takes gradient steps, got 'film'"),
    ],
)
def test_forms_of_omniglot_that_do_not_go_together_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        config_of(runs.ROOT / "configs" / "omniglot.py").get_config(name)


def test_from_class_means_with_5_ways_training_is_short_and_drawn_parameters_are_trained_at_full_length():
    module = config_of(runs.ROOT / "configs" / "omniglot.py")
    names = (
        "meta_sgd",
        "meta_sgd-means",
        "maml-means",
        "proto_maml",
        "meta_sgd-20way-means",
        "maml-20way-drawn",
        "maml",
    )
    assert [module.get_config(name).steps for name in names] == [1000, 200, 200, 200, 1000, 30000, 30000]
    short, whole = (module.get_config(name) for name in ("prototypes-pool-short", "prototypes-pool"))
    assert (short.steps, whole.steps) == (4500, 18000) and short.optimizer.param.rate > whole.optimizer.param.rate
    for name in ("maml-20way-pool", "meta_sgd-pool-means", "ridge-pool"):  # what begins with them is the same
        short, whole = module.get_config(f"{name}-short"), module.get_config(name)
        assert short.steps == whole.steps and short.optimizer == whole.optimizer


def test_a_head_from_class_means_may_stand_beside_other_layers_that_adapt():
    config = config_for("omniglot", "conv4")
    for adapts in ("all", "head+biases", "body+head"):
        configs.check(configs.merged(config, {"model.prototypes": True, "learner.adapts": adapts}))
    with pytest.raises(ValueError, match="prototypes must be False where adapts has no Head"):
        configs.check(configs.merged(config, {"model.prototypes": True, "learner.adapts": "biases"}))


def test_omniglot_as_in_the_paper_has_its_protocol_whose_rates_are_for_a_loss_summed_over_the_ways():
    module = config_of(runs.ROOT / "configs" / "omniglot.py")
    for form, ways, users, steps, rate, headline in (("paper", 5, 32, 1, 0.4, 3), ("20way-paper", 20, 16, 5, 0.1, 5)):
        config = module.get_config(f"maml-{form}")
        assert (config.data.ways, config.users, config.steps, config.schedule) == (ways, users, 60000, "constant")
        assert (config.data.queries, config.data.smooth) == (1, False)
        assert (config.model.pool, config.model.norm) == (False, "batch")
        assert (config.learner.inner_steps, config.evaluation.headline_steps) == (steps, headline)
        assert config.learner.inner_rate == rate * ways and not config.learner.first_order
        assert {config.optimizer[group].rate for group in ("param", "personal")} == {1e-3} and not config.start_from
        first = module.get_config(f"fomaml-{form}")
        assert (first.learner.inner_rate, first.learner.first_order) == (0.5, True)
        first.learner.update(inner_rate=config.learner.inner_rate, first_order=False)
        assert first.to_dict() == config.to_dict() | {"name": first.name}  # nothing else parts them
    start = assembly.model(config, {"classes": 20, "width": 1}).init(keys.root(0)).personal
    head = [leaf for path, leaf in jax.tree.leaves_with_path(start) if "head" in jax.tree_util.keystr(path)]
    assert np.std(max(head, key=np.size)) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(("file", "method", "margin"), [("writers", "maml", 0.0), ("shakespeare", "reptile", 1.0)])
def test_who_may_keep_the_start_differs_from_the_bare_method_in_nothing_else(file, method, margin):
    module = config_of(runs.ROOT / "configs" / f"{file}.py")
    bare, careful = module.get_config(method), module.get_config(f"{method}-if_it_helps")
    assert bare.learner.keep == "always" and careful.name == f"{bare.name}-if_it_helps"
    changed = configs.merged(bare, {"name": careful.name, "learner.keep": "if_it_helps", "learner.margin": margin})
    assert careful.to_dict() == changed.to_dict()
    configs.check(careful)
    assert "learner.keep must be one of" in refused(module.get_config(f"{method}-if_it_help"))
