"""A stream from dated examples: who is held out, in what order, what is dropped, and where it came from."""

import json

import jax
import numpy as np
import pytest

from metapers import keys
from metapers.tasks import ragged, splits
from metapers.tasks.past import History, Past, of_rows, past_of
from tests.contracts.parts import check_times

ABOUT = {"source": "hand", "version": "1"}


def named(split, count, fold=0):
    """The first ids that the hash puts into a split."""
    found = (str(i) for i in range(10000) if splits.split_of(str(i), fold) == split)
    return [next(found) for _ in range(count)]


def build(examples, **options):
    return ragged.stream(examples, **{"periods": 3, "fold": 0, "support": 2, "query": 3, "about": ABOUT} | options)


def by_hand():
    """Two training users and a test user; (user, period, time, number) in disorder, the number is input and target."""
    train, test = named("train", 2), named("test", 1)
    rows = [
        (2, 2, 9, 0), (0, 0, 3, 1), (0, 0, 1, 2), (1, 1, 5, 3), (1, 1, 4, 4), (2, 0, 1, 5), (2, 0, 2, 6),
        (0, 1, 5, 7), (0, 2, 8, 8), (0, 2, 7, 9), (2, 1, 5, 10), (2, 2, 9, 11), (0, 0, 1, 12),
    ]  # fmt: skip
    user, period, time, number = np.array(rows).T
    return ragged.Examples((*train, *test), user, period, time, {"n": number}, number.astype(float))


def random_examples(seed=0, users=60, total=1500):
    rng = np.random.default_rng(seed)
    user, period = rng.integers(0, users, total), rng.integers(0, 3, total)
    inputs = {"user": user, "x": rng.normal(size=(total, 2))}
    names = tuple(f"someone {i}" for i in range(users))
    return ragged.Examples(names, user, period, rng.integers(0, 50, total), inputs, rng.normal(size=total))


def test_order_drops_and_returning_by_hand():
    stream = build(by_hand())
    data = stream.family.data((0, 2), 0, 1)
    # by (period, user, time, order given); segments of one example, (0, 1) and (2, 1), are gone
    np.testing.assert_array_equal(data["inputs"]["n"], [2, 12, 1, 4, 3, 9, 8])
    np.testing.assert_array_equal(data["targets"], data["inputs"]["n"])
    for name, wanted in {"start": [0, 3, 5], "length": [3, 2, 2], "user": [0, 1, 0], "period": [0, 1, 2]}.items():
        np.testing.assert_array_equal(data[name], wanted)
    for period, numbers, returning in [(0, [5, 6], False), (2, [0, 11], True)]:
        cohort = stream.held_out("test", period)
        np.testing.assert_array_equal(cohort.inputs["n"], numbers)
        np.testing.assert_array_equal(cohort.offsets, [0, 2])
        assert cohort.users.tolist() == [2] and cohort.periods.tolist() == [period]
        assert cohort.returning.tolist() == [returning]
        assert cohort.example_periods.tolist() == [period] * 2 and cohort.example_periods.dtype == np.int32
    empty = stream.held_out("test", 1)
    assert empty.offsets.tolist() == [0] and len(empty.users) == 0 and empty.targets.shape == (0,)
    assert empty.example_periods.shape == (0,)
    assert stream.provenance["dropped_segments"] == 2
    counts = stream.provenance["splits"]
    assert counts["train"] == [{"users": 1, "examples": 3}, {"users": 1, "examples": 2}, {"users": 1, "examples": 2}]
    assert counts["test"][0] == {"users": 1, "examples": 2} and counts["test"][1] == {"users": 0, "examples": 0}


def test_whole_lives_and_training_keep_every_example():
    stream = build(by_hand())
    life = stream.held_out("test", None)
    np.testing.assert_array_equal(life.inputs["n"], [5, 6, 10, 0, 11])
    assert life.users.tolist() == [2] and life.periods.tolist() == [-1] and life.returning.tolist() == [False]
    assert life.example_periods.tolist() == [0, 0, 1, 2, 2] and life.example_periods.dtype == np.int32
    upto = stream.training(1)
    np.testing.assert_array_equal(upto.inputs["n"], [2, 12, 1, 7, 4, 3])
    assert upto.users.tolist() == [0, 1] and upto.offsets.tolist() == [0, 4, 6]
    assert upto.example_periods.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(stream.training(None).inputs["n"], [2, 12, 1, 7, 9, 8, 4, 3])


