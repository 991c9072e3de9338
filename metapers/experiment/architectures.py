"""The models by name, with their options and the defaults of these."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from metapers import models, scores
from metapers.base import Model, Objective
from metapers.experiment.config import one_of

Sizes = Mapping[str, int]


class Architecture(NamedTuple):
    """A model: its options with their defaults, and the model they build for a stream's sizes."""

    options: Mapping[str, Any]
    build: Callable[..., Model]  # (options, sizes, adapts)
    objective: Callable[[Mapping[str, Any]], Objective | None] = lambda options: None
    """options -> what the outputs mean, where that is the model's to say; None: the source's objective."""
    head: Callable[[Mapping[str, Any]], str] | None = None
    """options -> the head in HEADS that is computed from the support, not descended: learner.inner "written"."""
    inputs: tuple[str, ...] = ("vectors",)  # the kinds of a source's inputs that it takes
    targets: tuple[str, ...] = ("numbers",)  # and of the targets that it can say
    history: int = 0  # the least data.history: earlier examples that an example must carry


class Head(NamedTuple):
    """A head that a user's support set gives in closed form."""

    build: Callable[[Mapping[str, Any], Sizes], Any]
    alone: bool = False  # it learns without a support set too, so one model for all can be trained and is a baseline
    weighed: bool = False  # what is written are sums over examples: a weight on them is the strength of the prior
    between: bool = False  # a part of what is written has a meaning, as sums have; not so stored examples
    targets: tuple[str, ...] = ("classes",)  # the kinds of a source's targets that it can say


def _recommender(options: dict[str, Any], sizes: Sizes, adapts: tuple) -> Model:
    return models.recommender(sizes["items"], sizes["genres"], **options, adapts=adapts)


def _bayes_recommender(options: dict[str, Any], sizes: Sizes, adapts: tuple) -> Model:
    return models.bayes_recommender(sizes["items"], sizes["genres"], **options)


def _mlp(options: dict[str, Any], sizes: Sizes, adapts: tuple) -> Model:
    layers = (sizes["width"], *_hidden(options), sizes.get("classes", 1))
    options.pop("hidden")
    return models.mlp(layers, scalar="classes" not in sizes, **options, adapts=adapts)


def _hidden(options: Mapping[str, Any]) -> tuple[int, ...]:
    if min(options["hidden"], default=1) < 1:
        raise ValueError(f"hidden must be sizes of layers >= 1, got {options['hidden']}")
    return options["hidden"]


def _conv4(options: dict[str, Any], sizes: Sizes, adapts: tuple) -> Model:
    groups = options.pop("groups")
    options["norm"] = NORMS[one_of("model.norm", options["norm"], NORMS)](groups)
    return models.conv4(sizes["classes"], options.pop("filters"), channels=sizes["width"], **options, adapts=adapts)


def _solved(options: dict[str, Any], sizes: Sizes, adapts: tuple) -> Model:
    head = HEADS[_named(options)].build(options, sizes)
    return models.embedded(models.dense_body((sizes["width"], *_hidden(options))), head)


def _solved_conv4(options: dict[str, Any], sizes: Sizes, adapts: tuple) -> Model:
    head = HEADS[_named(options)].build(options, sizes)
    norm = NORMS[one_of("model.norm", options["norm"], NORMS)](options["groups"])
    body = models.conv_body(options["filters"], channels=sizes["width"], norm=norm, pool=options["pool"])
    return models.embedded(body, head)


def _gru(options: dict[str, Any], sizes: Sizes, adapts: tuple) -> Model:
    return models.gru(sizes["vocabulary"], **options, adapts=adapts)


def _transformer(options: dict[str, Any], sizes: Sizes, adapts: tuple) -> Model:
    return models.transformer(sizes["vocabulary"], length=sizes["length"], **options, adapts=adapts)


def _rating_gru(options: dict[str, Any], sizes: Sizes, adapts: tuple) -> Model:
    return models.rating_gru(sizes["genres"], **options, adapts=adapts)


def _rating_transformer(options: dict[str, Any], sizes: Sizes, adapts: tuple) -> Model:
    return models.rating_transformer(sizes["genres"], history=sizes["history"], **options, adapts=adapts)


def _with_variance(options: Mapping[str, Any]) -> Objective | None:
    return scores.gaussian() if options["variance"] else None


