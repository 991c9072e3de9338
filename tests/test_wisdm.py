"""WISDM: a hand-made ARFF with known users, standardisation and missing values; damaged ones; the real people."""

import itertools

import numpy as np
import pytest

from metapers.tasks import splits, wisdm
from metapers.tasks.wisdm import ACTIVITIES, FEATURES, FILE

HEAD = "% a comment\n@relation people\n\n@attribute UNIQUE_ID numeric\n@DATA\n% another\n\n"


def ids(split, count):
    numbers = (number for number in itertools.count(1) if splits.split_of(str(number), 0) == split)
    return list(itertools.islice(numbers, count))


ANN, BOB = ids("train", 2)
(TESS,) = ids("test", 1)


def line(number, user, activity="Walking", **features):
    values = {"X0": 0.5, "XABSOLDEV": 0} | features
    return ",".join([str(number), str(user), *(str(values.get(name, 0.25)) for name in FEATURES), activity])


ROWS = [
    line(1, ANN, X0=1.0),
    line(2, ANN, X0=3.0, XPEAK="?", activity="Standing"),
    line(3, BOB, X0=5.0, XPEAK=100, activity="Jogging"),
    line(4, BOB, X0=7.0, XPEAK=300, ZPEAK="?"),
    line(5, TESS, X0=9.0, XPEAK=300, RESULTANT=7.25, activity="Sitting"),
    line(6, TESS, X0=4.0, XPEAK="?", activity="Upstairs"),
]


def hand_made(folder, rows=ROWS, head=HEAD):
    (folder / FILE).write_text(head + "\n".join(rows) + "\n")
    return folder


def small(folder, **options):
    return wisdm(folder, **{"support": 1, "query": 1} | options)


def test_features_are_standardised_by_training_users_and_missing_ones_flagged(tmp_path):
    stream = small(hand_made(tmp_path))
    test = stream.held_out("test", None)
    assert not test.time.any() and not test.available.any()  # their order is that of hashes
    assert test.inputs.shape == (2, 46) and test.targets.dtype == np.int32
    order = np.argsort(test.targets)  # Upstairs (2), Sitting (4)
    assert test.targets[order].tolist() == [2, 4]
    up, sits = test.inputs[order]
    column = FEATURES.index
    np.testing.assert_allclose(
        [up[column("X0")], sits[column("X0")]], [0.0, 5 / np.sqrt(5)], rtol=1e-6
    )  # of 1, 3, 5, 7
    peaks = np.array([0.25, 100, 300])
    np.testing.assert_allclose(sits[column("XPEAK")], (300 - peaks.mean()) / peaks.std(), rtol=1e-6)
    assert up[column("XPEAK")] == 0 and up[43:].tolist() == [1, 0, 0] and sits[43:].tolist() == [0, 0, 0]
    assert sits[column("RESULTANT")] == 7.0  # constant in training: centred only
    assert stream.training(None).inputs[:, 43:].sum(axis=0).tolist() == [1, 0, 1]
    np.testing.assert_allclose(stream.training(None).inputs[:, :43].mean(axis=0), 0, atol=1e-6)


def test_the_order_of_the_file_does_not_matter_rows_decide(tmp_path):
    rows = [line(number, ANN, X1=number, activity=ACTIVITIES[number // 20]) for number in range(60)]
    rows += [line(number, BOB, X1=number) for number in range(3)]

    def first(chosen):
        return small(hand_made(tmp_path, chosen)).training(None).targets[:60]

    targets = first(rows)
    np.testing.assert_array_equal(first(rows[::-1]), targets)
    assert np.bincount(targets).tolist() == [20, 20, 20]
    assert set(targets[:16].tolist()) == {0, 1, 2}, "a support of 16 that knows one activity only"


def test_a_row_that_repeats_another_of_the_person_stands_once(tmp_path):
    twice = [line(90, TESS, X0=4.0, XPEAK="?", activity="Upstairs"), line(91, ANN, X0=1.0)]
    other = [line(92, BOB, X0=1.0), line(93, TESS, X0=4.0, XPEAK="?")]  # another person, another activity
    stream = small(hand_made(tmp_path, [*ROWS, *twice, *other]))
    assert (stream.provenance["examples"], stream.provenance["dropped_repeats"]) == (8, 2)
    assert sorted(stream.held_out("test", None).targets.tolist()) == [0, 2, 4]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (line(7, TESS, Y3="much"), "line 14, column Y3: must be a finite number, got 'much'"),
        (line(7, TESS, Y3="?"), r"line 14, column Y3: must be a finite number, got '\?'"),
        (line(7, TESS, XAVG="nan"), "line 14, column XAVG: must be a finite number, got 'nan'"),
        (line(7, TESS, activity="Flying"), "line 14, column class: must be one of .*, got 'Flying'"),
        (line(7, "Tess"), "line 14, column user: must be a whole number, got 'Tess'"),
        (line(7, TESS) + ",1", "line 14: 47 columns, expected 46"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        small(hand_made(tmp_path, [*ROWS, row]))


def test_no_file_no_data_no_rows(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no file {FILE} in "):
        small(tmp_path)
    with pytest.raises(ValueError, match="has no line @data"):
        small(hand_made(tmp_path, head="@relation people\n"))
    with pytest.raises(ValueError, match="has no rows after @data"):
        small(hand_made(tmp_path, rows=[]))


def test_the_real_people(shared_data):
    stream = wisdm(shared_data / "wisdm-ar-v1.1")
    about = stream.provenance
    assert (about["users"], about["examples"], about["classes"]) == (36, 5418 - 61, 6)
    assert about["dropped_repeats"] == 61
    lives = [stream.training(None), *(stream.held_out(split, None) for split in ("validation", "test"))]
    counts = sum(np.bincount(life.targets, minlength=6) for life in lives)
    assert dict(zip(ACTIVITIES, counts.tolist(), strict=True)) == {
        "Walking": 2081 - 29, "Jogging": 1625 - 32, "Upstairs": 632, "Downstairs": 528, "Sitting": 306, "Standing": 246,
    }  # fmt: skip
    assert int(sum(life.inputs[:, 43:].sum() for life in lives)) == 615
    sizes = np.concatenate([np.diff(life.offsets) for life in lives])
    assert (sizes.min(), sizes.max()) == (60, 273)
    for life in lives:  # whoever does several things does several in the first 16 examples
        for first, last in zip(life.offsets[:-1], life.offsets[1:], strict=True):
            several = len(set(life.targets[first:last].tolist())) > 1
            assert (len(set(life.targets[first : first + 16].tolist())) > 1) == several
