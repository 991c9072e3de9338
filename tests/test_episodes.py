"""Episodes: what is drawn (distinct classes, turns and drawings, each as likely), in which order, held out and not."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metapers import keys
from metapers.tasks.episodes import episodes

MARK = 250
FIRST = {"train": 0, "validation": 60, "test": 120}


def drawings(classes, each, first=0):
    """Images whose pixels say what they are: a mark in one corner, then the class, then the drawing."""
    found = np.zeros((classes, each, 4, 4, 1), np.uint8)
    found[:, :, 0, 0, 0] = MARK
    found[:, :, 0, 1, 0] = first + np.arange(classes)[:, None]
    found[:, :, 0, 2, 0] = 1 + np.arange(each)
    return found


def splits(train=6, validation=5, test=7, each=6):
    sizes = {"train": train, "validation": validation, "test": test}
    return {split: drawings(size, each, FIRST[split]) for split, size in sizes.items()}


def told(inputs):
    """(class, drawing, quarter turn) of each image, and that the whole image is just that drawing, turned."""
    images = np.asarray(inputs, np.float64).reshape(-1, 4, 4) * 255
    whole = np.rint(images)
    np.testing.assert_allclose(images, whole, atol=1e-4)
    corners = np.stack([whole[:, 0, 0], whole[:, 3, 0], whole[:, 3, 3], whole[:, 0, 3]], 1)  # where turns put the mark
    assert ((corners == MARK).sum(1) == 1).all()
    turn = np.argmax(corners == MARK, 1)
    back = np.stack([np.rot90(image, -quarter) for image, quarter in zip(whole, turn)])
    expected = np.zeros_like(back)
    expected[:, 0, :3] = back[:, 0, :3]
    np.testing.assert_array_equal(back, expected)
    shape = np.shape(inputs)[:-3]
    return tuple(x.astype(int).reshape(shape) for x in (back[:, 0, 1], back[:, 0, 2], turn))


def drawn(stream, n, *, window=(0, 0), step=0, key=0):
    sample = jax.jit(stream.family.sample, static_argnums=2)
    tasks, mask = sample(stream.family.data(window, 0, 1), step, n, keys.root(key))
    assert mask.shape == (n,) and mask.all() and tasks.support.mask.all() and tasks.query.mask.all()
    return tasks


def rounds(tasks, ways):
    """(class, drawing, turn), each [tasks, rounds, ways], of support and query together."""
    inputs = np.concatenate([tasks.support.inputs, tasks.query.inputs], axis=1)
    return tuple(x.reshape(len(inputs), -1, ways) for x in told(inputs))


def check_episodes(source, which, turn):
    """One class and turn in each place of an episode, all distinct; in each of them distinct drawings."""
    turned = source * 4 + turn
    assert (turned == turned[:, :1]).all()
    assert all(len(set(one)) == len(one) for one in turned[:, 0])
    assert all(len(set(one)) == len(one) for task in which for one in task.T)


def chi_square(values, kinds):
    counts = np.bincount(values.ravel(), minlength=kinds)
    assert len(counts) == kinds
    expected = values.size / kinds
    return float(np.square(counts - expected).sum() / expected)


def test_a_training_episode_is_distinct_classes_with_distinct_drawings():
    stream = episodes(splits(), ways=4, shots=2, queries=3, rotations=(0, 1, 2, 3), episodes=2)
    tasks = drawn(stream, 300)
    assert tasks.support.inputs.shape == (300, 8, 4, 4, 1) and tasks.query.inputs.shape == (300, 12, 4, 4, 1)
    assert tasks.support.inputs.dtype == jnp.zeros(()).dtype and tasks.support.targets.dtype == jnp.int32
    for part in (tasks.support, tasks.query):
        assert (np.asarray(part.targets).reshape(300, -1, 4) == np.arange(4)).all()
    source, which, turn = rounds(tasks, 4)
    check_episodes(source, which, turn)
    assert set(source.ravel()) == set(range(6)) and set(which.ravel()) == set(range(1, 7))
    assert (np.diff(source[:, 0], axis=1) < 0).any() and (np.diff(source[:, 0], axis=1) > 0).any()
    rows = np.asarray(tasks.user)
    assert rows.min() >= len(stream.users) == 6 and len(np.unique(rows)) == 300
    assert set(tasks.notes) == {"period"} and not tasks.notes["period"].any()


def test_every_class_turn_and_drawing_is_as_likely_in_every_place():
    tasks = drawn(episodes(splits(), ways=3, rotations=(0, 1, 2, 3), episodes=2), 3000)
    source, which, turn = rounds(tasks, 3)
    turned = source * 4 + turn
    for place in range(3):
        assert chi_square(turned[:, 0, place], 24) < 60  # 23 degrees of freedom: 60 is passed once in 30,000
        for number in range(2):
            assert chi_square(which[:, number, place] - 1, 6) < 30  # 5: once in 65,000
    assert chi_square((which[:, 0, 0] - 1) * 6 + which[:, 0, 1] - 1, 36) < 85  # 35: each class has drawings of its own
    pairs = turned[:, 0, 0] * 24 + turned[:, 0, 1]
    apart = np.array([pair for pair in range(24 * 24) if pair // 24 != pair % 24])
    assert chi_square(np.searchsorted(apart, pairs), len(apart)) < 720  # 551: 720 is five deviations away


def test_rows_of_users_begin_where_the_held_out_users_end(monkeypatch):
    module = importlib.import_module("metapers.tasks.episodes")  # its function hides it from a dotted name
    monkeypatch.setattr(module, "_below", lambda bits, bound: jnp.zeros_like(bits, jnp.int32))
    assert drawn(episodes(splits(), ways=2, episodes=7, periods=2), 4).user.tolist() == [3 * 7 * 2] * 4


def test_the_splits_are_drawn_apart():
    stream = episodes({split: drawings(9, 6) for split in FIRST}, ways=3, episodes=20)
    found = [told(cohort.inputs) for cohort in (stream.held_out("validation", 0), stream.held_out("test", 0))]
    for one, other in zip(found[0][:2], found[1][:2]):
        assert 0.05 < (one == other).mean() < 0.35  # by chance 1/9 and 1/6


def test_only_the_asked_turns_are_made():
    assert set(rounds(drawn(episodes(splits(), ways=3, episodes=2), 50), 3)[2].ravel()) == {0}
    stream = episodes(splits(), ways=3, rotations=(2, 3), episodes=20)
    assert set(rounds(drawn(stream, 50), 3)[2].ravel()) == {2, 3}
    assert set(told(stream.held_out("test", 0).inputs)[2].ravel()) == {2, 3}


def test_a_task_depends_on_key_step_and_place_alone():
    stream = episodes(splits(), ways=3, rotations=(0, 1), episodes=2)
    one = drawn(stream, 8, step=5)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(drawn(stream, 3, step=5))):
        np.testing.assert_array_equal(a[:3], b)
    for other in (drawn(stream, 8, step=6), drawn(stream, 8, step=5, key=1)):
        assert (np.asarray(one.user) != other.user).all()
        assert (np.asarray(one.support.inputs) != other.support.inputs).any()


def test_the_draws_are_those_of_single_precision():
    stream = episodes(splits(), ways=3, rotations=(0, 1, 2, 3), episodes=2)
    double = drawn(stream, 20)
    with jax.enable_x64(False):
        single = drawn(episodes(splits(), ways=3, rotations=(0, 1, 2, 3), episodes=2), 20)
    assert single.support.inputs.dtype == jnp.float32 and double.support.inputs.dtype == jnp.float64
    np.testing.assert_allclose(single.query.inputs, double.query.inputs, atol=1e-6)
    np.testing.assert_array_equal(single.user, double.user)


def test_the_images_lie_on_the_device_once_and_as_they_are():
    stream = episodes(splits(), ways=3, rotations=(0, 1, 2, 3), episodes=2, periods=2)
    first, second = stream.family.data((0, 0), 0, 1), stream.family.data((0, 1), 7, 9)
    assert first["images"] is second["images"]
    assert first["images"].shape == (6, 6, 4, 4, 1) and first["images"].dtype == jnp.uint8


def test_held_out_episodes_come_round_by_round_and_stay_the_same():
    def made():
        return episodes(splits(), ways=4, shots=1, queries=2, rotations=(0, 1, 2, 3), episodes=30, examples=5)

    stream = made()
    cohorts = {split: stream.held_out(split, 0) for split in ("validation", "test")} | {"train": stream.training(0)}
    for split, cohort in cohorts.items():
        assert cohort.inputs.shape == (30 * 20, 4, 4, 1) and cohort.inputs.dtype == jnp.zeros(()).dtype
        assert cohort.targets.dtype == np.int32 and cohort.offsets.tolist() == list(range(0, 601, 20))
        assert (cohort.targets.reshape(30, 5, 4) == np.arange(4)).all()
        source, which, turn = (x.reshape(30, 5, 4) for x in told(cohort.inputs))
        check_episodes(source, which, turn)
        size = len(splits()[split])
        assert set(source.ravel()) == set(range(FIRST[split], FIRST[split] + size))  # no class of another split
        assert set(turn.ravel()) == {0, 1, 2, 3}
        assert [stream.users[row].split("-")[1] for row in cohort.users] == [split] * 30
        assert not cohort.returning.any()
    assert cohorts["test"].periods.tolist() == [0] * 30 and cohorts["train"].periods.tolist() == [-1] * 30
    for again in (stream, made()):
        for a, b in zip(jax.tree.leaves(cohorts["test"]), jax.tree.leaves(again.held_out("test", 0)), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(stream.held_out("test", None).inputs, cohorts["test"].inputs)
    assert stream.held_out("test", None).periods.tolist() == [-1] * 30


def test_periods_have_their_own_classes_and_windows_draw_in_proportion():
    stream = episodes(splits(train=7, validation=6, test=8), ways=2, rotations=(0, 3), episodes=40, periods=3)
    own = [{0, 1}, {2, 3}, {4, 5, 6}]
    for period in range(3):
        assert set(told(stream.held_out("test", period).inputs)[0]) == {
            120 + c for c in ((0, 1), (2, 3, 4), (5, 6, 7))[period]
        }
        assert stream.held_out("validation", period).periods.tolist() == [period] * 40
        assert set(told(stream.training(period).inputs)[0]) == set().union(*own[: period + 1])
    life = stream.held_out("test", None)
    np.testing.assert_array_equal(life.inputs[40 * 4 :][: 40 * 4], stream.held_out("test", 1).inputs)
    assert life.users[40:80].tolist() == stream.held_out("test", 1).users.tolist()
    traces = []

    @jax.jit
    def run(data, key):
        traces.append(None)
        return stream.family.sample(data, 0, 700, key)[0]

    for low, high in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2)]:
        tasks = run(stream.family.data((low, high), 0, 1), keys.root(3))
        source, period = rounds(tasks, 2)[0], np.asarray(tasks.notes["period"])
        assert set(period.tolist()) == set(range(low, high + 1))
        for now in range(low, high + 1):
            assert set(source[period == now].ravel()) == own[now]
    share = np.bincount(period) / 700
    np.testing.assert_allclose(share, np.array([2, 2, 3]) / 7, atol=0.06)  # three deviations
    assert len(traces) == 1


def test_bools_and_floats_are_taken_too():
    grey = {split: one / 255 for split, one in splits().items()}
    flat = {split: one > 0 for split, one in splits().items()}
    whole = episodes(splits(), ways=3, rotations=(0, 1), episodes=3)
    for images, change in ((grey, lambda x: x), (flat, lambda x: x > 0)):
        stream = episodes(images, ways=3, rotations=(0, 1), episodes=3)
        tasks = drawn(stream, 20)
        np.testing.assert_allclose(tasks.query.inputs, change(np.asarray(drawn(whole, 20).query.inputs)), atol=1e-12)
        np.testing.assert_allclose(
            stream.held_out("test", 0).inputs, change(whole.held_out("test", 0).inputs), atol=1e-12
        )
        assert stream.held_out("test", 0).inputs.dtype == tasks.query.inputs.dtype


def test_provenance_counts_and_knows_every_pixel():
    stream = episodes(
        splits(), ways=2, shots=2, queries=3, rotations=(0, 2), periods=2, episodes=4, about={"source": "mine"}
    )
    told_of = stream.provenance
    assert json.loads(json.dumps(told_of)) == told_of
    assert (told_of["source"], told_of["version"], told_of["rotations"]) == ("mine", "1", [0, 2])
    assert (told_of["ways"], told_of["shots"], told_of["queries"]) == (2, 2, 3)
    assert told_of["splits"]["validation"] == [
        {"users": 4, "examples": 40, "classes": 4},
        {"users": 4, "examples": 40, "classes": 6},
    ]
    assert (told_of["users"], told_of["examples"], told_of["periods"]) == (24, 240, 2) and len(stream.users) == 24

    def sha(images, seed=0):
        return episodes(images, ways=2, rotations=(0, 2), episodes=4, seed=seed).provenance["sha256"]

    for split in splits():
        changed = splits()
        changed[split][2, 3, 1, 1, 0] += 1
        assert sha(changed) != sha(splits())
    assert sha(splits(), seed=1) != sha(splits()) == sha(splits())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ways": 0}, "ways must be >= 1, got 0"),
        ({"shots": 0}, "shots must be >= 1, got 0"),
        ({"queries": -1}, "queries must be >= 1, got -1"),
        ({"periods": 0}, "periods must be >= 1, got 0"),
        ({"episodes": 0}, "episodes must be >= 1, got 0"),
        ({"examples": 0}, "examples must be >= 1, got 0"),
        ({"ways": 6}, r"ways must be <= 5, the fewest classes of a period of images\['validation'\].*, got 6"),
        ({"ways": 5, "periods": 2}, r"ways must be <= 2, the fewest classes .*, got 5"),
        ({"ways": 11, "rotations": (0, 1)}, "ways must be <= 10, .* got 11"),
        ({"shots": 4, "queries": 3}, r"^shots must be <= 3, .*'validation'\] has 6 drawings and 3 are queries, got 4"),
        ({"shots": 4, "queries": 3, "examples": 2}, r"^shots must be <= 3, as a class of images\['train'\].*, got 4"),
        ({"queries": 6}, r"^queries must be < 6, .*'validation'\] has 6 drawings, got 6"),
        ({"examples": 7}, r"^examples must be <= 6, the drawings of .*'validation'\], got 7"),
        ({"rotations": (0, 4)}, r"rotations must be distinct quarter turns between 0 and 3, .*, got \[0, 4\]"),
        ({"rotations": (1, 1)}, r"rotations must be distinct .*, got \[1, 1\]"),
        ({"rotations": ()}, r"rotations must be .* at least one, got \[\]"),
    ],
)
def test_bad_sizes_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        episodes(splits(), **({"ways": 2, "episodes": 2} | wrong))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., 0], r"images\['test'\] must be \[classes, .*, got the shape \(7, 6, 4, 4\)"),
        (lambda x: x[:0], r"images\['test'\] must be .*, got the shape \(0, 6, 4, 4, 1\)"),
        (lambda x: x.astype(np.int32), r"images\['test'\] must be uint8, bool or float, got int32"),
        (lambda x: np.where(x == MARK, np.nan, x), r"images\['test'\] must be finite"),
        (lambda x: x > 0, r"images\['test'\] must have the dtype uint8 of images\['train'\], got bool"),
        (lambda x: x[:, :, :3, :3], r"images\['test'\] must have the image shape \(4, 4, 1\) of .*, got \(3, 3, 1\)"),
        (lambda x: x[:, :, :3], r"images\['test'\] must be square where rotations hold 1 or 3, got .*3, 4, 1\)"),
    ],
)
def test_bad_images_are_named(change, message):
    images = splits()
    with pytest.raises(ValueError, match=message):
        episodes(images | {"test": change(images["test"])}, ways=2, rotations=(0, 1), episodes=2)


def test_missing_splits_and_wrong_periods_are_named():
    with pytest.raises(ValueError, match=r"images must hold \['test', 'train', 'validation'\], got \['train'\]"):
        episodes({"train": splits()["train"]}, ways=2)
    stream = episodes(splits(), ways=2, episodes=2)
    with pytest.raises(ValueError, match="window must satisfy 0 <= first <= last < 1"):
        stream.family.data((0, 1), 0, 1)
    with pytest.raises(ValueError, match="split must be one of .*, got 'train'"):
        stream.held_out("train", 0)
    for call in (lambda: stream.held_out("test", 1), lambda: stream.training(1)):
        with pytest.raises(ValueError, match="period must be between 0 and 0, got 1"):
            call()


def test_tasks_to_train_on_may_have_more_ways_than_those_to_be_judged_on():
    options = {"ways": 3, "shots": 1, "queries": 2, "episodes": 4}
    stream, plain = episodes(splits(), train_ways=5, **options), episodes(splits(), **options)
    tasks = drawn(stream, 50)
    assert tasks.support.targets.shape == (50, 5) and tasks.query.targets.shape == (50, 10)
    check_episodes(*rounds(tasks, 5))
    assert (stream.provenance["classes"], stream.provenance["train_ways"]) == (5, 5)
    assert plain.provenance["classes"] == 3 and "train_ways" not in plain.provenance
    for split in ("validation", "test"):  # what is judged is the same
        ours, theirs = stream.held_out(split, None), plain.held_out(split, None)
        np.testing.assert_array_equal(ours.inputs, theirs.inputs)
        np.testing.assert_array_equal(ours.targets, theirs.targets)
    assert set(np.unique(stream.held_out("test", None).targets)) == {0, 1, 2}
    with pytest.raises(ValueError, match="train_ways must be >= 1, got 0"):
        episodes(splits(), train_ways=0, **options)
    with pytest.raises(ValueError, match="train_ways must be <= 6, the fewest classes of .*'train'"):
        episodes(splits(), train_ways=7, **options)
