"""Tasks cut from segments: support strictly before query, right masks and counts, right odds, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys
from metapers.tasks import segments

SUPPORT, QUERY = 4, 5


def history(seed, periods=3, users=9):
    """Random segments; a row's input says (user, period, place in its segment, row), its target is row + 1."""
    rng = np.random.default_rng(seed)
    where = [(period, user) for period in range(periods) for user in range(users) if rng.random() < 0.7 or user == 0]
    lengths = rng.integers(2, 25, len(where))
    start = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    period, user = np.array(where).T
    place = np.concatenate([np.arange(n) for n in lengths])
    rows = [np.repeat(user, lengths), np.repeat(period, lengths), place, np.arange(len(place))]
    inputs = {"x": np.stack(rows, axis=1).astype(np.int32)}
    targets = np.arange(len(place)).astype(jnp.zeros(()).dtype) + 1
    return segments.Segments(inputs, targets, *(a.astype(np.int32) for a in (start, lengths, user, period)))


def drawing(part, n=400, seed=0, **options):
    """window -> ``n`` tasks, one program for all windows."""
    family = segments.family(part, **{"periods": 3, "support": SUPPORT, "query": QUERY} | options)
    sample = jax.jit(family.sample, static_argnums=2)

    def draw(window):
        tasks, mask = sample(family.data(window, 0, 1), 0, n, keys.root(seed))
        assert mask.shape == (n,) and bool(mask.all())
        return jax.tree.map(np.asarray, tasks)

    return draw


def draws(part, window=(0, 2), **options):
    return drawing(part, **options)(window)


@pytest.mark.parametrize("seed", range(4))
def test_support_strictly_precedes_query_in_one_segment(seed):
    part = history(seed)
    tasks = draws(part, seed=seed, p_from_first=0.3 * (seed % 2), length_power=0.5 * (seed % 3))
    lengths = {(s, u): n for s, u, n in zip(part.period, part.user, part.length, strict=True)}
    for i in range(400):
        own = (int(tasks.notes["period"][i]), int(tasks.user[i]))
        support, query = (half.inputs["x"][i][half.mask[i]] for half in (tasks.support, tasks.query))
        assert set(map(tuple, np.concatenate([support, query])[:, [1, 0]])) == {own}
        length, s = lengths[own], len(support)
        assert 1 <= s <= min(SUPPORT, length - 1)
        assert (np.diff(support[:, 2]) == 1).all()  # consecutive
        assert (np.diff(query[:, 2]) > 0).all()  # in order, no duplicates
        assert support[-1, 2] < query[0, 2]
        left = length - support[0, 2] - s
        assert len(query) == min(QUERY, left) >= 1
        if left <= QUERY:
            assert query[0, 2] == support[-1, 2] + 1


def test_masks_are_prefixes_padding_is_zero_and_targets_go_with_inputs():
    tasks = draws(history(0))
    for batch in (tasks.support, tasks.query):
        assert (np.diff(batch.mask.astype(int), axis=1) <= 0).all()
        assert not batch.inputs["x"][~batch.mask].any() and not batch.targets[~batch.mask].any()
        np.testing.assert_array_equal(batch.targets[batch.mask], batch.inputs["x"][batch.mask][:, 3] + 1)
        assert not batch.mask.all()  # the histories are short enough for padding to occur
    assert tasks.notes["period"].dtype == tasks.user.dtype == np.int32
    assert set(tasks.notes) == {"period"}


def one_user(length):
    place = np.arange(length, dtype=np.int32)
    numbers = (np.array([v], np.int32) for v in (0, length, 7, 0))
    return segments.Segments({"x": place}, place.astype(jnp.zeros(()).dtype), *numbers)


def test_sizes_and_starts_of_the_support_have_the_stated_odds():
    n, length = 4000, 9
    tasks = draws(one_user(length), window=(0, 0), n=n, periods=1, p_full_support=0.5, p_from_first=0.25)
    sizes = np.bincount(tasks.support.mask.sum(axis=1), minlength=SUPPORT + 1) / n
    np.testing.assert_allclose(sizes, [0] + [0.125] * 3 + [0.625], atol=5 * np.sqrt(0.25 / n))
    begins = tasks.support.inputs["x"][:, 0][tasks.support.mask.sum(axis=1) == SUPPORT]
    odds = np.bincount(begins, minlength=5) / len(begins)
    np.testing.assert_allclose(odds, [0.25 + 0.75 / 5] + [0.75 / 5] * 4, atol=5 * np.sqrt(0.25 / len(begins)))


