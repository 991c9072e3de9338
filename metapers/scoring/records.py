"""Scores as Parquet records (docs/records.md), and the way back: the matrix and per-user scores from records."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metapers.base import Cohort
from metapers.scores.cohorts import sign
from metapers.scores.matrix import Scored, cells
from metapers.tasks.splits import user_hash

SCHEMA_VERSION = 2

SCHEMA = pa.schema(
    [
        ("arm", pa.string()),
        ("split", pa.string()),
        ("seed", pa.int32()),
        ("fold", pa.int32()),
        ("version", pa.int32()),
        ("boundary", pa.int32()),
        ("seen_until", pa.int32()),
        ("period", pa.int32()),
        ("user", pa.string()),
        ("returning", pa.bool_()),
        ("start", pa.string()),
        ("shots", pa.int32()),
        ("steps", pa.int32()),
        ("n_support", pa.int32()),
        ("n_query", pa.int32()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)

USERS = 4096
"""Users whose records are made at one time."""

HALVES = ("half_0", "half_1")
"""The headline metric on every other row of a query, from the first and from the second."""

DIVERGED = "diverged"  # the metric that is 1 where adapting ran away (``inner.path``) and the start was judged


class Curves(NamedTuple):
    """What adapting gave each held-out user of a cohort."""

    scores: dict[str, np.ndarray]  # metric -> [seeds, users, shots, steps]; ``DIVERGED`` only where somebody did
    n_support: np.ndarray  # int [users, shots]: what each user's support really held
    n_query: np.ndarray  # int [users]
    short: np.ndarray  # int [shots]: how many users had fewer examples to adapt on
    shots: tuple[int, ...]
    steps: tuple[int, ...]


def records(
    curves: Curves,
    cohort: Cohort,
    names: Sequence[str],
    *,
    arm: str,
    split: str,
    fold: int,
    version: int,
    seen_until: int | None = None,
    seeds: Sequence[int] = (0,),
    start: str = "fresh",
) -> pa.Table:
    """One row per (metric, seed, user, shots, steps) of ``curves``, columns as in ``SCHEMA``.

    ``names``: outside names by row of the bank (``Stream.users``). ``version`` -1 means at initialisation;
    ``boundary``, at which it was left, has the same number. ``seen_until``: the last period of which the version has
    seen data, None: that of its number.
    Raises ValueError for another split or start than the schema knows, or counts that do not fit.
    """
    if split not in ("validation", "test"):
        raise ValueError(f"split must be validation or test, got {split!r}")
    if start not in ("fresh", "banked"):
        raise ValueError(f"start must be fresh or banked, got {start!r}")
    shape = (len(curves.scores), len(seeds), len(cohort.users), len(curves.shots), len(curves.steps))
    for metric, values in curves.scores.items():
        if values.shape != shape[1:]:
            raise ValueError(f"{metric} must be [seeds, users, shots, steps] = {shape[1:]}, got {values.shape}")
    place = np.indices(shape, dtype=np.int32).reshape(len(shape), -1)
    metric, seed, user, shot, step = place
    hashes = pa.array([user_hash(names[int(row)]) for row in cohort.users], pa.string())
    size = metric.size

    def same(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), size)

    columns = {
        "arm": same(arm, pa.string()),
        "split": same(split, pa.string()),
        "seed": np.asarray(seeds, np.int32)[seed],
        "fold": same(fold, pa.int32()),
        "version": same(version, pa.int32()),
        "boundary": same(version, pa.int32()),
        "seen_until": same(version if seen_until is None else seen_until, pa.int32()),
        "period": cohort.periods.astype(np.int32)[user],
        "user": hashes.take(pa.array(user)),
        "returning": cohort.returning[user],
        "start": same(start, pa.string()),
        "shots": np.asarray(curves.shots, np.int32)[shot],
        "steps": np.asarray(curves.steps, np.int32)[step],
        "n_support": curves.n_support.astype(np.int32)[user, shot],
        "n_query": curves.n_query.astype(np.int32)[user],
        "metric": pa.array(list(curves.scores), pa.string()).take(pa.array(metric)),
        "value": np.concatenate([values.ravel() for values in curves.scores.values()]).astype(np.float64),
    }
    return pa.table(columns, schema=SCHEMA)


def blocks(curves: Curves, cohort: Cohort, names: Sequence[str], **about: Any) -> Iterator[pa.Table]:
    """The records of ``records``, of at most ``USERS`` users at a time, so that memory does not grow with users."""
    for first in range(0, len(cohort.users), USERS):
        here = slice(first, first + USERS)
        scores = {metric: values[:, here] for metric, values in curves.scores.items()}
        part = curves._replace(scores=scores, n_support=curves.n_support[here], n_query=curves.n_query[here])
        of_part = {key: getattr(cohort, key)[here] for key in ("users", "periods", "returning")}
        yield records(part, cohort._replace(**of_part), names, **about)


class Writer:
    """Writes a file of records table by table, whole or not at all: a temporary file beside it, synced, then renamed.

    As a context: the file is there when it ends without an exception. ``kept`` holds the rows of what was written that
    are asked for, as ``slim`` gives them; all, as they are, by default.
    """

    def __init__(self, path: str | Path, keep: pc.Expression | None = None):
        """
        Args:
          path: of the file; its folder is made.
          keep: which rows stay in memory; None: all.

        Raises:
          OSError: where the disk refuses; so do the other methods.
        """
        self.path, self.keep = Path(path), keep
        self.part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._kept: list[pa.Table] = []

    def __enter__(self) -> "Writer":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.part, "wb")
        self._writer = pq.ParquetWriter(self._file, SCHEMA, compression="zstd")
        return self

    def write(self, tables: Iterable[pa.Table]) -> None:
        """Writes tables one after the other; ValueError where the columns are not ``SCHEMA``'s."""
        for table in tables:
            if not table.schema.equals(SCHEMA):
                raise ValueError(f"table must have the columns of SCHEMA, got {table.schema.names}")
            self._writer.write_table(table)
            self._kept.append(table if self.keep is None else slim(table.filter(self.keep)))

    def kept(self) -> pa.Table:
        """The rows that stay in memory."""
        empty = SCHEMA.empty_table()
        return pooled([empty if self.keep is None else slim(empty), *self._kept])

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        try:
            with self._file:
                self._writer.close()
                self._file.flush()
                os.fsync(self._file.fileno())
            if error is None:
                os.replace(self.part, self.path)
        finally:
            self.part.unlink(missing_ok=True)


