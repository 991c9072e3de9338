"""Published methods by name: every one builds on every backbone that has a form of it, and adapts what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import experiment, keys
from metapers.base import Batch
from metapers.spec import inner_loops as adapting
from metapers.spec import architectures
from metapers.spec import building as assembly
from metapers.spec import optimizing
from metapers.spec import config as configs
from tests import runs

FILMS = {"items": 5, "genres": 3, "history": 2}
SIZES = {
    "mlp": {"width": 4, "classes": 3},
    "conv4": {"width": 1, "classes": 3},
    "gru": {"vocabulary": 9, "length": 5},
    "rating_gru": FILMS,
    "rating_transformer": FILMS,
}
SOURCES = {
    "mlp": "wisdm",
    "conv4": "writers",
    "gru": "shakespeare",
    "rating_gru": "movielens",
    "rating_transformer": "movielens",
}
PERSONAL = {  # what adapts, on the dense backbone: leaves of the personal part
    "maml": {"dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias"},
    "anil": {"dense_1/kernel", "dense_1/bias"},
    "boil": {"dense_0/kernel", "dense_0/bias"},
    "biases": {"dense_0/bias", "dense_1/bias"},
    "cavia": {"context"},
    "film": {"film_0/scale", "film_0/shift"},
    "lora": {"dense_0/down", "dense_0/up", "dense_1/down", "dense_1/up"},
}


def built(backbone, method):
    config = experiment.method_config(SOURCES[backbone], backbone, method)
    config.model.update({key: 8 for key in ("filters", "embed") if key in config.model})
    if "hidden" in config.model:
        config.model.hidden = (8,) if backbone == "mlp" else 8
    if "history" in config.data:
        config.data.history = 2
    configs.check(config)
    return config, assembly.model(config, SIZES[backbone])


def possible(backbone, method):
    chosen = experiment.METHODS[method]
    options = architectures.MODELS[backbone].options
    if chosen.head:
        return backbone in ("mlp", "conv4") and chosen.head != "bayes"  # classes: Bayesian regression is for numbers
    return all(key in options for key in chosen.model)


PAIRS = [(b, m) for b in SIZES for m in experiment.METHODS if possible(b, m)]


@pytest.mark.parametrize(("backbone", "method"), PAIRS)
def test_every_method_has_parameters_to_adapt_and_an_inner_loop(backbone, method):
    config, model = built(backbone, method)
    params = jax.eval_shape(model.init, keys.root(0))
    assert jax.tree.leaves(params.personal)
    loop = adapting.inner_loop(config, model)
    assert callable(loop.adapt)
    solved = architectures.solved_head(config.model)
    assert (solved is not None) == (config.learner.inner == "written") == bool(experiment.METHODS[method].head)


@pytest.mark.parametrize("method", PERSONAL)
def test_what_adapts_is_what_the_method_says(method):
    from metapers import trees

    _, model = built("mlp", method)
    assert set(trees.names(model.init(keys.root(0)).personal)) == PERSONAL[method]


def test_layer_sets_are_joined():
    config, _ = built("mlp", "film")
    config.learner.adapts = "film+head"
    names = {type_.__name__ for type_ in assembly.adapts(config.learner.adapts)}
    assert names == {"Film", "Head"}


def test_an_unknown_method_and_one_without_a_form_are_refused():
    with pytest.raises(ValueError, match="method must be one of .* got 'mamll'; did you mean 'maml'"):
        experiment.method_config("wisdm", "mlp", "mamll")
    with pytest.raises(ValueError, match="method 'cavia' needs a model with the option 'context', which 'gru' has not"):
        experiment.method_config("shakespeare", "gru", "cavia")
    with pytest.raises(ValueError, match="method 'ridge' needs a backbone of"):
        experiment.method_config("shakespeare", "gru", "ridge")


@pytest.mark.parametrize(("name", "inner"), [("solved", "gradient"), ("mlp", "written")])
def test_what_is_solved_is_not_descended_and_the_other_way_round(name, inner):
    config = experiment.config_for("wisdm", name)
    config.learner.inner = inner
    with pytest.raises(ValueError, match=f"learner.inner must .* with model.name '{name}', got '{inner}'"):
        adapting.inner_loop(config, assembly.model(config, SIZES["mlp"]))


def test_whether_to_adapt_is_asked_after_training_unless_it_is_learned():
    config, model = built("mlp", "maml")
    for keep, asked in (("if_it_helps", False), ("if_it_moves", False), ("gated", True)):
        config.learner.keep = keep
        inner = adapting.training_loop(config, model).init(model.init(keys.root(0)))
        assert ("gate" in inner) is asked
        assert ("gate" in adapting.inner_loop(config, model).init(model.init(keys.root(0)))) is asked


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_frozen_group_stays_where_it_began_and_the_others_move(schedule):
    config, model = built("conv4", "maml")
    config.update(schedule=schedule)
    config.optimizer.personal.update(name="frozen", weight_decay=0.5)
    steps, params = optimizing.optimizer(config, model.groups), model.init(keys.root(0))
    slopes = jax.tree.map(jnp.ones_like, params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = steps.update(slopes, steps.init(params), params, step=jnp.asarray(3))
    for part, sub in updates.personal.items():
        assert all(bool(jnp.any(leaf)) is (part != "head") for leaf in jax.tree.leaves(sub)), part


def test_minibatches_of_a_config_are_the_inner_loops():
    config, model = built("mlp", "reptile")
    params, key = model.init(keys.root(0)), keys.root(1)
    support = Batch(jax.random.normal(key, (6, 4)), jnp.arange(6) % 3, jnp.ones(6, bool))

    def ends(minibatch):
        config.learner.minibatch = minibatch
        return adapting.training_loop(config, model).adapt(params, support, key)[0].personal

    same = lambda a, b: all(bool(jnp.allclose(*pair)) for pair in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    assert same(ends(6), ends(0)) and not same(ends(2), ends(0))


@pytest.mark.parametrize(("head", "between"), [("prototypes", False), ("neighbours", False), ("ridge", True)])
def test_what_is_stored_is_kept_whole_or_not_at_all_and_sums_may_be_kept_in_part(head, between):
    config = experiment.config_for("wisdm", "solved")
    config.model.update(head=head, hidden=(8,), capacity=12)
    config.learner.update(inner="written", keep="if_it_helps")
    model = assembly.model(config, SIZES["mlp"])
    params = model.init(keys.root(0))
    written, kept = (adapt(config, model) for adapt in (adapting.bare_loop, adapting.inner_loop))

    def of_user(key):  # inputs that tell a little of the class
        noise, labels = jax.random.normal(key, (12, 4)), jax.random.randint(key, (12,), 0, 3)
        support = Batch(noise + jax.nn.one_hot(labels, 4), labels, jnp.ones(12, bool))
        return [flat(loop.adapt(params, support, None)[0].personal) for loop in (written, kept)]

    def flat(personal):
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(personal)])

    start = flat(params.personal)[None]
    ends, found = jax.jit(jax.vmap(of_user))(jax.random.split(keys.root(1), 60))
    at_start, at_end = (jnp.all(found == place, axis=1) for place in (start, ends))
    assert bool(at_end.any()) and bool(at_start.any())
    assert bool((at_start | at_end).all()) is not between


def test_a_model_that_tells_its_variance_is_judged_by_likelihood_and_its_baselines_are_not():
    config = experiment.config_for("movielens", "bayes_recommender")
    config.model.variance = True
    outputs = {"mean": jnp.zeros(2), "variance": jnp.ones(2)}
    assert "nll" in adapting.objective(config).scores(outputs, jnp.zeros(2), jnp.ones(2, bool))
    assert "nll" not in adapting.plain_objective(config).scores(jnp.zeros(2), jnp.zeros(2), jnp.ones(2, bool))


def test_a_joint_model_is_tuned_under_the_head_that_it_has_learned_and_not_one_from_class_means():
    config, model = built("conv4", "proto_maml")
    params = model.init(keys.root(0))
    x = jax.random.normal(keys.root(1), (4, 16, 16, 1))
    support = Batch(x, jnp.array([0, 1, 2, 0]), jnp.ones(4, bool))
    ours, theirs = adapting.inner_loop(config, model, steps=1), adapting.tuning_loop(config, model, steps=1, rate=1e-9)
    moved, _ = ours.adapt(params._replace(inner=ours.init(params)), support, None)
    tuned, _ = theirs.adapt(params._replace(inner=theirs.init(params)), support, None)
    own = params.personal["head"]["kernel"]
    np.testing.assert_allclose(tuned.personal["head"]["kernel"], own, atol=1e-7)
    assert np.abs(moved.personal["head"]["kernel"] - own).max() > 1e-2


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_what_is_written_begins_empty_and_stays_so_whatever_gradient_reaches_it(decay):
    config = experiment.config_for("sinusoid", "solved")
    config.learner.inner, config.learner.keep, config.model.head = "written", "gated", "bayes"
    config.optimizer.param.weight_decay = decay
    model = assembly.model(config, {"width": 1})
    params = model.init(keys.root(0))
    slopes = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.5), params)
    optimizer = optimizing.optimizer(config, model.groups)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of an int32 count
        moves, _ = optimizer.update(slopes, optimizer.init(params), params)
    assert jax.tree.leaves(moves.personal) and not any(leaf.any() for leaf in jax.tree.leaves(moves.personal))
    assert all(leaf.all() for leaf in jax.tree.leaves(moves.shared))


def test_the_penalty_of_joint_training_is_of_the_parameters_as_they_are():
    def importance(**changes):
        config = runs.quick(learner__name="joint", continual__memory="none", continual__penalty=("ewc",), **changes)
        parts = assembly.parts(configs.check(config))
        learner = assembly.learner(config, parts.model, assembly.STRATEGIES["continual"], None)
        data = parts.stream.family.data((0, 0), 0, 0)
        draw = lambda index: parts.stream.family.sample(data, index, 6, jax.random.fold_in(keys.root(0), index))
        params = parts.model.init(keys.root(0))
        return learner.consolidate(learner.init(params, draw(0)[0]), draw, keys.root(1)).penalty

    still = importance(learner__inner="none", evaluation__steps=(0,), evaluation__headline_steps=0)
    for rates in ("fixed", "learned"):  # learned ones are none of joint training's
        for one, other in zip(*map(jax.tree.leaves, (importance(learner__rates=rates), still)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)
    assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(still))
