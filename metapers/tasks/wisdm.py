"""WISDM: what a person does, told from the phone in the pocket; people never seen judge it."""

import hashlib
import pathlib
from typing import NamedTuple

import numpy as np

from metapers.base import Stream
from metapers.members import Member
from metapers.options import Option
from metapers.tasks import splits
from metapers.tasks.facts import CUT_OPTIONS, FOLD, SourceFacts, classes_and_width, reads_folder
from metapers.tasks.ragged import Examples, stream

FILE = "WISDM_ar_v1.1_transformed.arff"
ACTIVITIES = ("Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing")  # class 0, 1, ...
BINS = tuple(f"{axis}{number}" for axis in "XYZ" for number in range(10))
KINDS = ("AVG", "PEAK", "ABSOLDEV", "STANDDEV")
FEATURES = (*BINS, *(f"{axis}{kind}" for kind in KINDS for axis in "XYZ"), "RESULTANT")
PEAKS = slice(33, 36)  # XPEAK, YPEAK, ZPEAK: the only features that may be missing
SALT = "metapers-wisdm-1"


def wisdm(
    path: str | pathlib.Path,
    *,
    fold: int = 0,
    support: int = 16,
    query: int = 32,
    p_full_support: float = 0.5,
    p_from_first: float = 0.0,
    length_power: float = 0.0,
) -> Stream:
    """One period of 36 people; an example is 10 s of a phone's accelerometer, its target one of six ``ACTIVITIES``.

    Inputs: float [46]: the 43 features of Kwapisz, Weiss and Moore (2010), standardised with mean and standard
    deviation of the training users' examples (a feature that is constant there is only centred; what is missing is
    0), then whether XPEAK, YPEAK, ZPEAK were missing, 0 or 1. Targets: int 0..5.

    There are no times. The file holds a person's recordings one after the other, each of one activity, so that in
    its order a support would know one activity only: the examples of a person stand in the order of a salted hash of
    their rows, the same in every run. Support and query may then come from one recording; a score says how well a
    person is known after some labelled examples of each activity, not on another day. Rows that repeat another of
    the same person word for word (61 of one person) are left out, lest a query stand in the support.

    ``path`` is a folder with WISDM_ar_v1.1_transformed.arff, of which the rows after @data are read. Provenance:
    ``classes``, ``activities``, ``features``, ``dropped_repeats``, and what ``ragged.stream`` adds.

    Raises:
      FileNotFoundError: where the file is missing.
      ValueError: naming line, column and value, for a row of other than 46 columns, a user that is no whole number,
        a feature that is no number, an unknown activity; and as ``ragged.stream``.
    """
    table = _read(pathlib.Path(path) / FILE)
    names, user = np.unique(table.users, return_inverse=True)
    training = np.array([splits.split_of(str(name), fold) == "train" for name in names.tolist()])[user]
    about = {"source": "WISDM activity prediction, transformed", "version": "1.1", "classes": len(ACTIVITIES)}
    return stream(
        Examples(
            tuple(str(name) for name in names.tolist()),
            user,
            np.zeros_like(user),
            table.order,
            _inputs(table.features, training),
            table.activities,
        ),
        periods=1,
        fold=fold,
        support=support,
        query=query,
        p_full_support=p_full_support,
        p_from_first=p_from_first,
        length_power=length_power,
        about=about | {"activities": list(ACTIVITIES), "features": list(FEATURES), "dropped_repeats": table.repeats},
    )


WISDM_MEMBER = Member(
    wisdm,
    options={"path": Option(None, type=str, doc=f"folder with {FILE}"), "fold": FOLD, **CUT_OPTIONS},
    paper="Kwapisz, Weiss, Moore 2010, doi:10.1145/1964897.1964918",
    example={"support": 4, "query": 8},
    facts=SourceFacts(objective="cross_entropy", sizes=classes_and_width, targets="classes", from_files=reads_folder),
    doc="activities of real users from a phone's accelerometer (WISDM)",
)


class _Table(NamedTuple):
    users: np.ndarray  # int [n]
    order: np.ndarray  # int [n], hashes
    features: np.ndarray  # float64 [n, 43], NaN where missing
    activities: np.ndarray  # int32 [n]
    repeats: int


def _hash(cells: tuple[str, ...]) -> int:
    digest = hashlib.sha256(f"{SALT}:{','.join(cells)}".encode()).digest()
    return int.from_bytes(digest[:7], "big")  # fits int64


def _inputs(features: np.ndarray, training: np.ndarray) -> np.ndarray:
    missing = np.isnan(features)
    known = np.ma.array(features[training], mask=missing[training])
    mean, spread = (getattr(known, name)(axis=0).filled(0.0) for name in ("mean", "std"))
    values = np.where(missing, 0.0, (features - mean) / np.where(spread > 0, spread, 1.0))
    return np.concatenate([values, missing[:, PEAKS]], axis=1).astype(np.float32)


def _read(path: pathlib.Path) -> _Table:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path.name} in {path.parent}")
    lines = path.read_text("latin-1").splitlines()
    head = next((i for i, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if head is None:
        raise ValueError(f"{path.name} has no line @data")
    rows: dict[tuple[str, ...], tuple[int, list[float], int]] = {}
    total = 0
    for number, line in enumerate(lines[head + 1 :], head + 2):
        if line.strip() and not line.startswith("%"):
            cells = [cell.strip() for cell in line.split(",")]
            rows.setdefault(tuple(cells[1:]), _row(f"{path.name} line {number}", cells))  # the id is no part of it
            total += 1
    if not rows:
        raise ValueError(f"{path.name} has no rows after @data")
    users, features, activities = zip(*rows.values(), strict=True)
    order = np.array([_hash(cells) for cells in rows])
    return _Table(np.array(users), order, np.array(features), np.array(activities, np.int32), total - len(rows))


def _row(where: str, cells: list[str]) -> tuple[int, list[float], int]:
    if len(cells) != len(FEATURES) + 3:
        raise ValueError(f"{where}: {len(cells)} columns, expected {len(FEATURES) + 3}")
    _, user, *values, activity = cells
    if not user.isdecimal():
        raise ValueError(f"{where}, column user: must be a whole number, got {user!r}")
    if activity not in ACTIVITIES:
        raise ValueError(f"{where}, column class: must be one of {ACTIVITIES}, got {activity!r}")
    features = [_number(where, name, cell) for name, cell in zip(FEATURES, values, strict=True)]
    return int(user), features, ACTIVITIES.index(activity)


def _number(where: str, name: str, cell: str) -> float:
    if cell == "?" and name in FEATURES[PEAKS]:
        return np.nan
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{where}, column {name}: must be a finite number, got {cell!r}")
    return value
