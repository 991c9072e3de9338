"""Penalties: each alive, exact where a formula exists, and free of the mistakes that went unnoticed elsewhere."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys, trees
from metapers.base import Batch, InnerLoop, Objective, Params, Task
from metapers.penalties import anchor, ewc, none, sum_of
from metapers.scores import cross_entropy, squared_error

KEY = keys.root(0)
STILL = InnerLoop(lambda params: {}, lambda params, support, key: (params, params.personal))


def numbers(name, shape):
    return jax.random.normal(keys.named(KEY, name), shape)


def linear(params, inputs, mask, key):
    return inputs @ params.shared["w"]


def point(params, inputs, mask, key):
    return jnp.broadcast_to(params.personal["m"][None], (*mask.shape, *params.personal["m"].shape))


def contraction(rate, steps):
    """Gradient steps on half the squared distance to the support's mean: each multiplies the start by 1 - rate."""

    def adapt(params, support, key):
        aim = jnp.mean(support.targets, axis=0)
        m = params.personal["m"]
        for _ in range(steps):
            m = m - rate * (m - aim)
        return params._replace(personal={"m": m}), {"m": m[None]}

    return InnerLoop(lambda params: {}, adapt)


def tasks_of(inputs, targets=None, mask=None):
    """Stacked tasks whose query (and support) is inputs [users, n, ...]."""
    users, n = inputs.shape[:2]
    targets = np.zeros((users, n)) if targets is None else targets
    batch = Batch(inputs, targets, np.ones((users, n), bool) if mask is None else mask)
    return jax.tree.map(jnp.asarray, Task(batch, batch, np.arange(users, dtype=np.int32), {}))


def draw_of(tasks):
    """The same batch, whatever i."""
    return lambda i: (tasks, jnp.ones(tasks.user.shape, bool))


@cache
def ends(penalty):
    """``consolidate`` on a draw that is the same whatever i, as one program: state, params, tasks, mask -> state."""
    return jax.jit(lambda state, params, tasks, mask: penalty.consolidate(state, params, lambda i: (tasks, mask), KEY))


def ended(penalty, params, tasks, mask=None, state=None):
    """The state after a period, by default the first one and with all users."""
    mask = np.ones(tasks.user.shape, bool) if mask is None else mask
    return ends(penalty)(penalty.init(params) if state is None else state, params, tasks, mask)


@cache
def slope_of(penalty):
    """State, params -> the value and its gradient by the parameters."""
    return jax.jit(jax.value_and_grad(penalty.value, argnums=1))


def weights(*values):
    return Params({"w": jnp.array(values)}, {}, {})


@cache
def linear_ewc(strength=1.0, **options):
    return ewc(squared_error(), linear, STILL, strength, **options)


INPUTS = numbers("inputs", (3, 4, 2))
FISHER = 2 * np.mean(np.asarray(INPUTS) ** 2, axis=(0, 1))  # variance 1/2: E (d log p / d w)^2 = 2 x^2
MEMBERS = {
    "none": none(),
    "anchor": anchor(3.0),
    "ewc": linear_ewc(3.0),
    "ewc_sampled": linear_ewc(3.0, exact=False, draws=2),
    "sum_of": sum_of(anchor(3.0), linear_ewc(0.5)),
}
alive = pytest.mark.parametrize("penalty", list(MEMBERS.values())[1:], ids=list(MEMBERS)[1:])
every = pytest.mark.parametrize("penalty", MEMBERS.values(), ids=MEMBERS.keys())
HERE, THERE = weights(0.5, -1.0), weights(2.5, -2.0)


def one_period(penalty, params=HERE, inputs=INPUTS):
    return ended(penalty, params, tasks_of(inputs))


# -- alive ---------------------------------------------------------------------------------------------------------


@every
def test_zero_with_zero_gradient_before_the_first_period_ended(penalty):
    value, grads = slope_of(penalty)(penalty.init(HERE), THERE)
    assert float(value) == 0 and not np.any(grads.shared["w"])


@alive
def test_alive_after_the_first_period(penalty):
    at, grads_at = slope_of(penalty)(one_period(penalty), HERE)
    away, grads_away = slope_of(penalty)(one_period(penalty), THERE)
    assert float(at) == 0 and not np.any(grads_at.shared["w"])
    assert float(away) > 0.1
    assert np.all(np.sign(grads_away.shared["w"]) == [1, -1])  # descent leads back to the anchor


