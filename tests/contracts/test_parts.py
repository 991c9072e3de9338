"""Contracts of the parts with shapes of their own: models, objectives, sources, baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys
from metapers.members import build, registry, sections
from metapers.options import ConfigError
from metapers.spec import building, config_for
from metapers.spec.heads import model_facts, source_facts
from tests.contracts import parts, world
from tests.contracts.test_contracts import floats, grouped, shapes

KEY = keys.root(11)


def first_three(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:3], tree)


PLAIN = ("linear, vectors to numbers", "mlp, vectors to classes")
"""Cases that run without ``jit`` too, where every operation is compiled by itself: seconds for a larger model."""


def test_the_plain_cases_are_there():
    assert parts.model_cases().keys() >= set(PLAIN)


@pytest.mark.parametrize("name", grouped(parts.model_cases()))
def test_a_models_shapes_seeds_and_masks(name):
    case = parts.model_cases()[name]
    model, user = case.model(), parts.support(case)
    init, of_seeds = jax.vmap(model.init), jax.jit(jax.vmap(model.apply, (0, None, None, None)))
    params, others = (init(jnp.stack([KEY, keys.root(other)])) for other in (1, 2))
    groups = model.groups(params)
    assert jax.tree.structure(groups) == jax.tree.structure(params), "groups: a name for each leaf"
    assert params.inner == {}, "inner: a model has no inner parameters"
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params)]
    assert all(floating), "types: parameters are floats"
    apply = lambda params, inputs, mask: first(of_seeds(params, inputs, mask, None))
    outputs = apply(params, user.inputs, user.mask)
    assert all(leaf.shape[0] == parts.ROWS for leaf in jax.tree.leaves(outputs)), "shapes: an output for each row"
    if name in PLAIN:
        alone = jax.tree.map(jnp.asarray, first(params))
        gap = world.distance(first(model.apply(alone, user.inputs, user.mask, None), ...), outputs)
        assert gap < 1e-12, "seeds, jit: one of several, compiled, is that one alone, plain"
    gap = world.distance((first(params), outputs), (first(others), apply(others, user.inputs, user.mask)))
    assert gap == 0.0, "seeds: another second seed leaves the first as it is"
    write = jax.jit(jax.vmap(model.write, (0, None, None)))
    adapted = params._replace(personal=write(params, user, None))
    assert shapes(adapted.personal) == shapes(params.personal), "write: personal parameters keep their shapes"
    for one in (params, adapted):
        check_rows(case.transductive, lambda inputs, mask, one=one: apply(one, inputs, mask), user)


def first(tree, at=0):
    """The first seed on the host; of one alone, everything."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[at], tree)


def check_rows(transductive, apply, user):
    def without_last(value):
        inputs, mask = jax.tree.map(np.array, (user.inputs, user.mask))
        for leaf in jax.tree.leaves(inputs):
            leaf[3] = value
        mask[3] = False
        return first_three(apply(inputs, mask))

    outputs, without = apply(user.inputs, user.mask), without_last(0)
    assert world.distance(without, without_last(1)) < 1e-12, "masks: a masked row changes no other"
    says_something = any(np.any(leaf) for leaf in jax.tree.leaves(outputs))  # a head of zeros does not
    sees_others = world.distance(without, first_three(outputs)) > 1e-6
    assert sees_others == (transductive and says_something), "transduction: the normalisation declares it"


@pytest.mark.parametrize("name", grouped(registry("objective")))
def test_an_objectives_shapes_and_labels(name):
    objective, outputs, targets = parts.objective_case(name)

    @jax.jit
    def parts_of(outputs, targets):
        drawn = objective.sample(outputs, KEY)
        scores = objective.scores(outputs, targets, jnp.array([True, True, False, False]))
        labels = objective.labels(outputs) if objective.labels else None
        return objective.loss(outputs, targets), drawn, objective.loss(outputs, drawn), scores, labels

    losses, drawn, of_drawn, found, labels = parts_of(outputs, targets)
    assert losses.shape == (parts.ROWS,) and bool(np.isfinite(losses).all()), "loss: finite, one for each example"
    gap = world.distance(objective.loss(outputs, targets), losses)
    assert gap < 1e-12, "jit: compiled losses are the plain ones"
    assert drawn.shape == targets.shape, "sample: the shape of the targets"
    assert of_drawn.shape == (parts.ROWS,), "sample: targets that the loss takes"
    assert all(value.shape == () and bool(np.isfinite(value)) for value in found.values()), "scores: finite scalars"
    if labels is None:
        return
    values, weights = labels
    np.testing.assert_allclose(weights.sum(0), 1.0, atol=1e-12, err_msg="labels: weights add up to 1")
    assert values.shape == (weights.shape[0], *targets.shape), "labels: targets in a row"


