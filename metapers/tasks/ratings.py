"""A table of dated film ratings, checked once: what every origin of MovieLens gives, in one canonical order."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LOWEST, HIGHEST = 0.5, 5.0  # stars
YEAR = re.compile(r"\s*\((\d{4})\)\s*(\([^\d()]*\))?\s*$")
LARGEST_ID = 2**53  # whole numbers up to here survive a float64


class Ratings(NamedTuple):
    """Checked ratings, rows by (user, time, item) with ids in numeric order, and the catalogue of the rated films."""

    users: np.ndarray  # str [n], outside ids
    items: np.ndarray  # str [n], outside ids
    ratings: np.ndarray  # float64 [n], stars in 0.5..5
    times: np.ndarray  # int64 [n], UNIX seconds, UTC
    films: np.ndarray  # str [f], every rated item once
    titles: tuple[str, ...]  # [f], without the year
    genres: tuple[tuple[str, ...], ...]  # [f], alphabetical; () if unknown
    years: np.ndarray  # float64 [f], NaN if unknown
    source: str
    version: str


class Film(NamedTuple):
    """One film of a catalogue as an origin tells it."""

    title: str
    genres: tuple[str, ...]
    year: float  # NaN if unknown


class Table(NamedTuple):
    """Four columns as they were read, unchecked, and how to name a row of them in an error."""

    where: str  # as "u.data line": the number of a row follows
    first: int  # number of the first row
    columns: Mapping[str, Sequence[Any] | np.ndarray]  # user, item, rating, time under the origin's own names


def film(title: str, genres: Iterable[str], year: float) -> Film:
    """A film with the names of genres that differ between releases made one; "unknown" is no genre.

    >>> film("Toy Story", ["Comedy", "Children's"], 1995.0).genres
    ('Children', 'Comedy')
    >>> film("Shanghai Triad", ["(no genres listed)"], 1995.0).genres
    ()
    """
    plain = {"Children" if name == "Children's" else name for name in genres}
    known = (name for name in plain if name and name.lower() not in ("unknown", "(no genres listed)"))
    return Film(title, tuple(sorted(known)), float(year))


def split_title(text: str) -> tuple[str, float]:
    """A title as the files write it, cut into title and year (NaN where no year stands at the end).

    >>> split_title("Toy Story (1995)"), split_title("Babylon 5")
    (('Toy Story', 1995.0), ('Babylon 5', nan))
    >>> split_title("Land Before Time III (1995) (V)")
    ('Land Before Time III', 1995.0)
    """
    found = YEAR.search(text)
    return (text[: found.start()], float(found[1])) if found else (text.strip(), math.nan)


def collect(table: Table, catalogue: Mapping[int, Film], *, source: str, version: str) -> Ratings:
    """Ratings from four raw columns (user, item, rating, time, in this order) and the films by numeric id.

    Raises ValueError, naming the column, row and value, for an empty table, for an entry that is no number, NaN or
    infinite, for an id that is no whole number in 0..2^53, a time that is none, a rating outside 0.5..5, for a film
    rated twice by one user, and for one that is not in the catalogue.
    """
    if not len(next(iter(table.columns.values()))):
        raise ValueError(f"{table.where} {table.first}: no ratings")
    user_name, item_name, rating_name, time_name = table.columns
    user = _whole(table, user_name, 0)
    item = _whole(table, item_name, 0)
    rating = _numbers(table, rating_name)
    inside = (rating >= LOWEST) & (rating <= HIGHEST)
    _refuse(table, rating_name, rating, ~inside, f"must be between {LOWEST} and {HIGHEST}")
    time = _whole(table, time_name, -LARGEST_ID)
    _refuse_repeats(table, user, item)
    films = np.unique(item)
    absent = [number for number in films.tolist() if number not in catalogue]
    if absent:
        _refuse(table, item_name, item, item == absent[0], f"is not in the catalogue of {len(catalogue)} films")
    known = [catalogue[number] for number in films.tolist()]
    order = np.lexsort((item, time, user))
    return Ratings(
        user[order].astype(str),
        item[order].astype(str),
        rating[order],
        time[order],
        films.astype(str),
        tuple(each.title for each in known),
        tuple(each.genres for each in known),
        np.array([each.year for each in known]),
        source,
        version,
    )


def fingerprint(ratings: Ratings) -> str:
    """SHA-256 of ratings and catalogue in their canonical order: equal data, equal digest, wherever it came from."""
    digest = hashlib.sha256()
    for column in (ratings.users.astype(np.int64), ratings.items.astype(np.int64), ratings.ratings, ratings.times):
        digest.update(np.ascontiguousarray(column).astype(column.dtype.newbyteorder("<")).tobytes())
    years = [None if np.isnan(year) else year for year in ratings.years.tolist()]
    catalogue = [ratings.films.tolist(), ratings.titles, ratings.genres, years]
    digest.update(json.dumps(catalogue).encode())
    return digest.hexdigest()


def _numbers(table: Table, name: str) -> np.ndarray:
    values = table.columns[name]
    try:
        numbers = np.asarray(values).astype(np.float64)
    except (TypeError, ValueError):
        row = next(row for row, value in enumerate(values) if not _is_number(value))
        raise ValueError(_message(table, name, row, "must be a number", values[row])) from None
    _refuse(table, name, numbers, ~np.isfinite(numbers), "must be finite")
    return numbers


def _whole(table: Table, name: str, low: int) -> np.ndarray:
    numbers = _numbers(table, name)
    bad = (numbers != np.floor(numbers)) | (numbers < low) | (numbers > LARGEST_ID)
    _refuse(table, name, numbers, bad, f"must be a whole number from {low} to {LARGEST_ID}")
    return numbers.astype(np.int64)


def _is_number(value: Any) -> bool:
    convert: Callable[[Any], Any] = float
    try:
        convert(value)
    except (TypeError, ValueError):
        return False
    return True


def _refuse(table: Table, name: str, values: np.ndarray, bad: np.ndarray, bound: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(_message(table, name, row, bound, values[row]))


def _message(table: Table, name: str, row: int, bound: str, value: Any) -> str:
    plain = value.item() if isinstance(value, np.generic) else value
    return f"{table.where} {table.first + row}, column {name}: {bound}, got {plain!r}"


def _refuse_repeats(table: Table, user: np.ndarray, item: np.ndarray) -> None:
    order = np.lexsort((item, user))  # stable: of equals the earlier row stands first
    repeats = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    if repeats.any():
        at = int(np.argmin(np.where(repeats, order[1:], len(order))))  # the first repeat as the table is read
        earlier, later = (table.first + int(row) for row in order[at : at + 2])
        raise ValueError(
            f"{int(repeats.sum())} ratings repeat a film that the same user has rated; the first: user "
            f"{user[order[at]]}, film {item[order[at]]}, {table.where} {later}, already in {earlier}"
        )
