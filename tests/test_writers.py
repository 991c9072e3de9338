"""Writers: hand-made idx files with known users, order and pooling; damaged ones; the real digits."""

import gzip
import itertools
import struct

import numpy as np
import pytest

from metapers.tasks import splits, writers
from metapers.tasks.idx import read_idx
from metapers.tasks.writers import IMAGES, LABELS, ORIGINS

CODES = {"uint8": 0x08, "int32": 0x0C, "float32": 0x0D}


def write(path, array):
    head = struct.pack(">BBBB", 0, 0, CODES[array.dtype.name], array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    data = head + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def ids(split, count):
    numbers = (number for number in itertools.count(1) if splits.split_of(str(number), 0) == split)
    return list(itertools.islice(numbers, count))


ANN, BOB = ids("train", 2)
(TESS,) = ids("test", 1)
ROWS = [  # class, series, writer, place
    (3, 0, ANN, 2),
    (1, 0, ANN, 0),
    (4, 4, BOB, 1),
    (5, 0, TESS, 1),
    (9, 0, TESS, 0),
    (2, 0, ANN, 1),
    (0, 4, BOB, 0),
    (7, 0, TESS, 5),
]


def hand_made(folder, rows=ROWS, images=None, labels=None, suffix=".gz"):
    origins = np.array([(*row, 0, 0, 0, 0) for row in rows], np.int32)
    images = np.arange(len(rows) * 28 * 28).reshape(-1, 28, 28) % 251 if images is None else images
    write(folder / f"{IMAGES}{suffix}", images.astype(np.uint8))
    write(folder / f"{LABELS}{suffix}", (origins[:, 0] if labels is None else labels).astype(np.uint8))
    write(folder / f"{ORIGINS}{suffix}", origins)
    return folder


def small(folder, **options):
    return writers(folder, **{"support": 1, "query": 1} | options)


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_a_writers_digits_stand_in_the_order_of_the_form(tmp_path, suffix):
    stream = small(hand_made(tmp_path, suffix=suffix))
    test = stream.held_out("test", None)
    assert [stream.users[row] for row in test.users] == [str(TESS)]
    assert test.targets.tolist() == [9, 5, 7] and test.targets.dtype == np.int32
    assert not test.time.any() and not test.available.any()  # their order is that of places
    pixels = np.arange(len(ROWS) * 784).reshape(-1, 28, 28, 1) % 251
    np.testing.assert_allclose(test.inputs, pixels[[4, 3, 7]] / 255, atol=1e-6)  # float32 on the way
    training = stream.training(None)
    assert [stream.users[row] for row in training.users] == sorted(map(str, (ANN, BOB)), key=int)
    assert training.targets.tolist() == [1, 2, 3, 0, 4]


@pytest.mark.parametrize("size", [14, 7])
def test_smaller_images_are_means_of_blocks(tmp_path, size):
    images = np.random.default_rng(0).integers(0, 256, (len(ROWS), 28, 28))
    block = 28 // size
    means = images.reshape(-1, size, block, size, block).mean(axis=(2, 4)) / 255
    test = small(hand_made(tmp_path, images=images), size=size).held_out("test", None)
    assert test.inputs.shape == (3, size, size, 1)
    np.testing.assert_allclose(test.inputs[..., 0], means[[4, 3, 7]], atol=1e-6)


def test_two_periods_are_the_two_series(tmp_path):
    stream = small(hand_made(tmp_path), periods=2)
    assert stream.periods == 2 and stream.provenance["series"] == [[0], [4]]
    assert small(tmp_path).provenance["series"] == [[0, 4]]
    assert [stream.training(period).targets.tolist() for period in (0, 1)] == [[1, 2, 3], [1, 2, 3, 0, 4]]
    assert len(stream.held_out("test", 0).users) == 1 and len(stream.held_out("test", 1).users) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 10}, r"size must be one of \(28, 14, 7\), got 10"),
        ({"periods": 3}, "periods must be 1 or 2, the number of NIST series, got 3"),
        ({"fold": 5}, "fold must be between 0 and 4, got 5"),
    ],
)
def test_options_out_of_bounds(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        small(hand_made(tmp_path), **options)


def test_a_label_that_differs_is_named_by_row(tmp_path):
    labels = np.array([row[0] for row in ROWS])
    labels[5] = 8
    with pytest.raises(ValueError, match=rf"{LABELS} row 5 must be the class of {ORIGINS}, 2, got 8"):
        small(hand_made(tmp_path, labels=labels))
    rows = [*ROWS[:2], (11, 0, BOB, 3), *ROWS[2:]]
    with pytest.raises(ValueError, match=f"{LABELS} row 2 must be between 0 and 9, got 11"):
        small(hand_made(tmp_path, rows=rows))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (IMAGES, np.zeros((8, 28), np.uint8), rf"{IMAGES} must be uint8 of shape \[8, 28, 28\], got uint8 \[8, 28\]"),
        (LABELS, np.zeros(7, np.uint8), rf"{LABELS} must be uint8 of shape \[8\], got uint8 \[7\]"),
        (LABELS, np.zeros(8, np.float32), rf"{LABELS} must be uint8 of shape \[8\], got float32 \[8\]"),
        (ORIGINS, np.zeros((8, 7), np.int32), rf"{ORIGINS} must be int32 of shape \[8, 8\], got int32 \[8, 7\]"),
    ],
)
def test_files_of_another_shape(tmp_path, name, array, message):
    hand_made(tmp_path)
    write(tmp_path / f"{name}.gz", array)
    with pytest.raises(ValueError, match=message):
        small(tmp_path)


