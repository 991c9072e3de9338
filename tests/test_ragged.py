"""A stream from dated examples: who is held out, in what order, what is dropped, and where it came from."""

import json

import jax
import numpy as np
import pytest

from metapers import keys
from metapers.tasks import ragged, splits
from metapers.tasks.past import History, Past, of_rows, past_of

ABOUT = {"source": "hand", "version": "1"}


def named(split, count, fold=0):
    """The first ids that the hash puts into a split."""
    found = (str(i) for i in range(10000) if splits.split_of(str(i), fold) == split)
    return [next(found) for _ in range(count)]


def build(examples, **options):
    return ragged.stream(examples, **{"stages": 3, "fold": 0, "support": 2, "query": 3, "about": ABOUT} | options)


def by_hand():
    """Two training users and a test user; (user, stage, time, number) in disorder, the number is input and target."""
    train, test = named("train", 2), named("test", 1)
    rows = [
        (2, 2, 9, 0), (0, 0, 3, 1), (0, 0, 1, 2), (1, 1, 5, 3), (1, 1, 4, 4), (2, 0, 1, 5), (2, 0, 2, 6),
        (0, 1, 5, 7), (0, 2, 8, 8), (0, 2, 7, 9), (2, 1, 5, 10), (2, 2, 9, 11), (0, 0, 1, 12),
    ]  # fmt: skip
    user, stage, time, number = np.array(rows).T
    return ragged.Examples((*train, *test), user, stage, time, {"n": number}, number.astype(float))


def random_examples(seed=0, users=60, total=1500):
    rng = np.random.default_rng(seed)
    user, stage = rng.integers(0, users, total), rng.integers(0, 3, total)
    inputs = {"user": user, "x": rng.normal(size=(total, 2))}
    names = tuple(f"someone {i}" for i in range(users))
    return ragged.Examples(names, user, stage, rng.integers(0, 50, total), inputs, rng.normal(size=total))


def test_order_drops_and_returning_by_hand():
    stream = build(by_hand())
    data = stream.family.data((0, 2), 0, 1)
    # by (stage, user, time, order given); segments of one example, (0, 1) and (2, 1), are gone
    np.testing.assert_array_equal(data["inputs"]["n"], [2, 12, 1, 4, 3, 9, 8])
    np.testing.assert_array_equal(data["targets"], data["inputs"]["n"])
    for name, wanted in {"start": [0, 3, 5], "length": [3, 2, 2], "user": [0, 1, 0], "stage": [0, 1, 2]}.items():
        np.testing.assert_array_equal(data[name], wanted)
    for stage, numbers, returning in [(0, [5, 6], False), (2, [0, 11], True)]:
        cohort = stream.held_out("test", stage)
        np.testing.assert_array_equal(cohort.inputs["n"], numbers)
        np.testing.assert_array_equal(cohort.offsets, [0, 2])
        assert cohort.users.tolist() == [2] and cohort.stages.tolist() == [stage]
        assert cohort.returning.tolist() == [returning]
    empty = stream.held_out("test", 1)
    assert empty.offsets.tolist() == [0] and len(empty.users) == 0 and empty.targets.shape == (0,)
    assert stream.provenance["dropped_segments"] == 2
    counts = stream.provenance["splits"]
    assert counts["train"] == [{"users": 1, "examples": 3}, {"users": 1, "examples": 2}, {"users": 1, "examples": 2}]
    assert counts["test"][0] == {"users": 1, "examples": 2} and counts["test"][1] == {"users": 0, "examples": 0}