@every
def test_all_five_functions_keep_the_state_and_give_scalars(penalty):
    state = one_period(penalty)
    assert jax.tree.structure(state) == jax.tree.structure(penalty.init(HERE))
    task = jax.tree.map(lambda x: x[0], tasks_of(INPUTS))
    assert float(penalty.on_task(state, HERE, THERE, task, KEY)) == 0
    same = penalty.observe(state, HERE, THERE, THERE)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_none_is_zero_everywhere_and_at_every_time():
    penalty = none()
    value, grads = slope_of(penalty)(one_period(penalty), THERE)
    assert float(value) == 0 and not np.any(grads.shared["w"])


@alive
def test_the_anchor_neither_aliases_nor_follows_the_weights(penalty):
    live = trees.copy(HERE)
    state = penalty.consolidate(penalty.init(live), live, draw_of(tasks_of(INPUTS[:1, :1])), KEY)
    first = penalty.init(live)
    held = {x.unsafe_buffer_pointer() for x in jax.tree.leaves((state, first))}
    assert live.shared["w"].unsafe_buffer_pointer() not in held
    jax.jit(lambda w: w + 1.0, donate_argnums=0)(live.shared["w"])  # the live weights are gone, in their own buffer
    before = float(penalty.value(state, THERE))
    state = penalty.observe(state, HERE, THERE, THERE)
    assert float(penalty.value(state, HERE)) == 0 and float(penalty.value(state, THERE)) == before


# -- anchor --------------------------------------------------------------------------------------------------------


def test_anchor_is_the_formula_over_shared_personal_and_inner():
    start = Params({"a": jnp.array([1.0, 2.0])}, {"b": jnp.array([[3.0]])}, {"c": jnp.array(4.0)})
    moved = Params({"a": jnp.array([2.0, 4.0])}, {"b": jnp.array([[6.0]])}, {"c": jnp.array(8.0)})
    penalty = anchor(0.5)
    state = ended(penalty, start, tasks_of(INPUTS), state=penalty.init(moved))
    value, grads = slope_of(penalty)(state, moved)
    assert float(value) == 0.25 * (1 + 4 + 9 + 16)
    assert [g.tolist() for g in jax.tree.leaves(grads)] == [[0.5, 1.0], [[1.5]], 2.0]


# -- ewc: the Fisher -----------------------------------------------------------------------------------------------


def test_exact_fisher_of_a_linear_model_is_twice_the_mean_square_of_its_inputs():
    np.testing.assert_allclose(one_period(linear_ewc()).importance.shared["w"], FISHER, rtol=1e-12)


def test_exact_fisher_of_softmax_regression_is_the_closed_form():
    w = numbers("w", (2, 3))
    p = np.asarray(jax.nn.softmax(INPUTS @ w, axis=-1))
    expected = np.mean(np.asarray(INPUTS)[..., :, None] ** 2 * (p * (1 - p))[..., None, :], axis=(0, 1))
    penalty = ewc(cross_entropy(), linear, STILL, 1.0)
    tasks = tasks_of(INPUTS, jnp.zeros((3, 4), jnp.int32))
    params = Params({"w": w}, {}, {})
    state = ended(penalty, params, tasks)
    np.testing.assert_allclose(state.importance.shared["w"], expected, rtol=1e-10)


def test_it_is_the_mean_of_squares_never_the_square_of_the_mean():
    opposite = jnp.array([[[1.0], [-1.0]]])  # their mean is zero, their squares are not
    state = one_period(linear_ewc(draws=1), weights(0.7), opposite)
    np.testing.assert_allclose(state.importance.shared["w"], [2.0])


def test_the_labels_are_the_models_own_never_the_datas():
    penalty = linear_ewc(exact=False, draws=2)
    states = [ended(penalty, HERE, tasks_of(INPUTS, np.full((3, 4), y))) for y in (0.0, 1e6)]
    np.testing.assert_array_equal(*(s.importance.shared["w"] for s in states))