def _named(options: Mapping[str, Any]) -> str:
    return one_of("model.head", options["head"], HEADS)


def solved_head(options: Mapping[str, Any]) -> Head | None:
    """The head that a model computes from the support; None for one whose users are descended.

    ``options``: ``config.model`` with its name.
    """
    found = MODELS[one_of("model.name", options["name"], MODELS)].head
    return HEADS[found(options)] if found else None


NORMS: dict[str, Callable[[int], models.Norm]] = {
    "none": lambda groups: models.no_norm(),
    "group": models.group_norm,
    "layer": lambda groups: models.layer_norm(),
    "support": lambda groups: models.support_norm(),
    "batch": lambda groups: models.batch_norm(),
}
"""Of images; "batch" alone lets the queries of a call see each other (transduction), and the report says so."""


HEADS: dict[str, Head] = {
    "bayes": Head(
        lambda options, sizes: models.bayes_head(variance=options["variance"], full=options["full"]),
        alone=True,
        weighed=True,
        between=True,
        targets=("numbers",),
    ),
    "ridge": Head(lambda options, sizes: models.ridge_head(sizes["classes"]), between=True),
    "prototypes": Head(lambda options, sizes: models.prototypes(sizes["classes"])),
    "neighbours": Head(
        lambda options, sizes: models.neighbours(
            options["capacity"],
            classes=sizes.get("classes"),
            k=options["nearest"],
            share=options["share"],
            scale=options["scale"],
        ),
        alone=True,
        targets=("numbers", "classes"),
    ),
}
"""What a user's support set gives: "bayes" for numbers, "ridge" and "prototypes" for classes, "neighbours" for both."""

_HEAD = {"head": "ridge", "capacity": 64, "nearest": 10, "share": 0.5, "scale": 1.0, "variance": False, "full": False}
_ADDED = {"film": False, "low_rank": 0}

_BOTH = ("numbers", "classes")

MODELS: dict[str, Architecture] = {
    "recommender": Architecture(
        {"features": 8, "hidden": 16, "offset": 3.5, "tables": True}, _recommender, inputs=("films",)
    ),
    "bayes_recommender": Architecture(
        {
            "features": 8,
            "hidden": 16,
            "offset": 3.5,
            "tables": True,
            "variance": False,  # the loss is then the likelihood, and the metric nll is there
            "full": False,  # the prior's covariance, else its diagonal
            "deviation": 0.3,
            "noise": 0.9,
        },
        _bayes_recommender,
        _with_variance,
        lambda options: "bayes",
        inputs=("films",),
    ),
    "linear": Architecture({}, lambda options, sizes, adapts: models.linear(sizes["width"], adapts=adapts)),
    "mlp": Architecture({"hidden": (40, 40), "context": 0, **_ADDED}, _mlp, targets=_BOTH),
    "point": Architecture(
        {},
        lambda options, sizes, adapts: models.point(sizes["width"], adapts=adapts),
        inputs=("points",),
        targets=("points",),
    ),
    "conv4": Architecture(
        {
            "filters": 64,
            "norm": "batch",
            "groups": 8,
            "pool": False,
            "film": False,
            "head_scale": 1.0,
            "prototypes": False,
        },
        _conv4,
        inputs=("images",),
        targets=("classes",),
    ),
    "solved": Architecture({"hidden": (64, 64), **_HEAD}, _solved, _with_variance, _named, targets=_BOTH),
    "solved_conv4": Architecture(
        {"filters": 64, "norm": "batch", "groups": 8, "pool": False, **_HEAD},
        _solved_conv4,
        _with_variance,
        _named,
        inputs=("images",),
        targets=_BOTH,
    ),
    "gru": Architecture({"embed": 16, "hidden": 64, **_ADDED}, _gru, inputs=("characters",), targets=("characters",)),
    "transformer": Architecture(
        {"width": 64, "heads": 4, "layers": 2, **_ADDED},
        _transformer,
        inputs=("characters",),
        targets=("characters",),
    ),
    "rating_gru": Architecture({"hidden": 32, "offset": 3.5, **_ADDED}, _rating_gru, inputs=("films",), history=1),
    "rating_transformer": Architecture(
        {"width": 32, "heads": 4, "layers": 2, "offset": 3.5, **_ADDED},
        _rating_transformer,
        inputs=("films",),
        history=1,
    ),
}