def slim(table: pa.Table) -> pa.Table:
    """The same records with dictionary-encoded text columns, which take half the memory."""
    for place, field in enumerate(SCHEMA):
        if field.type == pa.string():
            table = table.set_column(place, field.name, table[field.name].dictionary_encode())
    return table


def pooled(tables: Iterable[pa.Table]) -> pa.Table:
    """Tables of records one after the other: all as they were written, or all ``slim``."""
    return pa.concat_tables(tables).unify_dictionaries()


def write_records(path: str | Path, table: pa.Table) -> None:
    """Writes ``table`` to ``path`` whole or not at all (``Writer``).

    Raises:
      ValueError: where the columns are not ``SCHEMA``'s.
      OSError: where the disk refuses.
    """
    with Writer(path) as writer:
        writer.write([table])


def read_records(folder: str | Path) -> pa.Table:
    """All records of a folder's ``*.parquet`` files, in the order of their names.

    Raises FileNotFoundError where there are none, ValueError naming a file that is damaged or of other columns.
    """
    files = sorted(path for path in Path(folder).glob("*.parquet") if not path.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"no records (*.parquet) in {folder}")
    return pa.concat_tables([read_file(path) for path in files])


def per_user(table: pa.Table, metric: str, **where: Any) -> tuple[np.ndarray, np.ndarray]:
    """(users [n], values [seeds, n]) of the rows whose columns equal ``where``; users in order of their hash.

    Raises ValueError where nothing is left, or where ``where`` leaves a user with several values or with none.
    """
    rows = _only(table, metric=metric, **where)
    users, of_user = np.unique(_column(rows, "user"), return_inverse=True)
    seeds, of_seed = np.unique(_column(rows, "seed"), return_inverse=True)
    keys = f"{metric} of {where}"
    return users, _fill(keys, (seeds.size, users.size), (of_seed, of_user), _column(rows, "value"))


