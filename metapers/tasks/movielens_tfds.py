"""MovieLens through TensorFlow Datasets: read without TensorFlow once prepared, prepared with it on demand."""

import pathlib
from typing import Any

import numpy as np

from metapers.tasks import prepared
from metapers.tasks.ratings import Ratings, Table, collect, film, split_title

COLUMNS = ("user_id", "movie_id", "user_rating", "timestamp")
FEATURES = (*COLUMNS, "movie_title", "movie_genres")
BLOCK = 8192  # examples decoded at a time


def from_tfds(
    tfds_name: str = "movielens/latest-small-ratings",
    data_dir: str | pathlib.Path | None = None,
    *,
    download: bool = False,
    download_dir: str | pathlib.Path | None = None,
) -> Ratings:
    """Ratings of ``movielens/<config>-ratings`` as TFDS has prepared them (array_record) under ``data_dir``.

    ``download``: prepare them first where they are not, which needs TensorFlow; archives already in ``download_dir``
    (<data_dir>/downloads) are not fetched again. Raises ValueError for a set without ratings, for another file
    format and for other features; FileNotFoundError if not prepared; ImportError if preparing lacks TensorFlow;
    and as ``ratings.collect``.
    """
    if not tfds_name.startswith("movielens/") or not tfds_name.endswith("-ratings"):
        raise ValueError(f"tfds_name must be movielens/<config>-ratings, got {tfds_name!r}")
    import tensorflow_datasets.structured.movielens  # noqa: F401 registers the builder

    builder = prepared.builder(tfds_name, data_dir, FEATURES, download=download, download_dir=download_dir)
    return _read(tfds_name, builder)


def _read(name: str, builder: Any) -> Ratings:
    source = builder.as_data_source(split="train")
    labels = builder.info.features["movie_genres"].feature.names
    columns: dict[str, list] = {column: [] for column in COLUMNS}
    films: dict[int, Any] = {}
    for start in range(0, len(source), BLOCK):
        for example in source.__getitems__(range(start, min(start + BLOCK, len(source)))):
            for column in COLUMNS:
                columns[column].append(example[column])
            _add_film(films, example, labels)
    plain = {column: _plain(values) for column, values in columns.items()}
    return collect(Table(f"{name} example", 0, plain), films, source=f"tfds {name}", version=str(builder.info.version))


def _add_film(films: dict[int, Any], example: dict[str, Any], labels: list[str]) -> None:
    item = example["movie_id"]
    if item.isdigit() and int(item) not in films:  # any other id is refused with its row, as a rating's column
        title, year = split_title(example["movie_title"].decode())
        films[int(item)] = film(title, [labels[label] for label in example["movie_genres"]], year)


def _plain(values: list[Any]) -> np.ndarray:
    return np.array([value.decode() if isinstance(value, bytes) else value for value in values])