def test_no_held_out_user_is_trained_on_in_any_fold():
    examples = random_examples()
    for fold in range(5):
        stream = build(examples, fold=fold)
        split = [splits.split_of(name, fold) for name in examples.users]
        held = {row for row, name in enumerate(split) if name != "train"}
        data = stream.family.data((0, 2), 0, 1)
        for rows in (data["inputs"]["user"], data["user"], stream.training(None).inputs["user"]):
            assert held.isdisjoint(np.asarray(rows).tolist()) and len(set(np.asarray(rows).tolist())) > 20
        for wanted in ("validation", "test"):
            for period in (0, 1, 2, None):
                cohort = stream.held_out(wanted, period)
                assert {split[row] for row in cohort.users} == {wanted}
                owners = np.repeat(cohort.users, np.diff(cohort.offsets))
                np.testing.assert_array_equal(owners, cohort.inputs["user"])


def test_examples_are_neither_lost_nor_doubled():
    examples = random_examples()
    stream = build(examples)
    lives = [stream.held_out("validation", None), stream.held_out("test", None), stream.training(None)]
    together = np.sort(np.concatenate([cohort.targets for cohort in lives]))
    np.testing.assert_array_equal(together, np.sort(examples.targets))


def test_given_order_matters_to_ties_only_and_sha_to_every_example():
    examples = random_examples()
    examples = examples._replace(time=np.arange(len(examples.user)))  # no ties
    shuffle = np.random.default_rng(1).permutation(len(examples.user))
    moved = ragged.Examples(examples.users, *jax.tree.map(lambda leaf: leaf[shuffle], tuple(examples[1:])))
    digest = build(examples).provenance["sha256"]
    assert build(moved).provenance["sha256"] == digest == build(examples, fold=3).provenance["sha256"]
    one, two = build(examples), build(moved)
    for a, b in zip(jax.tree.leaves(one.family.data((0, 2), 0, 1)), jax.tree.leaves(two.family.data((0, 2), 0, 1))):
        np.testing.assert_array_equal(a, b)
    changed = []
    for name in ("period", "time", "inputs", "targets"):
        other = jax.tree.map(np.copy, examples._asdict() | {"users": None})
        leaf = jax.tree.leaves(other[name])[0]
        leaf[17] = (leaf[17] + 1) % 3
        changed.append(build(ragged.Examples(**other | {"users": examples.users})).provenance["sha256"])
    changed.append(build(examples._replace(users=("another", *examples.users[1:]))).provenance["sha256"])
    assert len({digest, *changed}) == 6


def test_provenance_is_json_and_says_what_the_source_said():
    provenance = build(random_examples(), about=ABOUT | {"boundaries": [10, 20]}).provenance
    assert json.loads(json.dumps(provenance)) == provenance
    assert provenance["boundaries"] == [10, 20] and provenance["source"] == "hand"
    assert (provenance["users"], provenance["examples"], provenance["fold"], provenance["periods"]) == (60, 1500, 0, 3)


def test_kinds_of_numbers():
    examples = random_examples()
    examples = examples._replace(inputs=examples.inputs | {"flag": examples.user % 2 == 0})
    stream = build(examples)
    data = stream.family.data((0, 2), 0, 1)
    tasks, _ = jax.jit(stream.family.sample, static_argnums=2)(data, 0, 2, keys.root(0))
    default = jax.numpy.zeros(()).dtype
    for inputs in (tasks.query.inputs, stream.held_out("test", 1).inputs):
        assert inputs["user"].dtype == np.int32 and inputs["x"].dtype == default and inputs["flag"].dtype == bool


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"period": np.full(13, 3)}, "period must be between 0 and 2, got 3 to 3"),
        ({"user": np.full(13, 5)}, "user must be between 0 and 2, got 5 to 5"),
        ({"time": np.array([np.nan] * 13)}, "time must be finite"),
        ({"targets": np.array([np.inf] * 13)}, "targets must be finite"),
        ({"inputs": np.zeros(12)}, "inputs must hold 13 examples in every leaf"),
        ({"users": ("1", "1", "2")}, "users must be distinct"),
        ({"inputs": {"n": np.full(13, 2**31)}}, "integers must fit int32, got 2147483648"),
        ({"period": np.arange(13) % 2}, "period 2 is empty"),
    ],
)
def test_bad_examples_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        build(by_hand()._replace(**change))


