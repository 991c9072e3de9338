"""Shakespeare: windows by hand, roles of tiny HDF5 files, damaged ones, and the real roles."""

import itertools
import sys

import numpy as np
import pytest

from metapers.tasks import shakespeare, splits
from metapers.tasks.shakespeare import CHARACTERS, VOCABULARY, windows


@pytest.fixture
def h5py():
    """HDF5 files need the extra ``shakespeare``."""
    return pytest.importorskip("h5py", reason="h5py (the extra shakespeare) is not installed")


def ids(split, count):
    names = (f"ROLE_{number}" for number in itertools.count(1))
    return list(itertools.islice((name for name in names if splits.split_of(name, 0) == split), count))


ANN, BOB = ids("train", 2)
(TESS,) = ids("test", 1)
FILES = ("shakespeare_train.h5", "shakespeare_test.h5")
TRAIN = {ANN: [b"To be", b"or not"], BOB: [b"abcdefg"], TESS: [b"O~!"]}
TEST = {ANN: [b"to be.\n"], TESS: [b"\n", b"Ay"]}


def hand_made(h5py, folder, *parts):
    for name, part in zip(FILES, parts or (TRAIN, TEST), strict=True):
        with h5py.File(folder / name, "w") as file:
            for role, snippets in part.items():
                file[f"examples/{role}/snippets"] = snippets
    return folder


def code(text):
    return [2 + CHARACTERS.index(letter) if letter in CHARACTERS else 1 for letter in text]


def small(folder, **options):
    return shakespeare(folder, **{"length": 4, "support": 1, "query": 1} | options)


def test_the_vocabulary_is_fixed():
    assert VOCABULARY == 80 == len(set(CHARACTERS)) + 2


@pytest.mark.parametrize(("text", "count"), [(b"", 0), (b"a", 0), (b"ab", 1), (b"abcd", 1), (b"abcde", 2)])
def test_every_character_but_the_first_is_a_target_once(text, count):
    inputs, targets = windows(text, 3)
    assert inputs.shape == targets.shape == (count, 3) and inputs.dtype == targets.dtype == np.int32
    assert inputs.ravel()[: len(text) - 1].tolist() == code(text.decode())[:-1]
    assert targets.ravel()[: len(text) - 1].tolist() == code(text.decode())[1:]
    assert not inputs.ravel()[max(len(text) - 1, 0) :].any() and not targets.ravel()[max(len(text) - 1, 0) :].any()


def test_a_roles_snippets_follow_each_other_training_file_first(h5py, tmp_path):
    stream = small(hand_made(h5py, tmp_path))
    test = stream.held_out("test", None)
    assert [stream.users[row] for row in test.users] == [TESS]
    assert test.inputs.tolist() == [code("O~!\n"), [*code("\nA"), 0, 0]]
    assert test.targets.tolist() == [code("~!\n\n"), [*code("Ay"), 0, 0]]
    assert test.inputs.dtype == test.targets.dtype == np.int32 and code("~") == [1]
    training = stream.training(None)
    assert training.offsets.tolist() == [0, 5, 7]  # 18 and 6 targets in windows of 4
    assert training.inputs[:5].ravel()[:18].tolist() == code("To be\nor not\nto be")
    assert training.targets[:5].ravel()[:18].tolist() == code("o be\nor not\nto be.")


def test_roles_of_few_windows_are_an_error_or_left_out(h5py, tmp_path):
    hand_made(h5py, tmp_path, TRAIN | {"LONE_1": [b"ab"], "LONE_2": [b""]}, TEST)
    with pytest.raises(
        ValueError, match="min_examples must be >= 2 where .*, got None; .*; 2 such roles, the first is LONE_1 with 1"
    ):
        small(tmp_path)
    stream = small(tmp_path, min_examples=2)
    assert stream.users == tuple(sorted((ANN, BOB, TESS)))
    assert (stream.provenance["dropped_users"], stream.provenance["dropped_examples"]) == (2, 1)
    assert small(tmp_path, min_examples=3).users == (ANN,)
    with pytest.raises(ValueError, match="min_examples must be <= 5, the most windows of a role, got 9"):
        small(tmp_path, min_examples=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be >= 1, got 0"),
        ({"min_examples": 1}, "min_examples must be >= 2, got 1"),
        ({"support": 0}, "support must be >= 1, got 0"),
    ],
)
def test_options_out_of_bounds(h5py, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        small(hand_made(h5py, tmp_path), **options)


def test_files_that_are_none(h5py, tmp_path):
    hand_made(h5py, tmp_path)
    whole = (tmp_path / FILES[1]).read_bytes()
    for data in (b"text", whole[: len(whole) // 2]):
        (tmp_path / FILES[1]).write_bytes(data)
        with pytest.raises(ValueError, match=f"{FILES[1]} cannot be read as HDF5"):
            small(tmp_path)
    (tmp_path / FILES[1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"no file {FILES[1]} in "):
        small(tmp_path)


def test_files_of_another_layout(h5py, tmp_path):
    hand_made(h5py, tmp_path)
    with h5py.File(tmp_path / FILES[0], "w") as file:
        file["clients"] = [1, 2]
    with pytest.raises(ValueError, match=f"{FILES[0]} holds no examples/<role>/snippets"):
        small(tmp_path)
    with h5py.File(tmp_path / FILES[0], "w") as file:
        file["examples/HAMLET/lines"] = [b"words"]
    with pytest.raises(ValueError, match=f"{FILES[0]} role HAMLET has no snippets"):
        small(tmp_path)
    for wrong in ([1.5, 2.5], b"one"):
        with h5py.File(tmp_path / FILES[0], "w") as file:
            file["examples/HAMLET/snippets"] = wrong
        with pytest.raises(ValueError, match="role HAMLET: snippets must be a list of byte strings, got"):
            small(tmp_path)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"h5py is missing: pip install 'metapers\[shakespeare\]'"):
        small(tmp_path)


def test_the_real_roles(h5py, shared_data):
    stream = shakespeare(shared_data / "tff-shakespeare", length=80, min_examples=2)
    about = stream.provenance
    assert about["users"] + about["dropped_users"] == 715
    lives = [stream.training(None), *(stream.held_out(split, None) for split in ("validation", "test"))]
    assert sum(len(life.users) for life in lives) == about["users"]
    tokens = sum(int((life.targets > 0).sum()) for life in lives)
    unknown = sum(int((life.targets == 1).sum()) for life in lives)
    assert unknown == 2 and 2_715_000 < tokens  # two closing braces
    assert tokens <= 2_699_067 + 18_424 - 2 * 715  # bytes, newlines between snippets, first characters
    assert all(((life.inputs > 0) == (life.targets > 0)).all() for life in lives)