@pytest.mark.parametrize(("p_full_support", "sizes"), [(1.0, {4}), (0.0, {1, 2, 3, 4})])
def test_full_at_its_ends(p_full_support, sizes):
    tasks = draws(one_user(9), window=(0, 0), periods=1, p_full_support=p_full_support, p_from_first=1.0)
    assert set(tasks.support.mask.sum(axis=1).tolist()) == sizes
    assert not tasks.support.inputs["x"][:, 0].any()


@pytest.mark.parametrize("length", [6, 8, 23])
def test_every_later_row_is_as_likely_to_be_judged_on(length):
    n = 4000
    tasks = draws(one_user(length), window=(0, 0), n=n, periods=1, support=1, p_from_first=1.0)
    seen = np.bincount(tasks.query.inputs["x"][tasks.query.mask], minlength=length) / n
    assert seen[0] == 0
    wanted = min(1.0, QUERY / (length - 1))
    np.testing.assert_allclose(seen[1:], wanted, atol=5 * np.sqrt(0.25 / n))


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_segments_are_drawn_by_their_length(power):
    part, n = history(1), 8000
    tasks = draws(part, window=(1, 2), n=n, length_power=power)
    weight = (part.length.astype(float) ** power) * (part.period >= 1)
    for chance, period, user in zip(weight / weight.sum(), part.period, part.user, strict=True):
        share = np.mean((tasks.notes["period"] == period) & (tasks.user == user))
        assert abs(share - chance) <= 5 * np.sqrt(chance * (1 - chance) / n)


def test_a_window_draws_from_its_periods_and_from_all_of_them():
    part = history(2)
    draw = drawing(part, n=1500)
    for low, high in [(0, 0), (1, 1), (0, 1), (2, 2), (0, 2)]:
        tasks = draw((low, high))
        inside = (low <= part.period) & (part.period <= high)
        wanted = set(zip(part.period[inside].tolist(), part.user[inside].tolist(), strict=True))
        assert set(zip(tasks.notes["period"].tolist(), tasks.user.tolist(), strict=True)) == wanted


def test_one_compilation_and_one_copy_on_the_device_for_all_windows():
    family = segments.family(history(3), periods=3, support=SUPPORT, query=QUERY)
    traces = []

    @jax.jit
    def run(data, key):
        traces.append(None)
        return jax.lax.scan(lambda c, i: (c, family.sample(data, i, 3, key)), 0, jnp.arange(2, dtype=jnp.int32))

    first = family.data((0, 0), 0, 2)
    for window in [(0, 0), (1, 1), (0, 2), (2, 2)]:
        data = family.data(window, 5, 2)
        assert jax.tree.map(jnp.shape, data) == jax.tree.map(jnp.shape, first)
        assert all(data[name] is first[name] for name in ("targets", "start", "length", "user", "period", "reached"))
        assert data["inputs"]["x"] is first["inputs"]["x"]
        run(data, keys.root(0))
    assert len(traces) == 1


def test_draws_are_a_function_of_key_step_and_place_alone():
    family = segments.family(history(4), periods=3, support=SUPPORT, query=QUERY)
    data = family.data((0, 2), 0, 1)
    sample = jax.jit(lambda step, key, n: family.sample(data, step, n, key)[0], static_argnums=2)
    six, three = sample(3, keys.root(1), 6), sample(3, keys.root(1), 3)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:3], b), six, three)
    assert not np.array_equal(six.query.inputs["x"], sample(4, keys.root(1), 6).query.inputs["x"])
    seeds = jax.random.split(keys.root(5), 2)
    together = jax.jit(jax.vmap(lambda key: family.sample(data, 3, 6, key)[0]))(seeds)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), together, sample(3, seeds[1], 6))


def test_bad_arguments_are_named():
    part = history(0)
    good = {"periods": 3, "support": 2, "query": 2}
    for wrong, message in [
        ({"support": 0}, "support must be >= 1, got 0"),
        ({"query": 0}, "query must be >= 1, got 0"),
        ({"query": 2**30}, "query must be < 2"),
        ({"p_full_support": 1.5}, "p_full_support must be between 0 and 1, got 1.5"),
        ({"p_from_first": -0.5}, "p_from_first must be between 0 and 1, got -0.5"),
        ({"length_power": float("nan")}, "length_power must be >= 0 and finite, got nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            segments.family(part, **good | wrong)
    family = segments.family(part, **good)
    for window in [(-1, 0), (1, 0), (0, 3)]:
        with pytest.raises(ValueError, match="window must satisfy 0 <= first <= last < 3"):
            family.data(window, 0, 1)
    late = part._replace(period=np.full_like(part.period, 2))
    with pytest.raises(ValueError, match="in periods 0 to 1"):
        segments.family(late, **good).data((0, 1), 0, 1)
