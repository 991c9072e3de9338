"""MovieLens through TFDS: read without TensorFlow; with it, prepared for real from a local archive, no network."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from metapers.tasks import movielens_tfds
from metapers.tasks.movielens_origins import from_folder
from metapers.tasks.movielens_tfds import from_tfds
from metapers.tasks.ratings import fingerprint

NAME = "movielens/latest-small-ratings"
ROWS = [("1", "31", 2.5, 900), ("1", "7", 4.0, 880), ("2", "31", 5.0, 1000), ("2", "900", 0.5, 990)]
FILMS = {
    "7": ("Sabrina (1995)", ["Comedy", "Romance"]),
    "31": ("Été, l' (1998)", ["Drama"]),
    "900": ("Babylon 5", ["(no genres listed)"]),
}


def examples(labels):
    for user, item, stars, time in ROWS:
        title, genres = FILMS[item]
        film = {"movie_id": item, "movie_title": title, "movie_genres": [labels.index(name) for name in genres]}
        yield film | {"user_id": user, "user_rating": np.float32(stars), "timestamp": np.int64(time)}


def prepared(root, *, change=None, without=None):
    """A dataset as TFDS lays it out, with the builder's own features, written without TensorFlow."""
    import tensorflow_datasets as tfds
    import tensorflow_datasets.structured.movielens

    builder = tfds.builder(NAME, data_dir=root, file_format="array_record")
    features = tfds.features.FeaturesDict({n: f for n, f in builder.info.features.items() if n != without})
    path = pathlib.Path(builder.data_path)
    path.mkdir(parents=True)
    features.save_config(path)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="movielens",
        version=builder.version,
        data_dir=str(path),
        module_name="",
        config_name="latest-small-ratings",
    )
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(builder=identity, description="hand-made", features=features),
        max_examples_per_shard=3,
        overwrite=True,
        file_format=tfds.core.FileFormat.ARRAY_RECORD,
    )
    writer.initialize_splits(["train"])
    rows = [
        {n: v for n, v in row.items() if n != without}
        for row in examples(builder.info.features["movie_genres"].feature.names)
    ]
    if change is not None:
        rows[2] |= change
    writer.add_examples({"train": rows})
    writer.close_all()


def test_a_prepared_dataset_equals_the_original_files(tmp_path, monkeypatch):
    prepared(tmp_path / "data")
    monkeypatch.setattr(movielens_tfds, "BLOCK", 3)  # four examples: one whole block and a rest
    ratings = from_tfds(NAME, tmp_path / "data")
    lines = [",".join(map(str, row)) for row in ROWS]
    (tmp_path / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]))
    films = [f'{item},"{title}",{"|".join(genres)}' for item, (title, genres) in FILMS.items()]
    (tmp_path / "movies.csv").write_text("\n".join(["movieId,title,genres", *films]), encoding="utf-8")
    files = from_folder(tmp_path)
    for name in ("users", "items", "ratings", "times", "films", "titles", "genres", "years"):
        np.testing.assert_array_equal(_column(ratings, name), _column(files, name), err_msg=name)
    assert fingerprint(ratings) == fingerprint(files)
    assert (ratings.source, ratings.version) == (f"tfds {NAME}", "0.1.1")


def _column(ratings, name):
    value = getattr(ratings, name)
    return np.array(value, dtype=object) if name == "genres" else value


def test_reading_does_not_import_tensorflow(tmp_path):
    prepared(tmp_path)
    program = (
        "import json, sys; from metapers.tasks.movielens_origins import from_tfds;"
        f"found = from_tfds({NAME!r}, {str(tmp_path)!r});"
        "print(json.dumps([found.users.tolist(), 'tensorflow' in sys.modules]))"
    )
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [["1", "1", "2", "2"], False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": "bob"}, r"latest-small-ratings example 2, column user_id: must be a number, got 'bob'"),
        ({"movie_id": "-"}, r"example 2, column movie_id: must be a number, got '-'"),
        ({"user_rating": np.float32("nan")}, r"example 2, column user_rating: must be finite, got nan"),
        ({"user_rating": np.float32(6)}, r"example 2, column user_rating: must be between 0\.5 and 5\.0, got 6\.0"),
    ],
)
def test_a_bad_example_is_named(tmp_path, change, message):
    prepared(tmp_path, change=change)
    with pytest.raises(ValueError, match=message):
        from_tfds(NAME, tmp_path)


def test_missing_features_are_named(tmp_path):
    prepared(tmp_path, without="timestamp")
    with pytest.raises(ValueError, match=r"lacks the features \['timestamp'\]; expected .*, found .*'user_rating'"):
        from_tfds(NAME, tmp_path)


def test_another_file_format_is_refused(tmp_path):
    prepared(tmp_path)
    (info,) = tmp_path.rglob("dataset_info.json")
    assert '"array_record"' in info.read_text()
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match=r"latest-small-ratings.* must be in the format array_record, .*TFRECORD"):
        from_tfds(NAME, tmp_path)


def test_what_is_not_prepared_says_how_to_prepare_it(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"0\.1\.1 is not prepared: download=True .*metapers\[tensorflow\]"):
        from_tfds(NAME, tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs TensorFlow.*metapers\[tensorflow\]"):
        from_tfds(NAME, tmp_path, download=True)


@pytest.mark.parametrize("name", ["movielens/latest-small-movies", "mnist", "movielens"])
def test_a_name_without_ratings_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"tfds_name must be movielens/<config>-ratings, got '{name}'"):
        from_tfds(name, tmp_path)


def cached(archive, root):
    """Puts an archive where TFDS looks before it fetches: <download_dir>/<dataset>/<its name>, with .INFO beside it."""
    import tensorflow_datasets as tfds
    import tensorflow_datasets.structured.movielens
    from tensorflow_datasets.core.download import resource

    builder = tfds.builder(NAME, data_dir=root, file_format="array_record")
    url = builder.builder_config.download_url
    place = root / "downloads" / "movielens" / resource.get_dl_fname(url, builder.url_infos[url].checksum)
    place.parent.mkdir(parents=True)
    shutil.copyfile(archive, place)
    about = {"urls": [url], "dataset_names": ["movielens"], "original_fname": archive.name}
    place.with_name(place.name + ".INFO").write_text(json.dumps(about))


@pytest.mark.tfds
@pytest.mark.filterwarnings("ignore")  # TensorFlow's own, while it prepares
def test_the_real_latest_small_is_prepared_from_its_archive_and_equals_it(tmp_path, shared_data):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow: make test-tfds")
    import tensorflow_datasets as tfds

    archive = shared_data / "movielens-latest-small" / "ml-latest-small.zip"
    cached(archive, tmp_path)
    ratings = from_tfds(NAME, tmp_path, download=True)
    assert len(ratings.users) == 100_836
    files = from_folder(archive)
    np.testing.assert_array_equal(ratings.ratings, files.ratings)
    assert fingerprint(ratings) == fingerprint(files)
    movies = tfds.builder("movielens/latest-small-movies", data_dir=tmp_path, file_format="array_record")
    movies.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    listed = {row["movie_id"].decode(): row["movie_title"].decode() for row in movies.as_data_source("train")}
    assert len(listed) == 9_742
    assert all(listed[film].startswith(title) for film, title in zip(files.films, files.titles, strict=True))