def sampled_and_exact(objective, w, draws):
    """Importance from one sampled label for each example of each draw, and from the whole expectation."""
    importance = []
    for options in ({"exact": False, "draws": draws}, {"draws": 1}):
        penalty = ewc(objective, linear, STILL, 1.0, **options)
        importance.append(one_period(penalty, Params({"w": w}, {}, {})).importance.shared["w"])
    return [np.asarray(x) for x in importance]


def test_sampled_fisher_is_the_exact_one_in_the_mean():
    # a score's square is 2 z^2 x^2 with z normal: variance 8 x^4
    draws, x = 400, np.asarray(INPUTS).reshape(-1, 2)
    sampled, exact = sampled_and_exact(squared_error(), numbers("w", (2,)), draws)
    error = np.sqrt(8 * np.sum(x**4, axis=0) / draws) / len(x)
    assert np.all(np.abs(sampled - exact) < 4.5 * error)
    assert np.all(sampled != exact) and np.all(error < 0.1 * exact)  # the bound could fail


def test_sampled_fisher_of_softmax_is_the_exact_one_in_the_mean():
    # a score's square is (1[y = c] - p)^2 x^2: variance p (1 - p) (1 - 2 p)^2 x^4
    draws, x, w = 400, np.asarray(INPUTS).reshape(-1, 2), numbers("w", (2, 3))
    p = np.asarray(jax.nn.softmax(x @ w, axis=-1))
    sampled, exact = sampled_and_exact(cross_entropy(), w, draws)
    variance = (x**4).T @ (p * (1 - p) * (1 - 2 * p) ** 2)
    error = np.sqrt(variance / draws) / len(x)
    assert np.all(np.abs(sampled - exact) < 4.5 * error + 1e-12)
    assert np.all(sampled != exact) and np.all(error < 0.1 * exact)


def test_users_weigh_alike_however_many_examples_they_have():
    inputs = jnp.array([[[1.0], [1.0], [1.0]], [[3.0], [100.0], [100.0]]])
    mask = jnp.array([[True, True, True], [True, False, False]])
    penalty = linear_ewc(draws=1)
    tasks = tasks_of(inputs, mask=mask)
    state = ended(penalty, weights(1.0), tasks)
    np.testing.assert_allclose(state.importance.shared["w"], [(2 * 1 + 2 * 9) / 2])


def test_every_draw_counts_by_its_users():
    tasks = tasks_of(jnp.array([[[1.0]], [[2.0]]]))

    def draw(i):  # one user with x = 1, then two users with x = 1 and x = 2
        return tasks, jnp.array([True, False]) | (i > 0)

    penalty = linear_ewc(draws=2)
    state = jax.jit(lambda params: penalty.consolidate(penalty.init(params), params, draw, KEY))(weights(1.0))
    np.testing.assert_allclose(state.importance.shared["w"], [2 * (1 + 1 + 4) / 3])


# -- ewc: through the adaptation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_importance_is_taken_through_the_adaptation(steps):
    # adapted = (1 - a)^k m + ..., so the score of the start m is (1 - a)^k times that of the adapted point
    rate = 0.3
    tasks = tasks_of(jnp.zeros((3, 4, 1)), numbers("targets", (3, 4, 2)))
    params = Params({}, {"m": jnp.array([0.5, -2.0])}, {})
    penalty = ewc(squared_error(), point, contraction(rate, steps), 1.0, draws=2)
    state = ended(penalty, params, tasks)
    np.testing.assert_allclose(state.importance.personal["m"], np.full(2, 2 * (1 - rate) ** (2 * steps)), rtol=1e-12)


def test_learned_rates_have_importance_too():
    # adapted m' = m - rate (m - aim): d m' / d rate = aim - m, so its Fisher is 2 (aim - m)^2, averaged over users
    def adapt(params, support, key):
        m = params.personal["m"] - params.inner["rate"] * (params.personal["m"] - jnp.mean(support.targets, axis=0))
        return params._replace(personal={"m": m}), {"m": m[None]}

    targets = numbers("targets", (3, 4, 1))
    params = Params({}, {"m": jnp.array([0.5])}, {"rate": jnp.array([0.1])})
    penalty = ewc(squared_error(), point, InnerLoop(lambda params: {}, adapt), 1.0)
    state = ended(penalty, params, tasks_of(jnp.zeros((3, 4, 1)), targets))
    aims = np.mean(np.asarray(targets), axis=1)
    np.testing.assert_allclose(state.importance.inner["rate"], np.mean(2 * (aims - 0.5) ** 2, axis=0), rtol=1e-12)