def delayed(seed=4, **change):
    """Examples every hour or so in three periods of 30 hours; a target is known up to four hours later."""
    rng = np.random.default_rng(seed)
    hours = rng.integers(0, 90, 600)
    hours[0] = 0
    user, time, number = rng.integers(0, 60, 600), 400_000 + hours, np.arange(600)
    names = tuple(f"someone {i}" for i in range(60))
    late = time + rng.integers(0, 5, 600)
    examples = ragged.Examples(names, user, hours // 30, time, {"n": number}, number.astype(float), late)
    return examples._replace(**change)


def drawn(stream, n=40):
    sample = jax.jit(stream.family.sample, static_argnums=2)
    return sample(stream.family.data((0, 2), 0, 1), 0, n, keys.root(0))[0]


@pytest.mark.parametrize("late", [True, False])
def test_times_and_delays_stay_with_their_examples(late):
    examples = delayed() if late else delayed(available=None)
    stream = build(examples, days=1 / 24)
    tasks = drawn(stream)
    check_times(stream, tasks)
    time = (examples.time - 400_000) / 24
    available = (delayed().available - 400_000) / 24 if late else time
    cohorts = [stream.held_out("test", 1), stream.held_out("validation", None), stream.training(1)]
    for part in (tasks.support, tasks.query, *cohorts):
        there = getattr(part, "mask", slice(None))
        rows = np.asarray(part.inputs["n"])[there]
        assert len(rows) > 20
        np.testing.assert_allclose(np.asarray(part.time)[there], time[rows], rtol=1e-6)
        np.testing.assert_allclose(np.asarray(part.available)[there], available[rows], rtol=1e-6)


def test_a_time_that_is_only_an_order_gives_zeros():
    stream = build(delayed(available=None))
    tasks = drawn(stream)
    check_times(stream, tasks)
    for part in (tasks.support, tasks.query, stream.held_out("test", None), stream.training(None)):
        assert not part.time.any() and not part.available.any()


def test_days_do_not_change_the_fingerprint_and_delays_do():
    digests = [
        build(delayed(available=None)).provenance["sha256"],
        *(build(examples, days=1 / 24).provenance["sha256"] for examples in (delayed(available=None), delayed())),
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("change", "days", "message"),
    [
        ({}, None, "available must be None where days is None"),
        ({}, 0, "days must be > 0 and finite, got 0"),
        ({}, np.nan, "days must be > 0 and finite, got nan"),
        ({"available": np.full(600, 399_999)}, 1, "available must be >= time, got 399999 for an example at 40"),
        ({"available": np.full(600, np.inf)}, 1, "available must be finite"),
        ({"available": np.zeros(3)}, 1, "available must hold 600 examples"),
        ({"period": 2 - delayed().period}, 1, "time must not fall within a user where days are given, got 4000"),
    ],
)
def test_bad_times_are_refused_by_name(change, days, message):
    with pytest.raises(ValueError, match=message):
        build(delayed(**change), days=days)


def test_bad_questions_are_refused():
    stream = build(by_hand())
    with pytest.raises(ValueError, match="split must be one of .*, got 'train'"):
        stream.held_out("train", 0)
    for question in (lambda: stream.held_out("test", 3), lambda: stream.training(-1)):
        with pytest.raises(ValueError, match="period must be between 0 and 2"):
            question()
    with pytest.raises(ValueError, match="fold must be between 0 and 4, got 5"):
        build(by_hand(), fold=5)


def seeing():
    """``by_hand`` with a second input, 100 more than the example's number, that was known when it was made."""
    examples = by_hand()
    return examples._replace(inputs=examples.inputs | {"seen": examples.inputs["n"] + 100.0})


BEFORE = History(2, ("n", "seen"), "was")


def in_the_past(inputs):
    """What an example is told of the past, the numbers of the earlier ones, and where nothing was, zeros."""
    there = np.asarray(inputs["past_there"])
    numbers, was, seen = (np.asarray(inputs[f"past_{name}"]) for name in ("n", "was", "seen"))
    np.testing.assert_array_equal(was, numbers)  # the number is input and target
    np.testing.assert_array_equal(seen, np.where(there > 0, numbers + 100, 0))
    assert not numbers[there == 0].any()
    return [[int(n) for n, t in zip(row, flag) if t] for row, flag in zip(numbers, there, strict=True)]


def test_the_past_is_what_stood_just_before_in_the_whole_life_by_hand():
    stream = build(seeing(), history=BEFORE)
    lives = {2: [2, 12, 1, 7, 9, 8], 3: [4, 3], 5: [5, 6, 10, 0, 11]}  # by the first number: ties as they were given
    pasts = {n: life[max(0, i - 2) : i] for life in ([*lives.values()]) for i, n in enumerate(life)}
    cohorts = [stream.held_out("test", period) for period in (0, 2, None)]
    for cohort in (*cohorts, stream.training(1), stream.training(None)):
        told = in_the_past(cohort.inputs)
        assert told == [pasts[n] for n in cohort.inputs["n"].tolist()]
        assert cohort.inputs["past_n"].shape == (len(cohort.targets), 2)
    (first,) = np.flatnonzero(stream.held_out("test", 2).inputs["n"] == 0)
    assert stream.held_out("test", 2).inputs["past_n"][first].tolist() == [6, 10]  # 10 stood alone in its period
    (early,) = np.flatnonzero(stream.held_out("test", 0).inputs["n"] == 6)
    assert stream.held_out("test", 0).inputs["past_there"][early].tolist() == [0, 1]  # the most recent last


def test_tasks_carry_the_past_of_each_row():
    family = build(seeing(), history=BEFORE).family
    other, draw = build(seeing()).family, lambda family: jax.jit(family.sample, static_argnums=2)
    plain, _ = draw(other)(other.data((2, 2), 0, 1), 0, 6, keys.root(0))
    early, _ = draw(family)(family.data((1, 1), 0, 1), 0, 6, keys.root(0))
    now, _ = draw(family)(family.data((2, 2), 0, 1), 0, 6, keys.root(0))
    pasts = {4: [], 3: [4], 9: [1, 7], 8: [7, 9]}  # 7, alone in period 1, is in no task, and yet was before
    for drawn in (early, now):
        for part in (drawn.support, drawn.query):
            mask = np.asarray(part.mask)
            assert not any(np.asarray(part.inputs[f"past_{name}"])[~mask].any() for name in ("n", "was", "there"))
            told = in_the_past({name: np.asarray(leaf)[mask] for name, leaf in part.inputs.items()})
            assert told == [pasts[n] for n in np.asarray(part.inputs["n"])[mask].tolist()]
    for one, two in ((now.support, plain.support), (now.query, plain.query)):
        jax.tree.map(np.testing.assert_array_equal, two.inputs, {name: one.inputs[name] for name in two.inputs})


def test_no_held_out_users_past_lies_on_the_device():
    stream = build(seeing(), history=BEFORE)
    data, of_test = stream.family.data((0, 2), 0, 1), {5, 6, 10, 0, 11}
    assert isinstance(data["past"], Past)
    column = np.asarray(data["past"].columns["past_n"])
    assert sorted(column[:-1].tolist()) == sorted(set(range(13)) - of_test) and column[-1] == 0
    assert build(seeing()).provenance["sha256"] == stream.provenance["sha256"]
    assert (
        "past" not in build(seeing()).held_out("test", 0).inputs
        and build(seeing()).family.data((0, 2), 0, 1)["past"] == ()
    )


def test_a_history_that_cannot_be_told_is_refused():
    for change, message in (
        ({"length": 0}, "history.length must be >= 1, got 0"),
        ({"inputs": ("m",)}, r"history.inputs must be among \['n', 'seen'\], got 'm'"),
    ):
        with pytest.raises(ValueError, match=message):
            build(seeing(), history=BEFORE._replace(**change))
    with pytest.raises(ValueError, match="targets must be numbers where a history is asked for, got int"):
        build(seeing()._replace(targets=np.arange(13)), history=BEFORE)
    made = past_of(History(1, (), "was"), np.zeros(3, int), {}, np.arange(3.0))
    with pytest.raises(ValueError, match="columns must hold the past of every row, 1 examples are missing"):
        of_rows(made, np.array([2]), np.array([2]))
