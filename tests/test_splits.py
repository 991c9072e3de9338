"""Splits are what the hash says, to the letter, and of sensible sizes."""

import hashlib

import pytest

from metapers.tasks import splits

IDS = [str(i) for i in range(1, 672)]


def test_golden_values():
    assert [splits.fold_of(i) for i in ("1", "2", "42", "alice")] == [0, 0, 1, 3]
    assert splits.user_hash("42") == "e2bd0c884bb9091d"
    assert [splits.split_of("2", fold) for fold in range(5)] == ["test"] + ["validation"] * 4
    assert [splits.split_of("42", fold) for fold in range(5)] == ["train", "test", "train", "train", "train"]
    assert splits.fold_of("1") != splits.fold_of("alice")


def test_formula_written_out_again():
    for name in IDS[:50]:
        digest = hashlib.sha256(b"metapers-1:" + name.encode()).hexdigest()
        number = int(digest[:16], 16)
        assert splits.user_hash(name) == digest[:16]
        assert splits.fold_of(name) == number % 5
        held = "validation" if (number // 5) % 8 == 0 else "train"
        assert [splits.split_of(name, fold) for fold in range(5)] == [
            "test" if fold == number % 5 else held for fold in range(5)
        ]


def test_each_user_is_tested_exactly_once_and_sizes_are_sensible():
    table = [[splits.split_of(name, fold) for fold in range(5)] for name in IDS]
    assert all(row.count("test") == 1 for row in table)
    counts = [[row[fold] for row in table].count("test") for fold in range(5)]
    assert counts == [136, 140, 138, 119, 138]  # of 671: 134 expected, standard deviation 10
    many = [splits.split_of(f"user {i}", 2) for i in range(20000)]
    assert abs(many.count("test") - 4000) < 5 * 57  # five standard deviations of a binomial
    assert abs(many.count("validation") - 2000) < 5 * 43


@pytest.mark.parametrize("fold", [-1, 5])
def test_fold_out_of_range_is_refused(fold):
    with pytest.raises(ValueError, match=rf"fold must be between 0 and 4, got {fold}"):
        splits.split_of("1", fold)
