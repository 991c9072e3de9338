"""The rows of the family: each stream with the methods that are trained on it."""

from collections.abc import Sequence
from typing import NamedTuple


class Stream(NamedTuple):
    """A stream's folder of data, what its rows have in common, and the methods that are its rows."""

    folder: str  # "": the stream needs no data set
    title: str
    methods: Sequence[str]
    folds: Sequence[int] = (0,)
    features: Sequence[str] = ()  # methods that begin with the features of prototypes, of the same form in BODIES


MACHINE = ("devices", "user_block", "chunk")
"""Keys that say how a machine divides the work: no number changes by more than rounding."""

SHARED = ("--config.data.", "--config.seed=", "--config.seeds=", *(f"--config.{key}=" for key in MACHINE))
"""What features have in common with the row that begins with them."""
BODIES = ("pool", "short", "support")  # forms of a config that change the features


STREAMS: dict[str, Stream] = {
    "sinusoid": Stream(
        "",
        "Sinusoid, one inner step (mean squared error)",
        ("maml-5", "maml", "maml-20", "meta_sgd-5", "meta_sgd", "meta_sgd-20", "cavia", "bayes"),
    ),
    "omniglot": Stream(
        "omniglot",
        "Omniglot, 5 ways, 1 shot, and 20 ways (accuracy)",
        (
            *("maml", "fomaml", "meta_sgd", "maml_plus_plus", "reptile", "reptile-support", "anil"),
            *("prototypes", "prototypes-support", "ridge", "maml-20way", "fomaml-20way", "maml_plus_plus-20way"),
            *("prototypes-pool", "meta_sgd-pool-means", "maml_plus_plus-pool-means"),
            *("prototypes-pool-short", "meta_sgd-pool-short-means", "maml_plus_plus-pool-short-means"),
            *("maml-20way-drawn", "fomaml-20way-drawn", "maml-20way-pool", "maml_plus_plus-20way-pool-means"),
            *("maml-paper", "fomaml-paper", "maml-20way-paper", "fomaml-20way-paper"),
        ),
        features=(
            *("fomaml", "meta_sgd", "maml_plus_plus", "reptile", "reptile-support", "anil", "ridge"),
            *("maml-20way", "fomaml-20way", "maml_plus_plus-20way"),
            *("meta_sgd-pool-means", "maml_plus_plus-pool-means"),
            *("meta_sgd-pool-short-means", "maml_plus_plus-pool-short-means"),
            *("maml-20way-pool", "maml_plus_plus-20way-pool-means"),
        ),
    ),
    "writers": Stream(
        "mnist",
        "Digits by their writers, 16 examples (accuracy)",
        (
            *("maml", "meta_sgd", "anil", "boil", "biases", "film", "reptile_adam", "imaml"),
            *("ridge", "prototypes", "joint", "maml-cross_validated"),
        ),
    ),
    "wisdm": Stream(
        "wisdm-ar-v1.1",
        "Activities by person, 16 examples (accuracy)",
        (
            *("maml", "fomaml", "meta_sgd", "msl_lslr", "imaml", "reptile_adam", "anil", "boil", "biases"),
            *("cavia", "film", "lora", "ridge", "prototypes", "neighbours", "joint"),
        ),
        (0, 1, 2, 3, 4),
    ),
    "shakespeare": Stream(
        "tff-shakespeare",
        "Next character by role, 8 windows of 40 (accuracy)",
        ("anil", "biases", "film", "lora", "reptile_adam", "imaml", "joint", "reptile_adam-cross_validated"),
    ),
    "movielens": Stream(
        "",
        "MovieLens in five periods, 16 ratings (RMSE)",
        (
            *("bayes", "bayes-conservative", "gradient", "anil", "fomaml", "meta_sgd"),
            *("msl_lslr", "reptile_adam", "imaml", "joint"),
        ),
        (0, 1, 2, 3, 4),
    ),
    "ratings": Stream(
        "",
        "MovieLens, the next rating from the eight before it, 16 ratings to adapt on (RMSE)",
        ("anil", "biases", "film", "lora", "maml", "reptile_adam", "joint", "transformer-film", "transformer-lora"),
        (0, 1, 2, 3, 4),
    ),
}