@pytest.mark.parametrize("name", grouped(parts.streams()))
def test_a_source_keeps_its_shapes_over_periods_and_draws_by_its_key(name):
    stream = parts.streams()[name]()
    traced = []

    def draw(data, step, key):
        traced.append(step)
        return stream.family.sample(data, step, 6, key)

    compiled = jax.jit(jax.vmap(draw, (None, None, 0)))  # of two seeds
    alone = jax.jit(lambda data: stream.family.sample(data, jnp.int32(3), 6, KEY))
    two_seeds = lambda data, step, first, second: compiled(data, jnp.int32(step), jnp.stack([first, second]))
    seed = lambda both, number: jax.tree.map(lambda leaf: leaf[number], both)
    other, last = keys.root(1), stream.periods - 1
    windows = [(0, 0), (last, last), (0, last)]
    fed = [stream.family.data(window, 3, 5) for window in windows]
    drawn = [seed(two_seeds(data, 3, KEY, other), 0) for data in fed]
    assert last > 0, "periods: more than one, or the rest says nothing"
    assert len({str(shapes(one)) for one in drawn}) == 1, "shapes: the same in every window"
    assert len(traced) == 1, "compilation: no window is traced anew"
    for data, (tasks, mask) in zip(fed, drawn, strict=True):
        assert world.distance(alone(data), (tasks, mask)) < 1e-12, "seeds: one of several is that one alone"
        assert mask.shape == (6,) and mask.dtype == bool and bool(mask.any()), "mask: of each task, some are there"
        assert tasks.user.dtype == jnp.int32 and bool((tasks.user >= 0).all()), "users: int32 rows"
        assert all(np.isfinite(leaf).all() for leaf in floats(tasks)), "values: everything is finite"
        there = [np.asarray(part.mask)[np.asarray(mask)].any(1).all() for part in (tasks.support, tasks.query)]
        assert all(there), "masks: a task has a support and a query"
    parts.check_times(stream, drawn[2][0])
    assert world.distance(seed(two_seeds(fed[2], 3, KEY, other), 1), drawn[2]) > 0, "draws: another key, others"
    assert world.distance(seed(two_seeds(fed[2], 4, KEY, other), 0), drawn[2]) > 0, "draws: another step, others"


@pytest.mark.parametrize("name", [name for name in registry("source") if parts.reads_files(name)])
def test_a_source_that_reads_files_names_the_folder_that_it_needs(name):
    facts = source_facts({"name": name})
    fitting = [one for one in registry("model") if facts.inputs in model_facts({"name": one}).inputs]
    config = config_for(name, fitting[0])
    if "backend" in config.data:
        config.data.backend = "folder"
    assert facts.from_files(config.data)
    with pytest.raises(ConfigError) as refused:
        building.stream(config)
    assert refused.value.key == "data.path" and refused.value.value is None
    config.data.path = "/nowhere"
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        building.stream(config)


@pytest.mark.parametrize("label", dict(sections("baseline")))
def test_a_baseline_predicts_every_row_from_the_first_examples_of_a_user(label):
    section = dict(sections("baseline"))[label]
    member = registry("baseline")[section["name"]]
    fitting = {name: cohort for name, cohort in parts.cohorts().items() if member.facts(cohort)}
    assert fitting, "facts: a baseline applies to some cohort of tests/contracts/parts.py"
    for name, cohort in fitting.items():
        context = {"training": cohort, "classes": None, "memo": None}
        predictor = build("baseline", section, context)
        outputs = predictor.predict(cohort, 2, 3)
        assert len(outputs) == len(cohort.targets) and np.isfinite(outputs).all(), f"shapes: a row each, {name}"
        kind = cohort.targets.dtype if np.ndim(outputs) == 1 else jnp.zeros(()).dtype
        assert outputs.dtype == kind, f"types: of the targets, or JAX's floats, {name}"
        place = np.concatenate([np.arange(size) for size in np.diff(cohort.offsets)])
        later = (place >= 2).reshape(-1, *(1,) * (cohort.targets.ndim - 1))
        changed = cohort._replace(targets=np.where(later, cohort.targets[::-1], cohort.targets))
        assert np.array_equal(predictor.predict(changed, 2, 3), outputs), f"support: later targets say nothing, {name}"