def test_a_model_that_looks_across_rows_gets_each_examples_whole_score():
    # outputs_i = w * sum_j x_j: every example's score sees all rows, and their cross terms
    def total(params, inputs, mask, key):
        return jnp.broadcast_to(params.shared["w"] * jnp.sum(inputs, axis=0), mask.shape)

    penalty = ewc(squared_error(), total, STILL, 1.0, draws=1)
    tasks = tasks_of(jnp.array([[[1.0], [2.0]]]))
    state = ended(penalty, weights(1.0), tasks)
    np.testing.assert_allclose(state.importance.shared["w"], [2 * 9.0])


# -- ewc: over the periods ------------------------------------------------------------------------------------------


def test_the_penalty_is_the_parabola_of_a_quadratic():
    # one-hot inputs, each seen once: the rise of the expected loss is mean_i (dw_i)^2, exactly the penalty
    inputs = jnp.eye(2)[None]
    penalty = linear_ewc(1.0)
    state = one_period(penalty, HERE, inputs)
    for t in (-1.0, 0.5, 2.0):
        moved = weights(0.5 + t, -1.0 - 3 * t)
        rise = np.mean((np.asarray(moved.shared["w"]) - np.asarray(HERE.shared["w"])) ** 2)
        np.testing.assert_allclose(slope_of(penalty)(state, moved)[0], rise, rtol=1e-12)


def test_value_is_the_formula():
    penalty = linear_ewc(3.0)
    value, grads = slope_of(penalty)(one_period(penalty), THERE)
    np.testing.assert_allclose(value, 1.5 * np.sum(FISHER * np.array([2.0, -1.0]) ** 2), rtol=1e-12)
    np.testing.assert_allclose(grads.shared["w"], 3 * FISHER * np.array([2.0, -1.0]), rtol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.25, 1.0])
def test_importance_accumulates_with_decay_and_the_anchor_moves(decay):
    penalty = linear_ewc(decay=decay)
    second = ended(penalty, THERE, tasks_of(INPUTS), state=one_period(penalty))
    np.testing.assert_allclose(second.importance.shared["w"], FISHER * (1 + decay), rtol=1e-12)
    assert float(penalty.value(second, THERE)) == 0 < float(penalty.value(second, HERE))


def test_two_identical_periods_weigh_exactly_twice():
    penalty = linear_ewc()
    state = one_period(penalty)
    second = ended(penalty, HERE, tasks_of(INPUTS), state=state)
    np.testing.assert_array_equal(second.importance.shared["w"], 2 * state.importance.shared["w"])
    assert float(penalty.value(second, THERE)) == 2 * float(penalty.value(state, THERE))


# -- masks, compositions, transformations --------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
def test_what_stands_behind_masks_changes_nothing(exact):
    penalty = linear_ewc(exact=exact)
    ragged = np.array([[True, True, True, False], [True, True, False, False], [False] * 4])

    def importance(filling, inputs, mask, users):
        wide = np.where(mask[..., None] & users[:, None, None], inputs, filling)
        tasks = tasks_of(wide, np.full(mask.shape, filling), mask)
        return ended(penalty, HERE, tasks, users).importance.shared["w"]

    everyone = np.ones(3, bool)
    clean = importance(0.0, INPUTS, ragged, everyone)
    np.testing.assert_array_equal(importance(math.nan, INPUTS, ragged, everyone), clean)
    # the third user has no query example, and a masked user is as good as none
    np.testing.assert_allclose(importance(math.nan, INPUTS[:2], ragged[:2], everyone[:2]), clean, rtol=1e-12)
    whole = np.stack([*ragged[:2], everyone[[0] * 4]])
    masked = importance(math.nan, INPUTS, whole, np.array([True, True, False]))
    np.testing.assert_allclose(masked, clean, rtol=1e-12)
    assert np.all(np.asarray(clean) > 0)


def test_a_period_without_users_adds_no_importance():
    state = ended(linear_ewc(), HERE, tasks_of(INPUTS), np.zeros(3, bool))
    np.testing.assert_array_equal(state.importance.shared["w"], np.zeros(2))


