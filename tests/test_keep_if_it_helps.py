"""When not to adapt: folds and scales by hand, the rule of the margin, the learned gate, and what stays exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import base, inner
from metapers.inner.held_back import held_back, toward
from tests import inner_problems as problems
from tests.contracts import world
from tests.inner_problems import adapt

KEY = jax.random.key(0)


def number(params, batch, key):
    """½(w - y)² of each example y; with a key the examples shake a little."""
    noise = 0.0 if key is None else 0.01 * jax.random.normal(key, batch.mask.shape)
    return 0.5 * jnp.square(params.personal["w"] - batch.targets + noise)


def support_of(*targets, padding=0):
    """Targets, then rows that are not there."""
    values = np.concatenate([np.array(targets, float), np.full(padding, np.nan)])
    return base.Batch({}, jnp.asarray(values), jnp.asarray(np.arange(len(values)) < len(targets)))


def params_of(loop, w=0.0):
    params = base.Params({}, {"w": jnp.asarray(w)}, {})
    return params._replace(inner=loop.init(params))


MEAN = inner.gradient(number, 1, 1.0)  # one step of rate 1: w becomes the mean of the support


def kept(loop=MEAN, loss_fn=number, **options):
    return inner.keep_if_it_helps(loop, loss_fn, **options)


def ends_of(*loops):
    """(support, start) -> where each of the loops, which have no inner parameters, ends: one program."""
    ends = jax.jit(lambda params, support: [loop.adapt(params, support, None)[0].personal["w"] for loop in loops])
    return lambda support, start=0.0: [float(end) for end in ends(params_of(MEAN, start), support)]


def scales_of(support, *loops):
    """How far each of the loops went between 0 and where MEAN goes."""
    mean = np.asarray(support.targets)[np.asarray(support.mask)].mean()
    return [end / mean for end in ends_of(*loops)(support)]


def losses_held_back(support, scales):
    whole = functools.partial(held_back, MEAN, number, folds=3, scales=jnp.array(scales))
    return jax.jit(whole)(params_of(MEAN), support, None)


def test_folds_and_scales_by_hand():
    # 3 folds of 4 examples: {0, 3}, {1}, {2}. Means of the rest: (2 + 4) / 2 = 3, (1 + 4 + 9) / 3, (1 + 2 + 9) / 3.
    support = base.Batch({}, jnp.array([1.0, 2.0, 4.0, 9.0, 0.0]), jnp.array([True, True, True, True, False]))
    losses, each = losses_held_back(support, [0.0, 0.5, 1.0])
    ends = np.array([3.0, 14 / 3, 4.0, 3.0])
    targets = np.array([1.0, 2.0, 4.0, 9.0])
    expected = np.stack([0.5 * (share * ends - targets) ** 2 for share in (0.0, 0.5, 1.0)])
    np.testing.assert_allclose(losses[:, :4], expected, rtol=1e-12)
    assert (losses[:, 4] == 0).all()
    np.testing.assert_array_equal(each[1], losses)  # after the one step that there is
    np.testing.assert_allclose(each[0, :, :4], np.stack([0.5 * targets**2] * 3), rtol=1e-12)  # at the start, thrice


def test_folds_count_examples_and_not_rows():
    scattered = base.Batch({}, jnp.array([9.0, 1.0, 9.0, 9.0, 3.0]), jnp.array([False, True, False, False, True]))
    losses, _ = losses_held_back(scattered, [1.0])
    np.testing.assert_allclose(losses, [[0.0, 2.0, 0.0, 0.0, 2.0]], rtol=1e-12)


def test_noise_around_the_start_keeps_the_start_exactly():
    support = support_of(1.0, -1.0, 1.0, -1.0, 0.4)
    loop = kept(folds=4)
    adapted, path = adapt(loop, params_of(loop, 0.1), support)
    assert adapted.personal["w"] == 0.1 and (path["w"] == 0.1).all() and path["w"].shape == (2,)
    assert adapt(MEAN, params_of(loop, 0.1), support)[0].personal["w"] != 0.1


def test_a_clear_signal_is_the_wrapped_loop_to_the_bit():
    wrapped = inner.gradient(number, 3, 0.3)
    support, loop = support_of(3.0, 3.1, 2.9, 3.05, 2.95, padding=2), kept(wrapped)
    there = support._replace(targets=base.hide(support.targets, support.mask))
    params = params_of(loop, 0.1)
    assert world.distance(adapt(loop, params, support, KEY), adapt(wrapped, params, there, KEY)) == 0.0


def test_the_scale_of_least_held_back_loss_is_taken():
    # Leave one out of (a, b): losses of s: (s b - a)² + (s a - b)², least at s = 2 a b / (a² + b²) = 0.6 for 1, 3.
    grids = (0.0, 0.3, 0.6, 0.9, 1.0), (0.75, 0.0, 1.0, 0.25, 0.5)
    found = scales_of(support_of(1.0, 3.0), *(kept(scales=scales) for scales in grids))
    assert found == pytest.approx([0.6, 0.5])


def test_what_is_stored_is_kept_whole_or_not_at_all():
    # class means of the support, stored with their counts; a target is its class, an input where it lies
    def write(params, support, key):
        member = ((support.targets[:, None] == jnp.arange(2.0)[None]) & support.mask[:, None]).astype(float)
        counts = jnp.sum(member, 0)
        return {"means": member.T @ support.inputs / jnp.maximum(counts, 1), "counts": counts}

    def loss_fn(params, batch, key):
        means, counts = params.personal["means"], params.personal["counts"]
        here = (counts == jnp.floor(counts)).all()  # half an example is none
        logits = jnp.where(counts > 0, -jnp.square(batch.inputs[:, None] - means[None]), 0)
        right = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets.astype(int)[:, None], 1)[:, 0]
        return jnp.where(here, -right, jnp.nan)

    places, mask = jnp.array([-2.0, 2.0, -2.2, 2.2, -1.8, 1.8]), jnp.array([True] * 5 + [False])
    start = base.Params({}, {"means": jnp.array([0.0, 0.0]), "counts": jnp.array([0.0, 0.0])}, {})
    loop = kept(inner.written(write), loss_fn, scales=(0.0, 1.0))
    for order, helps in (([0.0, 1.0] * 3, True), ([0.0, 0.0, 1.0, 1.0, 1.0, 1.0], False)):
        support = base.Batch(places, jnp.array(order), mask)
        wanted = jax.jit(write)(start, support, None) if helps else start.personal
        adapted, path = adapt(loop, start, support)
        assert world.distance(adapted.personal, wanted) == 0.0
        assert world.distance(path, jax.tree.map(lambda a, b: np.stack([a, b]), start.personal, wanted)) == 0.0


def test_every_entry_of_the_path_is_a_share_from_the_start_also_where_the_steps_begin_elsewhere():
    begin = lambda params, support, key: {"w": jnp.ones(()) * 0.5}
    wrapped = inner.gradient(number, 2, 0.5, write=begin)
    loop = kept(wrapped, scales=(0.0, 0.4))
    adapted, path = adapt(loop, params_of(loop, 0.1), support_of(3.0, 3.2))
    np.testing.assert_allclose(path["w"], 0.1 + 0.4 * (np.array([0.1, 1.8, 2.45]) - 0.1), rtol=1e-12)
    assert adapted.personal["w"] == path["w"][-1] and path["w"][0] == 0.1


def test_the_margin_is_in_standard_errors_of_the_gain():
    # Leave one out of (1, 3, 5): rests 4, 3, 2; gains ½(y² - (y - rest)²): -4, 4.5, 8. mean 17/6
    gains = np.array([-4.0, 4.5, 8.0])
    ratio = gains.mean() / (gains.std(ddof=1) / np.sqrt(3))
    support = support_of(1.0, 3.0, 5.0, padding=1)
    loops = (kept(scales=(0.0, 1.0), margin=margin) for margin in (0.0, 0.999 * ratio, 1.001 * ratio))
    assert scales_of(support, *loops) == [1.0, 1.0, 0.0]


def test_no_gain_at_all_keeps_the_start():
    flat = kept(MEAN, lambda params, batch, key: jnp.ones_like(batch.targets), scales=(1.0, 0.0, 0.5))
    assert ends_of(flat, kept(inner.none()))(support_of(1.0, 2.0), 0.2) == [0.2, 0.2]


def test_one_example_goes_by_default():
    shares = (1.0, 0.0, 0.5)
    ends = ends_of(*(kept(default_scale=share, scales=(0.0, 1.0)) for share in shares))
    np.testing.assert_allclose(ends(support_of(4.0, padding=3)), 4 * np.array(shares), rtol=1e-12)
    empty = support_of(1.0, 2.0, 3.0, 4.0)._replace(mask=jnp.array([False] * 4))
    assert ends(empty, 0.7) == [0.7] * 3


def test_an_adaptation_that_runs_away_is_not_kept():
    def explodes(params, support, key):
        huge = jax.tree.map(lambda x: x + jnp.nan, params.personal)
        return params._replace(personal=huge), jax.tree.map(lambda x, y: jnp.stack([x, y]), params.personal, huge)

    loop = kept(base.InnerLoop(lambda params: {}, explodes))
    adapted, path = adapt(loop, params_of(loop, 0.2), support_of(1.0, 2.0, 3.0))
    assert adapted.personal["w"] == 0.2 and (path["w"] == 0.2).all()
    gate = inner.gated(base.InnerLoop(lambda params: {}, explodes), number, slope=1000.0)
    assert adapt(gate, params_of(gate, 0.2), support_of(1.0, 2.0, 3.0))[0].personal["w"] == 0.2


def test_the_gate_does_not_open_again_the_farther_an_adaptation_ran_away():
    def adapted(size):
        def runs(params, support, key):
            far = jax.tree.map(lambda x: x + size, params.personal)
            return params._replace(personal=far), jax.tree.map(lambda x, y: jnp.stack([x, y]), params.personal, far)

        gate = inner.gated(base.InnerLoop(lambda params: {}, runs), number, offset=3.0, slope=1.0)
        return gate.adapt(params_of(gate), support_of(1.0, 2.0, 3.0, 4.0), None)[0].personal["w"]

    sizes = np.array([1e2, 1e9, 1e18, 1e150, 1e300])
    share = 1 / (1 + np.exp(-(3.0 - 2.0)))  # four that lose alike: t = -2
    np.testing.assert_allclose(jax.jit(jax.vmap(adapted))(sizes) / sizes, share, rtol=1e-3)  # at 100 not quite alike


@pytest.mark.parametrize(("ways", "shots"), [(4, 5), (20, 5), (5, 4)])
def test_classes_that_come_in_turn_are_not_held_back_whole(ways, shots):
    rng = np.random.default_rng(0)
    label = np.tile(np.arange(ways), shots)  # round by round, as episodes are laid out
    # far from the start, so that a user who has not met a class predicts another
    points = 8 + 8 * np.eye(ways)[label] + 0.1 * rng.normal(size=(ways * shots, ways))
    support = base.Batch(jnp.asarray(points), jnp.asarray(label), jnp.asarray(np.ones(len(label), bool)))

    def means(params, support, key):
        there = jax.nn.one_hot(support.targets, ways) * support.mask[:, None].astype(float)
        return {"means": there.T @ support.inputs / jnp.maximum(there.sum(0), 1)[:, None]}

    def loss(params, batch, key):
        logits = -jnp.sum(jnp.square(batch.inputs[:, None] - params.personal["means"][None]), -1)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets[:, None], 1)[:, 0]

    written = inner.written(means)
    helped = inner.keep_if_it_helps(written, loss, scales=(0.0, 1.0))
    gated = inner.gated(written, loss, offset=0.0, slope=100.0)
    start = base.Params({}, {"means": jnp.asarray(np.zeros((ways, ways)))}, {})

    @jax.jit
    def both(support):
        return [loop.adapt(start._replace(inner=loop.init(start)), support, None)[0] for loop in (helped, gated)]

    expected = np.stack([points[label == way].mean(0) for way in range(ways)])
    for adapted in both(support):
        np.testing.assert_allclose(adapted.personal["means"], expected, rtol=1e-6)


def test_a_scale_that_goes_too_far_does_not_speak_for_the_others():
    cliff = lambda params, batch, key: jnp.where(params.personal["w"] > 2, jnp.nan, number(params, batch, None))
    assert scales_of(support_of(3.0, 3.0, 3.0), kept(loss_fn=cliff)) == [0.5]


WRAPPERS = {
    "keep_if_it_helps": lambda loop: inner.keep_if_it_helps(loop, problems.rough, folds=3),
    "gated": lambda loop: inner.gated(loop, problems.rough, folds=3),
}
LEARNED, FIRST_ORDER = (
    inner.gradient(problems.rough, 3, inner.per_parameter(0.2), first_order=first) for first in (False, True)
)


@pytest.mark.parametrize("name", WRAPPERS)
def test_padding_does_not_matter_even_nan(name):
    loop = WRAPPERS[name](LEARNED)
    params, support, query = problems.rough_params(loop), problems.rough_task(4), problems.rough_task(4, 7)
    poison = lambda x: jnp.asarray(np.concatenate([x, np.full((2, *x.shape[1:]), np.nan)]))
    padded = base.Batch(poison(support.inputs), poison(support.targets), jnp.array([True] * 4 + [False] * 2))
    value = lambda params, support: problems.after(loop, problems.rough, support, query)(params)
    both = [jax.jit(jax.value_and_grad(value))(params, one) for one in (support, padded)]
    assert world.distance(*both) < 1e-13


@pytest.mark.parametrize("name", WRAPPERS)
def test_users_mapped_are_users_in_a_loop_and_over_two_devices(name):
    problems.assert_users_are_apart(WRAPPERS[name](FIRST_ORDER), KEY)


TAUGHT = {
    **WRAPPERS,
    "keep_if_it_moves": lambda loop: inner.keep_if_it_moves(loop, problems.rough_outputs, 0.05),
    "tempered": lambda loop: inner.tempered(loop, 0.5),
}


@pytest.mark.parametrize("name", TAUGHT)
def test_what_a_user_gets_after_some_steps_does_not_depend_on_how_many_follow(name):
    loops = [TAUGHT[name](inner.gradient(problems.rough, steps, 0.9)) for steps in (2, 5)]
    params, users = problems.rough_params(loops[1]), problems.rough_tasks(4, 12)
    adapted = [jax.jit(jax.vmap(loop.adapt, (None, 0, None)))(params, users, None) for loop in loops]
    (end, path), (_, longer) = jax.tree.map(np.asarray, [(params.personal, path) for params, path in adapted])
    assert world.distance(path, jax.tree.map(lambda leaf: leaf[:, :3], longer)) < 1e-13
    assert world.distance(end, jax.tree.map(lambda leaf: leaf[:, 2], longer)) < 1e-13
    if name.startswith("keep"):
        stays = (end["theta"] == path["theta"][:, 0]).all(1) & (end["b"] == path["b"][:, 0])
        assert 0 < stays.sum() < 12  # some stay, some go


def test_the_choice_is_a_constant_and_second_order_goes_through_what_is_kept():
    # a scale that is neither 0 nor 1: the gradient is that of start + s (adapted - start) with s fixed
    support, query = problems.rough_task(), problems.rough_task(4, 7)
    loop = inner.keep_if_it_helps(LEARNED, problems.rough, scales=(0.0, 0.3))
    params = problems.rough_params(LEARNED)

    def fixed(scale):
        def value(params):
            adapted, path = LEARNED.adapt(params, support, None)
            moved = jax.tree.map(lambda a, b: a + scale * (b - a), jax.tree.map(lambda x: x[0], path), adapted.personal)
            return base.masked_mean(problems.rough(adapted._replace(personal=moved), query, None), query.mask)

        return jax.value_and_grad(value)(params)

    fixed = jax.jit(fixed)
    got = problems.slope_after(loop, problems.rough, support, query, params)
    assert world.distance(got, fixed(0.3)) < 1e-13 < world.distance(got, fixed(0.0))
    assert np.abs(got[1].inner["rates"]["theta"]).min() > 1e-6
    assert world.distance(loop.init(params), LEARNED.init(params)) == 0.0


def test_the_gate_by_hand():
    # gains of (1, 3, 5) as above; t = sum / sqrt(sum of squares)
    gains = np.array([-4.0, 4.5, 8.0])
    t = gains.sum() / np.sqrt((gains**2).sum())
    student = gains.mean() / (gains.std(ddof=1) / np.sqrt(3))
    assert t == pytest.approx(np.sqrt(3) * student / np.sqrt(2 + student**2))
    loop = inner.gated(MEAN, number, offset=0.4, slope=-1.5)
    params = params_of(loop)
    assert jax.tree.map(float, params.inner) == {"inner": {}, "gate": {"offset": 0.4, "slope": -1.5}}
    share = 1 / (1 + np.exp(-(0.4 - 1.5 * t)))
    support = support_of(1.0, 3.0, 5.0, padding=1)
    adapted, path = adapt(loop, params, support)
    np.testing.assert_allclose(path["w"], [0.0, 3.0 * share], rtol=1e-12)
    assert adapted.inner == params.inner and adapted.personal["w"] == path["w"][1]
    slope = jax.jit(jax.grad(lambda params: loop.adapt(params, support, None)[0].personal["w"]))(params)
    bend = 3.0 * share * (1 - share)
    np.testing.assert_allclose(slope.inner["gate"]["offset"], bend, rtol=1e-12)
    np.testing.assert_allclose(slope.inner["gate"]["slope"], bend * t, rtol=1e-12)
    np.testing.assert_allclose(slope.personal["w"], 1 - share, rtol=1e-12)  # the mean does not know the start


def test_without_evidence_the_gate_is_its_offset():
    loop = inner.gated(MEAN, number, offset=3.0, slope=50.0)
    end = lambda params, support: loop.adapt(params, support, None)[0].personal["w"]
    value_and_slope = jax.jit(jax.value_and_grad(end))
    for support, start, mean in (
        (support_of(4.0, padding=3), 1.0, 4.0),
        (support_of(0.0, 0.0, 0.0, padding=1), 0.0, 0.0),
    ):
        value, slope = value_and_slope(params_of(loop, start), support)
        np.testing.assert_allclose(value, start + (mean - start) / (1 + np.exp(-3.0)), rtol=1e-12)
        assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(slope))


def test_the_gate_starts_nearly_open_and_carries_the_rates():
    loop = inner.gated(LEARNED, problems.rough)
    params = problems.rough_params(loop)
    assert set(params.inner["inner"]["rates"]) == {"b", "theta"}
    plain = adapt(LEARNED, params._replace(inner=params.inner["inner"]), problems.rough_task())
    adapted, path = adapt(loop, params, problems.rough_task())
    start = params.personal["theta"]
    share = (path["theta"][-1] - start) / (plain[1]["theta"][-1] - start)
    assert share[0] == pytest.approx(float(share[1])) and 0.8 < float(share[0]) < 1.0


def test_toward_is_exact_at_both_ends():
    start, end = jnp.asarray(0.1), jnp.asarray(0.7)
    assert toward(start, end, jnp.asarray(1.0)) == end and toward(start, end, jnp.asarray(0.0)) == start
    assert toward(start, jnp.asarray(jnp.nan), jnp.asarray(0.0)) == start
    np.testing.assert_allclose(toward(start, end, jnp.asarray(0.5)), 0.4, rtol=1e-15)


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("keep_if_it_helps", {"folds": 1}, "folds must be >= 2, got 1"),
        ("keep_if_it_helps", {"margin": -1.0}, "margin must be finite and >= 0, got -1.0"),
        ("keep_if_it_helps", {"default_scale": float("nan")}, "default_scale must be finite and >= 0, got nan"),
        ("keep_if_it_helps", {"scales": (0.0, -0.5)}, "scales must be finite and >= 0, got -0.5"),
        ("keep_if_it_helps", {"scales": (0.5, 1.0)}, "scales must hold 0, the start, got"),
        ("gated", {"folds": 1}, "folds must be >= 2, got 1"),
        ("gated", {"offset": float("inf")}, "offset must be finite, got inf"),
        ("gated", {"slope": float("nan")}, "slope must be finite, got nan"),
    ],
)
def test_what_is_refused(factory, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(inner, factory)(MEAN, number, **arguments)
