"""MAML++'s outer loop on the quadratic: weights of steps by formula, first order before second; users one by one."""

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metapers import aggregate, inner, keys, learners
from tests.contracts import world
from tests.test_learners import POINT, QUERY, SUPPORT, centres

KEY = keys.root(3)
RATE, STEPS, THETA = 0.25, 3, np.array([1.0, -2.0])


def loop(first_order=False):
    return inner.gradient(world.point_loss, STEPS, RATE, first_order=first_order)


def slopes(learner, count):
    """The gradient at the same parameters at outer steps 0, 1, ...: SGD of rate zero stays where it is."""
    tasks, mask = centres(SUPPORT, QUERY)
    update, state, found = jax.jit(world.on_batch(learner)), learner.init(POINT, tasks), []
    for step in range(count):
        state, info = update(state, tasks, mask, keys.named(KEY, "step", step))
        found.append((float(info["grad_norm"]), float(np.mean(info["losses"]))))
    return found


def by_hand(weights, first_order=False):
    # theta_k = c + (1 - r)^k (theta - c); d/dtheta of ½‖theta_k - q‖² has the factor (1 - r)^k, first order has 1
    total = np.zeros(2)
    for k, weight in enumerate(weights, start=1):
        left = (1 - RATE) ** k
        gap = SUPPORT + left * (THETA - SUPPORT) - QUERY
        total += weight * ((1.0 if first_order else left) * gap).mean(0)
    return np.linalg.norm(total)


def test_the_weights_go_from_every_step_alike_to_the_last_alone():
    learner = learners.multi_step(world.point_loss, loop(), optax.sgd(0.0), anneal=4, aggregator=aggregate.mean())
    found = slopes(learner, 6)
    for step, (norm, loss) in enumerate(found):
        share = max(0.0, 1 - step / 4)
        weights = [share / 3, share / 3, 1 - share * 2 / 3]
        np.testing.assert_allclose(norm, by_hand(weights), rtol=1e-12)
        last = SUPPORT + (1 - RATE) ** 3 * (THETA - SUPPORT) - QUERY
        np.testing.assert_allclose(loss, 0.5 * np.square(last).sum(1).mean(), rtol=1e-12)
    assert found[0][0] != found[-1][0]


def test_without_inner_steps_there_is_nothing_to_evaluate_one_by_one():
    tasks, mask = centres(SUPPORT, QUERY)
    one = learners.multi_step(world.point_loss, inner.none(), optax.sgd(0.1), anneal=5, aggregator=aggregate.mean())
    with pytest.raises(
        ValueError, match="inner_loop must take at least one step, got one whose path is its start alone"
    ):
        world.on_batch(one)(one.init(POINT, tasks), tasks, mask, KEY)


def test_without_annealing_it_is_maml():
    tasks, mask = centres(SUPPORT, QUERY)
    pair = [
        learners.multi_step(world.point_loss, loop(), optax.adam(0.1), anneal=0, aggregator=aggregate.mean()),
        learners.maml(world.point_loss, loop(), optax.adam(0.1), aggregator=aggregate.mean()),
    ]
    ends = [jax.jit(world.on_batch(one))(one.init(POINT, tasks), tasks, mask, KEY)[0].params for one in pair]
    assert world.distance(*ends) < 1e-14


def staged(anneal, second_from):
    return learners.multi_step(
        world.point_loss,
        loop(),
        optax.sgd(0.0),
        anneal=anneal,
        aggregator=aggregate.mean(),
        first_order=loop(first_order=True),
        second_from=second_from,
    )


def test_first_order_comes_before_second():
    learner = staged(anneal=0, second_from=2)
    norms = [norm for norm, _ in slopes(learner, 4)]
    plain, exact = by_hand([0, 0, 1], first_order=True), by_hand([0, 0, 1])
    np.testing.assert_allclose(norms, [plain, plain, exact, exact], rtol=1e-12)
    assert abs(plain - exact) > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anneal": -1}, "anneal must be >= 0, got -1"),
        ({"anneal": 0, "second_from": -2}, "second_from must be >= 0, got -2"),
        (
            {"anneal": 0, "second_from": 5},
            "first_order must be an inner loop .* got None with 5",
        ),
    ],
)
def test_multi_step_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        learners.multi_step(world.point_loss, loop(), optax.sgd(0.1), aggregator=aggregate.mean(), **options)


def test_serial_reptile_is_the_loop_written_out_and_a_masked_user_takes_no_step():
    move, outer = (1 - RATE) ** STEPS, 0.5
    learner = learners.serial(learners.reptile(world.point_loss, loop(), optax.sgd(outer), aggregator=aggregate.mean()))
    tasks, _ = centres(SUPPORT, QUERY)
    mask = jnp.array([True, False, True])
    state, info = jax.jit(world.on_batch(learner))(learner.init(POINT, tasks), tasks, mask, KEY)
    theta = THETA.copy()
    for user in (0, 2):
        centre = (SUPPORT[user] + QUERY[user]) / 2  # Reptile adapts on support and query joined
        theta = theta + outer * (centre + move * (theta - centre) - theta)
    np.testing.assert_allclose(state.params.personal["theta"], theta, rtol=1e-12)
    assert int(state.step) == 1 and info["losses"].shape == (3,) and float(info["losses"][1]) == 0.0


