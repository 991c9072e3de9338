"""The checks that every table of ratings passes, by the words of their errors, and the canonical order."""

import numpy as np
import pytest

from metapers.tasks.ratings import Film, Table, collect, film, fingerprint, split_title

FILMS = {item: Film(f"film {item}", ("Drama",), 1990.0 + item) for item in range(1, 6)}


def table(**changes):
    columns = {
        "user": ["10", "2", "2", "10"],
        "item": ["3", "1", "2", "1"],
        "rating": ["4", "3.5", "5", "0.5"],
        "timestamp": ["100", "300", "200", "100"],
    }
    for name, (row, value) in changes.items():
        columns[name][row] = value
    return Table("u.data line", 1, columns)


def collected(**changes):
    return collect(table(**changes), FILMS, source="here", version="1")


def test_rows_stand_by_user_time_and_item_with_ids_in_numeric_order():
    ratings = collected()
    assert ratings.users.tolist() == ["2", "2", "10", "10"]
    assert ratings.items.tolist() == ["2", "1", "1", "3"]  # user 10 rated films 1 and 3 in the same second
    assert ratings.ratings.tolist() == [5.0, 3.5, 0.5, 4.0]
    assert ratings.times.tolist() == [200, 300, 100, 100]
    assert ratings.films.tolist() == ["1", "2", "3"]  # films 4 and 5 are not rated
    assert ratings.years.tolist() == [1991.0, 1992.0, 1993.0]
    assert ratings.ratings.dtype == np.float64 and ratings.times.dtype == np.int64


def test_the_fingerprint_does_not_see_the_order_of_the_rows_but_any_number():
    whole = table()
    turned = Table("x", 1, {name: values[::-1] for name, values in whole.columns.items()})
    same = fingerprint(collect(turned, FILMS, source="there", version="2"))
    assert fingerprint(collected()) == same
    assert fingerprint(collected(rating=(0, "4.5"))) != same
    assert fingerprint(collected(timestamp=(0, "101"))) != same
    other = FILMS | {2: Film("film 2", ("Drama", "War"), 1992.0)}
    assert fingerprint(collect(whole, other, source="here", version="1")) != same


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": (2, "x7")}, r"u\.data line 3, column user: must be a number, got 'x7'"),
        ({"user": (0, "nan")}, r"line 1, column user: must be finite, got nan"),
        ({"user": (0, "1.5")}, r"line 1, column user: must be a whole number from 0 to \d+, got 1\.5"),
        ({"user": (0, "-1")}, r"line 1, column user: must be a whole number from 0 to \d+, got -1\.0"),
        ({"item": (3, "")}, r"line 4, column item: must be a number, got ''"),
        ({"item": (3, "inf")}, r"line 4, column item: must be finite, got inf"),
        ({"item": (3, "77")}, r"line 4, column item: is not in the catalogue of 5 films, got 77"),
        ({"rating": (1, "good")}, r"line 2, column rating: must be a number, got 'good'"),
        ({"rating": (1, "NaN")}, r"line 2, column rating: must be finite, got nan"),
        ({"rating": (1, "-inf")}, r"line 2, column rating: must be finite, got -inf"),
        ({"rating": (1, "5.5")}, r"line 2, column rating: must be between 0\.5 and 5\.0, got 5\.5"),
        ({"rating": (1, "0")}, r"line 2, column rating: must be between 0\.5 and 5\.0, got 0\.0"),
        ({"timestamp": (2, "1998-01-01")}, r"line 3, column timestamp: must be a number, got '1998-01-01'"),
        ({"timestamp": (2, "inf")}, r"line 3, column timestamp: must be finite, got inf"),
        ({"timestamp": (2, "0.5")}, r"line 3, column timestamp: must be a whole number from -\d+ to \d+, got 0\.5"),
    ],
)
def test_a_bad_entry_is_named_with_its_column_row_and_value(change, message):
    with pytest.raises(ValueError, match=message):
        collected(**change)


def test_a_film_rated_twice_by_one_user_is_refused_at_whatever_time():
    message = r"1 ratings repeat .*: user 2, film 1, u\.data line 3, already in 2$"
    with pytest.raises(ValueError, match=message):
        collected(item=(2, "1"))


def test_the_first_of_several_repeats_is_named():
    columns = {"u": [9, 1, 9, 1, 9], "i": [4, 2, 4, 2, 4], "r": [3.0] * 5, "t": [5, 6, 7, 8, 9]}
    with pytest.raises(ValueError, match=r"3 ratings repeat .*: user 9, film 4, row 12, already in 10$"):
        collect(Table("row", 10, columns), FILMS, source="here", version="1")


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match=r"ratings\.csv line 2: no ratings"):
        empty = {name: () for name in ("userId", "movieId", "rating", "timestamp")}
        collect(Table("ratings.csv line", 2, empty), FILMS, source="here", version="1")


@pytest.mark.parametrize(
    ("text", "title", "year"),
    [
        ("Heat (1995)", "Heat", 1995.0),
        ("Twelve Monkeys (a.k.a. 12 Monkeys) (1995)  ", "Twelve Monkeys (a.k.a. 12 Monkeys)", 1995.0),
        ("Land Before Time III (1995) (V)", "Land Before Time III", 1995.0),
        ("2001", "2001", None),
        ("Death Note (2006-2007)", "Death Note (2006-2007)", None),
        ("", "", None),
    ],
)
def test_titles_lose_the_year_that_ends_them(text, title, year):
    found_title, found_year = split_title(text)
    assert found_title == title
    assert np.isnan(found_year) if year is None else found_year == year


def test_genres_have_one_name_in_every_release():
    assert film("x", ["War", "Children's", "Children", ""], 1.0).genres == ("Children", "War")
    assert film("x", ["unknown"], 1.0).genres == film("x", ["(no genres listed)"], 1.0).genres == ()