def test_sum_of_is_the_sum():
    parts = (anchor(3.0), linear_ewc(0.5), none())
    penalty = sum_of(*parts)
    state = one_period(penalty)
    assert isinstance(state, tuple) and len(state) == 3
    values = [float(p.value(one_period(p), THERE)) for p in parts]
    np.testing.assert_allclose(penalty.value(state, THERE), sum(values), rtol=1e-12)
    np.testing.assert_allclose(values, [7.5, 0.25 * np.sum(FISHER * [4.0, 1.0]), 0.0], rtol=1e-12)


def test_sum_of_passes_every_call_on_with_keys_of_their_own():
    counting = none()._replace(
        init=lambda params: jnp.zeros(()),
        on_task=lambda state, params, adapted, task, key: jax.random.uniform(key),
        observe=lambda state, before, after, grads: state + after.shared["w"][0],
        consolidate=lambda state, params, draw, key: state + jax.random.uniform(key),
    )
    penalty = sum_of(counting, counting)
    state = penalty.observe(penalty.init(HERE), HERE, THERE, THERE)
    assert [float(x) for x in state] == [2.5, 2.5]
    first, second = penalty.consolidate(state, HERE, draw_of(tasks_of(INPUTS)), KEY)
    assert float(first) != float(second)
    a, b = (float(jax.random.uniform(keys.named(KEY, "sum_of", i))) for i in (0, 1))
    np.testing.assert_allclose(penalty.on_task(state, HERE, HERE, None, KEY), a + b)


# "sum_of" holds an anchor and an exact EWC
@pytest.mark.parametrize("name", ["none", "ewc_sampled", "sum_of"])
def test_seeds_under_vmap_equal_a_loop_and_compiled_equals_interpreted(name):
    penalty, tasks = MEMBERS[name], tasks_of(INPUTS)
    seeds = jnp.stack([keys.named(KEY, "seed", i) for i in range(3)])

    def run(key):
        params = Params({"w": jax.random.normal(key, (2,))}, {}, {})
        state = penalty.consolidate(penalty.init(params), params, draw_of(tasks), key)
        return state, penalty.value(state, THERE)

    together, alone = jax.tree.leaves(jax.jit(jax.vmap(run))(seeds)), jax.jit(run)
    for i in range(3):
        for a, b in zip(together, jax.tree.leaves(alone(seeds[i])), strict=True):
            np.testing.assert_allclose(np.asarray(a)[i], b, rtol=1e-12)
    for a, b in zip(together, jax.tree.leaves(run(seeds[0])), strict=True):
        np.testing.assert_allclose(np.asarray(a)[0], b, rtol=1e-12)


def test_float32_alike():
    with jax.enable_x64(False):
        small = weights(0.5, -1.0)
        tasks = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x, "float32")) if x.dtype == jnp.float64 else x, tasks_of(INPUTS)
        )
        penalty = sum_of(anchor(3.0), linear_ewc(0.5))
        state = ended(penalty, small, tasks)
        assert state[1].importance.shared["w"].dtype == jnp.float32
        np.testing.assert_allclose(state[1].importance.shared["w"], FISHER, rtol=1e-5)


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize("make", [anchor, linear_ewc])
def test_a_strength_that_is_none_is_refused(make, strength):
    with pytest.raises(ValueError, match=f"strength must be finite and >= 0, got {strength}"):
        make(strength)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"decay": -0.1}, r"decay must be in \[0, 1\], got -0.1"),
        ({"decay": 1.5}, r"decay must be in \[0, 1\], got 1.5"),
        ({"decay": math.nan}, r"decay must be in \[0, 1\], got nan"),
        ({"draws": 0}, "draws must be >= 1, got 0"),
    ],
)
def test_ewc_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        linear_ewc(**options)


def test_exact_needs_an_objective_with_labels():
    base = squared_error()
    objective = Objective(base.loss, base.sample, base.scores)
    with pytest.raises(ValueError, match="exact must be False for an objective without labels"):
        ewc(objective, linear, STILL, 1.0)
    state = one_period(ewc(objective, linear, STILL, 1.0, exact=False))
    assert np.all(np.asarray(state.importance.shared["w"]) > 0)


def test_sum_of_nothing_is_refused():
    with pytest.raises(ValueError, match="penalties must hold >= 1 penalty, got 0"):
        sum_of()
