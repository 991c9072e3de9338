"""Adaptation curves against a plain loop, and the records they become."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metapers import held_out
from metapers.base import Cohort, InnerLoop, Model, Objective, Params
from metapers.baselines import user_mean
from metapers.scores.matrix import DEFINITIONS, average
from metapers.scoring import adapting, curves, records

pytestmark = pytest.mark.xdist_group("evaluate")

RATE = 0.1


def linear(traces=None):
    """A stand-in model: outputs = x . (shared + personal); ``traces`` collects the widths of traced query blocks."""

    def apply(params, inputs, mask, key):
        assert key is None
        if traces is not None:
            traces.append(inputs["x"].shape[0])
        return inputs["x"] @ (params.shared["w"] + params.personal["w"])

    return Model(lambda key: None, apply, lambda params, support, key: params.personal, lambda params: params)


def gradient_steps(steps):
    """Mean-squared-error gradient steps on the personal weights, written out."""

    def adapt(params, support, key):
        x, y = support.inputs["x"], support.targets
        count = jnp.maximum(jnp.sum(support.mask, dtype=x.dtype), 1)

        def step(personal, _):
            error = jnp.where(support.mask, x @ (params.shared["w"] + personal["w"]) - y, 0.0)
            personal = {"w": personal["w"] - RATE * 2 * (error @ x) / count}
            return personal, personal

        last, path = jax.lax.scan(step, params.personal, length=steps)
        path = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), params.personal, path)
        return params._replace(personal=last), path

    return InnerLoop(lambda params: {}, adapt)


def rmse():
    """A stand-in objective: only ``scores`` is called."""

    def scores(outputs, targets, mask):
        squares = jnp.where(mask, jnp.square(outputs - targets), 0.0)
        return {"rmse": jnp.sqrt(jnp.sum(squares) / jnp.maximum(jnp.sum(mask, dtype=targets.dtype), 1))}

    return Objective(lambda outputs, targets: targets, lambda outputs, key: outputs, scores)


def population(sizes, seed=0, dim=3):
    rng = np.random.default_rng(seed)
    n, total = len(sizes), sum(sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return Cohort(
        {"x": rng.normal(size=(total, dim))},
        rng.normal(size=total),
        offsets,
        np.arange(10, 10 + n, dtype=np.int32),
        np.zeros(n, np.int32),
        np.arange(n) % 2 == 0,
        np.zeros(total, np.int32),
        time=np.arange(total, dtype=np.float32),
        available=np.arange(total, dtype=np.float32) + 0.5,
    )


def start_params(seeds=2, dim=3):
    rng = np.random.default_rng(5)
    return Params({"w": jnp.array(rng.normal(size=(seeds, dim)))}, {"w": jnp.array(rng.normal(size=(seeds, dim)))}, {})


def by_hand(params, cohort, shots, steps, horizon, start=None):
    """The same curves one user at a time, on truncated and unpadded arrays."""
    seeds, users = params.shared["w"].shape[0], len(cohort.users)
    found = np.empty((seeds, users, len(shots), len(steps)))
    for seed, user in np.ndindex(seeds, users):
        x = cohort.inputs["x"][cohort.offsets[user] : cohort.offsets[user + 1]]
        y = cohort.targets[cohort.offsets[user] : cohort.offsets[user + 1]]
        cut = horizon if len(y) > horizon else max(1, len(y) // 2)
        for place, k in enumerate(shots):
            k = min(k, cut)
            shared = np.asarray(params.shared["w"][seed])
            w = np.asarray(params.personal["w"][seed] if start is None else start["w"][seed, user])
            path = [w]
            for _ in range(max(steps)):
                w = w - RATE * 2 * (x[:k] @ (shared + w) - y[:k]) @ x[:k] / max(k, 1)
                path.append(w)
            for column, step in enumerate(steps):
                error = x[cut:] @ (shared + path[step]) - y[cut:]
                found[seed, user, place, column] = np.sqrt(np.mean(error**2))
    return found


def curves_of(model, loop, *, shots, steps, horizon, users=0, mesh=None, **options):
    """Curves of a model and an inner loop."""
    adaptation = adapting.adaptation(model, loop, steps=steps, width=horizon, users=users or 64, mesh=mesh)
    scores = curves.query_scores(model, rmse())
    return curves.curves(adaptation, scores, shots=shots, horizon=horizon, users=users, **options)


@functools.cache
def judged(**options):
    """Curves over GRID, or with ``options``, compiled once for all tests."""
    return curves_of(linear(), gradient_steps(4), **GRID | options)


@functools.cache
def kept_after(shots, steps, users, block=0, mesh=None):
    """Personal parameters at the end, for the bank, compiled once for all tests."""
    found = adapting.adaptation(
        linear(), gradient_steps(4), steps=(steps,), width=shots, users=users, block=block, mesh=mesh
    )
    return functools.partial(found.after, shots=shots, steps=steps)


FEW = (2, 9, 3, 12, 5)  # one width of query
SIZES = (2, 3, 40, 8, 9, 5, 70, 33, 31, 12)
GRID = {"shots": (0, 1, 4, 8), "steps": (0, 2, 3), "horizon": 8}


def test_curves_equal_a_plain_loop_over_users():
    cohort, params = population(SIZES), start_params()
    found = judged(rows=128)(params, cohort)
    assert list(found.scores) == ["rmse"]  # without anybody who diverges nothing is told
    np.testing.assert_allclose(found.scores["rmse"], by_hand(params, cohort, **GRID), rtol=1e-12)
    starts = np.array([1, 1, 8, 4, 8, 2, 8, 8, 8, 8])
    np.testing.assert_array_equal(held_out.query_starts(np.array(SIZES), 8), starts)
    np.testing.assert_array_equal(found.n_query, np.array(SIZES) - starts)
    np.testing.assert_array_equal(found.n_support, np.minimum([0, 1, 4, 8], starts[:, None]))
    np.testing.assert_array_equal(found.short, [0, 0, 3, 4])
    assert found.shots == GRID["shots"] and found.steps == GRID["steps"]


def test_blocks_change_nothing():
    cohort, params = population(SIZES), start_params()
    small, large = (judged(rows=rows)(params, cohort) for rows in (1, 4096))
    np.testing.assert_allclose(small.scores["rmse"], large.scores["rmse"], rtol=1e-13)


def test_banked_starts_are_used():
    cohort, params = population(SIZES), start_params()
    start = {"w": np.random.default_rng(8).normal(size=(2, len(SIZES), 3))}
    run = judged(rows=128)
    banked = run(params, cohort, start).scores["rmse"]
    np.testing.assert_allclose(banked, by_hand(params, cohort, start=start, **GRID), rtol=1e-12)
    same = {"w": np.repeat(np.asarray(params.personal["w"])[:, None], len(SIZES), axis=1)}
    np.testing.assert_allclose(run(params, cohort, same).scores["rmse"], run(params, cohort).scores["rmse"], rtol=1e-13)
    with pytest.raises(ValueError, match=r"start must have leading axes \[seeds, users\] = \(2, 10\), got \(10, 2\)"):
        run(params, cohort, {"w": start["w"].swapaxes(0, 1)})


def test_seeds_are_a_loop():
    cohort, params, run = population(FEW), start_params(seeds=3), judged(rows=256)
    together = run(params, cohort).scores["rmse"]
    for seed in range(3):
        one = run(jax.tree.map(lambda leaf, at=seed: leaf[at : at + 1], params), cohort).scores["rmse"]
        np.testing.assert_allclose(together[seed : seed + 1], one, rtol=1e-13)


def test_a_handful_of_compilations_serve_every_cohort_and_version():
    traces = []
    run = curves_of(linear(traces), gradient_steps(3), rows=1024, **GRID)
    for seed in range(4):
        cohort = population((*SIZES, 100, 300, 700, 2400, *range(2, 30 + seed)), seed=seed)
        run(jax.tree.map(lambda leaf, at=seed: leaf + at, start_params()), cohort)
    assert sorted({*traces} - {8}) == [32, 128, 512, 2048, 8192]  # 8: the support
    once = len(traces)
    run(start_params(), population((50, 60, 3000)))
    assert len(traces) == once


def test_users_sharded_over_two_devices():
    mesh = jax.make_mesh((2,), ("users",), axis_types=(jax.sharding.AxisType.Auto,))
    cohort, params = population(FEW), start_params()
    alone = judged(rows=256)
    sharded = curves_of(linear(), gradient_steps(4), mesh=mesh, rows=256, **GRID)
    np.testing.assert_allclose(sharded(params, cohort).scores["rmse"], alone(params, cohort).scores["rmse"], rtol=1e-13)
    start = {"w": np.random.default_rng(8).normal(size=(2, len(FEW), 3))}
    np.testing.assert_allclose(
        sharded(params, cohort, start).scores["rmse"], alone(params, cohort, start).scores["rmse"], rtol=1e-13
    )
    one = kept_after(shots=4, steps=3, users=4)
    two = kept_after(shots=4, steps=3, users=4, mesh=mesh)
    np.testing.assert_allclose(two(params, cohort)["w"], one(params, cohort)["w"], rtol=1e-13)


@pytest.mark.parametrize("devices", [1, 2])
def test_users_a_few_at_a_time_are_adapted_as_all_at_once(devices, monkeypatch):
    mesh = jax.make_mesh((2,), ("users",), axis_types=(jax.sharding.AxisType.Auto,)) if devices == 2 else None
    cohort, params, options = population(SIZES), start_params(), {"shots": 4, "steps": 3, "users": 8}
    whole = kept_after(**options)(params, cohort)["w"]
    given, each = [], adapting.each
    monkeypatch.setattr(adapting, "each", lambda fn, **how: given.append(how) or each(fn, **how))
    few = kept_after(block=3, mesh=mesh, **options)(params, cohort)["w"]
    assert given == [{"block": 3, "mesh": mesh}]
    np.testing.assert_allclose(few, whole, rtol=1e-13)


@pytest.mark.parametrize(("block", "held"), [(0, {6}), (4, {4, 2}), (3, {3}), (6, {6}), (9, {6})])
def test_each_holds_no_more_users_than_a_block(block, held):
    def of_user(scale, x):
        return scale * jnp.sum(jnp.outer(x, x))

    rows = jnp.arange(30.0).reshape(6, 5)
    found = adapting.each(of_user, block=block)
    np.testing.assert_allclose(found(2.0, rows), 2 * np.sum(rows, axis=1) ** 2, rtol=1e-14)
    shapes = re.findall(r"f64\[(\d+),5,5\]", str(jax.make_jaxpr(found)(2.0, rows)))
    assert {int(users) for users in shapes} == held


def test_rows_after_the_support_never_reach_the_inner_loop():
    """An inner loop that ignores its mask gives the same path whatever stands behind the mask."""

    def adapt(params, support, key):
        personal = {"w": params.personal["w"] + jnp.sum(support.inputs["x"], axis=0) + jnp.sum(support.targets)}
        return params, jax.tree.map(lambda a, b: jnp.stack([a, b]), params.personal, personal)

    cohort, params = population((12, 30)), start_params()
    run = curves_of(linear(), InnerLoop(lambda params: {}, adapt), shots=(2, 4), steps=(1,), horizon=4)
    later = np.concatenate([np.arange(12) < 2, np.arange(30) < 2])  # keep the support, hide two rows of the horizon
    moved = cohort._replace(targets=np.where(later, cohort.targets, 0.0))
    shown = run(params, moved).scores["rmse"]
    between = np.concatenate([np.isin(np.arange(12), (2, 3)), np.isin(np.arange(30), (2, 3))])
    again = run(params, moved._replace(targets=np.where(between, 1e6, moved.targets))).scores["rmse"]
    np.testing.assert_array_equal(shown[:, :, 0], again[:, :, 0])
    assert (shown[:, :, 1] != again[:, :, 1]).all()  # with four shots those rows are support


def test_adapted_is_the_end_of_the_path():
    cohort, params = population((2, 9, 30, 4, 6)), start_params()
    found = kept_after(shots=5, steps=3, users=2)(params, cohort)
    assert found["w"].shape == (2, 5, 3)
    for seed, user in np.ndindex(2, 5):
        # who has no more than the shots is adapted on the support alone, half of what there is, never on the query
        own = slice(cohort.offsets[user], cohort.offsets[user] + (1, 5, 5, 2, 5)[user])
        x, y = cohort.inputs["x"][own], cohort.targets[own]
        shared, w = np.asarray(params.shared["w"][seed]), np.asarray(params.personal["w"][seed])
        for _ in range(3):
            w = w - RATE * 2 * (x @ (shared + w) - y) @ x / len(y)
        np.testing.assert_allclose(found["w"][seed, user], w, rtol=1e-12)
    twice = kept_after(shots=5, steps=0, users=64)(params, cohort, start=found)
    np.testing.assert_array_equal(twice["w"], found["w"])


def test_predicted_judges_the_same_rows_and_hides_the_query():
    cohort = population(SIZES)
    predictor, seen = user_mean(population((5, 6), seed=3), shrink=1.0), []

    def predict(part, shots, horizon):
        seen.append((shots, horizon, np.diff(part.offsets).tolist(), part.users.tolist()))
        return predictor.predict(part, shots, horizon)

    (found,) = curves.predicted(rmse(), shots=(0, 4, 8), horizon=8, rows=64)([predict], cohort)
    assert found.scores["rmse"].shape == (1, 10, 3, 1) and found.steps == (0,)
    for user, cut in enumerate(held_out.query_starts(np.array(SIZES), 8)):
        y = cohort.targets[cohort.offsets[user] : cohort.offsets[user + 1]]
        for column, k in enumerate((0, 4, 8)):
            k = min(k, cut)
            guess = predictor.fitted["mean"] + (y[:k] - predictor.fitted["mean"]).sum() / (k + 1)
            expected = np.sqrt(np.mean((guess - y[cut:]) ** 2))
            np.testing.assert_allclose(found.scores["rmse"][0, user, column, 0], expected, rtol=1e-12)
    np.testing.assert_array_equal(found.short, [0, 3, 4])
    assert (8, 8, [40, 9, 70, 33, 31, 12], [12, 14, 16, 17, 18, 19]) in seen


def test_a_cohort_is_predicted_some_users_at_a_time_by_all_before_the_next(monkeypatch):
    cohort, asked = population(SIZES), []
    predictors = [user_mean(population((5, 6), seed=3), shrink=shrink) for shrink in (1.0, 2.0)]

    def named(place):
        def predict(part, shots, horizon):
            asked.append((int(part.users[0]), place))
            assert len(part.targets) <= 80 or len(part.users) == 1
            return predictors[place].predict(part, shots, horizon)

        return predict

    judge = curves.predicted(rmse(), shots=(4,), horizon=8, halves="rmse")
    whole = judge([one.predict for one in predictors], cohort)
    monkeypatch.setattr(curves, "PART", 80)
    parts = judge([named(0), named(1)], cohort)
    for one, other in zip(parts, whole, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert len({first for first, _ in asked}) > 3 and not np.array_equal(*(one.scores["rmse"] for one in parts))
    # 4 shots or, of a short history, fewer: one call for each number of them, and predictors take turns by parts
    turns = [place for _, place in asked]
    assert turns.count(0) == turns.count(1) and turns != sorted(turns)


def build(**changes):
    options = {"shots": (1, 2), "steps": (0, 2), "horizon": 4, **changes}
    return curves_of(linear(), gradient_steps(2), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(steps=(0, 3))(start_params(), population(SIZES)), "steps must be <= 2, .* got 3"),
        (lambda: build(steps=(-1,)), "steps must be >= 0, got -1"),
        (lambda: adapting.each(max, block=-1), "block must be >= 0, got -1"),
        (lambda: build(shots=()), "shots must be >= 0, got none"),
        (lambda: build(shots=(1, 5)), "shots must be <= horizon = 4, got 5"),
        (lambda: build(rows=0), "rows must be >= 1, got 0"),
        (lambda: build()(start_params(), population((3, 1))), "a user needs >= 2 examples, got 1 for user row 11"),
        (lambda: build()(start_params(), population(())), "cohort must hold at least one user"),
        (
            lambda: kept_after(shots=1, steps=5, users=64)(start_params(), population((3,))),
            "steps must be <= 4, .* got 5",
        ),
        (lambda: curves.predicted(rmse(), shots=(9,), horizon=8), "shots must be <= horizon = 8, got 9"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_score_that_is_not_finite_is_refused_by_name():
    cohort = population(SIZES)
    cohort.targets[cohort.offsets[3] - 1] = np.nan  # the last row of the third user
    with pytest.raises(
        ValueError, match=r"rmse must be finite, got nan for user row 12 \(period 0, seed 0, 0 shots, 0 st"
    ):
        judged(rows=128)(start_params(), cohort)


def test_a_score_at_a_step_that_does_not_count_need_not_be_finite():
    cohort, params = population(SIZES), start_params()
    adaptation = adapting.adaptation(linear(), gradient_steps(4), steps=(0, 2, 3), width=8)
    blown = adaptation._replace(
        program=lambda *given: (
            lambda own, lost: (jax.tree.map(lambda leaf: leaf.at[:, :, 2].set(jnp.nan), own), lost)
        )(*adaptation.program(*given))
    )
    options = {"shots": (4,), "horizon": 8}
    scores = curves.query_scores(linear(), rmse())
    found = curves.curves(blown, scores, steps=(0, 2), **options)(params, cohort)
    np.testing.assert_allclose(found.scores["rmse"], by_hand(params, cohort, steps=(0, 2), **options), rtol=1e-12)
    with pytest.raises(curves.NotFinite, match="4 shots, 3 steps"):
        curves.curves(blown, scores, **options)(params, cohort)


# parameters overflow; outputs alone; their squares alone
@pytest.mark.parametrize(("size", "steps"), [(1e200, (0, 2, 3)), (1e120, (0, 1)), (1e80, (0, 1))])
def test_a_user_whose_steps_overflow_is_judged_and_kept_at_the_start_and_counted(size, steps):
    grid = GRID | {"steps": steps}
    cohort, params = population(SIZES), start_params()
    cohort.inputs["x"][cohort.offsets[3] + 1] = size  # no step with the fourth user's second example comes to anything
    found = judged(rows=128, steps=steps)(params, cohort)
    lost = np.zeros((2, len(SIZES), 4, len(steps)))
    lost[:, 3, 2:, 1:] = 1  # from 4 shots on, after any step
    np.testing.assert_array_equal(found.scores["diverged"], lost)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = by_hand(params, cohort, **grid)
    assert not np.isfinite(wanted[lost > 0]).any()
    wanted = np.where(lost > 0, wanted[..., :1], wanted)
    np.testing.assert_allclose(found.scores["rmse"], wanted, rtol=1e-12)
    kept = kept_after(shots=8, steps=steps[-1], users=256)(params, cohort)
    same = (kept["w"] == np.asarray(params.personal["w"])[:, None]).all(axis=-1)
    np.testing.assert_array_equal(same, lost[:, :, -1, -1] > 0)


@pytest.mark.parametrize("options", [{"users": 1}, {"users": 4, "rows": 64}, {"rows": 1}])
def test_how_many_users_at_a_time_changes_no_number(options):
    cohort, params = population(SIZES), start_params()
    found = judged(**options)(params, cohort)
    np.testing.assert_allclose(found.scores["rmse"], by_hand(params, cohort, **GRID), rtol=1e-12)


def test_queries_shorter_than_the_narrowest_block_are_padded_to_a_power_of_two():
    widths = []
    cohort, params = population((2, 3, 9, 8, 9)), start_params()  # 1 to 5 query rows
    found = curves_of(linear(widths), gradient_steps(4), users=2, **GRID)(params, cohort)
    np.testing.assert_allclose(found.scores["rmse"], by_hand(params, cohort, **GRID), rtol=1e-12)
    assert {*widths} - {8} == {4}  # 8: the support; five rows of five examples, of which half are support


def test_equal_examples_are_judged_once_and_told_for_each():
    cohort, params = population((5, 9, 9, 5)), start_params()
    twice = held_out.merged([cohort, held_out.take(cohort, np.array([2, 0]))])
    members, same = held_out.distinct(twice)
    assert members.tolist() == [0, 1, 2, 3] and same.tolist() == [0, 1, 2, 3, 2, 0]
    run = judged()
    found, once = run(params, twice), run(params, cohort)
    np.testing.assert_array_equal(found.scores["rmse"], once.scores["rmse"][:, same])
    np.testing.assert_array_equal(found.n_support, once.n_support[same])
    np.testing.assert_array_equal(found.n_query, once.n_query[same])
    np.testing.assert_array_equal(found.short, (once.n_support[same] < np.array(GRID["shots"])).sum(axis=0))
    changed = twice.targets.copy()
    changed[-1] += 1e-9  # what differs in one number is judged by itself
    assert held_out.distinct(twice._replace(targets=changed))[1].tolist() == [0, 1, 2, 3, 2, 4]
    start = {"w": np.random.default_rng(2).normal(size=(2, 6, 3))}  # from starts of their own all are judged
    wanted = by_hand(params, twice, start=start, **GRID)
    np.testing.assert_allclose(run(params, twice, start).scores["rmse"], wanted, rtol=1e-12)


NAMES = tuple(f"person {row}" for row in range(30))


def table(cohort=None, value=None, seeds=(3, 4), **changes):
    """Records of made-up scores: 1000 * seed place + 100 * user + 10 * shots + steps, plus ``value``."""
    cohort = population((5, 6, 7)) if cohort is None else cohort
    users = len(cohort.users)
    grid = np.indices((len(seeds), users, 2, 2))
    scores = 1000.0 * grid[0] + 100 * grid[1] + 10 * np.array([1, 4])[grid[2]] + np.array([0, 2])[grid[3]]
    found = records.Curves(
        {"rmse": scores + (value or 0), "mae": -scores},
        np.tile([1, 4], (users, 1)),
        np.arange(users) + 7,
        np.zeros(2, int),
        (1, 4),
        (0, 2),
    )
    options = {"arm": "fine_tune", "split": "test", "fold": 1, "version": 2, "seeds": seeds, **changes}
    return records.records(found, cohort, NAMES, **options)


def test_records_have_a_row_for_every_score():
    found = table()
    assert found.schema.equals(records.SCHEMA) and found.num_rows == 2 * 2 * 3 * 2 * 2
    rows = found.to_pylist()
    assert rows[0] == {
        "arm": "fine_tune",
        "split": "test",
        "seed": 3,
        "fold": 1,
        "version": 2,
        "boundary": 2,
        "seen_until": 2,
        "period": 0,
        "user": records.user_hash("person 10"),
        "returning": True,
        "start": "fresh",
        "shots": 1,
        "steps": 0,
        "n_support": 1,
        "n_query": 7,
        "metric": "rmse",
        "value": 10.0,
    }
    for row in rows:
        user = [records.user_hash(name) for name in NAMES].index(row["user"]) - 10
        value = 1000.0 * (row["seed"] - 3) + 100 * user + 10 * row["shots"] + row["steps"]
        assert row["value"] == (value if row["metric"] == "rmse" else -value)
        assert (row["n_query"], row["n_support"], row["returning"]) == (7 + user, row["shots"], user % 2 == 0)


def test_records_come_back_from_disk(tmp_path):
    first, second = table(), table(arm="continual", start="banked")
    records.write_records(tmp_path / "deep" / "b.parquet", first)
    records.write_records(tmp_path / "deep" / "c.parquet", second)
    assert records.read_records(tmp_path / "deep").equals(pa.concat_tables([first, second]))
    records.write_records(tmp_path / "deep" / "b.parquet", second)
    assert records.read_records(tmp_path / "deep").equals(pa.concat_tables([second, second]))
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["b.parquet", "c.parquet"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    records.write_records(path, table())

    def fail(writer, rows):
        write(writer, rows)
        raise OSError("disk full")

    write = pq.ParquetWriter.write_table
    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        records.write_records(path, table(fold=4))
    assert records.read_records(tmp_path).equals(table())
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


def test_bad_records_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no records"):
        records.read_records(tmp_path)
    with pytest.raises(ValueError, match="table must have the columns of SCHEMA"):
        records.write_records(tmp_path / "a.parquet", table().drop(["fold"]))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other.parquet must have the columns of SCHEMA"):
        records.read_records(tmp_path)
    (tmp_path / "other.parquet").write_bytes(b"PAR1 no longer")
    with pytest.raises(ValueError, match="other.parquet cannot be read"):
        records.read_records(tmp_path)
    for changes, message in (
        ({"split": "train"}, "split must be"),
        ({"start": "warm"}, "start must be"),
    ):
        with pytest.raises(ValueError, match=message):
            table(**changes)
    with pytest.raises(ValueError, match=r"rmse must be \[seeds, users, shots, steps\] = \(1, 3, 2, 2\)"):
        good = records.Curves(
            {"rmse": np.zeros((2, 3, 2, 2))}, np.ones((3, 2)), np.ones(3), np.zeros(2), (1, 4), (0, 2)
        )
        records.records(good, population((5, 6, 7)), NAMES, arm="x", split="test", fold=0, version=0)


def staged(periods, trained, value, fold=0, users=None):
    cohort = population((5,) * len(periods))
    cohort = cohort._replace(periods=np.array(periods, np.int32))
    cohort = cohort if users is None else cohort._replace(users=np.array(users, np.int32))
    return table(cohort, value=value, version=trained, fold=fold)


WHERE = {"arm": "fine_tune", "metric": "rmse", "shots": 4, "steps": 2}


def test_matrix_from_records_by_hand():
    # Users 0, 1 in period 0, users 2, 0 in period 1; scores 1000 seed + 100 place + 42 + 7 * (trained period + 1).
    parts = [staged((0, 0, 1, 1, -1), i, 7.0 * (i + 1), users=(10, 11, 12, 10, 13)) for i in (0, 1, -1)]
    r, b = records.matrix_of(pa.concat_tables(parts), **WHERE)
    for seed in range(2):
        mean = np.array([50.0, 250.0]) + 42 + 1000 * seed  # losses: they enter negated
        np.testing.assert_allclose(r[seed], -np.stack([mean + 7, mean + 14]), rtol=1e-14)
        np.testing.assert_allclose(b[seed], -mean, rtol=1e-14)
    scored = records.scored_of(pa.concat_tables(parts[:2]), **WHERE)
    assert scored.start is None and scored.values.shape == (2, 2, 4)
    person = records.user_hash("person 10")
    assert sorted(scored.periods[scored.users == person].tolist()) == [0, 1]
    np.testing.assert_allclose(average(r), -(150.0 + 42 + 14 + np.array([0, 1000])))


def test_folds_are_pooled():
    parts = [staged((0, 1), i, 0.0, fold=f, users=(10 + f, 12 + f)) for i in (0, 1) for f in (0, 1)]
    scored = records.scored_of(pa.concat_tables(parts), **WHERE)
    assert scored.values.shape == (2, 2, 4) and np.unique(scored.users).size == 4


def test_holes_and_doubles_in_the_matrix_are_refused():
    whole = [staged((0, 1), i, 0.0) for i in (0, 1)]
    cases = (
        ([staged((0, 1), 0, 0.0)], r"versions must be the evaluated ones \[0, 1\], got \[0\]"),
        ([*whole, whole[0]], "given twice"),
        ([*whole, staged((0,), 0, 0.0, users=(20,))], "missing"),
    )
    for parts, message in cases:
        with pytest.raises(ValueError, match=message):
            records.matrix_of(pa.concat_tables(parts), **WHERE)
    with pytest.raises(ValueError, match="no record with .*'banked'"):
        records.matrix_of(whole[0], start="banked", **WHERE)


def test_per_user():
    found = table()
    users, values = records.per_user(found, "rmse", shots=4, steps=2, arm="fine_tune")
    order = np.argsort([records.user_hash(f"person {row}") for row in (10, 11, 12)])
    assert users.tolist() == sorted(users.tolist())
    np.testing.assert_allclose(values, np.array([[42, 142, 242], [1042, 1142, 1242.0]])[:, order])
    with pytest.raises(ValueError, match="given twice"):
        records.per_user(found, "rmse", shots=4)
    with pytest.raises(ValueError, match="column must be one of .* got 'shot'"):
        records.per_user(found, "rmse", shot=4)


def test_the_page_on_records_lists_the_schema():
    page = (pathlib.Path(__file__).parents[1] / "docs" / "records.md").read_text()
    listed = [line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")]
    assert listed == [*records.SCHEMA.names, *DEFINITIONS]
    for name, definition in DEFINITIONS.items():
        assert f"| `{name}` | {definition} |" in page