def test_serial_differs_from_one_step_for_all():
    reptile = learners.reptile(world.point_loss, loop(), optax.sgd(0.5), aggregator=aggregate.mean())
    tasks, mask = centres(SUPPORT, QUERY)
    ends = [
        jax.jit(world.on_batch(one))(one.init(POINT, tasks), tasks, mask, KEY)[0].params
        for one in (reptile, learners.serial(reptile))
    ]
    assert world.distance(*ends) > 0.1


def steps_of(learner, count, masks=None):
    """Parameters and what is reported after each of ``count`` updates on the same users."""
    tasks, mask = centres(SUPPORT, QUERY)
    update, state, found = jax.jit(world.on_batch(learner)), learner.init(POINT, tasks), []
    for step in range(count):
        there = mask if masks is None else jnp.array(masks[step])
        state, info = update(state, tasks, there, keys.named(KEY, "step", step))
        found.append((state, info))
    return found


def test_serial_counts_outer_steps_however_many_users_are_there():
    learner = learners.serial(staged(anneal=2, second_from=1))
    masks = [[True, True, True], [True, False, True], [False, False, False], [True, True, True]]
    found = steps_of(learner, 4, masks)
    assert [int(state.step) for state, _ in found] == [1, 2, 3, 4]
    for t, (_, info) in enumerate(found):
        share = max(0.0, 1 - t / 2)
        norms = []
        for user in np.flatnonzero(masks[t]):
            total = np.zeros(2)
            for k, weight in enumerate([share / 3, share / 3, 1 - share * 2 / 3], start=1):
                left = (1 - RATE) ** k
                gap = SUPPORT[user] + left * (THETA - SUPPORT[user]) - QUERY[user]
                total += weight * (1.0 if t < 1 else left) * gap
            norms.append(np.linalg.norm(total))
        np.testing.assert_allclose(info["grad_norm"], np.mean(norms) if norms else 0.0, rtol=1e-12)


def halving(optimizer):
    return optax.chain(optimizer, learners.scheduled(lambda t: 0.5**t))


def test_a_scheduled_rate_is_that_of_the_outer_step_for_every_user_of_it():
    # plain descent on ½‖theta - c‖² with the users' c one after the other, at the rate 0.5 · 0.5^t
    learner = learners.serial(learners.joint(world.point_loss, halving(optax.sgd(0.5)), aggregator=aggregate.mean()))
    masks = [[True, False, True], [True, True, True], [False, True, False]]
    theta = THETA.copy()
    for t, (state, _) in enumerate(steps_of(learner, 3, masks)):
        for user in np.flatnonzero(masks[t]):
            theta = theta - 0.5 * 0.5**t * (theta - (SUPPORT[user] + QUERY[user]) / 2)
        np.testing.assert_allclose(state.params.personal["theta"], theta, rtol=1e-12)


def test_a_scheduled_rate_is_optaxs_to_the_bit_where_a_step_is_one_call():
    cosine = optax.warmup_cosine_decay_schedule(0.0, 1.0, 2, 5, 0.02)
    ends = [
        steps_of(
            learners.maml(
                world.point_loss, loop(), optax.chain(optax.adam(0.1), last(cosine)), aggregator=aggregate.mean()
            ),
            5,
        )[-1][0].params
        for last in (learners.scheduled, optax.scale_by_schedule)
    ]
    assert world.distance(*ends) == 0.0 < world.distance(ends[0], POINT)


def test_serial_takes_no_other_learner():
    tasks, mask = centres(SUPPORT, QUERY)
    plain = learners.joint(world.point_loss, optax.sgd(0.5), aggregator=aggregate.mean())
    other = plain._replace(init=lambda params, tasks: {"params": params})
    with pytest.raises(TypeError, match="learner must be one whose state is a DescentState, got dict"):
        world.on_batch(learners.serial(other))(other.init(POINT, tasks), tasks, mask, KEY)


def test_a_scheduled_rate_needs_the_step():
    optimizer = halving(optax.sgd(1.0))
    with pytest.raises(ValueError, match="step must be given to update, the outer step, got None"):
        optimizer.update(POINT, optimizer.init(POINT), POINT)


def numbers_in(program):
    """How many numbers a traced program computes on the way, in the programs inside it too."""
    within = [inner for equation in program.eqns for inner in jex.jaxprs_in_params(equation.params)]
    own = sum(out.aval.size for equation in program.eqns for out in equation.outvars if hasattr(out.aval, "size"))
    return own + sum(map(numbers_in, within))


def test_a_step_computes_what_its_phase_needs_and_no_more_whether_or_not_seeds_are_vmapped():
    tasks, mask = centres(SUPPORT, QUERY)
    learner = staged(anneal=2, second_from=1)
    state = learner.init(POINT, tasks)
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    one = lambda state: world.on_batch(learner)(state, tasks, mask, KEY)[0]
    for program in (jax.make_jaxpr(one)(state), jax.make_jaxpr(jax.vmap(one))(seeds)):
        (choice,) = [equation for equation in program.eqns if equation.primitive.name == "cond"]
        plain, exact, last = (numbers_in(branch.jaxpr) for branch in choice.params["branches"])
        assert last < exact and plain < exact  # every step in first order, in second order, the last one alone
    alone, together = jax.jit(one), jax.jit(jax.vmap(one))
    for _ in range(3):
        state, seeds = alone(state), together(seeds)
    assert world.distance(jax.tree.map(lambda leaf: leaf[1], seeds.params), state.params) < 1e-14