def test_whole_lives_and_training_keep_every_example():
    stream = build(by_hand())
    life = stream.held_out("test", None)
    np.testing.assert_array_equal(life.inputs["n"], [5, 6, 10, 0, 11])
    assert life.users.tolist() == [2] and life.stages.tolist() == [-1] and life.returning.tolist() == [False]
    upto = stream.training(1)
    np.testing.assert_array_equal(upto.inputs["n"], [2, 12, 1, 7, 4, 3])
    assert upto.users.tolist() == [0, 1] and upto.offsets.tolist() == [0, 4, 6]
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
            for stage in (0, 1, 2, None):
                cohort = stream.held_out(wanted, stage)
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
    for name in ("stage", "time", "inputs", "targets"):
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
    assert (provenance["users"], provenance["examples"], provenance["fold"], provenance["stages"]) == (60, 1500, 0, 3)


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
        ({"stage": np.full(13, 3)}, "stage must be between 0 and 2, got 3 to 3"),
        ({"user": np.full(13, 5)}, "user must be between 0 and 2, got 5 to 5"),
        ({"time": np.array([np.nan] * 13)}, "time must be finite"),
        ({"targets": np.array([np.inf] * 13)}, "targets must be finite"),
        ({"inputs": np.zeros(12)}, "inputs must hold 13 examples in every leaf"),
        ({"users": ("1", "1", "2")}, "users must be distinct"),
        ({"inputs": {"n": np.full(13, 2**31)}}, "integers must fit int32, got 2147483648"),
        ({"stage": np.arange(13) % 2}, "stage 2 is empty"),
    ],
)
def test_bad_examples_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        build(by_hand()._replace(**change))


def test_bad_questions_are_refused():
    stream = build(by_hand())
    with pytest.raises(ValueError, match="split must be one of .*, got 'train'"):
        stream.held_out("train", 0)
    for question in (lambda: stream.held_out("test", 3), lambda: stream.training(-1)):
        with pytest.raises(ValueError, match="stage must be between 0 and 2"):
            question()
    with pytest.raises(ValueError, match="fold must be between 0 and 4, got 5"):
        build(by_hand(), fold=5)


def growing():
    """``by_hand`` with an input that is 100 * (stage known) + the example's number."""
    examples = by_hand()
    number = examples.inputs["n"].astype(float)
    return examples._replace(known={"seen": number[:, None] + 100 * np.arange(3)})