def test_no_digits_at_all(tmp_path):
    hand_made(tmp_path)
    for name, array in (
        (IMAGES, np.zeros((0, 28, 28), np.uint8)),
        (LABELS, np.zeros(0, np.uint8)),
        (ORIGINS, np.zeros((0, 8), np.int32)),
    ):
        write(tmp_path / f"{name}.gz", array)
    with pytest.raises(ValueError, match=f"{IMAGES} must hold at least one digit, got none"):
        small(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"PNG!" + data[4:], "labels.* is no idx file: it begins with 504e4721"),
        (lambda data: b"", "labels.* is no idx file: it begins with nothing"),
        (lambda data: b"\0\0\x08\0" + data[4:], "labels.* is no idx file: it begins with 00000800"),
        (lambda data: b"\0\0\x07\x01" + data[4:], "labels.* is no idx file: it begins with 00000701"),
        (lambda data: data[:6], "labels.* is cut short: 6 bytes where its head alone has 8"),
        (lambda data: data[:-1], r"labels.* must hold 16 bytes for an array \[8\], got 15"),
        (lambda data: data + b"\0", r"labels.* must hold 16 bytes for an array \[8\], got 17"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, change, message):
    path = hand_made(tmp_path) / f"{LABELS}.gz"
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
    with pytest.raises(ValueError, match=message):
        small(tmp_path)


@pytest.mark.parametrize(
    "change", [lambda data: data[:-12], lambda data: b"no gzip", lambda data: data[:12] + b"\xff" * 9]
)
def test_damaged_gzip(tmp_path, change):
    path = hand_made(tmp_path) / f"{ORIGINS}.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{ORIGINS}.gz cannot be read as gzip"):
        small(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    (hand_made(tmp_path) / f"{ORIGINS}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"holds neither {ORIGINS}.gz nor {ORIGINS}"):
        small(tmp_path)


def test_numbers_of_several_bytes_are_big_endian(tmp_path):
    (tmp_path / "x").write_bytes(b"\0\0\x0c\x01" + b"\0\0\0\x02" + b"\0\0\x01\0" + b"\xff\xff\xff\xfe")
    assert read_idx(tmp_path, "x").tolist() == [256, -2]


def test_the_real_digits(shared_data):
    folder = shared_data / "mnist"
    stream = writers(folder, size=7)
    about = stream.provenance
    assert (about["users"], about["examples"], about["dropped_segments"]) == (539, 60_000, 0)
    assert sum(part[0]["users"] for part in about["splits"].values()) == 539
    lives = [stream.training(None), *(stream.held_out(split, None) for split in ("validation", "test"))]
    assert sum(np.bincount(life.targets, minlength=10) for life in lives).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    sizes = np.sort(np.concatenate([np.diff(life.offsets) for life in lives]))
    assert (sizes[0], sizes[269], sizes[-1]) == (19, 116, 131)
    two = writers(folder, size=7, periods=2).provenance["splits"]
    assert [sum(part[period]["users"] for part in two.values()) for period in (0, 1)] == [289, 250]
    assert [sum(part[period]["examples"] for part in two.values()) for period in (0, 1)] == [30_950, 29_050]
