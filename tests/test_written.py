"""The inner loop that writes: its path, its key, the meta-gradient through it, and curves over its steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from metapers import aggregate, base, inner, keys, learners, models, scores, tasks, trees
from metapers.scoring import adapting, curves
from metapers.tasks import synthetic
from tests.contracts import world
from tests.inner_problems import adapt

KEY = keys.root(3)
SUPPORT = base.Batch(jnp.array([[1.0]] * 3), jnp.array([1.0, 3.0, 50.0]), jnp.array([True, True, False]))
PARAMS = base.Params({"gain": jnp.array(2.0)}, {"w": jnp.array(-1.0)}, {})


def mean(params, support, key):
    noise = 0.0 if key is None else jax.random.normal(key)
    return {"w": params.shared["gain"] * base.masked_mean(support.targets, support.mask) + noise}


def test_path_is_the_start_then_what_was_written():
    adapted, path = adapt(inner.written(mean, 3), PARAMS, SUPPORT)
    assert path["w"].tolist() == [-1.0, 4.0, 4.0, 4.0]
    assert adapted == PARAMS._replace(personal={"w": jnp.array(4.0)})
    adapted, path = adapt(inner.written(mean, 0), PARAMS, SUPPORT)
    assert path["w"].tolist() == [-1.0] and adapted == PARAMS
    assert adapt(inner.written(mean), PARAMS, SUPPORT)[1]["w"].shape == (2,)


def test_key_is_handed_on_under_a_name():
    adapted, _ = adapt(inner.written(mean), PARAMS, SUPPORT, KEY)
    assert float(adapted.personal["w"]) == 4.0 + float(jax.random.normal(keys.named(KEY, "write")))


def test_gradient_reaches_what_write_reads():
    value = lambda params: jnp.square(inner.written(mean).adapt(params, SUPPORT, None)[0].personal["w"])
    grads = jax.jit(jax.grad(value))(PARAMS)
    assert float(grads.shared["gain"]) == 2 * 4.0 * 2.0 and float(grads.personal["w"]) == 0.0


def test_steps_are_refused_below_zero():
    with pytest.raises(ValueError, match="steps must be >= 0, got -1"):
        inner.written(mean, -1)


@functools.cache
def waves():
    stream = tasks.linear_gaussian(
        drift=synthetic.none(), periods=1, users_per_period=60, examples=12, support=6, query=6, dim=2
    )
    return stream, models.bayes_mlp((4,)), scores.gaussian()


def drawn(stream, users):
    data = stream.family.data((0, 0), 0, 1)
    return jax.jit(lambda data: stream.family.sample(data, jnp.int32(0), users, KEY))(data)


def test_curves_over_steps_are_flat_after_the_first():
    stream, model, objective = waves()
    loop = inner.written(model.write, 5)
    seeds = jax.jit(jax.vmap(model.init))(jnp.stack([KEY, keys.root(4)]))
    scored = curves.curves(
        adapting.adaptation(model, loop, steps=(0, 1, 2, 5), width=6),
        curves.query_scores(model, objective),
        shots=(0, 4),
        horizon=6,
    )
    found = np.asarray(scored(seeds, stream.held_out("test", 0)).scores["mse"])  # [seeds, users, shots, steps]
    np.testing.assert_array_equal(found[:, :, 0], found[:, :, 0, :1] + 0 * found[:, :, 0])  # no shots: the prior
    np.testing.assert_array_equal(found[..., 2:], found[..., 1:2] + 0 * found[..., 2:])
    assert found[:, :, 1, 1].mean() < 0.7 * found[:, :, 1, 0].mean()


def test_a_returning_user_goes_on_from_the_row_of_the_bank():
    stream, model, objective = waves()
    loop = inner.written(model.write)
    params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[None]), jax.jit(model.init)(KEY))
    cohort = stream.held_out("test", 0)
    adaptation = adapting.adaptation(model, loop, steps=(0, 1), width=6)
    rows = adaptation.after(params, cohort, shots=6, steps=1)
    scored = curves.curves(adaptation, curves.query_scores(model, objective), shots=(0, 6), horizon=6)
    start = jax.tree.map(lambda leaf, own: np.broadcast_to(np.asarray(leaf)[:, None], own.shape), params.personal, rows)
    fresh, back = (scored(params, cohort, one).scores["mse"] for one in (start, rows))
    np.testing.assert_allclose(np.asarray(back)[:, :, 0, 0], np.asarray(fresh)[:, :, 1, 1], rtol=1e-10)


def test_a_mesh_of_users_gives_the_gradient_of_one_device():
    stream, model, objective = waves()
    mesh = jax.make_mesh((2,), ("users",), axis_types=(AxisType.Auto,))
    tasks_, mask = drawn(stream, 4)
    start = jax.jit(model.init)(KEY)
    loss_fn, loop = base.example_loss(model, objective), inner.written(model.write, 2)
    make = lambda how: learners.maml(loss_fn, loop, optax.sgd(1.0), aggregator=how)
    plain, sharded = make(aggregate.mean()), make(aggregate.sharded(aggregate.mean(), mesh))
    update = lambda one: jax.jit(lambda: world.on_batch(one)(one.init(start, tasks_), tasks_, mask, KEY)[0])()
    after = [update(one) for one in (plain, sharded)]
    assert world.distance(plain.params(after[0]), sharded.params(after[1])) < 1e-12
    assert world.distance(plain.params(after[0]).shared, start.shared) > 1e-2


def test_learners_learn_the_prior_and_leave_the_start_empty():
    stream, model, objective = waves()
    loss_fn = base.example_loss(model, objective)
    batch, start = drawn(stream, 8), jax.jit(model.init)(KEY)
    for make in (
        lambda step: learners.maml(loss_fn, inner.written(model.write), step, aggregator=aggregate.mean()),
        lambda step: learners.joint(loss_fn, step, aggregator=aggregate.mean()),
    ):
        learner = make(optax.adam(0.05))

        def step(state, number, learner=learner):
            state, info = world.on_batch(learner)(state, *batch, keys.named(KEY, "step", number))
            return state, jnp.mean(info["losses"])

        run = lambda learner=learner, step=step: jax.lax.scan(step, learner.init(start, batch[0]), jnp.arange(30))
        state, losses = jax.jit(run)()
        params = learner.params(state)
        assert losses[-1] < losses[0] - 0.2
        assert float(trees.squared_norm(params.personal)) == 0.0
        assert world.distance(params.shared, start.shared) > 0.1