def test_what_grows_is_seen_as_it_stood_at_the_end_of_the_stage_asked_for():
    stream = build(growing())
    for known in (0, 1, 2):
        cohort = stream.held_out("test", 2, known)
        np.testing.assert_array_equal(cohort.inputs["seen"], cohort.inputs["n"] + 100 * known)
        np.testing.assert_array_equal(stream.training(known).inputs["seen"] // 100, known)
    np.testing.assert_array_equal(stream.held_out("test", None).inputs["seen"] // 100, 2)  # the last by default
    with pytest.raises(ValueError, match="stage must be between 0 and 2, got 3"):
        stream.held_out("test", 2, 3)


def test_a_window_trains_on_what_is_known_at_its_end_and_later_renews_what_was_kept():
    family = build(growing()).family
    early, late = family.data((0, 0), 0, 1), family.data((1, 1), 0, 1)
    tasks, _ = jax.jit(family.sample, static_argnums=2)(early, 0, 6, keys.root(0))
    again = jax.jit(family.renew)(late, tasks)
    for before, after in ((tasks.support, again.support), (tasks.query, again.query)):
        mask = np.asarray(before.mask)
        np.testing.assert_array_equal(before.inputs["seen"], np.where(mask, before.inputs["n"], 0))
        np.testing.assert_array_equal(after.inputs["seen"], np.where(mask, before.inputs["n"] + 100, 0))
        np.testing.assert_array_equal(after.inputs["n"], before.inputs["n"])
        np.testing.assert_array_equal(after.targets, before.targets)


def test_what_grows_needs_a_column_for_each_stage():
    examples = growing()
    with pytest.raises(ValueError, match="known must hold a column for each of the 3 stages"):
        build(examples._replace(known={"seen": examples.known["seen"][:, :2]}))


BEFORE = History(2, ("n", "seen"), "was")


def in_the_past(inputs, known):
    """What an example is told of the past, as (number, was, seen) of each earlier one, and where nothing was, zeros."""
    there = np.asarray(inputs["past_there"])
    numbers, was, seen = (np.asarray(inputs[f"past_{name}"]) for name in ("n", "was", "seen"))
    np.testing.assert_array_equal(was, numbers)  # the number is input and target
    np.testing.assert_array_equal(seen, np.where(there > 0, numbers + 100 * known, 0))
    assert not numbers[there == 0].any()
    return [[int(n) for n, t in zip(row, flag) if t] for row, flag in zip(numbers, there, strict=True)]


def test_the_past_is_what_stood_just_before_in_the_whole_life_by_hand():
    stream = build(growing(), history=BEFORE)
    lives = {2: [2, 12, 1, 7, 9, 8], 3: [4, 3], 5: [5, 6, 10, 0, 11]}  # by the first number: ties as they were given
    pasts = {n: life[max(0, i - 2) : i] for life in ([*lives.values()]) for i, n in enumerate(life)}
    cohorts = [stream.held_out("test", stage, known) for stage in (0, 2, None) for known in (0, 1)]
    for cohort, known in [*zip(cohorts, (0, 1) * 3, strict=True), (stream.training(1), 1), (stream.training(None), 2)]:
        told = in_the_past(cohort.inputs, known)
        assert told == [pasts[n] for n in cohort.inputs["n"].tolist()]
        assert cohort.inputs["past_n"].shape == (len(cohort.targets), 2)
    (first,) = np.flatnonzero(stream.held_out("test", 2).inputs["n"] == 0)
    assert stream.held_out("test", 2).inputs["past_n"][first].tolist() == [6, 10]  # 10 stood alone in its stage
    (early,) = np.flatnonzero(stream.held_out("test", 0).inputs["n"] == 6)
    assert stream.held_out("test", 0).inputs["past_there"][early].tolist() == [0, 1]  # the most recent last


def test_tasks_carry_the_past_of_each_row_and_renew_it():
    family = build(growing(), history=BEFORE).family
    other, draw = build(growing()).family, lambda family: jax.jit(family.sample, static_argnums=2)
    plain, _ = draw(other)(other.data((2, 2), 0, 1), 0, 6, keys.root(0))
    early, late = family.data((1, 1), 0, 1), family.data((2, 2), 0, 1)
    tasks, _ = draw(family)(early, 0, 6, keys.root(0))
    again = jax.jit(family.renew)(late, tasks)
    pasts = {4: [], 3: [4], 9: [1, 7], 8: [7, 9]}  # 7, alone in stage 1, is in no task, and yet was before
    now, _ = draw(family)(late, 0, 6, keys.root(0))
    for drawn, known in ((tasks, 1), (again, 2), (now, 2)):
        for part in (drawn.support, drawn.query):
            mask = np.asarray(part.mask)
            assert not any(np.asarray(part.inputs[f"past_{name}"])[~mask].any() for name in ("n", "was", "there"))
            told = in_the_past({name: np.asarray(leaf)[mask] for name, leaf in part.inputs.items()}, known)
            assert told == [pasts[n] for n in np.asarray(part.inputs["n"])[mask].tolist()]
    for one, two in ((now.support, plain.support), (now.query, plain.query)):
        jax.tree.map(np.testing.assert_array_equal, two.inputs, {name: one.inputs[name] for name in two.inputs})


def test_no_held_out_users_past_lies_on_the_device():
    stream = build(growing(), history=BEFORE)
    data, of_test = stream.family.data((0, 2), 0, 1), {5, 6, 10, 0, 11}
    assert isinstance(data["past"], Past)
    column = np.asarray(data["past"].fixed["past_n"])
    assert sorted(column[:-1].tolist()) == sorted(set(range(13)) - of_test) and column[-1] == 0
    assert build(growing()).provenance["sha256"] == stream.provenance["sha256"]
    assert (
        "past" not in build(growing()).held_out("test", 0).inputs
        and build(growing()).family.data((0, 2), 0, 1)["past"] == ()
    )


def test_a_history_that_cannot_be_told_is_refused():
    for change, message in (
        ({"length": 0}, "history.length must be >= 1, got 0"),
        ({"inputs": ("m",)}, r"history.inputs must be among \['n', 'seen'\], got 'm'"),
    ):
        with pytest.raises(ValueError, match=message):
            build(growing(), history=BEFORE._replace(**change))
    with pytest.raises(ValueError, match="targets must be numbers where a history is asked for, got int"):
        build(growing()._replace(targets=np.arange(13)), history=BEFORE)
    made = past_of(History(1, (), "was"), np.zeros(3, int), {}, np.arange(3.0), {})
    with pytest.raises(ValueError, match="columns must hold the past of every row, 1 examples are missing"):
        of_rows(made, np.array([2]), np.array([2]))