def scored_of(
    table: pa.Table, *, arm: str, metric: str, shots: int, steps: int, start: str = "fresh", split: str = "test"
) -> Scored:
    """The signed scores (larger is better) of an arm, entry by entry: what ``scores.continual_metrics`` takes.

    Whole-life rows (``period`` -1) are left out; rows with ``version`` -1, where present, are the
    scores at initialisation. Folds are pooled. Raises ValueError where a cell is missing or the periods do not form a
    square.
    """
    where = {"arm": arm, "metric": metric, "shots": shots, "steps": steps, "start": start, "split": split}
    rows = _only(table, **where)
    rows = rows.filter(pa.array(_column(rows, "period") >= 0))
    trained, period = _column(rows, "version"), _column(rows, "period")
    periods = np.unique(period)
    if not np.array_equal(np.unique(trained[trained >= 0]), periods):
        found = np.unique(trained).tolist()
        raise ValueError(f"versions must be the evaluated ones {periods.tolist()}, got {found} for {where}")
    users, user = np.unique(_column(rows, "user"), return_inverse=True)
    seeds, seed = np.unique(_column(rows, "seed"), return_inverse=True)
    keys = np.stack([_column(rows, "fold"), period, user])
    entries, entry = np.unique(keys, axis=1, return_inverse=True)
    row = np.where(trained < 0, periods.size, np.searchsorted(periods, trained))
    count = periods.size + bool((trained < 0).any())
    shape, place = (seeds.size, count, entries.shape[1]), (seed, row, entry.reshape(-1))
    values = sign(metric) * _fill(str(where), shape, place, _column(rows, "value"))
    initial = values[:, periods.size] if count > periods.size else None
    return Scored(values[:, : periods.size], initial, users[entries[2]], np.searchsorted(periods, entries[1]))


def matrix_of(table: pa.Table, **where: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """(R [seeds, T, T] signed, b [seeds, T] or None) of an arm; arguments as in ``scored_of``."""
    r, b = cells(scored_of(table, **where))
    return r[0], None if b is None else b[0]


def read_file(path: Path, where: pc.Expression | None = None) -> pa.Table:
    """The records of one file, or those of them that are asked for, which are all that memory holds.

    Raises:
      ValueError: naming a file that is damaged or of other columns.
    """
    try:
        table = pq.read_table(path, filters=where)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"records {path} cannot be read: {error}") from error
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"records {path} must have the columns of SCHEMA, got {table.schema.names}")
    return table


def _only(table: pa.Table, **where: Any) -> pa.Table:
    unknown = sorted(set(where) - set(SCHEMA.names))
    if unknown:
        raise ValueError(f"column must be one of {SCHEMA.names}, got {unknown[0]!r}")
    keep = pa.repeat(True, table.num_rows)
    for name, value in where.items():
        wanted = pa.scalar(value, SCHEMA.field(name).type)
        keep = pc.call_function("and", [keep, pc.call_function("equal", [table[name], wanted])])
    rows = table.filter(keep)
    if rows.num_rows == 0:
        raise ValueError(f"no record with {where}")
    return rows


def _column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy()


def _fill(what: str, shape: tuple[int, ...], place: tuple[np.ndarray, ...], values: np.ndarray) -> np.ndarray:
    count = np.zeros(shape, int)
    np.add.at(count, place, 1)
    if (count != 1).any():
        word = "missing" if (count == 0).any() else "given twice"
        raise ValueError(f"every seed, period and user needs one value, some are {word}: {what}")
    filled = np.empty(shape)
    filled[place] = values
    return filled
