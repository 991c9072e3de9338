"""Published methods by name: every one builds on every backbone that has a form of it, and adapts what it names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapers import keys, spec, trees
from metapers.base import Batch
from metapers.members import registry
from metapers.models.kinds import adapted
from metapers.options import ConfigError
from metapers.spec import building
from metapers.spec.heads import head_facts, objective, source_objective
from metapers.spec.inner_loops import inner_loop, tuning_loop
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
    config = spec.method_config(SOURCES[backbone], backbone, method)
    config.model.update({key: 8 for key in ("filters", "embed") if key in config.model})
    if "hidden" in config.model:
        config.model.hidden = (8,) if backbone == "mlp" else 8
    if "history" in config.data:
        config.data.history = 2
    if method == "maml_plus_plus":
        config.learner.update(msl_anneal_steps=3, second_order_from=2)
    config = spec.check(config)
    return config, building.model(config, SIZES[backbone])


def possible(backbone, method):
    chosen = spec.METHODS[method]
    if chosen.head:
        return backbone in ("mlp", "conv4") and chosen.head != "bayes"  # classes: Bayesian regression is for numbers
    return all(key in registry("model").options(backbone) for key in chosen.model)


def started(model):
    return jax.jit(model.init)(keys.root(0))


PAIRS = [(b, m) for b in SIZES for m in spec.METHODS if possible(b, m)]


@pytest.mark.parametrize(("backbone", "method"), PAIRS)
def test_every_method_has_parameters_to_adapt_and_an_inner_loop(backbone, method):
    config, model = built(backbone, method)
    params = jax.eval_shape(model.init, keys.root(0))
    assert jax.tree.leaves(params.personal)
    loop = inner_loop(config, model)
    assert callable(loop.adapt)
    solved = head_facts(config.model)
    assert (solved is not None) == (config.inner.name == "closed_form") == bool(spec.METHODS[method].head)


@pytest.mark.parametrize("method", PERSONAL)
def test_what_adapts_is_what_the_method_says(method):
    _, model = built("mlp", method)
    assert set(trees.names(jax.eval_shape(model.init, keys.root(0)).personal)) == PERSONAL[method]


def test_layer_sets_are_joined():
    config, _ = built("mlp", "film")
    config.model.adapts = "film+head"
    assert {type_.__name__ for type_ in adapted(spec.check(config).model.adapts)} == {"Film", "Head"}


@pytest.mark.parametrize(
    ("wanted", "key", "value", "bound", "hint"),
    [
        (("wisdm", "mlp", "mamll"), "method", "mamll", f"one of {list(spec.METHODS)}", "did you mean 'maml'?"),
        (("shakespeare", "gru", "cavia"), "model", "gru", "a model with the option 'context'", ""),
        (("shakespeare", "gru", "ridge"), "backbone", "gru", "one of ['conv4', 'mlp'] with method 'ridge'", ""),
    ],
)
def test_an_unknown_method_and_one_without_a_form_are_refused(wanted, key, value, bound, hint):
    with pytest.raises(ConfigError) as refused:
        spec.method_config(*wanted)
    error = refused.value
    assert (error.key, error.value, error.bound, error.hint) == (key, value, bound, hint)


def test_a_method_by_its_name_is_complete_or_refused():
    config = spec.method_config("wisdm", "mlp", "maml_plus_plus")
    with pytest.raises(ConfigError) as refused:
        spec.check(config)
    assert (refused.value.key, refused.value.value) == ("learner.msl_anneal_steps", None)
    config.learner.update(msl_anneal_steps=3, second_order_from=2)
    for key, name in (("inner.rates", "meta_sgd"), ("schedule", "constant")):
        with pytest.raises(ConfigError) as refused:
            spec.check(spec.merged(config, {key: name}))
        assert (refused.value.key, refused.value.value) == ("learner", "maml_plus_plus")
    plain = {method: spec.method_config("wisdm", "mlp", method).optimizer for method in ("reptile", "reptile_adam")}
    for group in ("param", "personal"):
        assert (plain["reptile"][group].name, plain["reptile"][group].rate) == ("sgd", 1.0)
        assert plain["reptile_adam"][group].name == "adam"


@pytest.mark.parametrize(("name", "inner"), [("solved", "gradient"), ("mlp", "closed_form")])
def test_a_computed_head_takes_no_gradient_steps_and_the_other_way_round(name, inner):
    config = spec.config_for("wisdm", name)
    spec.choose(config, "inner", inner)
    with pytest.raises(ConfigError) as refused:
        spec.check(config)
    assert (refused.value.key, refused.value.value) == ("inner", inner) and repr(name) in refused.value.hint


def test_a_gate_is_applied_after_training_unless_it_is_trained():
    config, model = built("mlp", "maml")
    for gate, options, trained in (
        ("cross_validated", {}, False),
        ("min_shift", {"least": 0.1}, False),
        ("learned", {}, True),
    ):
        spec.choose(config, "gate", gate, **options)
        params = jax.eval_shape(model.init, keys.root(0))
        for loop in (inner_loop(config, model, training=True), inner_loop(config, model)):
            assert ("gate" in jax.eval_shape(loop.init, params)) is trained


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_frozen_group_stays_where_it_began_and_the_others_move(schedule):
    config, model = built("conv4", "maml")
    spec.choose(config, "schedule", schedule)
    spec.choose(config, "optimizer.personal", "frozen")
    shapes = jax.eval_shape(model.init, keys.root(0))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    steps = building.optimizer(config, model.groups)
    slopes = jax.tree.map(np.ones_like, params)
    with jax.numpy_dtype_promotion("standard"):
        move = jax.jit(lambda: steps.update(slopes, steps.init(params), params, step=jnp.asarray(3))[0])
        updates = move()
    for part, sub in updates.personal.items():
        assert all(bool(np.any(leaf)) is (part != "head") for leaf in jax.tree.leaves(sub)), part


def test_a_gradient_that_moves_nothing_does_not_shorten_the_others():
    config, model = built("conv4", "maml")
    for group in config.optimizer:
        spec.choose(config, f"optimizer.{group}", "sgd", rate=1.0)
    spec.choose(config, "optimizer.personal", "frozen")
    config.clip_norm = 0.5
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), jax.eval_shape(model.init, keys.root(0)))
    steps = building.optimizer(config, model.groups)

    @jax.jit
    def length(slopes):
        return optax.tree.norm(steps.update(slopes, steps.init(params), params, step=jnp.asarray(3))[0])

    large = jax.tree.map(lambda group, leaf: leaf + (1e4 if group == "personal" else 1.0), model.groups(params), params)
    assert float(length(large)) == pytest.approx(0.5)  # and not 0.5 / 1e4


def test_minibatches_of_a_config_are_the_inner_loops():
    config, model = built("mlp", "reptile_adam")
    params, key = started(model), keys.root(1)
    support = Batch(jax.random.normal(key, (6, 4)), jnp.arange(6) % 3, jnp.ones(6, bool))

    def ends(minibatch):
        config.inner.minibatch = minibatch
        return jax.jit(inner_loop(config, model, training=True).adapt)(params, support, key)[0].personal

    same = lambda a, b: all(np.allclose(*pair) for pair in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    whole = ends(None)
    assert same(ends(6), whole) and not same(ends(2), whole)


@pytest.mark.parametrize(("head", "between"), [("prototypes", False), ("neighbours", False), ("ridge", True)])
def test_a_gate_takes_stored_examples_whole_or_not_at_all_and_sums_in_part_too(head, between):
    config = spec.config_for("wisdm", "solved")
    config.model.hidden = (8,)
    spec.choose(config, "model.head", head, **({"capacity": 12} if head == "neighbours" else {}))
    spec.choose(config, "inner", "closed_form")
    spec.choose(config, "gate", "cross_validated")
    model = building.model(config, SIZES["mlp"])
    params = started(model)
    bare, gated = (inner_loop(config, model, training=training) for training in (True, False))

    def of_user(key):  # inputs that depend a little on the class
        noise, labels = jax.random.normal(key, (12, 4)), jax.random.randint(key, (12,), 0, 3)
        support = Batch(noise + jax.nn.one_hot(labels, 4), labels, jnp.ones(12, bool))
        return [flat(loop.adapt(params, support, None)[0].personal) for loop in (bare, gated)]

    def flat(personal):
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(personal)])

    start = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params.personal)])[None]
    ends, found = jax.device_get(jax.jit(jax.vmap(of_user))(jax.random.split(keys.root(1), 60)))
    at_start, at_end = (np.all(found == place, axis=1) for place in (start, ends))
    assert bool(at_end.any()) and bool(at_start.any())
    assert bool((at_start | at_end).all()) is not between


def test_a_model_that_predicts_its_variance_has_a_likelihood_and_its_baselines_have_none():
    config = spec.config_for("movielens", "bayes_recommender")
    config.model.variance = True
    outputs = {"mean": jnp.zeros(2), "variance": jnp.ones(2)}
    assert "nll" in objective(config).scores(outputs, jnp.zeros(2), jnp.ones(2, bool))
    assert "nll" not in source_objective(config).scores(jnp.zeros(2), jnp.zeros(2), jnp.ones(2, bool))


def test_a_joint_model_is_tuned_under_the_head_that_it_has_learned_and_not_one_from_class_means():
    config, model = built("conv4", "proto_maml")
    params = started(model)
    x = jax.random.normal(keys.root(1), (4, 16, 16, 1))
    support = Batch(x, jnp.array([0, 1, 2, 0]), jnp.ones(4, bool))
    ours, theirs = inner_loop(config, model, steps=1), tuning_loop(config, model, steps=1, rate=1e-9)
    adapted = lambda loop: loop.adapt(params._replace(inner=loop.init(params)), support, None)[0]
    moved, tuned = jax.jit(lambda: (adapted(ours), adapted(theirs)))()
    own = params.personal["head"]["kernel"]
    np.testing.assert_allclose(tuned.personal["head"]["kernel"], own, atol=1e-7)
    assert np.abs(moved.personal["head"]["kernel"] - own).max() > 1e-2


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_computed_head_begins_empty_and_stays_so_whatever_gradient_reaches_it(decay):
    config = spec.config_for("sinusoid", "solved")
    for section, name in (("inner", "closed_form"), ("gate", "learned"), ("model.head", "bayes")):
        spec.choose(config, section, name)
    config.optimizer.param.weight_decay = decay
    model = building.model(config, {"width": 1})
    params = started(model)
    slopes = jax.tree.map(lambda leaf: np.full_like(leaf, 0.5), params)
    optimizer = building.optimizer(config, model.groups)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of an int32 count
        moves = jax.jit(lambda: optimizer.update(slopes, optimizer.init(params), params)[0])()
    moves = jax.device_get(moves)
    assert jax.tree.leaves(moves.personal) and not any(leaf.any() for leaf in jax.tree.leaves(moves.personal))
    assert all(leaf.all() for leaf in jax.tree.leaves(moves.shared))


def test_the_penalty_of_joint_training_is_of_the_parameters_as_they_are():
    def state(**changes):
        ewc = {"learner": "joint", "memory": "none", "penalties": {"ewc": {"strength": 1.0}}}
        config = spec.check(spec.merged(runs.quick(), ewc | runs.dotted(changes)))
        parts = spec.components(config)
        learner = building.learner(parts.arms["continual"].config, parts.model, None)
        data = parts.stream.family.data((0, 0), 0, 0)
        draw = lambda index: parts.stream.family.sample(data, index, 6, jax.random.fold_in(keys.root(0), index))
        params = started(parts.model)
        end = lambda: learner.consolidate(learner.init(params, draw(0)[0]), draw, keys.root(1)).penalty.state
        return jax.device_get(jax.jit(end)())

    still = state(inner="none", evaluation__steps=(0,), evaluation__headline_steps=0)
    for rates in ("constant", "meta_sgd"):  # joint training has no learned rates
        for one, other in zip(*map(jax.tree.leaves, (state(inner__rates=rates), still)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)
    assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(still.importance))
