"""Small moves are not made: by hand on the bowl, masks, the empty support, and what stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import base, inner, keys, models
from tests.contracts import world
from tests.inner_problems import adapt

RATE = 0.5
CENTRE = np.array([1.0, -2.0])


def outputs(params, batch):
    return jnp.broadcast_to(params.personal["theta"][None], (batch.mask.shape[0], 2))


def task(mask=(True, True, False), behind=np.nan):
    there = np.array(mask)
    targets = np.where(there[:, None], CENTRE[None], behind)
    return base.Batch(jnp.asarray(np.zeros((3, 1))), jnp.asarray(targets), jnp.asarray(there))


def wrapped(least):
    return inner.keep_if_it_moves(inner.gradient(world.point_loss, 2, RATE), outputs, least)


START = base.Params({}, {"theta": jnp.array([0.0, 0.0])}, {})
MOVE = float(np.square(0.75 * CENTRE).sum())  # two steps of rate 1/2 leave a quarter of the way


HALF = float(np.square(0.5 * CENTRE).sum())  # one step


@pytest.mark.parametrize(
    ("least", "moves"),
    [(0.0, (1, 1)), (HALF - 1e-9, (1, 1)), (HALF + 1e-9, (0, 1)), (MOVE - 1e-9, (0, 1)), (MOVE + 1e-9, (0, 0))],
)
def test_every_entry_of_the_path_is_the_loops_or_the_start_by_its_own_move(least, moves):
    adapted, path = adapt(wrapped(least), START, task())
    share = np.array([0.0, 0.5 * moves[0], 0.75 * moves[1]])
    np.testing.assert_allclose(path["theta"], share[:, None] * CENTRE[None], atol=1e-14)
    np.testing.assert_array_equal(adapted.personal["theta"], path["theta"][-1])


def test_without_examples_the_start_is_kept():
    adapted, _ = adapt(wrapped(1e-6), START, task(mask=(False, False, False)))
    np.testing.assert_array_equal(adapted.personal["theta"], START.personal["theta"])


def test_what_stands_behind_the_mask_changes_nothing():
    loop = wrapped(MOVE - 1e-9)
    ends = [adapt(loop, START, task(behind=value)) for value in (np.nan, 7.0)]
    assert world.distance(*ends) == 0.0


def test_the_derivative_is_the_wrapped_loops_or_that_of_the_start():
    def value(least):
        return jax.jit(jax.grad(lambda p: jnp.sum(wrapped(least).adapt(p, task(), None)[0].personal["theta"])))(START)

    np.testing.assert_allclose(value(0.0).personal["theta"], np.full(2, 0.25), atol=1e-14)
    np.testing.assert_allclose(value(MOVE + 1).personal["theta"], np.ones(2), atol=1e-14)


def test_users_are_decided_one_by_one_under_vmap_and_learned_rates_pass_through():
    loop = inner.keep_if_it_moves(inner.gradient(world.point_loss, 1, inner.per_parameter(RATE)), outputs, 0.5)
    params = START._replace(inner=loop.init(START))
    assert set(params.inner) == {"rates"}
    far = jnp.array([3.0, 0.1])

    def end(scale):
        one = task()._replace(targets=scale * jnp.asarray(np.tile(CENTRE, (3, 1))))
        return loop.adapt(params, one, keys.root(0))[0].personal["theta"]

    ends = jax.jit(jax.vmap(end))(far)
    np.testing.assert_allclose(ends, [1.5 * CENTRE, np.zeros(2)], atol=1e-14)


def test_predictions_are_in_one_unit():
    both = lambda params, batch: {"mean": outputs(params, batch), "variance": outputs(params, batch)}
    loop = inner.gradient(world.point_loss, 2, RATE)
    with pytest.raises(ValueError, match="outputs_fn must give one array, .* got 2"):
        inner.keep_if_it_moves(loop, both, 0.0).adapt(START, task(), None)
    # the mean of a model whose variance shrinks by much more than the mean moves
    model = models.bayes_mlp((1,), deviation=10.0, noise=0.1)
    params = jax.jit(model.init)(keys.root(0))
    support = base.Batch(jnp.array([[0.5], [2.0]]), jnp.array([0.1, -0.3]), jnp.array([True, True]))
    predicted = lambda params, batch: model.apply(params, batch.inputs, batch.mask, None)
    written = inner.written(model.write)
    pair = [jax.jit(predicted)(one, support) for one in (adapt(written, params, support)[0], params)]
    moved = {name: float(np.mean(np.square(pair[0][name] - pair[1][name]))) for name in pair[0]}
    assert moved["mean"] < 0.1 < 1000 < moved["variance"]
    for least, stays in ((0.99 * moved["mean"], False), (1.01 * moved["mean"], True)):
        loop = inner.keep_if_it_moves(written, lambda params, batch: predicted(params, batch)["mean"], least)
        assert (world.distance(adapt(loop, params, support)[0].personal, params.personal) == 0.0) is stays


@pytest.mark.parametrize("least", [-1.0, float("nan"), float("inf")])
def test_it_refuses(least):
    with pytest.raises(ValueError, match=f"least must be finite and >= 0, got {least}"):
        wrapped(least)
